"""Mixtures to test a speech denoiser on: other voices, noise that was not trained on.

Spoken digits (files named ``DIGIT_SPEAKER_INDEX.wav``, as those of the Free Spoken Digit Dataset)
are joined to sentences, each of one speaker; other recordings are sentences as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeae.train.speech import RATE_HZ, Noises, audio_files, read_audio, resampled

__all__ = ["SpeechMixture", "digit_sentences", "mixtures", "sentences_of"]

Floats = NDArray[np.float32]

_DIGIT = re.compile(r"(\d)_([a-z]+)_(\d+)")
_TEST_INDICES = 5  # of each digit and speaker: the data set's own test part
_MOST = 48


@dataclass(frozen=True, kw_only=True)
class SpeechMixture:
    """A sentence and what became of it in noise.

    Attributes:
        name: of the sentence and of the noise.
        speaker: who says it.
        snr_db: signal-to-noise ratio of the whole.
        clean: float32 [T] at 16 kHz, in -1..1.
        noisy: the same with noise.
    """

    name: str
    speaker: str
    snr_db: float
    clean: Floats
    noisy: Floats


def digit_sentences(folder: Path, *, per_speaker: int = 4, digits: int = 7) -> dict[str, Floats]:
    """Sentences of spoken digits at 16 kHz, named SPEAKER-NUMBER."""
    found: dict[tuple[str, str, int], Path] = {}
    for path in audio_files(folder):
        match = _DIGIT.fullmatch(path.stem)
        if match and int(match[3]) < _TEST_INDICES:
            found[match[2], match[1], int(match[3])] = path
    rng = np.random.default_rng(11)
    sentences = {}
    for speaker in sorted({speaker for speaker, _, _ in found}):
        own = sorted(key for key in found if key[0] == speaker)
        for number in range(per_speaker):
            parts = [np.zeros(RATE_HZ // 4, np.float32)]
            for pick in rng.integers(len(own), size=digits):
                x = resampled(*read_audio(found[own[pick]]))
                parts += [x, np.zeros(int(rng.uniform(0.05, 0.25) * RATE_HZ), np.float32)]
            sentences[f"{speaker}-{number}"] = np.concatenate(parts)
    return sentences


def sentences_of(folder: Path, *, per_speaker: int = 4) -> dict[str, Floats]:
    """Sentences of a folder: joined digits, or its recordings as they are."""
    files = audio_files(folder)
    if all(_DIGIT.fullmatch(path.stem) for path in files):
        return digit_sentences(folder, per_speaker=per_speaker)
    return {path.stem: resampled(*read_audio(path)) for path in files[:_MOST]}


def mixtures(
    sentences: dict[str, Floats], noises: Noises, snrs_db: tuple[float, ...]
) -> list[SpeechMixture]:
    """Every sentence with one recording of noise, kind after kind, at each ratio; seeded."""
    rng = np.random.default_rng(12)
    kinds = sorted(noises)
    found = []
    for number, (name, clean) in enumerate(sentences.items()):
        kind = kinds[number % len(kinds)]
        title, noise = noises[kind][int(rng.integers(len(noises[kind])))]
        noise = np.roll(noise, int(rng.integers(len(noise))))
        noise = np.tile(noise, -(-len(clean) // len(noise)))[: len(clean)]
        for snr_db in snrs_db:
            gain = np.sqrt(np.mean(clean**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
            both = clean + noise * gain
            scale = 0.7 / max(float(np.abs(both).max()), 1e-6)
            found.append(
                SpeechMixture(
                    name=f"{name}+{kind}/{title}",
                    speaker=name.rsplit("-", 1)[0],
                    snr_db=snr_db,
                    clean=(clean * scale).astype(np.float32),
                    noisy=(both * scale).astype(np.float32),
                )
            )
    return found
