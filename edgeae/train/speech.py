"""Speech and noise to train a denoiser on: files, other voices made of one, mixtures.

A single speaker's recordings say little about other people's. So each recording is also spoken by
others: linear prediction splits it into an excitation and an envelope, the excitation is slowed
down or sped up (pitch), the envelope is stretched (formants), and both are put together again.
Each crop is then coloured, band-limited and put in a room at random.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeae.errors import ConfigError, DependencyError, SignalError
from edgeae.runtime.stft import StftSpec
from edgeae.train.download import data_folder

__all__ = [
    "RATE_HZ",
    "Mixing",
    "Noises",
    "SpeechMixer",
    "audio_files",
    "folder_of",
    "hash_of",
    "read_audio",
    "read_noises",
    "read_speech",
    "resampled",
    "revoiced",
    "said",
]

Floats = NDArray[np.float32]

RATE_HZ = 16_000
VOICES = 4
"""Other voices that each recording is spoken in."""
PITCH = (0.48, 1.45)
"""Lowest and highest factor of another voice's pitch."""

_ORDER = 20  # of the linear prediction
_FRAME, _STEP = 512, 128
_SUFFIXES = (".flac", ".ogg", ".wav")
SILENT = 1e-4  # recordings of noise are cut where they begin and end in less


def read_audio(path: str | Path) -> tuple[Floats, int]:
    """First channel of a FLAC, Ogg or WAV file, and its rate.

    Raises:
        DependencyError: soundfile is missing.
        SignalError: not such a file.
    """
    try:
        import soundfile
    except ImportError as error:
        raise DependencyError("soundfile", "train") from error
    try:
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise SignalError(f"cannot read {path}: {error}") from error
    return np.ascontiguousarray(samples[:, 0]), int(rate)


