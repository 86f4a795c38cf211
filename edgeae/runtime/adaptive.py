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

A frame starts with w = 0 and P = gain · I. The next sample is coded with a mixture around the
moved mean, see `edgeae.runtime.mixture`.

The filter is computed in IEEE 754 doubles, in the order that stands here, each operation rounded
once: +, -, ·, / and √ then give equal bits on every machine. ``native/adaptive.c`` is its twin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError
from edgeae.runtime.mixture import N_PARTS, MixtureNet
from edgeae.runtime.prior_arrays import whole_numbers

__all__ = ["MAX_CHANNELS", "MAX_TAPS", "AdaptiveRules", "Filters"]

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
_LEARNT = "mixture."
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
        learnt: the net that gives the mixture more parts, or None.
        trust: per step, the share of the mixture that these parts have together when a frame
            starts, of 65536, 1024 to 64512; empty where there are none.

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
    learnt: MixtureNet | None = None
    trust: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("taps", self.taps, 0, MAX_TAPS),
            ("cross", self.cross, 0, _MAX_CROSS),
            ("forget", self.forget, 0.5, 1.0),
            *(("gain", gain, 0.0, _TOP) for gain in self.gains),
            *(("step", step, 1, 1 << 30) for step in self.steps),
            *(("level", level, 1, 1 << 30) for level in self.levels),
            *(("trust", trust, 1 << 10, 63 << 10) for trust in self.trust),
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
        if len(self.trust) != (0 if self.learnt is None else len(self.steps)):
            raise ModelError(
                "an adaptive prior needs a trust per step where its mixture has learnt parts, else "
                f"none, found {len(self.trust)} and {len(self.steps)} steps"
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
            **self._learnt_arrays(),
        }

    def _learnt_arrays(self) -> dict[str, npt.NDArray[Any]]:
        if self.learnt is None:
            return {}
        arrays = {**self.learnt.to_arrays(), "trust": np.array(self.trust, np.int32)}
        return {_LEARNT + name: a for name, a in arrays.items()}

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
        n = len(_LEARNT)
        learnt = {k[n:]: a for k, a in arrays.items() if k.startswith(_LEARNT)}
        return cls(
            taps=whole[0],
            cross=whole[1],
            forget=whole[2] / (1 << _FRACTION),
            weights=tuple(zip(*weights, strict=True)),
            levels=whole_numbers(arrays, "adaptive_levels"),
            steps=whole_numbers(arrays, "adaptive_steps"),
            gains=tuple(g / (1 << _FRACTION) for g in whole_numbers(arrays, "adaptive_gains")),
            learnt=MixtureNet.from_arrays(learnt) if learnt else None,
            trust=whole_numbers(learnt, "trust") if learnt else (),
        )

    def n_inputs(self, channels: int) -> int:
        """Return how many numbers each filter reads.

        Raises:
            ModelError: there are too many of them, or of channels, or the mixture's net reads
                others.
        """
        if channels > MAX_CHANNELS:
            raise ModelError(f"filters follow up to {MAX_CHANNELS} channels, found {channels}")
        n = 2 * self.taps + (channels - 1) * (self.cross + 1) if self.taps else 0
        if n > _MAX_INPUTS:
            raise ModelError(
                f"a filter reads up to {_MAX_INPUTS} numbers; {self.taps} taps and {self.cross} "
                f"steps of {channels - 1} other channels are {n}"
            )
        if self.learnt is not None:
            self.learnt.check(channels)
        return n

    def gain(self, delta: int) -> float:
        """Return the gain for a quantizer step: that of the nearest step, by ratio."""
        return self.gains[self._nearest(delta)]

    def weights_at(self, delta: int) -> tuple[int, ...]:
        """Return the weights for a quantizer step: those of the nearest step, by ratio."""
        return self.weights[self._nearest(delta)]

    def trust_at(self, delta: int) -> int:
        """Return the trust for a quantizer step, 0 without learnt parts: that of the nearest."""
        return self.trust[self._nearest(delta)] if self.trust else 0

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
