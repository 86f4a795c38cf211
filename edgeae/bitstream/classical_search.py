"""How the encoder of the classical codec looks for a channel's predictor and filter.

Nothing here binds a reader: any choice decodes. What a choice would cost is estimated from the
residuals it leaves, on a few stretches of a long frame, without coding them: first for every base
predictor alone, then with adaptive filters on the likeliest, then for the filters beside the best.
All in integers, so that every machine chooses alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.classical_kernel import measure, reflection
from edgeae.bitstream.classical_loop import BOOK, FILTER_LENGTH, FILTER_RATE
from edgeae.bitstream.classical_params import PLANAR, ChannelParams, Raster

__all__ = ["SHORT", "Search", "likely_reference", "searched"]

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]


_USUAL_BASES = (0, 1, 2, 3, 4, 8, 12)
_STEEP_BASES = (13, 14, 15)
"""For signals so smooth that a parabola foretells them better than a line."""
_LPC_ORDERS = (16, 8, 4, 2)
_PARTNERS = (0, 3, 12)
"""Base predictors that adaptive filters go well with."""
_FILTERS = (6, 11)
_N_ROUNDS = 3
_N_FINALISTS = 2
_FINAL_CLOSE = 4  # within 1/16
_CLOSE = 4
_FAR = 1.15
_FAR_TRIED = 1.2  # of a few choices
_FAR_BYTES = 16
_STRETCH = 2048
_N_STRETCHES = 4
SHORT = 64
_BEGINNING = 32
_N_FILTERS = len(FILTER_LENGTH) * len(FILTER_RATE) - 1
_BITS_PER_COEFFICIENT = 80  # in 1/16 bit


def _stretches(n: int, raster: Raster) -> list[slice]:
    """Return the parts of a frame of n steps on which choices are tried."""
    if raster.width:
        picture = raster.width * raster.height
        count = max(1, _STRETCH * _N_STRETCHES // picture)
        return [slice(0, min(n, count * picture))]
    if n <= _STRETCH * _N_STRETCHES:
        return [slice(0, n)]
    gap = (n - _STRETCH) // (_N_STRETCHES - 1)
    return [slice(k * gap, k * gap + _STRETCH) for k in range(_N_STRETCHES)]


def _start(rest: LongArray, delta: int) -> int:
    """The power of two next to the mean difference, in steps, of the channel's beginning."""
    changes = np.abs(np.diff(rest[:64]))
    if not changes.size:
        return 3
    size = (int(changes.sum()) * 4 * 46341 >> 15) // (changes.size * delta)  # 46341 / 2^15: sqrt(2)
    return min(max(size.bit_length() - 1, 0), 15)


