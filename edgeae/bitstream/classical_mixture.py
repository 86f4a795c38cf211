"""The entropy model of the classical codec: a mixture of three adaptive logistic scales.

FORMAT.md, section 8.3, describes it; ``native/classical.c`` is its twin.
"""

from __future__ import annotations

from edgeae.bitstream.cdf import logistic_shape
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.errors import CorruptError

__all__ = ["Mixture"]

_LEVEL_STARTS = (
    *(18, 29, 38, 47, 55, 63, 69, 75, 81, 86, 91, 95, 99, 103, 106, 109, 112, 114, 116, 118, 120),
    *(122, 123, 125, 126, 128, 129, 130, 131, 132, 133, 135, 136, 137, 138, 138, 139, 140, 142),
    *range(143, 168),
)
_LEVELS = [sum(start <= q for start in _LEVEL_STARTS) for q in range(168)]
_INVERSE_SCALE = (370728, 339959, 311744, 285870, 262144, 240387, 220436, 202141)
_RATES = (1, 4, 7)
_MIN_WEIGHT = 128
_USUAL_SHIFT = 6  # the slowest size takes no residual for larger than 64 times itself,
_USUAL_STEPS = 8 << 16  # and some steps
_SHAPE = [int(v) for v in logistic_shape()]
_MAX_RESIDUAL = 1 << 32


class Mixture:
    """Three logistic scales that follow the recent |k| at three speeds, and their weights."""

    def __init__(self, start: int) -> None:
        self.sizes = [1 << (13 + start)] * 3
        # In pictures the weights depend on the neighbours: none, all predicted, or not.
        self.weight_sets = [[21846, 21845, 21845] for _ in range(3)]
        self.weights = self.weight_sets[0]
        self.n = 0
        self.phi = self.low_bits = self.reach = 0
        self.scales: list[tuple[int, int, int]] = []

    def prepare(self, phi: int, near_size: int | None) -> None:
        """Get ready for a symbol whose mean lies ``phi / 4096`` steps past the centre."""
        sizes = self.sizes
        self.weights = self.weight_sets[0]
        if near_size is not None:
            sizes = [near_size, *sizes[1:]]
            self.weights = self.weight_sets[1 if near_size == 0 else 2]
        levels = []
        for size in sizes:
            n = size.bit_length()
            q = 8 * n + ((size >> (n - 4) if n > 4 else size << (4 - n)) & 7)
            levels.append(_LEVELS[q] if q < 168 else q - 103)
        self.scales = []
        for level in levels:
            before = max(0, (level >> 3) - 12)
            after = 14 + (level >> 3) - before
            self.scales.append((_INVERSE_SCALE[level & 7], before, after))
        self.phi = phi
        self.low_bits = max(0, (min(levels) - 52) >> 3)
        e = max(0, max(0, (max(levels) - 5) >> 3) - self.low_bits)
        self.reach = 127 if e > 6 else 2 + (1 << e)

    def edge(self, j: int) -> tuple[int, list[int]]:
        """The cumulative frequency below bin j, and the three scales' parts of it."""
        edge = ((j << 12) << self.low_bits) - 2048 - self.phi
        at, total = [], 0
        for (mult, before, after), weight in zip(self.scales, self.weights, strict=True):
            z = ((edge >> before) * mult) >> after
            u = (-49151 if z < -49151 else min(z, 49151)) + 49152
            i, f = u >> 8, u & 255
            t = (_SHAPE[i] * (256 - f) + _SHAPE[i + 1] * f) >> 8
            at.append(t)
            total += weight * t
        n = 2 * self.reach + 3
        return j + self.reach + 1 + (((total >> 16) * (65536 - n)) >> 16), at

    def learn(self, k: int, low: list[int], high: list[int]) -> None:
        """Take in k, whose bin lies between the edges `low` and `high`."""
        weights = self.weights
        mean = sum(w * (b - a + 1) for w, a, b in zip(weights, low, high, strict=True)) >> 16
        for i in range(3):
            gain = ((high[i] - low[i] + 1) << 12) // mean - 4096
            weights[i] = max(weights[i] + ((weights[i] * gain) >> 17), _MIN_WEIGHT)
        weights[weights.index(max(weights))] += 65536 - sum(weights)
        begin = (self.n + 2).bit_length() - 1
        self.n = min(self.n + 1, 1024)
        size = abs(k) << 16
        for i, rate in enumerate(_RATES):
            if i == 2 and begin > 3:
                size = min(size, (self.sizes[2] << _USUAL_SHIFT) + _USUAL_STEPS)
            self.sizes[i] += (size - self.sizes[i]) >> min(begin, rate)
        self.sizes[2] = max(self.sizes[2], 32)

    def encode(self, encoder: RangeEncoder, k: int) -> None:
        """Code k, and learn from it."""
        reach, h = self.reach, self.low_bits
        j = k >> h
        low, high = (0, [0, 0, 0]), (65536, [65535, 65535, 65535])
        if j >= -reach:
            low = self.edge(min(j, reach + 1))
        if j <= reach:
            high = self.edge(max(j + 1, -reach))
        encoder.encode(low[0], high[0] - low[0])
        if abs(j) > reach:
            encoder.golomb(abs(j) - reach - 1, 3)
        if h:
            encoder.bits(k - (j << h), h)
        self.learn(k, low[1], high[1])

    def decode(self, decoder: RangeDecoder) -> int:
        """The next k, learnt from too.

        Raises:
            CorruptError: k is out of range.
        """
        target = decoder.target()
        a, b, step, j = -self.reach - 1, self.reach + 2, 1, 0
        low, high = (0, [0, 0, 0]), (65536, [65535, 65535, 65535])
        while b - a > 1:
            here = self.edge(j)
            if target < here[0]:
                b, high, j = j, here, j - step
            else:
                a, low, j = j, here, j + step
            if not a < j < b or (a > -self.reach - 1 and b < self.reach + 2):
                j = a + (b - a) // 2
            step *= 2
        decoder.consume(low[0], high[0] - low[0])
        k = a
        if a < -self.reach:
            k -= decoder.golomb(3)
        elif a > self.reach:
            k += decoder.golomb(3)
        k = (k << self.low_bits) + decoder.bits(self.low_bits)
        if abs(k) > _MAX_RESIDUAL:
            raise CorruptError("a residual of the classical codec is out of range")
        self.learn(k, low[1], high[1])
        return k
