"""A fixed piece of work that tells how fast this machine is right now.

Clocks drift, and other programs take their share of caches and memory. Blocks of a benchmark
alternate with this work, so that two runs can be compared by how many references a frame takes. It
mixes what coding a frame does: interpreted Python, small matrix products and passes over integers.
"""

from __future__ import annotations

import time

import numpy as np

from edgeae.profiling.recorder import Clock

__all__ = ["Reference"]

_REPEATS = 5


class Reference:
    """The work, and how long it takes.

    Calling it runs the work a few times and returns the nanoseconds of the fastest.
    """

    def __init__(self, clock: Clock = time.perf_counter_ns) -> None:
        self._clock = clock
        rng = np.random.default_rng(1)
        self._matrix = rng.standard_normal((48, 48)).astype(np.float32)
        self._integers = rng.integers(-1000, 1000, 1 << 14).astype(np.int32)

    def __call__(self) -> int:
        """Nanoseconds of the work, the least of five."""
        times = []
        for _ in range(_REPEATS):
            began = self._clock()
            self._work()
            times.append(self._clock() - began)
        return min(times)

    def _work(self) -> int:
        total = 0
        for value in range(1200):
            total += value & 7
        product = self._matrix
        for _ in range(6):
            product = self._matrix @ product
        for _ in range(4):
            steps = np.clip(np.diff(self._integers), -500, 500)
            total += int(np.abs(steps).sum())
        return total
