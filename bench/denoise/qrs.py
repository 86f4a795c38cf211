"""R peaks of an ECG, after Pan and Tompkins, and how many of the annotated ones were found.

Plain on purpose: the same detector reads the clean, the noisy and every denoised signal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import signal as dsp

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOLERANCE_S = 0.05
REFRACTORY_S = 0.25
SEARCHED_S = 2.0  # for a threshold: the strongest peak within this much to each side


def r_peaks(x: Floats, rate_hz: float) -> Ints:
    """Sample indices of the R peaks of ``x`` [T]."""
    band = dsp.butter(2, [5.0, 18.0], "band", fs=rate_hz, output="sos")
    fast = dsp.sosfiltfilt(band, x)
    energy = np.square(np.gradient(fast))
    width = round(0.1 * rate_hz)
    smooth = np.convolve(energy, np.hanning(width) / (width / 2), "same")
    found, _ = dsp.find_peaks(smooth, distance=round(REFRACTORY_S * rate_hz))
    strength = np.sqrt(smooth[found])
    kept = []
    for i, place in enumerate(found):
        near = np.abs(found - place) < 4 * SEARCHED_S * rate_hz
        typical = np.median(np.sort(strength[near])[-max(3, near.sum() // 2) :])
        if strength[i] > 0.4 * typical:
            kept.append(place)
    reach = round(0.06 * rate_hz)
    peaks = []
    for place in kept:
        start = max(0, place - reach)
        peaks.append(start + int(np.argmax(np.abs(fast[start : place + reach]))))
    return np.array(peaks, np.int64)


def f1(found: Ints, truth: Ints, rate_hz: float) -> tuple[float, float, float]:
    """F1, recall and precision, each peak matched at most once."""
    tolerance = TOLERANCE_S * rate_hz
    hits, at = 0, 0
    for peak in truth:
        while at < len(found) and found[at] < peak - tolerance:
            at += 1
        if at < len(found) and abs(found[at] - peak) <= tolerance:
            hits, at = hits + 1, at + 1
    recall, precision = hits / max(len(truth), 1), hits / max(len(found), 1)
    return 2 * hits / max(len(truth) + len(found), 1), recall, precision
