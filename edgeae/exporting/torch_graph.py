"""Run one of our ONNX graphs with torch's kernels, to compare engines bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

from edgeae.errors import ModelError

__all__ = ["run_torch"]


def run_torch(model: onnx.ModelProto, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Run a dyadic graph in torch float32.

    Raises:
        ModelError: an operator outside the dyadic set.
    """
    tensors: dict[str, Any] = {
        t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer
    }
    tensors[model.graph.input[0].name] = torch.from_numpy(np.asarray(x, np.float32))
    with torch.no_grad():
        for node in model.graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            inputs = [tensors[name] if name else None for name in node.input]
            tensors[node.output[0]] = _run(node.op_type, inputs, attributes)
    out: npt.NDArray[np.float32] = tensors[model.graph.output[0].name].numpy()
    return out


def _run(op: str, inputs: list[Any], attributes: dict[str, Any]) -> Tensor:
    x: Tensor = inputs[0]
    if op == "DequantizeLinear":
        scale: Tensor = inputs[1]
        return x.float() * scale.view(-1, *([1] * (x.dim() - 1)))
    if op == "Conv":
        weight, bias = inputs[1], inputs[2] if len(inputs) > 2 else None
        dims = weight.dim() - 2
        pads = attributes.get("pads", [0] * 2 * dims)
        flat = [v for d in reversed(range(dims)) for v in (pads[d], pads[d + dims])]
        conv = F.conv1d if dims == 1 else F.conv2d
        strides = list(attributes.get("strides", [1] * dims))
        return conv(F.pad(x, flat), weight, bias, stride=strides)
    if op == "Round":
        return torch.round(x)
    if op == "Clip":
        return x.clamp(float(inputs[1]), float(inputs[2]))
    if op in ("Mul", "Add", "Sub"):
        y: Tensor = inputs[1]
        return x * y if op == "Mul" else x + y if op == "Add" else x - y
    if op == "Reshape":
        return x.reshape([x.shape[i] if s == 0 else int(s) for i, s in enumerate(inputs[1])])
    if op == "Transpose":
        return x.permute(*attributes["perm"])
    if op == "DepthToSpace":
        return F.pixel_shuffle(x, attributes["blocksize"])
    if op == "Concat":
        return torch.cat(inputs, attributes["axis"])
    if op == "Pad":
        pads = [int(v) for v in inputs[1]]
        rank = x.dim()
        return F.pad(x, [v for d in reversed(range(rank)) for v in (pads[d], pads[d + rank])])
    if op == "Slice":
        index = [slice(None)] * x.dim()
        for start, end, axis in zip(*(i.tolist() for i in inputs[1:4]), strict=True):
            index[axis] = slice(start, end)
        return x[tuple(index)]
    raise ModelError(f"{op} has no torch engine")
