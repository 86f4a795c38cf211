"""Write an exact graph in its other spelling: integers held in float32, or int8 with QDQ.

``integers`` is how bundles are exported: a layer is Conv or Gemm, Round, Clip, over float32 tensors
that hold integers. ``int8`` puts QuantizeLinear and DequantizeLinear around the layers whose input
fits 8 bits, which runtimes fuse into one integer kernel each::

    u8 ─ Dequantize ─ Conv (weights, bias dequantized) ─ Quantize ─ u8       QLinearConv
    u8 ─ Dequantize ─ Gemm ─ Round ─ Clip                                     QGemm

The other layers stay as they are. All scales are powers of two, so both spellings give the same
bits in a runtime that fuses and in one that does not; the certificate proves either.

One trap is avoided by the choice of the weights' type. x86 processors without VNNI multiply
unsigned activations by signed weights with VPMADDUBSW, which adds two products into a signed 16-bit
number and saturates: 255 * 127 + 255 * 127 does not fit. Weights are therefore signed only where no
two of an output channel can overflow together, whatever their order, and else unsigned with zero
point 128, which the same processors multiply in 32 bits
(:func:`~edgeae.exporting.dyadic_graph.pair_sums_fit`).

References:
    onnxruntime, Quantize ONNX models, "When and why do I need to try U8U8?"; pull request #12088.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgeae.exporting.certificate import certify
from edgeae.exporting.dyadic_graph import (
    attributes_of,
    clip_range,
    grid_exponents,
    pair_sums_fit,
    read_constants,
)

__all__ = ["int8_spelling"]

MOVES = frozenset(("Reshape", "Transpose", "DepthToSpace", "Flatten", "Squeeze", "Unsqueeze"))
SPELLING_KEY = "edgeae.spelling"

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class _ByteRange:
    """A tensor that a Round and a Clip make: integers ``lo..hi``, at most 256 of them."""

    source: str
    lo: int
    hi: int
    inner: str  # the tensor between Round and Clip

    @property
    def fills(self) -> bool:
        """Whether 8-bit saturation does what the Clip does."""
        return self.hi - self.lo == 255


@dataclass(frozen=True, kw_only=True)
class _Int8Weights:
    """Integers of a layer, output channel first, and each channel's exponent."""

    weight: Array
    bias: Array | None
    exponent: Array


