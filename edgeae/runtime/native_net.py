"""The native engine: a compiled net on the C kernels of ``native/net.c``."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeae.native as native
from edgeae.errors import ModelError
from edgeae.runtime.layout import ROWS, has_positions, lay_out
from edgeae.runtime.onnx_file import OnnxValue, read_onnx
from edgeae.runtime.program import Compiler
from edgeae.runtime.views import UnsupportedGraphError

__all__ = ["NativeNet", "clones", "open_native"]

_KEPT_PLANS = 8


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A net laid out for one input shape."""

    handle: Any
    output_shape: tuple[int, ...]
    arena_bytes: int


class NativeNet:
    """A net on the C kernels: ``run`` maps a float32 array to a float32 array.

    Exact nets give the bits of every other engine; float nets agree to about 1e-5 of the range. A
    net is laid out once per input shape; after that a run allocates nothing but its result. Use
    [open_native][] to make one.

    Attributes:
        name: what to call it in messages.
        engine: ``native``.
        exact: whether it computes in integers.
        input_name: of the one input.
        output_name: of the one output.
        input_shape: None where an axis is free.
        output_shape: likewise.
        metadata: what the graph says of itself.
        clone: the instruction set that its kernels use.
    """

    engine = "native"

    def __init__(
        self, compiler: Compiler, *, core: Any, clone: str, packed: dict[Any, Any] | None = None
    ) -> None:
        graph = compiler.graph
        self._compiler, self._core = compiler, core
        self._clone = clones().index(clone)
        self._plans: OrderedDict[tuple[int, ...], _Plan] = OrderedDict()
        self._packed = {} if packed is None else packed
        (source,), (target,) = graph.inputs, graph.outputs
        self.name, self.exact, self.clone = compiler.name, compiler.exact, clone
        self.input_name, self.output_name = source.name, target.name
        self.input_shape, self.output_shape = _plain_shape(source), _plain_shape(target)
        self.metadata = dict(graph.metadata)

    def __repr__(self) -> str:
        return f"NativeNet({self.name}: {self.input_shape} -> {self.output_shape}, {self.clone})"

    def run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the net.

        Args:
            values: float32, of the graph's input shape; the batch axis is free.

        Returns:
            float32, a fresh array.

        Raises:
            ModelError: the shape does not fit, or an exact net is fed what it may not be fed: NaN,
                or where it does not round its input, other than integers of its range.
        """
        plan = self._plans.get(values.shape)
        if plan is None:
            plan = self._plan(values.shape)
        out = np.empty((values.shape[0], *plan.output_shape), np.float32)
        self._run(plan, values, out)
        return out

    def run_into(self, values: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Run the net into the caller's array: after the first call nothing is allocated.

        Args:
            values: float32, of the graph's input shape; the batch axis is free.
            out: float32, of the output's shape.

        Raises:
            ModelError: a shape does not fit, or as in ``run``.
        """
        plan = self._plans.get(values.shape)
        if plan is None:
            plan = self._plan(values.shape)
        shape = (values.shape[0], *plan.output_shape)
        if out.shape != shape:
            raise ModelError(
                f"{self.name}: the array to write to has shape {list(out.shape)}, "
                f"the output {list(shape)}"
            )
        if out.dtype == np.float32 and out.flags.c_contiguous:
            self._run(plan, values, out)
        else:
            whole = np.empty(shape, np.float32)
            self._run(plan, values, whole)
            out[...] = whole

    def arena_bytes(self, shape: tuple[int, ...]) -> int:
        """Memory that a run works in, for an input of that shape."""
        return (self._plans.get(shape) or self._plan(shape)).arena_bytes

    def _run(self, plan: _Plan, values: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        if values.dtype != np.float32 or not values.flags.c_contiguous:
            values = np.ascontiguousarray(values, np.float32)
        if not self._core.net_run(plan.handle, values, out, values.shape[0]):
            raise ModelError(
                f"{self.name}: the input {self.input_name!r} holds numbers that are no integers "
                "of the range that the graph states"
            )

    def _plan(self, shape: tuple[int, ...]) -> _Plan:
        """Lay the net out for an input shape, and keep the last few."""
        self._check_shape(shape)
        program = self._compiler.compile(shape[1:])
        rows = 1 if has_positions(program) else min(max(shape[0], 1), ROWS)
        layout = lay_out(program, rows=rows, cache=self._packed)
        try:
            handle = self._core.net_open(layout.words, layout.constants, self._clone)
        except ValueError as error:
            raise ModelError(f"{self.name}: the native engine refuses its plan: {error}") from error
        plan = _Plan(
            handle=handle, output_shape=program.output_shapes[0], arena_bytes=layout.arena_bytes
        )
        self._plans[shape] = plan
        while len(self._plans) > _KEPT_PLANS:
            self._plans.popitem(last=False)
        return plan

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        expected = self.input_shape
        if (
            len(shape) != len(expected)
            or prod(shape[1:]) == 0
            or any(
                wanted is not None and wanted != found
                for found, wanted in zip(shape, expected, strict=True)
            )
        ):
            raise ModelError(
                f"{self.name}: input {self.input_name!r} has shape {list(shape)}, "
                f"the graph takes {list(expected)}"
            )


def clones() -> tuple[str, ...]:
    """Instruction sets that nets can run on here, best first; none without the C extension."""
    core = native.core
    found = getattr(core, "net_clones", None)
    return () if found is None else tuple(found())


def open_native(
    graph: bytes, *, name: str = "model.onnx", exact: bool | None = None, clone: str | None = None
) -> NativeNet:
    """Open an ONNX graph on the native engine.

    Args:
        graph: the file's bytes.
        name: what to call it in messages.
        exact: True for integers, which needs a dyadic graph; False for float32; None for integers
            where that works and float32 elsewhere.
        clone: one of ``clones()``; None for the best.

    Raises:
        UnsupportedGraphError: the graph is beyond the engine, or the C extension is not built.
        ModelError: not an ONNX file.
    """
    core = native.core
    if core is None or not clones():
        raise UnsupportedGraphError(
            f"{name}: the native engine needs the C extension, which is not built or switched off "
            "(EDGEAE_PURE)"
        )
    parsed = read_onnx(graph, name=name)
    names = clones()
    if clone is not None and clone not in names:
        raise UnsupportedGraphError(f"no kernels for {clone!r}: expected one of {', '.join(names)}")
    first: UnsupportedGraphError | None = None
    for integers in (True, False) if exact is None else (exact,):
        try:
            compiler = Compiler(parsed, exact=integers, name=name)
            if len(parsed.inputs) != 1 or len(parsed.outputs) != 1:
                raise UnsupportedGraphError(
                    f"{len(parsed.inputs)} inputs and {len(parsed.outputs)} outputs, expected one"
                )
            packed = _try(compiler)
            return NativeNet(compiler, core=core, clone=clone or names[0], packed=packed)
        except UnsupportedGraphError as error:
            first = first or error
    raise UnsupportedGraphError(f"{name}: the native engine cannot run it: {first}") from first


def _try(compiler: Compiler) -> dict[Any, Any]:
    """Lay out for a likely shape, so that what cannot run is known when the net opens.

    Returns:
        The packed weights.
    """
    shape = _plain_shape(compiler.graph.inputs[0])
    packed: dict[Any, Any] = {}
    found: UnsupportedGraphError | None = None
    for free in (64, 16, 28, 256, 1024) if None in shape[1:] else (0,):
        try:
            program = compiler.compile([free if d is None else d for d in shape[1:]])
            lay_out(program, cache=packed)
            return packed
        except UnsupportedGraphError as error:
            found = found or error
    raise found or UnsupportedGraphError("no shape")


def _plain_shape(value: OnnxValue) -> tuple[int | None, ...]:
    """Shape with symbolic axes as None."""
    return tuple(d if isinstance(d, int) and d > 0 else None for d in value.shape or ())
