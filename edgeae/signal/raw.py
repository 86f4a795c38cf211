"""Raw PCM: nothing but samples, time step by time step, channels interleaved."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgeae.errors import ConfigError, SignalError
from edgeae.signal.base import Array, SignalFile, checked, parse_dtype
from edgeae.signal.files import open_input, read_exactly

__all__ = ["iter_raw", "raw_bytes", "read_raw"]

MAX_CHANNELS = 65535


def read_raw(
    path: str | Path, *, dtype: str | None, channels: int | None, rate_hz: float | None
) -> SignalFile:
    """All of a raw file, memory-mapped; stdin is read to its end."""
    kind, n_channels = _layout(path, dtype, channels)
    if str(path) == "-":
        with open_input(path) as file:
            content = file.read()
        data = np.frombuffer(content, np.uint8)
    else:
        with open_input(path) as file:
            size = os.fstat(file.fileno()).st_size
            data = np.memmap(file, np.uint8, "r") if size else np.zeros(0, np.uint8)
    step = kind.itemsize * n_channels
    if data.size % step:
        raise SignalError(
            f"{path} has {data.size} bytes, not a multiple of {step} "
            f"({n_channels} channel(s) of {kind}); check dtype and channels"
        )
    samples = data.view(kind)
    return _packed(samples, kind, n_channels, rate_hz, str(path))


def iter_raw(
    path: str | Path,
    chunk_items: int,
    *,
    dtype: str | None,
    channels: int | None,
    rate_hz: float | None,
) -> Iterator[SignalFile]:
    """Chunks of a raw file or of stdin in constant memory.

    Raises:
        SignalError: the input is empty or ends within a time step; the whole ones were yielded.
    """
    kind, n_channels = _layout(path, dtype, channels)
    step = kind.itemsize * n_channels
    done = 0
    with open_input(path) as file:
        while content := read_exactly(file, chunk_items * step):
            whole = len(content) // step
            if whole:
                samples = np.frombuffer(content[: whole * step], kind)
                yield _packed(samples, kind, n_channels, rate_hz, str(path))
            done += whole
            if rest := len(content) % step:
                raise SignalError(
                    f"{path} ended in the middle of a time step: {rest} of {step} bytes after "
                    f"{done} whole ones; check dtype and channels"
                )
    if not done:
        raise SignalError(f"{path} is empty")


def raw_bytes(data: Array, meta: dict[str, Any]) -> bytes:
    """The samples as bytes, in the byte order of the source, little-endian by default."""
    return data.astype(_order(data.dtype, meta), order="C", copy=False).tobytes()


def write_raw(file: BinaryIO, data: Array, meta: dict[str, Any]) -> None:
    """Write the samples in pieces, so that a large array needs no second copy."""
    rows = max(1, (1 << 22) // max(1, data.nbytes // len(data)))
    for start in range(0, len(data), rows):
        file.write(raw_bytes(data[start : start + rows], meta))


def _order(dtype: np.dtype[Any], meta: dict[str, Any]) -> np.dtype[Any]:
    return dtype.newbyteorder(">" if str(meta.get("dtype", "")).startswith(">") else "<")


def _layout(path: str | Path, dtype: str | None, channels: int | None) -> tuple[np.dtype[Any], int]:
    if dtype is None:
        raise ConfigError(f"{path} is raw samples: say what they are, as in --dtype int16")
    n_channels = 1 if channels is None else channels
    if not 1 <= n_channels <= MAX_CHANNELS:
        raise ConfigError(f"channels must be 1 to {MAX_CHANNELS}, got {n_channels}")
    return parse_dtype(dtype), n_channels


def _packed(
    samples: Array, kind: np.dtype[Any], n_channels: int, rate_hz: float | None, where: str
) -> SignalFile:
    data = samples if n_channels == 1 else samples.reshape(-1, n_channels)
    meta = {"container": "raw", "dtype": kind.str}
    return SignalFile(data=checked(data, where), rate_hz=rate_hz, meta=meta)
