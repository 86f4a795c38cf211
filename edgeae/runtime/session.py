"""Run ONNX and .ort graphs: the only place that imports onnxruntime, and owns its options.

onnxruntime is imported when the first graph opens. The options were chosen by measurement, with
onnxruntime 1.32 on an x86-64 with AVX-512, one thread: time per call of each setting over that of
the first row, medians of 80 alternating blocks, and the process's peak memory over that of the
first row, each in a fresh process, for the MLPerf Tiny autoencoder (640 values), the ECG nets
(1,024 samples) and the MNIST nets (one image).

==========================================  =================  ===================================
setting                                     time               peak memory
==========================================  =================  ===================================
what is set here: every optimisation,       1                  31.5 to 33.5 MB over numpy's
arena, pattern and prepacking on
memory pattern off                          1.00 to 1.08       the same: one allocation per tensor
arena off                                   0.99 to 1.03       up to 4.0 MB more: pages come and go
both off                                    1.01 to 1.08       up to 1.6 MB more
no prepacking                               1.00 to 1.29       0.4 MB less where weights are 1 MB
int8 weights of a float graph dequantized   1.02 to 1.92       0.1 MB less: they stay 8 bits wide
in each run, which is the default
optimisation only basic                     0.99 to 1.78       the same; int8 needs more than basic
denormals as zero                           0.98 to 1.02       the same, and it would change results
initializers past the arena                 1.00 to 1.01       the same
==========================================  =================  ===================================

Of the memory 20 MB are the library itself and 10 MB what it keeps for any model. With one thread
there is no thread pool; where a user asks for more, they sleep between calls instead of spinning,
for a device has better uses for its battery.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ModelError
from edgeae.runtime.processor import processor_features

__all__ = [
    "OPTIMIZATION_LEVELS",
    "BoundGraph",
    "GraphSession",
    "GraphValue",
    "OpenGraph",
    "open_graph",
    "open_session",
    "session_options",
]

OPTIMIZATION_LEVELS = ("disable", "basic", "extended", "all")
_QUANTIZES = b"QuantizeLinear"  # DequantizeLinear has a small q
_KEPT_BINDINGS = 2
_KEPT_ELEMENTS = 1 << 20
_DTYPES = {
    "tensor(float)": "f4",
    "tensor(double)": "f8",
    "tensor(float16)": "f2",
    "tensor(int8)": "i1",
    "tensor(int16)": "i2",
    "tensor(int32)": "i4",
    "tensor(int64)": "i8",
    "tensor(uint8)": "u1",
    "tensor(uint16)": "u2",
    "tensor(uint32)": "u4",
    "tensor(uint64)": "u8",
    "tensor(bool)": "?",
}

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class GraphValue:
    """An input or output of a graph.

    Attributes:
        name: of the tensor.
        kind: onnxruntime's name of its type, e.g. ``tensor(float)``.
        shape: None where an axis is free.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...]

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """NumPy's name of the elements' type; None where it has none."""
        code = _DTYPES.get(self.kind)
        return None if code is None else np.dtype(code)


class BoundGraph:
    """A graph with buffers for one shape of each input, bound once: ``run`` allocates nothing.

    Fill the sources, call ``run``, read the targets, which the next run overwrites.

    Attributes:
        sources: the input buffers, in the graph's order.
        targets: the output buffers, likewise.
    """

    def __init__(
        self, graph: OpenGraph, sources: Sequence[Array], targets: Sequence[Array]
    ) -> None:
        self.sources, self.targets = tuple(sources), tuple(targets)
        self._name, self._session = graph.name, graph.session
        self._io = graph.session.io_binding()
        for value, buffer in zip(graph.inputs, self.sources, strict=True):
            self._io.bind_input(
                value.name, "cpu", 0, buffer.dtype, list(buffer.shape), buffer.ctypes.data
            )
        for value, buffer in zip(graph.outputs, self.targets, strict=True):
            self._io.bind_output(
                value.name, "cpu", 0, buffer.dtype, list(buffer.shape), buffer.ctypes.data
            )

    def run(self) -> None:
        """Compute the targets from the sources.

        Raises:
            ModelError: onnxruntime fails.
        """
        try:
            self._session.run_with_iobinding(self._io)
        except Exception as error:
            raise ModelError(f"{self._name}: onnxruntime failed: {error}") from error


