"""Noise as it is met in the field, seeded: what a denoiser is trained on and measured with.

A recipe lists its kinds of noise; each is made at unit power, and their weighted sum is scaled so
that the signal-to-noise ratio is hit exactly. Drop-outs come last: they take samples away.
Shapes: T samples, C channels; every channel has noise of its own, at the SNR of that channel.

Example:
    >>> rng = np.random.default_rng(0)
    >>> clean = np.sin(np.arange(2000) / 9.0)[:, None]
    >>> noisy = mix(clean, [NoisePart(kind="white"), NoisePart(kind="hum")], 6.0, 360.0, rng)
    >>> round(snr_db(clean, noisy), 6)
    6.0
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ConfigError, SignalError
from edgeae.signal.io import read_signal

__all__ = ["NoisePart", "add_noise", "make_noise", "mix", "snr_db", "unit_power"]

Floats = NDArray[np.float64]

SMALL = 1e-12


@dataclass(frozen=True, kw_only=True)
class NoisePart:
    """One kind of noise in a recipe: ``[[denoise.noise]]``.

    Attributes:
        kind: ``white``, ``coloured``, ``hum``, ``wander``, ``emg``, ``impulses``, ``dropouts`` or
            ``recorded``.
        power: its share of the noise power, beside the others' shares.
        spread_db: in training its share varies by up to this much, either way.
        exponent: ``coloured``: power falls as 1/f**exponent; 1 is pink, 2 is brown.
        hz: ``hum``: the mains' frequency; in training it is off by up to 1 %.
        harmonics: ``hum``: sinusoids at its multiples, each of half the amplitude before it.
        low_hz: ``wander``, ``emg``: the band's lower end.
        high_hz: ``wander``, ``emg``: the band's upper end.
        rate_hz: ``impulses``, ``dropouts``, ``emg``: how many a second.
        length_s: ``dropouts``: the mean length of one; the last sample is held meanwhile.
        folder: ``recorded``: recordings, cut at random places.
    """

    kind: str
    power: float = 1.0
    spread_db: float = 0.0
    exponent: float = 1.0
    hz: float = 50.0
    harmonics: int = 3
    low_hz: float | None = None
    high_hz: float | None = None
    rate_hz: float | None = None
    length_s: float = 0.05
    folder: str = ""

    def __post_init__(self) -> None:
        """Check that the kind exists and that it reads what is set."""
        if self.kind not in _KINDS:
            raise ConfigError(f"noise kind is {self.kind!r}, expected one of {', '.join(_KINDS)}")
        allowed = {"kind", "power", "spread_db", *_KINDS[self.kind].options}
        for field in dataclasses.fields(self):
            if field.name not in allowed and getattr(self, field.name) != field.default:
                raise ConfigError(
                    f"noise of kind {self.kind!r} takes no {field.name}; it takes "
                    f"{', '.join(sorted(allowed - {'kind'}))}"
                )
        if self.kind == "recorded" and not self.folder:
            raise ConfigError("noise of kind 'recorded' needs the folder of its recordings")
        if self.low_hz is not None and self.high_hz is not None and self.low_hz >= self.high_hz:
            raise ConfigError(f"noise from {self.low_hz} to {self.high_hz} Hz: low, then high")

    @property
    def additive(self) -> bool:
        """Whether it is added; drop-outs are not."""
        return self.kind != "dropouts"


def unit_power(x: Floats) -> Floats:
    """Every channel scaled to mean power 1; silence stays."""
    power = np.mean(np.square(x), axis=0)
    return np.asarray(x / np.sqrt(np.where(power > SMALL, power, 1.0)))


def _gaussian(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    return rng.standard_normal(shape)


def _shaped(gain: Floats, n: int, channels: int, rng: np.random.Generator) -> Floats:
    """White noise with the spectrum ``gain`` [n // 2 + 1]."""
    spectrum = np.fft.rfft(_gaussian((n, channels), rng), axis=0) * gain[:, None]
    return np.fft.irfft(spectrum, n, axis=0)


def _white(_: NoisePart, n: int, channels: int, _rate: float, rng: np.random.Generator) -> Floats:
    return _gaussian((n, channels), rng)


def _coloured(
    part: NoisePart, n: int, channels: int, _rate: float, rng: np.random.Generator
) -> Floats:
    f = np.arange(n // 2 + 1, dtype=np.float64)
    f[0] = math.inf  # no offset
    return _shaped(f ** (-part.exponent / 2), n, channels, rng)


def _hum(part: NoisePart, n: int, channels: int, rate: float, rng: np.random.Generator) -> Floats:
    t = np.arange(n)[:, None] / rate
    hz = part.hz * rng.uniform(0.99, 1.01)
    out = np.zeros((n, channels))
    for k in range(1, part.harmonics + 1):
        if k * hz < rate / 2:
            phase = rng.uniform(0, 2 * np.pi, channels)
            out += 0.5 ** (k - 1) * np.sin(2 * np.pi * k * hz * t + phase)
    return out


def _wander(
    part: NoisePart, n: int, channels: int, rate: float, rng: np.random.Generator
) -> Floats:
    """Half slow sinusoids, as of breathing, half a random walk in the same band."""
    low, high = part.low_hz or 0.05, part.high_hz or 0.5
    t = np.arange(n)[:, None] / rate
    waves = np.zeros((n, channels))
    for _ in range(3):
        hz, size = rng.uniform(low, high, channels), rng.uniform(0.3, 1.0, channels)
        waves += size * np.sin(2 * np.pi * hz * t + rng.uniform(0, 2 * np.pi, channels))
    share = rng.uniform(0.0, 1.0)
    f = np.asarray(np.fft.rfftfreq(n, 1 / rate), np.float64)
    if not np.any((f >= low) & (f <= high)):  # shorter than a period
        return waves
    walk = _shaped(_band(f, low, high) / np.maximum(f, low), n, channels, rng)
    return np.asarray(share * unit_power(waves) + (1 - share) * unit_power(walk))


def _band(f: Floats, low: float, high: float) -> Floats:
    """A band whose edges fall by 24 dB an octave."""
    above = 1 / (1 + (low / np.maximum(f, 1e-9)) ** 4)
    return np.asarray(above / (1 + (f / high) ** 4))


def _emg(part: NoisePart, n: int, channels: int, rate: float, rng: np.random.Generator) -> Floats:
    """Band-passed noise that swells and fades, as muscles do."""
    f = np.asarray(np.fft.rfftfreq(n, 1 / rate), np.float64)
    low, high = part.low_hz or 20.0, min(part.high_hz or 150.0, 0.49 * rate)
    out = _shaped(_band(f, low, high), n, channels, rng)
    knots = max(2, 1 + round(n / rate * (part.rate_hz or 1.0)))
    at = np.linspace(0, n - 1, knots)
    for c in range(channels):
        out[:, c] *= np.exp(np.interp(np.arange(n), at, rng.standard_normal(knots)))
    return out


def _impulses(
    part: NoisePart, n: int, channels: int, rate: float, rng: np.random.Generator
) -> Floats:
    """Single samples of either sign, between one and three times their median size."""
    chance = min(1.0, (part.rate_hz or 0.01 * rate) / rate)
    hits = rng.random((n, channels)) < chance
    size = rng.uniform(0.5, 1.5, (n, channels)) * np.where(rng.random((n, channels)) < 0.5, -1, 1)
    out = np.where(hits, size, 0.0)
    for c in np.flatnonzero(~hits.any(0)):  # the SNR must be met
        out[rng.integers(n), c] = 1.0
    return out


@lru_cache(maxsize=4)
def _recordings(folder: str) -> tuple[tuple[float | None, Floats], ...]:
    files = sorted(p for p in Path(folder).expanduser().iterdir() if p.is_file())
    found = []
    for file in files:
        try:
            signal = read_signal(file)
        except SignalError:
            continue
        data = np.asarray(signal.data, np.float64).reshape(len(signal.data), -1)
        found.append((signal.rate_hz, data - data.mean(0)))
    return tuple(found)


def _recorded(
    part: NoisePart, n: int, channels: int, rate: float, rng: np.random.Generator
) -> Floats:
    try:
        found = _recordings(part.folder)
    except OSError as error:
        raise ConfigError(f"cannot read the noise folder {part.folder}: {error}") from error
    if not found:
        raise ConfigError(f"the noise folder {part.folder} holds no recording that can be read")
    wrong = sorted({r for r, _ in found if r is not None and r != rate})
    if wrong:
        raise ConfigError(
            f"noise in {part.folder} is sampled at {wrong[0]:g} Hz and the signal at {rate:g} Hz: "
            "resample it first"
        )
    out = np.empty((n, channels))
    for c in range(channels):
        pieces: list[Floats] = []
        while sum(map(len, pieces)) < n:
            _, data = found[rng.integers(len(found))]
            start = rng.integers(max(1, len(data) - n + 1))
            pieces.append(unit_power(data[start : start + n, rng.integers(data.shape[1])]))
        out[:, c] = np.concatenate(pieces)[:n]
    return out


Maker = Callable[[NoisePart, int, int, float, np.random.Generator], Floats]


@dataclass(frozen=True)
class _Kind:
    make: Maker
    options: tuple[str, ...] = ()


_KINDS: dict[str, _Kind] = {
    "white": _Kind(_white),
    "coloured": _Kind(_coloured, ("exponent",)),
    "hum": _Kind(_hum, ("hz", "harmonics")),
    "wander": _Kind(_wander, ("low_hz", "high_hz")),
    "emg": _Kind(_emg, ("low_hz", "high_hz", "rate_hz")),
    "impulses": _Kind(_impulses, ("rate_hz",)),
    "dropouts": _Kind(_white, ("rate_hz", "length_s")),
    "recorded": _Kind(_recorded, ("folder",)),
}


def make_noise(
    part: NoisePart, n: int, channels: int, rate_hz: float, rng: np.random.Generator
) -> Floats:
    """Additive noise [n, C] of unit power in every channel.

    Raises:
        ConfigError: drop-outs, which are not additive, or recordings that cannot be used.
    """
    if not part.additive:
        raise ConfigError("drop-outs cannot be added: mix() applies them")
    return unit_power(_KINDS[part.kind].make(part, n, channels, rate_hz, rng))


def _drop(part: NoisePart, x: Floats, rate: float, rng: np.random.Generator) -> Floats:
    """Hold the sample before each drop-out while it lasts."""
    out = x.copy()
    for _ in range(rng.poisson((part.rate_hz or 0.2) * len(x) / rate)):
        start = int(rng.integers(1, max(2, len(x))))
        stop = start + 1 + int(rng.exponential(part.length_s * rate))
        out[start:stop] = out[start - 1]
    return out


def add_noise(
    parts: Sequence[NoisePart],
    n: int,
    channels: int,
    rate_hz: float,
    rng: np.random.Generator,
    *,
    vary: bool = False,
) -> Floats:
    """The weighted sum [n, C] of the additive parts, of unit power.

    Args:
        parts: kinds and their shares.
        n: samples T.
        channels: C.
        rate_hz: samples per second.
        rng: decides everything.
        vary: let the shares vary by each part's ``spread_db``.
    """
    total = np.zeros((n, channels))
    for part in parts:
        if part.additive and part.power > 0:
            db = rng.uniform(-part.spread_db, part.spread_db) if vary else 0.0
            gain = math.sqrt(part.power) * 10 ** (db / 20)
            total += gain * make_noise(part, n, channels, rate_hz, rng)
    return unit_power(total)


def mix(
    clean: NDArray[Any],
    parts: Sequence[NoisePart],
    snr_db: float,
    rate_hz: float,
    rng: np.random.Generator,
    *,
    vary: bool = False,
) -> Floats:
    """Clean [T, C] plus noise, at an SNR over the clean signal's power around its mean.

    The ratio holds for every channel, to the last digit, before drop-outs.
    """
    x = np.asarray(clean, np.float64)
    noise = add_noise(parts, len(x), x.shape[1], rate_hz, rng, vary=vary)
    noisy = x + noise * x.std(0) * 10 ** (-snr_db / 20)
    for part in parts:
        if not part.additive:
            noisy = _drop(part, noisy, rate_hz, rng)
    return np.asarray(noisy)


def snr_db(clean: NDArray[Any], other: NDArray[Any]) -> float:
    """Power of the clean signal around its mean over that of the difference, mean of channels."""
    x, y = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (clean, other))
    error = np.mean(np.square(x - y), axis=0)
    return float(np.mean(10 * np.log10((x.var(0) + SMALL) / (error + SMALL))))
