"""The phases of a stream denoiser's training, in float and in dyadic arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgeae.models.denoise import StreamNet
from edgeae.models.dyadic import calibrating, set_quantized
from edgeae.train.denoise_data import (
    DenoiseData,
    HeldMixture,
    Mixture,
    bank_of,
    held_mixtures,
    hidden,
    load_denoise_data,
    stream_spec,
    two_takes,
    validation_mixtures,
)
from edgeae.train.denoise_recipe import DenoiseRecipe
from edgeae.train.denoise_steps import (
    denoise_table,
    dyadic_schedule,
    float_schedule,
    load_net,
    run_dyadic_phase,
)
from edgeae.train.run import Progress, RunFolder, Schedule, run_phase

__all__ = [
    "StreamPhase",
    "denoised",
    "load_stream_denoiser",
    "mean_snr_db",
    "quantize_stream",
    "quantize_stream_denoiser",
    "stream_metrics",
    "train_stream_denoiser",
]

FLOOR = 1e-3  # errors below -30 dB are not worth chasing
SQUARED = 0.05  # weight of the plain error beside its logarithm
CALIBRATION_BATCHES = 24
TRUNK_CUTS = (0, 1, 2, 3)  # bits by which the trunk's rare peaks may be cut for a finer grid


def denoised(net: StreamNet, x: Tensor) -> Tensor:
    """Offline estimate of [B, C, T], aligned: sample t is that of the input's sample t.

    Before the first sample there is silence; after the last one, the last one.
    """
    delay, hop = net.spec.delay, net.spec.hop
    length = x.shape[2]
    pad = delay + (-(length + delay)) % hop
    long = torch.cat([x, x[:, :, -1:].expand(-1, -1, pad)], 2)
    out: Tensor = net(long, net.initial_state(len(x)))[0]
    return out[:, :, delay : delay + length]


class StreamPhase:
    """Training of a stream denoiser on mixtures made as it goes.

    Args:
        name: of the phase.
        module: the net.
        recipe: its table.
        schedule: length and learning rate.
        data: what training may see.
        seed: of the noise.
        coarse: fraction of the phase in bfloat16.
        levels: gains of the devices that are validated on.
    """

    def __init__(
        self,
        name: str,
        module: StreamNet,
        recipe: DenoiseRecipe,
        schedule: Schedule,
        data: DenoiseData,
        *,
        seed: int,
        coarse: float = 0.0,
        levels: Sequence[float] = (1.0,),
    ) -> None:
        self.name, self.module, self.schedule = name, module, schedule
        self.recipe, self.data, self.coarse = recipe, data, coarse
        self.bank = bank_of(recipe, data, seed)
        self.held: Sequence[HeldMixture] = ()
        if recipe.target == "clean":
            self.held = validation_mixtures(recipe, data, levels=levels)

    def estimate(self, x: Tensor) -> Tensor:
        """Centered input to centered estimate; the output still lags."""
        center = self.module.center
        out: Tensor = self.module(x + center, self.module.initial_state(len(x)))[0]
        return out.float() - center

    def _errors(self, batch: Mixture) -> tuple[Tensor, Tensor]:
        """Mean squared error and power of the target, per crop and channel."""
        x, target, weight = batch
        x = x[:, :, : x.shape[2] // self.module.spec.hop * self.module.spec.hop]
        out = self.estimate(x)
        delay, settle = self.module.spec.delay, self.recipe.settle
        out = out[:, :, settle + delay :]
        target = target[:, :, settle : x.shape[2] - delay]
        weight = weight[:, :, settle : x.shape[2] - delay]
        return ((out - target).square() * weight).mean(2), target.var(2)

    def loss(self, done: float, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Logarithm of each crop's error over its signal's power, plus a little of it plain."""
        with torch.no_grad():
            batch = self.data.crops(self.recipe, self.bank, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=done < self.coarse):
            error, power = self._errors(batch)
        relative = error / power.clamp_min(1.0)
        if self.recipe.target == "clean":
            loss = torch.log(relative + FLOOR).mean() + SQUARED * relative.mean()
        else:  # the mean is what averages the target's own noise out
            loss = relative.mean()
        return loss, {"snr": float(-10 * torch.log10(relative.detach() + 1e-9).mean())}

    def validate(self) -> dict[str, float]:
        """SNR in dB at each test SNR; without clean truth, the error of the held-out targets."""
        if self.recipe.target != "clean":
            return self._blind()
        found: dict[str, list[float]] = {}
        for m in self.held:
            value = mean_snr_db(self.module, m, skip=self.recipe.settle)
            found.setdefault(f"snr_at_{m.snr_db:g}_db", []).append(value)
        metrics = {k: sum(v) / len(v) for k, v in found.items()}
        return {"objective": -sum(metrics.values()) / len(metrics), **metrics}

    def _blind(self) -> dict[str, float]:
        generator = torch.Generator().manual_seed(7)
        split = two_takes if self.recipe.target == "noise2noise" else hidden
        total, n = 0.0, 0
        for segment in self.data.validation.segments:
            if segment.shape[1] < self.recipe.settle + 2 * self.module.spec.delay + 64:
                continue
            error, power = self._errors(split(segment[None, :, : 1 << 16], generator))
            total, n = total + float((error / power.clamp_min(1.0)).mean()), n + 1
        return {"objective": total / max(n, 1), "relative_error": total / max(n, 1)}


