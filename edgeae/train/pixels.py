"""Training of a pixel prior, in float and on dyadic grids.

What a decoder will have reconstructed is known ahead (`edgeae.runtime.pixel_rules.level_bins`), so
there is no loop to close: both phases see the very levels that a device will see.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeae.models.dyadic import calibrating, set_quantized
from edgeae.models.pixel_prior import PixelPriorNet
from edgeae.train.phases import Signal
from edgeae.train.recipe import SamplePriorRecipe
from edgeae.train.run import Schedule

__all__ = ["PixelPriorPhase", "quantize_pixel_prior"]

VALIDATED_IMAGES = 256
FIRST_SHARE = 0.4  # of a batch at the first of the recipe's steps


class PixelPriorPhase:
    """Training of a pixel prior for its quantizer steps, most of it for the first of them."""

    def __init__(
        self,
        name: str,
        module: PixelPriorNet,
        recipe: SamplePriorRecipe,
        schedule: Schedule,
        train: Signal,
        validation: Signal,
    ) -> None:
        self.name, self.module, self.recipe, self.schedule = name, module, recipe, schedule
        self.train, self.validation = train, validation

    def levels(self, x: Tensor) -> Tensor:
        """Images of grid indices as levels from 0; what lies beyond is the nearest level."""
        spec = self.module.spec
        return (x - spec.low).round().long().clamp(0, spec.levels - 1)

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Levels [B, C, H, W] and steps [B], equal steps side by side."""
        r = self.recipe
        x = self.levels(self.train.crops(r.batch, 0, generator))
        n_first = len(x) if len(r.steps) == 1 else max(1, round(FIRST_SHARE * len(x)))
        step = torch.full((len(x),), r.steps[0])
        if n_first < len(x):
            pick = int(torch.randint(1, len(r.steps), (1,), generator=generator))
            step[n_first:] = r.steps[pick]
        return x, step

    def loss(self, done: float, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:  # noqa: ARG002
        """Bits per sample of the next batch, each step's bits weighted to matter alike."""
        x, step = self.batch(generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=not self.module.head.quantized):
            bits = self.module.bits(x, step) / x[0].numel()
        loss: Tensor = (bits * torch.rsqrt(bits.detach().clamp_min(0.02))).mean()
        return loss, {"bits": float(bits.detach().mean())}

    def validate(self) -> dict[str, float]:
        """Bits per sample at each step; the objective is their mean logarithm."""
        x = self.levels(self.validation.segments[0][:VALIDATED_IMAGES])
        metrics = {}
        for step in self.recipe.steps:
            parts = [self.module.bits(p, torch.full((len(p),), step)) for p in torch.split(x, 64)]
            metrics[f"bits_at_step_{step}"] = float(torch.cat(parts).mean()) / x[0].numel()
        logs = torch.log2(torch.tensor(list(metrics.values())).clamp_min(1e-3))
        metrics["objective"] = float(logs.mean())
        return metrics


def quantize_pixel_prior(phase: PixelPriorPhase) -> None:
    """Calibrate on training images, fix every grid, switch to dyadic arithmetic."""
    module = phase.module
    generator = torch.Generator().manual_seed(0)
    set_quantized(module, False)
    with torch.no_grad(), calibrating(module):
        for _ in range(24):
            module.context(*phase.batch(generator))
    module.connect()
    set_quantized(module, True)
