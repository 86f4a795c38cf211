"""Run an ONNX graph in onnxruntime and keep what each of its layers gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgeae.errors import ModelError
from edgeae.exporting.dyadic_graph import attributes_of, name_of
from edgeae.importing.trace import Model, Trace, TracedLayer
from edgeae.runtime.session import open_session

__all__ = ["OnnxModel"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]

_PRODUCTS = ("Gemm", "MatMul", "Conv")
_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_ELEMENTWISE = frozenset(
    ("Add", "Clip", "DequantizeLinear", "Identity", "Mul", "QuantizeLinear", "Round", *_ACTIVATIONS)
)


class OnnxModel(Model):
    """An ONNX file with one input and one output.

    Raises:
        ModelError: not such a file, or its input's size is not fixed.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        try:
            self._model = onnx.load_model_from_string(data)
            onnx.checker.check_model(self._model)
        except Exception as error:  # protobuf's errors have no common base
            raise ModelError(f"{name} is not an ONNX graph: {error}") from error
        graph = self._model.graph
        held = {tensor.name for tensor in graph.initializer}
        sources = [value for value in graph.input if value.name not in held]
        if len(sources) != 1 or len(graph.output) != 1:
            raise ModelError(f"{name}: expected one input and one output")
        self._source, self._target = sources[0].name, graph.output[0].name
        dims = [d.dim_value for d in sources[0].type.tensor_type.shape.dim][1:]
        self._item = dims if all(dims) else None
        self.width = math.prod(dims)
        self._constants = _constants(graph)

    def trace(self, rows: Rows) -> Trace:
        """Run it on inputs [N, width], or of the graph's own shape."""
        if rows.ndim == 2 and self._item is None:
            raise ModelError(f"{self.name}: the sizes of its input are not all fixed")
        x = rows if rows.ndim > 2 else rows.reshape(len(rows), *(self._item or ()))
        layers = []
        for node in self._model.graph.node:
            if node.op_type in _PRODUCTS:
                tensor, followers = self._end(node)
                layers.append(self._layer(node, followers, self._run(tensor, x)))
        return Trace(layers=tuple(layers), output=self._run(self._target, x))

    def _run(self, tensor: str, x: Rows) -> Floats:
        wanted = onnx.ModelProto()
        wanted.CopyFrom(self._model)
        if tensor != self._target:
            del wanted.graph.output[:]
            wanted.graph.output.append(
                onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None)
            )
        session = open_session(
            wanted.SerializeToString(),
            name=self.name,
            input_name=self._source,
            output_name=tensor,
            optimization="basic",
        )
        return session.run(x).reshape(len(x), -1).astype(np.float64)

    def _end(self, node: onnx.NodeProto) -> tuple[str, list[onnx.NodeProto]]:
        """Last float tensor that follows a product element by element, and what leads there."""
        tensor, kept, passed = node.output[0], node.output[0], []
        followers: list[onnx.NodeProto] = []
        while tensor != self._target:
            readers = [n for n in self._model.graph.node if tensor in n.input]
            if len(readers) != 1 or readers[0].op_type not in _ELEMENTWISE:
                break
            others = [name for name in readers[0].input if name and name != tensor]
            if any(name not in self._constants for name in others):
                break
            tensor = readers[0].output[0]
            passed.append(readers[0])
            if readers[0].op_type != "QuantizeLinear":  # whose output is integers
                kept, followers = tensor, list(passed)
        return kept, followers

    def _layer(
        self, node: onnx.NodeProto, followers: list[onnx.NodeProto], output: Floats
    ) -> TracedLayer:
        weight = self._constants.get(node.input[1])
        attributes = attributes_of(node)
        plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
        if node.op_type == "Conv" or weight is None or weight.ndim != 2 or not plain:
            return TracedLayer(name=name_of(node), output=output)
        weight = weight if attributes.get("transB") else weight.T
        bias: Array | None = np.zeros(len(weight))
        if node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]:
            bias = self._constants.get(node.input[2])
        elif node.op_type == "MatMul" and followers and followers[0].op_type == "Add":
            (other,) = (name for name in followers[0].input if name in self._constants)
            bias = self._constants[other]
        if bias is None or bias.size not in (1, len(weight)):
            return TracedLayer(name=name_of(node), output=output)
        return TracedLayer(
            name=name_of(node),
            output=output,
            weight=weight.astype(np.float64),
            bias=np.broadcast_to(bias.reshape(-1), (len(weight),)).astype(np.float64),
            activation=self._activation(followers),
        )

    def _activation(self, followers: list[onnx.NodeProto]) -> str:
        for node in followers:
            if node.op_type in _ACTIVATIONS:
                return _ACTIVATIONS[node.op_type]
            if node.op_type == "Clip" and self._constants.get(node.input[1], np.ones(1)) == 0:
                return "relu"
            if node.op_type == "QuantizeLinear" and len(node.input) > 2:
                zero = self._constants[node.input[2]]
                if zero.dtype == np.uint8 and not zero.any():
                    return "relu"
        return "linear"


def _constants(graph: onnx.GraphProto) -> dict[str, Array]:
    """Initializers, Constant nodes and dequantized initializers."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            value = next(iter(attributes_of(node).values()), 0)
            if isinstance(value, onnx.TensorProto):
                value = numpy_helper.to_array(value)
            found[node.output[0]] = np.asarray(value)
        elif node.op_type == "DequantizeLinear" and node.input[0] in found:
            q, scale = found[node.input[0]], found[node.input[1]]
            has_zero = len(node.input) > 2 and bool(node.input[2])
            zero = found[node.input[2]] if has_zero else np.zeros_like(scale)
            if scale.size > 1:
                shape = [1] * q.ndim
                shape[attributes_of(node).get("axis", 1)] = -1
                scale, zero = scale.reshape(shape), zero.reshape(shape)
            found[node.output[0]] = (q.astype(np.float64) - zero) * scale.astype(np.float64)
    return found