def mean_snr_db(net: StreamNet, mixture: HeldMixture, *, skip: int = 0) -> float:
    """Output SNR of a held-out mixture, mean over channels; the first ``skip`` do not count."""
    with torch.no_grad():
        out = denoised(net, mixture.noisy[None] + net.center)[0] - net.center[0]
    clean, out = mixture.clean[:, skip:].double(), out[:, skip:].double()
    error = (clean - out).square().mean(1).clamp_min(1e-9)
    return float((10 * torch.log10(clean.var(1, correction=0) / error)).mean())


def quantize_stream(phase: StreamPhase) -> None:
    """Calibrate on training crops, fix every grid, switch to dyadic arithmetic."""
    generator = torch.Generator().manual_seed(0)
    set_quantized(phase.module, False)
    with torch.no_grad(), calibrating(phase.module):
        for _ in range(CALIBRATION_BATCHES):
            x, _, _ = phase.data.crops(phase.recipe, phase.bank, generator)
            phase.estimate(x[:, :, : x.shape[2] // phase.module.spec.hop * phase.module.spec.hop])
    _choose_trunk_grid(phase)


def _choose_trunk_grid(phase: StreamPhase) -> None:
    """Fix the grids; the trunk's so that it holds the largest sum, or cuts it if that is better."""
    net = phase.module
    peaks = [(p, p.clone()) for p in (net.trunk.seen_peak, net.trunk.first.seen_peak)]
    found = []
    for cut in TRUNK_CUTS:
        for peak, seen in peaks:
            peak.copy_(seen * 2.0**-cut)
        set_quantized(net, False)
        net.connect()
        set_quantized(net, True)
        with torch.no_grad():
            found.append((phase.validate()["objective"], cut))
    best = min(found)[1]
    for peak, seen in peaks:
        peak.copy_(seen * 2.0**-best)
    net.connect()


def train_stream_denoiser(run: RunFolder, *, progress: Progress) -> None:
    """The float phase, ``denoise``."""
    recipe, table = run.recipe(), denoise_table(run)
    data = load_denoise_data(run)
    torch.manual_seed(recipe.seed)
    schedule = float_schedule(table)
    net = StreamNet(stream_spec(table, data.setup, data.train))
    phase = StreamPhase(
        "denoise", net, table, schedule, data, seed=recipe.seed, coarse=table.coarse
    )  # fmt: skip
    run_phase(phase, run, seed=recipe.seed, progress=progress)


def quantize_stream_denoiser(run: RunFolder, *, progress: Progress) -> dict[str, Any]:
    """The dyadic phase, ``denoise-q``; validation metrics before and after."""
    recipe, table = run.recipe(), denoise_table(run)
    data, seed = load_denoise_data(run), recipe.seed + 1
    net = StreamNet(stream_spec(table, data.setup, data.train))
    run.load_phase("denoise", net)
    schedule = dyadic_schedule(recipe, table)
    ends = (2.0**-table.gain, 1.0, 2.0**table.gain)  # grids are chosen so that they hold all levels
    phase = StreamPhase(
        "denoise-q", net, table, schedule, data, seed=seed, levels=ends if table.gain else (1.0,)
    )
    return run_dyadic_phase(
        phase, lambda: quantize_stream(phase), run, seed=seed, progress=progress
    )


def load_stream_denoiser(run: RunFolder, *, quantized: bool = True) -> StreamNet:
    """A run's net, on its dyadic grids or in float.

    Raises:
        ModelError: that phase is not finished.
    """

    def build() -> StreamNet:
        data = load_denoise_data(run)
        return StreamNet(stream_spec(denoise_table(run), data.setup, data.train))

    return load_net(run, build, quantized=quantized)


def stream_metrics(run: RunFolder, *, limit: int | None = None) -> dict[str, Any]:
    """Test SNR in float and as quantized, per recording and as their mean."""
    data = load_denoise_data(run)
    table: dict[str, Any] = {"unit": "dB"}
    found = held_mixtures(run.recipe(), data, limit=limit)
    for name, quantized in (("float", False), ("dyadic", True)):
        net = load_stream_denoiser(run, quantized=quantized)
        scores: dict[str, dict[str, list[float]]] = {}
        for m in found:
            row = scores.setdefault(f"{m.snr_db:g}", {})
            row.setdefault(m.name.split("/")[0], []).append(mean_snr_db(net, m))
        table[name] = {
            snr: {
                **{k: round(sum(v) / len(v), 2) for k, v in row.items()},
                "mean": round(sum(sum(v) / len(v) for v in row.values()) / len(row), 2),
            }
            for snr, row in scores.items()
        }
    return table
