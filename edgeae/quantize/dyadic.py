"""Dyadic quantization-aware fine-tuning of a trained run.

The window code moves to its grids first. The sample priors follow: besides the grids, they learn
from the past as the coder really reconstructs it (closed loop), coded anew in every round.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from edgeae.models.dyadic import set_quantized
from edgeae.models.pixel_prior import PixelPriorNet
from edgeae.models.sample_prior import SamplePriorNet
from edgeae.quantize.loops import closed_loop
from edgeae.train.build import (
    build_pixel_prior,
    build_prior,
    build_sample_prior,
    build_window_code,
)
from edgeae.train.denoising import quantize_denoiser
from edgeae.train.phases import (
    Loops,
    SamplePriorPhase,
    TransformPhase,
    WindowCode,
    quantize_sample_prior,
    quantize_window_code,
)
from edgeae.train.pixels import PixelPriorPhase, quantize_pixel_prior
from edgeae.train.recipe import Recipe, SamplePriorRecipe
from edgeae.train.run import Progress, RunFolder, Schedule, run_phase
from edgeae.train.training import TrainingData, load_training_data, silent

__all__ = ["QuantizedModel", "is_quantized", "load_quantized", "quantize"]

LOOP_ITEMS = 1 << 17  # training samples coded in closed loop, per step and round


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizedModel:
    """A run's nets on their dyadic grids."""

    recipe: Recipe
    code: WindowCode | None
    priors: tuple[SamplePriorNet | PixelPriorNet, ...]


def _final_prior(recipe: Recipe, index: int) -> str:
    return f"prior{index}-q{max(recipe.quantize.rounds, 1) - 1}"


def is_quantized(run: RunFolder) -> bool:
    """Whether the run's dyadic phases are finished and reported."""
    return (run.path / "quantize.json").exists()


def quantize(run: RunFolder, *, progress: Progress = silent, threads: int = 2) -> dict[str, Any]:
    """Fine-tune a trained run in dyadic arithmetic.

    Args:
        run: a finished float run.
        progress: called with the phase's name, the fraction done, and metrics.
        threads: torch threads.

    Returns:
        The report: validation metrics in float and dyadic, and the change in percent. It is kept
        as ``quantize.json`` in the run's folder.

    Raises:
        ModelError: the run is not finished.
    """
    torch.set_num_threads(threads)
    recipe = run.recipe()
    if recipe.denoise is not None:
        return quantize_denoiser(run, progress=progress)
    parts = load_training_data(run)
    report: dict[str, Any] = {}
    code = build_window_code(recipe, parts.setup)
    if code is not None:
        run.load_phase("transform", code)
        report["window_code"] = _quantize_window_code(run, recipe, code, parts, progress)
    for i in range(len(recipe.sample_prior)):
        quantized = (
            _quantize_pixels(run, recipe, i, parts, progress)
            if recipe.sample_prior[i].kind == "pixel"
            else _quantize_prior(run, recipe, i, code, parts, progress)
        )
        report[f"sample_prior_{i}"] = quantized
    run.write_json("quantize.json", report)
    return report


def _compared(before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    change = {
        k: round(100 * (after[k] / before[k] - 1), 3)
        for k in before
        if k != "objective" and before[k] > 0
    }
    return {"float": before, "dyadic": after, "change_percent": change}


def _quantize_window_code(
    run: RunFolder, recipe: Recipe, code: WindowCode, parts: TrainingData, progress: Progress
) -> dict[str, Any]:
    schedule = Schedule(
        steps=recipe.quantize.steps,
        learning_rate=recipe.quantize.learning_rate,
        validate_every=max(recipe.quantize.steps // 8, 1),
    )
    phase = TransformPhase(
        "transform-q", code, recipe.train, schedule, parts.train, parts.validation, hard=True
    )
    with torch.no_grad():
        before = phase.validate()
    if not run.done(phase.name):
        quantize_window_code(code, parts.train, recipe.train)
    run_phase(phase, run, seed=recipe.seed + 1, progress=progress)
    with torch.no_grad():
        return _compared(before, phase.validate())


def _quantize_prior(
    run: RunFolder,
    recipe: Recipe,
    index: int,
    code: WindowCode | None,
    parts: TrainingData,
    progress: Progress,
) -> dict[str, Any]:
    spec = recipe.sample_prior[index]
    code = code if spec.code else None
    net = build_sample_prior(spec, parts.setup)
    run.load_phase(f"prior{index}", net)
    q = recipe.quantize
    schedule = Schedule(
        steps=q.prior_steps,
        learning_rate=q.learning_rate,
        validate_every=max(q.prior_steps // 6, 1),
    )
    phase: SamplePriorPhase | None = None
    loops: Loops = {step: [] for step in spec.steps}
    for turn in range(max(q.rounds, 1)):
        name = f"prior{index}-q{turn}"
        phase = SamplePriorPhase(
            name, net, spec, schedule, parts.train, parts.validation, code=code
        )
        if not run.done(_final_prior(recipe, index)):
            if turn == 0:
                quantize_sample_prior(phase)
            # each round adds what the net makes of the signal now; one that forgot the rounds
            # before would fall back into what they corrected
            for step, pieces in loops.items():
                pieces += closed_loop(
                    *(net, parts.train, step, code, LOOP_ITEMS), seed=turn, augment=spec.augment
                )
            phase.loops = loops
            phase.held = _held_loops(net, parts, spec, code)
        run_phase(phase, run, seed=recipe.seed + 2 + turn, progress=progress)
    assert phase is not None
    # the cost of the grids alone: the same weights and the same past, in float and on the grids
    phase.held = _held_loops(net, parts, spec, code)
    with torch.no_grad():
        after = phase.validate()
        set_quantized(net, False)
        before = phase.validate()
        set_quantized(net, True)
    return _compared(before, after)


def _quantize_pixels(
    run: RunFolder, recipe: Recipe, index: int, parts: TrainingData, progress: Progress
) -> dict[str, Any]:
    spec, q = recipe.sample_prior[index], recipe.quantize
    net = build_pixel_prior(spec, parts.setup)
    run.load_phase(f"prior{index}", net)
    schedule = Schedule(
        steps=q.prior_steps,
        learning_rate=q.learning_rate,
        validate_every=max(q.prior_steps // 6, 1),
    )
    name = _final_prior(recipe, index)
    phase = PixelPriorPhase(name, net, spec, schedule, parts.train, parts.validation)
    with torch.no_grad():
        before = phase.validate()
    if not run.done(name):
        quantize_pixel_prior(phase)
    run_phase(phase, run, seed=recipe.seed + 2, progress=progress)
    with torch.no_grad():
        return _compared(before, phase.validate())


def _held_loops(
    net: SamplePriorNet, parts: TrainingData, spec: SamplePriorRecipe, code: WindowCode | None
) -> Loops:
    return {
        step: closed_loop(net, parts.validation, step, code, LOOP_ITEMS // 8, seed=0)
        for step in spec.steps
    }


def load_quantized(run: RunFolder) -> QuantizedModel:
    """A quantized run's nets.

    Raises:
        ModelError: the run is not quantized yet.
    """
    recipe = run.recipe()
    setup = load_training_data(run).setup
    code = build_window_code(recipe, setup)
    if code is not None:
        run.load_phase("transform-q", code)
        code.eval()
    priors: list[SamplePriorNet | PixelPriorNet] = []
    for i, spec in enumerate(recipe.sample_prior):
        net = build_prior(spec, setup)
        run.load_phase(_final_prior(recipe, i), net)
        net.eval()
        priors.append(net)
    return QuantizedModel(recipe=recipe, code=code, priors=tuple(priors))
