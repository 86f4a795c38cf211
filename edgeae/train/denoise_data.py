"""What a denoiser of series learns from: clean truth, noise to mix in, and held-out mixtures.

Everything is in grid indices around the setup's center. B crops, C channels, T samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgeae.errors import ConfigError
from edgeae.models.denoise import StreamSpec
from edgeae.tasks.denoise_level import spread_of
from edgeae.train.denoise_recipe import DenoiseRecipe
from edgeae.train.noise import NoisePart, make_noise, mix
from edgeae.train.phases import Signal
from edgeae.train.recipe import Recipe
from edgeae.train.run import RunFolder
from edgeae.train.setup import Setup, signal_of
from edgeae.train.training import read_part, setup_of

__all__ = [
    "DenoiseData",
    "HeldMixture",
    "Mixture",
    "NoiseBank",
    "bank_of",
    "held_mixtures",
    "hidden",
    "load_denoise_data",
    "mixtures",
    "stream_spec",
    "training_level",
    "two_takes",
    "validation_mixtures",
    "without_slow",
]

BANK_SAMPLES = 1 << 17  # of each kind of noise, in each take
BANK_TAKES = 8
RARE = 0.9999  # louder input than this may saturate
UPSIDE_DOWN = 0.3  # share of augmented crops
VALIDATION_SAMPLES = 1 << 16
SHAPED = sorted({f.name for f in fields(StreamSpec)} & {f.name for f in fields(DenoiseRecipe)})
"""What a recipe says of a stream's net, by the name that it has there too."""


def without_slow(x: NDArray[np.float64], cutoff_hz: float, rate_hz: float) -> NDArray[np.float64]:
    """A recording [T, C] without what is slower than ``cutoff_hz``, without delay.

    A Butterworth high-pass of second order, forth and back: power response 1/(1 + (f_c/f)^4)^2.

    Example:
        >>> t = np.arange(3600)[:, None] / 360.0
        >>> slow, fast = np.sin(0.2 * np.pi * t), np.sin(20 * np.pi * t)
        >>> bool(np.abs(without_slow(slow + fast, 1.0, 360.0) - fast)[360:-360].max() < 0.02)
        True
    """
    if cutoff_hz <= 0 or len(x) < 3:
        return x
    pad = min(len(x) - 1, int(4 * rate_hz / cutoff_hz))
    head = 2 * x[:1] - x[pad:0:-1]
    tail = 2 * x[-1:] - x[-2 : -pad - 2 : -1]
    long = np.concatenate([head, x, tail])
    f = np.fft.rfftfreq(len(long), 1 / rate_hz)
    gain = 1 / (1 + (cutoff_hz / np.maximum(f, 1e-9)) ** 4)
    out = np.fft.irfft(np.fft.rfft(long, axis=0) * gain[:, None], len(long), axis=0)
    return np.asarray(out[pad : pad + len(x)])


