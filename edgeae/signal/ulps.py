"""Units in the last place: how far floats lie from where they should be.

Floats that were computed or printed and parsed on their way lie a few ulps beside their grid:
0.1 + 0.2 reads 0.30000000000000004. A codec need not give up the grid for that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["move_ulps", "ulps_beside"]


def ulps_beside(x: NDArray[Any], base: NDArray[Any]) -> NDArray[np.int64]:
    """What to add to the bits of ``base``, taken as integers, to get those of ``x``.

    Small where both have the same sign and are close; large for NaN, infinities and -0.0.

    Args:
        x: floats of any shape.
        base: floats of the same shape and type.

    Example:
        >>> ulps_beside(np.array([0.1 + 0.2, -0.5]), np.array([0.3, -0.5])).tolist()
        [1, 0]
    """
    difference = _bits(x).astype(np.int64) - _bits(base).astype(np.int64)
    return np.maximum(difference, -np.iinfo(np.int64).max)  # so that it has an absolute value


def move_ulps(base: NDArray[Any], ulps: NDArray[np.int32]) -> NDArray[Any]:
    """The inverse: the bits of ``base`` plus ``ulps``, modulo the type's width.

    Example:
        >>> move_ulps(np.array([0.3]), np.array([1], np.int32)).tolist()
        [0.30000000000000004]
    """
    bits = _bits(base)
    moved: NDArray[Any] = bits + ulps.astype(np.int64).astype(bits.dtype)
    return moved.view(base.dtype)


def _bits(x: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}")
