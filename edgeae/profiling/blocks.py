"""Blocks of work in turn, until the time is up: how every latency here is measured.

Each round runs one block of every workload, each beside the reference, so that a slow second meets
all alike. Every block codes the same frames: what a frame takes at best, over all rounds, hardly
depends on what else the machine does. Every second round is traced for the stages; the figures of
the whole come from the other rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeae.profiling.distribution import Distribution, histogram
from edgeae.profiling.recorder import Clock, Probe, Recorder, StageClock, TracingRecorder
from edgeae.profiling.stages import REST

__all__ = ["MIN_ROUNDS", "Measured", "Workload", "measure"]

MIN_ROUNDS = 6
_WARM_ROUNDS = 2
_WARM_SHARE = 0.1


class Workload(Protocol):
    """What can be measured: a block of calls, the same ones each time it runs."""

    @property
    def name(self) -> str:
        """What to call it."""

    def run(self, recorder: Recorder) -> None:
        """One block: hand each call to ``recorder.time``, under the name of its direction."""


@dataclass(kw_only=True)
class Measured:
    """What was measured of one direction of a workload.

    Attributes:
        workload, direction: whose.
        rounds: per round the nanoseconds of each of the block's K calls.
        references: per round the nanoseconds of the reference beside it.
        traced: of the traced calls, the nanoseconds of the whole.
        stages: of the same calls, those of each stage.
    """

    workload: str
    direction: str
    rounds: list[list[int]] = field(default_factory=list)
    references: list[int] = field(default_factory=list)
    traced: list[int] = field(default_factory=list)
    stages: list[dict[str, int]] = field(default_factory=list)

    @property
    def times(self) -> NDArray[np.int64]:
        """All calls, [R * K]."""
        return np.concatenate([np.asarray(block, np.int64) for block in self.rounds])

    def to_json(self) -> dict[str, Any]:
        """The figures: of the whole, of its blocks, of its stages."""
        table = np.asarray(self.rounds, np.float64) / 1e3
        blocks = [
            {
                "p50_us": round(float(np.median(row)), 3),
                "min_us": round(float(row.min()), 3),
                "reference_us": round(reference / 1e3, 3),
            }
            for row, reference in zip(table, self.references, strict=True)
        ]
        found: dict[str, Any] = {
            "promise": self.workload,
            "direction": self.direction,
            "whole": Distribution.of(self.times).to_json(),
            "floor_us": round(float(table.min(axis=0).mean()), 3),
            "reference_floor_us": round(min(self.references) / 1e3, 3),
            "blocks": blocks,
            "histogram": histogram(self.times),
        }
        if self.stages:
            found |= self._stages_to_json()
        return found

    def _stages_to_json(self) -> dict[str, Any]:
        names = list(dict.fromkeys(name for row in self.stages for name in row))
        whole = np.asarray(self.traced, np.int64)
        columns = {name: np.array([row.get(name, 0) for row in self.stages]) for name in names}
        columns[REST] = whole - np.sum(list(columns.values()), axis=0, dtype=np.int64)
        mean = float(whole.mean())
        untraced = float(np.median(self.times))
        return {
            "stages": [
                {
                    "stage": name,
                    "share_percent": round(100 * float(column.mean()) / mean, 2),
                    **Distribution.of(column).to_json(),
                }
                for name, column in columns.items()
            ],
            "traced_mean_us": round(mean / 1e3, 3),
            "tracing_costs_percent": round(100 * (float(np.median(whole)) / untraced - 1), 2),
        }


def measure(
    workloads: Sequence[Workload],
    probes: Mapping[str, Sequence[Probe]],
    *,
    budget_s: float,
    reference: Callable[[], int],
    clock: Clock = time.perf_counter_ns,
    say: Callable[[str], None] = lambda _: None,
    min_rounds: int = MIN_ROUNDS,
    warm_rounds: int = _WARM_ROUNDS,
) -> list[Measured]:
    """Run workloads in turn until the time is up.

    Args:
        workloads: whatever has to be measured in one run.
        probes: per direction the functions of its stages; empty for none.
        budget_s: seconds for all of it, the warm-up included.
        reference: gives the nanoseconds of the reference.
        clock: gives nanoseconds.
        say: called with a sentence at the end.
        min_rounds: rounds at least, whatever the time.
        warm_rounds: rounds at least that do not count.
    """
    results: dict[tuple[str, str], Measured] = {}
    everything = tuple(probe for direction in probes.values() for probe in direction)
    end = clock() + round(1e9 * budget_s)
    warm_end = clock() + round(1e9 * budget_s * _WARM_SHARE)
    warm = 0
    while warm < warm_rounds or clock() < warm_end:
        for workload in workloads:
            workload.run(Recorder(clock))
        reference()
        warm += 1
    rounds = 0
    while rounds < min_rounds or clock() < end:
        for workload in workloads:
            plain = Recorder(clock)
            before = reference()
            workload.run(plain)
            beside = min(before, reference())
            for direction, taken in plain.taken.items():
                key = (workload.name, direction)
                found = results.setdefault(
                    key, Measured(workload=workload.name, direction=direction)
                )
                found.rounds.append(taken)
                found.references.append(beside)
            if everything and rounds % 2 == 0:
                _trace(workload, everything, clock, results)
        rounds += 1
    say(f"{rounds} rounds of {len(workloads)} workload(s), {warm} to warm up")
    return list(results.values())


def _trace(
    workload: Workload,
    probes: Sequence[Probe],
    clock: Clock,
    results: Mapping[tuple[str, str], Measured],
) -> None:
    with StageClock(probes, clock) as stage_clock:
        recorder = TracingRecorder(stage_clock, clock)
        workload.run(recorder)
    for direction, taken in recorder.taken.items():
        results[workload.name, direction].traced += taken
        results[workload.name, direction].stages += recorder.stages[direction]
