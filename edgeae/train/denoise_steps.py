"""What the training of every denoiser has in common: its schedules, and its two phases.

::

    denoise     the net in float
    denoise-q   the same net on dyadic grids
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from edgeae.errors import ModelError
from edgeae.train.denoise_recipe import DenoiseRecipe
from edgeae.train.recipe import Recipe
from edgeae.train.run import Phase, Progress, RunFolder, Schedule, run_phase

__all__ = [
    "denoise_table",
    "dyadic_schedule",
    "float_schedule",
    "load_net",
    "run_dyadic_phase",
]

Net = TypeVar("Net", bound=nn.Module)


def denoise_table(run: RunFolder) -> DenoiseRecipe:
    """The ``[denoise]`` table of a run's recipe.

    Raises:
        ModelError: the run is not a denoiser's.
    """
    table = run.recipe().denoise
    if table is None:
        raise ModelError(f"{run.path} is the run of a {run.recipe().task}, not of a denoiser")
    return table


def float_schedule(table: DenoiseRecipe) -> Schedule:
    """Of the phase ``denoise``."""
    return Schedule(
        steps=table.steps,
        learning_rate=table.learning_rate,
        validate_every=table.validate_every,
        patience=table.patience,
        hold=table.hold,
        muon=table.muon,
        average=table.average,
    )


def dyadic_schedule(recipe: Recipe, table: DenoiseRecipe, *, validations: int = 8) -> Schedule:
    """Of the phase ``denoise-q``, which is validated at least so many times."""
    return Schedule(
        steps=recipe.quantize.steps,
        learning_rate=recipe.quantize.learning_rate,
        validate_every=max(1, min(table.validate_every, recipe.quantize.steps // validations)),
        average=table.average and min(table.average, 0.99),
    )


def run_dyadic_phase(
    phase: Phase, calibrate: Callable[[], None], run: RunFolder, *, seed: int, progress: Progress
) -> dict[str, Any]:
    """Quantize a phase's float net, fine-tune it, and report validation metrics on the way.

    Args:
        phase: holds the float net.
        calibrate: fixes the net's grids and switches it to them.
        run: where the phase is kept.
        seed: of the fine-tuning.
        progress: is told how far it is.
    """
    net = phase.module
    net.eval()
    with torch.no_grad():
        before = phase.validate()
        calibrate()
        rounded = phase.validate()
    run_phase(phase, run, seed=seed, progress=progress)
    net.eval()
    with torch.no_grad():
        after = phase.validate()
    names = [name for name in before if name != "objective"]
    found = {"float": before, "dyadic": after, "rounded_only": rounded}
    return {
        **{kind: {k: round(values[k], 4) for k in names} for kind, values in found.items()},
        "change_percent": {
            k: round(100 * (after[k] / before[k] - 1), 3) for k in names if before[k]
        },
    }


def load_net(run: RunFolder, build: Callable[[], Net], *, quantized: bool) -> Net:
    """A run's net, on its dyadic grids or in float.

    Args:
        run: the run.
        build: makes the net, with other weights.
        quantized: the phase ``denoise-q`` rather than ``denoise``.

    Raises:
        ModelError: that phase is not finished.
    """
    name = "denoise-q" if quantized else "denoise"
    if not run.done(name):
        raise ModelError(f"{run.path} has not finished its phase {name!r}")
    net = build()
    run.load_phase(name, net)
    return net.eval()
