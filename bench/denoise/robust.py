"""What our denoisers make of what they were not trained on: other levels, other noise, faults.

Level is the condition; ``noisy`` and ``edgeae`` are held against the same truth. Silence has no
ratio: its row says how far below the usual signal the output lies. Of long series the first six
seconds do not count, in which a net finds the electrode's offset and levels are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from common import MODELS, OURS, Array, Row, bundle_of, mean, say
from images import grey, noisy_image

import edgeae
from edgeae.metrics import si_sdr_db
from edgeae.tasks.denoise_level import MEASURED_S
from edgeae.train.datasets import load_dataset
from edgeae.train.denoise_data import without_slow
from edgeae.train.denoise_images import psnr_db
from edgeae.train.download import data_folder
from edgeae.train.noise import NoisePart, mix, snr_db
from edgeae.train.recipe import load_recipe
from edgeae.train.speech import RATE_HZ, read_noises
from edgeae.train.speech_test import digit_sentences, mixtures

SEED = 21
SERIES_DB = 6.0
SERIES_SAMPLES = 40_000
SPEECH_DB = 5.0
SIGMA = 25.0
GAIN = 4.0  # 12 dB
MEASURED = "edgeae, level measured"
SETTLED_S = 6
USUAL = "as trained"

Score = Callable[[Array, Array], float]


def faults(clean: Array, noisy: Array, center: Array) -> Iterator[tuple[str, Array, Array]]:
    """Condition, truth and input of the same signal at other levels and with faults."""
    yield USUAL, clean, noisy
    yield "12 dB louder", center + (clean - center) * GAIN, center + (noisy - center) * GAIN
    yield "12 dB softer", center + (clean - center) / GAIN, center + (noisy - center) / GAIN
    if np.any(center):
        yield "zero at 0", clean - center, noisy - center
    limit = np.quantile(np.abs(noisy - center), 0.98, axis=0)
    yield "clipped, 2 % of samples", clean, np.clip(noisy, center - limit, center + limit)
    rng = np.random.default_rng([SEED, 1])
    holes = noisy.copy()
    holes[rng.random(len(noisy)) < 0.01] = np.nan
    yield "1 % NaN", clean, holes


def other_noise(
    clean: Array, rate_hz: float, level: float, kinds: dict[str, NoisePart]
) -> Iterator[tuple[str, Array, Array]]:
    """The same signal in other noise."""
    for number, (name, part) in enumerate(kinds.items()):
        rng = np.random.default_rng([SEED, 2, number])
        yield name, clean, mix(clean, [part], level, rate_hz, rng)


def compared(
    task: str,
    conditions: Iterator[tuple[str, Array, Array]],
    runs: Mapping[str, Callable[[Array], Array]],
    score: Score,
    metric: str,
) -> Iterator[Row]:
    """Rows of one signal; NaN of the input count as the truth, for they are no noise."""
    for condition, clean, noisy in conditions:
        seen = np.where(np.isnan(noisy), clean, noisy)
        found = {"noisy": seen} | {method: run(noisy) for method, run in runs.items()}
        for method, out in found.items():
            if not np.isfinite(out).all():
                raise AssertionError(f"{task}, {condition}: {method} gives what is no number")
            yield ("robust", task, condition, method, metric, score(clean, out), "dB", 1, "")


def silence(task: str, quiet: Array, usual: Array, run: Callable[[Array], Array]) -> Row:
    """How far the output for silence, once settled, lies below the usual signal; at most 120 dB."""
    out = run(quiet)[len(quiet) // 2 :]
    rest = float(np.sqrt(np.mean(np.square(out - out.mean(0)))))
    size = float(np.sqrt(np.mean(np.square(usual - np.median(usual, 0)))))
    below = min(120.0, 20 * np.log10(size / max(rest, 1e-12)))
    return ("robust", task, "silence", OURS, "below_signal", below, "dB", 1, "")


def series(task: str, models: Path) -> Iterator[Row]:
    """One recording of the test part."""
    bundle, missing = bundle_of(task, models)
    yield from missing
    if bundle is None:
        return
    recipe = load_recipe(f"denoise-{task}")
    table, data = recipe.denoise, load_dataset(recipe.data.source, "test")
    assert table is not None
    assert data.rate_hz is not None
    pieces = data.segments[-1:] if task == "ecg" else data.segments[::40]
    x = [np.asarray(p, np.float64)[:SERIES_SAMPLES] for p in pieces]
    rate = data.rate_hz
    flat = bundle.signal.channels == 1

    def run(y: Array, gain: float | str = 1.0) -> Array:
        given = y.astype(np.float32)
        out = edgeae.denoise(bundle, given[:, 0] if flat else given, gain=gain)
        return np.asarray(out).reshape(y.shape)

    runs: dict[str, Callable[[Array], Array]] = {OURS: run}
    if min(map(len, x)) > 2 * MEASURED_S * rate:
        runs[MEASURED] = lambda y: run(y, "auto")

    def score(clean: Array, out: Array) -> float:
        skip = SETTLED_S * round(rate) if len(clean) > 4 * SETTLED_S * rate else 0
        clean, out = clean[skip:], out[skip:]
        return snr_db(clean, out - np.mean(out - clean, 0))

    kinds = {
        "mains hum": NoisePart(kind="hum"),
        "pink noise": NoisePart(kind="coloured"),
        "white noise alone": NoisePart(kind="white"),
        "impulses alone": NoisePart(kind="impulses", rate_hz=3.0),
    }
    found: list[Row] = []
    for i, piece in enumerate(x):
        center = np.round(np.median(piece, 0))
        clean = without_slow(piece - center, table.highpass_hz, rate) + center
        noisy = mix(clean, table.noise, SERIES_DB, rate, np.random.default_rng([SEED, i]))
        for conditions in (
            faults(clean, noisy, center),
            other_noise(clean, rate, SERIES_DB, kinds),
        ):
            found += compared(task, conditions, runs, score, "snr")
        found.append(silence(task, 0 * clean + center, clean, run))
    yield from averaged(found)


def averaged(found: list[Row]) -> Iterator[Row]:
    """One row for those that differ in their value alone."""
    values: dict[Row, list[float]] = {}
    for row in found:
        values.setdefault((*row[:5], row[6]), []).append(row[5])
    for key, own in values.items():
        yield (*key[:5], mean(own), key[5], len(own), "")


def speech(models: Path) -> Iterator[Row]:
    """One sentence of every speaker."""
    bundle, missing = bundle_of("speech", models)
    yield from missing
    if bundle is None:
        return
    sentences = digit_sentences(data_folder() / "fsdd", per_speaker=1)
    noises = read_noises(data_folder() / "noise_esc10", "test")

    def run(y: Array) -> Array:
        return np.asarray(edgeae.denoise(bundle, y[:, 0].astype(np.float32)))[:, None]

    def score(clean: Array, out: Array) -> float:
        return si_sdr_db(clean[:, 0], out[:, 0])

    kinds = {
        "mains hum": NoisePart(kind="hum"),
        "pink noise": NoisePart(kind="coloured"),
        "white noise alone": NoisePart(kind="white"),
    }
    found: list[Row] = []
    names = list(sentences)
    for m in mixtures(sentences, noises, (SPEECH_DB,)):
        clean, noisy = (v[:, None].astype(np.float64) for v in (m.clean, m.noisy))
        soft, center = 1 / (2 * GAIN), np.zeros(1)  # that louder is not beyond full scale
        conditions = faults(clean * soft, noisy * soft, center)
        found += compared("speech", conditions, {OURS: run}, score, "si_sdr")
        conditions = other_noise(clean, RATE_HZ, SPEECH_DB, kinds)
        found += compared("speech", conditions, {OURS: run}, score, "si_sdr")
        others = [sentences[n] for n in names if not n.startswith(m.speaker)]
        babble = sum(np.resize(o / np.std(o), len(clean)) for o in others)[:, None]
        babble = babble * np.std(clean) / np.std(babble) * 10 ** (-SPEECH_DB / 20)
        conditions = iter([("others talking", clean, clean + babble)])
        found += compared("speech", conditions, {OURS: run}, score, "si_sdr")
        found.append(silence("speech", 0 * clean, clean, run))
    yield from averaged(found)


def images(models: Path, n_images: int) -> Iterator[Row]:
    """Images of Set12 at one sigma."""
    bundle, missing = bundle_of("images", models)
    yield from missing
    if bundle is None:
        return
    found: list[Row] = []
    for i, clean in enumerate(grey("test")[:n_images]):
        rng = np.random.default_rng([SEED, 3, i])
        noisy = noisy_image(clean, i, SIGMA, clipped=False)
        noise = noisy - clean
        soft = noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1) + np.roll(noise, (1, 1), (0, 1))
        photons = float(np.mean(clean)) / SIGMA**2
        salted = noisy.copy()
        hits = rng.random(clean.shape)
        salted[hits < 0.01], salted[hits > 0.99] = 0, 255
        conditions: list[tuple[str, Array, Array, float | None]] = [
            (USUAL, clean, noisy, SIGMA),
            ("sigma estimated", clean, noisy, None),
            ("told sigma 15", clean, noisy, 15.0),
            ("told sigma 35", clean, noisy, 35.0),
            ("clipped to 8 bits", clean, np.clip(np.rint(noisy), 0, 255), SIGMA),
            ("a quarter of the contrast", clean / GAIN + 96, clean / GAIN + 96 + noise, SIGMA),
            ("photon noise", clean, rng.poisson(clean * photons) / photons, SIGMA),
            ("blurred noise", clean, clean + soft / 2, SIGMA),
            ("2 % black and white pixels", clean, salted, SIGMA),
        ]
        for condition, truth, given, sigma in conditions:
            out = edgeae.denoise(bundle, given.astype(np.float32), sigma=sigma)
            for method, image in (("noisy", given), (OURS, out)):
                value = psnr_db(truth, image)
                found.append(("robust", "images", condition, method, "psnr", value, "dB", 1, ""))
    yield from averaged(found)


def rows(*, quick: bool, models: Path = MODELS) -> Iterator[Row]:
    """All of them."""
    for task in ("ecg", "vibration"):
        yield from told(series(task, models))
    yield from told(images(models, 1 if quick else 12))
    yield from told(speech(models))


def told(found: Iterator[Row]) -> Iterator[Row]:
    for row in found:
        if row[4] != "left_out":
            say(f"{row[1]}, {row[2]}: {row[3]}: {row[5]:.2f} dB")
        yield row
