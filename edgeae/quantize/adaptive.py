"""How a sample prior is to adapt to the frame at hand: chosen by coding held-out frames.

What pays depends on the signal and on the bound. A filter that learns while it codes mends a net
that meets another device or person; where the net already fits, it only costs. So each choice is
made by real bytes, and where the recipe expects other devices (its
``augment``), also on the same frames as another sensor's filter and gain would give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeae.bitstream.cdf import laplace_shape, logistic_shape
from edgeae.runtime.adaptive import N_PARTS, AdaptiveRules
from edgeae.runtime.sample_prior import SamplePrior, encode_samples
from edgeae.train.phases import BASE_STEP, Signal, WindowCode, code_of, elsewhere
from edgeae.train.recipe import SamplePriorRecipe

__all__ = ["fit_adaptive"]

FRAME = 1024  # samples of a frame
FRAMES = 48
GAINS = (0.0, 0.0003, 0.001, 0.003, 0.01)
TAPS = 16
TAPS_OF_MANY = 8  # where there are other channels to read
MAX_FILTERED = 8  # channels whose filters the validation part may ask for: they take time
LOUD = 0.99  # share of the frames that count as known loudness
LEAST_GAIN = 0.003  # a smaller saving does not pay for the time that adapting takes

Ints = npt.NDArray[np.int32]
_SHARES = (  # of the parts: net x 2^(-2/3), 1, 2^(2/3), 2^(8/3); net's own mean; own sizes
    (0.15, 0.35, 0.15, 0.05, 0.10, 0.10, 0.10),
    (0.20, 0.50, 0.15, 0.02, 0.11, 0.01, 0.01),
    (0.10, 0.20, 0.10, 0.10, 0.10, 0.20, 0.20),
    (0.15, 0.70, 0.08, 0.01, 0.04, 0.01, 0.01),
    (0.50, 0.30, 0.10, 0.02, 0.04, 0.02, 0.02),
)


@dataclass(frozen=True)
class _Held:
    """Frames to choose by, with what the window code makes of them where the prior reads it."""

    frames: list[Ints]
    codes: list[Ints] | None

    def bits(self, prior: SamplePrior, step: int) -> float:
        """Bits per sample at a quantizer step."""
        coded = encode_samples(prior, self.frames, step, self.codes)
        n_samples = sum(f.size for f, c in zip(self.frames, coded, strict=True) if c is not None)
        return 8 * sum(len(c[0]) for c in coded if c is not None) / max(n_samples, 1)


def fit_adaptive(
    prior: SamplePrior,
    signals: Sequence[Signal],
    recipe: SamplePriorRecipe,
    code: WindowCode | None,
) -> SamplePrior:
    """Return the prior with the rules and the shape that code frames in the fewest bytes.

    Args:
        prior: the quantized prior, with the shape counted for it.
        signals: to take frames from, from each as many: held-out signal, and training signal where
            that is but the tail of a recording.
        recipe: how it was trained.
        code: the window code, where the prior reads it.

    Returns:
        The prior as it was, if adapting saves less than 0.3 % and no other devices are expected.
    """
    held = _held(signals, recipe, code if prior.has_code else None)
    if not recipe.adaptive or not held.frames:
        return prior
    channels = prior.n_channels
    steps = tuple(sorted(recipe.steps))

    def score(candidate: SamplePrior) -> float:
        return sum(float(np.log2(max(held.bits(candidate, s), 1e-3))) for s in steps) / len(steps)

    def rules_of(gains: Sequence[float], shares: Sequence[int]) -> AdaptiveRules:
        return AdaptiveRules(
            taps=(TAPS if channels == 1 else TAPS_OF_MANY) if any(gains) else 0,
            steps=steps,
            gains=tuple(gains),
            weights=tuple(_weights(_SHARES[share]) for share in shares),
        )

    def each(candidates: Sequence[tuple[SamplePrior, Any]]) -> list[Any]:
        """Per step, the choice whose prior codes best."""
        found = []
        for step in steps:
            bits = [held.bits(prior, step) for prior, _ in candidates]
            found.append(candidates[bits.index(min(bits))][1])
        return found

    still = [0.0] * len(steps)
    begin = rules_of(still, [0] * len(steps))
    shapes = [replace(prior, shape=s) for s in (prior.shape, logistic_shape(), laplace_shape())]
    best = min((replace(p, adaptive=begin) for p in shapes), key=score)
    shares = each(
        [
            (replace(best, adaptive=rules_of(still, [i] * len(steps))), i)
            for i in range(len(_SHARES))
        ]
    )
    best = replace(best, adaptive=rules_of(still, shares))
    if recipe.adaptive_gains or channels <= MAX_FILTERED:
        gains = recipe.adaptive_gains or each(
            [(replace(best, adaptive=rules_of([g] * len(steps), shares)), g) for g in GAINS]
        )
        best = replace(best, adaptive=rules_of(gains, shares))
    best = replace(best, adaptive=replace(_rules(best), levels=_levels(signals)))
    if recipe.adaptive_gains or recipe.augment > 0:
        return best
    return best if score(best) < score(prior) + float(np.log2(1 - LEAST_GAIN)) else prior


def _rules(prior: SamplePrior) -> AdaptiveRules:
    assert prior.adaptive is not None
    return prior.adaptive


def _levels(signals: Sequence[Signal]) -> tuple[int, ...]:
    """Per channel, the mean change of the loudest frames: see `AdaptiveRules.levels`."""
    if signals[0].is_image:
        return ()
    loudness = [
        (piece[:, 1:] - piece[:, :-1]).abs().double().mean(1)
        for signal in signals
        for segment in signal.segments
        for piece in torch.split(segment, FRAME, -1)
        if piece.shape[-1] > 1
    ]
    if not loudness:
        return ()
    top = torch.quantile(torch.stack(loudness), LOUD, dim=0)
    return tuple(max(round(16 * float(v)), 1) for v in top)


def _weights(shares: Sequence[float]) -> tuple[int, ...]:
    assert len(shares) == N_PARTS
    weights = [round(share * (1 << 16)) for share in shares]
    weights[1] += (1 << 16) - sum(weights)
    return tuple(weights)


def _held(signals: Sequence[Signal], recipe: SamplePriorRecipe, code: WindowCode | None) -> _Held:
    generator = torch.Generator().manual_seed(5)
    parts = []
    for signal in signals:
        if signal.is_image:
            parts.append(signal.crops(4 * FRAMES, 0, generator))
            continue
        length = min(FRAME, *(max(s.shape[-1] for s in each.segments) for each in signals))
        if code is not None:
            unit = code.analysis.spec.stride
            length = length // unit * unit
        if not length:
            return _Held([], None)
        parts.append(signal.crops(FRAMES // len(signals), length, generator))
    x = torch.cat(parts)
    if recipe.augment > 0 and not signals[0].is_image:
        x = torch.cat([x, elsewhere(x, recipe.augment, generator)])
    u = None if code is None else code_of(code, x, torch.full((len(x),), BASE_STEP))
    return _Held(_frames(x), None if u is None else _frames(u))


def _frames(x: Tensor) -> list[Ints]:
    array = x.flatten(2).permute(0, 2, 1).numpy().astype(np.int32)
    return [np.ascontiguousarray(a[None]) for a in array]
