"""Training of an image denoiser: noise on crops, in float and then on dyadic grids.

One net serves a range of noise: it is told the standard deviation, or finds out. Noise is made anew
for every crop: Gaussian, some of it as a camera would round and clip it, some as photon counts
have it, some with black and white pixels besides. A net learns alike from images that are noisy
themselves (``noise2noise``), and from noisy images alone, by guessing pixels that were hidden
from it (``blind-spot``).

References:
    Lehtinen et al.: Noise2Noise, https://arxiv.org/abs/1803.04189.
    Krull, Buchholz, Jug: Noise2Void, https://arxiv.org/abs/1811.10980: the blind spot.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeae.errors import ConfigError
from edgeae.models.denoise import ImageNet, ImageSpec
from edgeae.models.dyadic import calibrating, set_quantized
from edgeae.train.datasets import Dataset, load_dataset
from edgeae.train.denoise_recipe import DenoiseRecipe
from edgeae.train.denoise_steps import (
    dyadic_schedule,
    float_schedule,
    load_net,
    run_dyadic_phase,
)
from edgeae.train.recipe import Recipe
from edgeae.train.run import Progress, RunFolder, Schedule, run_phase

__all__ = [
    "ImageDenoisePhase",
    "build_image_net",
    "even_out_channels",
    "hidden_pixels",
    "image_metrics",
    "load_image_denoiser",
    "net_denoiser",
    "noisy_images",
    "psnr_db",
    "quantize_image_denoiser",
    "score_images",
    "test_images",
    "train_image_denoiser",
]

PEAK = 255
SETTLED = 1e-5  # of squared error, in peaks: what is better than this does not count
MOST_SALT = 0.1  # share of pixels
HIDDEN_SHARE = 0.08  # of a blind-spot crop
VALIDATED = 16  # images
CALIBRATION_BATCHES = 24
MOST_HASHES = 16
MOST_GAIN = 8.0

Denoise = Callable[[NDArray[np.float32], float], NDArray[Any]]
"""An image [H, W] or [H, W, C] and the standard deviation of its noise, to its estimate."""


def noisy_images(
    clean: Tensor, recipe: DenoiseRecipe, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Noise on clean images [N, C, H, W], each at a level of its own; and the levels [N].

    The level is the standard deviation of all of an image's noise, in grey levels.
    """

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    n = len(clean)
    low, high = recipe.sigma
    level = low + drawn(n) * (high - low)
    column = level.view(-1, 1, 1, 1)
    noisy = clean + torch.randn(clean.shape, generator=generator) * column
    kind = drawn(n)
    counted = kind < recipe.poisson
    if counted.any():
        x = clean[counted].clamp_min(0)
        per_level = x.mean((1, 2, 3), keepdim=True) / column[counted].clamp_min(0.5).square()
        noisy[counted] = torch.poisson(x * per_level, generator=generator) / per_level
    salted = kind > 1 - recipe.salt
    if salted.any():
        x = noisy[salted]
        hit = drawn(*x[:, :1].shape) < drawn(len(x), 1, 1, 1) * MOST_SALT
        white = torch.where(drawn(*x[:, :1].shape) < 0.5, 0.0, float(PEAK))
        noisy[salted] = torch.where(hit, white, x)
    odd = counted | salted
    if odd.any():
        level[odd] = (noisy[odd] - clean[odd]).square().mean((1, 2, 3)).sqrt()
    cut = (drawn(n) < recipe.clipped).view(-1, 1, 1, 1)
    return torch.where(cut, noisy.round().clamp(0, PEAK), noisy), level.clamp_max(PEAK)


