"""The phases of a codec's training, in float and in dyadic arithmetic.

::

    transform     analysis net, synthesis net, latent prior: rate + weight * distortion
    prior0, …     sample priors, each for its range of quantizer steps
    transform-q   the same nets on dyadic grids
    prior0-q0, …  the same priors on dyadic grids, learning from closed-loop reconstructions
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeae.models.dyadic import calibrating, fake_round, set_quantized
from edgeae.models.latent_prior import LatentPriorNet
from edgeae.models.sample_prior import SamplePriorNet
from edgeae.models.transforms import LATENT_EXPONENT, LATENT_PEAK, AnalysisNet, SynthesisNet
from edgeae.train.recipe import SamplePriorRecipe, TrainRecipe
from edgeae.train.run import Schedule

__all__ = [
    "Loops",
    "SamplePriorPhase",
    "Signal",
    "TransformPhase",
    "WindowCode",
    "code_of",
    "measure_window_code",
    "quantize_sample_prior",
    "quantize_window_code",
    "turned",
    "whole_crop",
]

BASE_STEP = 16.0
MEASURED_ITEMS, MEASURED_IMAGES = 1 << 16, 1 << 10
ODD_SHARE = 0.1  # share of augmented crops upside down; as many run backwards


@dataclass(frozen=True, kw_only=True)
class Signal:
    """Training or validation samples, grid indices as float32.

    Attributes:
        segments: series [C, T] each, or one tensor of images [N, C, H, W].
        spread: per channel standard deviation, index units.
        turns: each three channels are axes in space, and crops look at them from random sides.
    """

    segments: tuple[Tensor, ...]
    spread: Tensor
    turns: bool = False

    @property
    def is_image(self) -> bool:
        """Whether items are images."""
        return self.segments[0].dim() == 4

    def crops(self, batch: int, length: int, generator: torch.Generator) -> Tensor:
        """A batch of crops [B, C, T], each from a segment picked by its length; or images."""
        if self.is_image:
            images = self.segments[0]
            return images[torch.randint(len(images), (batch,), generator=generator)]
        usable = [s for s in self.segments if s.shape[-1] >= length]
        if not usable:
            raise ValueError("no segment is as long as a crop")
        weights = torch.tensor([float(s.shape[-1] - length + 1) for s in usable])
        picks = torch.multinomial(weights, batch, replacement=True, generator=generator)
        crops = []
        for pick in picks.tolist():
            room = usable[pick].shape[-1] - length
            start = int(torch.randint(room + 1, (1,), generator=generator))
            crops.append(usable[pick][:, start : start + length])
        x = torch.stack(crops)
        return turned(x, generator) if self.turns else x

    def head(self, items: int, multiple: int) -> list[Tensor]:
        """Batches of at most ``items`` time steps (or images) in all, whole multiples long.

        Every series gives a share of them.
        """
        if self.is_image:
            return list(torch.split(self.segments[0][:items], 256))
        share = items // max(len(self.segments), 1)
        found, left = [], items
        for number, segment in enumerate(self.segments):
            # an equal share of each, and what shorter ones left over
            most = max(share, left - share * (len(self.segments) - number - 1))
            length = min(segment.shape[-1], most, 32768) // multiple * multiple
            if length:
                found.append(segment[None, :, :length])
                left -= length
        return found


def turned(x: Tensor, generator: torch.Generator) -> Tensor:
    """Crops [B, C, T] of C / 3 sensors, turned in space: half of them by quarters, which is exact.

    All sensors of a crop turn alike, for they sit on one device.
    """
    n = len(x)
    anyhow, _ = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator))
    order = torch.rand(n, 3, generator=generator).argsort(1)
    signs = torch.randint(2, (n, 3, 1), generator=generator) * 2.0 - 1
    quarters = torch.nn.functional.one_hot(order, 3) * signs
    turn = torch.where(torch.rand(n, 1, 1, generator=generator) < 0.5, quarters, anyhow)
    sensors = x.reshape(n, -1, 3, x.shape[-1])
    return torch.round(torch.einsum("bij,bsjt->bsit", turn, sensors)).reshape(x.shape)


def whole_crop(crop: int, unit: int) -> int:
    """A crop's length in whole units of the window code's stride."""
    return max(unit, crop // unit * unit)


class WindowCode(nn.Module):
    """Analysis net, synthesis net and latent prior, trained together."""

    def __init__(
        self, analysis: AnalysisNet, synthesis: SynthesisNet, prior: LatentPriorNet
    ) -> None:
        super().__init__()
        self.analysis, self.synthesis, self.prior = analysis, synthesis, prior

    def forward(
        self, x: Tensor, step: Tensor, *, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Bits per item-channel sample [B] and reconstruction, for steps [B] in sixteenths.

        With ``noise`` the rate is that of noisy latents, else that of the rounded ones.
        """
        latent = self.analysis(x)
        scale = (BASE_STEP / step).view(-1, *([1] * (latent.dim() - 1)))
        scaled = latent * scale
        symbols = fake_round(scaled)
        flat = symbols.flatten(2)
        values = flat if noise is None else (scaled + noise).flatten(2)
        context = flat.detach() if noise is not None else flat
        bits = self.prior.bits(values, context, step).sum((1, 2)) / x[0].numel()
        peak = LATENT_PEAK * 2.0**-LATENT_EXPONENT
        return bits, self.synthesis((symbols / scale).clamp(-peak, peak))


