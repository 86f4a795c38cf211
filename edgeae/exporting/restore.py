"""A bundle back to trainable nets: its integers become the float masters they were rounded from.

No run's folder is needed: the manifest holds the recipe and what was read off the data, which give
the nets' shapes; the graphs and coder.npz hold the numbers. What comes out computes what the bundle
computes, to the bit, and can be trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from edgeae.errors import ConfigError, ModelError
from edgeae.exporting.dyadic_graph import read_constants
from edgeae.models.dyadic import set_quantized
from edgeae.models.latent_prior import LatentPriorNet
from edgeae.models.sample_prior import SamplePriorNet
from edgeae.models.transforms import AnalysisNet, SynthesisNet
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.latent_prior import LatentPrior
from edgeae.runtime.sample_prior import SamplePrior
from edgeae.train.build import build_sample_prior, build_window_code
from edgeae.train.phases import WindowCode
from edgeae.train.recipe import Recipe, recipe_from_dict
from edgeae.train.setup import Setup

__all__ = ["Restored", "restore_model"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A bundle's nets in torch, on their dyadic grids, and where they came from.

    A window code is None where there is none, or where its prior is of a kind that is not trained
    on; so is a sample prior.
    """

    recipe: Recipe
    setup: Setup
    code: WindowCode | None
    priors: tuple[SamplePriorNet | None, ...]


def restore_model(bundle: Bundle) -> Restored:
    """The nets of a bundle, as it was exported.

    Raises:
        ModelError: the bundle is not exact, or was not exported from a recipe's run.
    """
    recipe, setup = _origin(bundle)
    code = build_window_code(recipe, setup)
    latent = bundle.latent_prior
    if not isinstance(latent, LatentPrior):
        code = None
    if code is not None and isinstance(latent, LatentPrior):
        names = [f"layer{i}" for i in range(len(code.analysis.layers) - 1)] + ["latent"]
        _restore_transform(code.analysis, bundle.files["encoder.onnx"], names)
        names = [f"layer{i}" for i in range(len(code.synthesis.layers))]
        _restore_transform(code.synthesis, bundle.files["decoder.onnx"], names)
        _restore_latent_prior(code.prior, latent)
        set_quantized(code, True)
        code.eval()
    priors: list[SamplePriorNet | None] = []
    for spec, prior in zip(recipe.sample_prior, bundle.sample_priors, strict=True):
        net = None
        if isinstance(prior, SamplePrior) and (code is not None or not spec.code):
            net = build_sample_prior(spec, setup)
            net.net.restore(prior.net)
            net.eval()
        priors.append(net)
    return Restored(recipe=recipe, setup=setup, code=code, priors=tuple(priors))


def _restore_latent_prior(net: LatentPriorNet, prior: LatentPrior) -> None:
    if prior.net is not None and net.width:
        net.net.restore(prior.net)
    elif prior.statics is not None and not net.width:
        means, scales = prior.statics.astype(np.float64)
        with torch.no_grad():
            net.constant.copy_(torch.from_numpy(np.concatenate([means / 16, scales / 8])))
    else:
        raise ModelError("the latent prior is a net in the bundle or in its recipe, not in both")


def _origin(bundle: Bundle) -> tuple[Recipe, Setup]:
    """The recipe and the setup that a bundle was made from."""
    _ = bundle.codec  # raises where the bundle is for another task
    raw = bundle.manifest.raw
    if not bundle.manifest.exact or "recipe" not in raw or "setup" not in raw:
        raise ModelError(
            f"bundle {bundle.name!r} was not exported from the run of a dyadic recipe, so its nets "
            "cannot be trained on: take a bundle that edgeae train and edgeae export made"
        )
    try:
        recipe = recipe_from_dict(raw["recipe"])
        return recipe, Setup.from_json(raw["setup"])
    except (ConfigError, TypeError) as error:
        raise ModelError(
            f"bundle {bundle.name!r}: its recipe is not one of this version ({error}): "
            "train and export it again"
        ) from error


def _restore_transform(net: AnalysisNet | SynthesisNet, graph: bytes, names: list[str]) -> None:
    constants: dict[str, npt.NDArray[Any]] = read_constants(onnx.load_model_from_string(graph))
    grid = net.input_grid
    for layer, name in zip(net.layers, names, strict=True):
        weight, bias = constants.get(f"{name}_weight"), constants.get(f"{name}_bias")
        if weight is None or bias is None or weight.shape != tuple(layer.weight.shape):
            found = None if weight is None else list(weight.shape)
            raise ModelError(
                f"a graph's layer {name} has weights {found}, the recipe says "
                f"{list(layer.weight.shape)}: the bundle was not made from its recipe"
            )
        grid = layer.restore(grid, weight.astype(np.float64), bias.astype(np.float64))
