"""The mixture that an adaptive prior codes with: fixed parts, and parts that a small net gives.

Seven parts are always there: logistics at the moved mean with 2^(-2/3), 1, 2^(2/3) and 2^(8/3)
times the net's scale, the last one for the tails; at the net's own mean; and at the moved mean with
two scales that follow the size of the frame's own errors, over about 16 and 64 steps. Their weights
follow how well each did, and drift back to where they began.

A `MixtureNet` adds up to eight more. It is a dense net of integers, without memory, and everything
that it reads is told in units of the scale that the causal net gives now, so it knows no gain: how
the last errors and changes of the frame went, how large errors of late are, what other channels did
in this step. For each part it gives a weight, a mean and a scale; wide ones for jumps, narrow ones
where the signal held still. The share of the learnt parts together follows how well they do::

    features ─► net ─► K weights, K means (1/16 scale past the moved mean), K rows (1/6 octave)

All of it is integers but two conversions to units of the scale, which are IEEE 754 doubles, rounded
once each; ``native/mixture.c`` is the twin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.cdf import MAX_SHIFT, N_SCALES, SCALE16, CdfFamily
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.errors import ModelError
from edgeae.runtime.causal import CausalNet
from edgeae.runtime.prior_arrays import pack_net, unpack_net, whole_number

__all__ = ["MAX_HISTORY", "MAX_LEARNT", "N_PARTS", "Mixers", "Mixture", "MixtureNet"]

N_PARTS = 7
"""Parts that every mixture has."""
MAX_LEARNT = 8
"""Parts that a net may add."""
MAX_HISTORY = 24
"""Past errors that a net reads, and as many past changes."""
PEAK = 127
"""The largest feature of a mixture's net."""
_SCALE_STEPS = (-4, 0, 4, 16, 0)
_MEAN_PART = 4
_SIZE_RATES = (4, 6)
_FORGET_BITS = 6
_ESCAPE_ORDER = 3
_MOST_ORDER = 24
_WIDER = 5  # octaves beyond the scale indices
_LEAST_TRUST = 1024
_OF_CHANNEL = 4  # features of every other channel
_ONE = 64  # says which channel it is
_POWERS = tuple(round(65536 * 2 ** (-i / 16)) for i in range(16))
_SCALES_15 = 15 * np.array(SCALE16, np.int64)

LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class MixtureNet:
    """The net that gives a mixture more parts.

    Attributes:
        net: a net without past features; see `n_features` and `n_parts` for its width.
        history: past errors that it reads, and as many changes, 0 to 24.

    Raises:
        ModelError: the net does not fit.
    """

    net: CausalNet
    history: int

    def __post_init__(self) -> None:
        if not 0 <= self.history <= MAX_HISTORY:
            raise ModelError(
                f"a mixture's history must be 0 to {MAX_HISTORY} steps, found {self.history}"
            )
        n, layers = self.net.n_outputs, (*self.net.layers, self.net.head)
        deep = any(layer.offsets != (0,) for layer in layers)
        if n % 3 or not 3 <= n <= 3 * MAX_LEARNT or self.net.past.any() or deep:
            raise ModelError(
                f"a mixture's net must give a weight, a mean and a row for 1 to {MAX_LEARNT} parts "
                f"and read the step at hand alone, found {n} outputs, past features "
                f"{self.net.past.any()}, offsets {[layer.offsets for layer in layers]}"
            )
        if self.net.skip_offsets not in ((), (0,)) or self.net.feature_peak < PEAK:
            raise ModelError(
                f"a mixture's net must have taps at 0 alone and features up to {PEAK}, found taps "
                f"at {self.net.skip_offsets} and {self.net.feature_peak}"
            )

    @staticmethod
    def n_features(history: int, channels: int) -> int:
        """How many numbers a net of that history reads for a signal of so many channels."""
        across = _OF_CHANNEL * (channels - 1) + channels if channels > 1 else 0
        return 4 + 2 * history + across

    @property
    def n_parts(self) -> int:
        """Parts that it gives, K."""
        return self.net.n_outputs // 3

    @cached_property
    def words(self) -> npt.NDArray[np.int32]:
        """The net in the form that the C engine reads."""
        return self.net.words()

    def check(self, channels: int) -> None:
        """Raise a ModelError unless the net is for so many channels."""
        wanted = self.n_features(self.history, channels)
        if self.net.n_inputs != wanted:
            raise ModelError(
                f"a mixture's net for {channels} channels and {self.history} steps must read "
                f"{wanted} features, found {self.net.n_inputs}"
            )

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the net as named arrays; `from_arrays` reads them back."""
        return {"history": np.array(self.history, np.int32), **pack_net(self.net)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> MixtureNet:
        """Rebuild a net from `to_arrays`.

        Raises:
            ModelError: an array is missing or damaged.
        """
        return cls(net=unpack_net(arrays), history=whole_number(arrays, "history"))


def rows_of(size: LongArray, shift: int) -> LongArray:
    """The scale index nearest to errors of that mean size, in 1/4096 of a grid step."""
    wanted = (16 * ((185 * size) >> 16)) >> shift
    found = np.searchsorted(_SCALES_15, wanted, side="right") - 1
    rows: LongArray = np.maximum(found, 0)
    return rows


class Mixers:
    """What the mixtures of a batch of frames remember of each channel, in lockstep.

    Args:
        learnt: the net of more parts, or None.
        level: per channel, `edgeae.runtime.prior_rules.step_condition` of its quantizer step.
        shift: per channel the feature shift.
        batch: frames.
    """

    def __init__(
        self, learnt: MixtureNet | None, level: Sequence[int], shift: Sequence[int], batch: int
    ) -> None:
        channels = len(shift)
        self.learnt, self.level, self.shift = learnt, level, shift
        self.size = np.zeros((channels, batch, len(_SIZE_RATES)), np.int64)
        self.n_seen = np.zeros(channels, np.int64)
        history = 0 if learnt is None else learnt.history
        self.error = np.zeros((channels, batch, history), np.int64)
        self.change = np.zeros((channels, batch, history), np.int64)
        self.now = np.zeros((channels, batch), np.int64)
        self.before = np.zeros((channels, batch), np.int64)

    def keep(self, n: int) -> None:
        """Go on with the first n frames alone."""
        for name in ("size", "error", "change", "now", "before"):
            setattr(self, name, getattr(self, name)[:, :n])

    def rows(self, c: int, scale16: LongArray) -> LongArray:
        """The rows of the parts that follow the frame's own errors: int64 [B, 2].

        Args:
            c: the channel.
            scale16: the net's scale, in sixteenths of a grid step, int64 [B].
        """
        if not self.n_seen[c]:  # a logistic's mean error is 2 ln 2 scales
            self.size[c] = 355 * scale16[:, None]
        return rows_of(self.size[c], self.shift[c])

    def features(
        self, c: int, ls: LongArray, scale16: LongArray, moved: LongArray, rows: LongArray
    ) -> LongArray:
        """What the net reads for channel c: int64 [B, features].

        Args:
            c: the channel.
            ls: the scale index that the causal net gives, int64 [B].
            scale16: the same in sixteenths of a grid step.
            moved: how far the filter moves the mean, in sixteenths.
            rows: as `rows` gives them.
        """
        inverse = 16.0 / scale16.astype(np.float64)
        channels = len(self.shift)
        parts = [
            np.clip(ls - self.level[c], -PEAK, PEAK)[:, None],
            _in_scales(moved, inverse)[:, None],
            rows - ls[:, None],
            _in_scales(self.error[c], inverse[:, None]),
            _in_scales(16 * self.change[c], inverse[:, None]),
        ]
        for other in range(channels):
            if other != c:
                now, before = self.now[other], self.before[other]
                parts.append(np.stack([now, np.abs(now), before, np.abs(before)], axis=1))
        if channels > 1:
            which = np.zeros((len(ls), channels), np.int64)
            which[:, c] = _ONE
            parts.append(which)
        return np.concatenate(parts, axis=1)

    def meet(self, c: int, scale16: LongArray, missed: LongArray, change: LongArray) -> None:
        """Take in the samples of channel c.

        Args:
            c: the channel.
            scale16: the net's scale, in sixteenths of a grid step, int64 [B].
            missed: how far they lay from the moved mean, in sixteenths.
            change: how far from the step before, in grid steps.
        """
        begin = min((int(self.n_seen[c]) + 2).bit_length() - 1, 7)
        self.n_seen[c] = min(int(self.n_seen[c]) + 1, 1024)
        for i, rate in enumerate(_SIZE_RATES):
            size = self.size[c][:, i]
            self.size[c][:, i] = size + ((256 * np.abs(missed) - size) >> min(begin, rate))
        for past, newest in ((self.error[c], missed), (self.change[c], change)):
            if past.shape[1]:
                past[:, 1:] = past[:, :-1].copy()
                past[:, 0] = newest
        self.now[c] = _in_scales(missed, 16.0 / scale16.astype(np.float64))

    def advance(self) -> None:
        """End a step."""
        self.before, self.now = self.now, np.zeros_like(self.now)


def _in_scales(v: LongArray, inverse: npt.NDArray[np.float64]) -> LongArray:
    """Sixteenths of a grid step in sixteenths of a scale, within ±127."""
    clipped = np.clip(v.astype(np.float64) * inverse, -PEAK, PEAK)
    return np.rint(clipped).astype(np.int64)


class Mixture:
    """The logistics that code one channel of one frame, and their weights.

    Args:
        first: the weights of the seven parts at first, of 65536.
        trust: the share of the learnt parts at first, of 65536; 0 where there are none.
    """

    def __init__(self, first: Sequence[int], trust: int = 0) -> None:
        self.first, self.first_trust = first, trust
        self.weights, self.trust = list(first), trust
        self.places: list[tuple[int, int]] = []
        self.shares: list[int] = []
        self.reach = self.low_bits = 0

    @property
    def moved_share(self) -> int:
        """The weight of the parts at the moved mean, of 65536."""
        return 65536 - self.weights[_MEAN_PART]

    def prepare(
        self,
        family: CdfFamily,
        ls: int,
        rows: Sequence[int],
        base16: int,
        moved16: int,
        out: Sequence[int] = (),
    ) -> None:
        """Get ready for the next symbol.

        Args:
            family: the channel's tables.
            ls: the causal net's scale index.
            rows: of the parts that follow the frame's own errors.
            base16: the causal net's mean past the centre, in sixteenths of a grid step.
            moved16: the moved mean past the net's.
            out: what the mixture's net gives: K weights, K means, K rows.
        """
        fixed = [min(max(ls + step, 0), N_SCALES - 1) for step in _SCALE_STEPS]
        fixed += rows
        middle = base16 + moved16
        self.places = [(row, middle) for row in fixed]
        self.places[_MEAN_PART] = (fixed[_MEAN_PART], base16)
        self.family, self.shares = family, self.weights
        wide = max(fixed)
        self.reach, self.low_bits = family.reach[wide], family.low_bits[wide]
        if out:
            self._add(family, ls, middle, out)

    def _add(self, family: CdfFamily, ls: int, middle: int, out: Sequence[int]) -> None:
        n = len(out) // 3
        scale16 = family.scales[ls]
        top = N_SCALES - 1 + 6 * min(_WIDER, MAX_SHIFT - family.shift)
        best = max(out[:n])
        distances = [min(best - logit, 255) for logit in out[:n]]
        learnt = [_POWERS[d & 15] >> (d >> 4) for d in distances]
        total, rest = sum(learnt), 65536 - self.trust
        shares = [(w * rest) >> 16 for w in self.weights]
        shares += [(self.trust * w) // total for w in learnt]
        shares[1] += 65536 - sum(shares)
        for mean, row in zip(out[n : 2 * n], out[2 * n :], strict=True):
            at = middle + ((mean * scale16 + 8) >> 4)
            self.places.append((min(max(ls + row, 0), top), at))
        self.shares = shares

    def _edge(self, j: int) -> tuple[int, list[int]]:
        """The cumulative frequency below bin j, and the parts of it."""
        if j < -self.reach:
            return 0, [0] * len(self.places)
        if j > self.reach + 1:
            return 65536, [65535] * len(self.places)
        edge = 16 * (self.family.delta << self.low_bits) * j - 8 * self.family.delta
        parts = [self.family.shape_at(row, edge - offset) for row, offset in self.places]
        total = sum(w * t for w, t in zip(self.shares, parts, strict=True)) >> 16
        return j + self.reach + 1 + ((total * (65536 - 2 * self.reach - 3)) >> 16), parts

    def _escape_order(self, beyond: Sequence[int]) -> int:
        """Of the code of what lies beyond the reach: after the scale of the likeliest part there.

        Args:
            beyond: per part, how much of it lies there, of 65535.
        """
        masses = [w * t for w, t in zip(self.shares, beyond, strict=True)]
        row = self.places[masses.index(max(masses))][0]
        bins = self.family.scales[row] // (16 * (self.family.delta << self.low_bits))
        return min(max(bins.bit_length() - 1, _ESCAPE_ORDER), _MOST_ORDER)

    def _learn(self, low: list[int], high: list[int]) -> None:
        spans = [b - a + 1 for a, b in zip(low, high, strict=True)]
        share = [w * span for w, span in zip(self.weights, spans, strict=False)]
        total = sum(share)
        if len(spans) > N_PARTS:
            parts = [w * span for w, span in zip(self.shares, spans, strict=True)]
            learnt, every = sum(parts[N_PARTS:]), sum(parts)
            new = (learnt << 16) // every
            new += (self.first_trust >> _FORGET_BITS) - (new >> _FORGET_BITS)
            self.trust = min(max(new, _LEAST_TRUST), 65536 - _LEAST_TRUST)
        weights = []
        for part, first in zip(share, self.first, strict=True):
            new = (part << 16) // total
            weights.append(new - (new >> _FORGET_BITS) + (first >> _FORGET_BITS))
        weights[1] += 65536 - sum(weights)
        self.weights = weights

    def encode(self, encoder: RangeEncoder, k: int) -> None:
        """Code k, and learn from it."""
        reach, h = self.reach, self.low_bits
        j = k >> h
        low = self._edge(min(j, reach + 1))
        high = self._edge(max(j + 1, -reach) if j <= reach else reach + 2)
        encoder.encode(low[0], high[0] - low[0])
        if j < -reach:
            encoder.golomb(-j - reach - 1, self._escape_order(high[1]))
        elif j > reach:
            encoder.golomb(j - reach - 1, self._escape_order([65535 - t for t in low[1]]))
        if h:
            encoder.bits(k & ((1 << h) - 1), h)
        self._learn(low[1], high[1])

    def decode(self, decoder: RangeDecoder) -> int:
        """Read the next k, and learn from it; from damaged bytes it may be any |k| < 2^57."""
        reach, h = self.reach, self.low_bits
        target, j = decoder.target(), 0
        low = self._edge(0)
        if target < low[0]:
            while target < low[0]:
                high, j = low, j - 1
                low = self._edge(j)
        else:
            high = self._edge(1)
            while j <= reach and target >= high[0]:
                low, j = high, j + 1
                high = self._edge(j + 1)
        decoder.consume(low[0], high[0] - low[0])
        k = j
        if j < -reach:
            k -= decoder.golomb(self._escape_order(high[1]))
        elif j > reach:
            k += decoder.golomb(self._escape_order([65535 - t for t in low[1]]))
        self._learn(low[1], high[1])
        return (k << h) | decoder.bits(h)
