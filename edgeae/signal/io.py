"""One way in and one way out: ``read_signal``, ``iter_signal`` and ``write_signal``.

The container is taken from the name: .npy .npz .csv .tsv .txt .wav .idx, MNIST's ``idx3-ubyte``
(also .gz), a folder of .png, and raw samples for .raw .pcm .bin .dat and ``-``.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from numpy.typing import DTypeLike

from edgeae.errors import ConfigError, SignalError
from edgeae.signal.arrays import (
    npy_header,
    read_idx,
    read_npy,
    read_npz,
    write_idx,
    write_npy,
    write_npz,
)
from edgeae.signal.base import Array, SignalFile, checked, parse_dtype
from edgeae.signal.csv import read_csv, write_csv
from edgeae.signal.files import atomic_output
from edgeae.signal.images import read_images, write_images
from edgeae.signal.raw import iter_raw, raw_bytes, read_raw, write_raw
from edgeae.signal.wav import iter_wav, read_wav, wav_header, wav_samples

__all__ = ["SignalSink", "container_of", "iter_signal", "read_signal", "write_signal"]

_SUFFIXES = {
    ".npy": "npy", ".npz": "npz", ".wav": "wav", ".wave": "wav", ".idx": "idx", ".png": "png",
    ".csv": "csv", ".tsv": "csv", ".txt": "csv",
    ".raw": "raw", ".pcm": "raw", ".bin": "raw", ".dat": "raw",
}  # fmt: skip
_IDX_NAME = re.compile(r"idx\d?-ubyte$|\.idx(\d-\w+)?$")


def container_of(path: str | Path) -> str:
    """The container that a name stands for: npy, npz, csv, wav, idx, png or raw.

    Example:
        >>> container_of("a.CSV"), container_of("-"), container_of("train-images-idx3-ubyte.gz")
        ('csv', 'raw', 'idx')
    """
    name = str(path)
    if name == "-":
        return "raw"
    plain = name[:-3] if name.endswith(".gz") else name
    if _IDX_NAME.search(plain):
        return "idx"
    suffix = Path(name).suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if Path(name).is_dir() or name.endswith(("/", "\\")):
        return "png"
    if not suffix:
        raise SignalError(f"{name} has no suffix to tell what it is; use one of {_known()}")
    raise SignalError(f"{name}: {suffix} is not a known kind of file; use one of {_known()}")


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
    file.write(wav_header(data.dtype, channels, _wav_rate(rate_hz), meta, len(samples)))
    file.write(samples + b"\0" * (len(samples) % 2))


class SignalSink:
    """Samples out, piece by piece, in constant memory: raw files, stdout, WAV and .npy.

    Use as a context manager. A file appears under its name when the block ends well; if it does
    not, what was written is kept beside it as ``.partial``.

    Args:
        path: .raw .pcm .bin .dat, .wav, .npy, or ``-`` for raw samples on stdout.
        dtype, item_shape: of the samples: ``()`` for [T], ``(C,)`` for [T, C], ``(H, W)``...
        meta, rate_hz: as in ``write_signal``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dtype: DTypeLike,
        item_shape: tuple[int, ...] = (),
        meta: dict[str, Any] | None = None,
        rate_hz: float | None = None,
    ) -> None:
        self._container = container_of(path)
        if self._container not in ("raw", "wav", "npy"):
            raise ConfigError(f"{path} cannot be written piece by piece; use write_signal")
        self._dtype, self._item_shape = parse_dtype(dtype), item_shape
        known = dict(meta or {})
        self._meta = known if known.get("container") == self._container else {}
        self._rate_hz = rate_hz
        self._output = atomic_output(path, keep_partial=True)
        self._file: BinaryIO | None = None
        self._start = 0
        self.n_items = 0

    @staticmethod
    def can_stream(path: str | Path) -> bool:
        """True if this name can be written piece by piece."""
        return container_of(path) in ("raw", "wav", "npy")

    def __enter__(self) -> SignalSink:
        self._header(0)  # a sink that cannot hold the samples says so before a file is touched
        self._file = self._output.__enter__()
        self._file.write(self._header(0))
        return self

    def write(self, data: Array) -> None:
        """Append items; dtype and item shape must be those of the sink."""
        if self._file is None:
            raise ConfigError("a SignalSink writes inside its with block")
        if data.shape[1:] != self._item_shape or data.dtype != self._dtype:
            raise SignalError(
                f"expected items {list(self._item_shape)} of {self._dtype}, "
                f"got {list(data.shape[1:])} of {data.dtype}"
            )
        content = (wav_samples if self._container == "wav" else raw_bytes)(data, self._meta)
        self._file.write(content)
        self.n_items += len(data)

    def flush(self) -> None:
        """Hand everything to the operating system, as a live pipe wants."""
        if self._file is not None:
            self._file.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        try:
            if self._file is not None and self._container != "raw":
                end = self._file.tell()
                if self._container == "wav" and end % 2:
                    self._file.write(b"\0")
                self._file.seek(0)
                self._file.write(self._header(self.n_items))
        except OSError as late:
            if error is None:
                return self._output.__exit__(type(late), late, late.__traceback__)
        return self._output.__exit__(kind, error, trace)

    def _header(self, n_items: int) -> bytes:
        if self._container == "npy":
            return npy_header(self._dtype, (n_items, *self._item_shape), self._meta)
        if self._container == "wav":
            if len(self._item_shape) > 1:
                raise SignalError("WAV holds a series, not images")
            channels = self._item_shape[0] if self._item_shape else 1
            width = 3 if self._meta.get("bits") == 24 else self._dtype.itemsize
            return wav_header(
                self._dtype,
                channels,
                _wav_rate(self._rate_hz),
                self._meta,
                n_items * channels * width,
            )
        return b""


def _wav_rate(rate_hz: float | None) -> float:
    if rate_hz is None:
        raise SignalError("WAV needs the rate in Hz, which is not known; use --rate, or write .npy")
    return rate_hz


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


def _known() -> str:
    return ", ".join(sorted(_SUFFIXES)) + ", a folder of .png"
