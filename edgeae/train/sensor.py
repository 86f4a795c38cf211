"""A sensor stream made up for ``edgeae quickstart``: a rotating machine under a vibration sensor.

Realistic where it matters to a codec: a slowly drifting speed, harmonics that follow it, bearing
impacts that ring, load steps, a drifting offset, coloured noise, and a 12-bit converter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SENSOR_RATE_HZ", "sensor_stream"]

SENSOR_RATE_HZ = 3200.0
_IMPACTS_PER_TURN = 4.73
_RING_HZ, _RING_DECAY_S = 870.0, 0.004
_ADC_BITS = 12


def sensor_stream(n_samples: int = 1_500_000, *, seed: int = 0) -> NDArray[np.int16]:
    """Vibration of a machine at about 25 Hz, sampled at 3.2 kHz in counts of a 12-bit converter.

    Args:
        n_samples: length; 1.5 million samples are eight minutes.
        seed: of everything random; equal seeds give equal streams on one machine.

    Returns:
        int16 [T], within -2048..2047.

    Example:
        >>> x = sensor_stream(10_000)
        >>> x.dtype, x.shape, bool(abs(x).max() < 2048)
        (dtype('int16'), (10000,), True)
    """
    if n_samples < 1:
        return np.zeros(0, np.int16)
    rng = np.random.default_rng(seed)
    t_s = np.arange(n_samples, dtype=np.float64) / SENSOR_RATE_HZ
    load = _load_steps(rng, t_s)
    speed_hz = 24.8 + 0.6 * _wander(rng, t_s, period_s=20.0) - 0.9 * load
    turns = np.cumsum(speed_hz) / SENSOR_RATE_HZ
    x = _harmonics(turns, load) + _impacts(rng, turns, load)
    x += 40 * _wander(rng, t_s, period_s=90.0)  # temperature drift of the offset
    x += _noise(rng, n_samples, load)
    top = 1 << (_ADC_BITS - 1)
    counts: NDArray[np.int16] = np.clip(np.rint(x), -top, top - 1).astype(np.int16)
    return counts


def _wander(rng: np.random.Generator, t_s: NDArray[np.float64], *, period_s: float) -> NDArray[Any]:
    """A smooth random walk around 0 of about unit size."""
    n_knots = int(t_s[-1] / period_s * 4) + 5
    knots = np.convolve(rng.normal(size=n_knots + 2), [0.5, 0.7, 0.5], "valid")
    place = np.arange(n_knots) * period_s / 4
    coarse = np.linspace(0, place[-1], n_knots * 64)
    smooth = np.convolve(
        np.pad(np.interp(coarse, place, knots), 32, "edge"), np.hanning(65) / 32, "same"
    )[32:-32]
    return np.interp(t_s, coarse, smooth)


def _load_steps(rng: np.random.Generator, t_s: NDArray[np.float64]) -> NDArray[Any]:
    """Load 0..1 that steps every 15 s or so, with the machine's inertia."""
    length_s = float(t_s[-1])
    times = np.cumsum(rng.exponential(15.0, size=int(length_s / 8) + 8))
    levels = rng.choice([0.1, 0.35, 0.6, 0.9], size=times.size + 1)
    coarse = np.arange(0, length_s + 1, 0.05)
    target = levels[np.searchsorted(times, coarse)]
    decay = np.exp(-np.arange(0, 4, 0.05) / 0.7)
    start = np.full(decay.size, target[0])
    eased = np.convolve(np.concatenate([start, target]), decay / decay.sum())
    return np.interp(t_s, coarse, eased[decay.size :][: coarse.size])


def _harmonics(turns: NDArray[np.float64], load: NDArray[np.float64]) -> NDArray[Any]:
    """Imbalance, misalignment, a seven-blade fan: powers of one rotating pointer."""
    pointer = np.exp(2j * np.pi * (turns % 1.0))
    power, total = np.ones_like(pointer), np.zeros(turns.size)
    for order, (size, phase) in enumerate(
        [(120, 0.3), (70, 1.1), (28, 2.0), (12, 0.2), (7, 2.6), (4, 1.9), (34, 0.9)], start=1
    ):
        power = power * pointer
        grows = 0.7 + 0.6 * load if order in (2, 7) else 1.0
        total += size * grows * (power * np.exp(1j * phase)).real
    return total


def _impacts(
    rng: np.random.Generator, turns: NDArray[np.float64], load: NDArray[np.float64]
) -> NDArray[Any]:
    """A damaged bearing: a knock every 1/4.73 turn, with slip, that rings and dies away."""
    n = turns.size
    moments = np.arange(1, int(turns[-1] * _IMPACTS_PER_TURN) + 1) / _IMPACTS_PER_TURN
    moments = moments + rng.normal(scale=0.004, size=moments.size)
    at = np.searchsorted(turns, moments)
    at = at[(at > 0) & (at < n)]
    knocks = np.zeros(n)
    np.add.at(knocks, at, 35 * (0.4 + load[at]) * rng.lognormal(0.0, 0.35, size=at.size))
    s = np.arange(int(6 * _RING_DECAY_S * SENSOR_RATE_HZ)) / SENSOR_RATE_HZ
    ring = np.exp(-s / _RING_DECAY_S) * np.sin(2 * np.pi * _RING_HZ * s)
    return np.convolve(knocks, ring)[:n]


def _noise(rng: np.random.Generator, n: int, load: NDArray[np.float64]) -> NDArray[Any]:
    """Sensor noise, and the rumble of the flow, louder under load."""
    white = rng.standard_normal(n + 8)
    rumble = np.convolve(rng.standard_normal(n + 8), np.ones(8) / np.sqrt(8), "same")
    return 1.6 * white[:n] + (1 + 3 * load) * rumble[:n]
