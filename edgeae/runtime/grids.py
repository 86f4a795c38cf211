"""Dyadic grids: which numbers are integers times a power of two, and how fine that power is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["COARSEST", "grid_exponents", "is_power_of_two"]

COARSEST = -60
"""Exponent of a row of zeros: a grid that any other refines."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def grid_exponents(values: npt.NDArray[Any]) -> Ints:
    """Finest grid exponent of each row: the smallest e with every value * 2^e an integer.

    Example:
        >>> grid_exponents(np.array([[0.5, 3.0], [8.0, 4.0], [0.0, 0.0]]))
        array([  1,  -2, -60])
    """
    rows = np.asarray(values, np.float64).reshape(values.shape[0], -1)
    mantissa, power = np.frexp(rows)
    whole = (np.abs(mantissa) * 2.0**53).astype(np.int64)
    low_bit = np.where(whole == 0, 1, whole & -whole)
    trailing = np.round(np.log2(low_bit.astype(np.float64))).astype(np.int64)
    exponent = np.where(whole == 0, COARSEST, 53 - trailing - power)
    found: Ints = exponent.max(axis=1, initial=COARSEST).astype(np.int64)
    return found


def is_power_of_two(values: npt.NDArray[Any]) -> bool:
    """Whether all values are plus or minus a power of two.

    Example:
        >>> is_power_of_two(np.array([0.25, -8.0])), is_power_of_two(np.array([3.0]))
        (True, False)
    """
    mantissa, _ = np.frexp(np.asarray(values, np.float64))
    return bool(np.all(np.abs(mantissa) == 0.5))
