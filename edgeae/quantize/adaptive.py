"""How a sample prior is to adapt to the frame at hand: chosen by coding held-out frames.

What pays depends on the signal and on the bound. A filter that learns while it codes mends a net
that meets another device or person; where the net already fits, it only costs. So each choice is
made by real bytes, and where the recipe expects other devices (its ``augment``), also on the same
frames as another sensor's filter and gain would give them. The mixture's net is trained on frames
of the training part, `edgeae.quantize.mixture`, and kept where it saves bytes on those held out.
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
from edgeae.quantize.mixture import fit_mixture, gather
from edgeae.runtime.adaptive import MAX_CHANNELS, AdaptiveRules
from edgeae.runtime.mixture import N_PARTS
from edgeae.runtime.sample_prior import SamplePrior, encode_samples
from edgeae.train.phases import BASE_STEP, Signal, WindowCode, code_of, elsewhere
from edgeae.train.recipe import SamplePriorRecipe

__all__ = ["fit_adaptive"]

FRAME = 1024  # samples of a frame
FRAMES = 48
SYMBOLS = 1_200_000  # that a mixture's net is trained on
MOST_TRAINED = 400  # frames
TRUSTS = (1024, 4096, 16384, 32768, 49152, 61440)
GAINS = (0.0, 0.0003, 0.001, 0.003, 0.01)
TAPS = 16
TAPS_OF_MANY = (8, 16)  # where there are other channels to read
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
    *,
    train: Signal | None = None,
) -> SamplePrior:
    """Return the prior with the rules and the shape that code frames in the fewest bytes.

    Args:
        prior: the quantized prior, with the shape counted for it.
        signals: to take frames from, from each as many: held-out signal, and training signal where
            that is but the tail of a recording.
        recipe: how it was trained.
        code: the window code, where the prior reads it.
        train: what a mixture's net is trained on; None: the first of the signals.

    Returns:
        The prior as it was, if adapting saves less than 0.3 % and no other devices are expected, or
        if there are more channels than filters follow.
    """
    code = code if prior.has_code else None
    held = _held(signals, recipe, code, FRAMES, seed=5)
    channels = prior.n_channels
    if not recipe.adaptive or not held.frames or channels > MAX_CHANNELS:
        return prior
    steps = tuple(sorted(recipe.steps))

    def score(candidate: SamplePrior) -> float:
        return sum(float(np.log2(max(held.bits(candidate, s), 1e-3))) for s in steps) / len(steps)

    def rules_of(gains: Sequence[float], shares: Sequence[int]) -> AdaptiveRules:
        return AdaptiveRules(
            taps=(TAPS if channels == 1 else TAPS_OF_MANY[0]) if any(gains) else 0,
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
    if 1 < channels <= MAX_FILTERED and _rules(best).taps:
        longer = replace(best, adaptive=replace(_rules(best), taps=TAPS_OF_MANY[1]))
        if score(longer) < score(best) + float(np.log2(1 - LEAST_GAIN)):
            best = longer
    best = replace(best, adaptive=replace(_rules(best), levels=_levels(signals)))
    if recipe.mixture:
        own = train or signals[0]
        n = min(SYMBOLS // (FRAME * channels * len(steps)), MOST_TRAINED, _frames_in(own))
        seen = _held((own,), recipe, code, max(n, 4), seed=6)
        rules = _with_net(best, seen, recipe)
        trusts = each([(replace(best, adaptive=_trusting(rules, t)), t) for t in TRUSTS])
        richer = replace(best, adaptive=_trusting(rules, *trusts))
        if score(richer) < score(best) + float(np.log2(1 - LEAST_GAIN)):
            best = richer
    if recipe.adaptive_gains or recipe.augment > 0:
        return best
    return best if score(best) < score(prior) + float(np.log2(1 - LEAST_GAIN)) else prior


def _with_net(prior: SamplePrior, seen: _Held, recipe: SamplePriorRecipe) -> AdaptiveRules:
    """The prior's rules with a net for the mixture, trained on frames of one length."""
    history = recipe.mixture_history
    found = [gather(prior, history, seen.frames, seen.codes, s) for s in sorted(recipe.steps)]
    net = fit_mixture(
        prior,
        found,
        history=history,
        width=recipe.mixture,
        parts=recipe.mixture_parts,
        steps=recipe.train_steps,
    )
    return replace(_rules(prior), learnt=net, trust=(TRUSTS[0],) * len(recipe.steps))


def _frames_in(signal: Signal) -> int:
    """How many frames are worth drawing from a signal: twice what it has."""
    return (
        2 * sum(s.shape[-1] for s in signal.segments) // FRAME
        if not signal.is_image
        else MOST_TRAINED
    )


def _trusting(rules: AdaptiveRules, *trusts: int) -> AdaptiveRules:
    """Rules with these trusts: one per step, or one for all."""
    return replace(rules, trust=trusts * len(rules.steps) if len(trusts) == 1 else trusts)


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


def _held(
    signals: Sequence[Signal],
    recipe: SamplePriorRecipe,
    code: WindowCode | None,
    n_frames: int,
    *,
    seed: int,
) -> _Held:
    """Frames of one length, as many of each signal; with others' devices, once more as theirs."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for signal in signals:
        if signal.is_image:
            parts.append(signal.crops(4 * n_frames, 0, generator))
            continue
        length = min(FRAME, *(max(s.shape[-1] for s in each.segments) for each in signals))
        if code is not None:
            unit = code.analysis.spec.stride
            length = length // unit * unit
        if not length:
            return _Held([], None)
        parts.append(signal.crops(n_frames // len(signals), length, generator))
    x = torch.cat(parts)
    if recipe.augment > 0 and not signals[0].is_image:
        x = torch.cat([x, elsewhere(x, recipe.augment, generator)])
    u = None if code is None else code_of(code, x, torch.full((len(x),), BASE_STEP))
    return _Held(_frames(x), None if u is None else _frames(u))


def _frames(x: Tensor) -> list[Ints]:
    array = x.flatten(2).permute(0, 2, 1).numpy().astype(np.int32)
    return [np.ascontiguousarray(a[None]) for a in array]
