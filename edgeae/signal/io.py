"""One way in and one way out: ``read_signal``, ``iter_signal`` and ``write_signal``.

The container is taken from the name: .npy .npz .csv .tsv .txt .wav .idx, MNIST's ``idx3-ubyte``
(also .gz), a folder of .png, and raw samples for .raw .pcm .bin .dat and ``-``.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from edgeae.errors import ConfigError, SignalError
from edgeae.signal.arrays import (
    read_idx,
    read_npy,
    read_npz,
    write_idx,
    write_npy,
    write_npz,
)
from edgeae.signal.base import Array, SignalFile, checked
from edgeae.signal.container import container_of
from edgeae.signal.csv import read_csv
from edgeae.signal.csv_write import write_csv
from edgeae.signal.files import atomic_output
from edgeae.signal.images import read_images, write_images
from edgeae.signal.raw import iter_raw, read_raw, write_raw
from edgeae.signal.wav import iter_wav, known_rate, read_wav, wav_header, wav_samples

__all__ = ["iter_signal", "read_signal", "write_signal"]


def read_signal(
    path: str | Path,
    *,
    dtype: str | None = None,
    channels: int | None = None,
    rate_hz: float | None = None,
    columns: Sequence[str | int] | None = None,
    key: str | None = None,
) -> SignalFile:
    """Read a whole signal. Large .npy and raw files are memory-mapped.

    Args:
        path: file or folder; ``-`` is stdin (raw samples if ``dtype`` is given, else .npy or .wav).
        dtype: of raw samples, such as ``int16`` or ``>i2``; also converts the numbers of a CSV.
        channels: of raw samples, interleaved.
        rate_hz: overrides what the file says.
        columns: of a CSV, by name or number.
        key: array of a .npz.

    Raises:
        SignalError: the file is not there, damaged, or holds no signal.
        ConfigError: an option that this kind of file does not have.
    """
    container = container_of(path)
    if rate_hz is not None and not 0 < rate_hz < float("inf"):
        raise ConfigError(f"the rate must be a positive number of Hz, got {rate_hz}")
    _check_options(container, path, dtype=dtype, channels=channels, columns=columns, key=key)
    if container == "raw" and str(path) == "-" and dtype is None:
        signal = _sniffed(sys.stdin.buffer.read())
    elif container == "raw":
        return read_raw(path, dtype=dtype, channels=channels, rate_hz=rate_hz)
    elif container == "csv":
        return read_csv(path, dtype=dtype, columns=columns, rate_hz=rate_hz)
    elif container == "npz":
        return read_npz(path, key=key, rate_hz=rate_hz)
    else:
        readers = {"npy": read_npy, "wav": read_wav, "idx": read_idx, "png": read_images}
        signal = readers[container](path)
    if rate_hz is None:
        return signal
    return SignalFile(data=signal.data, rate_hz=rate_hz, meta=signal.meta, notes=signal.notes)


def iter_signal(
    path: str | Path,
    chunk_items: int,
    *,
    dtype: str | None = None,
    channels: int | None = None,
    rate_hz: float | None = None,
    columns: Sequence[str | int] | None = None,
    key: str | None = None,
) -> Iterator[SignalFile]:
    """The same signal in pieces of ``chunk_items`` items, the last one shorter.

    Memory is constant for stdin, raw, WAV and (memory-mapped) .npy; other containers are read as a
    whole. Every piece carries dtype, rate and meta; notes come with the first one.
    """
    if chunk_items < 1:
        raise ConfigError(f"chunks have at least one item, got {chunk_items}")
    container = container_of(path)
    _check_options(container, path, dtype=dtype, channels=channels, columns=columns, key=key)
    if container == "raw" and (str(path) != "-" or dtype is not None):
        yield from iter_raw(path, chunk_items, dtype=dtype, channels=channels, rate_hz=rate_hz)
        return
    if container == "wav":
        for piece in iter_wav(path, chunk_items):
            rate = piece.rate_hz if rate_hz is None else rate_hz
            yield SignalFile(data=piece.data, rate_hz=rate, meta=piece.meta, notes=piece.notes)
        return
    signal = read_signal(
        path, dtype=dtype, channels=channels, rate_hz=rate_hz, columns=columns, key=key
    )
    for start in range(0, signal.n_items, chunk_items):
        yield SignalFile(
            data=signal.data[start : start + chunk_items],
            rate_hz=signal.rate_hz,
            meta=signal.meta,
            notes=signal.notes if start == 0 else (),
        )


def write_signal(
    path: str | Path,
    data: Array,
    meta: dict[str, Any] | None = None,
    *,
    rate_hz: float | None = None,
) -> None:
    """Write a whole signal in the container that the name stands for, in one step.

    Args:
        path: file, folder (PNG) or ``-`` (raw samples on stdout).
        data: [T], [T, C], [N, H, W] or [N, H, W, C].
        meta: of the ``SignalFile`` that the samples came from; restores header, dtype, byte order,
            names. Of another container, it is left aside.
        rate_hz: kept by WAV, .npz and CSV.

    Raises:
        SignalError: this container cannot hold the samples.
        EdgeAEError: the file could not be written; the target is as it was.
    """
    data = checked(data, "the signal to write")
    container = "png" if data.ndim >= 3 and not Path(path).suffix else container_of(path)
    known = dict(meta or {})
    if known.get("container") != container:
        known = {}
    try:
        if container == "png":
            write_images(path, data, known)
            return
        with atomic_output(path) as file:
            if container == "npy":
                write_npy(file, data, known)
            elif container == "npz":
                write_npz(file, data, known, rate_hz)
            elif container == "csv":
                if Path(path).suffix.lower() == ".tsv":
                    known.setdefault("delimiter", "\t")
                write_csv(file, data, known, rate_hz)
            elif container == "idx":
                write_idx(file, data, zipped=str(path).endswith(".gz"))
            else:
                _write_samples(file, container, data, known, rate_hz)
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise SignalError(
            f"cannot write {path} in the form its stream asks for: {error}"
        ) from error


def _write_samples(
    file: BinaryIO, container: str, data: Array, meta: dict[str, Any], rate_hz: float | None
) -> None:
    if container == "raw":
        write_raw(file, data, meta)
        return
    if data.ndim > 2:
        raise SignalError(f"WAV holds a series, not images of shape {list(data.shape)}")
    samples = wav_samples(data, meta)
    channels = data.shape[1] if data.ndim == 2 else 1
    file.write(wav_header(data.dtype, channels, known_rate(rate_hz), meta, len(samples)))
    file.write(samples + b"\0" * (len(samples) % 2))


def _sniffed(content: bytes) -> SignalFile:
    """Stdin without a dtype: .npy and .wav describe themselves."""
    if content[:6] == b"\x93NUMPY":
        return read_npy(io.BytesIO(content))
    raise ConfigError("stdin is raw samples: say what they are, as in --dtype int16")


def _check_options(container: str, path: str | Path, **options: Any) -> None:
    allowed = {"raw": {"dtype", "channels"}, "csv": {"dtype", "columns"}, "npz": {"key"}}
    for name, value in options.items():
        if value is not None and name not in allowed.get(container, set()):
            raise ConfigError(f"{path} is {container}, which has no option --{name}")
