"""Run one ONNX graph: the only place that imports onnxruntime, and only when a session opens.

One thread, no spinning, buffers bound once per input shape: what suits a small device. Graphs have
one float32 input and one float32 output whose leading axis is the batch.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ModelError

__all__ = ["OPTIMIZATION_LEVELS", "GraphSession", "open_session"]

OPTIMIZATION_LEVELS = ("disable", "basic", "extended", "all")
_KEPT_BINDINGS = 2
_KEPT_ELEMENTS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class _Binding:
    """Buffers of one input shape, bound to the session once."""

    io: Any
    source: NDArray[np.float32]
    target: NDArray[np.float32]


class GraphSession:
    """An open graph: ``run`` maps a float32 array to a float32 array.

    Use [open_session][] to make one.
    """

    def __init__(self, session: Any, *, name: str) -> None:
        self._session = session
        self._bindings: OrderedDict[tuple[int, ...], _Binding] = OrderedDict()
        self.name = name
        source, target = session.get_inputs()[0], session.get_outputs()[0]
        self.input_name: str = source.name
        self.output_name: str = target.name
        self.input_shape: tuple[int | None, ...] = _plain_shape(source.shape)
        self.output_shape: tuple[int | None, ...] = _plain_shape(target.shape)
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)

    def __repr__(self) -> str:
        return f"GraphSession({self.name}: {self.input_shape} -> {self.output_shape})"

    def run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the graph.

        Args:
            values: float32, of the graph's input shape; the batch axis is free.

        Raises:
            ModelError: the shape does not fit, or onnxruntime fails.
        """
        values = np.ascontiguousarray(values, dtype=np.float32)
        self._check_shape(values.shape)
        try:
            binding = self._bindings.get(values.shape)
            if binding is None:
                return self._first_run(values)
            np.copyto(binding.source, values)
            self._session.run_with_iobinding(binding.io)
            return binding.target.copy()
        except Exception as error:
            raise ModelError(f"{self.name}: onnxruntime failed: {error}") from error

    def _first_run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run unbound, which tells the output's shape, then bind buffers for the next time."""
        (result,) = self._session.run([self.output_name], {self.input_name: values})
        output: NDArray[np.float32] = np.asarray(result, dtype=np.float32)
        if values.size + output.size <= _KEPT_ELEMENTS:
            source, target = np.empty_like(values), np.empty_like(output)
            io = self._session.io_binding()
            io.bind_input(
                self.input_name, "cpu", 0, np.float32, list(source.shape), source.ctypes.data
            )
            io.bind_output(
                self.output_name, "cpu", 0, np.float32, list(target.shape), target.ctypes.data
            )
            self._bindings[values.shape] = _Binding(io=io, source=source, target=target)
            while len(self._bindings) > _KEPT_BINDINGS:
                self._bindings.popitem(last=False)
        return output

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        expected = self.input_shape
        if len(shape) != len(expected) or any(
            wanted is not None and wanted != found
            for found, wanted in zip(shape, expected, strict=True)
        ):
            raise ModelError(
                f"{self.name}: input {self.input_name!r} has shape {list(shape)}, "
                f"the graph takes {list(expected)}"
            )


def open_session(
    graph: bytes,
    *,
    name: str,
    input_name: str,
    output_name: str,
    threads: int = 1,
    optimization: str = "all",
) -> GraphSession:
    """Open an ONNX graph that maps one float32 tensor to one float32 tensor.

    Args:
        graph: the serialized graph.
        name: what to call it in messages, e.g. its file name.
        input_name: the input the graph must have.
        output_name: the output the graph must have.
        threads: threads inside one operator.
        optimization: one of ``OPTIMIZATION_LEVELS``; exact graphs give equal bits at each.

    Raises:
        ModelError: onnxruntime is missing, or the graph cannot be read, or it has other inputs or
            outputs.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise ModelError(
            "onnxruntime is not installed, and running a network needs it: pip install onnxruntime"
        ) from error
    levels = {
        "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = levels[optimization]
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{name}: onnxruntime cannot open this graph: {error}") from error
    found = ([i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()])
    if found != ([input_name], [output_name]):
        raise ModelError(
            f"{name}: the graph maps {found[0]} to {found[1]}, "
            f"expected [{input_name!r}] to [{output_name!r}]"
        )
    kinds = {session.get_inputs()[0].type, session.get_outputs()[0].type}
    if kinds != {"tensor(float)"}:
        raise ModelError(f"{name}: input and output must be float32 tensors, found {sorted(kinds)}")
    return GraphSession(session, name=name)


def _plain_shape(shape: list[Any]) -> tuple[int | None, ...]:
    """Shape with symbolic axes as None."""
    return tuple(axis if isinstance(axis, int) else None for axis in shape)
