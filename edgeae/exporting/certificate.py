"""The certificate: proof, read off the ONNX graph itself, that float32 computes it exactly.

Every tensor is shown to lie on a grid ``n * 2**-e`` with a bound on ``|n|``; wherever numbers are
summed, the bound on every partial sum stays below 2^24, the integers that float32 holds without
rounding. Then any order of summation, any fusion and any thread count gives the same bits.

:func:`certify` walks a graph with grids and bounds; :mod:`edgeae.exporting.integers` walks the same
graph with int64 arrays, an engine that owes nothing to floating point.

References:
    ../../README.md, "Exact by construction"; IEEE 754-2019, section 3.3 (24-bit significand).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeae.exporting.dyadic_graph import (
    COARSEST,
    NotDyadicError,
    attributes_of,
    clip_range,
    grid_exponents,
    is_power_of_two,
    name_of,
    pair_sums_fit,
    quantized_range,
    read_constants,
)

__all__ = ["LayerCertificate", "NotDyadicError", "certify", "input_peaks", "output_peaks"]

LIMIT = 2.0**24
LIMIT_BITS = 24

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class LayerCertificate:
    """Bound of one summing node.

    Attributes:
        node: name of the node.
        op: its ONNX operator.
        exponent: the sums are integers times ``2**-exponent`` (largest over channels).
        peak: largest magnitude of any partial sum, in those integers.
        headroom_bits: ``24 - log2(peak)``.
    """

    node: str
    op: str
    exponent: int
    peak: int
    headroom_bits: float

    def to_json(self) -> dict[str, Any]:
        """JSON-able values."""
        return {
            "node": self.node,
            "op": self.op,
            "exponent": self.exponent,
            "peak": self.peak,
            "headroom_bits": round(self.headroom_bits, 3),
        }


@dataclass(frozen=True)
class _Bounded:
    """A tensor's grid and bound, per channel of axis 1 (or one entry for all)."""

    exponent: Ints
    bound: Floats  # largest |value|

    def whole(self) -> _Bounded:
        """One grid and bound for all channels, for operators that mix or move them."""
        return _Bounded(self.exponent.max(keepdims=True), self.bound.max(keepdims=True))


def certify(model: onnx.ModelProto) -> list[LayerCertificate]:
    """Prove that a graph is exact in float32.

    Args:
        model: a graph whose first input's integers are bounded by metadata
            ``edgeae.input_peak``, those of an input NAME by ``edgeae.input_peak.NAME``.

    Returns:
        One entry per summing node.

    Raises:
        NotDyadicError: an operator outside the dyadic set, a scale that is no power of two, a sum
            that can reach 2^24, or signed 8-bit weights that overflow on x86 without VNNI; the
            message names the node.
    """
    return _walked(model).found


def output_peaks(model: onnx.ModelProto) -> dict[str, float]:
    """The largest magnitude that each output of an exact graph can take.

    Raises:
        NotDyadicError: as in :func:`certify`.
    """
    values = _walked(model).values
    return {target.name: float(values[target.name].bound.max()) for target in model.graph.output}


def _walked(model: onnx.ModelProto) -> _Walk:
    constants = read_constants(model)
    walk = _Walk(constants, _ranks(model), _signed_weights(model))
    for name, peak in input_peaks(model).items():
        walk.values[name] = _Bounded(np.zeros(1, np.int64), np.array([peak]))
    for node in model.graph.node:
        if node.output[0] in constants:
            continue
        if node.domain not in ("", "ai.onnx"):
            raise NotDyadicError(f"node {name_of(node)}: {node.domain} has no dyadic operators")
        try:
            walk.values[node.output[0]] = walk.node(node)
        except (KeyError, IndexError, ValueError, StopIteration) as error:
            raise NotDyadicError(
                f"node {name_of(node)} ({node.op_type}): inputs that cannot be followed: {error!r}"
            ) from error
    return walk


def input_peaks(model: onnx.ModelProto) -> dict[str, float]:
    """The range that a graph states for the integers of each input.

    Raises:
        NotDyadicError: it states none for an input.
    """
    stated = {prop.key: prop.value for prop in model.metadata_props}
    peaks = {}
    for number, source in enumerate(model.graph.input):
        key = f"edgeae.input_peak.{source.name}"
        found = stated.get(key) or (stated.get("edgeae.input_peak") if number == 0 else None)
        if found is None:
            key = key if number else "edgeae.input_peak"
            raise NotDyadicError(f"the graph does not state its input's range (metadata {key})")
        peaks[source.name] = float(found)
    return peaks


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError:
        return {}  # without ranks, channels are not told apart
    shapes = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)}
    return {name: len(t.shape.dim) for name, t in shapes.items() if t.HasField("shape")}


