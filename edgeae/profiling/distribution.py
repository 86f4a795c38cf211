"""Times of many calls, in the few numbers that tell how they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Distribution", "histogram"]

_N_BINS = 48


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """How the times of ``n`` calls are distributed, in microseconds.

    Example:
        >>> times = Distribution.of([1_000, 3_000, 2_000, 10_000])
        >>> times.p50_us, times.max_us
        (2.5, 10.0)
    """

    n: int
    mean_us: float
    min_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    max_us: float

    @classmethod
    def of(cls, nanoseconds: Sequence[int] | NDArray[Any]) -> Distribution:
        """Sum up times given in nanoseconds, at least one."""
        times = np.asarray(nanoseconds, dtype=np.float64) / 1e3
        p50, p90, p99 = np.percentile(times, (50, 90, 99))
        return cls(
            n=times.size,
            mean_us=float(times.mean()),
            min_us=float(times.min()),
            p50_us=float(p50),
            p90_us=float(p90),
            p99_us=float(p99),
            max_us=float(times.max()),
        )

    def to_json(self) -> dict[str, Any]:
        """The numbers by name, rounded to the nanosecond."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def histogram(nanoseconds: Sequence[int] | NDArray[Any]) -> dict[str, Any]:
    """Counts of calls per bin of time, equally wide on a logarithmic axis.

    Returns:
        ``edges_us`` [B + 1] and ``counts`` [B].
    """
    times = np.maximum(np.asarray(nanoseconds, dtype=np.float64) / 1e3, 1e-3)
    low, high = float(times.min()), float(times.max())
    edges = np.geomspace(low, max(high, low * 1.05), _N_BINS + 1)
    edges[0], edges[-1] = low, max(high, edges[-1])
    counts, _ = np.histogram(times, edges)
    return {"edges_us": [_rounded(edge) for edge in edges], "counts": counts.tolist()}


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 3)
