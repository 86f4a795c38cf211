"""Write chains of dense layers as ONNX graphs: in float, and quantized in either spelling.

``integers``: tensors are the integers themselves in float32; a layer is Gemm, Round, Clip.
``qdq``: QuantizeLinear and DequantizeLinear around Gemm, which runtimes fuse to int8 kernels.

Of a dyadic chain both give the same bits. :func:`window_graphs` writes the two halves of an
autoencoder for a bundle, in the integers spelling, as convolutions over a signal [N, C, T].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeae.errors import ModelError
from edgeae.exporting.graphs import GraphWriter
from edgeae.models.dense import DenseLayer
from edgeae.quantize.static import IntegerDense, IntegerLayer

__all__ = ["INPUT", "OUTPUT", "float_graph", "integer_graph", "qdq_graph", "window_graphs"]

INPUT, OUTPUT = "input", "output"
_OPERATORS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
_INPUT_PEAK = 1 << 12  # in the input's units; beyond it the input stage saturates anyway
_SIGNAL_PEAK = (1 << 15) - 1  # of a decoded sample, in grid indices

Array = npt.NDArray[Any]


def float_graph(layers: Sequence[DenseLayer], metadata: Mapping[str, str]) -> onnx.ModelProto:
    """``input`` float32 [N, I] to ``output`` float32 [N, O]: Gemm and activations."""
    g = GraphWriter()
    x = INPUT
    for layer in layers:
        name = _label(layer.name)
        last = layer is layers[-1]
        plain = layer.activation == "linear"
        weight = g.constant(f"{name}_weight", layer.weight.astype(np.float32))
        bias = g.constant(f"{name}_bias", layer.bias.astype(np.float32))
        gemm = OUTPUT if last and plain else f"{name}_gemm"
        x = g.node("Gemm", [x, weight, bias], gemm, transB=1)
        if not plain:
            x = g.node(_OPERATORS[layer.activation], [x], OUTPUT if last else name)
    return _model(g, layers, metadata)


def integer_graph(dense: IntegerDense, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """A dyadic chain in the integers spelling; input and output as in :func:`float_graph`.

    Raises:
        ModelError: the chain is not dyadic.
    """
    _must_be_dyadic(dense)
    g = GraphWriter()
    x = g.node("Mul", [INPUT, g.constant("steps", np.array(1 / dense.step, np.float32))], "scaled")
    x = g.requantized(x, "input_integers", -dense.zero, 255 - dense.zero)
    for layer in dense.layers:
        name = _label(layer.name)
        weight, bias = _dyadic_constants(g, layer, name, layer.weight)
        hidden = layer.lo is not None and layer.hi is not None
        x = g.node("Gemm", [x, weight, bias], f"{name}_gemm" if hidden else OUTPUT, transB=1)
        if layer.lo is not None and layer.hi is not None:
            x = g.requantized(x, name, layer.lo, layer.hi)
    return _model(g, dense.layers, {**metadata, "input_peak": str(_INPUT_PEAK)})


def qdq_graph(dense: IntegerDense, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The chain in the QDQ spelling; input and output as in :func:`float_graph`.

    Scales of hidden activations are 1, for each channel was scaled to fill the integers.
    """
    g = GraphWriter()
    step = g.constant("input_step", np.array(dense.step, np.float32))
    zero = g.constant("input_zero", np.array(dense.zero, np.uint8))
    one = g.constant("one", np.array(1, np.float32))
    x = g.node("QuantizeLinear", [INPUT, step, zero], "input_q")
    x = g.node("DequantizeLinear", [x, step, zero], "input_dq")
    zeros = {0: g.constant("unsigned_zero", np.array(0, np.uint8))}
    unit = dense.step
    for layer in dense.layers:
        name = _label(layer.name)
        scale = (layer.scale / unit).astype(np.float32)
        factor = g.constant(f"{name}_scale", scale)
        weight = g.constant(f"{name}_weight_q", layer.weight)
        none = g.constant(f"{name}_weight_zero", np.zeros(len(scale), np.int8))
        weight = g.node("DequantizeLinear", [weight, factor, none], f"{name}_weight", axis=0)
        factor = g.constant(f"{name}_bias_scale", (scale * np.float32(unit)).astype(np.float32))
        bias = g.constant(f"{name}_bias_q", layer.bias)
        bias = g.node("DequantizeLinear", [bias, factor], f"{name}_bias", axis=0)
        hidden = layer.lo is not None
        x = g.node("Gemm", [x, weight, bias], f"{name}_gemm" if hidden else OUTPUT, transB=1)
        if layer.lo is None:
            break
        if layer.lo and layer.lo not in zeros:
            zeros[layer.lo] = g.constant("signed_zero", np.array(0, np.int8))
        ends = [one, zeros[layer.lo]]
        x = g.node("QuantizeLinear", [x, *ends], f"{name}_q")
        x = g.node("DequantizeLinear", [x, *ends], name)
        unit = 1.0
    return _model(g, dense.layers, {**metadata, "input_peak": str(_INPUT_PEAK)})


