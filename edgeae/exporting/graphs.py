"""Write dyadic nets as ONNX graphs.

Between layers the tensors are the integers themselves, held in float32; a layer is three nodes::

    Conv (weights int8 * 2^-shift, dequantized from int8 initializers) → Round → Clip

so the convolution lands in units of its output's step, Round is the requantization (half to even in
ONNX as in torch and numpy), Clip is ReLU and saturation in one. Any runtime that computes IEEE
float32 gives the same bits, in any order of summation: see :mod:`edgeae.exporting.certificate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeae.models.dyadic import DyadicConv
from edgeae.models.transforms import LATENT_PEAK, AnalysisNet, SynthesisNet
from edgeae.runtime.causal import CausalLayer, CausalNet
from edgeae.runtime.transform import MAX_INPUT

__all__ = [
    "OPSET",
    "GraphWriter",
    "analysis_graph",
    "causal_graph",
    "synthesis_graph",
    "write_layer",
]

OPSET = 17
IR_VERSION = 8

Array = npt.NDArray[Any]


class GraphWriter:
    """Collects nodes and initializers; every method returns the name of the tensor it made."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._weights: dict[tuple[Any, ...], str] = {}

    def constant(self, name: str, value: Array) -> str:
        """An initializer."""
        self.constants.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """An operation with one output."""
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def weights(self, name: str, integers: Array, exponent: Array) -> str:
        """Integers worth ``2**-exponent[o]``; int8 stays int8 in the file, the same ones once."""
        key = (integers.shape, integers.tobytes(), exponent.tobytes())
        if key not in self._weights:
            self._weights[key] = self._fresh_weights(name, integers, exponent)
        return self._weights[key]

    def _fresh_weights(self, name: str, integers: Array, exponent: Array) -> str:
        scale = np.exp2(-exponent.astype(np.float64)).astype(np.float32)
        if integers.dtype == np.int8 or np.abs(integers).max(initial=0) <= 127:
            q = self.constant(f"{name}_q", integers.astype(np.int8))
            s = self.constant(f"{name}_scale", scale)
            return self.node("DequantizeLinear", [q, s], name, axis=0)
        column = scale.reshape(-1, *([1] * (integers.ndim - 1)))
        return self.constant(name, (integers * column).astype(np.float32))

    def clip(self, x: str, name: str, lo: int, hi: int) -> str:
        """Saturate to ``lo..hi``."""
        low = self.constant(f"{name}_lo", np.array(lo, np.float32))
        high = self.constant(f"{name}_hi", np.array(hi, np.float32))
        return self.node("Clip", [x, low, high], name)

    def requantized(self, x: str, name: str, lo: int, hi: int) -> str:
        """Round half to even, then saturate."""
        return self.clip(self.node("Round", [x], f"{name}_round"), name, lo, hi)

    def reshape(self, x: str, name: str, shape: Sequence[int]) -> str:
        """Reshape; 0 keeps an axis, -1 takes what is left."""
        return self.node("Reshape", [x, self.constant(f"{name}_shape", np.array(shape))], name)

    def shuffled(self, x: str, name: str, channels: int, factor: int) -> str:
        """Pixel shuffle of a series: [N, C * F, T] to [N, C, T * F]."""
        x = self.reshape(x, f"{name}_split", [0, channels, factor, -1])
        x = self.node("Transpose", [x], f"{name}_swap", perm=[0, 1, 3, 2])
        return self.reshape(x, name, [0, channels, -1])

    def model(
        self,
        graph_name: str,
        source: tuple[str, Sequence[int | str]],
        target: tuple[str, Sequence[int | str]],
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """The checked model of what was collected; metadata keys go after ``edgeae.``."""
        return self.model_of_many(graph_name, [source], [target], metadata)

    def model_of_many(
        self,
        graph_name: str,
        sources: Sequence[tuple[str, Sequence[int | str]]],
        targets: Sequence[tuple[str, Sequence[int | str]]],
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """Likewise, with several inputs and outputs."""
        graph = helper.make_graph(
            self.nodes,
            graph_name,
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in sources],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in targets],
            self.constants,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="edgeae"
        )
        model.ir_version = IR_VERSION
        helper.set_model_props(model, {f"edgeae.{k}": v for k, v in metadata.items()})
        onnx.checker.check_model(model, full_check=True)
        return model


