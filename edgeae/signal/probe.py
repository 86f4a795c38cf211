"""A first look at a signal: what a recipe, and the person who writes one, need to know."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgeae.signal.base import Array, SignalFile
from edgeae.signal.grid import Grid, detect_grid, detect_grids

__all__ = ["ChannelProbe", "Probe", "probe"]

_MAX_LAG_ITEMS = 8192
_LOOK_ITEMS = 1 << 18


@dataclass(frozen=True, kw_only=True)
class ChannelProbe:
    """One channel, in user units.

    Attributes:
        low, high: range of the finite samples.
        std: standard deviation.
        noise: standard deviation of what the two neighbours do not explain: a robust estimate from
            second differences, near the sensor's noise for a smooth signal.
        constant: True if all finite samples are equal.
        grid: the channel's own grid.
        period_items: lag of the strongest repetition, None without one.
        smoothness: correlation of neighbours, 1 for slow signals, 0 for white noise.
        outliers: samples beyond 10 robust deviations from the median.
    """

    low: float
    high: float
    std: float
    noise: float
    constant: bool
    grid: Grid | None
    period_items: int | None
    smoothness: float
    outliers: int


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A signal seen as a whole, with what follows from it.

    Attributes:
        n_items, channels, height, width, dtype, rate_hz: what was read; height and width are None
            for a series.
        grid: the common hidden grid of all channels, None if there is none.
        holes: NaN and Inf samples.
        per_channel: a look at each channel (the first 64); images count as one.
        suggested_max_error: an error bound in user units near the noise, on the grid if there is
            one.
        bits_per_sample: of the range on the grid, the size a plain packed sample would need.
    """

    n_items: int
    channels: int
    height: int | None
    width: int | None
    dtype: str
    rate_hz: float | None
    grid: Grid | None
    holes: int
    per_channel: tuple[ChannelProbe, ...]
    suggested_max_error: float
    bits_per_sample: int

    @property
    def is_image(self) -> bool:
        """True for [N, H, W] and [N, H, W, C]."""
        return self.height is not None

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return asdict(self)


def probe(signal: SignalFile) -> Probe:
    """Look at a signal: grid and range on all of it, the rest on 2^18 items from its middle.

    Example:
        >>> import numpy as np
        >>> t = np.arange(20000)
        >>> x = np.rint(400 * np.sin(2 * np.pi * t / 250)).astype(np.int16)
        >>> seen = probe(SignalFile(data=x, rate_hz=360.0))
        >>> seen.grid, seen.per_channel[0].period_items, seen.bits_per_sample
        (Grid(num=1, den=1), 250, 10)
    """
    data = signal.data
    table = data.reshape(len(data), -1)
    finite = np.isfinite(table) if data.dtype.kind == "f" else None
    holes = int(table.size - np.count_nonzero(finite)) if finite is not None else 0
    if signal.is_image:
        grid = detect_grid(data)
        flat = np.asarray(table[: max(1, _LOOK_ITEMS // table.shape[1])]).reshape(-1)
        seen: tuple[ChannelProbe, ...] = (_channel(flat, _ends(table), grid, period=False),)
    else:
        grid = detect_grid(np.asarray(table))
        one = grid is not None or table.shape[1] == 1
        grids = (grid,) * table.shape[1] if one else detect_grids(np.asarray(table[:, :64]))
        start = max(0, (len(table) - _LOOK_ITEMS) // 2)
        middle = np.asarray(table[start : start + _LOOK_ITEMS])
        seen = tuple(
            _channel(middle[:, c], _ends(table[:, c]), grids[c], period=True)
            for c in range(min(64, table.shape[1]))
        )
    noise = float(np.median([c.noise for c in seen if not c.constant] or [0.0]))
    width = max(c.high - c.low for c in seen)
    step = grid.step if grid is not None else 0.0
    levels = width / step + 1 if step else 2.0**16
    return Probe(
        n_items=signal.n_items,
        channels=signal.channels,
        height=int(data.shape[1]) if signal.is_image else None,
        width=int(data.shape[2]) if signal.is_image else None,
        dtype=str(data.dtype),
        rate_hz=signal.rate_hz,
        grid=grid,
        holes=holes,
        per_channel=seen,
        suggested_max_error=_round_bound(max(noise, width / 1000), grid),
        bits_per_sample=max(1, math.ceil(math.log2(levels))),
    )


def _ends(values: Array) -> tuple[float, float]:
    """Smallest and largest finite sample, 0 where there is none."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _channel(
    values: Array, ends: tuple[float, float], grid: Grid | None, *, period: bool
) -> ChannelProbe:
    x = values.astype(np.float64)
    x = x[np.isfinite(x)]
    if x.size == 0:
        x = np.zeros(1)
    low, high = ends
    middle = float(np.median(x))
    robust = 1.4826 * float(np.median(np.abs(x - middle))) or float(x.std())
    bends = np.abs(np.diff(x, 2)) if x.size > 2 else np.zeros(1)
    noise = 1.4826 * float(np.median(bends)) / math.sqrt(6)
    steps = np.diff(x)
    power = 2 * float(x.var())
    return ChannelProbe(
        low=low,
        high=high,
        std=float(x.std()),
        noise=noise,
        constant=low == high,
        grid=grid,
        period_items=_period(x) if period and x.min() < x.max() else None,
        smoothness=1 - float(np.mean(steps**2)) / power if power and steps.size else 1.0,
        outliers=int(np.count_nonzero(np.abs(x - middle) > 10 * robust)) if low < high else 0,
    )


def _period(x: Array) -> int | None:
    """Lag of the highest peak of the autocorrelation after it first fell to 0."""
    n = min(x.size, 1 << 16)
    lags = min(_MAX_LAG_ITEMS, n // 3)
    if lags < 8:
        return None
    part = x[(x.size - n) // 2 :][:n] - x.mean()
    spectrum = np.fft.rfft(part, 2 * n)
    similarity = np.fft.irfft(np.abs(spectrum) ** 2)[:lags] / (n - np.arange(lags))
    if similarity[0] <= 0:
        return None
    similarity /= similarity[0]
    below = np.flatnonzero(similarity < 0)
    if below.size == 0:
        return None
    tail = similarity[below[0] : -1]
    top = float(tail.max()) if tail.size else 0.0
    if top < 0.2:
        return None
    first = int(np.flatnonzero(tail > 0.9 * top)[0])  # a multiple of the period may be higher
    while first + 1 < tail.size and tail[first + 1] > tail[first]:
        first += 1
    return int(below[0]) + first


def _round_bound(bound: float, grid: Grid | None) -> float:
    if bound <= 0:
        return grid.step if grid is not None else 1.0
    if grid is not None:
        steps = max(1, round(bound / grid.step))
        return float(f"{steps * grid.step:.9g}")
    digits = 10.0 ** math.floor(math.log10(bound))
    return float(f"{max(d for d in (1, 2, 5) if d * digits <= bound) * digits:.3g}")