def resampled(x: Floats, rate: float, to: float = RATE_HZ) -> Floats:
    """Band-limited change of rate, of a whole recording at once."""
    if rate == to:
        return x
    n = max(1, round(len(x) * to / rate))
    padded = np.concatenate([x, np.zeros(max(16, len(x) // 50), np.float32)])
    m = round(len(padded) * to / rate)
    spectrum = np.fft.rfft(padded)
    kept = np.zeros(m // 2 + 1, complex)
    top = min(len(kept), len(spectrum))
    kept[:top] = spectrum[:top]
    return (np.fft.irfft(kept, m)[:n] * (m / len(padded))).astype(np.float32)


def _prediction(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filters [K, order + 1] that whiten frames [K, T]: linear prediction by autocorrelation."""
    power = np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]), 2 * frames.shape[1])) ** 2
    r = np.fft.irfft(power)[:, : _ORDER + 1]
    r[:, 0] = r[:, 0] * 1.0005 + 1e-7
    lag = np.abs(np.subtract.outer(np.arange(_ORDER), np.arange(_ORDER)))
    solved = np.linalg.solve(r[:, lag], r[:, 1:, None])[..., 0]
    return np.concatenate([np.ones((len(r), 1)), -solved], 1)


def _overlapped(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of frames [K, T] that start _STEP apart."""
    parts = frames.reshape(len(frames), -1, _STEP)
    out = np.zeros((len(frames) + parts.shape[1], _STEP))
    for i in range(parts.shape[1]):
        out[i : i + len(frames)] += parts[:, i]
    return out.ravel()


def revoiced(x: Floats, pitch: float, formant: float, rng: np.random.Generator) -> Floats:
    """A recording with its pitch and its formants moved by two factors; 1 / pitch as long."""
    taper = np.sin(np.pi * (np.arange(_FRAME) + 0.5) / _FRAME) ** 2 * (2 * _STEP / _FRAME)
    room = np.pad(x.astype(np.float64), (_FRAME, _FRAME + _STEP))
    view = np.lib.stride_tricks.sliding_window_view(room, _FRAME + _ORDER)[::_STEP]
    filters = _prediction(view[:, _ORDER:])
    white = sum(filters[:, k, None] * view[:, _ORDER - k : _ORDER - k + _FRAME]
                for k in range(_ORDER + 1))  # fmt: skip
    excitation = _overlapped(white * taper).astype(np.float32)
    moved = resampled(excitation, pitch, 1.0).astype(np.float64)
    if pitch < 1:  # the band above the slowed excitation's is noise, as loud as the rest
        loud = np.convolve(np.abs(moved), np.full(_STEP, 1 / _STEP), "same")
        spectrum = np.fft.rfft(rng.standard_normal(len(moved)) * loud)
        spectrum[: int(pitch * len(spectrum))] = 0
        moved += np.fft.irfft(spectrum, len(moved))
    frames = np.lib.stride_tricks.sliding_window_view(moved, _FRAME)[::_STEP]
    source = np.minimum((np.arange(len(frames)) * pitch).astype(int), len(filters) - 1)
    response = np.fft.rfft(filters[source], 2 * _FRAME)
    bins = np.minimum(np.round(np.arange(_FRAME + 1) / formant).astype(int), _FRAME)
    shaped = np.fft.irfft(np.fft.rfft(frames * taper, 2 * _FRAME) / response[:, bins])
    out = _overlapped(shaped)[int(_FRAME / pitch) :][: round(len(x) / pitch)]
    scale = float(np.sqrt(np.mean(np.square(x)))) / max(float(np.sqrt(np.mean(out * out))), 1e-9)
    return (out * scale).astype(np.float32)


def in_room(x: Floats, rng: np.random.Generator) -> Floats:
    """A recording as in a small room: with a random, decaying echo."""
    taps = RATE_HZ // 4
    decay = np.exp(-np.arange(taps) / (RATE_HZ * rng.uniform(0.1, 0.4) / 6.9))
    tail = rng.standard_normal(taps) * decay
    tail[: int(rng.uniform(0.001, 0.02) * RATE_HZ)] = 0
    tail *= 10 ** (-rng.uniform(3, 15) / 20) / np.sqrt(np.sum(tail**2) + 1e-12)
    tail[0] = 1
    size = 1 << (len(x) + taps).bit_length()
    heard = np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(tail, size), size)
    return heard[: len(x)].astype(np.float32)


def another_voice(rng: np.random.Generator) -> tuple[float, float]:
    """Factors of pitch and formants: lower voices come, more or less, out of longer throats."""
    pitch = float(np.exp(rng.uniform(*np.log(PITCH))))
    return pitch, float(np.clip(pitch**0.25 * np.exp(rng.uniform(-0.1, 0.1)), 0.78, 1.2))


def said(
    recordings: Sequence[Floats], seed: int, *, voices: int = VOICES, room: float = 0.35
) -> tuple[Floats, ...]:
    """What a speaker says, and what others would: one long recording each, with pauses.

    Args:
        recordings: of one speaker; every one is a new voice in each of the others' recordings.
        seed: of what is random.
        voices: how many times others say it all.
        room: share of what is said in a room.
    """
    rng = np.random.default_rng(seed)
    found = []
    for voice in range(1 + voices):
        parts: list[Floats] = []
        for x in recordings:
            spoken = revoiced(x, *another_voice(rng), rng) if voice else x
            if rng.random() < room:
                spoken = in_room(spoken, rng)
            gap = np.zeros(int(rng.uniform(0.05, 0.5) * RATE_HZ), np.float32)
            parts += [spoken / max(float(np.sqrt(np.mean(spoken**2))), 1e-6) * 0.1, gap]
        found.append(np.concatenate(parts))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How crops are changed and mixed.

    Attributes:
        snr_db: lowest and highest signal-to-noise ratio.
        speed: largest factor (and its inverse) of a crop's speed, pitch and formants with it.
        telephone: share of speech that ends near 4 kHz.
        equalizer_db: standard deviation of the random colouring.
        second: share of mixtures with a second noise.
        synthetic: share of coloured random noise.
    """

    snr_db: tuple[float, float] = (-5.0, 15.0)
    speed: float = 1.15
    telephone: float = 0.5
    equalizer_db: float = 4.0
    second: float = 0.25
    synthetic: float = 0.1


class SpeechMixer:
    """Spectra of mixtures of speech and noise, with the truth beside them.

    Args:
        speech: long recordings at 16 kHz; each is a voice.
        noise: recordings of noise at 16 kHz, by kind.
        mixing: how they are changed.
        front: the front end, whose spectra they are.
    """

    def __init__(
        self,
        speech: Sequence[Floats],
        noise: Sequence[Sequence[Floats]],
        mixing: Mixing,
        front: StftSpec,
    ) -> None:
        if not speech or not noise or not all(noise):
            raise ConfigError("there is no speech, or no noise, to mix")
        self.speech, self.noise, self.mixing, self.front = speech, noise, mixing, front
        lengths = np.array([len(s) for s in speech], float)
        self._share = lengths / lengths.sum()
        self._taper = torch.from_numpy(front.taper.astype(np.float32))

    def spectra(self, x: Tensor) -> Tensor:
        """Complex [N, F, K] of samples [N, T], the first frame half before the first sample."""
        front = self.front
        room = torch.nn.functional.pad(x, (front.window - front.hop, 0))
        return torch.stft(
            room, front.window, front.hop, window=self._taper, center=False, return_complex=True
        )

    def _crop(self, x: Floats, length: int, rng: np.random.Generator, speed: float) -> Floats:
        """A stretch at its own or at a random speed."""
        ratio = float(np.exp(rng.uniform(-1, 1) * np.log(speed)))
        need = int(length * ratio) + 2
        if len(x) < need:
            x = np.tile(x, -(-need // len(x)))
        start = int(rng.integers(len(x) - need + 1))
        part = torch.from_numpy(x[start : start + need])
        moved = torch.nn.functional.interpolate(
            part.view(1, 1, -1), size=length, mode="linear", align_corners=True
        )
        return moved.view(-1).numpy()

    def _noise(self, length: int, rng: np.random.Generator) -> Floats:
        if rng.random() < self.mixing.synthetic:
            white = rng.standard_normal(length, np.float32)
            return white * np.float32(0.1)
        kind = self.noise[int(rng.integers(len(self.noise)))]
        return self._crop(kind[int(rng.integers(len(kind)))], length, rng, 1.4)

    def _colours(self, n: int, rng: np.random.Generator, *, speech: bool) -> Tensor:
        """Random gains per bin [n, F, 1]: a microphone's, a line's."""
        m = self.mixing
        hertz = np.linspace(0, RATE_HZ / 2, self.front.n_bins)
        knots = np.array([0, 100, 250, 500, 1000, 2000, 3000, 4500, 8000.0])
        out = np.empty((n, len(hertz)))
        for i in range(n):
            out[i] = np.interp(hertz, knots, rng.normal(0, m.equalizer_db, len(knots)))
            if speech and rng.random() < 0.5:
                low = rng.uniform(60, 300)
                out[i] -= 18 * np.clip(np.log2(low / np.maximum(hertz, 10)), 0, 3)
            if speech and rng.random() < m.telephone:
                out[i] -= np.clip((hertz - rng.uniform(3300, 4000)) * 0.2, 0, 90)
        gains = 10 ** (out / 20)
        return torch.from_numpy(gains.astype(np.float32))[:, :, None]

    def batch(self, n: int, length: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Speech and the mixture of it with noise, spectra [n, F, K] of ``length`` samples."""
        m = self.mixing
        voices = rng.choice(len(self.speech), n, p=self._share)
        speech = np.stack([self._crop(self.speech[v], length, rng, m.speed) for v in voices])
        noise = np.stack([self._noise(length, rng) for _ in range(n)])
        for i in np.flatnonzero(rng.random(n) < m.second):
            other = self._noise(length, rng)
            both = np.sqrt(np.mean(noise[i] ** 2) / (np.mean(other**2) + 1e-12))
            noise[i] += other * np.float32(min(both, 1e3) * 10 ** (rng.uniform(-10, 5) / 20))
        clean = self.spectra(torch.from_numpy(speech)) * self._colours(n, rng, speech=True)
        dirt = self.spectra(torch.from_numpy(noise)) * self._colours(n, rng, speech=False)
        power = _power(clean)
        ratio = torch.from_numpy(rng.uniform(*m.snr_db, (n, 1, 1)).astype(np.float32))
        gain = torch.sqrt(power / _power(dirt)) * 10 ** (-ratio / 20)
        mixture = clean + dirt * gain
        level = torch.from_numpy(rng.uniform(-45, -12, (n, 1, 1)).astype(np.float32))
        scale = 10 ** (level / 20) / torch.sqrt(_power(mixture))
        scale = scale * self.front.hop**0.5  # a frame's bins hold half of a window's power
        return clean * scale, mixture * scale


def _power(spectra: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(torch.view_as_real(spectra), dim=(1, 2, 3))
    power: Tensor = (norm.square() / spectra[0].numel()).view(-1, 1, 1) + 1e-6
    return power


def folder_of(source: str) -> Path:
    """A folder by its path, or by its name in the folder EDGEAE_DATA.

    Raises:
        ConfigError: there is no such folder.
    """
    for path in (Path(source), data_folder() / source):
        if source and path.is_dir():
            return path
    raise ConfigError(
        f"there is no folder {source!r}; give a path, or set the variable EDGEAE_DATA to the "
        "folder that has it"
    )


def audio_files(folder: Path) -> list[Path]:
    """The recordings in a folder and below it, sorted.

    Raises:
        ConfigError: there are none.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise ConfigError(f"{folder} holds no recording ({', '.join(_SUFFIXES)})")
    return files


def hash_of(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's recordings."""
    digest = hashlib.sha256()
    for path in audio_files(folder):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def read_speech(folder: Path) -> tuple[list[Floats], list[Floats]]:
    """Recordings at 16 kHz to train on, and every tenth to validate on."""
    found = [resampled(*read_audio(path)) for path in audio_files(folder)]
    train = [x for i, x in enumerate(found) if i % 10 != 9]
    return train, [x for i, x in enumerate(found) if i % 10 == 9]


Noises = dict[str, list[tuple[str, Floats]]]
"""By kind (the folder that a file is in), the names and samples of recordings at 16 kHz."""


def read_noises(folder: Path, part: str) -> Noises:
    """Recordings of noise of one part: ``train``, ``val`` or ``test``.

    Files named ``FOLD-ORIGIN-...`` as those of ESC-10: the last fold is the test part, and one
    origin in nine of the others validates, so that no two parts share an origin. Other files: the
    last tenth, and a tenth of what is left.
    """
    files = audio_files(folder)
    names = [path.stem.split("-") for path in files]
    if all(len(name) > 2 and name[0].isdigit() for name in names):
        last = max(int(name[0]) for name in names)
        origins = sorted({name[1] for name in names if int(name[0]) < last})
        held = set(origins[4::9])
        part_of = [
            "test" if int(name[0]) == last else "val" if name[1] in held else "train"
            for name in names
        ]
    else:
        n = len(files)
        part_of = ["test" if 10 * i >= 9 * n else "val" if i % 10 == 4 else "train"
                   for i in range(n)]  # fmt: skip
    kinds: Noises = {}
    for path, of in zip(files, part_of, strict=True):
        if of != part:
            continue
        x = resampled(*read_audio(path))
        loud = np.flatnonzero(np.abs(x) > SILENT)
        if len(loud) > RATE_HZ // 2:
            samples = x[loud[0] : loud[-1]]
            kinds.setdefault(path.parent.name, []).append((path.name, samples))
    return kinds
