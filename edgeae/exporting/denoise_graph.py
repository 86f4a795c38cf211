"""Write denoising nets as ONNX graphs: ``denoiser.onnx`` of a bundle.

::

    signal, state_0..k ─► StreamNet ─► denoised, next_state_0..k
    image, sigma       ─► ImageNet  ─► denoised

All tensors are integers held in float32, the states too: a state is what a layer looks back on,
put before its input along time. The graph has no memory of its own, so a runtime cannot lose it,
and a stream cut anywhere gives the bits of the whole. ``signal`` is in index units; ``denoised``
likewise, or a mask's integers where the net estimates one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from edgeae.exporting.graphs import GraphWriter, write_layer
from edgeae.exporting.mask_graph import write_planes
from edgeae.models.denoise import FINE, ImageNet, StreamNet
from edgeae.models.mask import MaskNet
from edgeae.runtime.transform import MAX_INPUT

__all__ = ["StateTensor", "image_graph", "state_tensors", "stream_graph"]

Ends = list[tuple[str, Sequence[int | str]]]


@dataclass(frozen=True, kw_only=True)
class StateTensor:
    """One state tensor [N, C, L] of a stream graph.

    Attributes:
        name: of the input; the output is ``next_`` and the name.
        shape: (C, L).
        peak: its numbers are integers of at most this magnitude.
    """

    name: str
    shape: tuple[int, int]
    peak: int


def state_tensors(net: StreamNet) -> list[StateTensor | None]:
    """What the first and each dilated layer of a connected net looks back on; None for nothing."""
    trunk = net.trunk.first.out_grid.peak
    peaks = [net.spec.input_peak, *([trunk] * len(net.spec.dilations))]
    if isinstance(net, MaskNet):
        peaks += [int(layer.in_peak) for layer in net.plane_layers]
    found: list[StateTensor | None] = []
    count = 0
    for shape, peak in zip(net.spec.state_shapes, peaks, strict=True):
        if shape[1] == 0:
            found.append(None)
            continue
        found.append(StateTensor(name=f"state_{count}", shape=shape, peak=peak))
        count += 1
    return found


def stream_graph(net: StreamNet, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """``signal`` float32 [N, C, T], T a multiple of the hop, and the state, to ``denoised``.

    Args:
        net: quantized.
        metadata: what the graph says of itself.
    """
    spec = net.spec
    g = GraphWriter()
    x = g.node("Sub", ["signal", g.constant("center", net.center.numpy())], "centered")
    x = g.node("Mul", [x, g.constant("unit", (1 / net.unit).numpy())], "scaled")
    x = g.requantized(x, "input", -spec.input_peak, spec.input_peak)
    states = state_tensors(net)
    held = [state for state in states if state is not None]
    features = x
    x = _behind(g, states[0], x, "input")
    h = write_layer(g, net.trunk.first, x, "trunk0")
    top = net.trunk.first.out_grid.hi
    for i, (layer, state) in enumerate(zip(net.trunk.layers, states[1:], strict=False), start=1):
        more = write_layer(g, layer, _behind(g, state, h, f"trunk{i - 1}"), f"layer{i}")
        h = g.clip(g.node("Add", [h, more], f"sum{i}"), f"trunk{i}", 0, top)
    if isinstance(net, MaskNet):
        past = [state.name for state in held[-len(net.plane_layers) :]]
        write_planes(g, net, features, h, past)
    else:
        _write_estimate(g, net, h)
    inputs: Ends = [("signal", ["N", spec.n_in, "T"])]
    outputs: Ends = [("denoised", ["N", spec.n_out, "T"])]
    inputs += [(s.name, ["N", *s.shape]) for s in held]
    outputs += [(f"next_{s.name}", ["N", *s.shape]) for s in held]
    peaks = {f"input_peak.{s.name}": str(s.peak) for s in held}
    about = {**metadata, "role": "denoiser", "input_peak": str(MAX_INPUT), **peaks}
    return g.model_of_many("denoiser", inputs, outputs, about)


def _write_estimate(g: GraphWriter, net: StreamNet, h: str) -> None:
    """``denoised`` from the trunk's last sum."""
    spec = net.spec
    mask = spec.out_exponent is not None
    x = write_layer(g, net.last, h, "denoised" if mask and spec.hop == 1 else "estimate")
    if spec.hop > 1:
        x = g.shuffled(x, "denoised" if mask else "shuffled", spec.n_out, spec.hop)
    if not mask:
        x = g.node("Mul", [x, g.constant("out_unit", net.unit.numpy())], "unscaled")
        g.node("Add", [x, "center"], "denoised")


def _behind(g: GraphWriter, state: StateTensor | None, x: str, name: str) -> str:
    """A tensor with its state before it along time; writes the state after it."""
    if state is None:
        return x
    seen = g.node("Concat", [state.name, x], f"{name}_seen", axis=2)
    begin = g.constant(f"{name}_begin", np.array([-state.shape[1]], np.int64))
    end = g.constant(f"{name}_end", np.array([np.iinfo(np.int64).max], np.int64))
    axis = g.constant(f"{name}_axis", np.array([2], np.int64))
    g.node("Slice", [seen, begin, end, axis], f"next_{state.name}")
    return seen


def image_graph(net: ImageNet, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """``image`` float32 [N, C, H, W], grey levels, and ``sigma`` [N, 1, H/2, W/2] to ``denoised``.

    Args:
        net: quantized; H and W are even.
        metadata: what the graph says of itself.
    """
    spec = net.spec
    g = GraphWriter()
    peak = int(net.trunk.first.in_peak)
    image = g.requantized("image", "levels", -peak, peak)
    x = g.node("SpaceToDepth", [image], "halved", blocksize=2)
    if spec.sigma:
        plane = g.requantized("sigma", "plane", 0, peak)
        x = g.node("Concat", [x, plane], "seen", axis=1)
    order = _channel_order(spec.channels, int(spec.sigma))
    x = write_layer(g, net.trunk.first, x, "trunk0", order=order)
    top = net.trunk.first.out_grid.hi
    for i, layer in enumerate(net.trunk.layers, start=1):
        more = write_layer(g, layer, x, f"layer{i}")
        x = g.clip(g.node("Add", [x, more], f"sum{i}"), f"trunk{i}", 0, top)
    x = write_layer(g, net.last, x, "noise_halved", negate=True)
    x = g.node("DepthToSpace", [x], "noise_fine", blocksize=2, mode="CRD")
    x = g.node("Mul", [x, g.constant("fine", np.array(2.0**-FINE, np.float32))], "noise")
    x = g.node("Add", [image, x], "difference")
    g.requantized(x, "denoised", 0, spec.peak)
    inputs: Ends = [("image", ["N", spec.channels, "H", "W"])]
    about = {**metadata, "role": "denoiser", "input_peak": str(peak)}
    if spec.sigma:
        inputs.append(("sigma", ["N", 1, "h", "w"]))
        about["input_peak.sigma"] = str(peak)
    outputs: Ends = [("denoised", ["N", spec.channels, "H", "W"])]
    return g.model_of_many("denoiser", inputs, outputs, about)


def _channel_order(channels: int, more: int) -> npt.NDArray[np.int64]:
    """For each channel that SpaceToDepth gives (phase, channel), torch's place (channel, phase)."""
    halved = np.arange(4 * channels).reshape(channels, 4).T.reshape(-1)
    return np.concatenate([halved, 4 * channels + np.arange(more)])
