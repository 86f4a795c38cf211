"""Run a .tflite file's dense layers in numpy, as its integers or floats say, and keep each output.

Integer layers compute what the reference kernels do: exact sums, one rounding per output. Kernels
differ among each other in ties, so their results may differ from these by one step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError
from edgeae.importing.tflite import TfliteGraph, TfliteOperator, TfliteTensor, read_tflite
from edgeae.importing.trace import Model, Trace, TracedLayer
from edgeae.models.dense import ACTIVATIONS

__all__ = ["TfliteModel"]

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]

_ALONE: Mapping[str, str] = {"RELU": "relu", "TANH": "tanh", "LOGISTIC": "sigmoid"}


class TfliteModel(Model):
    """A .tflite file of dense layers; values are kept as the real numbers they stand for.

    Raises:
        ModelError: not such a file, several inputs or outputs, or an operator that is not run here.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self._graph = read_tflite(data, name=name)
        if len(self._graph.inputs) != 1 or len(self._graph.outputs) != 1:
            raise ModelError(f"{name}: expected one input and one output")
        self.width = math.prod(self._graph.tensors[self._graph.inputs[0]].shape[1:])

    def trace(self, rows: Rows) -> Trace:
        """Run it on inputs [N, width]."""
        graph = self._graph
        source = graph.inputs[0]
        values = {source: _stored(graph.tensors[source], rows.astype(np.float64))}
        layers = []
        for operator in graph.operators:
            try:
                value = self._run(graph, operator, values)
            except (KeyError, IndexError, ValueError) as error:
                raise ModelError(
                    f"{self.name}: {operator.op} has inputs that cannot be followed: {error}"
                ) from error
            target = operator.outputs[0]
            values[target] = _stored(graph.tensors[target], value)
            if operator.op == "FULLY_CONNECTED":
                weight, bias = _parameters(graph, operator)
                layers.append(
                    TracedLayer(
                        name=graph.tensors[operator.inputs[1]].name,
                        output=values[target],
                        weight=weight,
                        bias=bias,
                        activation=operator.activation,
                    )
                )
        if graph.outputs[0] not in values:
            raise ModelError(f"{self.name}: no operator gives the output")
        return Trace(layers=tuple(layers), output=values[graph.outputs[0]])

    def _run(
        self, graph: TfliteGraph, operator: TfliteOperator, values: Mapping[int, Floats]
    ) -> Floats:
        x = values[operator.inputs[0]]
        if operator.op == "FULLY_CONNECTED" and operator.activation in ACTIVATIONS:
            weight, bias = _parameters(graph, operator)
            return ACTIVATIONS[operator.activation](x @ weight.T + bias)
        if operator.op in _ALONE:
            return ACTIVATIONS[_ALONE[operator.op]](x)
        if operator.op == "RESHAPE":
            return x.reshape(len(x), -1)
        if operator.op in ("QUANTIZE", "DEQUANTIZE"):
            return x
        raise ModelError(
            f"{self.name}: {operator.op} with {operator.activation} is not run here; understood "
            "are FULLY_CONNECTED, RELU, TANH, LOGISTIC, RESHAPE, QUANTIZE and DEQUANTIZE"
        )


def _parameters(graph: TfliteGraph, operator: TfliteOperator) -> tuple[Floats, Floats]:
    """Real weight [O, I] and bias [O] of a dense layer."""
    tensor = graph.tensors[operator.inputs[1]]
    if tensor.value is None or tensor.value.ndim != 2:
        raise ValueError(f"the weight {tensor.name!r} is no constant matrix")
    weight = tensor.real(tensor.value)
    bias = np.zeros(len(weight))
    if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        held = graph.tensors[operator.inputs[2]]
        if held.value is None or held.value.size != len(weight):
            raise ValueError(f"the bias {held.name!r} is no constant of {len(weight)} values")
        bias = held.real(held.value).reshape(-1)
    return weight, bias


def _stored(tensor: TfliteTensor, value: Floats) -> Floats:
    """Values as the tensor keeps them: rounded to its step and range, or to float32."""
    if not tensor.quantized or tensor.dtype is None:
        rounded: Floats = value.astype(np.float32).astype(np.float64)
        return rounded
    ends = np.iinfo(tensor.dtype)
    zero = int(tensor.zero_point[0]) if tensor.zero_point.size else 0
    steps = np.clip(np.rint(value / tensor.scale[0]) + zero, ends.min, ends.max)
    return tensor.real(steps)