def _center(value: int, delta: int) -> int:
    """The nearest multiple of an odd step, as its number."""
    return (value + delta // 2) // delta


def likely_reference(x: IntArray, references: Sequence[IntArray]) -> tuple[int, int] | None:
    """The channel whose changes go best with those of x, and its gain in eighths."""
    change = np.diff(x.astype(np.float64))
    best, found = 0.2, None
    for number, other in enumerate(references):
        step = np.diff(other.astype(np.float64))
        power, both = _dot(step, step), _dot(change, step)
        share = both * both / max(power * _dot(change, change), 1e-9)
        if share > best:
            best = share
            found = number, int(np.clip(np.rint(8 * both / power), -32, 31))
    return found


def _dot(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    return float(np.einsum("t,t->", a, b))  # in this thread, unlike @


def searched(
    x: IntArray,
    references: Sequence[IntArray],
    delta: int,
    raster: Raster,
    limit: int | None = None,
) -> Search:
    """Base predictors and filters for one channel, with and without a reference.

    Where all of them take far more than ``limit`` bytes, the filters beside the best are not looked
    at, which differ by a few per cent.
    """
    search = Search(x, references, delta, raster)
    search.wanted = math.inf if limit is None else (limit + _FAR_BYTES) * 8 * search.share
    search.climb(ChannelParams(base=0))
    if len(x) >= SHORT:
        likely = likely_reference(x, references)
        if likely is not None:
            search.climb(ChannelParams(base=0, reference=likely[0], gain=likely[1]))
        best = search.ranked()[0]
        if references and best.reference < 0 and best.filter:
            search.ask([best._replace(reference=len(references) - 1)])
    return search


class Search:
    """The choices for one channel that were looked at, and what each is estimated to cost."""

    def __init__(
        self,
        x: IntArray,
        references: Sequence[IntArray],
        delta: int,
        raster: Raster,
    ) -> None:
        self.x, self.references, self.delta, self.raster = x, references, delta, raster
        self.parts = _stretches(len(x), raster)
        self.costs: dict[ChannelParams, int] = {}
        self.share = sum(part.stop - part.start for part in self.parts) / len(x)
        self.wanted = math.inf  # bits

    @property
    def is_far(self) -> bool:
        """Whether all choices so far take far more than what is wanted."""
        return min(self.costs.values()) > 16 * _FAR * self.wanted

    def ranked(self) -> list[ChannelParams]:
        """All choices, the cheapest first."""
        return sorted(self.costs, key=self.costs.__getitem__)

    def finalists(self) -> list[ChannelParams]:
        """The choices worth coding: a few, or of a long frame the best."""
        ranked = self.ranked()
        if self.parts[-1] == slice(0, len(self.x)):
            most = self.costs[ranked[0]] + (self.costs[ranked[0]] >> _FINAL_CLOSE)
            return [params for params in ranked[:_N_FINALISTS] if self.costs[params] <= most]
        # Parts do not tell how a filter fares in the long run.
        best = ranked[0]
        other = next((p for p in ranked if (p.filter > 0) != (best.filter > 0)), best)
        close = self.costs[other] - self.costs[best] < self.costs[best] >> _CLOSE
        if other == best or not close:
            return [best]
        if self.costs[best] > 16 * self.wanted:
            return [best, other]  # as it seems neither is wanted: their beginnings will tell
        whole = [slice(0, len(self.x))]
        costs = [self._measured([params], whole)[0] for params in (best, other)]
        return [best if costs[0] <= costs[1] else other]

    def tuned(self, params: ChannelParams) -> ChannelParams:
        """The same choice with the first guess of the residual's size that its beginning likes."""
        likely = range(max(params.start - 2, 0), min(params.start + 4, 15) + 1)
        base, chosen, near = params.base, params.filter, params.reference
        choices = [ChannelParams(base, chosen, near, start, *params[4:]) for start in likely]
        costs = self._measured(choices, [slice(0, _BEGINNING)], exactly=True)
        return choices[costs.index(min(costs))]

    def ask(self, choices: Iterable[ChannelParams]) -> None:
        """Estimate what is not known yet; all choices have the same reference."""
        new = [params for params in dict.fromkeys(choices) if params not in self.costs]
        if new:
            for params, cost in zip(new, self._measured(new), strict=True):
                self.costs[params] = cost + _BITS_PER_COEFFICIENT * len(params.reflection)

    def _measured(
        self,
        choices: list[ChannelParams],
        parts: Sequence[slice] | None = None,
        *,
        exactly: bool = False,
    ) -> list[int]:
        """What choices with one reference take on some parts of the channel: see `measure`."""
        totals = [0] * len(choices)
        reference = choices[0].reference
        for part in self.parts if parts is None else parts:
            local = choices
            if part.start:
                first = self._rest(choices[0], slice(part.start, part.start + 1))
                center = _center(int(first[0]), self.delta)
                local = [
                    params._replace(center=center) if params.base < len(BOOK) else params
                    for params in choices
                ]
            near = None
            if reference >= 0:
                near = np.ascontiguousarray(self.references[reference][part])
            piece = np.ascontiguousarray(self.x[part])
            found = measure(piece, near, self.delta, self.raster, local, exactly=exactly)
            totals = [a + b for a, b in zip(totals, found, strict=True)]
        return totals

    def climb(self, seed: ChannelParams, most: float = math.inf) -> None:
        """Look for the best predictor and filter of what the seed's reference leaves over.

        With a limit, looks less far, and not at filters where no predictor alone takes less than
        ``most`` bits.
        """
        n = len(self.x)
        rest = self._rest(seed, slice(0, n))
        start, center = _start(rest, self.delta), _center(int(rest[0]), self.delta)
        first = seed._replace(start=start, center=center)
        bases = {base: ChannelParams(base, *first[1:]) for base in _USUAL_BASES}
        if self.raster.width:
            bases[PLANAR] = first._replace(base=PLANAR)
        if n >= SHORT:
            stretch = np.concatenate([rest[part] for part in self.parts])
            full = reflection(stretch, self.delta)
            middle = int(rest.sum()) // n
            for order in _LPC_ORDERS:
                bases[15 + order] = first._replace(
                    base=15 + order, center=middle, reflection=full[:order]
                )
        self.ask(bases.values())
        if self.costs[bases[8]] < self.costs[bases[3]]:
            bases |= {base: ChannelParams(base, *first[1:]) for base in _STEEP_BASES}
            self.ask(bases.values())
        if n < SHORT or min(self.costs[params] for params in bases.values()) > 16 * most:
            return
        likely = sorted(bases.values(), key=self.costs.__getitem__)[:2]
        if self.is_far:
            self.ask(
                ChannelParams(root.base, _FILTERS[-1], *root[2:]) for root in (likely[0], bases[0])
            )
            if min(self.costs.values()) > 16 * _FAR_TRIED * self.wanted:
                return
        roots = likely + [bases[partner] for partner in _PARTNERS]
        choices = [ChannelParams(root.base, f, *root[2:]) for root in roots for f in _FILTERS]
        self.ask(choices)
        best = min(choices, key=self.costs.__getitem__)
        for _ in range(_N_ROUNDS if most == math.inf else 0):
            if self.is_far:
                break
            last = best
            choices = _neighbours(best)
            self.ask(choices)
            best = min([best, *choices], key=self.costs.__getitem__)
            if best == last:
                break

    def _rest(self, params: ChannelParams, part: slice) -> LongArray:
        """What the reference leaves over."""
        rest = self.x[part].astype(np.int64)
        if params.reference >= 0:
            near = self.references[params.reference][part].astype(np.int64)
            rest -= (params.gain * near + 4) >> 3
        return rest


def _neighbours(params: ChannelParams) -> list[ChannelParams]:
    """The same choice with the next shorter, longer, slower and faster filter."""
    length, rate = divmod(params.filter - 1, len(FILTER_RATE))
    places = [(length - 1, rate), (length + 1, rate), (length, rate - 1), (length, rate + 1)]
    return [
        ChannelParams(params.base, 1 + a * len(FILTER_RATE) + b, *params[2:])
        for a, b in places
        if 0 <= a < len(FILTER_LENGTH)
        and 0 <= b < len(FILTER_RATE)
        and a * len(FILTER_RATE) + b < _N_FILTERS
    ]
