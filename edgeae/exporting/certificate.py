"""The certificate: proof, read off the ONNX graph itself, that float32 computes it exactly.

Every tensor is shown to lie on a grid ``n * 2**-e`` with a bound on ``|n|``; wherever numbers are
summed, the bound on every partial sum stays below 2^24, the integers that float32 holds without
rounding. Then any order of summation, any fusion and any thread count gives the same bits.

:func:`certify` walks a graph with grids and bounds (abstract values); :func:`run_integers` walks the
same graph with int64 arrays (concrete values), an engine that owes nothing to floating point.

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
from onnx import numpy_helper

from edgeae.errors import ModelError

__all__ = ["LayerCertificate", "NotDyadicError", "certify", "run_integers"]

LIMIT = 2.0**24
LIMIT_BITS = 24

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class NotDyadicError(ModelError):
    """The graph computes something whose float32 result depends on the machine."""


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
class _Abstract:
    """A tensor's grid and bound, per channel of axis 1 (or one entry for all)."""

    exponent: Ints
    bound: Floats  # largest |value|


def _exponents(values: Floats) -> Ints:
    """Finest grid exponent of each row's values: smallest e with value * 2^e an integer."""
    rows = values.reshape(values.shape[0], -1)
    mantissa, power = np.frexp(rows)
    whole = (np.abs(mantissa) * 2.0**53).astype(np.int64)
    low_bit = np.where(whole == 0, 1, whole & -whole)
    trailing = np.round(np.log2(low_bit.astype(np.float64))).astype(np.int64)
    exponent = np.where(whole == 0, -1074, 53 - trailing - power)
    found: Ints = exponent.max(axis=1).astype(np.int64)
    return np.maximum(found, -60)


def _power_of_two(values: Floats) -> bool:
    mantissa, _ = np.frexp(values)
    return bool(np.all(np.abs(mantissa) == 0.5))


