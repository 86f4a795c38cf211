"""How strong a stream is and where its zero lies: what its device makes of it, told or measured.

A net is trained on the counts of some device. Another device's amplifier and zero make other
counts of the same signal, so samples are moved and scaled on their way in, and back on their way
out. What is measured is measured once, on the first seconds, so that it hangs on the signal alone
and never on how that is cut. Gains that are measured are powers of two, and stay 1 while a signal
is less than twice as strong or as weak as the training data: the net knows such signals.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ConfigError
from edgeae.runtime.bundle import Bundle

__all__ = ["MEASURED_S", "LevelMeter", "spread_of", "told_gain", "told_zero"]

MEASURED_S = 4
"""Seconds that are measured: the spread of a signal is the middle one of those of its seconds."""
_LOW, _HIGH = 0.02, 0.98  # rare samples do not count
_WEAKEST, _STRONGEST = 5, 10  # octaves: a signal further off is none, and keeps its gain

Floats = NDArray[np.float64]


def spread_of(x: Floats, rate_hz: float) -> Floats:
    """How far a signal spreads within a second: rare peaks and what is slower do not count.

    Args:
        x: [C, T], at least a second.
        rate_hz: samples per second.

    Returns:
        float64 [C], in the signal's unit.

    Example:
        >>> x = 10 * np.sin(np.arange(400) / 5.0)[None] + np.linspace(0, 3, 400)
        >>> bool(19 < spread_of(x, 100.0)[0] < 22)
        True
    """
    second = max(1, round(rate_hz))
    pieces = x[:, : x.shape[1] // second * second].reshape(len(x), -1, second)
    ends = np.nanquantile(pieces, (_LOW, _HIGH), axis=2, method="lower")
    return np.asarray(np.nanquantile(ends[1] - ends[0], 0.5, axis=1, method="lower"))


def told_gain(gain: object) -> float:
    """A gain that somebody states.

    Raises:
        ConfigError: it is no positive number.
    """
    if isinstance(gain, bool) or not isinstance(gain, int | float) or not 0 < gain < math.inf:
        raise ConfigError(f"gain is {gain!r}: expected a positive number, or 'auto'")
    return float(gain)


def told_zero(zero: object, channels: int) -> Floats:
    """Zeros that somebody states: float64 [C].

    Raises:
        ConfigError: neither one number nor one for each channel.
    """
    try:
        values = np.asarray(zero, np.float64)
    except (TypeError, ValueError):
        values = np.full((), np.nan)
    if values.shape not in ((), (1,), (channels,)) or not np.isfinite(values).all():
        raise ConfigError(f"zero is {zero!r}: expected a number, or one for each channel")
    return np.broadcast_to(values, channels).copy()


class LevelMeter:
    """Measures N streams of C channels on their first seconds.

    Attributes:
        length: samples that are measured.
        missing: how many of them have not come yet.
        seen: float64 [N, C, T], what came so far, as indices.

    Args:
        bundle: a denoiser of series.
        streams: N.

    Raises:
        ConfigError: the bundle does not say how strong a signal it is made for.
    """

    def __init__(self, bundle: Bundle, streams: int) -> None:
        wanted, rate_hz = bundle.denoise.level, bundle.signal.rate_hz
        if wanted is None or not rate_hz:
            raise ConfigError(
                f"bundle {bundle.name!r} does not say how strong a signal it is made for, so there "
                "is nothing to measure against: state the gain, or export the run again"
            )
        self._wanted, self._rate_hz = float(sum(wanted)), rate_hz
        self.length = MEASURED_S * max(1, round(rate_hz))
        self.seen = np.zeros((streams, bundle.signal.channels, 0))
        self.missing = self.length

    def add(self, x: Floats) -> None:
        """The next samples [N, C, T], at most as many as are missing."""
        self.seen = np.concatenate([self.seen, x], axis=2)
        self.missing -= x.shape[2]

    def measured(self, center: Floats) -> tuple[Floats, Floats]:
        """Gain of each stream, float64 [N], and zero of each channel, float64 [N, C].

        Args:
            center: [N, C], the zero of a channel without a number.
        """
        x = np.where(np.isfinite(self.seen), self.seen, np.nan)
        empty = np.isnan(x).all(axis=2, keepdims=True)
        some = np.where(empty, center[:, :, None], x)
        zero = np.asarray(np.nanquantile(some, 0.5, axis=2, method="lower"))
        return np.array([self._gain(stream) for stream in x]), zero

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Copies of what the next samples hang on."""
        return {"seen": self.seen.copy(), "missing": np.array([self.missing])}

    def restore(self, seen: NDArray[np.generic], missing: int) -> bool:
        """Go on from a state; False, and nothing changed, if it is none."""
        kept = self.length - missing if missing else 0
        if seen.dtype != np.float64 or missing < 0 or seen.shape != (*self.seen.shape[:2], kept):
            return False
        self.seen, self.missing = seen.astype(np.float64), missing
        return True

    def forget(self) -> None:
        """Keep nothing of what was measured."""
        self.seen = self.seen[:, :, :0].copy()

    def _gain(self, x: Floats) -> float:
        held = np.where(np.isnan(x).all(axis=1, keepdims=True), 0.0, x)
        second = self.length // MEASURED_S
        pieces = held.reshape(len(x), MEASURED_S, second)
        whole = ~np.isnan(pieces).all(2).any(0)
        if not whole.any():
            return 1.0
        found = float(spread_of(pieces[:, whole].reshape(len(x), -1), self._rate_hz).sum())
        if not 0 < found < math.inf:
            return 1.0
        mantissa, exponent = math.frexp(self._wanted / found)
        octaves = exponent - 1 if exponent > 0 or mantissa == 0.5 else exponent  # towards zero
        return 2.0**octaves if -_STRONGEST <= octaves <= _WEAKEST else 1.0
