"""Nets from a recipe and what was read off the data."""

from __future__ import annotations

from edgeae.models.latent_prior import LatentPriorNet
from edgeae.models.sample_prior import SamplePriorNet, SamplePriorSpec
from edgeae.models.transforms import AnalysisNet, SynthesisNet, TransformSpec
from edgeae.train.phases import WindowCode
from edgeae.train.recipe import Recipe, SamplePriorRecipe
from edgeae.train.setup import Setup

__all__ = ["build_sample_prior", "build_window_code", "image_offsets", "transform_spec"]


def transform_spec(recipe: Recipe, setup: Setup) -> TransformSpec:
    """The analysis/synthesis pair's shape."""
    m = recipe.model
    return TransformSpec(
        family=m.family,
        channels=setup.channels,
        latent=m.latent,
        widths=m.widths,
        strides=m.strides if m.family != "dense" else (),
        kernels=m.kernels if m.family != "dense" else (),
        window=m.window if m.family == "dense" else 0,
        center=setup.center,
        shift=setup.shift,
        exponent=setup.exponent,
        bits=m.bits,
    )


def image_offsets(width: int, radius: int) -> tuple[int, ...]:
    """Raster offsets of the causal neighbours within ``radius`` of a pixel."""
    found = {dy * width + dx for dy in range(1, radius + 1) for dx in range(-radius, radius + 1)}
    return tuple(sorted(found | set(range(1, radius + 1))))


def build_window_code(recipe: Recipe, setup: Setup) -> WindowCode | None:
    """Analysis net, synthesis net and latent prior; None for the family ``none``."""
    if recipe.model.family == "none":
        return None
    spec = transform_spec(recipe, setup)
    prior = recipe.latent_prior
    offsets = prior.offsets
    if spec.dims == 2:
        columns = setup.shape[1] // spec.stride
        offsets = image_offsets(columns, 1)
    return WindowCode(
        AnalysisNet(spec),
        SynthesisNet(spec),
        LatentPriorNet(spec.latent, width=prior.width, offsets=offsets, depth=prior.depth),
    )


def build_sample_prior(recipe: SamplePriorRecipe, setup: Setup) -> SamplePriorNet:
    """One sample prior."""
    if setup.kind == "image":
        taps = image_offsets(setup.shape[1], max(1, round((recipe.taps / 2) ** 0.5)))
        later: tuple[tuple[int, ...], ...] = tuple((0,) for _ in recipe.dilations)
    else:
        taps = tuple(range(1, recipe.taps + 1))
        later = tuple((0, d) if d else (0,) for d in recipe.dilations)
    return SamplePriorNet(
        SamplePriorSpec(
            channels=setup.channels,
            kind=recipe.kind,
            feature_shift=setup.feature_shift,
            feature_exponent=setup.feature_exponent,
            center=setup.center,
            width=recipe.width,
            offsets=(taps, *later),
            taps=taps,
            has_code=recipe.code,
            lookahead=recipe.lookahead,
            bits=recipe.bits,
        )
    )