def _signed_weights(model: onnx.ModelProto) -> dict[str, Array]:
    """The int8 integers behind each dequantized constant."""
    raw = {t.name: t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8}
    return {
        node.output[0]: onnx.numpy_helper.to_array(raw[node.input[0]])
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in raw
    }


class _Walk:
    """Grids and bounds of the tensors seen so far."""

    def __init__(
        self,
        constants: Mapping[str, Array],
        ranks: Mapping[str, int],
        signed_weights: Mapping[str, Array],
    ) -> None:
        self.constants, self.ranks, self.signed_weights = constants, ranks, signed_weights
        self.bytes: set[str] = set()  # dequantized from 8 bits: what int8 kernels may multiply
        self.values: dict[str, _Bounded] = {}
        self.found: list[LayerCertificate] = []

    def node(self, node: onnx.NodeProto) -> _Bounded:
        """Grid and bound of a node's output."""
        op = node.op_type
        if op == "Conv":
            return self._conv(node)
        if op == "Gemm":
            return self._gemm(node)
        if op in ("Add", "Sub"):
            return self._sum(node)
        if op in ("Mul", "Div"):
            return self._scaled(node)
        if op == "Concat":
            parts = [self._any(name).whole() for name in node.input]
            return _Bounded(
                np.max([p.exponent for p in parts], axis=0),
                np.max([p.bound for p in parts], axis=0),
            )
        x = self.values[node.input[0]]
        if op in _MOVES and node.input[0] in self.bytes:
            self.bytes.add(node.output[0])
        if op in ("Relu", "Identity"):
            return x
        if op == "Clip":
            low, high = clip_range(node, self.constants)
            if not low <= 0 <= high:
                raise NotDyadicError(f"node {name_of(node)}: Clip to a range without 0")
            ends = [v for v in (low, high) if np.isfinite(v)] or [0.0]
            exponent = np.maximum(x.exponent, grid_exponents(np.array([ends])))
            return _Bounded(exponent, np.minimum(x.bound, max(-low, high)))
        if op == "Round":
            return _Bounded(np.minimum(x.exponent, 0), np.ceil(x.bound))
        if op == "Pad":
            return self._padded(node, x)
        if op == "Slice" or op in _MOVES:
            if op == "Resize" and attributes_of(node).get("mode", "nearest") != "nearest":
                raise NotDyadicError(f"node {name_of(node)}: Resize that interpolates")
            keeps_channels = op == "Slice" and self._axes(node, 3) >= 2
            return x if keeps_channels else x.whole()
        if op == "QuantizeLinear":
            _, _, low, high = quantized_range(node, self.constants)
            return _Bounded(np.zeros(1, np.int64), np.array([float(max(-low, high))]))
        if op == "DequantizeLinear":
            scale, zero, low, high = quantized_range(node, self.constants)
            self.bytes.add(node.output[0])
            peak = float(max(zero - low, high - zero))
            exponent = np.array([-int(np.round(np.log2(scale)))], np.int64)
            return _Bounded(exponent, np.array([peak * scale]))
        raise NotDyadicError(f"node {name_of(node)}: {op} is not a dyadic operator")

    def _any(self, name: str) -> _Bounded:
        """A tensor, or a constant as one."""
        if name in self.values:
            return self.values[name]
        flat = self.constants[name].astype(np.float64).reshape(1, -1)
        return _Bounded(grid_exponents(flat), np.abs(flat).max(axis=1, initial=0.0))

    def _channels(self, constant: Array, other: str) -> Floats | None:
        """A constant as one value per channel of the tensor it meets; None if it is not that."""
        rank = self.ranks.get(other)
        if constant.size == 1:
            return constant.astype(np.float64).reshape(-1)
        axis = None if rank is None else 1 - (rank - constant.ndim)
        if axis is None or not 0 <= axis < constant.ndim or constant.shape[axis] != constant.size:
            return None
        return constant.astype(np.float64).reshape(-1)

    def _axes(self, node: onnx.NodeProto, position: int) -> int:
        """The lowest axis that a Slice works on."""
        if len(node.input) <= position or not node.input[position]:
            return 0
        axes = self.constants[node.input[position]]
        return int(axes.min()) if axes.size else 0

    def _padded(self, node: onnx.NodeProto, x: _Bounded) -> _Bounded:
        if len(node.input) > 2 and node.input[2] and np.any(self.constants[node.input[2]]):
            raise NotDyadicError(f"node {name_of(node)}: Pad with another value than 0")
        pads = self.constants[node.input[1]].reshape(2, -1)
        explicit_axes = len(node.input) > 3 and node.input[3]
        return x.whole() if explicit_axes or pads[:, :2].any() else x

    def _conv(self, node: onnx.NodeProto) -> _Bounded:
        weight = self.constants[node.input[1]].astype(np.float64)
        if attributes_of(node).get("group", 1) != 1:
            raise NotDyadicError(f"node {name_of(node)}: grouped Conv is not certified")
        return self._product(node, self.values[node.input[0]], weight)

    def _gemm(self, node: onnx.NodeProto) -> _Bounded:
        weight = self.constants[node.input[1]].astype(np.float64)
        attributes = attributes_of(node)
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
            raise NotDyadicError(f"node {name_of(node)}: Gemm with alpha or beta other than 1")
        if attributes.get("transA"):
            raise NotDyadicError(f"node {name_of(node)}: Gemm of a transposed input")
        weight = weight if attributes.get("transB") else weight.T
        return self._product(node, self.values[node.input[0]].whole(), weight)

    def _product(self, node: onnx.NodeProto, x: _Bounded, weight: Floats) -> _Bounded:
        """Bound of ``sum(weight * x) + bias``, weight [O, I, ...]."""
        self._check_pairs(node)
        n_out, n_in = weight.shape[:2]
        bias = np.zeros(n_out)
        if len(node.input) > 2 and node.input[2]:
            bias = np.broadcast_to(self.constants[node.input[2]].astype(np.float64), (n_out,))
        flat = weight.reshape(n_out, n_in, -1)
        per_pair = np.stack([grid_exponents(row) for row in flat])  # [O, I]
        used = np.any(flat != 0, axis=2)
        exponent = np.where(used, per_pair + np.broadcast_to(x.exponent, (n_in,)), COARSEST)
        exponent = np.maximum(exponent.max(axis=1), grid_exponents(bias[:, None])).astype(np.int64)
        bound = np.abs(flat).sum(axis=2) @ np.broadcast_to(x.bound, (n_in,)) + np.abs(bias)
        return self._checked(node, exponent, bound)

    def _check_pairs(self, node: onnx.NodeProto) -> None:
        """Int8 kernels may add two products in 16 bits."""
        weight = self.signed_weights.get(node.input[1])
        if weight is None or node.input[0] not in self.bytes:
            return
        if node.op_type == "Gemm" and not attributes_of(node).get("transB"):
            weight = weight.T
        if not pair_sums_fit(weight):
            raise NotDyadicError(
                f"node {name_of(node)}: two signed 8-bit weights of one output exceed 128 together "
                "and saturate on x86 without VNNI: use 7 bits, or unsigned weights"
            )

    def _scaled(self, node: onnx.NodeProto) -> _Bounded:
        first, second = node.input
        if node.op_type == "Mul" and first in self.constants:
            first, second = second, first
        x, constant = self.values[first], self.constants[second].astype(np.float64)
        if not is_power_of_two(constant):
            raise NotDyadicError(
                f"node {name_of(node)}: {node.op_type} by {constant.reshape(-1)[:4].tolist()}, "
                "not a power of two"
            )
        per_channel = self._channels(constant, first)
        size = np.abs(constant if per_channel is None else per_channel)
        size = 1 / size if node.op_type == "Div" else size
        if per_channel is None:  # not one factor per channel: the worst of all for all
            x = x.whole()
            return _Bounded(x.exponent - int(np.log2(size.min())), x.bound * size.max())
        return _Bounded(x.exponent - np.round(np.log2(size)).astype(np.int64), x.bound * size)

    def _sum(self, node: onnx.NodeProto) -> _Bounded:
        first, second = node.input
        if first in self.values and second in self.values:
            x, y = self.values[first], self.values[second]
            ranks = (self.ranks.get(first), self.ranks.get(second))
            if None in ranks or ranks[0] != ranks[1]:
                x, y = x.whole(), y.whole()
        else:
            tensor, name = (first, second) if first in self.values else (second, first)
            x, constant = self.values[tensor], self.constants[name]
            flat = self._channels(constant, tensor)
            if flat is None:
                x, y = x.whole(), self._any(name)
            else:
                y = _Bounded(grid_exponents(flat[:, None]), np.abs(flat))
        return self._checked(node, np.maximum(x.exponent, y.exponent), x.bound + y.bound)

    def _checked(self, node: onnx.NodeProto, exponent: Ints, bound: Floats) -> _Bounded:
        peak = bound * np.exp2(exponent.astype(np.float64))
        worst = int(np.argmax(peak))
        if not peak[worst] < LIMIT:
            raise NotDyadicError(
                f"node {name_of(node)} ({node.op_type}): a sum can reach {peak[worst]:.0f} steps "
                f"of 2^-{exponent[worst]}, and float32 is exact below 2^24 only"
            )
        self.found.append(
            LayerCertificate(
                node=name_of(node),
                op=node.op_type,
                exponent=int(exponent.max()),
                peak=int(np.ceil(peak.max())),
                headroom_bits=float(LIMIT_BITS - np.log2(max(peak.max(), 1.0))),
            )
        )
        return _Bounded(exponent, bound)


_MOVES = frozenset(
    (
        "Reshape",
        "Transpose",
        "DepthToSpace",
        "SpaceToDepth",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Resize",
    )
)
