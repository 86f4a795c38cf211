"""Run one of our ONNX graphs with torch's kernels, to compare engines bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeae.errors import ModelError
from edgeae.exporting.dyadic_graph import attributes_of, read_constants

__all__ = ["run_torch", "run_torch_of"]


def run_torch(model: onnx.ModelProto, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Run a dyadic graph in torch float32.

    Raises:
        ModelError: an operator outside the dyadic set.
    """
    (found,) = run_torch_of(model, {model.graph.input[0].name: x})
    return found


def run_torch_of(
    model: onnx.ModelProto, feed: Mapping[str, npt.NDArray[Any]]
) -> list[npt.NDArray[np.float32]]:
    """Likewise for a graph of several inputs and outputs, the latter in the graph's order.

    Raises:
        ModelError: an operator outside the dyadic set.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in read_constants(model).items():
        wide = value.astype(np.float32) if value.dtype.kind == "f" else value
        tensors[name] = torch.from_numpy(np.array(wide))
    for name, x in feed.items():
        tensors[name] = torch.from_numpy(np.asarray(x, np.float32))
    with torch.no_grad():
        for node in model.graph.node:
            if node.output[0] in tensors:
                continue
            inputs = [tensors[name] if name else None for name in node.input]
            tensors[node.output[0]] = _run(node.op_type, inputs, attributes_of(node))
    return [np.asarray(tensors[target.name].numpy()) for target in model.graph.output]


def _run(op: str, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    x: Tensor = inputs[0]
    y: Tensor | None = inputs[1] if len(inputs) > 1 else None
    if op in _UNARY:
        return _UNARY[op](x)
    if y is not None and op in _BINARY:
        return _BINARY[op](x, y)
    if op == "Conv" and y is not None:
        return _conv(x, y, inputs[2] if len(inputs) > 2 else None, attributes)
    if op == "Gemm" and y is not None:
        return F.linear(x, y if attributes.get("transB") else y.T, *inputs[2:3])
    if op == "Clip":
        low, high = [*inputs[1:], None, None][:2]
        return torch.clamp(x, low, high)
    if op == "Concat":
        return torch.cat(inputs, attributes["axis"])
    if op in ("QuantizeLinear", "DequantizeLinear") and y is not None:
        zero = inputs[2] if len(inputs) > 2 else torch.zeros((), dtype=torch.uint8)
        if op == "DequantizeLinear":
            return (x - zero.float()) * y
        ends = torch.iinfo(zero.dtype)
        return (torch.round(x / y) + zero).clamp(ends.min, ends.max)
    return _moved(op, x, inputs[1:], attributes)


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda x: x,
    "Relu": F.relu,
    "Round": torch.round,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Div": torch.div,
    "Mul": torch.mul,
    "Sub": torch.sub,
}


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, attributes: dict[str, Any]) -> Tensor:
    dims = weight.dim() - 2
    pads = attributes.get("pads", [0] * 2 * dims)
    flat = [v for d in reversed(range(dims)) for v in (pads[d], pads[d + dims])]
    strides = list(attributes.get("strides", [1] * dims))
    dilations = list(attributes.get("dilations", [1] * dims))
    conv = F.conv1d if dims == 1 else F.conv2d
    y: Tensor = conv(F.pad(x, flat), weight, bias, stride=strides, dilation=dilations)
    return y


def _moved(op: str, x: Tensor, given: list[Any], attributes: dict[str, Any]) -> Tensor:
    """Operators that move numbers and change none."""
    numbers: list[list[int]] = [[] if v is None else v.reshape(-1).tolist() for v in given]
    if op == "Reshape":
        return x.reshape([x.shape[i] if s == 0 else s for i, s in enumerate(numbers[0])])
    if op == "Flatten":
        return x.flatten(attributes.get("axis", 1))
    if op == "Transpose":
        return x.permute(*attributes["perm"])
    if op == "DepthToSpace" and attributes.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, attributes["blocksize"])
    if op == "DepthToSpace":
        n, c, h, w = x.shape
        b = attributes["blocksize"]
        y = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
        return y.reshape(n, c // b**2, h * b, w * b)
    if op == "SpaceToDepth":
        b = attributes["blocksize"]
        n, c, h, w = x.shape
        y = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
        return y.reshape(n, c * b**2, h // b, w // b)
    if op == "Pad":
        pads, rank = numbers[0], x.dim()
        return F.pad(x, [v for d in reversed(range(rank)) for v in (pads[d], pads[d + rank])])
    if op == "Slice":
        starts, ends = numbers[:2]
        axes = numbers[2] if len(numbers) > 2 else list(range(len(starts)))
        steps = numbers[3] if len(numbers) > 3 else [1] * len(starts)
        index = [slice(None)] * x.dim()
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            index[axis] = slice(start, end, step)
        return x[tuple(index)]
    if op in ("Squeeze", "Unsqueeze") and numbers:
        for axis in sorted(numbers[0], reverse=op == "Squeeze"):
            x = x.squeeze(axis) if op == "Squeeze" else x.unsqueeze(axis)
        return x
    raise ModelError(f"{op} has no torch engine")
