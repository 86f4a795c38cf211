"""A quantized run becomes a bundle: graphs, integer priors, certificate, golden vectors, card."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from edgeae.errors import ModelError
from edgeae.exporting.card import model_card
from edgeae.exporting.certificate import certify
from edgeae.exporting.graphs import analysis_graph, causal_graph, synthesis_graph
from edgeae.footprint.devices import load_device
from edgeae.footprint.estimate import estimate
from edgeae.footprint.model import bundle_footprint
from edgeae.models.dyadic import dyadic_layers
from edgeae.models.integer import runtime_latent_prior, runtime_prior
from edgeae.models.sample_prior import SamplePriorNet
from edgeae.models.transforms import LATENT_PEAK
from edgeae.quantize.adaptive import fit_adaptive
from edgeae.quantize.dyadic import QuantizedModel, is_quantized, load_quantized, quantize
from edgeae.quantize.tables import count_latent_cells, count_latent_shape, count_sample_shape
from edgeae.runtime.any_prior import AnyPrior
from edgeae.runtime.bundle import Bundle, pack_coder, seal, write_bundle
from edgeae.runtime.sample_prior import SamplePrior
from edgeae.train.phases import BASE_STEP, Signal, WindowCode, measure_window_code
from edgeae.train.recipe import Recipe, recipe_to_dict
from edgeae.train.run import Progress, RunFolder
from edgeae.train.setup import Setup
from edgeae.train.training import load_training_data, silent

__all__ = ["check_device", "codec_part", "export_run", "prior_graphs"]

RMSE_GUARD = 4.0  # a lossy frame this much worse than validation is coded otherwise
GOLDEN_ITEMS = 1024


def export_run(
    run: RunFolder,
    out: str | os.PathLike[str],
    *,
    progress: Progress = silent,
    threads: int | None = None,
) -> Bundle:
    """Export a run as a bundle; quantizes it first where that is not done.

    Args:
        run: a trained run.
        out: the bundle's folder, or a file ending in ``.zip``.
        progress: called by the quantization.
        threads: of torch; None leaves them as they are.

    Returns:
        The bundle, loaded back from ``out``.

    Raises:
        ModelError: the run is not trained, or the certificate does not pass.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    if run.recipe().denoise is not None:
        from edgeae.exporting.denoise_run import export_denoiser_run

        return export_denoiser_run(run, out, progress=progress, threads=torch.get_num_threads())
    if run.recipe().model.family == "tutorial":
        from edgeae.exporting.tutorial import export_tutorial

        return export_tutorial(run, out)
    if not is_quantized(run):
        quantize(run, progress=progress, threads=torch.get_num_threads())
    parts = load_training_data(run)
    model = load_quantized(run)
    graphs: dict[str, onnx.ModelProto] = {}
    about = {"bundle": model.recipe.name}
    latent = None
    metrics: dict[str, Any] = {}
    if model.code is not None:
        latent_shape, latent_freq = None, None
        if model.code.prior.has_cells:
            latent_freq = count_latent_cells(model.code, parts.train, model.recipe.train.step_range)
        else:
            latent_shape = count_latent_shape(model.code, parts.train)
        latent = runtime_latent_prior(model.code.prior, latent_shape, latent_freq)
        graphs["encoder.onnx"] = analysis_graph(model.code.analysis, about)
        graphs["decoder.onnx"] = synthesis_graph(model.code.synthesis, about)
        if latent.net is not None:
            graphs["prior.onnx"] = causal_graph(latent.net, {**about, "role": "prior"})
        metrics["window_code"] = _window_metrics(model.code, parts.validation)
    priors = []
    for i, net in enumerate(model.priors):
        shape = None
        if isinstance(net, SamplePriorNet):
            shape = count_sample_shape(net, parts.train, model.recipe.sample_prior[i], model.code)
        prior = runtime_prior(net, shape)
        if isinstance(prior, SamplePrior):
            spec = model.recipe.sample_prior[i]
            prior = fit_adaptive(prior, (parts.train, parts.validation), spec, model.code)
        priors.append(prior)
        graphs |= prior_graphs(prior, i, about)
    certificate = [
        {"graph": name, **layer.to_json()}
        for name, graph in sorted(graphs.items())
        for layer in certify(graph)
    ]
    metrics["training_seconds"] = round(run.seconds(), 1)
    metrics["quantization"] = run.read_json("quantize.json")
    cost = cost_of(model, parts.setup)
    manifest: dict[str, Any] = {
        "name": model.recipe.name,
        "task": "codec",
        "exact": True,
        "codec": codec_part(
            model, parts.setup, metrics.get("window_code", {}).get("channel_rmse", [])
        ),
        "setup": parts.setup.to_json(),
        "certificate": certificate,
        "metrics": metrics,
        "cost": cost,
        "recipe": _published(model.recipe),
        "data": parts.setup.hashes,
    }
    files = {name: graph.SerializeToString() for name, graph in graphs.items()}
    files["coder.npz"] = pack_coder(latent, priors)
    _check_budgets(model.recipe, cost, files)
    check_device(model.recipe, Bundle.from_files(seal(manifest, files)))
    files["README.md"] = model_card(manifest, files).encode()
    return write_bundle(
        out, manifest, files, golden_signal=_golden_signal(parts.validation, parts.setup)
    )