def _constants(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "DequantizeLinear" and node.input[0] in found:
            q, scale = found[node.input[0]], np.asarray(found[node.input[1]], np.float64)
            zero = found[node.input[2]] if len(node.input) > 2 and node.input[2] else np.int64(0)
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            if scale.ndim:
                shape = [1] * q.ndim
                shape[axis] = -1
                scale = scale.reshape(shape)
                zero = np.asarray(zero).reshape(shape) if np.ndim(zero) else zero
            found[node.output[0]] = (q.astype(np.float64) - zero) * scale
    return found


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _input_peak(model: onnx.ModelProto) -> float:
    for prop in model.metadata_props:
        if prop.key == "edgeae.input_peak":
            return float(prop.value)
    raise NotDyadicError("the graph does not state its input's range (metadata edgeae.input_peak)")


def _split_clip(
    node: onnx.NodeProto, constants: Mapping[str, npt.NDArray[Any]]
) -> tuple[float, float]:
    low = float(constants[node.input[1]]) if len(node.input) > 1 and node.input[1] else -np.inf
    high = float(constants[node.input[2]]) if len(node.input) > 2 and node.input[2] else np.inf
    return low, high


def _whole(a: _Abstract) -> _Abstract:
    return _Abstract(a.exponent.max(keepdims=True), a.bound.max(keepdims=True))


def _checked_sum(
    node: onnx.NodeProto, exponent: Ints, bound: Floats, found: list[LayerCertificate]
) -> None:
    peak = bound * np.exp2(exponent.astype(np.float64))
    worst = int(np.argmax(peak))
    if peak[worst] >= LIMIT:
        raise NotDyadicError(
            f"node {node.name or node.output[0]} ({node.op_type}): a sum can reach "
            f"{peak[worst]:.0f} steps of 2^-{exponent[worst]}, and float32 is exact below 2^24 only"
        )
    found.append(
        LayerCertificate(
            node=node.name or node.output[0],
            op=node.op_type,
            exponent=int(exponent.max()),
            peak=int(np.ceil(peak.max())),
            headroom_bits=float(LIMIT_BITS - np.log2(max(peak.max(), 1.0))),
        )
    )


def _certify_conv(
    node: onnx.NodeProto,
    x: _Abstract,
    weight: Floats,
    bias: Floats,
    found: list[LayerCertificate],
) -> _Abstract:
    n_in = weight.shape[1]
    exponent_in = np.broadcast_to(x.exponent, (n_in,))
    bound_in = np.broadcast_to(x.bound, (n_in,))
    flat = weight.reshape(*weight.shape[:2], -1)
    per_pair = np.stack([_exponents(row) for row in flat])  # [O, I]
    used = np.any(flat != 0, axis=2)
    exponent = np.where(used, per_pair + exponent_in, -60).max(axis=1)
    exponent = np.maximum(exponent, _exponents(bias[:, None])).astype(np.int64)
    bound = np.abs(flat).sum(axis=2) @ bound_in + np.abs(bias)
    _checked_sum(node, exponent, bound, found)
    return _Abstract(exponent, bound)


def certify(model: onnx.ModelProto) -> list[LayerCertificate]:
    """Prove that a graph is exact in float32.

    Args:
        model: a graph with one input, whose integers are bounded by metadata
            ``edgeae.input_peak``.

    Returns:
        One entry per summing node.

    Raises:
        NotDyadicError: an operator outside the dyadic set, a scale that is no power of two, or a
            sum that can reach 2^24; the message names the node.
    """
    constants = _constants(model)
    peak = _input_peak(model)
    values: dict[str, _Abstract] = {
        model.graph.input[0].name: _Abstract(np.zeros(1, np.int64), np.array([peak]))
    }
    found: list[LayerCertificate] = []
    for node in model.graph.node:
        if node.output[0] in constants:
            continue
        values[node.output[0]] = _certify_node(node, values, constants, found)
    return found


def _certify_node(
    node: onnx.NodeProto,
    values: Mapping[str, _Abstract],
    constants: Mapping[str, npt.NDArray[Any]],
    found: list[LayerCertificate],
) -> _Abstract:
    op = node.op_type
    tensors = [values[name] for name in node.input if name in values]
    x = tensors[0]
    if op in ("Conv", "Gemm"):
        weight = constants[node.input[1]].astype(np.float64)
        if op == "Gemm":
            attributes = _attributes(node)
            if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0:
                raise NotDyadicError(f"node {node.name}: Gemm with alpha or beta other than 1")
            weight = weight if attributes.get("transB") else weight.T
            x = _whole(x)
        elif _attributes(node).get("group", 1) != 1:
            raise NotDyadicError(f"node {node.name}: grouped Conv is not certified")
        bias = (
            constants[node.input[2]].astype(np.float64)
            if len(node.input) > 2
            else np.zeros(weight.shape[0])
        )
        return _certify_conv(node, x, weight, bias.reshape(-1), found)
    if op == "Relu":
        return x
    if op == "Clip":
        low, high = _split_clip(node, constants)
        if low > 0 or high < 0:
            raise NotDyadicError(f"node {node.name}: Clip to a range without 0")
        limit = max(-low, high)
        finite = [v for v in (low, high) if np.isfinite(v)]
        ends = _exponents(np.array(finite)[None]) if finite else np.full(1, -60)
        return _Abstract(np.maximum(x.exponent, ends), np.minimum(x.bound, limit))
    if op == "Round":
        return _Abstract(np.minimum(x.exponent, 0), np.ceil(x.bound))
    if op in ("Mul", "Div"):
        name = next(n for n in node.input if n in constants)
        factor = constants[name].astype(np.float64).reshape(-1)
        factor = 1 / factor if op == "Div" else factor
        if not _power_of_two(factor):
            raise NotDyadicError(f"node {node.name}: {op} by {factor[:4]}, not a power of two")
        shift = np.round(np.log2(np.abs(factor))).astype(np.int64)
        return _Abstract(x.exponent - shift, x.bound * np.abs(factor))
    if op in ("Add", "Sub"):
        if len(tensors) == 2:
            y = tensors[1]
        else:
            name = next(n for n in node.input if n in constants)
            flat = constants[name].astype(np.float64).reshape(-1)
            y = _Abstract(_exponents(flat[:, None]), np.abs(flat))
        exponent = np.maximum(x.exponent, y.exponent)
        bound = x.bound + y.bound
        _checked_sum(node, exponent, bound, found)
        return _Abstract(exponent, bound)
    if op == "Concat":
        return _Abstract(
            np.array([max(t.exponent.max() for t in tensors)]),
            np.array([max(t.bound.max() for t in tensors)]),
        )
    if op == "Slice" or (op == "Pad" and len(node.input) < 3):
        return x
    if op in ("Reshape", "Transpose", "DepthToSpace", "Flatten", "Identity", "Resize"):
        if op == "Resize" and _attributes(node).get("mode", b"nearest") != b"nearest":
            raise NotDyadicError(f"node {node.name}: Resize that interpolates")
        return _whole(x)
    if op in ("QuantizeLinear", "DequantizeLinear"):
        scale = np.asarray(constants[node.input[1]], np.float64).reshape(-1)
        if scale.size != 1 or not _power_of_two(scale):
            raise NotDyadicError(f"node {node.name}: a scale that is no power of two: {scale[:4]}")
        shift = int(np.round(np.log2(scale[0])))
        if op == "QuantizeLinear":
            return _Abstract(np.zeros(1, np.int64), np.array([255.0]))
        return _Abstract(np.array([-shift]), np.array([255.0 * scale[0]]))
    raise NotDyadicError(f"node {node.name or node.output[0]}: {op} is not a dyadic operator")


# -- the same walk with concrete integers ------------------------------------------------------


@dataclass(frozen=True)
class _Fixed:
    """int64 integers worth ``2**-exponent``."""

    n: Ints
    exponent: int

    def to(self, exponent: int) -> Ints:
        if exponent >= self.exponent:
            return self.n << (exponent - self.exponent)
        return self.n >> (self.exponent - exponent)  # exact: the finer bits are zero


def _fixed(values: npt.NDArray[Any]) -> _Fixed:
    flat = values.astype(np.float64)
    exponent = int(_exponents(flat.reshape(1, -1))[0])
    return _Fixed(np.round(np.ldexp(flat, exponent)).astype(np.int64), exponent)


def _round_half_even(n: Ints, shift: int) -> Ints:
    if shift <= 0:
        return n << -shift
    half = np.int64(1) << (shift - 1)
    floor = n >> shift
    rest = n - (floor << shift)
    up = (rest > half) | ((rest == half) & (floor & 1 == 1))
    result: Ints = floor + up
    return result


def _conv_integers(x: Ints, weight: Ints, node: onnx.NodeProto) -> Ints:
    attributes = _attributes(node)
    dims = weight.ndim - 2
    strides = attributes.get("strides", [1] * dims)
    dilations = attributes.get("dilations", [1] * dims)
    pads = attributes.get("pads", [0] * 2 * dims)
    x = np.pad(x, [(0, 0), (0, 0), *((pads[d], pads[d + dims]) for d in range(dims))])
    spans = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    axes = tuple(range(2, 2 + dims))
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, axes)
    windows = windows[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]
    windows = windows[(..., *(slice(None, None, d) for d in dilations))]
    if dims == 1:
        return np.einsum("nitk,oik->not", windows, weight, optimize=True)
    return np.einsum("nihwkl,oikl->nohw", windows, weight, optimize=True)


