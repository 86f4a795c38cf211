"""Training of a speech denoiser: a causal net that weights each band of each frame.

The net sees the log-powers that the runtime's own front end makes (``runtime/stft.py``) and gives
a mask, which ``speech_loss.py`` judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeae.errors import ConfigError
from edgeae.metrics import si_sdr_db
from edgeae.models.dyadic import calibrating, set_quantized
from edgeae.models.mask import MaskNet, MaskSpec
from edgeae.runtime.stft import LOG_STEPS, StftFrontEnd, StftSpec
from edgeae.train.denoise_recipe import DenoiseRecipe
from edgeae.train.denoise_steps import (
    denoise_table,
    dyadic_schedule,
    float_schedule,
    load_net,
    run_dyadic_phase,
)
from edgeae.train.run import Progress, RunFolder, Schedule, run_phase
from edgeae.train.speech import (
    RATE_HZ,
    Mixing,
    SpeechMixer,
    folder_of,
    hash_of,
    read_noises,
    read_speech,
    said,
)
from edgeae.train.speech_loss import Bands, SpeechLoss, bands_of
from edgeae.train.speech_test import mixtures, sentences_of

__all__ = [
    "FRONT",
    "SpeechPhase",
    "denoised_speech",
    "load_speech_data",
    "load_speech_denoiser",
    "mask_spec",
    "quantize_speech",
    "quantize_speech_denoiser",
    "speech_metrics",
    "speech_net",
    "train_speech_denoiser",
]

Voices = tuple[NDArray[np.float32], ...]

FRONT = StftSpec()
VOICE_SCALE = 16000.0  # of the int16 that voices are kept in
KEPT, USES = 24, 3  # batches of mixtures kept, and how often each is learnt from
HELD_BATCHES, HELD_BATCH, HELD_CROP = 3, 16, 3 * RATE_HZ


def mask_spec(
    front: StftSpec, *, width: int, dilations: tuple[int, ...], bits: int = 11
) -> MaskSpec:
    """The net's shape behind a front end."""
    return MaskSpec(
        n_in=front.n_bands,
        n_out=front.n_bands,
        hop=1,
        first=2,
        width=width,
        kernel=3,
        dilations=dilations,
        delay=0,
        center=(0,) * front.n_bands,
        shift=(0,) * front.n_bands,
        exponent=6,
        input_bits=front.peak.bit_length() + 1,
        bits=bits,
        out_bits=front.mask_exponent + 1,
        out_relu=True,
        out_exponent=front.mask_exponent,
    )


def speech_net(spec: MaskSpec) -> MaskNet:
    """A net that begins by letting half of everything through."""
    net = MaskNet(spec)
    with torch.no_grad():
        net.last.bias.fill_(0.5)
    return net


def features_of(front: StftSpec, noisy_power: Tensor) -> Tensor:
    """The net's input [N, B, K] as the runtime makes it, but for a power's last bits.

    Args:
        front: the front end.
        noisy_power: the mixture's power summed over each band, [N, B, K].
    """
    n_bins = torch.from_numpy(np.bincount(front.band_of_bin)).view(1, -1, 1)
    power = noisy_power * ((np.pi / front.window) ** 2 / n_bins) + front.floor
    logs = torch.floor(LOG_STEPS * torch.log2(power)).to(torch.int32)
    level, seen = front.first_level(len(logs))
    rows = np.ascontiguousarray(logs.transpose(1, 2).numpy())
    return torch.from_numpy(front.features(rows, level, seen))


