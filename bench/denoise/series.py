"""ECG and vibration: our bundles beside the classical filters, on the same test mixtures.

    python bench/denoise/series.py export/models/denoise-ecg export/models/denoise-vibration

The mixtures are those of the bundle's own recipe, seeded. Ours runs as deployed: the exported
integer net through ``edgeae.denoise``. The filters' settings are tuned on training data alone;
all of them but the causal Butterworth look at the whole signal, ours at most 100 ms ahead.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pywt
from numpy.typing import NDArray
from qrs import f1, r_peaks
from scipy import signal as dsp

import edgeae
from edgeae.runtime.bundle import Bundle
from edgeae.train.datasets import Dataset, load_dataset
from edgeae.train.denoise_data import without_slow
from edgeae.train.noise import mix, snr_db
from edgeae.train.recipe import Recipe, load_recipe

Floats = NDArray[np.float64]
Filter = Callable[[Floats], Floats]

SEED = 11
TUNED_PIECES, TUNED_SAMPLES = 60, 30_000
WIENER_REACH = 24


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One piece of a recording, [T, C]: the truth, and with noise."""

    name: str
    clean: Floats
    noisy: Floats
    peaks: NDArray[np.int64] | None = None


def pairs(recipe: Recipe, data: Dataset, snr: float, *, most: int, samples: int) -> list[Pair]:
    """At most ``most`` pieces of at most ``samples`` samples each."""
    table, rate = recipe.denoise, data.rate_hz
    assert table is not None
    assert rate is not None
    picks = np.unique(np.linspace(0, len(data.segments) - 1, most).astype(int))
    found = []
    for i in picks:
        x = np.asarray(data.segments[i], np.float64)
        center = np.median(x, axis=0)
        clean = without_slow(x - center, table.highpass_hz, rate)[:samples] + np.round(center)
        rng = np.random.default_rng([SEED, int(i), round(1000 * snr) & 0xFFFF])
        noisy = np.round(mix(clean, table.noise, snr, rate, rng))
        found.append(Pair(name=data.names[i], clean=clean, noisy=noisy))
    return found


# -- the filters -------------------------------------------------------------------------------


def wiener(size: int) -> Filter:
    def run(y: Floats) -> Floats:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            out = np.stack([dsp.wiener(column, size) for column in y.T], 1)
        return np.where(np.isfinite(out), out, y)

    return run


def savgol(window: int, order: int) -> Filter:
    return lambda y: dsp.savgol_filter(y, window, order, axis=0)


def wavelet(name: str, level: int, strength: float, mode: str) -> Filter:
    """Shrinkage with the universal threshold, of the noise that the finest details show."""

    def run(y: Floats) -> Floats:
        out = np.empty_like(y)
        for c, column in enumerate(y.T):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                first, *details = pywt.wavedec(column, name, level=level)
            sigma = np.median(np.abs(details[-1])) / 0.6745
            limit = strength * sigma * np.sqrt(2 * np.log(len(y)))
            shrunk = [pywt.threshold(d, limit, mode) for d in details]
            out[:, c] = pywt.waverec([first, *shrunk], name)[: len(y)]
        return out

    return run


def fitted_wiener(train: list[Pair]) -> Filter:
    """The best linear filter of 49 taps per channel, fitted on training data; looks ahead."""
    filters = []
    for c in range(train[0].clean.shape[1]):
        seen, truth = [], []
        for pair in train:
            padded = np.pad(pair.noisy[:, c], WIENER_REACH, mode="edge")
            seen.append(np.lib.stride_tricks.sliding_window_view(padded, 2 * WIENER_REACH + 1))
            truth.append(pair.clean[:, c])
        a, b = np.concatenate(seen), np.concatenate(truth)
        filters.append(np.linalg.solve(a.T @ a + 1e-3 * np.eye(a.shape[1]), a.T @ b))

    def run(y: Floats) -> Floats:
        columns = []
        for c, taps in enumerate(filters):
            padded = np.pad(y[:, c], WIENER_REACH, mode="edge")
            columns.append(
                np.lib.stride_tricks.sliding_window_view(padded, 2 * WIENER_REACH + 1) @ taps
            )
        return np.stack(columns, 1)

    return run


def band_pass(rate_hz: float, *, both_ways: bool) -> Filter:
    sos = dsp.butter(3, [1.0, 40.0], "band", fs=rate_hz, output="sos")
    run = dsp.sosfiltfilt if both_ways else dsp.sosfilt
    return lambda y: run(sos, y - np.median(y, 0), axis=0)


def mean_snr(run: Filter, found: Iterable[Pair]) -> dict[str, float]:
    """Mean output SNR of each file, and the mean of these."""
    scores: dict[str, list[float]] = {}
    for pair in found:
        out = run(pair.noisy)
        out = out - np.mean(out - pair.clean, 0)  # an offset does not count
        scores.setdefault(pair.name.split("/")[0], []).append(snr_db(pair.clean, out))
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    return {**means, "mean": float(np.mean(list(means.values())))}