def run_integers(model: onnx.ModelProto, values: npt.NDArray[Any]) -> Ints:
    """Run a certified graph in int64 arithmetic only.

    Args:
        model: a graph that :func:`certify` accepts, whose output is integers.
        values: the input's integers.

    Returns:
        The output's integers.
    """
    constants = _constants(model)
    tensors: dict[str, _Fixed] = {model.graph.input[0].name: _Fixed(values.astype(np.int64), 0)}
    for node in model.graph.node:
        if node.output[0] not in constants:
            tensors[node.output[0]] = _run_node(node, tensors, constants)
    out = tensors[model.graph.output[0].name]
    if out.exponent > 0:
        raise NotDyadicError("the graph's output is not integer valued")
    return out.to(0)


def _run_node(
    node: onnx.NodeProto,
    tensors: Mapping[str, _Fixed],
    constants: Mapping[str, npt.NDArray[Any]],
) -> _Fixed:
    op = node.op_type
    x = next(tensors[name] for name in node.input if name in tensors)
    if op in ("Conv", "Gemm"):
        weight = _fixed(constants[node.input[1]])
        exponent = x.exponent + weight.exponent
        bias = (
            _fixed(constants[node.input[2]])
            if len(node.input) > 2
            else _Fixed(np.zeros(1, np.int64), 0)
        )
        common = max(exponent, bias.exponent)
        if op == "Conv":
            y = _conv_integers(x.n, weight.n, node)
            column = bias.to(common).reshape(1, -1, *([1] * (y.ndim - 2)))
        else:
            y = x.n @ (weight.n.T if _attributes(node).get("transB") else weight.n)
            column = bias.to(common).reshape(1, -1)
        return _Fixed((y << (common - exponent)) + column, common)
    if op == "Relu":
        return _Fixed(np.maximum(x.n, 0), x.exponent)
    if op == "Clip":
        low, high = _split_clip(node, constants)
        ends = _fixed(np.array([v for v in (low, high) if np.isfinite(v)] or [0.0]))
        exponent = max(x.exponent, ends.exponent)
        step = 2.0**exponent
        n = x.to(exponent)
        if np.isfinite(low):
            n = np.maximum(n, int(low * step))
        if np.isfinite(high):
            n = np.minimum(n, int(high * step))
        return _Fixed(n, exponent)
    if op == "Round":
        return _Fixed(_round_half_even(x.n, x.exponent), 0) if x.exponent > 0 else x
    if op in ("Mul", "Div"):
        name = next(n for n in node.input if n in constants)
        factor = constants[name].astype(np.float64)
        fixed = _fixed(1 / factor if op == "Div" else factor)
        return _Fixed(x.n * fixed.n, x.exponent + fixed.exponent)
    if op in ("Add", "Sub"):
        a, b = (
            tensors[name] if name in tensors else _fixed(constants[name]) for name in node.input
        )
        exponent = max(a.exponent, b.exponent)
        n = a.to(exponent) + b.to(exponent) if op == "Add" else a.to(exponent) - b.to(exponent)
        return _Fixed(n, exponent)
    if op == "Concat":
        parts = [tensors[name] for name in node.input]
        exponent = max(p.exponent for p in parts)
        return _Fixed(
            np.concatenate([p.to(exponent) for p in parts], _attributes(node)["axis"]), exponent
        )
    if op == "Pad":
        pads = constants[node.input[1]]
        rank = x.n.ndim
        return _Fixed(np.pad(x.n, [(pads[i], pads[i + rank]) for i in range(rank)]), x.exponent)
    if op == "Slice":
        starts, ends, axes = (constants[name] for name in node.input[1:4])
        index = [slice(None)] * x.n.ndim
        for start, end, axis in zip(starts, ends, axes, strict=True):
            size = x.n.shape[axis]
            stop = int(end) if end < 0 else min(int(end), size)
            index[axis] = slice(int(start), stop)
        return _Fixed(x.n[tuple(index)], x.exponent)
    if op == "Reshape":
        shape = [x.n.shape[i] if s == 0 else int(s) for i, s in enumerate(constants[node.input[1]])]
        return _Fixed(x.n.reshape(shape), x.exponent)
    if op == "Transpose":
        return _Fixed(x.n.transpose(_attributes(node)["perm"]), x.exponent)
    if op == "DepthToSpace":
        block = _attributes(node)["blocksize"]
        n, c, h, w = x.n.shape
        y = x.n.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
        return _Fixed(y.reshape(n, c // block**2, h * block, w * block), x.exponent)
    raise NotDyadicError(f"node {node.name or node.output[0]}: {op} has no integer engine")
