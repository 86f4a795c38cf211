"""A quantized denoising net becomes a bundle: graph, certificate, golden vectors, card."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeae.errors import ModelError
from edgeae.exporting.card import denoiser_card
from edgeae.exporting.certificate import certify, input_peaks
from edgeae.exporting.denoise_graph import image_graph, state_tensors, stream_graph
from edgeae.models.denoise import ImageNet, StreamNet
from edgeae.models.dyadic import dyadic_layers
from edgeae.models.mask import MaskNet
from edgeae.runtime.bundle import Bundle, write_bundle
from edgeae.runtime.stft import StftSpec

__all__ = ["denoise_part", "export_denoiser"]

_GOLDEN_STEPS = 64
_GOLDEN_SIDE = 32


def export_denoiser(
    net: StreamNet | ImageNet,
    out: str | os.PathLike[str],
    *,
    name: str,
    signal: Mapping[str, Any],
    front_end: Mapping[str, Any] | None = None,
    level: Sequence[float] | None = None,
    golden: npt.NDArray[Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Bundle:
    """Export a denoiser.

    Args:
        net: quantized and connected.
        out: the bundle's folder, or a file ending in ``.zip``.
        name: of the model.
        signal: the manifest's ``signal``: ``channels``, ``rate_hz``, ``dtype``, ``unit``,
            ``grids``, ``channel_names``; what is missing is filled in.
        front_end: of speech, what stands between samples and net (``StftSpec.to_json()``).
        level: of a series: how far the training signals spread within a second, per channel, in
            index units; None where it is not known.
        golden: what the net is given for the golden vector, whole numbers [C, T] or [N, C, H, W];
            None for noise. It ends up in the bundle, so it should be made up rather than recorded.
        metrics: what was measured, for the manifest.
        recipe: what it was made from; ``description`` opens the card.
        data: SHA-256 of the data, by name.

    Returns:
        The bundle, loaded back from ``out``.

    Raises:
        ModelError: the net is not quantized, or its certificate does not pass.
    """
    if not all(layer.quantized for layer in dyadic_layers(net)):
        raise ModelError(f"{name}: the net is not quantized: calibrate, connect and set_quantized")
    about = {"bundle": name}
    graph = image_graph(net, about) if isinstance(net, ImageNet) else stream_graph(net, about)
    certificate = [{"graph": "denoiser.onnx", **layer.to_json()} for layer in certify(graph)]
    manifest: dict[str, Any] = {
        "name": name,
        "task": "denoise",
        "exact": True,
        "denoise": denoise_part(net, graph, signal, front_end, level),
        "certificate": certificate,
        "metrics": dict(metrics or {}),
        "cost": _cost(net, front_end),
        "recipe": dict(recipe or {}),
        "data": dict(data or {}),
    }
    files = {"denoiser.onnx": graph.SerializeToString()}
    files["README.md"] = denoiser_card(manifest, files).encode()
    x = _golden(net) if golden is None else np.asarray(golden)
    return write_bundle(out, manifest, files, golden_signal=x.astype(np.int32))


def denoise_part(
    net: StreamNet | ImageNet,
    graph: onnx.ModelProto,
    signal: Mapping[str, Any],
    front_end: Mapping[str, Any] | None = None,
    level: Sequence[float] | None = None,
) -> dict[str, Any]:
    """The manifest's ``denoise`` part: what a runtime must know of the model.

    Args:
        net: connected.
        graph: what it was written as.
        signal: as of `export_denoiser`.
        front_end: likewise.
        level: likewise.
    """
    return {
        "signal": _signal_part(net, signal, speech=front_end is not None),
        **(_image_part(net) if isinstance(net, ImageNet) else _stream_part(net, front_end)),
        "input_peak": int(input_peaks(graph)[graph.graph.input[0].name]),
        "front_end": None if front_end is None else dict(front_end),
        **({} if level is None else {"level": [round(float(v), 3) for v in level]}),
    }


def _signal_part(
    net: StreamNet | ImageNet, signal: Mapping[str, Any], *, speech: bool
) -> dict[str, Any]:
    image = isinstance(net, ImageNet)
    channels = net.spec.channels if isinstance(net, ImageNet) else net.spec.n_in
    found: dict[str, Any] = {
        "kind": "image" if image else "series",
        "channels": 1 if speech else channels,
        "dtype": "uint8" if image else "float32" if speech else "int16",
        "rate_hz": None,
        "unit": "",
        "grids": [[1, 1]],
        "channel_names": [],
    }
    if image:
        found |= {"height": None, "width": None}
    return found | dict(signal)


def _stream_part(net: StreamNet, front_end: Mapping[str, Any] | None) -> dict[str, Any]:
    spec = net.spec
    delay, center = spec.delay + spec.hop - 1, list(spec.center)
    if front_end is not None:
        stft = StftSpec.from_json(front_end)
        delay = stft.delay + spec.delay * stft.hop + spec.hop * stft.hop - 1
        center = [0]
    if len(set(center)) == 1:
        center = center[:1]
    return {
        "family": "stream" if front_end is None else "speech",
        "hop": spec.hop,
        "delay_samples": delay,
        "center": center,
        "state": [
            {"name": state.name, "shape": list(state.shape), "peak": state.peak}
            for state in state_tensors(net)
            if state is not None
        ],
        "output_exponent": spec.out_exponent,
        "sigma": False,
    }


def _image_part(net: ImageNet) -> dict[str, Any]:
    return {
        "family": "image",
        "hop": 2,
        "delay_samples": 0,
        "center": [0],
        "state": [],
        "output_exponent": None,
        "sigma": net.spec.sigma,
    }


def _cost(net: StreamNet | ImageNet, front_end: Mapping[str, Any] | None) -> dict[str, float]:
    weights = sum(layer.weight.numel() for layer in dyadic_layers(net))
    if isinstance(net, ImageNet):
        return {"parameters": _parameters(net), "macs_per_pixel": weights / 4}
    if isinstance(net, MaskNet):  # the planes' weights work on every band
        weights += (net.spec.n_in - 1) * sum(p.weight.numel() for p in net.plane_layers)
    hop = net.spec.hop * (1 if front_end is None else StftSpec.from_json(front_end).hop)
    return {"parameters": _parameters(net), "macs_per_sample": round(weights / hop, 1)}


def _parameters(net: StreamNet | ImageNet) -> int:
    return sum(p.numel() for p in net.parameters())


def _golden(net: StreamNet | ImageNet) -> npt.NDArray[np.int32]:
    """A slow wave and noise of the input's whole range; an image of steps and noise."""
    rng = np.random.default_rng(0)
    if isinstance(net, ImageNet):
        shape = (2, net.spec.channels, _GOLDEN_SIDE, _GOLDEN_SIDE)
        steps = np.kron(rng.integers(0, 200, (*shape[:2], 4, 4)), np.ones((8, 8)))
        return np.clip(np.rint(steps + rng.normal(0, 25, shape)), 0, 255).astype(np.int32)
    spec = net.spec
    length = _GOLDEN_STEPS * spec.hop
    unit = np.broadcast_to(2.0 ** np.array(spec.shift), spec.n_in)[:, None]
    center = np.broadcast_to(np.array(spec.center), spec.n_in)[:, None]
    wave = np.sin(np.linspace(0, 12, length)) * 0.3 + rng.normal(0, 0.2, (spec.n_in, length))
    found: npt.NDArray[np.int32] = np.rint(wave * spec.input_peak * unit + center).astype(np.int32)
    return found
