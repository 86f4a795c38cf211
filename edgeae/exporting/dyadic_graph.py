"""Read ONNX graphs as dyadic arithmetic: their constants, attributes, and the grids of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgeae.errors import ModelError
from edgeae.runtime.grids import COARSEST, grid_exponents, is_power_of_two

__all__ = [
    "COARSEST",
    "NotDyadicError",
    "attributes_of",
    "clip_range",
    "grid_exponents",
    "is_power_of_two",
    "name_of",
    "pair_sums_fit",
    "quantized_range",
    "read_constants",
]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


class NotDyadicError(ModelError):
    """The graph computes something whose float32 result depends on the machine."""


def name_of(node: onnx.NodeProto) -> str:
    """What to call a node in a message."""
    return node.name or (node.output[0] if node.output else node.op_type)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes; text is decoded."""
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}


def read_constants(model: onnx.ModelProto) -> dict[str, Array]:
    """Initializers, Constant nodes, and dequantized initializers, by name.

    Raises:
        NotDyadicError: a value that is not finite, or that float32 cannot hold.
    """
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = next(iter(attributes_of(node).values()))
            if isinstance(value, onnx.TensorProto):
                value = numpy_helper.to_array(value)
            found[node.output[0]] = np.asarray(value)
        elif node.op_type == "DequantizeLinear" and node.input[0] in found:
            found[node.output[0]] = _dequantized(node, found)
    for name, value in found.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise NotDyadicError(f"constant {name} holds NaN or Inf")
    return found


def _dequantized(node: onnx.NodeProto, constants: Mapping[str, Array]) -> Floats:
    q, scale = constants[node.input[0]], constants[node.input[1]].astype(np.float64)
    zero = constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.int64(0)
    if scale.ndim:
        shape = [1] * q.ndim
        shape[attributes_of(node).get("axis", 1)] = -1
        scale = scale.reshape(shape)
        zero = np.asarray(zero).reshape(shape) if np.ndim(zero) else zero
    values: Floats = (q.astype(np.float64) - np.asarray(zero, np.float64)) * scale
    if not np.array_equal(values, values.astype(np.float32)):
        raise NotDyadicError(f"node {name_of(node)}: its integers times scale need rounding")
    return values


def clip_range(node: onnx.NodeProto, constants: Mapping[str, Array]) -> tuple[float, float]:
    """Ends of a Clip; infinite where it has none."""
    low = constants[node.input[1]].item() if len(node.input) > 1 and node.input[1] else -np.inf
    high = constants[node.input[2]].item() if len(node.input) > 2 and node.input[2] else np.inf
    return float(low), float(high)


def quantized_range(
    node: onnx.NodeProto, constants: Mapping[str, Array]
) -> tuple[float, int, int, int]:
    """Scale, zero point, and range of the integers of a QuantizeLinear or DequantizeLinear.

    Raises:
        NotDyadicError: a scale that is no power of two, or integers of other than 8 bits.
    """
    scale = constants[node.input[1]].astype(np.float64).reshape(-1)
    if scale.size != 1 or not is_power_of_two(scale) or scale[0] < 0:
        raise NotDyadicError(
            f"node {name_of(node)}: a scale that is no power of two: {scale[:4].tolist()}"
        )
    has_zero = len(node.input) > 2 and node.input[2]
    zero = constants[node.input[2]] if has_zero else np.zeros((), np.uint8)
    if zero.dtype.name not in ("int8", "uint8") or zero.size != 1:
        raise NotDyadicError(f"node {name_of(node)}: quantized to {zero.dtype}, expected 8 bits")
    info = np.iinfo(zero.dtype)
    return float(scale[0]), int(zero.item()), int(info.min), int(info.max)


def pair_sums_fit(weight: Array) -> bool:
    """Whether no two signed weights of an output can overflow 16 bits with 8-bit activations.

    x86 processors without VNNI add two products of an unsigned activation, at most 255, and a
    signed weight in 16 bits, and saturate. Which two depends on the runtime, so the bound is on the
    two largest positive weights of an output channel and on its two most negative ones:
    255 * 128 = 32640 fits below 32767, and 255 * 129 does not.

    Args:
        weight: integers, output channel first.
    """
    rows = np.sort(weight.reshape(weight.shape[0], -1).astype(np.int64), axis=1)
    high = np.maximum(rows[:, -2:], 0).sum(axis=1)
    low = np.minimum(rows[:, :2], 0).sum(axis=1)
    return bool(high.max(initial=0) <= 128 and low.min(initial=0) >= -128)
