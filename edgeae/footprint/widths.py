"""How wide a device stores each tensor: the integers that its graph confines it to.

A tensor that was rounded and clipped, or quantized, is integers of a known range; a device keeps
them in the narrowest type that holds them. Where a graph does not say so, four bytes are needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.footprint.costs import integer_width
from edgeae.footprint.shapes import TensorTypes
from edgeae.runtime.onnx_file import OnnxGraph, OnnxNode

__all__ = ["stored_widths"]

Array = npt.NDArray[Any]
_KEEPS = frozenset(
    [
        "Concat",
        "DepthToSpace",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Pad",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ]
)


@dataclass(frozen=True)
class _Range:
    """Integers from low to high; ``unit`` is False where they stand for other numbers."""

    low: float = -math.inf
    high: float = math.inf
    unit: bool = True


def stored_widths(graph: OnnxGraph, types: TensorTypes) -> dict[str, int]:
    """Bytes per element of each tensor, as a device stores it."""
    ranges: dict[str, _Range] = {}
    widths: dict[str, int] = {}
    for value in graph.inputs:
        peak = graph.metadata.get(_peak_key(value.name, graph), "")
        if peak.isdigit():
            ranges[value.name] = _Range(-int(peak), int(peak))
        dtype = types[value.name][1]
        widths[value.name] = _width(ranges.get(value.name), dtype)
    for node in graph.nodes:
        found = _after(node, ranges, graph.constants, types)
        for name in node.outputs:
            if name in types:
                if found is not None:
                    ranges[name] = found
                widths[name] = _width(found, types[name][1])
    return widths


def _peak_key(name: str, graph: OnnxGraph) -> str:
    """Where the file states the largest magnitude of an input: of the first one, or of others."""
    return "edgeae.input_peak" + ("" if name == graph.inputs[0].name else f".{name}")


def _width(found: _Range | None, dtype: np.dtype[Any]) -> int:
    if dtype.kind in "iub":
        return min(dtype.itemsize, 4)
    if found is None or not math.isfinite(found.low) or not math.isfinite(found.high):
        return 4
    return integer_width(found.low, found.high)


def _after(
    node: OnnxNode,
    ranges: Mapping[str, _Range],
    constants: Mapping[str, Array],
    types: TensorTypes,
) -> _Range | None:
    """Range of a node's output; None where it is not known to be integers."""
    op = node.op
    if op == "Round":
        x = ranges.get(node.inputs[0])
        return x if x is not None and x.unit else _Range()
    if op == "QuantizeLinear":
        dtype = types[node.outputs[0]][1]
        if dtype.kind not in "iu":
            return None
        info = np.iinfo(dtype)
        return _Range(float(info.min), float(info.max), unit=False)
    known = [ranges.get(name) for name in node.inputs if name and name not in constants]
    if not known or any(x is None for x in known):
        return None
    parts = [x for x in known if x is not None]
    if op in _KEEPS:
        low, high = min(x.low for x in parts), max(x.high for x in parts)
        return _Range(min(low, 0) if op == "Pad" else low, high, all(x.unit for x in parts))
    x = parts[0]
    if op == "DequantizeLinear":
        return _Range(x.low, x.high, unit=False)
    if op == "Relu":
        return _Range(max(x.low, 0.0), max(x.high, 0.0)) if x.unit else x
    if op == "Clip" and x.unit:
        ends = [constants.get(name) for name in (*node.inputs[1:], "", "")[:2]]
        low = -math.inf if ends[0] is None else float(ends[0].item())
        high = math.inf if ends[1] is None else float(ends[1].item())
        whole = all(v.is_integer() for v in (low, high) if math.isfinite(v))
        return _Range(max(x.low, low), min(x.high, high)) if whole else None
    if op == "Add" and len(parts) == 2 and all(part.unit for part in parts):
        return _Range(x.low + parts[1].low, x.high + parts[1].high)
    if op in ("Add", "Sub", "Mul") and x.unit:
        return _with_constant(node, x, constants)
    return None


def _with_constant(node: OnnxNode, x: _Range, constants: Mapping[str, Array]) -> _Range | None:
    """Integers plus or times a constant."""
    fixed = [constants[name] for name in node.inputs if name in constants]
    if len(fixed) != 1 or not fixed[0].size or (node.op == "Sub" and node.inputs[0] in constants):
        return None
    c = fixed[0].astype(np.float64)
    if np.any(c != np.rint(c)):
        powers = node.op == "Mul" and bool(np.all(np.frexp(c)[0] == 0.5))
        return _Range(x.low, x.high, unit=False) if powers else None
    low, high = float(c.min()), float(c.max())
    if node.op == "Add":
        return _Range(x.low + low, x.high + high)
    if node.op == "Sub":
        return _Range(x.low - high, x.high - low)
    if not (math.isfinite(x.low) and math.isfinite(x.high)):
        return _Range()
    ends = [a * b for a in (x.low, x.high) for b in (low, high)]
    return _Range(min(ends), max(ends))
