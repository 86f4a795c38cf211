"""Another sample rate: a windowed sinc at the ratio of two whole numbers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import SignalError

__all__ = ["resample"]

_ZEROS = 24  # zero crossings of the sinc to each side
_BETA = 8.6  # of the Kaiser window: the stop band lies 90 dB below
_ROLL_OFF = 0.94  # of the lower Nyquist frequency, where the pass band ends
_MAX_PHASES = 1 << 13
_PIECE = 1 << 14


def resample(x: NDArray[Any], rate_hz: float, wanted_hz: float) -> NDArray[Any]:
    """A signal at another rate.

    Args:
        x: [T] or [T, C].
        rate_hz: samples per second that it has.
        wanted_hz: samples per second that it should have.

    Returns:
        ceil(T * wanted / rate) samples of the same dtype; integers are rounded and saturated.

    Raises:
        SignalError: the rates are not positive, or their ratio is of numbers too large.

    Example:
        >>> import numpy as np
        >>> x = np.sin(np.arange(4800) * 0.02)
        >>> y = resample(x, 48000, 16000)
        >>> y.shape, bool(np.abs(y[100:-100] - x[::3][100:-100]).max() < 1e-4)
        ((1600,), True)
    """
    if not (0 < rate_hz < np.inf and 0 < wanted_hz < np.inf):
        raise SignalError(f"cannot resample from {rate_hz} Hz to {wanted_hz} Hz")
    ratio = Fraction(wanted_hz / rate_hz).limit_denominator(_MAX_PHASES)
    up, down = ratio.numerator, ratio.denominator
    if not up or up > _MAX_PHASES or abs(ratio / Fraction(wanted_hz / rate_hz) - 1) > 1e-6:
        raise SignalError(
            f"cannot resample from {rate_hz:g} Hz to {wanted_hz:g} Hz: they are not in the ratio "
            f"of two numbers below {_MAX_PHASES}"
        )
    if up == down:
        return x
    rows = x.reshape(len(x), -1).astype(np.float64)
    taps, half = _filters(up, down)
    n_out = -(-len(x) * up // down)
    padded = np.pad(rows, [(half, half), (0, 0)], mode="edge") if len(x) else rows
    out = np.empty((n_out, rows.shape[1]))
    width = taps.shape[1]
    for begin in range(0, n_out, _PIECE):
        at = np.arange(begin, min(begin + _PIECE, n_out), dtype=np.int64) * down
        windows = padded[(at // up)[:, None] + np.arange(width)]
        out[begin : begin + len(at)] = np.einsum("tkc,tk->tc", windows, taps[at % up])
    if x.dtype.kind in "iu":
        ends = np.iinfo(x.dtype)
        out = np.clip(np.rint(out), float(ends.min), np.nextafter(float(ends.max) + 1, 0))
    return out.reshape(n_out, *x.shape[1:]).astype(x.dtype)


def _filters(up: int, down: int) -> tuple[NDArray[np.float64], int]:
    """Taps of each phase [up, 2 half + 1], and how far they reach to each side."""
    cutoff = _ROLL_OFF * min(1.0, up / down)
    half = int(np.ceil(_ZEROS / cutoff))
    offsets = np.arange(-half, half + 1)[None] - np.arange(up)[:, None] / up
    window = np.i0(_BETA * np.sqrt(np.clip(1 - (offsets / (half + 1)) ** 2, 0, None)))
    taps: NDArray[np.float64] = np.sinc(cutoff * offsets) * window
    return taps / taps.sum(axis=1, keepdims=True), half