def hidden_pixels(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images with some pixels replaced by others from near by; and where, [N, 1, H, W].

    Each is taken from a place of its own, or the net would know a hidden pixel by its twin.
    """
    n, _, h, w = x.shape
    mask = torch.rand(n, 1, h, w, generator=generator) < HIDDEN_SHARE
    places = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if (dy, dx) != (0, 0)]
    pick = torch.randint(len(places), (n, 1, h, w), generator=generator)
    out = x
    for number, place in enumerate(places):
        out = torch.where(mask & (pick == number), x.roll(place, (2, 3)), out)
    return out, mask


class ImageDenoisePhase:
    """One stretch of an image denoiser's training."""

    def __init__(
        self,
        name: str,
        module: ImageNet,
        recipe: DenoiseRecipe,
        schedule: Schedule,
        train: Tensor,
        validation: Tensor,
        *,
        coarse: float = 0.0,
    ) -> None:
        self.name, self.module, self.recipe, self.schedule = name, module, recipe, schedule
        self.train, self.validation, self.coarse = train, validation[:VALIDATED], coarse
        self.crop = min(recipe.crop, *train.shape[2:]) // 2 * 2

    def crops(self, generator: torch.Generator) -> Tensor:
        """A batch of crops [B, C, P, P] in grey levels, turned and mirrored at random."""
        n, _, height, width = self.train.shape
        p, batch = self.crop, self.recipe.batch

        def places(room: int) -> list[int]:
            found: list[int] = torch.randint(room, (batch,), generator=generator).tolist()
            return found

        at = zip(places(n), places(height - p + 1), places(width - p + 1), strict=True)
        x = torch.stack([self.train[i, :, a : a + p, b : b + p] for i, a, b in at]).float()
        turn = torch.rand(3, generator=generator) < 0.5
        if turn[0]:
            x = x.flip(3)
        if turn[1]:
            x = x.flip(2)
        return x.transpose(2, 3) if turn[2] else x

    def loss(self, done: float, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Mean logarithm of the crops' squared errors: every noise level matters alike."""
        x = self.crops(generator)
        weight: Tensor | None = None
        if self.recipe.target == "blind-spot":
            noisy, mask = hidden_pixels(x, generator)
            level = x.new_zeros(len(x))
            weight = mask / mask.float().mean().clamp_min(1e-6)
        else:
            noisy, level = noisy_images(x, self.recipe, generator)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=done < self.coarse):
            out = self.module(noisy, level)
        error = ((out.float() - x) / PEAK).square()
        each = (error if weight is None else error * weight).flatten(1).mean(1)
        loss = torch.log(each + SETTLED).mean()
        return loss, {"db": float(-10 * torch.log10(each.detach()).mean())}

    def validate(self) -> dict[str, float]:
        """PSNR at each level; the objective is their mean."""
        generator = torch.Generator().manual_seed(7)
        metrics: dict[str, float] = {}
        x = self.validation.float()
        if self.recipe.target == "blind-spot":  # there is no clean truth: the hidden pixels' error
            noisy, mask = hidden_pixels(x, generator)
            error = ((self.module(noisy, x.new_zeros(len(x))) - x) * mask).square().sum()
            return {"objective": float(error / mask.sum())}
        for sigma in self.recipe.test_sigma:
            noisy = x + torch.randn(x.shape, generator=generator) * sigma
            out = self.module(noisy, torch.full((len(x),), float(sigma)))
            error = (out.round().clamp(0, PEAK) - x).square().flatten(1).mean(1)
            metrics[f"db_at_{sigma:g}"] = float(10 * torch.log10(PEAK**2 / error).mean())
        return {"objective": -sum(metrics.values()) / len(metrics), **metrics}


# -- runs ------------------------------------------------------------------------------------


def build_image_net(recipe: DenoiseRecipe, channels: int) -> ImageNet:
    """The untrained net of a recipe."""
    spec = ImageSpec(
        channels=channels,
        width=recipe.width,
        depth=recipe.depth,
        weights=recipe.weights,
        sigma=recipe.told,
        peak=PEAK,
        bits=recipe.bits,
    )
    net = ImageNet(spec)
    for parameter in net.parameters():
        if parameter.dim() == 4:  # as the processor's kernels like it
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net


def _denoise_part(recipe: Recipe) -> DenoiseRecipe:
    part = recipe.denoise
    if part is None or part.family != "image":
        raise ConfigError(f"recipe {recipe.name!r} has no [denoise] table of family 'image'")
    if part.target == "blind-spot" and part.told:
        raise ConfigError(
            "denoise.target 'blind-spot' knows no noise level: set denoise.told=false"
        )
    return part


def _stacked(data: Dataset) -> Tensor:
    """Images of one size as uint8 [N, C, H, W]."""
    if not data.is_image or data.dtype != np.uint8:
        raise ConfigError(
            f"{data.name} is {data.dtype} of shape {list(data.segments[0].shape)}; an image "
            "denoiser learns from 8-bit images [N, H, W] or [N, H, W, C]"
        )
    x = np.concatenate(data.segments)
    x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(x))


