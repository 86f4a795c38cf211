"""How the encoder of the classical codec chooses a channel's parameters.

A predictor and a filter in any case, as `classical_search` finds them; where the samples keep to a
lattice, are few or repeat themselves, also ways that make use of that. The few that may be best are
coded, and the smallest wins. Nothing here binds a reader.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.classical_lattice import Lattice, likely_lattices
from edgeae.bitstream.classical_params import ChannelParams, Raster
from edgeae.bitstream.classical_search import SHORT, Search, likely_reference, searched
from edgeae.bitstream.classical_tally import likely_tallies

__all__ = ["choose_params"]

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]

_TALLY_BASES = (16, 0)
"""Predictors for tallies: none, the last sample."""
_TALLY_START = 6
_COARSE_START = 3
_TALLY_SLACK = 1.1
_N_TALLIES = 2
_LEAST_LAG = 17
_LAG_STRETCH = 4096
_LAG_SHARE = 0.7
_LAG_SLACK = 1.1
_LAG_TRUST = 1.15


def choose_params(
    x: IntArray,
    references: Sequence[IntArray],
    delta: int,
    raster: Raster,
    limit: int | None = None,
) -> list[ChannelParams]:
    """Choose parameters for one channel: those that are worth coding it with, likeliest first.

    Args:
        x: the channel's grid indices [T].
        references: reconstructions [T] of the channels before it.
        delta: odd step of the residual.
        raster: the pictures' size.
        limit: most bytes that are wanted.

    Returns:
        The choices; none where all are known to take far more than the limit.
    """
    search = searched(x, references, delta, raster, limit)
    found = []
    if search.share < 1 or not search.is_far:
        found = [search.tuned(params) for params in search.finalists()]
    if len(x) < SHORT:
        return found
    least = search.costs[search.ranked()[0]] / 16
    stretch = np.concatenate([x[part] for part in search.parts])
    found += _tallied(stretch.astype(np.int64), None, delta, least)
    for lattice in likely_lattices(stretch, delta):
        found += _on_lattice(x, stretch, references, lattice, least)
    plain = min(cost for params, cost in search.costs.items() if params.base == 0) / 16
    found += _repeated(x, delta, raster.width or _likely_lag(x), plain, least)
    return found


def _tallied(
    x: LongArray, lattice: Lattice | None, delta: int, least: float
) -> list[ChannelParams]:
    """Tallies that may need less than so many bits, of indices x [T] or of a lattice's numbers."""
    if lattice is None:
        x = (x + delta // 2) // delta
    found = []
    for choice in likely_tallies(x, least * _TALLY_SLACK)[:_N_TALLIES]:
        center = choice.center if choice.order == 0 else int(x[0])
        params = ChannelParams(base=_TALLY_BASES[choice.order], tally=1 + choice.shift)
        if choice.order == 0:
            params = params._replace(reflection=(0,))
            center *= delta if lattice is None else 1
        start = _COARSE_START if choice.shift else _TALLY_START
        found.append(params._replace(start=start, center=center))
    return found


def _on_lattice(
    x: IntArray,
    stretch: IntArray,
    references: Sequence[IntArray],
    lattice: Lattice,
    least: float,
) -> list[ChannelParams]:
    """What is worth trying on a lattice."""
    numbers = lattice.numbers(x)
    near = [lattice.scaled_down(reference) for reference in references]
    search = searched(numbers, near, 1, Raster())
    found = []
    best = search.costs[search.ranked()[0]] / 16
    if best < least:
        found += [search.tuned(params) for params in search.finalists()]
    found += _tallied(lattice.numbers(stretch).astype(np.int64), lattice, 1, min(best, least))
    return [
        params._replace(
            center=lattice.sample(x, params.center),
            pitch=lattice.pitch,
            pitch_bits=lattice.bits,
            phase=lattice.phase,
        )
        for params in found
    ]


def _repeated(x: IntArray, delta: int, lag: int, plain: float, least: float) -> list[ChannelParams]:
    """What suits a channel that repeats itself after so many steps, if that pays.

    Args:
        x: grid indices [T].
        delta: odd step.
        lag: steps, 0 for none.
        plain: bits with the sample before as prediction.
        least: bits with the best found so far.
    """
    if not 0 < lag < len(x) // 2:
        return []
    near = x - x[0]
    near[lag:] = near[:-lag].copy()
    near[:lag] = 0
    likely = likely_reference(x, [near])
    if likely is None:
        return []
    rest = x - (likely[1] * near.astype(np.int64) >> 3)
    before, after = (4 * int(np.abs(np.diff(row)).sum()) // len(x) + delta for row in (x, rest))
    if len(x) * math.log2(before / after) < _LAG_TRUST * (plain - least):
        return []
    search = Search(x, [near], delta, Raster())
    search.climb(ChannelParams(base=0, reference=0, gain=likely[1]), _LAG_SLACK * least)
    if search.costs[search.ranked()[0]] > 16 * least:
        return []
    return [search.tuned(params)._replace(reference=-1, lag=lag) for params in search.finalists()]


def _likely_lag(x: IntArray) -> int:
    """The lag beyond a predictor's reach at which changes repeat themselves best, or 0."""
    x = x[:_LAG_STRETCH]
    if len(x) < 4 * _LEAST_LAG:
        return 0
    change = np.diff(x, prepend=x[:1]).astype(np.float64)
    turned = np.abs(np.fft.rfft(change)) ** 2
    around = np.fft.irfft(turned, len(x))[_LEAST_LAG : len(x) // 2 + 1]
    most = float(around.max())
    if most < _LAG_SHARE * 0.25 * _dot(change, change):
        return 0
    first = _LEAST_LAG + int((around > 0.95 * most).argmax())
    for lag in (first, len(x) - first):
        late, early = change[lag:], change[: len(x) - lag]
        if _dot(late, early) > _LAG_SHARE * max(_dot(late, late), _dot(early, early)):
            return lag
    return 0


def _dot(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    return float(np.einsum("t,t->", a, b))  # in this thread, unlike @
