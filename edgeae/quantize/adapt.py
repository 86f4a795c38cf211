"""Fine-tune the nets of a finished model on one device's own signal, dyadic from the start."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from edgeae.models.sample_prior import SamplePriorNet
from edgeae.quantize.loops import closed_loop
from edgeae.train.phases import (
    Loops,
    SamplePriorPhase,
    Signal,
    TransformPhase,
    WindowCode,
    quantize_sample_prior,
    quantize_window_code,
)
from edgeae.train.recipe import SamplePriorRecipe, TrainRecipe
from edgeae.train.run import Progress, RunFolder, Schedule, run_phase

__all__ = ["AdaptSettings", "adapt_sample_prior", "adapt_window_code"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptSettings:
    """How long and how fast a model is fitted to a device's signal.

    Attributes:
        encoder: the analysis net learns too; else it stays bit for bit.
        code_steps: optimizer steps for the window code.
        prior_steps: optimizer steps for each sample prior, in each round.
        rounds: times the signal is coded in closed loop and learned from.
        learning_rate: peak learning rate.
        augment: share of the recipe's augmentation of the window code's crops that is kept.
        seed: of the batches.
    """

    encoder: bool = False
    code_steps: int = 600
    prior_steps: int = 500
    rounds: int = 2
    learning_rate: float = 1e-3
    augment: float = 0.25
    seed: int = 1


def adapt_window_code(
    code: WindowCode,
    recipe: TrainRecipe,
    settings: AdaptSettings,
    fit: Signal,
    choose: Signal,
    folder: Path,
    progress: Progress,
) -> None:
    """Fit the synthesis net and the latent prior, in place; the analysis net only if it is said."""
    recipe = dataclasses.replace(recipe, augment=recipe.augment * settings.augment)
    if settings.encoder:
        quantize_window_code(code, fit, recipe)
    code.analysis.requires_grad_(settings.encoder)
    schedule = Schedule(
        steps=settings.code_steps,
        learning_rate=settings.learning_rate,
        validate_every=max(settings.code_steps // 8, 1),
    )
    phase = TransformPhase("window-code", code, recipe, schedule, fit, choose, hard=True)
    run_phase(phase, _folder(folder), seed=settings.seed, progress=progress)


def adapt_sample_prior(
    net: SamplePriorNet,
    recipe: SamplePriorRecipe,
    settings: AdaptSettings,
    fit: Signal,
    choose: Signal,
    code: WindowCode | None,
    folder: Path,
    progress: Progress,
    *,
    name: str,
) -> None:
    """Fit a sample prior, in place, to the past as the coder reconstructs it.

    Args:
        code: the window code, where the prior reads it.
    """
    schedule = Schedule(
        steps=settings.prior_steps,
        learning_rate=settings.learning_rate,
        validate_every=max(settings.prior_steps // 5, 1),
    )
    for turn in range(settings.rounds):
        phase = SamplePriorPhase(f"{name}-{turn}", net, recipe, schedule, fit, choose, code=code)
        if turn == 0:
            quantize_sample_prior(phase)
        phase.loops = _loops(net, fit, recipe, code, seed=turn)
        phase.held = _loops(net, choose, recipe, code, seed=0)
        run_phase(phase, _folder(folder), seed=settings.seed + turn, progress=progress)


def _folder(path: Path) -> RunFolder:
    run = RunFolder(path)
    run.phases.mkdir(parents=True, exist_ok=True)
    return run


def _loops(
    net: SamplePriorNet,
    signal: Signal,
    recipe: SamplePriorRecipe,
    code: WindowCode | None,
    *,
    seed: int,
) -> Loops:
    """As many samples as there are, coded in closed loop at each step."""
    items = sum(s.shape[-1] for s in signal.segments)
    if signal.is_image:
        items = signal.segments[0][:, 0].numel()
    items = min(items, 1 << 17)
    with torch.no_grad():
        return {
            step: closed_loop(net, signal, step, code, items, seed=seed) for step in recipe.steps
        }