def _read(run: RunFolder, recipe: Recipe) -> tuple[Tensor, Tensor]:
    parts = []
    for split in ("train", "val"):
        data = load_dataset(recipe.data.source, split, test=recipe.data.test or None)
        parts.append(_stacked(data))
    setup = {
        "kind": "image",
        "channels": data.channels,
        "dtype": "uint8",
        "unit": "grey level",
        "hashes": _joined(data),
    }
    if not (run.path / "setup.json").exists():
        run.write_json("setup.json", setup)
    return parts[0], parts[1]


def _joined(data: Dataset) -> dict[str, str]:
    """The files' hashes; those of many images as one."""
    if len(data.sha256) <= MOST_HASHES:
        return data.sha256
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(data.sha256.items()))
    return {data.name: hashlib.sha256(lines.encode()).hexdigest()}


def train_image_denoiser(run: RunFolder, *, progress: Progress) -> None:
    """The float phase, ``denoise``."""
    recipe = run.recipe()
    part = _denoise_part(recipe)
    train, validation = _read(run, recipe)
    torch.manual_seed(recipe.seed)
    schedule = float_schedule(part)
    net = build_image_net(part, train.shape[1])
    phase = ImageDenoisePhase(
        "denoise", net, part, schedule, train, validation, coarse=part.coarse
    )  # fmt: skip
    run_phase(phase, run, seed=recipe.seed, progress=progress)


@torch.no_grad()
def even_out_channels(net: ImageNet, peaks: Tensor) -> None:
    """Bring the trunk's channels nearer to one peak, for they share one grid.

    What a channel gains where it is made, it loses where it is used: the float net stays the same.
    It goes half the way: small channels get finer steps, and their weights do not become the
    large ones of a row.

    Args:
        net: in float.
        peaks: of the trunk's channels [W].
    """
    gain = (peaks.median() / peaks.clamp_min(1e-6)).sqrt().clamp(1 / MOST_GAIN, MOST_GAIN)
    out, back = gain.view(-1, 1, 1, 1), gain.view(1, -1, 1, 1)
    net.trunk.first.weight.mul_(out)
    for weight in {id(layer.weight): layer.weight for layer in net.trunk.layers}.values():
        weight.mul_(out / back)
    for layer in (net.trunk.first, *net.trunk.layers):
        layer.bias.mul_(gain)
    net.last.weight.div_(back)


def quantize_image_denoiser(run: RunFolder, *, progress: Progress) -> dict[str, Any]:
    """The dyadic phase, ``denoise-q``; validation PSNR before and after."""
    recipe = run.recipe()
    part = _denoise_part(recipe)
    train, validation = _read(run, recipe)
    net = build_image_net(part, train.shape[1])
    run.load_phase("denoise", net)
    schedule = dyadic_schedule(recipe, part, validations=4)
    phase = ImageDenoisePhase("denoise-q", net, part, schedule, train, validation)
    return run_dyadic_phase(
        phase, lambda: _quantize_images(phase), run, seed=recipe.seed + 1, progress=progress
    )