def code_of(code: WindowCode, x: Tensor, step: Tensor) -> Tensor:
    """Reconstruction by the window code alone, without gradients."""
    with torch.no_grad():
        return torch.round(code(x, step)[1])


def measure_window_code(code: WindowCode, signal: Signal) -> tuple[float, Tensor]:
    """Bits per sample at the base step, and the mean squared error of each channel, float64 [C]."""
    spec = code.analysis.spec
    bits, n = 0.0, 0
    error = torch.zeros(spec.channels, dtype=torch.float64)
    with torch.no_grad():
        for x in signal.head(MEASURED_IMAGES if signal.is_image else MEASURED_ITEMS, spec.stride):
            b, out = code(x, torch.full((len(x),), BASE_STEP))
            bits += float(b.mean()) * x.numel()
            error += (x - torch.round(out)).double().square().transpose(0, 1).flatten(1).sum(1)
            n += x.numel()
    return bits / n, error / (n / spec.channels)


class TransformPhase:
    """Rate–distortion training of the window code, in float or on dyadic grids."""

    def __init__(
        self,
        name: str,
        module: WindowCode,
        recipe: TrainRecipe,
        schedule: Schedule,
        train: Signal,
        validation: Signal,
        *,
        hard: bool = False,
    ) -> None:
        self.name, self.module, self.schedule = name, module, schedule
        self.recipe, self.train, self.validation, self.hard = recipe, train, validation, hard

    def _steps(self, batch: int, generator: torch.Generator) -> Tensor:
        low, high = self.recipe.step_range
        u = torch.rand(batch, generator=generator)
        ratio = torch.tensor(high / low)
        drawn = torch.round(low * torch.exp(u * torch.log(ratio)))
        stay = torch.rand(batch, generator=generator) < self.recipe.focus
        return torch.where(stay, torch.full_like(drawn, BASE_STEP), drawn)

    def _augmented(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Other gains and offsets; some crops upside down or backwards, as rare shapes may be."""
        n, channels = x.shape[:2]
        u = torch.rand(n, 2 + channels, 1, generator=generator) * 2 - 1
        strength = self.recipe.augment
        gain = torch.exp2(u[:, :1] * strength)
        gain = torch.where(u[:, 1:2].abs() < ODD_SHARE, -gain, gain)
        backwards = u[:, 1:2].abs() > 1 - ODD_SHARE
        center = self.module.analysis.center
        moved = (
            (x - center) * gain + center + u[:, 2:] * strength * self.train.spread.view(1, -1, 1)
        )
        return torch.round(torch.where(backwards, moved.flip(-1), moved))

    def _distorted(self, x: Tensor, out: Tensor) -> Tensor:
        return ((x - out) ** 2).flatten(1).mean(1)

    def loss(self, done: float, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Bits per sample plus weighted squared error of the next batch."""
        r = self.recipe
        crop = whole_crop(r.crop, self.module.analysis.spec.stride)
        x = self.train.crops(r.batch, crop, generator)
        if r.augment > 0 and not self.train.is_image:
            x = self._augmented(x, generator)
        step = self._steps(len(x), generator)
        noise = None
        if not self.hard and done < r.hard_after:
            shape = self.module.analysis(x[:1]).shape[1:]
            noise = torch.rand(len(x), *shape, generator=generator) - 0.5
        bits, out = self.module(x, step, noise=noise)
        error = self._distorted(x, out)
        weight = r.distortion_weight * (BASE_STEP / step) ** 2
        loss: Tensor = bits + weight * error
        if r.focus < 0.5:
            loss = loss * torch.rsqrt(loss.detach().clamp_min(1e-6))
        loss = loss.mean()
        return loss, {"bits": float(bits.detach().mean()), "mse": float(error.detach().mean())}

    def validate(self) -> dict[str, float]:
        """Rate and RMSE at the base step on the validation part."""
        bits, channel_mse = measure_window_code(self.module, self.validation)
        error = float(channel_mse.mean())
        return {
            "objective": bits + self.recipe.distortion_weight * error,
            "bits_per_sample": bits,
            "rmse": error**0.5,
        }


def quantize_window_code(module: WindowCode, train: Signal, recipe: TrainRecipe) -> None:
    """Calibrate on training crops, fix every grid, switch to dyadic arithmetic."""
    generator = torch.Generator().manual_seed(0)
    set_quantized(module, False)
    with torch.no_grad(), calibrating(module):
        for _ in range(24):
            unit = module.analysis.spec.stride
            x = train.crops(recipe.batch, whole_crop(recipe.crop, unit), generator)
            module(x, torch.full((len(x),), BASE_STEP))
            low = torch.full((len(x),), float(recipe.step_range[0]))
            module(x, low)
    module.analysis.connect()
    module.synthesis.connect()
    module.prior.connect()
    set_quantized(module, True)


Loops = dict[int, list[tuple[Tensor, Tensor, Tensor | None]]]
"""By quantizer step, pieces of (signal, reconstruction, code), each [C, T]."""


def elsewhere(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Crops [B, C, T] as another device would give them: filter, gain, and sign now and then.

    Args:
        x: grid indices.
        strength: octaves of gain; of the filter, as much of the last two samples as that.
        generator: of random numbers.
    """
    u = torch.rand(4, len(x), 1, 1, generator=generator) * 2 - 1
    once = torch.cat([x[..., :1], x[..., :-1]], -1)
    twice = torch.cat([once[..., :1], once[..., :-1]], -1)
    start = x[..., :1]
    other = (x - start) + strength * (u[0] * (once - x) + u[1] * (twice - x))
    gain = torch.exp2(u[2] * strength)
    gain = torch.where(u[3].abs() < ODD_SHARE, -gain, gain)
    return torch.round(start + other * gain)


class SamplePriorPhase:
    """Training of a sample prior for its range of quantizer steps.

    In float the past is the signal plus uniform noise as wide as the step, or rounded to such
    steps; with ``loops`` it is what the coder really reconstructed.
    """

    def __init__(
        self,
        name: str,
        module: SamplePriorNet,
        recipe: SamplePriorRecipe,
        schedule: Schedule,
        train: Signal,
        validation: Signal,
        *,
        code: WindowCode | None = None,
        loops: Loops | None = None,
    ) -> None:
        self.name, self.module, self.recipe, self.schedule = name, module, recipe, schedule
        self.train, self.validation, self.code, self.loops = train, validation, code, loops
        self.held: Loops | None = None  # closed-loop validation pieces

    def _raster(self, x: Tensor) -> Tensor:
        return x.flatten(2)

    def _noisy(self, x: Tensor, step: Tensor, generator: torch.Generator) -> Tensor:
        """What a coder may have made of x: with noise, every other crop on a lattice.

        Errors are noise where a signal moves by more than a step from sample to sample. Where it
        moves by less, a reconstruction stands still until it must jump.
        """
        step = step.reshape(len(step), -1, 1)
        half = (step - 1) / 2
        u = torch.rand(x.shape, generator=generator) * 2 - 1
        noisy = x + torch.where(half > 0, torch.round(u * (half + 0.499)), torch.zeros(()))
        start = torch.floor(torch.rand(noisy[..., :1].shape, generator=generator) * step)
        still = start + torch.round((x - start) / step) * step
        odd = torch.arange(len(x)).reshape(-1, 1, 1) // 2 % 2 == 1
        return torch.where(odd, still, noisy)

    def _batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        r = self.recipe
        if self.loops is not None:
            return self._replayed(generator)
        crop = r.crop
        if self.code is not None:
            crop = whole_crop(crop, self.code.analysis.spec.stride)
        x = self.train.crops(r.batch, crop, generator)
        if r.augment > 0 and not self.train.is_image:
            x = elsewhere(x, r.augment, generator)
        # one bound means other steps on channels with other grids: half of the crops have a step
        # per channel, half one for all
        picks = torch.randint(len(r.steps), (len(x), x.shape[1]), generator=generator)
        picks[::2] = picks[::2, :1]
        step = torch.tensor([float(s) for s in r.steps])[picks]
        u = None
        if self.code is not None:
            u = self._raster(code_of(self.code, x, torch.full((len(x),), BASE_STEP)))
        x = self._raster(x)
        return x, self._noisy(x, step, generator), step, u

    def _replayed(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        assert self.loops is not None
        r = self.recipe
        steps = list(self.loops)
        xs, rs, us, ss = [], [], [], []
        for _ in range(r.batch):
            step = steps[int(torch.randint(len(steps), (1,), generator=generator))]
            pieces = self.loops[step]
            x, recon, u = pieces[int(torch.randint(len(pieces), (1,), generator=generator))]
            length = min(r.crop, x.shape[-1]) if not self.train.is_image else x.shape[-1]
            start = int(torch.randint(x.shape[-1] - length + 1, (1,), generator=generator))
            xs.append(x[:, start : start + length])
            rs.append(recon[:, start : start + length])
            us.append(u[:, start : start + length] if u is not None else None)
            ss.append(float(step))
        shortest = min(x.shape[-1] for x in xs)
        code = None
        if us[0] is not None:
            code = torch.stack([u[:, :shortest] for u in us if u is not None])
        return (
            torch.stack([x[:, :shortest] for x in xs]),
            torch.stack([x[:, :shortest] for x in rs]),
            torch.tensor(ss),
            code,
        )

    def loss(self, done: float, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:  # noqa: ARG002
        """Bits per sample of the next batch, each step's bits weighted to matter alike."""
        x, recon, step, code = self._batch(generator)
        bits = self.module.bits(x, recon, step, code).mean((1, 2))
        weight = torch.rsqrt(bits.detach().clamp_min(0.02))
        loss: Tensor = (bits * weight).mean()
        return loss, {"bits": float(bits.detach().mean())}

    def validate(self) -> dict[str, float]:
        """Bits per sample at each step; the objective is their mean logarithm."""
        if self.held is not None:
            return self._validate_closed(self.held)
        generator = torch.Generator().manual_seed(7)
        unit = self.code.analysis.spec.stride if self.code is not None else 1
        metrics: dict[str, float] = {}
        budget = 16384 if not self.validation.is_image else 256
        for step in self.recipe.steps:
            bits, n = 0.0, 0
            for x in self.validation.head(budget, unit):
                s = torch.full((len(x),), float(step))
                u = None
                if self.code is not None:
                    u = self._raster(code_of(self.code, x, torch.full((len(x),), BASE_STEP)))
                flat = self._raster(x)
                recon = self._noisy(flat, s, generator)
                bits += float(self.module.bits(flat, recon, s, u).sum())
                n += flat.numel()
            metrics[f"bits_at_step_{step}"] = bits / max(n, 1)
        logs = torch.log2(torch.tensor(list(metrics.values())).clamp_min(1e-3))
        metrics["objective"] = float(logs.mean())
        return metrics

    def _validate_closed(self, held: Loops) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for step, pieces in held.items():
            bits, n = 0.0, 0
            for x, recon, u in pieces:
                code = None if u is None else u[None]
                s = torch.full((1,), float(step))
                bits += float(self.module.bits(x[None], recon[None], s, code).sum())
                n += x.numel()
            metrics[f"bits_at_step_{step}"] = bits / max(n, 1)
        logs = torch.log2(torch.tensor(list(metrics.values())).clamp_min(1e-3))
        metrics["objective"] = float(logs.mean())
        return metrics


def quantize_sample_prior(phase: SamplePriorPhase) -> None:
    """Calibrate on training crops, fix every grid, switch to dyadic arithmetic."""
    module = phase.module
    generator = torch.Generator().manual_seed(0)
    set_quantized(module, False)
    with torch.no_grad(), calibrating(module):
        for _ in range(24):
            _, recon, step, code = phase._batch(generator)
            module(recon, step, code)
    module.net.connect()
    set_quantized(module, True)
