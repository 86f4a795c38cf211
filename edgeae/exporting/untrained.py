"""A recipe's model before it is trained: the same shapes and grids, with weights of chance.

Footprints depend on shapes, not on weights, so a model can be judged before a minute of training.
Only what is read off the data (channels, grids, ranges) must be known: the data are looked at.
"""

from __future__ import annotations

import dataclasses
import os

import torch

from edgeae.errors import ConfigError
from edgeae.exporting.bundle import codec_part
from edgeae.exporting.denoise import denoise_part
from edgeae.exporting.denoise_graph import image_graph, stream_graph
from edgeae.exporting.graphs import analysis_graph, synthesis_graph
from edgeae.footprint.model import ModelFootprint, bundle_footprint
from edgeae.models.denoise import ImageNet, StreamNet
from edgeae.models.dyadic import dyadic_layers, set_quantized
from edgeae.models.integer import runtime_latent_prior, runtime_prior
from edgeae.quantize.dyadic import QuantizedModel
from edgeae.runtime.bundle import Bundle, pack_coder, seal
from edgeae.train.build import build_prior, build_window_code
from edgeae.train.datasets import load_dataset
from edgeae.train.denoise_data import stream_spec
from edgeae.train.denoise_images import build_image_net
from edgeae.train.denoise_recipe import DenoiseRecipe
from edgeae.train.denoise_speech import FRONT, mask_spec, speech_net
from edgeae.train.recipe import Recipe
from edgeae.train.setup import Setup, signal_of, study
from edgeae.train.speech import RATE_HZ
from edgeae.train.training import read_part

__all__ = ["recipe_footprint", "untrained_bundle", "untrained_denoiser"]

_PEAK = 8.0  # of an activation, as a calibration would find it


def recipe_footprint(
    recipe: Recipe, *, data: str | None = None, window: int | None = None
) -> ModelFootprint:
    """What a recipe's model will cost.

    Args:
        recipe: the recipe.
        data: path or data set name instead of the recipe's ``data.source``.
        window: time steps or images per window; None takes a radio frame, a denoiser's hop or one
            image.

    Raises:
        ConfigError: a model that cannot be built, or no data named.
        SignalError: the data cannot be used.
    """
    if data is not None:
        source = os.path.abspath(data) if os.path.exists(data) else data
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, source=source))
    if not recipe.data.source:
        raise ConfigError(f"recipe {recipe.name!r} names no data; give --data PATH")
    if recipe.model.family == "tutorial":
        raise ConfigError(
            f"recipe {recipe.name!r} is of the family 'tutorial', which onnxruntime quantizes once "
            "it is trained: train and export it, then report the bundle"
        )
    if recipe.denoise is not None:
        bundle = untrained_denoiser(recipe, recipe.denoise)
    else:
        bundle = untrained_bundle(recipe, study(read_part(recipe, "train")))
    found = bundle_footprint(bundle, window=window)
    return dataclasses.replace(found, kind="recipe", file_bytes=None, exact=True)


def untrained_bundle(recipe: Recipe, setup: Setup) -> Bundle:
    """A bundle in memory with a recipe's nets and weights of chance; it codes nothing useful.

    Raises:
        ConfigError: the recipe's nets do not fit the data.
    """
    torch.manual_seed(recipe.seed)
    code = build_window_code(recipe, setup)
    nets = [build_prior(spec, setup) for spec in recipe.sample_prior]
    model = QuantizedModel(recipe=recipe, code=code, priors=tuple(nets))
    files: dict[str, bytes] = {}
    latent = None
    for net in (*([] if code is None else [code]), *nets):
        for layer in dyadic_layers(net):
            layer.seen_peak.fill_(_PEAK)
    if code is not None:
        code.analysis.connect()
        code.synthesis.connect()
        code.prior.connect()
        latent = runtime_latent_prior(code.prior)
        files["encoder.onnx"] = analysis_graph(code.analysis, {}).SerializeToString()
        files["decoder.onnx"] = synthesis_graph(code.synthesis, {}).SerializeToString()
    for net in nets:
        net.connect()
    files["coder.npz"] = pack_coder(latent, [runtime_prior(net) for net in nets])
    manifest = {
        "name": recipe.name,
        "exact": False,
        "codec": codec_part(model, setup, [1.0] * setup.channels),
    }
    return Bundle.from_files(seal(manifest, files))


def untrained_denoiser(recipe: Recipe, table: DenoiseRecipe) -> Bundle:
    """A bundle in memory with a denoising recipe's net and weights of chance.

    Raises:
        ConfigError: the recipe's net does not fit the data.
        SignalError: the data cannot be used.
    """
    torch.manual_seed(recipe.seed)
    signal: dict[str, object] = {}
    net: StreamNet | ImageNet
    if table.family == "speech":
        spec = mask_spec(FRONT, width=table.width, dilations=table.dilations, bits=table.bits)
        net, signal["rate_hz"] = speech_net(spec), float(RATE_HZ)
    elif table.family == "image":
        net = build_image_net(table, load_dataset(recipe.data.source, "train").channels)
    else:
        part = read_part(recipe, "train")
        setup = study(part)
        net = StreamNet(stream_spec(table, setup, signal_of(part, setup)))
        signal |= {"rate_hz": part.rate_hz, "dtype": setup.dtype, "unit": setup.unit}
    for layer in dyadic_layers(net):
        layer.seen_peak.fill_(_PEAK)
    net.connect()
    set_quantized(net, True)
    graph = image_graph(net, {}) if isinstance(net, ImageNet) else stream_graph(net, {})
    front_end = FRONT.to_json() if table.family == "speech" else None
    manifest = {
        "name": recipe.name,
        "task": "denoise",
        "exact": False,
        "denoise": denoise_part(net, graph, signal, front_end),
    }
    return Bundle.from_files(seal(manifest, {"denoiser.onnx": graph.SerializeToString()}))
