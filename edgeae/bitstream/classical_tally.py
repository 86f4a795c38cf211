"""A tally: the symbols of a channel that were seen before, and how often.

Some signals have few values, or few differences, that come again and again: states, codes, spikes
of equal height, noise of an interval. A tally codes a symbol that it knows by its count, and tells
of one that it does not know. FORMAT.md, section 8.3, describes it; ``native/classical.c`` is the
twin of `Tally`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.classical_params import MAX_SHIFT
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.errors import CorruptError

__all__ = ["Tally", "TallyChoice", "likely_tallies"]

_MOST_SYMBOLS = 256
_FULL = 4096
_MOST_ONCE = 32  # symbols that are remembered though they came only once
_COARSE_SLACK = 1.25


class Tally:
    """Counts of symbols; new ones are coded elsewhere."""

    def __init__(self) -> None:
        self.symbols: list[int] = []
        self.counts: list[int] = []
        self.once = 0  # symbols seen once, and those that found no place
        self.seen = 0

    def encode(self, encoder: RangeEncoder, symbol: int) -> bool:
        """Code a symbol if it is known, else that it is new; tell which."""
        total = self._total()
        first = 2 * self.once + 1
        if symbol not in self.symbols:
            encoder.encode(0, (first << 16) // total)
            self.learn(symbol)
            return False
        place = self.symbols.index(symbol)
        self._take(encoder, first + sum(2 * n - 1 for n in self.counts[:place]), place, total)
        return True

    def decode(self, decoder: RangeDecoder) -> int | None:
        """A known symbol, or None: then the new one is to be told to `learn`.

        Raises:
            CorruptError: no symbol is known.
        """
        total, target = self._total(), decoder.target()
        low = 2 * self.once + 1
        if target < (low << 16) // total:
            decoder.consume(0, (low << 16) // total)
            return None
        if not self.symbols:
            raise CorruptError("a tally of the classical codec is empty")
        place = 0
        while place < len(self.symbols) - 1:
            high = low + 2 * self.counts[place] - 1
            if target < (high << 16) // total:
                break
            low, place = high, place + 1
        symbol = self.symbols[place]
        self._take(decoder, low, place, total)
        return symbol

    def learn(self, symbol: int) -> None:
        """Count a symbol that was new."""
        self.once += 1
        if len(self.symbols) < _MOST_SYMBOLS:
            self.symbols.append(symbol)
            self.counts.append(1)
        self._count()

    def _total(self) -> int:
        return 2 * sum(self.counts) - len(self.counts) + 2 * self.once + 1

    def _take(self, coder: RangeEncoder | RangeDecoder, low: int, place: int, total: int) -> None:
        """Code the symbol of a place, whose share begins at low, and count it."""
        counts, symbols = self.counts, self.symbols
        cum = (low << 16) // total
        freq = ((low + 2 * counts[place] - 1) << 16) // total - cum
        if isinstance(coder, RangeEncoder):
            coder.encode(cum, freq)
        else:
            coder.consume(cum, freq)
        self.once -= counts[place] == 1 and self.once > 0
        counts[place] += 1
        if place and counts[place] > counts[place - 1]:
            counts[place - 1 : place + 1] = counts[place], counts[place - 1]
            symbols[place - 1 : place + 1] = symbols[place], symbols[place - 1]
        self._count()

    def _count(self) -> None:
        self.seen += 1
        if self.seen >= _FULL:
            least = 2 if self.counts.count(1) > _MOST_ONCE else 1
            kept = [
                (symbol, (n + 1) // 2)
                for symbol, n in zip(self.symbols, self.counts, strict=True)
                if n >= least
            ]
            self.symbols, self.counts = [s for s, _ in kept], [n for _, n in kept]
            self.once //= 2
            self.seen = sum(self.counts)


class TallyChoice(NamedTuple):
    """A way to use a tally.

    Attributes:
        cost: estimate in bits.
        order: what is tallied: values (0), differences (1), or those of differences (2).
        shift: low bits that the tally does not see.
        center: for values: the middle of the different ones.
    """

    cost: float
    order: int
    shift: int
    center: int


def likely_tallies(x: npt.NDArray[np.int64], most: float) -> list[TallyChoice]:
    """Ways to tally x [T] that may take less than ``most`` bits, the likeliest first."""
    found = []
    row = x
    for order in range(2):
        row = row[1:] - row[:-1] if order else row
        symbols, counts = _histogram(row)
        if 3 * counts.size <= 2 * row.size:
            center = int(symbols[symbols.size // 2])
            news = 3 * counts.size + float(np.log2(np.abs(symbols - center) + 1).sum())
            once = int(np.count_nonzero(counts == 1))
            news -= once * math.log2(max(once, 1))  # an escape, not a share of all
            found.append(TallyChoice(_entropy(counts) + news, order, 0, center))
    low, high = int(x.min()), int(x.max())
    if x.size * math.log2(high - low + 1) < _COARSE_SLACK * most:
        found += _coarse(x, low, high)
    return sorted(choice for choice in found if choice.cost < most)


def _coarse(x: npt.NDArray[np.int64], low: int, high: int) -> list[TallyChoice]:
    coarse = []
    for bins in (4, 5, 6):
        shift = min((high - low).bit_length() - bins, MAX_SHIFT)
        if shift > 0:
            counts = np.bincount((x - low) >> shift)
            counts = counts[counts > 0]
            cost = _entropy(counts) + 8 * counts.size + x.size * shift
            coarse.append(TallyChoice(cost, 0, shift, low + (1 << shift) * (counts.size // 2)))
    return sorted(coarse)[:1]


def _histogram(row: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """The different values, ascending, and how often each comes."""
    low = int(row.min())
    if int(row.max()) - low < 4 * row.size:
        counts = np.bincount(row - low)
        symbols = np.flatnonzero(counts)
        return symbols + low, counts[symbols]
    symbols, counts = np.unique(row, return_counts=True)
    return symbols, counts


def _entropy(counts: npt.NDArray[np.intp]) -> float:
    """Bits of all symbols that come so often, by their counts in the end."""
    n = int(counts.sum())
    return n * float(np.log2(n)) - float(np.einsum("i,i->", counts, np.log2(counts)))
