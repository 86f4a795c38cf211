"""Take the time of calls, and of the stages inside them.

Stages are the real functions of the package: while a `StageClock` is open they are wrapped where
their callers look them up, and each call counts for its own stage only, without the stages that it
calls in turn. So the stages of a call and what is left, its rest, add up to the call exactly.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

__all__ = ["Clock", "Probe", "Recorder", "StageClock", "TracingRecorder"]

Clock = Callable[[], int]
"""Gives nanoseconds that only grow, as ``time.perf_counter_ns`` does."""
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A function that belongs to a stage.

    Attributes:
        module: where its callers look it up.
        name: of the function there, or ``Class.method``.
        stage: what to call the stage.
    """

    module: str
    name: str
    stage: str

    def resolve(self) -> tuple[Any, str, Callable[..., Any]]:
        """The object that holds the function, the attribute's name, and the function.

        Raises:
            AttributeError: there is none of that name any more.
        """
        owner: Any = importlib.import_module(self.module)
        *path, attribute = self.name.split(".")
        for part in path:
            owner = getattr(owner, part)
        return owner, attribute, getattr(owner, attribute)


class Recorder:
    """Takes the time of calls, per direction, in nanoseconds."""

    def __init__(self, clock: Clock = time.perf_counter_ns) -> None:
        self.clock = clock
        self.taken: dict[str, list[int]] = {}

    def time(self, direction: str, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function and note under ``direction`` how long it took."""
        clock = self.clock
        began = clock()
        result = function(*args)
        took = clock() - began
        self.note(direction, took)
        return result

    def note(self, direction: str, nanoseconds: int) -> None:
        """Note a time that was taken elsewhere."""
        self.taken.setdefault(direction, []).append(nanoseconds)


class StageClock:
    """While open, counts the time that each stage takes by itself."""

    def __init__(self, probes: Sequence[Probe], clock: Clock = time.perf_counter_ns) -> None:
        self._probes = probes
        self._clock = clock
        self._own: dict[str, int] = {}
        self._inner: list[int] = []  # of each open call, what the stages inside it took
        self._restore: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> StageClock:
        for probe in self._probes:
            owner, attribute, function = probe.resolve()
            inherited = isinstance(owner, type) and attribute not in vars(owner)
            self._restore.append((owner, attribute, None if inherited else function))
            setattr(owner, attribute, self._wrapped(function, probe.stage))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for owner, attribute, function in reversed(self._restore):
            if function is None:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, function)
        self._restore.clear()

    def take(self) -> dict[str, int]:
        """Nanoseconds per stage since the last ``take``."""
        own, self._own = self._own, {}
        return own

    def _wrapped(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        clock, inner = self._clock, self._inner

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            inner.append(0)
            began = clock()
            try:
                return function(*args, **kwargs)
            finally:
                took = clock() - began
                self._own[stage] = self._own.get(stage, 0) + took - inner.pop()
                if inner:
                    inner[-1] += took

        return timed


class TracingRecorder(Recorder):
    """Also notes, per call, what each stage took: ``stages[direction]`` has one dict per call."""

    def __init__(self, stage_clock: StageClock, clock: Clock = time.perf_counter_ns) -> None:
        super().__init__(clock)
        self._stage_clock = stage_clock
        self.stages: dict[str, list[dict[str, int]]] = {}

    def note(self, direction: str, nanoseconds: int) -> None:
        """Note a time, and the stages that ran since the last one."""
        super().note(direction, nanoseconds)
        self.stages.setdefault(direction, []).append(self._stage_clock.take())
