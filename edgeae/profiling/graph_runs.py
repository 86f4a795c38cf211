"""Ways to run one ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ConfigError, ModelError
from edgeae.runtime.engines import Net, open_net
from edgeae.runtime.onnx_file import OnnxGraph, read_onnx
from edgeae.runtime.program import INPUT_PEAK
from edgeae.runtime.session import OpenGraph, open_graph

__all__ = ["GraphRun", "feed_for", "inputs_of", "native_net", "open_run"]

_INTEGERS = 100.0  # how large they are

Array = NDArray[Any]


class GraphRun:
    """A graph open on one engine. Use `open_run` to make one.

    Attributes:
        engine: ``native`` or ``onnxruntime``.
    """

    def __init__(self, opened: OpenGraph | Net) -> None:
        self._opened = opened
        self.engine = "onnxruntime" if isinstance(opened, OpenGraph) else opened.engine

    def prepare(self, feed: Mapping[str, Array]) -> Callable[[object], None]:
        """A function that runs the graph on these arrays, buffers ready; its argument is free."""
        opened = self._opened
        if isinstance(opened, OpenGraph):
            bound = opened.bind(feed)
            return lambda _: bound.run()
        values = np.ascontiguousarray(feed[opened.input_name], dtype=np.float32)
        target = opened.run(values)
        return lambda _: opened.run_into(values, target)


def open_run(data: bytes, *, name: str, engine: str = "auto", threads: int = 1) -> GraphRun:
    """Open a graph; ``auto`` takes the native engine where that is the one for it.

    Raises:
        ConfigError: no such engine, or one that cannot run this graph.
        ModelError: the graph cannot be opened.
    """
    if engine != "onnxruntime" and (engine == "native" or _is_simple(data, name)):
        net = open_net(data, name=name, engine=engine, threads=threads)
        if net.engine == "native":
            return GraphRun(net)
    return GraphRun(open_graph(data, name=name, threads=threads))


def native_net(data: bytes, *, name: str) -> Net | None:
    """The graph on the native engine; None where that cannot run it."""
    if not _is_simple(data, name):
        return None
    try:
        return open_net(data, name=name, engine="native")
    except (ConfigError, ModelError):
        return None


def _is_simple(data: bytes, name: str) -> bool:
    """Whether a graph maps one float32 tensor to one."""
    if _is_ort(data):
        return False
    graph = read_onnx(data, name=name)
    values = (*graph.inputs, *graph.outputs)
    return len(values) == 2 and all(value.dtype == np.float32 for value in values)


class _Value(Protocol):
    """An input: of a file, or of an open graph."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> np.dtype[Any] | None: ...
    @property
    def shape(self) -> tuple[int | str | None, ...] | None: ...


def inputs_of(data: bytes, *, name: str) -> tuple[Sequence[_Value], float | None]:
    """The inputs of an ONNX or .ort file, and the largest integer that an exact net takes.

    Raises:
        ModelError: it cannot be read.
    """
    found: OpenGraph | OnnxGraph
    found = open_graph(data, name=name) if _is_ort(data) else read_onnx(data, name=name)
    peak = found.metadata.get(INPUT_PEAK)
    return found.inputs, None if peak is None else float(peak)


def _is_ort(data: bytes) -> bool:
    return data[4:8] == b"ORTM"


def feed_for(
    inputs: Sequence[_Value], shapes: Mapping[str, tuple[int, ...]], *, peak: float | None = None
) -> dict[str, Array]:
    """Inputs for a graph: noise for floats, zeros for all else.

    Args:
        inputs: the graph's.
        shapes: per input its shape; an empty name stands for the only input. Free axes of others
            are 1.
        peak: of the integers that floats must be; None for any floats.

    Raises:
        ConfigError: a shape that the graph does not take, or for an input that it has not.
        ModelError: an input that is no tensor of numbers.
    """
    names = [value.name for value in inputs]
    given = dict(shapes)
    if "" in given:
        if len(names) != 1:
            raise ConfigError(f"the graph has the inputs {', '.join(names)}: give NAME=SHAPE each")
        given = {names[0]: given.pop("")} | given
    for name in given:
        if name not in names:
            raise ConfigError(f"the graph has no input {name!r}; it has {', '.join(names)}")
    rng = np.random.default_rng(0)
    feed: dict[str, Array] = {}
    for value in inputs:
        if value.dtype is None or value.shape is None:
            raise ModelError(f"input {value.name!r} is no tensor of numbers with a known rank")
        free = [axis if isinstance(axis, int) and axis > 0 else None for axis in value.shape]
        shape = given.get(value.name)
        if shape is None:
            shape = tuple(axis or 1 for axis in free)
        if len(shape) != len(free) or any(
            axis not in (None, found) for axis, found in zip(free, shape, strict=True)
        ):
            raise ConfigError(
                f"input {value.name!r} takes {['any' if a is None else a for a in free]}, "
                f"not {list(shape)}"
            )
        values = np.zeros(shape)
        if value.dtype.kind == "f":
            values = rng.standard_normal(shape)
            if peak is not None:
                values = np.clip(np.rint(_INTEGERS * values), -peak, peak)
        feed[value.name] = values.astype(value.dtype)
    return feed
