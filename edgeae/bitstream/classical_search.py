"""How the encoder of the classical codec chooses a channel's parameters.

Nothing here binds a reader: any choice decodes. Candidates are coded, on a few stretches of a long
frame, and the smallest wins: first every base predictor alone, then adaptive filters on the best.
The linear predictors come from a windowed autocorrelation in floats, as integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.classical_loop import (
    BOOK,
    FILTER_LENGTH,
    FILTER_RATE,
    PLANAR,
    ChannelParams,
    Raster,
)

__all__ = ["choose_params"]

IntArray = npt.NDArray[np.int32]
Trial = Callable[[IntArray, "IntArray | None", ChannelParams, Raster], int]

_LPC_ORDERS = (16, 8, 4, 2)
_STRETCH = 2048
_N_STRETCHES = 4
_N_FILTERS = len(FILTER_LENGTH) * len(FILTER_RATE) - 1


def _stretches(n: int, raster: Raster) -> list[slice]:
    """The parts of a frame on which candidates are tried."""
    if raster.width:
        picture = raster.width * raster.height
        count = max(1, _STRETCH * _N_STRETCHES // picture)
        return [slice(0, min(n, count * picture))]
    if n <= _STRETCH * _N_STRETCHES:
        return [slice(0, n)]
    begins = np.linspace(0, n - _STRETCH, _N_STRETCHES).astype(int).tolist()
    return [slice(b, b + _STRETCH) for b in begins]


def _reflection(x: IntArray, order: int, delta: int) -> list[float]:
    """Reflection coefficients of the signal with the quantizer's noise on it."""
    y = x - x.mean()
    n = len(y)
    ramp = max(1, n // 16)
    window = 0.5 - 0.5 * np.cos(np.pi * (np.arange(ramp) + 0.5) / ramp)
    y[:ramp] *= window
    y[n - ramp :] *= window[::-1]
    if n > 4 * order:
        padded = np.concatenate([y, np.zeros(order)])
        r = [float(y @ padded[lag : lag + n]) for lag in range(order + 1)]
    else:
        r = [0.0] * (order + 1)
    noise = delta * delta / 12 if delta > 1 else 0.0
    error = r[0] * (1 + 1e-9) + n * (noise + 1e-3)
    coef: list[float] = []
    out = []
    for m in range(order):
        k = (r[m + 1] - sum(a * r[m - i] for i, a in enumerate(coef))) / error
        k = min(max(k, -0.9999), 0.9999)
        coef = [*(a - k * b for a, b in zip(coef, reversed(coef), strict=True)), k]
        error *= 1 - k * k
        out.append(k)
    return out


def _quantized(reflection: list[float]) -> tuple[int, ...]:
    """The nearest multiples q of the format's arcsine grid, -63..63."""
    angles = np.arcsin(np.array(reflection)) * (128 / np.pi)
    nearest = np.clip(np.rint(angles), -63, 63).astype(int).tolist()
    return tuple(nearest)


def _start(x: IntArray, delta: int) -> int:
    """The power of two next to the mean difference, in steps, of the channel's beginning."""
    head = x[:64].astype(np.int64)
    size = np.abs(np.diff(head)).mean() / delta / 2 if len(head) > 1 else 1.0
    return int(np.clip(np.rint(np.log2(size + 1e-9)) + 3, 0, 15))


def _center(value: float, delta: int) -> int:
    return int(np.rint(value / delta))


def choose_params(
    x: IntArray, references: list[IntArray], delta: int, raster: Raster, trial: Trial
) -> ChannelParams:
    """Choose parameters for one channel.

    Args:
        x: the channel's grid indices [T].
        references: reconstructions [T] of the channels before it.
        delta: odd step of the residual.
        raster: the pictures' size.
        trial: codes a stretch with given parameters, returns the bytes.
    """
    parts = _stretches(len(x), raster)
    costs: dict[ChannelParams, int] = {}

    def cost(params: ChannelParams) -> int:
        if params not in costs:
            total = 0
            for part in parts:
                piece = np.ascontiguousarray(x[part])
                near = None
                if params.reference >= 0:
                    near = np.ascontiguousarray(references[params.reference][part])
                local = params
                if part.start and params.base < len(BOOK):
                    local = replace(params, center=_center(float(piece[0]), delta))
                total += trial(piece, near, local, raster)
            costs[params] = total
        return costs[params]

    bases = [
        ChannelParams(base=i, start=_start(x, delta), center=_center(float(x[0]), delta))
        for i in range(len(BOOK))
    ]
    if raster.width:
        bases.append(replace(bases[0], base=PLANAR))
    if len(x) >= 64:
        stretch = np.concatenate([x[part] for part in parts]) if len(parts) > 1 else x
        full = _quantized(_reflection(stretch.astype(np.float64), _LPC_ORDERS[0], delta))
        middle = _center(float(x.mean()), 1)
        for order in _LPC_ORDERS:
            bases.append(replace(bases[0], base=15 + order, center=middle, reflection=full[:order]))
    ranked = sorted(bases, key=cost)
    best = ranked[0]
    if len(x) < 64:
        return best
    for base in ranked[:3]:
        for filter_ in (6, 11):
            best = min(best, replace(base, filter=filter_), key=cost)
    best = min(best, *_neighbours(best), key=cost)
    best = min(best, *_neighbours(best), key=cost)
    for reference in range(len(references) - 1, max(-1, len(references) - 4), -1):
        with_filter = replace(best, filter=best.filter or 6, reference=reference)
        best = min(best, with_filter, key=cost)
    starts = [replace(best, start=s) for s in (best.start - 1, best.start + 1) if 0 <= s <= 15]
    return min(best, *starts, key=cost)


def _neighbours(params: ChannelParams) -> list[ChannelParams]:
    """The same predictor with the next shorter, longer, slower and faster filter."""
    if not params.filter:
        return [replace(params, filter=4), replace(params, filter=8)]
    length, rate = divmod(params.filter - 1, len(FILTER_RATE))
    places = [(length - 1, rate), (length + 1, rate), (length, rate - 1), (length, rate + 1)]
    return [
        replace(params, filter=1 + a * len(FILTER_RATE) + b)
        for a, b in places
        if 0 <= a < len(FILTER_LENGTH)
        and 0 <= b < len(FILTER_RATE)
        and a * len(FILTER_RATE) + b < _N_FILTERS
    ]
