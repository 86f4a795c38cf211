"""Rows that the profiles of codecs, denoisers and graphs share: rates, medians, starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgeae.profiling.blocks import Measured, Workload, measure
from edgeae.profiling.machine import machine
from edgeae.profiling.profile import BENCH_FORMAT, BENCH_VERSION, now
from edgeae.profiling.reference import Reference
from edgeae.runtime.bundle import Bundle

__all__ = ["FEW_ROUNDS", "Row", "Say", "bundle_row", "head", "medians", "rates", "warm_starts"]

FEW_ROUNDS = 3
_WARM_STARTS = 7

Say = Callable[[str], None]
Row = dict[str, Any]


def head(about: Row) -> Row:
    """How a profile begins; ``about`` is the machine as it was before."""
    return {
        "format": BENCH_FORMAT,
        "version": BENCH_VERSION,
        "measured": now(),
        "machine": about | {"load_average_after": machine()["load_average"]},
    }


def bundle_row(bundle: Bundle, engine: str) -> Row:
    """Which bundle was measured, and on which engine."""
    return {
        "kind": "bundle",
        "name": bundle.name,
        "task": bundle.task,
        "fingerprint": bundle.fingerprint.hex(),
        "exact": bundle.manifest.exact,
        "engine": engine,
    }


def rates(seconds: float, n_items: int, samples_per_item: int, rate_hz: float | None) -> Row:
    """Throughput, and how many times faster than the signal arrives."""
    per_s = n_items / seconds
    return {
        "items_per_s": round(per_s, 1),
        "samples_per_s": round(per_s * samples_per_item, 1),
        "real_time_factor": round(per_s / rate_hz, 3) if rate_hz else None,
    }


def medians(loops: Sequence[Workload], budget_s: float) -> dict[tuple[str, str], tuple[float, int]]:
    """Median seconds and number of calls of each loop's directions."""

    def median(measured: Measured) -> tuple[float, int]:
        return float(np.median(measured.times)) / 1e9, measured.times.size

    found = measure(
        loops, {}, budget_s=budget_s, reference=Reference(), min_rounds=FEW_ROUNDS, warm_rounds=1
    )
    return {(m.workload, m.direction): median(m) for m in found}


def warm_starts(load: Callable[[], Callable[[], object]]) -> Row:
    """Milliseconds to load a model again in a running process, and with its first use.

    Args:
        load: loads the model and returns what uses it first.
    """
    rows = []
    for _ in range(_WARM_STARTS):
        began = time.perf_counter()
        first_use = load()
        loaded = time.perf_counter()
        first_use()
        rows.append([time.perf_counter() - began, loaded - began])
    table = 1e3 * np.array(rows)
    return {
        "n": _WARM_STARTS,
        "p50_ms": round(float(np.median(table[:, 0])), 3),
        "min_ms": round(float(table[:, 0].min()), 3),
        "load_ms": round(float(np.median(table[:, 1])), 3),
    }
