"""What a bundle holds: bytes of its files, operations and parameters of its nets and priors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeae.footprint.graph import describe_graph
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.causal import CausalNet
from edgeae.runtime.transform import n_steps

__all__ = ["artefacts_of", "nets_of", "priors_of"]

_NEEDED = ("manifest.json", "encoder.onnx", "decoder.onnx", "coder.npz")


def artefacts_of(bundle: Bundle) -> dict[str, Any]:
    """Bytes of each file; of all; and of those that a device reads to code."""
    sizes = {name: len(content) for name, content in sorted(bundle.files.items())}
    return {
        "files_bytes": sizes,
        "total_bytes": sum(sizes.values()),
        "device_bytes": sum(sizes.get(name, 0) for name in _NEEDED),
    }


def nets_of(bundle: Bundle, shapes: Mapping[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """Multiply-accumulates, parameters and memory of each graph for an input of a given shape."""
    rows = []
    for name, shape in shapes.items():
        found = describe_graph(bundle.files[name], shape, name=name)
        rows.append(
            {
                "net": name,
                "input_shape": list(shape),
                "macs": found.macs,
                "parameters": found.n_parameters,
                "weight_bytes": found.weight_bytes,
                "arena_bytes": found.arena_bytes,
            }
        )
    return rows


def priors_of(bundle: Bundle, frame_items: int) -> list[dict[str, Any]]:
    """The same of the priors, which run step by step: all channels of one latent or sample."""
    spec = bundle.signal
    n_samples = frame_items
    if spec.is_image:
        n_samples = frame_items * (spec.height or 1) * (spec.width or 1)
    rows = []
    latent = bundle.latent_prior
    if latent is not None:
        groups, length = (frame_items, 0) if spec.is_image else (1, frame_items)
        rows.append(_prior("latent prior", latent.net, groups * n_steps(bundle, length)))
    for number, prior in enumerate(bundle.sample_priors):
        rows.append(_prior(f"sample prior {number}", prior.net, n_samples))
    return rows


def _prior(name: str, net: CausalNet | None, steps: int) -> dict[str, Any]:
    macs = parameters = 0
    if net is not None:
        layers = (*net.layers, net.head)
        weights = [layer.weight for layer in layers]
        if net.skip_weight is not None:
            weights.append(net.skip_weight)
        macs = sum(int(weight.size) for weight in weights)
        parameters = macs + sum(int(layer.bias.size) for layer in layers)
    return {
        "prior": name,
        "macs_per_step": macs,
        "steps_per_frame": steps,
        "macs": macs * steps,
        "parameters": parameters,
    }
