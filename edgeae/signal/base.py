"""What every source hands out: samples, their rate, and what is needed to write them back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgeae.errors import ConfigError, SignalError

__all__ = ["Array", "SignalFile", "checked", "parse_dtype"]

Array = NDArray[Any]

_KINDS = "iuf"


@dataclass(frozen=True, kw_only=True)
class SignalFile:
    """A signal as read from a file or stream.

    Attributes:
        data: series [T] or [T, C], images [N, H, W] or [N, H, W, C]; native byte order.
        rate_hz: samples per second where the file says so.
        meta: JSON-able; ``write_signal(path, data, meta)`` restores the file's form from it.
        notes: what was dropped, repaired or guessed on the way, as sentences for the user.
    """

    data: Array
    rate_hz: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_image(self) -> bool:
        """True for [N, H, W] and [N, H, W, C]."""
        return self.data.ndim >= 3

    @property
    def n_items(self) -> int:
        """Time steps or images."""
        return int(self.data.shape[0])

    @property
    def channels(self) -> int:
        """C, 1 where the array has no channel axis."""
        return int(self.data.shape[-1]) if self.data.ndim in (2, 4) else 1


def parse_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """A number type by name (``int16``, ``>i2``, ``float32``), or a ConfigError."""
    try:
        parsed = np.dtype(dtype)
    except TypeError as error:
        raise ConfigError(
            f"unknown dtype {dtype!r}; use a name such as int16, uint8, float32 or >i2"
        ) from error
    if parsed.kind not in _KINDS or parsed.itemsize > 8:
        raise ConfigError(f"dtype {parsed} holds no real numbers; use int8..int64 or float16..64")
    return parsed


def checked(data: Array, where: str) -> Array:
    """The array in native byte order and C order if it is a signal; a SignalError if not."""
    if data.dtype == np.bool_:
        data = data.view(np.uint8)
    if data.dtype.kind == "c":
        raise SignalError(f"{where} holds complex numbers; store real and imaginary as 2 channels")
    if data.dtype.kind not in _KINDS or data.dtype.itemsize > 8:
        raise SignalError(f"{where} holds {data.dtype} values, expected integers or floats")
    if not 1 <= data.ndim <= 4:
        raise SignalError(
            f"{where} has shape {data.shape}; expected [T], [T, C], [N, H, W] or [N, H, W, C]"
        )
    if data.ndim >= 3 and data.dtype not in (np.uint8, np.uint16):
        raise SignalError(
            f"{where} has shape {data.shape} and dtype {data.dtype}: images are uint8 or uint16, "
            "and a series is [T] or [T, C]; reshape it first"
        )
    if data.size == 0:
        raise SignalError(f"{where} is empty: shape {data.shape}")
    native = data.dtype.newbyteorder("=")
    return data if data.dtype == native and data.dtype.isnative else data.astype(native)
