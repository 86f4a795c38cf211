"""Test mixtures of speech and their scores: other voices, unseen noise files.

Speech: sentences of spoken digits by the six speakers of the Free Spoken Digit Dataset (only the
recordings of its test split), 8 kHz brought to 16 kHz; and, where espeak-ng is installed, sentences
in six of its voices. Noise: the files of ESC-10's fold 4, which training never sees. Both are
seeded, so everyone gets the same mixtures.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeae.train.download import data_folder
from edgeae.train.speech import RATE_HZ, read_audio, read_noises, resampled
from edgeae.train.speech_test import SpeechMixture, digit_sentences, mixtures, si_sdr_db

Floats = NDArray[np.float32]

SNRS_DB = (0.0, 5.0, 10.0)
ESPEAK = ("en-us+m1", "en-us+m3", "en-us+f2", "en-gb+f4", "en-gb-scotland+m7", "en-gb-x-rp+f1")
SENTENCES = (
    "Please turn the heating in the kitchen down to nineteen degrees.",
    "The train to the airport leaves from platform seven in twelve minutes.",
    "Her brother fixed the old pump with a piece of wire and some patience.",
    "Watch the pressure gauge, and call me when it goes above forty.",
)


def digits(per_speaker: int = 4) -> dict[str, Floats]:
    """Sentences of digits, by speaker and number."""
    return digit_sentences(data_folder() / "fsdd", per_speaker=per_speaker)


def spoken_sentences() -> dict[str, Floats]:
    """Sentences by espeak-ng, none where it is not installed."""
    program = shutil.which("espeak-ng")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, voice in enumerate(ESPEAK if program else ()):
            for j in (i % 2, 2 + i % 2):
                path = Path(folder) / "said.wav"
                command = [str(program), "-v", voice, "-s", "150", "-w", str(path), SENTENCES[j]]
                subprocess.run(command, check=True)
                x, rate = read_audio(path)
                found[f"{voice}-{j}"] = resampled(x, rate)
    return found


def mixed(
    sentences: dict[str, Floats], snrs_db: tuple[float, ...] = SNRS_DB
) -> list[SpeechMixture]:
    """Every sentence with noise files of the test fold, one kind after the other, at each ratio."""
    return mixtures(sentences, read_noises(data_folder() / "noise_esc10", "test"), snrs_db)


def scores(clean: Floats, found: Floats) -> dict[str, float]:
    """SI-SDR in dB, wideband PESQ, STOI in percent."""
    from pesq import pesq
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "si_sdr": si_sdr_db(clean, found),
            "pesq": float(pesq(RATE_HZ, clean, found, "wb")),
            "stoi": 100 * float(stoi(clean, found, RATE_HZ)),
        }


def rnnoise(noisy: Floats) -> Floats:
    """The mixture through RNNoise, which runs at 48 kHz, its delay of one frame taken out."""
    from pyrnnoise import RNNoise

    high = resampled(noisy, RATE_HZ, 48_000)
    frame = 480
    padded = np.concatenate([high, np.zeros(-len(high) % frame + 2 * frame, np.float32)])
    denoiser = RNNoise(sample_rate=48_000)
    pcm = np.round(padded * 32767).clip(-32768, 32767).astype(np.int16)[None]
    parts: Iterator[NDArray[np.int16]] = (out for _, out in denoiser.denoise_chunk(pcm))
    out = np.concatenate([np.asarray(p).reshape(-1) for p in parts]).astype(np.float32) / 32767
    low = resampled(out, 48_000)
    return aligned(noisy, low)


def aligned(noisy: Floats, found: Floats, most: int = 800) -> Floats:
    """What was found, moved by the delay at which it matches the mixture best."""
    room = np.concatenate([found, np.zeros(most + len(noisy), np.float32)])
    n = len(noisy)
    size = 2 * (n + most)
    cross = np.fft.irfft(
        np.fft.rfft(room[: n + most], size) * np.conj(np.fft.rfft(noisy, size)), size
    )
    lag = int(np.argmax(cross[: most + 1]))
    return room[lag : lag + n].astype(np.float32)
