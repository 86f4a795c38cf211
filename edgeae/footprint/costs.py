"""What one operator costs: multiply-accumulates, and weights as a device stores them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.footprint.shapes import Shape, TensorTypes
from edgeae.runtime.onnx_file import OnnxNode

__all__ = [
    "UNCOUNTED",
    "integer_width",
    "macs_of",
    "operands",
    "stored_weight_bytes",
    "weight_axis",
]

Array = npt.NDArray[Any]

UNCOUNTED = frozenset(["Attention", "Einsum", "If", "Loop", "MultiHeadAttention", "Scan"])
"""Operators that multiply, yet are not counted."""
_PRODUCTS: Mapping[str, tuple[int, ...]] = {  # where weight and bias stand
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "ConvInteger": (1,),
    "MatMulInteger": (0, 1),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "PRelu": (1,),
    "Gather": (0,),
}
_ELEMENTWISE = frozenset(["Add", "Sub", "Mul", "Div", "Pow"])


def macs_of(node: OnnxNode, types: TensorTypes) -> int:
    """Multiply-accumulates of one run of a node; elementwise work counts as none."""

    def shape(position: int) -> Shape:
        return types[node.inputs[position]][0]

    op, out = node.op, types[node.outputs[0]][0] if node.outputs[0] else ()
    if op in ("Conv", "ConvInteger", "QLinearConv"):
        return math.prod(out) * math.prod(shape(3 if op == "QLinearConv" else 1)[1:])
    if op == "ConvTranspose":
        return math.prod(shape(0)) * math.prod(shape(1)[1:])
    if op == "Gemm":
        return math.prod(out) * shape(0)[0 if node.attributes.get("transA") else 1]
    if op in ("MatMul", "MatMulInteger", "QLinearMatMul"):
        return math.prod(out) * shape(0)[-1]
    if op in ("LSTM", "GRU", "RNN"):
        steps, batch = shape(0)[:2]
        return steps * batch * (math.prod(shape(1)) + math.prod(shape(2)))
    return 0


def operands(node: OnnxNode) -> tuple[str, ...]:
    """The inputs of a node that are parameters where they are constants.

    Scales, bounds, shapes and the like are none.
    """
    if node.op in _ELEMENTWISE:
        return node.inputs
    places = _PRODUCTS.get(node.op, ())
    return tuple(node.inputs[i] for i in places if i < len(node.inputs) and node.inputs[i])


def weight_axis(node: OnnxNode, name: str, rank: int) -> int | None:
    """The axis of output channels of a node's weight; None where ``name`` is not its weight."""
    op = node.op
    if op in ("Conv", "ConvInteger") and name == node.inputs[1]:
        return 0
    if op == "QLinearConv" and name == node.inputs[3]:
        return 0
    if op == "ConvTranspose" and name == node.inputs[1]:
        return 1
    if op == "Gemm" and name == node.inputs[1]:
        return 0 if node.attributes.get("transB") else 1
    if op in ("MatMul", "MatMulInteger", "QLinearMatMul"):
        return max(rank - 1 if name != node.inputs[0] else rank - 2, 0)
    return None


def stored_weight_bytes(values: Array, axis: int | None, scale: Array | None = None) -> int:
    """Bytes of a constant on a device.

    A weight whose channels lie on grids of 8 or 16 bits is stored in integers, with a shift of one
    byte per output channel, or, for scales that are no powers of two, a multiplier of four bytes
    more. Everything else, biases among it, takes four bytes an element.

    Args:
        values: the constant; integers where ``scale`` is given.
        axis: its output channels, see `weight_axis`; None for other constants.
        scale: what its integers are multiplied by, one for all or one per channel.

    Example:
        >>> w = np.array([[0.5, -0.25], [3.0, 1.0]], np.float32)
        >>> stored_weight_bytes(w, 0), stored_weight_bytes(w / 3, 0), stored_weight_bytes(w, None)
        (6, 16, 16)
    """
    if axis is None:
        return 4 * values.size
    channels = values.shape[axis] if values.ndim else 1
    if values.dtype.kind in "iu":
        width = min(values.dtype.itemsize, 4)
        mantissa = np.frexp(np.asarray(1.0 if scale is None else scale, np.float64))[0]
        return values.size * width + channels * (1 if bool(np.all(mantissa == 0.5)) else 5)
    rows = np.moveaxis(values, axis, 0).reshape(channels, -1).astype(np.float64)
    width = _grid_width(rows)
    return values.size * width + (channels if width < 4 else 0)


def integer_width(low: float, high: float) -> int:
    """Bytes of the narrowest integer type that holds a range.

    Example:
        >>> integer_width(0, 255), integer_width(-1, 255), integer_width(-40000, 1)
        (1, 2, 4)
    """
    for bits in (8, 16):
        half = 1 << (bits - 1)
        if (low >= 0 and high < 2 * half) or (low >= -half and high < half):
            return bits // 8
    return 4


def _grid_width(rows: npt.NDArray[np.float64]) -> int:
    """Bytes per integer, where each row is integers times a power of two; 4 where it is not."""
    if not rows.size or not np.isfinite(rows).all():
        return 4
    mantissa, power = np.frexp(rows)
    whole = (np.abs(mantissa) * 2.0**53).astype(np.int64)
    low_bit = np.where(whole == 0, np.int64(1) << 53, whole & -whole)
    exponent = 53 - np.log2(low_bit.astype(np.float64)) - power
    finest = np.where(whole == 0, -np.inf, exponent).max(axis=1, keepdims=True)
    peak = float(np.max(np.abs(rows) * np.exp2(np.where(np.isfinite(finest), finest, 0.0))))
    return integer_width(-peak, peak)