class NoiseBank:
    """Noise made once, cut at random places and mixed by random shares.

    Args:
        parts: the recipe's kinds.
        channels: C.
        rate_hz: samples per second.
        seed: decides the noise.
    """

    def __init__(
        self, parts: Sequence[NoisePart], channels: int, rate_hz: float, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        self.parts = [p for p in parts if p.additive and p.power > 0]
        self.takes = [
            torch.stack(
                [
                    torch.from_numpy(make_noise(p, BANK_SAMPLES, channels, rate_hz, rng).T.copy())
                    for _ in range(BANK_TAKES)
                ]
            ).float()
            for p in self.parts
        ]

    def draw(self, batch: int, length: int, generator: torch.Generator) -> Tensor:
        """Noise [B, C, T] of about unit power."""
        total = torch.zeros(())
        power = torch.zeros(batch, 1, 1)
        for part, takes in zip(self.parts, self.takes, strict=True):
            which = torch.randint(len(takes), (batch,), generator=generator).tolist()
            start = torch.randint(
                takes.shape[2] - length + 1, (batch,), generator=generator
            ).tolist()
            cut = torch.stack(
                [takes[w, :, s : s + length] for w, s in zip(which, start, strict=True)]
            )
            db = (torch.rand(batch, 1, 1, generator=generator) * 2 - 1) * part.spread_db
            share = part.power * 10 ** (db / 10)
            total = total + cut * share.sqrt()
            power = power + share
        return total / power.sqrt().clamp_min(1e-6)


@dataclass(frozen=True, kw_only=True)
class HeldMixture:
    """A held-out recording with noise, and its truth: [C, T] in indices around the center."""

    name: str
    snr_db: float
    clean: Tensor
    noisy: Tensor


Mixture = tuple[Tensor, Tensor, Tensor]
"""Input, target, and weight of each target sample, [B, C, T]."""


@dataclass(frozen=True, kw_only=True)
class DenoiseData:
    """The parts of a data set that training may see.

    Attributes:
        setup: what was read off the training part.
        train: truths (or noisy recordings, without clean targets), around the center.
        validation: the same of the validation part.
        rate_hz: samples per second.
    """

    setup: Setup
    train: Signal
    validation: Signal
    rate_hz: float

    def crops(
        self, recipe: DenoiseRecipe, bank: NoiseBank | None, generator: torch.Generator
    ) -> Mixture:
        """The next batch of noisy input and its target."""
        x = _augmented(self.train, recipe, generator)
        if recipe.target == "noise2noise":
            return two_takes(x, generator)
        if recipe.target == "blind-spot":
            return hidden(x, generator)
        assert bank is not None
        low, high = recipe.snr_db
        snr = low + (high - low) * torch.rand(len(x), 1, 1, generator=generator)
        size = x.std(2, keepdim=True).clamp_min(0.5) * 10 ** (-snr / 20)
        noise = size * bank.draw(len(x), x.shape[2], generator)
        if recipe.offset:
            drawn = torch.rand(*x.shape[:2], 1, generator=generator) * 2 - 1
            noise = noise + drawn * recipe.offset * self.train.spread.view(1, -1, 1)
        return torch.round(x + noise), x, torch.ones_like(x)


def two_takes(x: Tensor, generator: torch.Generator) -> Mixture:
    """Either half of the channels is the target of the other, at random."""
    first, second = x.chunk(2, 1)
    swap = torch.rand(len(x), 1, 1, generator=generator) < 0.5
    return (
        torch.where(swap, second, first),
        torch.where(swap, first, second),
        torch.ones_like(first),
    )


HIDDEN_SHARE = 0.08
NEAR = 4  # a hidden sample shows one at most this far away


def hidden(x: Tensor, generator: torch.Generator) -> Mixture:
    """Random samples are replaced by near ones in the input; only these count as targets."""
    mask = torch.rand(x.shape, generator=generator) < HIDDEN_SHARE
    far = torch.randint(1, NEAR + 1, x.shape, generator=generator)
    sign = torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
    at = torch.arange(x.shape[2]).expand(x.shape) + far * sign
    at = torch.where((at < 0) | (at >= x.shape[2]), at - 2 * far * sign, at)
    shown = torch.where(mask, x.gather(2, at), x)
    return shown, x, mask.float() / HIDDEN_SHARE


def _augmented(train: Signal, recipe: DenoiseRecipe, generator: torch.Generator) -> Tensor:
    """Crops at other gains, paces, shapes and mountings; some upside down."""
    wanted = recipe.crop + int(recipe.crop * recipe.pace)
    roomy = any(s.shape[-1] >= wanted for s in train.segments)  # to be quickened
    x = train.crops(recipe.batch, wanted if roomy else recipe.crop, generator)
    n, channels = x.shape[:2]
    if recipe.pace:
        x = _repaced(x, recipe.crop, recipe.pace, generator)
    if recipe.leads:
        x = _other_leads(x, recipe.leads, generator)
    if recipe.mounting:
        places = torch.rand(n, channels, generator=generator).argsort(1)
        x = x.gather(1, places[:, :, None].expand_as(x))
    if recipe.gain:
        gain = torch.exp2((torch.rand(n, channels, 1, generator=generator) * 2 - 1) * recipe.gain)
        down = torch.rand(n, channels, 1, generator=generator) < UPSIDE_DOWN
        x = x * torch.where(down, -gain, gain)
    return x


def _repaced(x: Tensor, length: int, pace: float, generator: torch.Generator) -> Tensor:
    """Each crop quicker or slower, cut to ``length``."""
    room = (x.shape[2] - 1) / max(length - 1, 1)
    factor = 1 + (torch.rand(len(x), 1, generator=generator) * 2 - 1) * pace
    at = torch.arange(length) * factor.clamp(max=room)
    low = at.floor().long().clamp(max=x.shape[2] - 2)
    rest = (at - low)[:, None]
    index = low[:, None].expand(-1, x.shape[1], -1)
    return x.gather(2, index) * (1 - rest) + x.gather(2, index + 1) * rest


LEAD_TAPS, SLOW_TAPS = 33, 145


def _other_leads(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """The same events as another electrode would see them: a random short filter per crop."""
    n, channels, length = x.shape
    taps = torch.randn(n * channels, 1, LEAD_TAPS, generator=generator)
    window = torch.hann_window(LEAD_TAPS + 2, periodic=False)[1:-1]
    smooth = torch.tensor([[[1.0, 2.0, 3.0, 2.0, 1.0]]])
    taps = F.conv1d(taps, smooth / smooth.norm(), padding=2) * window
    size = strength * torch.rand(n * channels, 1, 1, generator=generator)
    taps = taps / taps.norm(dim=2, keepdim=True) * size
    taps[:, :, LEAD_TAPS // 2] += 1
    flat = x.reshape(1, n * channels, length)
    out = F.conv1d(flat, taps, padding=LEAD_TAPS // 2, groups=n * channels).view_as(x)
    slow = torch.hann_window(SLOW_TAPS).view(1, 1, -1) / (SLOW_TAPS / 2)
    more = F.conv1d(x.reshape(n * channels, 1, length), slow, padding=SLOW_TAPS // 2).view_as(x)
    out = out + more * strength * torch.randn(n, channels, 1, generator=generator)
    return out * (x.std(2, keepdim=True) / out.std(2, keepdim=True).clamp_min(1e-3))


def _centered(signal: Signal, setup: Setup, recipe: DenoiseRecipe, rate_hz: float) -> Signal:
    center = np.array(setup.center, np.float64)
    segments = []
    for s in signal.segments:
        x = without_slow(s.T.double().numpy() - center, recipe.highpass_hz, rate_hz)
        segments.append(torch.from_numpy(np.ascontiguousarray(x.T.astype(np.float32))))
    return Signal(segments=tuple(segments), spread=signal.spread)


def load_denoise_data(run: RunFolder) -> DenoiseData:
    """Read the run's data; the setup is made on first use and kept.

    Raises:
        ConfigError: the data changed since, or cannot be used for the recipe.
    """
    recipe = run.recipe()
    part = read_part(recipe, "train")
    setup = setup_of(run, part)
    table = _table(recipe)
    rate = part.rate_hz
    if rate is None:
        raise ConfigError(
            "a denoiser must know how fast its signal is sampled: set data.rate_hz in the recipe"
        )
    train, validation = (
        _centered(signal_of(d, setup), setup, table, rate) for d in (part, read_part(recipe, "val"))
    )
    if not any(s.shape[-1] >= table.crop for s in train.segments):
        longest = max(s.shape[-1] for s in train.segments)
        raise ConfigError(
            f"the longest training segment has {longest} samples and a crop needs {table.crop}; "
            f"set denoise.crop to at most {longest}"
        )
    if table.target == "noise2noise" and setup.channels % 2:
        raise ConfigError(
            "denoise.target = 'noise2noise' needs two takes of every channel: the first half of "
            f"the channels, then the second half; the data have {setup.channels}"
        )
    return DenoiseData(setup=setup, train=train, validation=validation, rate_hz=rate)


def _table(recipe: Recipe) -> DenoiseRecipe:
    if recipe.denoise is None:
        raise ConfigError(f"the recipe {recipe.name!r} is no denoiser's")
    return recipe.denoise


def stream_spec(recipe: DenoiseRecipe, setup: Setup, train: Signal) -> StreamSpec:
    """The net's shape, with ranges read off the data and the loudest noise of the recipe."""
    channels = setup.channels
    takes = channels // 2 if recipe.target == "noise2noise" else channels
    spread = np.array([torch.cat([s[c] for s in train.segments]).std() for c in range(takes)])
    loudest = spread.copy()
    if recipe.target == "clean":
        loudest = spread * np.sqrt(1 + 10 ** (-recipe.snr_db[0] / 10)) * 2**recipe.gain
        loudest += recipe.offset * train.spread[:takes].numpy() / 5
    peaks = np.array(
        [
            max(float(np.quantile(s[c].abs().numpy(), RARE)) for s in train.segments)
            for c in range(takes)
        ]
    )
    top = 2 ** (recipe.input_bits - 1) - 1
    need = np.maximum(5 * loudest, peaks * 2 ** (recipe.gain / 2))
    shift = tuple(max(0, int(np.ceil(np.log2(v / top)))) for v in need)
    mean = float(np.mean(spread / 2.0 ** np.array(shift)))
    return StreamSpec(
        n_in=takes,
        n_out=takes,
        center=setup.center[:takes],
        shift=shift,
        exponent=int(np.clip(np.round(np.log2(max(mean, 1.0))), 0, 10)),
        **{name: getattr(recipe, name) for name in SHAPED},
    )


def training_level(recipe: DenoiseRecipe, data: DenoiseData) -> tuple[float, ...] | None:
    """How far the training signals spread within a second, per channel that the net is given.

    None where none of them lasts a second.
    """
    second = max(1, round(data.rate_hz))
    pieces = [s[:, : s.shape[1] // second * second].double().numpy() for s in data.train.segments]
    whole = np.concatenate(pieces, axis=1)
    if not whole.shape[1]:
        return None
    takes = len(whole) // 2 if recipe.target == "noise2noise" else len(whole)
    found = spread_of(whole[:takes], data.rate_hz)
    return tuple(float(v) for v in np.maximum(found, 1e-3))


def mixtures(
    signal: Signal,
    names: Sequence[str],
    recipe: DenoiseRecipe,
    rate_hz: float,
    *,
    seed: int,
    limit: int | None = None,
    level: float = 1.0,
) -> list[HeldMixture]:
    """Each recording at each of the recipe's test SNRs, with noise decided by the seed.

    Args:
        signal: the recordings.
        names: of them.
        recipe: SNRs, noise and offset.
        rate_hz: samples per second.
        seed: decides noise and offset.
        limit: samples of each recording.
        level: gain of another device, which amplifies signal, noise and offset alike.
    """
    found = []
    for i, segment in enumerate(signal.segments):
        clean = segment[:, :limit]
        for snr in recipe.test_snr_db:
            rng = np.random.default_rng([seed, i, round(1000 * snr) & 0xFFFF])
            noisy = mix(clean.T.double().numpy(), recipe.noise, snr, rate_hz, rng)
            spread = signal.spread.double().numpy()[: noisy.shape[1]]
            noisy += rng.uniform(-1, 1, noisy.shape[1]) * recipe.offset * spread
            found.append(
                HeldMixture(
                    name=names[i],
                    snr_db=snr,
                    clean=clean * level,
                    noisy=torch.from_numpy(np.round(noisy * level).T.astype(np.float32)),
                )
            )
    return found


def bank_of(recipe: DenoiseRecipe, data: DenoiseData, seed: int) -> NoiseBank | None:
    """The noise to train with; None where the data bring their own."""
    if recipe.target != "clean":
        return None
    if not any(p.additive for p in recipe.noise):
        raise ConfigError("denoise.noise names nothing that can be added")
    return NoiseBank(recipe.noise, data.setup.channels, data.rate_hz, seed)


def validation_mixtures(
    recipe: DenoiseRecipe, data: DenoiseData, *, levels: Sequence[float] = (1.0,)
) -> list[HeldMixture]:
    """What the phases validate on, at each of the levels."""
    segments = data.validation.segments
    names = [str(i) for i in range(len(segments))]
    share = max(VALIDATION_SAMPLES // len(segments) // len(levels), 4 * recipe.settle)
    return [
        mixture
        for level in levels
        for mixture in mixtures(
            data.validation, names, recipe, data.rate_hz, seed=7, limit=share, level=level
        )
    ]


def held_mixtures(
    recipe: Recipe, data: DenoiseData, *, seed: int = 11, limit: int | None = None
) -> list[HeldMixture]:
    """The recipe's test recordings, with noise decided by the seed."""
    table, part = _table(recipe), read_part(recipe, "test")
    signal = _centered(signal_of(part, data.setup), data.setup, table, data.rate_hz)
    return mixtures(signal, part.names, table, data.rate_hz, seed=seed, limit=limit)
