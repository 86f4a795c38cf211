"""Samples out, piece by piece, in constant memory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from numpy.typing import DTypeLike

from edgeae.errors import ConfigError, SignalError
from edgeae.signal.arrays import npy_header
from edgeae.signal.base import Array, parse_dtype
from edgeae.signal.container import container_of
from edgeae.signal.files import atomic_output
from edgeae.signal.raw import raw_bytes
from edgeae.signal.wav import known_rate, wav_header, wav_samples

__all__ = ["SignalSink"]


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
                known_rate(self._rate_hz),
                self._meta,
                n_items * channels * width,
            )
        return b""
