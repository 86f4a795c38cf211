"""The linear predictor that foretells a signal best, in integers: the twin of the one in C.

The autocorrelation of the signal, brought to 20 bits and faded in and out, goes through Schur's
recursion [1]_, which gives the reflection coefficients without the predictor in between.

References:
    .. [1] J. Le Roux, C. Gueguen, "A fixed point computation of partial correlation coefficients",
       IEEE Transactions on Acoustics, Speech and Signal Processing 25(3), 1977.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.classical_loop import SINE

__all__ = ["N_REFLECTION", "reflection_of"]

N_REFLECTION = 16
_SIGNAL_BITS = 20
_POWER_BITS = 42
_FRACTION = 40
_MOST_NOISE = 1 << 36


def reflection_of(y: npt.NDArray[np.int64], delta: int) -> tuple[int, ...]:
    """Return 16 reflection coefficients, ``sin(pi / 2 * q / 64)`` for q in -63..63.

    Args:
        y: int64 [T], ``|y| < 2**36``.
        delta: odd step: the quantizer's noise is part of what is predicted from.

    Example:
        >>> walk = np.cumsum(np.random.default_rng(0).integers(-9, 10, 4000))
        >>> reflection_of(walk, 1)[:3]
        (63, 0, 1)
    """
    n = len(y)
    if n <= 4 * N_REFLECTION:
        return (0,) * N_REFLECTION
    bits = min((62 - n.bit_length()) // 2, _SIGNAL_BITS)
    centred = y - int(y.sum()) // n
    shift = int(np.abs(centred).max()).bit_length() - bits
    centred = centred >> shift if shift > 0 else centred << -shift
    ramp = max(n // 16, 1)
    s = (2 * np.arange(ramp, dtype=np.int64) + 1) * 65536 // (2 * ramp)
    fade = (((s * s) >> 16) * (3 * 65536 - 2 * s)) >> 16
    centred[:ramp] = (centred[:ramp] * fade) >> 16
    centred[n - ramp :] = (centred[n - ramp :] * fade[::-1]) >> 16
    ahead = [int(centred[lag:] @ centred[: n - lag]) for lag in range(N_REFLECTION + 1)]
    noise = delta * delta if delta > 1 else 0
    noise = noise // 12 >> (2 * shift) if shift > 0 else (noise << (-2 * shift)) // 12
    ahead[0] += (ahead[0] >> 30) + 1 + n * min(noise, _MOST_NOISE)
    shift = ahead[0].bit_length() - _POWER_BITS
    ahead = [r >> shift if shift > 0 else r << -shift for r in ahead]
    behind = list(ahead)
    found = [0] * N_REFLECTION
    one = 1 << _FRACTION
    for m in range(N_REFLECTION):
        error = behind[m]
        if error < 1:
            break
        k = min(max(ahead[m + 1], -error), error) * one
        k = -(-k // error) if k < 0 else k // error  # towards zero, as in C
        k = min(max(k, (one >> 13) - one), one - (one >> 13))
        for lag in range(N_REFLECTION, m, -1):
            a, b = ahead[lag], behind[lag - 1]
            ahead[lag] = a - ((k * b) >> _FRACTION)
            behind[lag] = b - ((k * a) >> _FRACTION)
        size, q = abs(k) >> (_FRACTION - 16), 0
        while q < 63 and size >= SINE[q] + SINE[q + 1]:
            q += 1
        found[m] = -q if k < 0 else q
    return tuple(found)
