"""The native engine for graphs of several inputs and outputs: a stream's net and its state."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeae.native as native
from edgeae.errors import ModelError
from edgeae.runtime.blocks import NetProgram
from edgeae.runtime.layout import NetLayout, lay_out
from edgeae.runtime.native_net import clones
from edgeae.runtime.onnx_file import OnnxValue, read_onnx
from edgeae.runtime.program import Compiler
from edgeae.runtime.session import GraphValue
from edgeae.runtime.views import UnsupportedGraphError

__all__ = ["BoundNativeGraph", "HeldPlan", "NativeGraph", "native_graph"]

_KEPT_LAYOUTS = 32


class BoundNativeGraph:
    """A graph laid out for one shape of each input: ``run`` allocates nothing.

    Attributes:
        source: float32 [N, ...], each sample's inputs one after the other.
        target: float32 [N, ...], each sample's outputs likewise.
        starts: place of each input in a row of ``source``, and the row's length.
        ends: likewise of each output.
        output_shapes: of one sample.
    """

    def __init__(
        self, graph: NativeGraph, handle: Any, program: Any, n: int, arena_bytes: int
    ) -> None:
        self._graph, self._handle = graph, handle
        self.output_shapes: tuple[tuple[int, ...], ...] = program.output_shapes
        self.starts = _places(program.input_shapes)
        self.ends = _places(program.output_shapes)
        self.source = np.zeros((n, self.starts[-1]), np.float32)
        self.target = np.zeros((n, self.ends[-1]), np.float32)
        self.arena_bytes = arena_bytes

    def run(self) -> None:
        """Compute the target from the source.

        Raises:
            ModelError: the source holds what an exact net may not be given.
        """
        if not self._graph.core.net_run(self._handle, self.source, self.target, len(self.source)):
            raise ModelError(
                f"{self._graph.name}: an input holds numbers that are no integers of the range "
                "that the graph states"
            )


class NativeGraph:
    """A dyadic graph on the C kernels.

    Args:
        graph: the file's bytes.
        name: what to call it in messages.
        clone: one of ``clones()``; None for the best.

    Attributes:
        inputs: what must be fed.
        outputs: what comes out.
        metadata: what the graph says of itself.

    Raises:
        UnsupportedGraphError: the graph is beyond the engine, or the C extension is not built.
        ModelError: not an ONNX file.
    """

    engine = "native"

    def __init__(self, graph: bytes, *, name: str, clone: str | None = None) -> None:
        names = clones()
        if native.core is None or not names:
            raise UnsupportedGraphError(
                f"{name}: the native engine needs the C extension, which is not built or switched "
                "off (EDGEAE_PURE)"
            )
        self.name, self.core = name, native.core
        self._compiler = Compiler(read_onnx(graph, name=name), exact=True, name=name)
        parsed = self._compiler.graph
        self.inputs = tuple(map(_value, parsed.inputs))
        self.outputs = tuple(map(_value, parsed.outputs))
        self.metadata = dict(parsed.metadata)
        self._clone = 0 if clone is None else names.index(clone)
        self._packed: dict[Any, Any] = {}
        self._laid: OrderedDict[Any, tuple[NetProgram, NetLayout]] = OrderedDict()

    def bind(self, n: int, shapes: Sequence[Sequence[int]]) -> BoundNativeGraph:
        """Lay the graph out.

        Args:
            n: samples per run.
            shapes: of each input, without the batch axis.

        Raises:
            UnsupportedGraphError: the engine cannot run the graph on these shapes.
        """
        program, layout = self._layout(tuple(map(tuple, shapes)), 0)
        handle = self.open(layout)
        return BoundNativeGraph(self, handle, program, n, layout.arena_bytes)

    def held(self, shapes: Sequence[Sequence[int]]) -> HeldPlan:
        """Lay the graph out with all inputs but the first held in the arena: a stream's state.

        Args:
            shapes: of each input, without the batch axis.

        Raises:
            UnsupportedGraphError: the engine cannot run the graph on these shapes.
        """
        program, layout = self._layout(tuple(map(tuple, shapes)), len(shapes) - 1)
        return HeldPlan(self, program, layout)

    def open(self, layout: NetLayout, arena: NDArray[np.uint8] | None = None) -> Any:
        """The C engine's handle of a layout, working in an arena of the caller's or its own."""
        try:
            return self.core.net_open(layout.words, layout.constants, self._clone, arena)
        except ValueError as error:
            raise UnsupportedGraphError(
                f"{self.name}: the native engine refuses its plan: {error}"
            ) from error

    def _layout(
        self, shapes: tuple[tuple[int, ...], ...], held: int
    ) -> tuple[NetProgram, NetLayout]:
        """Program and layout for some shapes; the last ones are kept."""
        key = shapes, held
        if key not in self._laid:
            program = self._compiler.compile(*shapes)
            self._laid[key] = program, lay_out(program, cache=self._packed, held=held)
            while len(self._laid) > _KEPT_LAYOUTS:
                self._laid.popitem(last=False)
        self._laid.move_to_end(key)
        return self._laid[key]


class HeldPlan:
    """A stream's graph laid out for one length of a block, its state in arenas of the caller's.

    Attributes:
        arena_bytes: that each arena must have.
        places: where in an arena each state lies, int16 [L, C], in bytes.
        output_shape: of one stream.
    """

    def __init__(self, graph: NativeGraph, program: NetProgram, layout: NetLayout) -> None:
        self._graph, self._layout = graph, layout
        self._handles: list[Any] = []
        self._arenas: Sequence[NDArray[np.uint8]] = ()
        self.arena_bytes, self.places = layout.arena_bytes, layout.held
        self.output_shape = program.output_shapes[0]

    def run(
        self,
        arenas: Sequence[NDArray[np.uint8]],
        x: NDArray[np.float32],
        out: NDArray[np.float32],
    ) -> None:
        """Run each stream in its arena.

        Args:
            arenas: per stream, aligned to 64 bytes; the states in them go forward.
            x: float32 [N, C, T], contiguous.
            out: float32 [N, C_out, T], contiguous.

        Raises:
            ModelError: the input holds what an exact net may not be given.
        """
        if arenas is not self._arenas:
            self._handles = [self._graph.open(self._layout, arena) for arena in arenas]
            self._arenas = arenas
        run = self._graph.core.net_run
        for handle, source, target in zip(self._handles, x, out, strict=True):
            if not run(handle, source, target, 1):
                raise ModelError(
                    f"{self._graph.name}: the input holds numbers that are no integers of the "
                    "range that the graph states"
                )


def native_graph(graph: bytes, name: str) -> NativeGraph:
    """A graph on the best kernels; the same one for the same bytes, so that it is laid out once.

    Raises:
        UnsupportedGraphError: as of [NativeGraph][].
    """
    return _kept(graph, name) if native.core is not None else NativeGraph(graph, name=name)


@lru_cache(maxsize=8)
def _kept(graph: bytes, name: str) -> NativeGraph:
    return NativeGraph(graph, name=name)


def _places(shapes: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.cumsum([0, *map(prod, shapes)])


def _value(value: OnnxValue) -> GraphValue:
    shape = tuple(d if isinstance(d, int) and d > 0 else None for d in value.shape or ())
    return GraphValue(name=value.name, kind="tensor(float)", shape=shape)
