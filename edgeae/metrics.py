"""Distortion and rate, in the words of the field. All take user units; NaN in the input spreads.

References:
    PRD and PRDN: M. Blanco-Velasco et al., "On the use of PRD and CR parameters for ECG
    compression", Medical Engineering & Physics 27 (2005), eqs. 1 and 2.
    SI-SDR: J. Le Roux et al., "SDR - half-baked or well done?", https://arxiv.org/abs/1811.02508,
    eq. 2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import SignalError

__all__ = [
    "bits_per_sample",
    "max_abs_error",
    "prd",
    "prdn",
    "psnr_db",
    "rmse",
    "si_sdr_db",
    "snr_db",
]

Array = NDArray[Any]


def rmse(x: Array, x_hat: Array) -> float:
    """Root of the mean squared error.

    Example:
        >>> rmse(np.array([0, 0, 3, 4]), np.array([0, 0, 0, 0]))
        2.5
    """
    return float(math.sqrt(np.mean(_difference(x, x_hat) ** 2)))


def max_abs_error(x: Array, x_hat: Array) -> float:
    """Largest |x - x_hat|.

    Example:
        >>> max_abs_error(np.array([250, 3], np.uint8), np.array([3, 250], np.uint8))
        247.0
    """
    return float(np.max(np.abs(_difference(x, x_hat))))


def psnr_db(x: Array, x_hat: Array, *, peak: float | None = None) -> float:
    """Peak signal-to-noise ratio; the peak is the range of ``x`` unless given (255 for images).

    Example:
        >>> round(psnr_db(np.array([0, 255]), np.array([1, 254]), peak=255), 2)
        48.13
    """
    top = float(np.ptp(np.asarray(x, np.float64))) if peak is None else peak
    return _ratio_db(top * top, rmse(x, x_hat) ** 2)


def snr_db(x: Array, x_hat: Array) -> float:
    """Signal-to-noise ratio: variance of ``x`` (per channel mean removed) over mean squared error.

    Example:
        >>> round(snr_db(np.array([-10.0, 10.0]), np.array([-9.0, 9.0])), 1)
        20.0
    """
    centred = np.asarray(x, np.float64) - np.mean(np.asarray(x, np.float64), axis=0)
    return _ratio_db(float(np.mean(centred**2)), rmse(x, x_hat) ** 2)


def si_sdr_db(x: Array, x_hat: Array) -> float:
    """Scale-invariant signal-to-distortion ratio of [T]: offset and scale do not count.

    Example:
        >>> x = np.sin(np.arange(100.0))
        >>> round(si_sdr_db(x, 2 * x + 0.02 * np.cos(np.arange(100.0))), 1)
        40.0
    """
    truth, other = np.asarray(x, np.float64), np.asarray(x_hat, np.float64)
    truth, other = truth - np.mean(truth), other - np.mean(other)
    scaled = truth * (np.vdot(other, truth) / max(float(np.vdot(truth, truth)), 1e-12))
    return _ratio_db(float(np.mean(scaled**2)), rmse(scaled, other) ** 2)


def prd(x: Array, x_hat: Array) -> float:
    """Percentage root-mean-square difference. Depends on the offset of ``x``: prefer ``prdn``.

    Example:
        >>> prd(np.array([3.0, 4.0]), np.array([3.0, 3.5]))
        10.0
    """
    return _percent(rmse(x, x_hat) ** 2, float(np.mean(np.asarray(x, np.float64) ** 2)))


def prdn(x: Array, x_hat: Array) -> float:
    """The same with the mean of every channel removed from the reference.

    Example:
        >>> prdn(np.array([1023.0, 1025.0]), np.array([1023.0, 1024.5]))
        35.35533905932738
    """
    centred = np.asarray(x, np.float64) - np.mean(np.asarray(x, np.float64), axis=0)
    return _percent(rmse(x, x_hat) ** 2, float(np.mean(centred**2)))


def bits_per_sample(n_bytes: int, n_samples: int) -> float:
    """Rate, headers included. A sample is one number: one channel at one time, or one pixel.

    Example:
        >>> bits_per_sample(1000, 16000)
        0.5
    """
    if n_samples < 1:
        raise SignalError(f"a rate needs at least one sample, got {n_samples}")
    return 8 * n_bytes / n_samples


def _difference(x: Array, x_hat: Array) -> NDArray[np.float64]:
    if np.shape(x) != np.shape(x_hat) or np.size(x) == 0:
        raise SignalError(f"cannot compare shapes {np.shape(x)} and {np.shape(x_hat)}")
    return np.asarray(x, np.float64) - np.asarray(x_hat, np.float64)


def _ratio_db(power: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(power / noise) if power > 0 else -math.inf


def _percent(noise: float, power: float) -> float:
    if power == 0:
        return 0.0 if noise == 0 else math.inf
    return 100 * math.sqrt(noise / power)