def write_layer(
    g: GraphWriter,
    layer: DyadicConv,
    x: str,
    name: str,
    *,
    negate: bool = False,
    order: npt.NDArray[np.int64] | None = None,
    pads: Sequence[int] | None = None,
) -> str:
    """Write a layer on integers; its output's name.

    Args:
        g: where to write.
        layer: quantized, and connected.
        x: its input, integers on the layer's input grid.
        name: of the output.
        negate: write the layer with the opposite sign; its output's range must be symmetric.
        order: for each channel of ``x``, which of the layer's input channels it is; None: its own.
        pads: zeros before each dimension, then after each; None: the layer's own.
    """
    ints = layer.integers()
    grid = layer.out_grid
    # the input is integers: a sum of weight * input integers is worth 2^-(exponent + in_exponent)
    shift = ints.exponent + int(layer.in_exponent) - grid.exponent
    sign = -1 if negate else 1
    integers = ints.weight if order is None else ints.weight[:, order]
    weight = g.weights(f"{name}_weight", sign * integers, shift)
    bias = g.constant(
        f"{name}_bias", (sign * ints.bias * np.exp2(-shift.astype(np.float64))).astype(np.float32)
    )
    left, right = layer.padding
    apart: dict[str, Any] = {}
    if layer.dilation != 1:
        apart["dilations"] = [layer.dilation] * layer.dims
    conv = g.node(
        "Conv",
        [x, weight, bias],
        f"{name}_conv",
        kernel_shape=[layer.kernel] * layer.dims,
        strides=[layer.stride] * layer.dims,
        pads=[left] * layer.dims + [right] * layer.dims if pads is None else list(pads),
        **apart,
    )
    return g.requantized(conv, name, grid.lo, grid.hi)


