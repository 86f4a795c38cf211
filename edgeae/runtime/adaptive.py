"""What a sample prior learns from the frame itself: a least-squares filter, and a mixture.

A net's weights are the same for every device. Beside it, per channel, a recursive least-squares
filter follows how this frame differs from what the net expects. Its inputs, all in units of the
scale s that the net gives now: the last ``taps`` errors of the net's mean, as many changes of the
signal, and of every other channel its errors in this step, where it was coded before, and the
last ``cross`` steps. It predicts the net's next error e::

    p      = w . x                      moved = rint(p · s), p within ±4
    v      = P x,  energy = forget + x . v
    w     += v · ((e / s - p) / energy)                 e / s within ±6
    P      = (P - (v vᵀ) / energy) / forget             not divided while an entry of the diagonal
                                                        is 1 or more

A frame starts with w = 0 and P = gain · I. The next sample is coded with a mixture of seven
logistics: at the moved mean with 2^(-2/3), 1, 2^(2/3) and 2^(8/3) times the net's scale, the last
one for the tails; at the net's own mean; and at the moved mean with two scales that follow the size
of the frame's own errors, over about 16 and 64 steps. Their weights follow how well each did, and
drift back to where they began.

The filter is computed in IEEE 754 doubles, in the order that stands here, each operation rounded
once: +, -, ·, / and √ then give equal bits on every machine. ``native/adaptive.c`` is its twin.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.cdf import N_SCALES, SCALE16, CdfFamily
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.errors import ModelError
from edgeae.runtime.prior_arrays import whole_numbers

__all__ = ["MAX_CHANNELS", "MAX_TAPS", "N_PARTS", "AdaptiveRules", "Filters", "Mixture"]

MAX_CHANNELS = 16
"""Channels that filters can follow."""
MAX_TAPS = 24
"""Own past errors that a filter reads, and as many changes."""
_MAX_CROSS = 4
_MAX_INPUTS = 64
_VECTOR = 8
_LEAD = 4.0
_PEAK = 6.0
_TOP = 1.0
_FORGET_BITS = 6
_SCALE_STEPS = (-4, 0, 4, 16, 0)
_MEAN_PART = 4
_SIZE_RATES = (4, 6)
N_PARTS = 7
"""Logistics of a mixture."""
_ESCAPE_ORDER = 3
_SCALES_15 = [15 * scale for scale in SCALE16]
_FRACTION = 20  # bits, of what is kept of a gain

LongArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptiveRules:
    """How a sample prior adapts.

    Attributes:
        taps: own past errors that a filter reads, and as many own past changes; 0: no filter, only
            the mixture.
        cross: past errors of each other channel.
        forget: what a step counts when the next one is learnt, 0.5 to 1.
        steps: quantizer steps, ascending.
        gains: per step, how freely a filter moves when a frame starts, 0 to 1; 0: it stands still.
            Like ``forget`` a multiple of 2^-20: others are rounded.
        weights: per step, of the seven logistics when a frame starts, 64 or more each, 65536 in
            all.
        levels: per channel, the mean change from sample to sample that the net has met at most, in
            sixteenths of a grid step; empty where that is not known.

    Raises:
        ModelError: a value is out of its range.
    """

    taps: int = 16
    cross: int = 2
    forget: float = 0.999
    steps: tuple[int, ...] = (1,)
    gains: tuple[float, ...] = (0.003,)
    weights: tuple[tuple[int, ...], ...] = ((9830, 22938, 9830, 3277, 6553, 6554, 6554),)
    levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("taps", self.taps, 0, MAX_TAPS),
            ("cross", self.cross, 0, _MAX_CROSS),
            ("forget", self.forget, 0.5, 1.0),
            *(("gain", gain, 0.0, _TOP) for gain in self.gains),
            *(("step", step, 1, 1 << 30) for step in self.steps),
            *(("level", level, 1, 1 << 30) for level in self.levels),
        ):
            if not low <= value <= high:
                raise ModelError(
                    f"an adaptive prior's {name} must be {low} to {high}, found {value}"
                )
        for weights in self.weights:
            if len(weights) != N_PARTS or min(weights) < 64 or sum(weights) != 1 << 16:
                raise ModelError(
                    f"an adaptive prior needs {N_PARTS} weights, 64 or more each and 65536 in "
                    f"all, found {list(weights)}"
                )
        units = 1 << _FRACTION
        object.__setattr__(self, "forget", round(self.forget * units) / units)
        object.__setattr__(self, "gains", tuple(round(g * units) / units for g in self.gains))
        if not self.steps or {len(self.gains), len(self.weights)} != {len(self.steps)}:
            raise ModelError(
                f"an adaptive prior needs a gain and weights per step, found {len(self.gains)} "
                f"gains, {len(self.weights)} times weights and {len(self.steps)} steps"
            )
        if any(a >= b for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ModelError(f"an adaptive prior's steps must ascend, found {list(self.steps)}")

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the rules as named arrays; `from_arrays` reads them back."""
        units = 1 << _FRACTION
        return {
            "adaptive": np.array([self.taps, self.cross, round(self.forget * units)], np.int32),
            "adaptive_weights": np.array(self.weights, np.int32).reshape(-1),
            "adaptive_levels": np.array(self.levels, np.int32),
            "adaptive_steps": np.array(self.steps, np.int32),
            "adaptive_gains": np.array([round(g * units) for g in self.gains], np.int32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> AdaptiveRules | None:
        """Rebuild the rules from `to_arrays`; None where there are none.

        Raises:
            ModelError: an array is missing or damaged.
        """
        if "adaptive" not in arrays:
            return None
        whole = whole_numbers(arrays, "adaptive")
        weights = [iter(whole_numbers(arrays, "adaptive_weights"))] * N_PARTS
        if len(whole) != 3 or arrays["adaptive_weights"].size % N_PARTS:
            raise ModelError("adaptive: must be 3 integers, and seven weights per step")
        return cls(
            taps=whole[0],
            cross=whole[1],
            forget=whole[2] / (1 << _FRACTION),
            weights=tuple(zip(*weights, strict=True)),
            levels=whole_numbers(arrays, "adaptive_levels"),
            steps=whole_numbers(arrays, "adaptive_steps"),
            gains=tuple(g / (1 << _FRACTION) for g in whole_numbers(arrays, "adaptive_gains")),
        )

    def n_inputs(self, channels: int) -> int:
        """Return how many numbers each filter reads.

        Raises:
            ModelError: there are too many of them, or of channels.
        """
        if channels > MAX_CHANNELS:
            raise ModelError(f"filters follow up to {MAX_CHANNELS} channels, found {channels}")
        n = 2 * self.taps + (channels - 1) * (self.cross + 1) if self.taps else 0
        if n > _MAX_INPUTS:
            raise ModelError(
                f"a filter reads up to {_MAX_INPUTS} numbers; {self.taps} taps and {self.cross} "
                f"steps of {channels - 1} other channels are {n}"
            )
        return n

    def gain(self, delta: int) -> float:
        """Return the gain for a quantizer step: that of the nearest step, by ratio."""
        return self.gains[self._nearest(delta)]

    def weights_at(self, delta: int) -> tuple[int, ...]:
        """Return the weights for a quantizer step: those of the nearest step, by ratio."""
        return self.weights[self._nearest(delta)]

    def _nearest(self, delta: int) -> int:
        at = 0  # |log(a / d)| <= |log(b / d)| for a <= b means d² <= a · b
        while at + 1 < len(self.steps) and delta * delta > self.steps[at] * self.steps[at + 1]:
            at += 1
        return at


def _dot(a: FloatArray, b: FloatArray) -> FloatArray:
    """Sum the products of [B, n], eight partial sums first."""
    sums = np.zeros((len(a), _VECTOR))
    for at in range(0, a.shape[1], _VECTOR):
        sums += a[:, at : at + _VECTOR] * b[:, at : at + _VECTOR]
    s = sums.T
    total: FloatArray = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))
    return total


