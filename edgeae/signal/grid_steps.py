"""Candidate steps of a hidden grid, as exact fractions. Whether they fit is proved in ``grid``."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["INDEX_LIMIT", "decimal_steps", "dyadic_step", "general_steps", "subsample"]

INDEX_LIMIT = 1 << 30
"""Grid indices satisfy ``|n| < INDEX_LIMIT``, so sums and residuals stay far from int32's ends."""

_MAX_DECIMALS = 9
_ROUND_DENOMINATORS = sorted(2**twos * 5**fives for twos in range(41) for fives in range(13))


def subsample(x: NDArray[Any], size: int) -> NDArray[np.float64]:
    """At most ``size`` samples drawn over all of x, with its ends, as float64."""
    if x.size > size:
        picks = np.random.default_rng(0).integers(0, x.size, size)
        x = np.concatenate([x[picks], [x.min(), x.max()]])
    return x.astype(np.float64)


def dyadic_step(probe: NDArray[np.float64], mantissa: int) -> Fraction | None:
    """The largest power of two that divides every value."""
    fraction, exponent = np.frexp(probe)
    bits = np.ldexp(fraction, mantissa).astype(np.int64)
    low = np.frexp((bits & -bits).astype(np.float64))[1] - 1  # trailing zeros
    k = int((exponent - mantissa + low).min())
    return Fraction(2) ** k if abs(k) < 62 else None


def decimal_steps(probe: NDArray[np.float64]) -> list[Fraction]:
    """Every 1/10^d that may fit: the proof comes later, on all samples."""
    found = []
    for d in range(_MAX_DECIMALS + 1):
        scaled = probe[-1] * 10.0**d
        if scaled >= INDEX_LIMIT:
            break
        found.append(Fraction(1, 10**d))
    return found


def general_steps(x: NDArray[Any], mantissa: int) -> list[Fraction]:
    """Steps that are neither decimal nor a power of two: fractions that may explain all of x."""
    values = np.unique(np.abs(subsample(x, 1 << 15)))
    if values[0] > 0:
        values = np.concatenate([[0.0], values])
    spacing = math.ldexp(1.0, math.frexp(float(values[-1]))[1] - mantissa)  # ulp of the peak
    gaps = np.diff(values)
    if gaps.size < 2 or float(gaps.min()) < max(4 * spacing, values[-1] / INDEX_LIMIT):
        return []
    smallest = float(gaps[gaps <= 1.25 * gaps.min()].mean())
    for divisor in range(1, 17):
        step = _refined(smallest / divisor, values, spacing)
        if step is not None:
            return _telling_steps(step, values[1:], mantissa)
    return []


def _refined(step: float, values: NDArray[np.float64], spacing: float) -> float | None:
    """Sharpen a rough step on differences of doubling length; None if they contradict it."""
    reach = 4 * step
    while True:
        length = np.minimum(reach, values[-1])
        other = np.searchsorted(values, values + length, side="right") - 1
        gaps = (values[other] - values)[other > np.arange(values.size)]
        if gaps.size:
            k = np.rint(gaps / step)
            step = float(np.dot(k, gaps) / max(np.dot(k, k), 1.0))
            misfit = np.abs(gaps - np.rint(gaps / step) * step)
            if float(misfit.max()) > 0.25 * step + spacing:
                return None
        if reach >= values[-1]:
            break
        reach *= 2
    misfit = np.abs(values - np.rint(values / step) * step)
    return step if float(misfit.max()) <= 0.25 * step + spacing else None


def _telling_steps(step: float, values: NDArray[np.float64], mantissa: int) -> list[Fraction]:
    """Steps that put every value within half an ulp, the most telling number first."""
    n = np.rint(values / step)
    half = np.ldexp(0.5, np.frexp(values)[1] - mantissa)
    order = np.argsort((values - half) / n), np.argsort((values + half) / n)
    # floats find the tightest samples, exact arithmetic decides
    tight = np.unique(np.concatenate([order[0][-99:], order[1][:99]]))
    parts = [(Fraction(values[i]), Fraction(half[i]), int(n[i])) for i in tight]
    low = max((v - h) / k for v, h, k in parts)
    high = min((v + h) / k for v, h, k in parts)
    if low >= high:
        return [low] if low == high else []
    width, middle = high - low, (low + high) / 2
    found = []
    # A number that people write: 2^a 5^b below the line, or 1/131, 5/82. A hit by chance is no
    # finding, so the interval must be narrow beside the raster of such numbers.
    simplest = _between(low, high)
    if simplest.denominator**2 * width < 0.01:
        found.append(simplest)
    for den in _ROUND_DENOMINATORS:
        if den * width > 0.01:
            break
        num = math.ceil(low * den)
        if num <= high * den:
            round_number = Fraction(num, den)
            small = simplest.denominator < round_number.denominator / 1000
            found.insert(len(found) if small else 0, round_number)
            break
    # A constant that the samples were multiplied by, in float32 or float64; last, anything near the
    # middle, which later samples will most likely agree with.
    if width * (1 << 24) < 4 * middle:
        found.append(Fraction(float(np.float32(float(middle)))))
    if width * (1 << 53) < 16 * middle:
        near = float(middle)
        found += [Fraction(near + k * math.ulp(near)) for k in (0, 1, -1, 2, -2, 3, -3)]
    found.append(_between(middle - width / 8, middle + width / 8))
    return found


def _between(low: Fraction, high: Fraction) -> Fraction:
    """Fraction with the smallest denominator in [low, high] (a walk down the Stern-Brocot tree)."""
    whole = math.ceil(low)
    if whole <= high:
        return Fraction(max(whole, 1)) if whole >= 1 else Fraction(1)
    whole = math.floor(low)
    return whole + 1 / _between(1 / (high - whole), 1 / (low - whole))
