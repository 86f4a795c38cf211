"""Run a certified graph in int64: the reference that owes nothing to floating point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeae.exporting.dyadic_graph import (
    NotDyadicError,
    attributes_of,
    clip_range,
    grid_exponents,
    name_of,
    quantized_range,
    read_constants,
)

__all__ = ["run_integers", "run_integers_of"]

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Fixed:
    """int64 integers worth ``2**-exponent``."""

    n: Ints
    exponent: int

    def to(self, exponent: int) -> Ints:
        """The integers on another grid; the finer bits that go are zero."""
        if exponent >= self.exponent:
            return self.n << (exponent - self.exponent)
        return self.n >> (self.exponent - exponent)

    def rounded(self) -> _Fixed:
        """The nearest integers, ties to even."""
        if self.exponent <= 0:
            return self
        floor = self.n >> self.exponent
        rest = self.n - (floor << self.exponent)
        half = 1 << (self.exponent - 1)
        up = (rest > half) | ((rest == half) & (floor & 1 == 1))
        return _Fixed(floor + up, 0)

    def moved(self, n: Ints) -> _Fixed:
        """Other integers on the same grid."""
        return _Fixed(n, self.exponent)


def run_integers(model: onnx.ModelProto, values: Array) -> Ints:
    """Run a certified graph in int64 arithmetic only.

    Args:
        model: a graph that :func:`~edgeae.exporting.certificate.certify` accepts, whose output is
            integers.
        values: the input's integers.

    Returns:
        The output's integers.

    Raises:
        NotDyadicError: an operator this engine does not know, or an output that is not integers.
    """
    (found,) = run_integers_of(model, {model.graph.input[0].name: values})
    return found


def run_integers_of(model: onnx.ModelProto, feed: Mapping[str, Array]) -> list[Ints]:
    """Likewise for a graph of several inputs and outputs.

    Args:
        feed: the integers of each input.
        model: the graph.

    Returns:
        The integers of each output, in the graph's order.

    Raises:
        NotDyadicError: as in :func:`run_integers`.
    """
    constants = read_constants(model)
    tensors = {name: _Fixed(values.astype(np.int64), 0) for name, values in feed.items()}
    for node in model.graph.node:
        if node.output[0] not in constants:
            tensors[node.output[0]] = _run_node(node, tensors, constants)
    found = []
    for target in model.graph.output:
        out = tensors[target.name]
        if out.exponent > 0 and np.any(out.n & ((1 << out.exponent) - 1)):
            raise NotDyadicError("the graph's output is not integer valued")
        found.append(out.to(0))
    return found


def _fixed(values: Array) -> _Fixed:
    flat = values.astype(np.float64)
    exponent = int(grid_exponents(flat.reshape(1, -1))[0])
    return _Fixed(np.round(np.ldexp(flat, exponent)).astype(np.int64), exponent)


def _run_node(
    node: onnx.NodeProto, tensors: Mapping[str, _Fixed], constants: Mapping[str, Array]
) -> _Fixed:
    def operand(name: str) -> _Fixed:
        return tensors[name] if name in tensors else _fixed(constants[name])

    op = node.op_type
    if op in ("Conv", "Gemm"):
        return _product(node, tensors[node.input[0]], constants)
    if op in ("Mul", "Div"):
        a, b = operand(node.input[0]), operand(node.input[1])
        if op == "Div":
            b = _fixed(1 / constants[node.input[1]].astype(np.float64))
        return _Fixed(a.n * b.n, a.exponent + b.exponent)
    if op in ("Add", "Sub"):
        a, b = operand(node.input[0]), operand(node.input[1])
        exponent = max(a.exponent, b.exponent)
        n = a.to(exponent) + b.to(exponent) if op == "Add" else a.to(exponent) - b.to(exponent)
        return _Fixed(n, exponent)
    if op == "Concat":
        parts = [operand(name) for name in node.input]
        exponent = max(p.exponent for p in parts)
        axis = attributes_of(node)["axis"]
        return _Fixed(np.concatenate([p.to(exponent) for p in parts], axis), exponent)
    x = tensors[node.input[0]]
    if op == "Identity":
        return x
    if op == "Relu":
        return x.moved(np.maximum(x.n, 0))
    if op == "Clip":
        return _clipped(x, *clip_range(node, constants))
    if op == "Round":
        return x.rounded()
    if op == "QuantizeLinear":
        scale, zero, low, high = quantized_range(node, constants)
        steps = _Fixed(x.n, x.exponent + int(np.round(np.log2(scale)))).rounded()
        return _Fixed(np.clip(steps.to(0) + zero, low, high), 0)
    if op == "DequantizeLinear":
        scale, zero, _, _ = quantized_range(node, constants)
        return _Fixed(x.to(0) - zero, -int(np.round(np.log2(scale))))
    return x.moved(_moved(node, x.n, constants))


def _product(node: onnx.NodeProto, x: _Fixed, constants: Mapping[str, Array]) -> _Fixed:
    weight = _fixed(constants[node.input[1]])
    has_bias = len(node.input) > 2 and node.input[2]
    bias = _fixed(constants[node.input[2]] if has_bias else np.zeros(1))
    exponent = x.exponent + weight.exponent
    common = max(exponent, bias.exponent)
    if node.op_type == "Conv":
        y = _conv(x.n, weight.n, node)
        row = bias.to(common).reshape(1, -1, *([1] * (y.ndim - 2)))
    else:
        y = x.n @ (weight.n.T if attributes_of(node).get("transB") else weight.n)
        row = bias.to(common).reshape(1, -1)
    return _Fixed((y << (common - exponent)) + row, common)


def _conv(x: Ints, weight: Ints, node: onnx.NodeProto) -> Ints:
    attributes = attributes_of(node)
    if attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise NotDyadicError(f"node {name_of(node)}: auto_pad has no integer engine")
    dims = weight.ndim - 2
    strides = attributes.get("strides", [1] * dims)
    dilations = attributes.get("dilations", [1] * dims)
    pads = attributes.get("pads", [0] * 2 * dims)
    x = np.pad(x, [(0, 0), (0, 0), *((pads[d], pads[d + dims]) for d in range(dims))])
    spans = tuple((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, tuple(range(2, 2 + dims)))
    index: list[Any] = [slice(None), slice(None)]
    index += [slice(None, None, step) for step in (*strides, *dilations)]
    windows = windows[tuple(index)]
    terms = "nitk,oik->not" if dims == 1 else "nihwkl,oikl->nohw"
    found: Ints = np.einsum(terms, windows, weight, optimize=True)
    return found


def _clipped(x: _Fixed, low: float, high: float) -> _Fixed:
    ends = _fixed(np.array([v for v in (low, high) if np.isfinite(v)] or [0.0]))
    exponent = max(x.exponent, ends.exponent)
    n = x.to(exponent)
    if np.isfinite(low):
        n = np.maximum(n, int(low * 2.0**exponent))
    if np.isfinite(high):
        n = np.minimum(n, int(high * 2.0**exponent))
    return _Fixed(n, exponent)


def _moved(node: onnx.NodeProto, x: Ints, constants: Mapping[str, Array]) -> Ints:
    """Operators that move numbers and change none."""
    op, attributes = node.op_type, attributes_of(node)
    given = [constants[name] if name else None for name in node.input[1:]]
    if op == "Pad" and given[0] is not None:
        pads = given[0].reshape(2, -1)
        return np.pad(x, [(int(a), int(b)) for a, b in pads.T])
    if op == "Slice":
        return _sliced(x, given)
    if op == "Reshape" and given[0] is not None:
        return x.reshape([x.shape[i] if s == 0 else int(s) for i, s in enumerate(given[0])])
    if op == "Transpose":
        return x.transpose(attributes["perm"])
    if op == "Flatten":
        axis = attributes.get("axis", 1)
        return x.reshape(int(np.prod(x.shape[:axis])), -1)
    if op in ("Squeeze", "Unsqueeze") and given and given[0] is not None:
        axes = tuple(int(v) for v in given[0].reshape(-1))
        return x.squeeze(axes) if op == "Squeeze" else np.expand_dims(x, axes)
    if op == "DepthToSpace":
        b = attributes["blocksize"]
        n, c, h, w = x.shape
        if attributes.get("mode", "DCR") == "CRD":
            y = x.reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
        else:
            y = x.reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2)
        return y.reshape(n, c // b**2, h * b, w * b)
    if op == "SpaceToDepth":
        b = attributes["blocksize"]
        n, c, h, w = x.shape
        y = x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
        return y.reshape(n, c * b**2, h // b, w // b)
    raise NotDyadicError(f"node {name_of(node)}: {op} has no integer engine")


def _sliced(x: Ints, given: list[Array | None]) -> Ints:
    if given[0] is None or given[1] is None:
        raise NotDyadicError("a Slice without ends has no integer engine")
    starts, ends = given[0].tolist(), given[1].tolist()
    axes = list(range(len(starts)))
    if len(given) > 2 and given[2] is not None:
        axes = given[2].tolist()
    steps = [1] * len(starts)
    if len(given) > 3 and given[3] is not None:
        steps = given[3].tolist()
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise NotDyadicError("a Slice that goes backwards has no integer engine")
        index[axis] = slice(start, end, step)
    return x[tuple(index)]
