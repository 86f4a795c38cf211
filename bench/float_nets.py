"""The float twin of an exact net, and such a net in numpy and torch.

An exact graph holds integers in float32. Without its roundings, and with its weights dequantized,
it is the plain float network of the same shape and nearly the same function: what a user would give
to a runtime that knows nothing of edgeae.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgeae.errors import ConfigError
from edgeae.runtime.onnx_file import OnnxGraph, OnnxNode, read_onnx

Array = np.ndarray
Step = Callable[[Mapping[str, Any]], Any]


def float_twin(exact: bytes) -> bytes:
    """The graph in float: weights dequantized, no Round, Clip at zero as Relu, no other Clip."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_model_from_string(exact)
    graph = model.graph
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    renamed: dict[str, str] = {}
    nodes, weights = [], []
    for node in graph.node:
        inputs = [renamed.get(name, name) for name in node.input]
        output = node.output[0]
        if node.op_type == "DequantizeLinear":
            q, scale = (constants[name] for name in node.input[:2])
            scale = scale.reshape(-1, *([1] * (q.ndim - 1)))
            weights.append(numpy_helper.from_array(q.astype(np.float32) * scale, output))
        elif node.op_type == "Round" or (node.op_type == "Clip" and constants[inputs[1]] < 0):
            renamed[output] = inputs[0]
        elif node.op_type == "Clip":
            nodes.append(helper.make_node("Relu", [inputs[0]], [output], name=output))
        else:
            kept = onnx.NodeProto()
            kept.CopyFrom(node)
            del kept.input[:]
            kept.input.extend(inputs)
            nodes.append(kept)
    used = {name for node in nodes for name in node.input}
    weights += [c for c in graph.initializer if c.name in used]
    end = graph.output[0].name
    if end in renamed:  # the last node takes the output's name
        for node in nodes:
            if node.output[0] == renamed[end]:
                node.output[0] = end
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    del model.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


# -- numpy -----------------------------------------------------------------------------------------


def numpy_net(data: bytes) -> Callable[[Array], Array]:
    """A float net in numpy, as one writes it by hand."""
    graph = read_onnx(data)
    steps = [(node.outputs[0], _numpy_step(node, graph)) for node in graph.nodes]
    source, target = graph.inputs[0].name, graph.outputs[0].name

    def run(x: Array) -> Array:
        values = {source: x}
        for name, step in steps:
            values[name] = step(values)
        return values[target]

    return run


def _numpy_step(node: OnnxNode, graph: OnnxGraph) -> Step:
    x, *rest = node.inputs
    constants = [graph.constants[name] for name in rest]
    if node.op == "Relu":
        return lambda v: np.maximum(v[x], 0)
    if node.op == "Gemm":
        weight, bias = np.ascontiguousarray(constants[0].T), constants[1]
        return lambda v: v[x] @ weight + bias
    if node.op in ("Add", "Sub", "Mul"):
        operator = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}[node.op]
        return lambda v: operator(v[x], constants[0])
    if node.op == "Reshape":
        return lambda v: v[x].reshape(_shape(v[x].shape, constants[0]))
    if node.op == "Transpose":
        return lambda v: v[x].transpose(node.attributes["perm"])
    if node.op == "Conv":
        weight, bias = constants
        flat = np.ascontiguousarray(weight.reshape(len(weight), -1).T)
        (left, right), (stride,) = node.attributes["pads"], node.attributes.get("strides", [1])

        def conv(v: Mapping[str, Any]) -> Array:
            padded = np.pad(v[x], ((0, 0), (0, 0), (left, right)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2], axis=2)
            columns = windows[:, :, ::stride].transpose(0, 2, 1, 3)
            product = columns.reshape(*columns.shape[:2], -1) @ flat + bias
            return product.transpose(0, 2, 1)

        return conv
    raise _unknown(node)


def _unknown(node: OnnxNode) -> ConfigError:
    return ConfigError(
        f"node {node.name or node.outputs[0]} is {node.op}, which the float twins of "
        "bench/float_nets.py do not have: add it there, or measure this net without them"
    )


def _shape(shape: tuple[int, ...], wanted: Array) -> list[int]:
    """ONNX's reshape: 0 keeps an axis."""
    return [shape[i] if n == 0 else int(n) for i, n in enumerate(wanted)]


# -- torch -----------------------------------------------------------------------------------------


def torch_net(data: bytes) -> Any:
    """A float net as a torch module of torch's own layers, in eval mode."""
    import torch
    from torch import nn

    graph = read_onnx(data)

    class Shuffle(nn.Module):
        def __init__(self, channels: int, factor: int) -> None:
            super().__init__()
            self.channels, self.factor = channels, factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, _, length = x.shape
            parts = x.reshape(n, self.channels, self.factor, length).permute(0, 1, 3, 2)
            return parts.reshape(n, self.channels, length * self.factor)

    class Affine(nn.Module):
        def __init__(self, op: str, constant: torch.Tensor) -> None:
            super().__init__()
            self.op = op
            self.register_buffer("constant", constant)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            c = self.constant
            return x * c if self.op == "Mul" else x + c if self.op == "Add" else x - c

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(graph.constants[name]))

    modules: list[nn.Module] = []
    split: list[int] = []
    for node in graph.nodes:
        if node.op == "Relu":
            modules.append(nn.ReLU())
        elif node.op in ("Add", "Sub", "Mul"):
            modules.append(Affine(node.op, tensor(node.inputs[1])))
        elif node.op == "Gemm":
            weight = tensor(node.inputs[1])
            modules.append(_loaded(nn.Linear(weight.shape[1], weight.shape[0]), node, tensor))
        elif node.op == "Conv":
            weight = tensor(node.inputs[1])
            pads = [int(p) for p in node.attributes["pads"]]
            even = pads[0] == pads[1]
            if not even:
                modules.append(nn.ConstantPad1d((pads[0], pads[1]), 0.0))
            conv = nn.Conv1d(
                weight.shape[1],
                weight.shape[0],
                weight.shape[2],
                stride=int(node.attributes.get("strides", [1])[0]),
                padding=pads[0] if even else 0,
            )
            modules.append(_loaded(conv, node, tensor))
        elif node.op == "Reshape" and len(graph.constants[node.inputs[1]]) == 4:
            split = [int(n) for n in graph.constants[node.inputs[1]]]
        elif node.op == "Reshape":
            modules.append(Shuffle(split[1], split[2]))
        elif node.op != "Transpose":
            raise _unknown(node)
    return nn.Sequential(*modules).eval().requires_grad_(False)


def _loaded(module: Any, node: OnnxNode, tensor: Callable[[str], Any]) -> Any:
    import torch

    with torch.no_grad():
        module.weight.copy_(tensor(node.inputs[1]))
        module.bias.copy_(tensor(node.inputs[2]))
    return module