class OpenGraph:
    """An open graph of any inputs and outputs. Use [open_graph][] to make one.

    Attributes:
        name: what to call it in messages.
        session: onnxruntime's own.
        inputs: what must be fed.
        outputs: what comes out.
        metadata: what the graph says of itself.
    """

    def __init__(self, session: Any, *, name: str) -> None:
        self.name, self.session = name, session
        self.inputs = tuple(_value(found) for found in session.get_inputs())
        self.outputs = tuple(_value(found) for found in session.get_outputs())
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """Run once, unbound.

        Args:
            feed: an array per input.

        Raises:
            ModelError: an input does not fit, or onnxruntime fails.
        """
        try:
            found = self.session.run(None, dict(feed))
        except Exception as error:
            raise ModelError(f"{self.name}: onnxruntime failed: {error}") from error
        return [np.asarray(value) for value in found]

    def bind(self, feed: Mapping[str, Array]) -> BoundGraph:
        """Bind buffers of these arrays' shapes; the graph runs once, which tells the outputs'.

        Args:
            feed: an array per input; copied.

        Raises:
            ModelError: an input is missing or does not fit, or onnxruntime fails.
        """
        missing = sorted({value.name for value in self.inputs} - set(feed))
        if missing:
            raise ModelError(f"{self.name}: nothing is given for {', '.join(missing)}")
        sources = [np.array(feed[value.name], order="C") for value in self.inputs]
        outputs = self.run(dict(zip([v.name for v in self.inputs], sources, strict=True)))
        return BoundGraph(self, sources, [np.array(value, order="C") for value in outputs])


class GraphSession:
    """A graph that maps a float32 array to a float32 array, the leading axis being the batch.

    ``run`` works through buffers that are bound once per input shape, so one session serves one
    thread at a time. Use [open_session][] to make one.

    Attributes:
        name: what to call it in messages.
        engine: ``onnxruntime``.
        input_name: of the one input.
        output_name: of the one output.
        input_shape: None where an axis is free.
        output_shape: likewise.
        metadata: what the graph says of itself.
    """

    engine = "onnxruntime"

    def __init__(self, graph: OpenGraph) -> None:
        self._graph = graph
        self._bound: OrderedDict[tuple[int, ...], BoundGraph] = OrderedDict()
        (source,), (target,) = graph.inputs, graph.outputs
        self.name = graph.name
        self.input_name, self.output_name = source.name, target.name
        self.input_shape, self.output_shape = source.shape, target.shape
        self.metadata = graph.metadata

    def __repr__(self) -> str:
        return f"GraphSession({self.name}: {self.input_shape} -> {self.output_shape})"

    def run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the graph.

        Args:
            values: float32, of the graph's input shape; the batch axis is free.

        Returns:
            float32, a fresh array.

        Raises:
            ModelError: the shape does not fit, or onnxruntime fails.
        """
        bound = self._bound.get(values.shape)
        if bound is None:
            return self._first_run(values)
        np.copyto(bound.sources[0], values)
        bound.run()
        output: NDArray[np.float32] = bound.targets[0].copy()
        return output

    def run_into(self, values: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Run the graph into the caller's array: after the first call nothing is allocated.

        Args:
            values: float32, of the graph's input shape; the batch axis is free.
            out: float32, of the output's shape, any strides.

        Raises:
            ModelError: a shape does not fit, or onnxruntime fails.
        """
        bound = self._bound.get(values.shape)
        if bound is None:
            result = self._first_run(values)
        else:
            np.copyto(bound.sources[0], values)
            bound.run()
            result = bound.targets[0]
        if out.shape != result.shape:
            raise ModelError(
                f"{self.name}: the array to write to has shape {list(out.shape)}, "
                f"the output {list(result.shape)}"
            )
        np.copyto(out, result)

    def bind(self, shape: tuple[int, ...]) -> BoundGraph:
        """Buffers of one input shape, for callers who fill and read them in place.

        Raises:
            ModelError: the shape does not fit, or onnxruntime fails.
        """
        self._check_shape(shape)
        return self._graph.bind({self.input_name: np.zeros(shape, np.float32)})

    def _first_run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run unbound, which tells the output's shape, then bind buffers for the next time."""
        values = np.ascontiguousarray(values, dtype=np.float32)
        self._check_shape(values.shape)
        (result,) = self._graph.run({self.input_name: values})
        output: NDArray[np.float32] = np.asarray(result, dtype=np.float32)
        if values.size + output.size <= _KEPT_ELEMENTS:
            buffers = [np.empty_like(values)], [np.empty_like(output)]
            self._bound[values.shape] = BoundGraph(self._graph, *buffers)
            while len(self._bound) > _KEPT_BINDINGS:
                self._bound.popitem(last=False)
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