class SpeechPhase:
    """Training of a mask net, in float or on dyadic grids.

    Args:
        name: of the phase.
        module: the net.
        schedule: length and learning rate.
        mixer: mixtures to train on.
        held: (clean, noisy) spectra [N, F, K] to validate on.
        front: the front end.
        batch: crops per step.
        crop: samples per crop.
        coarse: fraction of the phase in bfloat16.
    """

    def __init__(
        self,
        name: str,
        module: MaskNet,
        schedule: Schedule,
        mixer: SpeechMixer,
        held: Sequence[tuple[Tensor, Tensor]],
        front: StftSpec,
        *,
        batch: int,
        crop: int,
        coarse: float = 0.0,
    ) -> None:
        self.name, self.module, self.schedule = name, module, schedule
        self.mixer, self.held, self.batch, self.front = mixer, held, batch, front
        self._kept: list[tuple[Bands, Tensor]] = []
        self.coarse, self.judge = coarse, SpeechLoss(front, RATE_HZ)
        self.crop = max(1, crop // front.hop) * front.hop

    def _judged(
        self, bands: Bands, features: Tensor, *, coarse: bool = False
    ) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast("cpu", torch.bfloat16, enabled=coarse):
            mask, _ = self.module(features, self.module.initial_state(len(features)))
        return self.judge(bands, mask.float().clamp(max=1.0))

    def _heard(self, clean: Tensor, noisy: Tensor) -> tuple[Bands, Tensor]:
        bands = bands_of(self.front, clean, noisy)
        return bands, features_of(self.front, bands.noisy / bands.scale)

    def _mixtures(self, generator: torch.Generator) -> tuple[Bands, Tensor]:
        """New mixtures, or some of before: to mix takes as long as to learn."""
        full = len(self._kept) == KEPT
        place = int(torch.randint(KEPT, (1,), generator=generator))
        if full and int(torch.randint(USES, (1,), generator=generator)):
            return self._kept[place]
        seed = int(torch.randint(2**62, (1,), generator=generator))
        found = self._heard(*self.mixer.batch(self.batch, self.crop, np.random.default_rng(seed)))
        if full:
            self._kept[place] = found
        else:
            self._kept.append(found)
        return found

    def loss(self, done: float, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Loss of the next mixtures."""
        bands, features = self._mixtures(generator)
        return self._judged(bands, features, coarse=done < self.coarse)

    def validate(self) -> dict[str, float]:
        """Loss on the held mixtures."""
        totals: dict[str, float] = {}
        for clean, noisy in self.held:
            loss, metrics = self._judged(*self._heard(clean, noisy))
            for name, value in {"objective": float(loss), **metrics}.items():
                totals[name] = totals.get(name, 0.0) + value / len(self.held)
        return totals


def quantize_speech(module: MaskNet, mixer: SpeechMixer, front: StftSpec) -> None:
    """Calibrate on training mixtures, fix every grid, switch to dyadic arithmetic."""
    rng = np.random.default_rng(0)
    set_quantized(module, False)
    with torch.no_grad(), calibrating(module):
        for _ in range(16):
            _, noisy = mixer.batch(16, 3 * RATE_HZ, rng)
            bands = bands_of(front, noisy, noisy)
            features = features_of(front, bands.noisy / bands.scale)
            module(features, module.initial_state(len(noisy)))
    module.connect()
    set_quantized(module, True)


@dataclass(frozen=True)
class SpeechData:
    """What a run trains and validates on."""

    mixer: SpeechMixer
    held: tuple[tuple[Tensor, Tensor], ...]


def _noise_folder(table: DenoiseRecipe) -> Path:
    folders = [part.folder for part in table.noise if part.kind == "recorded"]
    others = {part.kind for part in table.noise} - {"recorded", "white"}
    if len(folders) != 1 or others:
        raise ConfigError(
            "a speech denoiser's noise is one [[denoise.noise]] of kind 'recorded', and 'white' "
            f"beside it if you like; found {len(folders)} recorded"
            + (f" and {', '.join(sorted(others))}" if others else "")
        )
    return folder_of(folders[0])


def _voices(run: RunFolder, part: str, recordings: list[NDArray[np.float32]]) -> Voices:
    """What the speakers say, made once for each run: ``voices-PART.npz``."""
    path = run.path / f"voices-{part}.npz"
    if not path.exists():
        voices = said(recordings, seed=run.recipe().seed)
        rows = [np.clip(np.round(x * VOICE_SCALE), -32767, 32767).astype(np.int16) for x in voices]
        np.savez(path, *rows)
    with np.load(path) as archive:
        return tuple(archive[name].astype(np.float32) / VOICE_SCALE for name in archive.files)


def load_speech_data(run: RunFolder) -> SpeechData:
    """Read a run's speech and noise, and make its voices.

    Raises:
        ConfigError: a folder is missing or empty, or the recipe mixes other noise.
    """
    recipe, table = run.recipe(), denoise_table(run)
    noise, speech = _noise_folder(table), folder_of(recipe.data.source)
    if not (run.path / "setup.json").exists():
        hashes = {folder.name: hash_of(folder) for folder in (speech, noise)}
        run.write_json("setup.json", {"hashes": hashes})
    train, validation = read_speech(speech)
    white = sum(part.power for part in table.noise if part.kind == "white")
    recorded = sum(part.power for part in table.noise if part.kind == "recorded")
    mixing = Mixing(snr_db=table.snr_db, synthetic=white / (white + recorded))
    low, high = min(table.test_snr_db), max(table.test_snr_db)

    def mixer(part: str, recordings: list[NDArray[np.float32]], how: Mixing) -> SpeechMixer:
        kinds = [[x for _, x in kind] for kind in read_noises(noise, part).values()]
        return SpeechMixer(_voices(run, part, recordings), kinds, how, FRONT)

    held_mixer = mixer("val", validation, Mixing(snr_db=(low, high), synthetic=0.0))
    rng = np.random.default_rng(5)
    held = tuple(held_mixer.batch(HELD_BATCH, HELD_CROP, rng) for _ in range(HELD_BATCHES))
    return SpeechData(mixer("train", train, mixing), held)


def _net(run: RunFolder) -> MaskNet:
    table = denoise_table(run)
    return speech_net(
        mask_spec(FRONT, width=table.width, dilations=table.dilations, bits=table.bits)
    )


def _phase(
    name: str,
    run: RunFolder,
    net: MaskNet,
    schedule: Schedule,
    data: SpeechData,
    coarse: float = 0.0,
) -> SpeechPhase:
    table = denoise_table(run)
    return SpeechPhase(
        name,
        net,
        schedule,
        data.mixer,
        data.held,
        FRONT,
        batch=table.batch,
        crop=table.crop,
        coarse=coarse,
    )


def train_speech_denoiser(run: RunFolder, *, progress: Progress) -> None:
    """The float phase, ``denoise``."""
    recipe, table = run.recipe(), denoise_table(run)
    data = load_speech_data(run)
    torch.manual_seed(recipe.seed)
    schedule = float_schedule(table)
    phase = _phase("denoise", run, _net(run), schedule, data, table.coarse)
    run_phase(phase, run, seed=recipe.seed, progress=progress)


def quantize_speech_denoiser(run: RunFolder, *, progress: Progress) -> dict[str, Any]:
    """The dyadic phase, ``denoise-q``; validation metrics before and after."""
    recipe, table = run.recipe(), denoise_table(run)
    data = load_speech_data(run)
    net = _net(run)
    run.load_phase("denoise", net)
    phase = _phase("denoise-q", run, net, dyadic_schedule(recipe, table), data)
    return run_dyadic_phase(
        phase,
        lambda: quantize_speech(net, data.mixer, FRONT),
        run,
        seed=recipe.seed + 1,
        progress=progress,
    )


def load_speech_denoiser(run: RunFolder, *, quantized: bool = True) -> MaskNet:
    """A run's net, on its dyadic grids or in float.

    Raises:
        ModelError: that phase is not finished.
    """
    return load_net(run, lambda: _net(run), quantized=quantized)


def denoised_speech(net: MaskNet, x: NDArray[np.floating]) -> NDArray[np.float64]:
    """A recording [T] at 16 kHz, in -1..1, through a net and the runtime's front end, aligned."""
    hop, delay = FRONT.hop, FRONT.delay
    room = np.zeros((1, -(-(len(x) + delay) // hop) * hop))
    room[0, : len(x)] = x
    front = StftFrontEnd(FRONT)
    with torch.no_grad():
        mask, _ = net(torch.from_numpy(front.analyse(room)), net.initial_state(1))
    whole = (mask.numpy() * 2.0**FRONT.mask_exponent).astype(np.float32)
    return front.synthesise(whole)[0, delay : delay + len(x)]


def speech_metrics(run: RunFolder) -> dict[str, Any]:
    """SI-SDR of other voices (``data.test``) in noise kept for testing, in float and as quantized.

    Without other voices there is nothing to measure, and the result is empty.
    """
    recipe, table = run.recipe(), denoise_table(run)
    if not recipe.data.test:
        return {}
    sentences = sentences_of(folder_of(recipe.data.test))
    found = mixtures(sentences, read_noises(_noise_folder(table), "test"), table.test_snr_db)
    metrics: dict[str, Any] = {"unit": "SI-SDR in dB"}
    for name, quantized in (("float", False), ("dyadic", True)):
        net = load_speech_denoiser(run, quantized=quantized)
        rows: dict[str, list[float]] = {}
        for m in found:
            value = si_sdr_db(m.clean, denoised_speech(net, m.noisy))
            rows.setdefault(f"{m.snr_db:g}", []).append(value)
        metrics[name] = {snr: round(sum(v) / len(v), 2) for snr, v in rows.items()}
    return metrics
