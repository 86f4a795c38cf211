"""How far one net's output is from another's, in the words of quantization and of detection."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["reconstruction_score", "sqnr_db"]

Array = npt.NDArray[Any]


def sqnr_db(reference: Array, other: Array) -> float:
    """Power of the reference over that of the difference, over all values; inf where equal.

    Example:
        >>> round(sqnr_db(np.array([10.0, -10.0]), np.array([10.1, -9.9])), 6)
        40.0
    """
    wide = reference.astype(np.float64)
    noise = float(np.sum((wide - other.astype(np.float64)) ** 2))
    power = float(np.sum(wide**2))
    if noise == 0:
        return math.inf
    return 10 * math.log10(power / noise) if power > 0 else -math.inf


def reconstruction_score(x: Array, output: Array) -> float:
    """Anomaly score of an autoencoder: mean over inputs of the mean squared error of each."""
    return float(np.mean((x.astype(np.float64) - output.astype(np.float64)) ** 2))