def open_graph(
    graph: bytes, *, name: str, threads: int = 1, optimization: str = "all"
) -> OpenGraph:
    """Open any ONNX or .ort graph.

    Args:
        graph: the file's bytes.
        name: what to call it in messages, e.g. its file name.
        threads: threads inside one operator.
        optimization: one of ``OPTIMIZATION_LEVELS``; exact graphs give equal bits at each. A .ort
            graph was optimized when it was written.

    Raises:
        ModelError: onnxruntime is missing, or the graph cannot be read.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise ModelError(
            "onnxruntime is not installed, and running a network needs it: pip install onnxruntime"
        ) from error
    options = session_options(graph, threads=threads, optimization=optimization)
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{name}: onnxruntime cannot open this graph: {error}") from error
    return OpenGraph(session, name=name)


def session_options(graph: bytes, *, threads: int = 1, optimization: str = "all") -> Any:
    """onnxruntime's options for a graph, as the top of this module explains them.

    Args:
        graph: the file's bytes.
        threads: threads inside one operator.
        optimization: one of ``OPTIMIZATION_LEVELS``.
    """
    import onnxruntime as ort

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
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = True
    options.log_severity_level = 4  # errors are raised; onnxruntime would print them as well
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if not any(
        "vnni" in name for name in processor_features()
    ):  # there, int8 weights that could saturate are multiplied as uint8
        options.add_session_config_entry("session.x64quantprecision", "1")
    if _QUANTIZES not in graph:  # nothing becomes an int8 kernel, so weights are dequantized once
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def open_session(
    graph: bytes,
    *,
    name: str,
    input_name: str | None = None,
    output_name: str | None = None,
    threads: int = 1,
    optimization: str = "all",
) -> GraphSession:
    """Open an ONNX or .ort graph that maps one float32 tensor to one float32 tensor.

    Args:
        graph: the file's bytes.
        name: what to call it in messages, e.g. its file name.
        input_name: the input the graph must have; None for any one.
        output_name: the output the graph must have; None for any one.
        threads: threads inside one operator.
        optimization: one of ``OPTIMIZATION_LEVELS``; exact graphs give equal bits at each.

    Raises:
        ModelError: onnxruntime is missing, or the graph cannot be read, or it has other inputs or
            outputs.
    """
    opened = open_graph(graph, name=name, threads=threads, optimization=optimization)
    for value, wanted, what in (
        (opened.inputs, input_name, "input"),
        (opened.outputs, output_name, "output"),
    ):
        names = [v.name for v in value]
        if len(names) != 1 or wanted not in (None, *names):
            raise ModelError(
                f"{name}: the graph maps {[v.name for v in opened.inputs]} to "
                f"{[v.name for v in opened.outputs]}, expected one {what}"
                + ("" if wanted is None else f", {wanted!r}")
            )
    kinds = {opened.inputs[0].kind, opened.outputs[0].kind}
    if kinds != {"tensor(float)"}:
        raise ModelError(f"{name}: input and output must be float32 tensors, found {sorted(kinds)}")
    return GraphSession(opened)


def _value(found: Any) -> GraphValue:
    """An input or output of onnxruntime's session, symbolic axes as None."""
    shape = tuple(axis if isinstance(axis, int) else None for axis in found.shape)
    return GraphValue(name=found.name, kind=found.type, shape=shape)