def analysis_graph(net: AnalysisNet, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """``signal`` float32 [N, C, T] (or [N, C, H, W]), index units, to integer ``latent``."""
    spec = net.spec
    g = GraphWriter()
    peak = net.input_grid.peak
    x = g.node("Sub", ["signal", g.constant("center", net.center.numpy())], "centered")
    x = g.node("Mul", [x, g.constant("unit", (1 / net.unit).numpy())], "scaled")
    x = g.requantized(x, "input", -peak, peak)
    for i, layer in enumerate(net.layers):
        last = i == len(net.layers) - 1
        x = write_layer(g, layer, x, "latent" if last else f"layer{i}")
    space: list[int | str] = ["T"] if spec.dims == 1 else ["H", "W"]
    steps: list[int | str] = ["S"] if spec.dims == 1 else ["h", "w"]
    return g.model(
        "encoder",
        ("signal", ["N", spec.channels, *space]),
        ("latent", ["N", spec.latent, *steps]),
        {**metadata, "role": "encoder", "input_peak": str(MAX_INPUT)},
    )


def synthesis_graph(net: SynthesisNet, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """``latent`` float32 [N, L, S] (or [N, L, h, w]), integers, to integer ``signal``."""
    spec = net.spec
    g = GraphWriter()
    x = "latent"
    for i, (layer, factor) in enumerate(zip(net.layers, net.factors, strict=True)):
        x = write_layer(g, layer, x, f"layer{i}")
        if factor == 1:
            continue
        name = f"shuffle{i}"
        if spec.dims == 2:
            x = g.node("DepthToSpace", [x], name, blocksize=factor, mode="CRD")
            continue
        x = g.shuffled(x, name, layer.weight.shape[0] // factor, factor)
    x = g.node("Mul", [x, g.constant("unit", net.unit.numpy())], "scaled")
    g.node("Add", [x, g.constant("center", net.center.numpy())], "signal")
    space: list[int | str] = ["T"] if spec.dims == 1 else ["H", "W"]
    steps: list[int | str] = ["S"] if spec.dims == 1 else ["h", "w"]
    return g.model(
        "decoder",
        ("latent", ["N", spec.latent, *steps]),
        ("signal", ["N", spec.channels, *space]),
        {**metadata, "role": "decoder", "input_peak": str(LATENT_PEAK)},
    )


def _taps(
    g: GraphWriter,
    x: str,
    name: str,
    offsets: Sequence[int],
    weight: Array,
    exponent: Array,
    bias: Array | None,
) -> str:
    """A convolution over causal offsets; ``weight`` integers [O, K, I]."""
    n_out, k, n_in = weight.shape
    deepest, first = offsets[-1], offsets[0]
    contiguous = tuple(offsets) == tuple(range(first, first + k))
    if deepest:
        pads = g.constant(f"{name}_pads", np.array([0, 0, deepest, 0, 0, 0], np.int64))
        x = g.node("Pad", [x, pads], f"{name}_padded")
    axes = g.constant(f"{name}_axes", np.array([2], np.int64))
    forever = np.array([np.iinfo(np.int64).max], np.int64)

    def back(offset: int, label: str) -> str:
        start = g.constant(f"{label}_start", np.array([deepest - offset], np.int64))
        end = g.constant(f"{label}_end", np.array([-offset], np.int64) if offset else forever)
        return g.node("Slice", [x, start, end, axes], label)

    if contiguous:
        kernel = weight.transpose(0, 2, 1)[:, :, ::-1]
        if first:
            end = g.constant(f"{name}_end", np.array([-first], np.int64))
            start = g.constant(f"{name}_start", np.array([0], np.int64))
            x = g.node("Slice", [x, start, end, axes], f"{name}_past")
    else:
        kernel = weight.reshape(n_out, k * n_in, 1)
        parts = [back(o, f"{name}_tap{o}") for o in offsets]
        x = g.node("Concat", parts, f"{name}_taps", axis=1)
    inputs = [x, g.weights(f"{name}_weight", kernel, exponent)]
    if bias is not None:
        inputs.append(g.constant(f"{name}_bias", bias))
    return g.node("Conv", inputs, f"{name}_conv", kernel_shape=[kernel.shape[2]])


def _scaled_bias(layer: CausalLayer) -> Array:
    return (layer.bias * np.exp2(-layer.shift.astype(np.float64))).astype(np.float32)


def causal_graph(net: CausalNet, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """``features`` float32 [N, I, T], integers, to integer ``out`` [N, O, T], teacher forced.

    Past features are read through offsets of at least 1 only: their weights at offset 0 are zero.
    """
    g = GraphWriter()
    x = "features"
    for i, layer in enumerate(net.layers):
        conv = _taps(
            g, x, f"layer{i}", layer.offsets, layer.weight, layer.shift, _scaled_bias(layer)
        )
        x = g.requantized(conv, f"layer{i}", 0, layer.peak)
    head = net.head
    y = _taps(g, x, "head", head.offsets, head.weight, head.shift, _scaled_bias(head))
    if net.skip_offsets and net.skip_weight is not None and net.skip_shift is not None:
        skip = _taps(g, "features", "skip", net.skip_offsets, net.skip_weight, net.skip_shift, None)
        y = g.node("Add", [y, skip], "sum")
    g.node("Round", [y], "out")
    return g.model(
        metadata.get("role", "prior"),
        ("features", ["N", net.n_inputs, "T"]),
        ("out", ["N", head.n_out, "T"]),
        {**metadata, "input_peak": str(net.feature_peak)},
    )
