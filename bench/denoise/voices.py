"""Speech in noise: ours beside RNNoise, WebRTC's suppressor and noisereduce.

Other voices than the one of training (spoken digits of other people, and espeak-ng where it is
installed), noise files that no training has seen. Settings of WebRTC and noisereduce are tuned by
SI-SDR on sentences of the training voice with noise of the training part.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import MODELS, OURS, Array, Method, Row, bundle_of, left_out, mean, say, tuned, usable
from speech import UNITS, aligned, digits, mixed, rnnoise, spoken_sentences
from speech import scores as speech_scores

import edgeae
from edgeae.metrics import si_sdr_db
from edgeae.train.download import data_folder
from edgeae.train.recipe import load_recipe
from edgeae.train.speech import RATE_HZ, read_noises, read_speech
from edgeae.train.speech_test import SpeechMixture, mixtures

TUNED_SENTENCES = 6
TOLD = "tuned on training sentences"
FRAME = RATE_HZ // 100


def noisereduce_filter(*, stationary: bool, share: float) -> object:
    import noisereduce

    return lambda y: noisereduce.reduce_noise(
        y, RATE_HZ, stationary=stationary, prop_decrease=share
    ).astype(np.float32)


def webrtc_filter(level: int) -> object:
    """WebRTC's suppressor at one of its levels, 1 to 4, without gain."""
    from webrtc_noise_gain import AudioProcessor

    def run(y: Array) -> Array:
        pcm = np.clip(np.rint(y * 32767), -32768, 32767).astype("<i2")
        pcm = np.concatenate([pcm, np.zeros(-len(pcm) % FRAME + 4 * FRAME, "<i2")])
        processor = AudioProcessor(0, level)
        parts = [
            processor.Process10ms(pcm[i : i + FRAME].tobytes()).audio
            for i in range(0, len(pcm), FRAME)
        ]
        out = np.frombuffer(b"".join(parts), "<i2").astype(np.float32) / 32767
        return aligned(y, out)

    return run


def training_mixtures(level: float) -> list[SpeechMixture]:
    """Sentences of the training voice in training noise."""
    recipe = load_recipe("denoise-speech")
    spoken, _ = read_speech(data_folder() / recipe.data.source)
    spoken = spoken[:: max(1, len(spoken) // TUNED_SENTENCES)][:TUNED_SENTENCES]
    named = {f"training-{i}": x[: 6 * RATE_HZ] for i, x in enumerate(spoken)}
    return mixtures(named, read_noises(data_folder() / "noise_esc10", "train"), (level,))


def peers(level: float) -> Iterator[Method | Row]:
    """The peers at their best settings, or why not."""
    train: list[SpeechMixture] = []

    def best(name: str, options: dict[str, object], ahead: str) -> Method:
        if not train:
            train.extend(training_mixtures(level))
        chosen, run = tuned(
            options.items(),  # type: ignore[arg-type]
            lambda run: mean(si_sdr_db(m.clean, run(m.noisy)) for m in train),
        )
        return Method(name=name, run=run, ahead=ahead, chosen=f"{chosen}, {TOLD}")

    there, missing = usable("speech", "pyrnnoise", "RNNoise")
    yield from missing
    if there:
        yield Method(name="RNNoise", run=rnnoise, ahead="20 ms", chosen="as it comes, at 48 kHz")
    there, missing = usable("speech", "webrtc_noise_gain", "WebRTC")
    yield from missing
    if there:
        levels = {f"level {n}": webrtc_filter(n) for n in (1, 2, 3, 4)}
        yield best("WebRTC", levels, "10 ms frames")
    there, missing = usable("speech", "noisereduce", "noisereduce")
    yield from missing
    if there:
        options = {
            f"{'' if stationary else 'non-'}stationary, {share:g}": noisereduce_filter(
                stationary=stationary, share=share
            )
            for stationary in (False, True)
            for share in (0.5, 0.75, 1.0)
        }
        yield best("noisereduce", options, "whole signal")


def our_method(bundle: edgeae.Bundle) -> Method:
    """Ours as deployed."""
    ahead = bundle.denoise.delay_samples / RATE_HZ
    return Method(
        name=OURS,
        run=lambda y: edgeae.denoise(bundle, y, rate_hz=RATE_HZ),
        ahead=f"{1000 * ahead:.0f} ms",
    )


def rows(*, quick: bool, models: Path = MODELS) -> Iterator[Row]:
    """Every method on every mixture."""
    for module, metric in (("pesq", "PESQ"), ("pystoi", "STOI")):
        there, missing = usable("speech", module, metric)
        if not there:
            yield from missing
            return
    recipe = load_recipe("denoise-speech")
    assert recipe.denoise is not None
    levels = recipe.denoise.test_snr_db[:1] if quick else recipe.denoise.test_snr_db
    bundle, missing = bundle_of("speech", models)
    yield from missing
    methods = [Method(name="noisy", run=lambda y: y)]
    for found in peers(levels[len(levels) // 2]):
        if isinstance(found, Method):
            methods.append(found)
        else:
            yield found
    methods += [our_method(bundle)] if bundle is not None else []
    voices = {"fsdd": digits(1 if quick else 4)}
    if not quick:
        voices["espeak-ng"] = spoken_sentences()
    for data, sentences in voices.items():
        if not sentences:
            yield left_out("speech", data, "espeak-ng is not installed: its voices are missing")
            continue
        sentences = dict(list(sentences.items())[: 1 if quick else None])
        every = mixed(sentences, levels)
        for level in levels:
            here = [m for m in every if m.snr_db == level]
            for method in methods:
                yield from measured(data, level, method, here)


def measured(data: str, level: float, method: Method, every: list[SpeechMixture]) -> Iterator[Row]:
    """Means over the mixtures."""
    found = [speech_scores(m.clean, np.asarray(method.run(m.noisy), np.float32)) for m in every]
    told = []
    for metric, unit in UNITS.items():
        value = mean(f[metric] for f in found)
        told.append(f"{value:.2f}")
        row = ("speech", data, f"{level:g}", method.name, metric, value, unit, len(found))
        yield (*row, method.note)
    say(f"{data}, {level:g} dB: {method.name}: {', '.join(told)}  ({method.note})")