def _scale_of(size: int, shift: int) -> int:
    """The scale index nearest to errors of that mean size, 1/4096 of a grid step."""
    wanted = 16 * ((185 * size) >> 16)
    return max(bisect_right(_SCALES_15, wanted >> shift) - 1, 0)


class Filters:
    """The filters of a batch of frames in lockstep.

    Args:
        rules: how they adapt.
        delta: the quantizer step of each channel.
        batch: frames.
    """

    def __init__(self, rules: AdaptiveRules, delta: Sequence[int], batch: int) -> None:
        channels = len(delta)
        real = rules.n_inputs(channels)
        n = -(-real // _VECTOR) * _VECTOR
        self.rules = rules
        self.gains = [rules.gain(step) for step in delta]
        self.weight = np.zeros((channels, batch, n))
        self.spread = np.zeros((channels, batch, n, n))
        diagonal = np.arange(real)
        for c, gain in enumerate(self.gains):
            self.spread[c][:, diagonal, diagonal] = gain
        self.first = self.spread[:, :1].copy()
        self.error = np.zeros((channels, batch, rules.taps))
        self.change = np.zeros((channels, batch, rules.taps))
        self.other = np.zeros((channels, batch, rules.cross + 1))
        self.guess = np.zeros(batch)
        self.input = np.zeros((batch, n))

    def keep(self, n: int) -> None:
        """Go on with the first n frames alone."""
        if n < len(self.guess):
            self.weight, self.spread = self.weight[:, :n], self.spread[:, :n]
            self.error, self.change = self.error[:, :n], self.change[:, :n]
            self.other, self.guess, self.input = self.other[:, :n], self.guess[:n], self.input[:n]

    def _reset(self, c: int, which: npt.NDArray[np.bool_]) -> None:
        self.weight[c][which] = 0
        self.spread[c][which] = self.first[c]

    def predict(self, c: int, scale16: LongArray) -> LongArray:
        """Return how far past the net's mean channel c will lie, in sixteenths: int64 [B].

        Args:
            c: the channel.
            scale16: the net's scale, in sixteenths of a grid step, int64 [B].
        """
        taps = self.rules.taps
        self.guess = np.zeros(len(scale16))
        if not taps or self.gains[c] == 0:
            return np.zeros(len(scale16), np.int64)
        scale = scale16.astype(np.float64)
        inverse = (16.0 / scale)[:, None]
        x = self.input
        x[:, :taps] = self.error[c] * inverse
        x[:, taps : 2 * taps] = self.change[c] * inverse
        others = [self.other[o] for o in range(len(self.other)) if o != c]
        if others:
            cross = np.concatenate(others, axis=1)
            x[:, 2 * taps : 2 * taps + cross.shape[1]] = cross
        p = _dot(self.weight[c], x)
        wild = ~((p > -1e6) & (p < 1e6))
        if wild.any():
            self._reset(c, wild)
            p = np.where(wild, 0.0, p)
        self.guess = p
        moved: LongArray = np.rint(np.clip(p, -_LEAD, _LEAD) * scale).astype(np.int64)
        return moved

    def learn(self, c: int, scale16: LongArray, error16: LongArray, change: LongArray) -> None:
        """Learn channel c, in the order of the channels, each after its `predict`.

        Args:
            c: the channel.
            scale16: as for `predict`.
            error16: what it was past the net's mean, in sixteenths, int64 [B].
            change: what it was past the step before, int64 [B].
        """
        if not self.rules.taps:
            return
        forget = self.rules.forget
        error = error16.astype(np.float64)
        y = np.clip(error / scale16.astype(np.float64), -_PEAK, _PEAK)
        if self.gains[c] != 0:
            spread, x = self.spread[c], self.input
            top = np.diagonal(spread, axis1=1, axis2=2).max(axis=1)
            growth = np.where(top < _TOP, 1.0 / forget, 1.0)[:, None, None]
            v = np.zeros_like(x)
            for j in range(x.shape[1]):
                v += spread[:, j] * x[:, j, None]
            energy = forget + _dot(x, v)
            wild = ~((energy >= 0.5 * forget) & (energy < 1e12))
            safe = np.where(wild, 1.0, energy)
            step = (y - self.guess) / safe
            self.weight[c] += v * step[:, None]
            v *= (1.0 / np.sqrt(safe))[:, None]
            spread -= v[:, None, :] * v[:, :, None]
            spread *= growth
            if wild.any():
                self._reset(c, wild)
        for history, newest in ((self.error[c], error / 16.0), (self.change[c], change)):
            history[:, 1:] = history[:, :-1].copy()
            history[:, 0] = newest
        self.other[c][:, 0] = y

    def advance(self) -> None:
        """End a step."""
        if self.rules.taps:
            self.other[:, :, 1:] = self.other[:, :, :-1].copy()
            self.other[:, :, 0] = 0


class Mixture:
    """Seven logistics that code one channel of one frame, and their weights.

    Args:
        first: the weights at first.
    """

    def __init__(self, first: Sequence[int]) -> None:
        self.first = first
        self.weights = list(first)
        self.places: list[tuple[int, int]] = []
        self.sizes: list[int] = []
        self.n_seen = 0
        self.reach = self.low_bits = 0

    @property
    def moved_share(self) -> int:
        """The weight of the parts at the moved mean, of 65536."""
        return 65536 - self.weights[_MEAN_PART]

    def prepare(self, family: CdfFamily, ls: int, base16: int, moved16: int) -> None:
        """Get ready for the next symbol.

        Args:
            family: the channel's tables.
            ls: the net's scale index.
            base16: the net's mean past the centre, in sixteenths of a grid step.
            moved16: the moved mean past the net's.
        """
        if not self.sizes:  # a logistic's mean error is 2 ln 2 scales
            self.sizes = [355 * (SCALE16[ls] << family.shift)] * len(_SIZE_RATES)
        rows = [min(max(ls + step, 0), N_SCALES - 1) for step in _SCALE_STEPS]
        rows += [_scale_of(size, family.shift) for size in self.sizes]
        offsets = [base16 + moved16] * N_PARTS
        offsets[_MEAN_PART] = base16
        self.places = list(zip(rows, offsets, strict=True))
        self.family = family
        wide = max(rows)
        self.reach, self.low_bits = family.reach[wide], family.low_bits[wide]

    def meet(self, error16: int) -> None:
        """Take in how far the sample lay from the moved mean, in sixteenths of a grid step."""
        begin = min((self.n_seen + 2).bit_length() - 1, 7)
        self.n_seen = min(self.n_seen + 1, 1024)
        for i, rate in enumerate(_SIZE_RATES):
            self.sizes[i] += (256 * abs(error16) - self.sizes[i]) >> min(begin, rate)

    def _edge(self, j: int) -> tuple[int, list[int]]:
        """The cumulative frequency below bin j, and the parts of it."""
        if j < -self.reach:
            return 0, [0] * N_PARTS
        if j > self.reach + 1:
            return 65536, [65535] * N_PARTS
        edge = 16 * (self.family.delta << self.low_bits) * j - 8 * self.family.delta
        parts = [self.family.shape_at(row, edge - offset) for row, offset in self.places]
        total = sum(w * t for w, t in zip(self.weights, parts, strict=True)) >> 16
        return j + self.reach + 1 + ((total * (65536 - 2 * self.reach - 3)) >> 16), parts

    def _learn(self, low: list[int], high: list[int]) -> None:
        share = [w * (b - a + 1) for w, a, b in zip(self.weights, low, high, strict=True)]
        total = sum(share)
        for i, first in enumerate(self.first):
            new = (share[i] << 16) // total
            self.weights[i] = new - (new >> _FORGET_BITS) + (first >> _FORGET_BITS)
        self.weights[1] += 65536 - sum(self.weights)

    def encode(self, encoder: RangeEncoder, k: int) -> None:
        """Code k, and learn from it."""
        reach, h = self.reach, self.low_bits
        j = k >> h
        low = self._edge(min(j, reach + 1))
        high = self._edge(max(j + 1, -reach) if j <= reach else reach + 2)
        encoder.encode(low[0], high[0] - low[0])
        if not -reach <= j <= reach:
            encoder.golomb(abs(j) - reach - 1, _ESCAPE_ORDER)
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
            k -= decoder.golomb(_ESCAPE_ORDER)
        elif j > reach:
            k += decoder.golomb(_ESCAPE_ORDER)
        self._learn(low[1], high[1])
        return (k << h) | decoder.bits(h)