def int8_spelling(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The graph with its 8-bit layers as int8; None where no layer's input fits 8 bits.

    Args:
        model: a graph in the spelling ``integers``.

    Returns:
        A graph of the same inputs, outputs and bits.

    Raises:
        NotDyadicError: the graph, or what was made of it, is not exact.
    """
    certify(model)
    spelled = _Speller(model).spelled()
    if spelled is not None:
        onnx.checker.check_model(spelled, full_check=True)
        certify(spelled)
    return spelled


class _Speller:
    """Rewrites one graph, node by node."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = read_constants(model)
        self.old = [n for n in model.graph.node if n.output[0] not in self.constants]
        self.maker = {n.output[0]: n for n in self.old}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in self.old:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.ends = {value.name for value in model.graph.output}
        self.ranges = {t: r for t in self.maker if (r := self._byte_range(t)) is not None}
        self.layers = {n.output[0]: w for n in self.old if (w := self._int8_layer(n)) is not None}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, Array] = {}
        self.quantized: dict[str, tuple[str, int]] = {}  # tensor: its 8-bit form, zero point
        self.made: set[str] = set()

    # -- what can be int8 ------------------------------------------------------------------

    def _byte_range(self, tensor: str) -> _ByteRange | None:
        """The range of a tensor that Round and Clip (in either order) make, if it fits 8 bits."""
        last = self.maker[tensor]
        first = self.maker.get(last.input[0])
        if first is None or {first.op_type, last.op_type} != {"Round", "Clip"}:
            return None
        if len(self.users[first.output[0]]) > 1 or first.output[0] in self.ends:
            return None
        low, high = clip_range(first if first.op_type == "Clip" else last, self.constants)
        if not (np.isfinite([low, high]).all() and low <= 0 <= high and high - low <= 255):
            return None
        if low % 1 or high % 1:
            return None
        source, inner = first.input[0], first.output[0]
        return _ByteRange(source=source, lo=int(low), hi=int(high), inner=inner)

    def _root(self, tensor: str) -> str | None:
        """The 8-bit tensor that another is a moved copy of."""
        while tensor not in self.ranges:
            maker = self.maker.get(tensor)
            if maker is None or maker.op_type not in MOVES:
                return None
            tensor = maker.input[0]
        return tensor

    def _int8_layer(self, node: onnx.NodeProto) -> _Int8Weights | None:
        """A layer's integers, if runtimes can fuse it and its numbers fit."""
        if node.op_type not in ("Conv", "Gemm"):
            return None
        if self._root(node.input[0]) is None:
            return None
        if node.op_type == "Conv" and not self._ends_in_bytes(node):
            return None  # a convolution is fused only with a Quantize behind it
        weight = self.constants[node.input[1]].astype(np.float64)
        if node.op_type == "Gemm" and not attributes_of(node).get("transB"):
            weight = weight.T
        has_bias = len(node.input) > 2 and node.input[2]
        bias = self.constants[node.input[2]].astype(np.float64).reshape(-1) if has_bias else None
        return _integers(weight, None if bias is None else np.broadcast_to(bias, len(weight)))

    def _ends_in_bytes(self, node: onnx.NodeProto) -> bool:
        users = self.users.get(node.output[0], [])
        if len(users) != 1:
            return False
        return any(r.source == node.output[0] and r.fills for r in self.ranges.values())

    # -- writing ---------------------------------------------------------------------------

    def spelled(self) -> onnx.ModelProto | None:
        """The rewritten model."""
        if not self.layers:
            return None
        chosen = {self._root(self.maker[layer].input[0]) for layer in self.layers}
        sources = {layer for layer in self.layers if self.maker[layer].op_type == "Conv"}
        chosen |= {t for t, r in self.ranges.items() if r.source in sources}
        skipped = {self.ranges[t].inner for t in chosen if t is not None}
        for node in self.old:
            name = node.output[0]
            if name in skipped:
                continue
            if name in chosen:
                self._quantize(name, self.ranges[name])
            elif name in self.layers:
                self._layer(node, self.layers[name])
            elif node.op_type in MOVES and node.input[0] in self.quantized:
                self._move(node)
            else:
                self._copy(node)
        for name in self.ends:
            self._float(name)
        return self._model()

    def constant(self, name: str, value: Array) -> str:
        self.initializers[name] = np.array(value, order="C")
        return name

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        self.made.add(name)
        return name

    def _ends_of(self, zero: int) -> list[str]:
        one = self.constant("unit_step", np.array(1, np.float32))
        return [one, self.constant(f"zero_point_{zero}", np.array(zero, np.uint8))]

    def _quantize(self, name: str, found: _ByteRange) -> None:
        source = self._float(found.source)
        if not found.fills:
            if found.source in self.layers:  # onnxruntime fuses no Gemm that Clip follows
                source = self.node("Round", [source], f"{name}_round")
            low = self.constant(f"{name}_lo", np.array(found.lo, np.float32))
            high = self.constant(f"{name}_hi", np.array(found.hi, np.float32))
            source = self.node("Clip", [source, low, high], f"{name}_clipped")
        bytes_ = self.node("QuantizeLinear", [source, *self._ends_of(-found.lo)], f"{name}_u8")
        self.quantized[name] = bytes_, -found.lo

    def _move(self, node: onnx.NodeProto) -> None:
        """Move the bytes; floats are made of them where somebody wants those."""
        bytes_, zero = self.quantized[node.input[0]]
        name = f"{node.output[0]}_u8"
        inputs = [bytes_, *(self._float(given) for given in node.input[1:])]
        self.node(node.op_type, inputs, name, **attributes_of(node))
        self.quantized[node.output[0]] = name, zero

    def _layer(self, node: onnx.NodeProto, found: _Int8Weights) -> None:
        name, attributes = node.output[0], attributes_of(node)
        scale = self.constant(f"{name}_scale", np.exp2(-found.exponent.astype(np.float64)))
        self.initializers[scale] = self.initializers[scale].astype(np.float32)
        signed = pair_sums_fit(found.weight)
        kind, zero = (np.dtype(np.int8), 0) if signed else (np.dtype(np.uint8), 128)
        integers = (found.weight + zero).astype(kind)
        parts = [self.constant(f"{name}_weight_q", integers), scale]
        parts.append(self.constant(f"{name}_weight_zero", np.full(len(integers), zero, kind)))
        weight = self.node("DequantizeLinear", parts, f"{name}_weight", axis=0)
        inputs = [self._float(node.input[0]), weight]
        if found.bias is not None:
            parts = [self.constant(f"{name}_bias_q", found.bias.astype(np.int32)), scale]
            inputs.append(self.node("DequantizeLinear", parts, f"{name}_bias", axis=0))
        if node.op_type == "Gemm":
            attributes = {"transB": 1}
        self.node(node.op_type, inputs, name, **attributes)

    def _copy(self, node: onnx.NodeProto) -> None:
        inputs = [self._float(name) if name else "" for name in node.input]
        self.node(node.op_type, inputs, node.output[0], **attributes_of(node))

    def _float(self, name: str) -> str:
        """A tensor in float32, dequantized or made an initializer where it is not there yet."""
        if name in self.quantized and name not in self.made:
            bytes_, zero = self.quantized[name]
            self.node("DequantizeLinear", [bytes_, *self._ends_of(zero)], name)
        elif name in self.constants and name not in self.initializers:
            value = self.constants[name]
            self.constant(name, value.astype(np.float32) if value.dtype.kind == "f" else value)
        return name

    def _model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            self.model.graph.name,
            list(self.model.graph.input),
            list(self.model.graph.output),
            [numpy_helper.from_array(value, name) for name, value in self.initializers.items()],
        )
        made = helper.make_model(
            graph,
            opset_imports=list(self.model.opset_import),
            producer_name=self.model.producer_name,
        )
        made.ir_version = self.model.ir_version
        props: Mapping[str, str] = {p.key: p.value for p in self.model.metadata_props}
        helper.set_model_props(made, {**props, SPELLING_KEY: "int8"})
        return made


def _integers(weight: Array, bias: Array | None) -> _Int8Weights | None:
    """Weights as 8-bit integers times a power of two per output channel; None if they are not."""
    exponent = grid_exponents(weight.reshape(len(weight), -1))
    if bias is not None:
        exponent = np.maximum(exponent, grid_exponents(bias.reshape(-1, 1)))
    exponent = np.where(exponent < -30, 0, exponent)  # a channel of zeros
    scale = np.exp2(exponent.astype(np.float64))
    integers = weight * scale.reshape(-1, *([1] * (weight.ndim - 1)))
    rows = None if bias is None else bias * scale
    if np.abs(integers).max(initial=0) > 127 or np.abs(exponent).max(initial=0) > 100:
        return None
    if rows is not None and np.abs(rows).max(initial=0) >= 2**24:
        return None
    return _Int8Weights(weight=integers.astype(np.int64), bias=rows, exponent=exponent)