def prior_graphs(
    prior: AnyPrior, number: int, about: Mapping[str, str]
) -> dict[str, onnx.ModelProto]:
    """The nets of a sample prior as graphs, by file name, for study and other runtimes."""
    nets = {f"sample_prior_{number}": prior.net}
    if isinstance(prior, SamplePrior) and prior.adaptive is not None and prior.adaptive.learnt:
        nets[f"sample_prior_{number}_mixture"] = prior.adaptive.learnt.net
    return {
        f"{role}.onnx": causal_graph(net, {**about, "role": role}) for role, net in nets.items()
    }


def _published(recipe: Recipe) -> dict[str, Any]:
    """The recipe for the manifest: files by name, not by their path on this machine."""
    values = recipe_to_dict(recipe)
    for key in ("source", "test"):
        if values["data"].get(key):
            values["data"][key] = os.path.basename(os.path.normpath(values["data"][key]))
    return values


def codec_part(
    model: QuantizedModel, setup: Setup, channel_rmse: Sequence[float]
) -> dict[str, Any]:
    """The manifest's ``codec`` part: what a runtime must know of the model."""
    recipe = model.recipe
    signal: dict[str, Any] = {
        "kind": setup.kind,
        "channels": setup.channels,
        "dtype": setup.dtype,
        "rate_hz": setup.rate_hz,
        "unit": setup.unit,
        "grids": [list(g) for g in setup.grids],
        "channel_names": list(setup.names),
    }
    if setup.kind == "image":
        signal |= {"height": setup.shape[0], "width": setup.shape[1]}
    net = None
    if model.code is not None:
        spec = model.code.analysis.spec
        low, high = recipe.train.step_range
        net = {
            "stride": spec.stride,
            "latent_channels": spec.latent,
            "latent_shape": [s // spec.stride for s in setup.shape] if setup.shape else None,
            "fixed_window": spec.window or None,
            "latent_max": LATENT_PEAK,
            "steps": {"min": max(1, low // 4), "max": high * 4, "default": int(BASE_STEP)},
            "max_rmse": [round(RMSE_GUARD * max(rmse, 0.5), 3) for rmse in channel_rmse],
            "context": _context(model.code) if setup.kind == "series" else None,
        }
    return {
        "signal": signal,
        "net": net,
        "sample_priors": [
            {
                "delta_min": min(p.steps),
                "delta_max": 3 * max(p.steps),
                "has_code": p.code,
            }
            for p in recipe.sample_prior
        ],
    }


def _context(code: WindowCode) -> list[int]:
    """How far the nets look to each side at most: analysis in items, synthesis in latents."""
    reach, rate = 0, 1
    for layer in code.analysis.layers:
        reach += (layer.kernel - 1) * rate
        rate *= layer.stride
    back, grown = 0.0, 1
    for layer, factor in zip(code.synthesis.layers, code.synthesis.factors, strict=True):
        back += (layer.kernel - 1) / grown
        grown *= factor
    return [reach, math.ceil(back)]


def _window_metrics(code: WindowCode, validation: Signal) -> dict[str, Any]:
    bits, channel_mse = measure_window_code(code, validation)
    return {
        "bits_per_sample": round(bits, 5),
        "rmse": round(float(channel_mse.mean().sqrt()), 4),
        "channel_rmse": [round(v, 4) for v in channel_mse.sqrt().tolist()],
    }


def cost_of(model: QuantizedModel, setup: Setup) -> dict[str, float]:
    """Parameters and multiply-accumulates per sample (of one channel) of each part."""
    cost: dict[str, float] = {}
    if model.code is not None:
        spec = model.code.analysis.spec
        per_item = 1.0
        macs = 0.0
        for layer in model.code.analysis.layers:
            per_item /= layer.stride**layer.dims
            macs += layer.weight.numel() * per_item
        cost["encoder_macs_per_sample"] = round(macs / spec.channels, 1)
        macs, rate = 0.0, 1.0 / spec.stride**spec.dims
        for layer, factor in zip(
            model.code.synthesis.layers, model.code.synthesis.factors, strict=True
        ):
            macs += layer.weight.numel() * rate
            rate *= factor**layer.dims
        cost["decoder_macs_per_sample"] = round(macs / spec.channels, 1)
        prior = sum(layer.weight.numel() for layer in dyadic_layers(model.code.prior))
        cost["prior_macs_per_sample"] = round(prior / spec.stride**spec.dims / spec.channels, 1)
        for name, part in (
            ("encoder", model.code.analysis),
            ("decoder", model.code.synthesis),
            ("prior", model.code.prior),
        ):
            cost[f"{name}_parameters"] = sum(p.numel() for p in part.parameters())
    for i, net in enumerate(model.priors):
        macs = sum(layer.weight.numel() for layer in dyadic_layers(net))
        cost[f"sample_prior_{i}_parameters"] = sum(p.numel() for p in net.parameters())
        cost[f"sample_prior_{i}_macs_per_sample"] = round(macs / setup.channels, 1)
    return cost


def _check_budgets(recipe: Recipe, cost: dict[str, float], files: dict[str, bytes]) -> None:
    budgets = recipe.budgets
    device = [k for k in cost if not k.startswith("decoder")]
    found = {
        "max_parameters": sum(cost[k] for k in device if k.endswith("_parameters")),
        "max_macs_per_sample": sum(cost[k] for k in device if k.endswith("_macs_per_sample")),
        "max_bundle_bytes": sum(len(v) for v in files.values()),
    }
    for name, value in found.items():
        limit = getattr(budgets, name)
        if limit is not None and value > limit:
            raise ModelError(
                f"budgets.{name} is {limit:g} and the model needs {value:g}; "
                "make the nets smaller, or raise the budget in the recipe"
            )


def check_device(recipe: Recipe, bundle: Bundle) -> None:
    """Hold the recipe's device budgets against the model as it will be shipped.

    Raises:
        ModelError: a budget is broken.
    """
    budgets = recipe.budgets
    if budgets.device is None:
        return
    model = bundle_footprint(bundle)
    found = estimate(model, model.use(), load_device(budgets.device))
    broken = budgets.device_budget().breaches(found)
    if broken:
        raise ModelError(
            f"over budget on {'; '.join(map(str, broken))}: make the nets smaller, or raise the "
            "budget in the recipe (edgeae report shows what takes how much)"
        )


def _golden_signal(validation: Signal, setup: Setup) -> npt.NDArray[np.int32]:
    if setup.kind == "image":
        images = validation.segments[0][:2].permute(0, 2, 3, 1)
        return np.ascontiguousarray(images.numpy().astype(np.int32))
    longest = max(validation.segments, key=lambda s: s.shape[-1])
    return np.ascontiguousarray(longest[:, :GOLDEN_ITEMS].T.numpy().astype(np.int32))
