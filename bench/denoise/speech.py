"""Speech denoisers on other voices and unseen noise files, ours beside RNNoise.

    python bench/denoise/speech.py export/models/denoise-speech
    python bench/denoise/speech.py export/models/denoise-speech --run RUN     the float net too

Prints means over the mixtures: SI-SDR in dB, wideband PESQ, STOI in percent.
Speech: sentences of spoken digits by the six speakers of the Free Spoken Digit Dataset (only the
recordings of its test split), 8 kHz brought to 16 kHz; and, where espeak-ng is installed, sentences
in six of its voices. Noise: the files of ESC-10's fold 4, which training never sees. Both are
seeded, so everyone gets the same mixtures.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import edgeae
from edgeae.metrics import si_sdr_db
from edgeae.train.download import data_folder
from edgeae.train.speech import RATE_HZ, read_audio, read_noises, resampled
from edgeae.train.speech_test import SpeechMixture, digit_sentences, mixtures

Floats = NDArray[np.float32]
Denoise = Callable[[Floats], Floats]

UNITS = {"si_sdr": "dB", "pesq": "MOS", "stoi": "percent"}
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
    pcm = np.round(padded * 32767).clip(-32768, 32767).astype(np.int16)[None]
    parts = [np.ravel(out) for _, out in RNNoise(sample_rate=48_000).denoise_chunk(pcm)]
    return aligned(noisy, resampled(np.concatenate(parts).astype(np.float32) / 32767, 48_000))


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


def float_net(run: str) -> Denoise:
    """The net of a training run before it was quantized."""
    from edgeae.train.denoise_speech import denoised_speech, load_speech_denoiser
    from edgeae.train.run import RunFolder

    net = load_speech_denoiser(RunFolder(run), quantized=False)
    return lambda x: denoised_speech(net, x).astype(np.float32)


def measured(data: str, mixed_speech: list[SpeechMixture], method: str, do: Denoise) -> None:
    """Print a line for each ratio."""
    found: dict[float, list[dict[str, float]]] = {}
    for m in mixed_speech:
        found.setdefault(m.snr_db, []).append(scores(m.clean, do(m.noisy)))
    for snr_db, values in found.items():
        means = [f"{metric} {np.mean([v[metric] for v in values]):.3f}" for metric in UNITS]
        print(f"{data} {snr_db:g} dB, {method}:", *means, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--run", help="a training run, for its float net")
    parser.add_argument("--sentences", type=int, default=8, help="of each speaker of digits")
    options = parser.parse_args()
    bundle = edgeae.load(options.bundle)
    methods: dict[str, Denoise] = {
        "noisy": lambda x: x,
        "RNNoise": rnnoise,
        "edgeae": lambda x: edgeae.denoise(bundle, x, rate_hz=RATE_HZ),
    }
    if options.run:
        methods["edgeae, float"] = float_net(options.run)
    for data, sentences in (("fsdd", digits(options.sentences)), ("espeak", spoken_sentences())):
        together = mixed(sentences) if sentences else []
        for method, do in methods.items():
            measured(data, together, method, do)


if __name__ == "__main__":
    main()