def tuned(options: dict[str, Filter], train: list[Pair]) -> Filter:
    return max(options.values(), key=lambda run: mean_snr(run, train)["mean"])


def filters(recipe: Recipe, train: list[Pair], rate_hz: float) -> dict[str, Filter]:
    """Every filter, tuned on the training pairs of one SNR."""
    if recipe.denoise is not None and recipe.denoise.highpass_hz:
        return {
            "Butterworth 1-40 Hz, both ways": band_pass(rate_hz, both_ways=True),
            "Butterworth 1-40 Hz, causal": band_pass(rate_hz, both_ways=False),
        }
    sizes = (3, 5, 7, 9, 15, 25)
    names, modes = ("db4", "sym8", "db8", "coif3"), ("soft", "hard")
    strengths = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
    return {
        "Wiener (scipy)": tuned({str(n): wiener(n) for n in sizes}, train),
        "Savitzky-Golay": tuned(
            {f"{w} {p}": savgol(w, p) for w in (3, 5, 7, 9, 11, 15) for p in range(1, 6) if p < w},
            train,
        ),
        "wavelet": tuned(
            {
                f"{n} {level} {s} {m}": wavelet(n, level, s, m)
                for n in names
                for level in (1, 2, 3, 4)
                for s in strengths
                for m in modes
            },
            train,
        ),
        "linear filter, fitted": fitted_wiener(train),
    }


# -- ours --------------------------------------------------------------------------------------


def ours(bundle: Bundle) -> Filter:
    kind = np.dtype(bundle.signal.dtype)

    def run(y: Floats) -> Floats:
        limits = np.iinfo(kind)
        x = np.clip(y, limits.min, limits.max).astype(kind)
        return np.asarray(
            edgeae.denoise(bundle, x[:, 0] if x.shape[1] == 1 else x), np.float64
        ).reshape(y.shape)

    return run


def measure(path: str, *, quick: bool) -> list[dict[str, Any]]:
    """Rows of the table: what, at which SNR, and the output SNR of each file."""
    bundle = edgeae.load(path)
    recipe = load_recipe(bundle.name)
    assert recipe.denoise is not None
    train = load_dataset(recipe.data.source, "train")
    test = load_dataset(recipe.data.source, "test")
    rate = test.rate_hz
    assert rate is not None
    short = len(test.segments[0]) < 1000
    rows: list[dict[str, Any]] = []
    for snr in recipe.denoise.test_snr_db:
        tuning = pairs(recipe, train, snr, most=TUNED_PIECES, samples=TUNED_SAMPLES)
        most = (120 if quick else len(test.segments)) if short else len(test.segments)
        found = pairs(recipe, test, snr, most=most, samples=60_000 if quick else 10**9)
        runs: dict[str, Filter] = {"noisy": lambda y: y, **filters(recipe, tuning, rate)}
        runs["edgeae"] = ours(bundle)
        for name, run in runs.items():
            rows.append({"what": name, "snr_db": snr, **mean_snr(run, found)})
    return rows


def heart_beats(path: str) -> list[dict[str, Any]]:
    """F1 of R peaks at 0 dB: clean, noisy and denoised."""
    bundle = edgeae.load(path)
    recipe = load_recipe(bundle.name)
    test = load_dataset(recipe.data.source, "test")
    rows = []
    for pair in pairs(recipe, test, 0.0, most=len(test.segments), samples=10**9):
        truth = annotated(pair.name)
        for what, x in (
            ("clean", pair.clean),
            ("noisy", pair.noisy),
            ("edgeae", ours(bundle)(pair.noisy)),
        ):
            score, recall, precision = f1(r_peaks(x[:, 0], 360.0), truth, 360.0)
            rows.append(
                {"record": pair.name, "what": what, "f1": score, "recall": recall,
                 "precision": precision}
            )  # fmt: skip
    return rows


def annotated(record: str) -> NDArray[np.int64]:
    from edgeae.train.download import data_folder

    with np.load(data_folder() / f"ecg_mitdb/{record}.npz", allow_pickle=False) as archive:
        return np.asarray(archive["r_peaks"], np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--quick", action="store_true", help="a part of the test data")
    args = parser.parse_args()
    for path in args.bundles:
        print(path)
        for row in measure(path, quick=args.quick):
            told = "  ".join(f"{k} {v:.2f}" for k, v in row.items() if isinstance(v, float))
            print(f"  {row['what']:32} {told}")
        if "ecg" in path:
            for row in heart_beats(path):
                print(f"  {row['record']} {row['what']:8} R peaks, F1 {row['f1']:.4f}")


if __name__ == "__main__":
    main()
