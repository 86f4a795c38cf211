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

from edgeae.bitstream.classical_loop import BOOK, FILTER_LENGTH, FILTER_RATE
from edgeae.bitstream.classical_params import PLANAR, ChannelParams, Raster

__all__ = ["choose_params"]

IntArray = npt.NDArray[np.int32]
Trial = Callable[[IntArray, "IntArray | None", ChannelParams, Raster], int]

_LPC_ORDERS = (16, 8, 4, 2)
_STRETCH = 2048
_N_STRETCHES = 4
_SHORT = 64
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


def _reflection(x: npt.NDArray[np.float64], order: int, delta: int) -> list[float]:
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


def _start(x: npt.NDArray[np.integer], delta: int) -> int:
    """The power of two next to the mean difference, in steps, of the channel's beginning."""
    head = x[:64].astype(np.int64)
    size = np.abs(np.diff(head)).mean() / delta / 2 if len(head) > 1 else 1.0
    return int(np.clip(np.rint(np.log2(size + 1e-9)) + 3, 0, 15))


def _center(value: float, delta: int) -> int:
    return int(np.rint(value / delta))


def _foretold(params: ChannelParams, references: list[IntArray]) -> npt.NDArray[np.int64] | int:
    """What the reference foretells of a channel."""
    if params.reference < 0:
        return 0
    return (params.gain * references[params.reference].astype(np.int64) + 4) >> 3


def _likely_reference(x: IntArray, references: list[IntArray]) -> tuple[int, int] | None:
    """The channel whose changes go best with those of x, and its gain in eighths."""
    change = np.diff(x.astype(np.float64))
    best, found = 0.2, None
    for number, other in enumerate(references):
        step = np.diff(other.astype(np.float64))
        power = float(step @ step)
        both = float(change @ step)
        share = both * both / max(power * float(change @ change), 1e-9)
        if share > best:
            best = share
            found = number, int(np.clip(np.rint(8 * both / power), -32, 31))
    return found


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
                near = None
                local = params
                if params.reference >= 0:
                    near = np.ascontiguousarray(references[params.reference][part])
                if part.start and params.base < len(BOOK):
                    first = slice(part.start, part.start + 1)
                    rest = x[first] - _foretold(params, [r[first] for r in references])
                    local = replace(params, center=_center(float(rest[0]), delta))
                total += trial(np.ascontiguousarray(x[part]), near, local, raster)
            costs[params] = total
        return costs[params]

    best = _search(x, ChannelParams(base=0), parts, delta, raster, cost)
    if len(x) < _SHORT:
        return best
    likely = _likely_reference(x, references)
    if likely is not None:
        seed = ChannelParams(base=0, reference=likely[0], gain=likely[1])
        rest = x - _foretold(seed, references)
        best = min(best, _search(rest, seed, parts, delta, raster, cost), key=cost)
    if references and best.reference < 0 and best.filter:
        best = min(best, replace(best, reference=len(references) - 1), key=cost)
    starts = [replace(best, start=s) for s in (best.start - 1, best.start + 1) if 0 <= s <= 15]
    return min(best, *starts, key=cost)


def _search(
    rest: npt.NDArray[np.integer],
    seed: ChannelParams,
    parts: list[slice],
    delta: int,
    raster: Raster,
    cost: Callable[[ChannelParams], int],
) -> ChannelParams:
    """The cheapest predictor and filter for what a channel's reference leaves over."""
    first = replace(seed, start=_start(rest, delta), center=_center(float(rest[0]), delta))
    bases = [replace(first, base=base) for base in range(len(BOOK))]
    if raster.width:
        bases.append(replace(first, base=PLANAR))
    if len(rest) >= _SHORT:
        stretch = np.concatenate([rest[part] for part in parts])
        full = _quantized(_reflection(stretch.astype(np.float64), _LPC_ORDERS[0], delta))
        middle = _center(float(rest.mean()), 1)
        for order in _LPC_ORDERS:
            bases.append(replace(first, base=15 + order, center=middle, reflection=full[:order]))
    ranked = sorted(bases, key=cost)
    best = ranked[0]
    if len(rest) < _SHORT:
        return best
    for base in ranked[:3]:
        for filter_ in (6, 11):
            best = min(best, replace(base, filter=filter_), key=cost)
    best = min(best, *_neighbours(best), key=cost)
    return min(best, *_neighbours(best), key=cost)


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
