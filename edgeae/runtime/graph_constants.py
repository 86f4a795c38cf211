"""What a graph computes from constants alone, and how it quantizes, without the onnx package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.runtime.grids import is_power_of_two
from edgeae.runtime.onnx_file import OnnxGraph, OnnxNode
from edgeae.runtime.views import UnsupportedGraphError

__all__ = ["constants_of", "quantized_range"]

Array = npt.NDArray[Any]


def constants_of(graph: OnnxGraph, *, exact: bool) -> dict[str, Array]:
    """Initializers, Constant nodes and dequantized initializers, by name.

    Args:
        graph: the graph.
        exact: whether dequantized numbers must be exact in float32.

    Raises:
        UnsupportedGraphError: a constant is not finite, or is to be exact and is not.
    """
    found: dict[str, Array] = dict(graph.constants)
    for node in graph.nodes:
        if node.op == "Constant" and len(node.attributes) == 1:
            found[node.outputs[0]] = np.asarray(next(iter(node.attributes.values())))
        elif node.op == "DequantizeLinear" and node.inputs[0] in found:
            found[node.outputs[0]] = _dequantized(node, found, exact)
    for name, value in found.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise UnsupportedGraphError(f"constant {name} holds NaN or Inf")
    return found


def _dequantized(node: OnnxNode, constants: Mapping[str, Array], exact: bool) -> Array:
    q, scale = constants[node.inputs[0]], constants[node.inputs[1]].astype(np.float64)
    zero: Array = np.zeros((), np.int64)
    if len(node.inputs) > 2 and node.inputs[2]:
        zero = constants[node.inputs[2]]
    if scale.ndim and scale.size > 1:
        shape = [1] * q.ndim
        shape[int(node.attributes.get("axis", 1))] = -1
        scale = scale.reshape(shape)
        zero = zero.reshape(shape) if zero.size > 1 else zero.reshape(())
    values: Array = (q.astype(np.float64) - zero.astype(np.float64)) * scale
    if exact and not np.array_equal(values, values.astype(np.float32)):
        name = node.name or node.outputs[0]
        raise UnsupportedGraphError(f"node {name}: its integers times scale need rounding")
    return values


def quantized_range(node: OnnxNode, constants: Mapping[str, Array]) -> tuple[float, int, int, int]:
    """Scale, zero point, and range of the integers of a QuantizeLinear or DequantizeLinear.

    Raises:
        UnsupportedGraphError: a scale that is no power of two, or one per channel.
    """
    name = node.name or node.outputs[0]
    if node.inputs[1] not in constants:
        raise UnsupportedGraphError(f"node {name}: a scale that is no constant")
    scale = constants[node.inputs[1]].astype(np.float64).reshape(-1)
    if scale.size != 1 or not is_power_of_two(scale) or scale[0] < 0:
        raise UnsupportedGraphError(
            f"node {name}: a scale that is no power of two: {scale[:4].tolist()}"
        )
    zero = np.zeros((), np.uint8)
    if len(node.inputs) > 2 and node.inputs[2]:
        zero = constants[node.inputs[2]]
    if zero.dtype.name not in ("int8", "uint8", "int16", "uint16") or zero.size != 1:
        raise UnsupportedGraphError(f"node {name}: quantized to {zero.dtype}")
    info = np.iinfo(zero.dtype)
    return float(scale[0]), int(zero.item()), int(info.min), int(info.max)