def _quantize_images(phase: ImageDenoisePhase) -> None:
    """Calibrate on training crops, fix every grid, switch to dyadic arithmetic."""
    net, generator = phase.module, torch.Generator().manual_seed(0)
    set_quantized(net, False)
    batches = [
        noisy_images(phase.crops(generator), phase.recipe, generator)
        for _ in range(CALIBRATION_BATCHES)
    ]
    with torch.no_grad():
        even_out_channels(net, torch.stack([net.trunk_peaks(*batch) for batch in batches]).amax(0))
        with calibrating(net):
            for batch in batches:
                net(*batch)
    net.connect()
    set_quantized(net, True)


def load_image_denoiser(run: RunFolder, *, quantized: bool = True) -> ImageNet:
    """A run's net, on its dyadic grids or in float.

    Raises:
        ModelError: that phase is not finished.
    """

    def build() -> ImageNet:
        channels = int(run.read_json("setup.json")["channels"])
        return build_image_net(_denoise_part(run.recipe()), channels)

    return load_net(run, build, quantized=quantized)


# -- scores ----------------------------------------------------------------------------------


def psnr_db(clean: NDArray[Any], other: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio of 8-bit images; the other is rounded and clipped to 8 bits."""
    levels = np.clip(np.rint(other), 0, PEAK)
    error = np.mean(np.square(np.asarray(clean, np.float64) - levels))
    return math.inf if error == 0 else float(10 * np.log10(PEAK**2 / error))


def score_images(
    denoise: Denoise,
    images: Sequence[NDArray[np.uint8]],
    sigmas: Sequence[float],
    *,
    clipped: bool,
    seed: int = 0,
) -> dict[str, float]:
    """Mean PSNR of denoised images at each level of Gaussian noise.

    Args:
        denoise: the denoiser.
        images: clean, [H, W] or [H, W, C] each.
        sigmas: standard deviations in grey levels.
        clipped: the noisy image is rounded and clipped to 8 bits, as a camera gives it; papers
            leave it as it is.
        seed: of the noise; the image's place and the level count too.
    """
    scores: dict[str, float] = {}
    for sigma in sigmas:
        found = []
        for place, clean in enumerate(images):
            rng = np.random.default_rng([seed, place, round(sigma * 16)])
            noisy = clean + rng.standard_normal(clean.shape) * sigma
            if clipped:
                noisy = np.clip(np.rint(noisy), 0, PEAK)
            found.append(psnr_db(clean, denoise(noisy.astype(np.float32), sigma)))
        scores[f"{sigma:g}"] = float(np.mean(found))
    return scores


def net_denoiser(net: ImageNet) -> Denoise:
    """A net as a function on numpy images, for ``score_images``."""

    def denoise(noisy: NDArray[np.float32], sigma: float) -> NDArray[Any]:
        x = noisy[None, None] if noisy.ndim == 2 else noisy.transpose(2, 0, 1)[None]
        with torch.no_grad():
            out = net(torch.from_numpy(np.ascontiguousarray(x)), torch.tensor([float(sigma)]))
        y = out[0].numpy()
        return np.asarray(y[0] if noisy.ndim == 2 else y.transpose(1, 2, 0))

    return denoise


def test_images(recipe: Recipe) -> list[NDArray[np.uint8]]:
    """The recipe's test images, which may differ in size."""
    data = load_dataset(recipe.data.source, "test", test=recipe.data.test or None)
    return [np.asarray(image) for segment in data.segments for image in segment]


def image_metrics(run: RunFolder) -> dict[str, Any]:
    """Test PSNR in float and as quantized, on noise as papers have it and on 8-bit noisy images."""
    recipe = run.recipe()
    part = _denoise_part(recipe)
    images = test_images(recipe)
    table: dict[str, Any] = {"unit": "dB PSNR of 8-bit output", "images": len(images)}
    for name, quantized in (("float", False), ("dyadic", True)):
        denoise = net_denoiser(load_image_denoiser(run, quantized=quantized))
        for kind, clipped in (("gaussian", False), ("clipped_to_8_bits", True)):
            scores = score_images(denoise, images, part.test_sigma, clipped=clipped)
            table[f"{name}_{kind}"] = {k: round(v, 3) for k, v in scores.items()}
    return table