def window_graphs(
    dense: IntegerDense, split: int, channels: int, index_step: float, metadata: Mapping[str, str]
) -> dict[str, onnx.ModelProto]:
    """The halves of a dyadic autoencoder of windows, as a bundle has them.

    ``encoder.onnx`` maps ``signal`` [N, C, T], grid indices, to ``latent`` [N, L, T / W], the
    integers of the bottleneck; ``decoder.onnx`` maps them back. A window is W time steps of all C
    channels, time steps first.

    Args:
        dense: the chain; its input and output are windows of W * C values.
        split: layers of the encoder.
        channels: C.
        index_step: what one grid index is worth, in the chain's units; a power of two.
        metadata: what the graphs say of themselves.

    Raises:
        ModelError: the chain is not dyadic, or its ends are not windows of C channels.
    """
    _must_be_dyadic(dense)
    width = dense.layers[0].weight.shape[1]
    if width % channels or dense.layers[-1].weight.shape[0] != width:
        raise ModelError(
            f"a net from {width} to {dense.layers[-1].weight.shape[0]} values does not map windows "
            f"of {channels} channels to themselves"
        )
    window = width // channels
    return {
        "encoder.onnx": _encoder(dense, split, channels, window, index_step, metadata),
        "decoder.onnx": _decoder(dense, split, channels, window, index_step, metadata),
    }


def _encoder(
    dense: IntegerDense,
    split: int,
    channels: int,
    window: int,
    index_step: float,
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    g = GraphWriter()
    factor = g.constant("steps", np.array(index_step / dense.step, np.float32))
    x = g.node("Mul", ["signal", factor], "scaled")
    x = g.requantized(x, "input", -dense.zero, 255 - dense.zero)
    for number, layer in enumerate(dense.layers[:split]):
        kernel = layer.weight[:, :, None]
        if number == 0:  # [O, W * C] to [O, C, W]
            kernel = layer.weight.reshape(-1, window, channels).transpose(0, 2, 1)
        x = _convolution(g, layer, x, kernel, "latent" if number == split - 1 else None)
    return g.model(
        "encoder",
        ("signal", ["N", channels, "T"]),
        ("latent", ["N", dense.layers[split - 1].weight.shape[0], "S"]),
        {**metadata, "role": "encoder", "input_peak": str(1 << 23)},
    )


def _decoder(
    dense: IntegerDense,
    split: int,
    channels: int,
    window: int,
    index_step: float,
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    g = GraphWriter()
    x = "latent"
    for layer in dense.layers[split:-1]:
        x = _convolution(g, layer, x, layer.weight[:, :, None])
    last = dense.layers[-1]
    by_channel = np.arange(window * channels).reshape(window, channels).T.reshape(-1)
    ordered = IntegerLayer(
        name=last.name,
        weight=last.weight[by_channel],
        bias=last.bias[by_channel],
        scale=last.scale[by_channel] / index_step,
        lo=-_SIGNAL_PEAK,
        hi=_SIGNAL_PEAK,
    )
    x = _convolution(g, ordered, x, ordered.weight[:, :, None])
    x = g.reshape(x, "shuffle_split", [0, channels, window, -1])
    x = g.node("Transpose", [x], "shuffle_swap", perm=[0, 1, 3, 2])
    g.reshape(x, "signal", [0, channels, -1])
    peak = dense.layers[split - 1].hi
    return g.model(
        "decoder",
        ("latent", ["N", dense.layers[split].weight.shape[1], "S"]),
        ("signal", ["N", channels, "T"]),
        {**metadata, "role": "decoder", "input_peak": str(peak)},
    )


def _convolution(
    g: GraphWriter, layer: IntegerLayer, x: str, kernel: Array, name: str | None = None
) -> str:
    label = _label(layer.name)
    weight, bias = _dyadic_constants(g, layer, label, kernel)
    x = g.node(
        "Conv",
        [x, weight, bias],
        f"{label}_conv",
        kernel_shape=[kernel.shape[2]],
        strides=[kernel.shape[2]],
        pads=[0, 0],
    )
    assert layer.lo is not None
    assert layer.hi is not None
    return g.requantized(x, name or label, layer.lo, layer.hi)


def _dyadic_constants(
    g: GraphWriter, layer: IntegerLayer, name: str, weight: Array
) -> tuple[str, str]:
    """Weight and bias in output steps; the weights stay int8 in the file."""
    exponent = -np.log2(layer.scale).astype(np.int64)
    return (
        g.weights(f"{name}_weight", np.ascontiguousarray(weight), exponent),
        g.constant(f"{name}_bias", (layer.bias * layer.scale).astype(np.float32)),
    )


def _must_be_dyadic(dense: IntegerDense) -> None:
    if not dense.dyadic:
        raise ModelError("a chain with free scales is not exact; only the QDQ spelling can hold it")


def _label(name: str) -> str:
    """A layer's name as a tensor's; the graph's own names are never hit."""
    return f"layer_{name}"


def _model(
    g: GraphWriter, layers: Sequence[DenseLayer | IntegerLayer], metadata: Mapping[str, str]
) -> onnx.ModelProto:
    return g.model(
        "autoencoder",
        (INPUT, ["N", layers[0].weight.shape[1]]),
        (OUTPUT, ["N", layers[-1].weight.shape[0]]),
        {**metadata, "role": "autoencoder"},
    )
