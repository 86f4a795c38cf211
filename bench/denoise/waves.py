"""ECG and vibration beside filters of scipy and PyWavelets.

The mixtures are those of our own recipe, seeded: every method gets the same noisy samples. Filters
look at the whole signal and are tuned at each level on pieces of training files; a constant offset
of an estimate does not count.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pywt
from common import MODELS, OURS, Array, Method, Row, bundle_of, say, tuned
from qrs import f1, r_peaks
from scipy import signal as dsp
from series import (
    Pair,
    annotated,
    band_pass,
    fitted_wiener,
    ours,
    pairs,
    savgol,
    wavelet,
    wiener,
)

import edgeae
from edgeae.metrics import si_sdr_db
from edgeae.train.datasets import load_dataset
from edgeae.train.noise import snr_db
from edgeae.train.recipe import load_recipe

WHOLE = "whole signal"
TUNED = {"ecg": (20, 10_000), "vibration": (60, 200)}  # pieces, samples of each
TOLD = "tuned on training files"


def centred(clean: Array, out: Array) -> Array:
    """The estimate with the offset of the truth."""
    return out - np.mean(out - clean, 0)


def score(run: object, found: list[Pair]) -> float:
    """Mean output SNR."""
    assert callable(run)
    return float(np.mean([snr_db(p.clean, centred(p.clean, run(p.noisy))) for p in found]))


def wavelet_band(name: str, level: int, strength: float) -> object:
    """Soft shrinkage, and nothing below the slowest details: an ECG without its wander."""

    def run(y: Array) -> Array:
        out = np.empty_like(y)
        for c, column in enumerate(y.T):
            middle = np.median(column)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                slow, *details = pywt.wavedec(column - middle, name, level=level)
            sigma = np.median(np.abs(details[-1])) / 0.6745
            limit = strength * sigma * np.sqrt(2 * np.log(len(y)))
            shrunk = [pywt.threshold(d, limit, "soft") for d in details]
            out[:, c] = pywt.waverec([0 * slow, *shrunk], name)[: len(y)] + middle
        return out

    return run


def filters(task: str, train: list[Pair], rate_hz: float) -> list[Method]:
    """Every filter, tuned on these pairs."""

    def best(name: str, options: dict[str, object]) -> Method:
        chosen, run = tuned(options.items(), lambda run: score(run, train))  # type: ignore[arg-type]
        return Method(name=name, run=run, ahead=WHOLE, chosen=f"{chosen}, {TOLD}")

    found = []
    low = 1.0 if task == "ecg" else 0.0
    if task == "ecg":
        found += [
            Method(
                name="Butterworth, both ways",
                run=band_pass(rate_hz, both_ways=True),
                ahead=WHOLE,
                chosen="third order, 1 to 40 Hz",
            ),
            Method(
                name="Butterworth, causal",
                run=band_pass(rate_hz, both_ways=False),
                ahead="causal",
                chosen="third order, 1 to 40 Hz",
            ),
        ]
        shrunk = {
            f"{n}, {level} levels, {s}": wavelet_band(n, level, s)
            for n in ("db4", "sym8")
            for level in (7, 8)
            for s in (0.3, 0.5, 0.7, 1.0)
        }
    else:
        cuts = (10, 20, 30, 40, 50, 60, 70, 80, 90)
        both = {f"{cut} Hz": low_pass(cut, rate_hz, both_ways=True) for cut in cuts}
        live = {f"{cut} Hz": low_pass(cut, rate_hz, both_ways=False) for cut in cuts}
        found += [best("Butterworth, both ways", both)]
        causal = best("Butterworth, causal", live)
        found += [Method(name=causal.name, run=causal.run, ahead="causal", chosen=causal.chosen)]
        shrunk = {
            f"{n}, {level} levels, {s}, {mode}": wavelet(n, level, s, mode)
            for n in ("db4", "sym8", "db8")
            for level in (1, 2, 3, 4)
            for s in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
            for mode in ("soft", "hard")
        }
    # Filters that pass what is slow get an ECG without its wander.
    slow = high_pass(low, rate_hz)
    wieners = {f"{n} samples": after(slow, wiener(n)) for n in (3, 5, 7, 9, 15, 25)}
    polynomials = {
        f"{w} samples, order {p}": after(slow, savgol(w, p))
        for w in (3, 5, 7, 9, 11, 15, 21)
        for p in range(1, 6)
        if p < w
    }
    found += [
        best("Wiener", wieners),
        best("Savitzky-Golay", polynomials),
        best("wavelet", shrunk),
        Method(
            name="linear filter, 49 taps",
            run=after(slow, fitted_wiener([slow_less(p, slow) for p in train])),
            ahead=WHOLE if low else "24 samples",
            chosen="fitted to training files",
        ),
    ]
    return found


def high_pass(cut_hz: float, rate_hz: float) -> object:
    """Zero-phase high-pass; nothing for 0 Hz."""
    if not cut_hz:
        return lambda y: y
    sos = dsp.butter(2, cut_hz, "high", fs=rate_hz, output="sos")
    return lambda y: dsp.sosfiltfilt(sos, y - np.median(y, 0), axis=0)


def low_pass(cut_hz: float, rate_hz: float, *, both_ways: bool) -> object:
    """Butterworth of third order, below half the rate."""
    sos = dsp.butter(3, min(cut_hz, 0.45 * rate_hz), "low", fs=rate_hz, output="sos")
    run = dsp.sosfiltfilt if both_ways else dsp.sosfilt
    return lambda y: run(sos, y, axis=0)


def after(first: object, second: object) -> object:
    """One filter, then the other."""
    assert callable(first)
    assert callable(second)
    return lambda y: second(first(y))


def slow_less(pair: Pair, slow: object) -> Pair:
    """A pair whose noisy side went through a filter."""
    assert callable(slow)
    clean = pair.clean - pair.clean.mean(0)
    return Pair(name=pair.name, clean=clean, noisy=slow(pair.noisy))


def rows(task: str, *, quick: bool, models: Path = MODELS) -> Iterator[Row]:
    """Every method at every level."""
    recipe = load_recipe(f"denoise-{task}")
    assert recipe.denoise is not None
    source = recipe.data.source
    train, test = load_dataset(source, "train"), load_dataset(source, "test")
    rate = test.rate_hz
    assert rate is not None
    bundle, missing = bundle_of(task, models)
    yield from missing
    most, length = TUNED[task]
    n_pieces = len(test.segments) if task == "ecg" else min(len(test.segments), 400)
    for level in recipe.denoise.test_snr_db:
        tuning = pairs(recipe, train, level, most=8 if quick else most, samples=length)
        found = pairs(
            recipe, test, level,
            most=8 if quick else n_pieces, samples=6_000 if quick else 10**9,
        )  # fmt: skip
        methods = [Method(name="noisy", run=lambda y: y), *filters(task, tuning, rate)]
        if bundle is not None:
            methods.append(our_method(bundle))
        for method in methods:
            yield from measured(task, source, level, method, found, rate)


def our_method(bundle: edgeae.Bundle) -> Method:
    """Ours as deployed."""
    ahead = bundle.denoise.delay_samples / (bundle.signal.rate_hz or 1.0)
    return Method(name=OURS, run=ours(bundle), ahead=f"{1000 * ahead:.0f} ms")


def measured(
    task: str, source: str, level: float, method: Method, found: list[Pair], rate_hz: float
) -> Iterator[Row]:
    """SNR and SI-SDR of each file, then their mean; of an ECG the R peaks that are found."""
    scores: dict[str, dict[str, list[float]]] = {}
    for pair in found:
        out = centred(pair.clean, method.run(pair.noisy))
        own = scores.setdefault(pair.name.split("/")[0], {"snr": [], "si_sdr": []})
        own["snr"].append(snr_db(pair.clean, out))
        own["si_sdr"].append(
            float(np.mean([si_sdr_db(pair.clean[:, c], out[:, c]) for c in range(out.shape[1])]))
        )
        if task == "ecg":
            truth = annotated(pair.name)
            truth = truth[truth < len(out)]
            own.setdefault("r_peak_f1", []).append(
                f1(r_peaks(out[:, 0], rate_hz), truth, rate_hz)[0]
            )
    head = (task, f"{level:g}", method.name)
    metrics = next(iter(scores.values()))
    for metric in metrics:
        unit = "" if metric == "r_peak_f1" else "dB"
        by_file = {name: float(np.mean(own[metric])) for name, own in scores.items()}
        for data, value in {**by_file, source: float(np.mean(list(by_file.values())))}.items():
            n = len(found) if data == source else len(scores[data][metric])
            yield (head[0], data, *head[1:], metric, value, unit, n, method.note)
        if metric == "snr":
            say(f"{task}, {level:g} dB: {method.name}: {value:.2f} dB  ({method.note})")
