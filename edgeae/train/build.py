"""Nets from a recipe and what was read off the data."""

from __future__ import annotations

import math

from edgeae.bitstream.cdf import SCALE16
from edgeae.errors import ConfigError
from edgeae.models.latent_prior import LatentPriorNet
from edgeae.models.pixel_prior import PixelPriorNet, PixelPriorSpec
from edgeae.models.sample_prior import SamplePriorNet, SamplePriorSpec
from edgeae.models.transforms import AnalysisNet, SynthesisNet, TransformSpec
from edgeae.runtime.pixel_rules import MAX_LEVELS, PixelRaster
from edgeae.train.phases import WindowCode
from edgeae.train.recipe import MAX_OFFSET, MAX_PRIOR_WIDTH, Recipe, SamplePriorRecipe
from edgeae.train.setup import Setup

__all__ = [
    "build_pixel_prior",
    "build_prior",
    "build_sample_prior",
    "build_window_code",
    "image_offsets",
    "transform_spec",
]


MIN_OUT_BITS = 8
WHOLE_LATENTS = 64  # of an image's code of so few steps, a prior with cells sees all
LARGEST_SCALE = SCALE16[-1] // 16  # of a prior, in its own units
MAX_CENTER = 1 << 23  # the largest |index| that the analysis net is fed


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
    """Analysis net, synthesis net and latent prior; None for the family ``none``.

    Raises:
        ConfigError: the recipe's nets do not fit the data.
    """
    if recipe.model.family == "none":
        return None
    images = setup.kind == "image"
    if images != (recipe.model.family == "conv2d"):
        raise ConfigError(
            f"model.family is {recipe.model.family!r} and the data are "
            f"{'images' if images else 'series'}: images take conv2d, series conv1d or dense"
        )
    spec = transform_spec(recipe, setup)
    if any(side % spec.stride for side in setup.shape):
        raise ConfigError(
            f"images of {setup.shape[0]} x {setup.shape[1]} do not divide by the product of "
            f"model.strides, {spec.stride}"
        )
    if spec.out_bits < MIN_OUT_BITS or max(map(abs, spec.center)) >= MAX_CENTER:
        raise ConfigError(
            "the samples span more than 24 bits of their own grid, more than a window code can "
            'hold: set model.family = "none" and rely on sample priors, or scale the data'
        )
    prior = recipe.latent_prior
    offsets = prior.offsets
    if spec.dims == 2:
        rows, columns = (side // spec.stride for side in setup.shape)
        whole = prior.kind == "cells" and rows * columns <= WHOLE_LATENTS
        offsets = tuple(range(1, rows * columns)) if whole else image_offsets(columns, 1)
    return WindowCode(
        AnalysisNet(spec),
        SynthesisNet(spec),
        LatentPriorNet(
            spec.latent,
            width=prior.width,
            offsets=offsets or (1,),
            depth=prior.depth,
            has_cells=prior.kind == "cells",
        ),
    )


def build_pixel_prior(recipe: SamplePriorRecipe, setup: Setup) -> PixelPriorNet:
    """One pixel prior.

    Raises:
        ConfigError: the data are no images, have too many levels or are too large.
    """
    low, high = min(setup.low), max(setup.high)
    if setup.kind != "image" or not 1 <= high - low < MAX_LEVELS:
        raise ConfigError(
            f"sample_prior.kind 'pixel' is for images of 2 to {MAX_LEVELS} levels; the data are "
            f"{'images' if setup.kind == 'image' else 'series'} of {high - low + 1}: take 'level'"
        )
    height, width = setup.shape
    radii = (image_radius(recipe.taps), *recipe.dilations)
    margin = max(radii)
    raster = PixelRaster(height=height, width=width, channels=setup.channels, margin=margin)
    deepest = raster.offsets(margin)[-1]
    if margin > width // 2 or deepest > MAX_OFFSET or recipe.width > MAX_PRIOR_WIDTH:
        raise ConfigError(
            f"a pixel prior for images {width} pixels wide with {setup.channels} channels cannot "
            f"look {margin} pixels around: it reaches {deepest} levels back, at most {MAX_OFFSET} "
            "are possible, and at most half a row: lower sample_prior.taps and .dilations"
        )
    return PixelPriorNet(
        PixelPriorSpec(
            raster=raster,
            low=low,
            levels=high - low + 1,
            ground=setup.ground - low,
            hidden=recipe.width,
            radii=radii,
            bits=recipe.bits,
        )
    )


def build_prior(recipe: SamplePriorRecipe, setup: Setup) -> SamplePriorNet | PixelPriorNet:
    """One sample prior of any kind; raises what the two below raise."""
    build = build_pixel_prior if recipe.kind == "pixel" else build_sample_prior
    return build(recipe, setup)


def image_radius(taps: int) -> int:
    """Radius of the causal neighbourhood that has about so many pixels."""
    return max(1, round(math.sqrt(taps / 2)))


def _feature_shift(recipe: SamplePriorRecipe, of_data: int) -> int:
    """The recipe's shift, else the data's; at least so much that scales reach the widest step."""
    shift = of_data if recipe.feature_shift is None else recipe.feature_shift
    while LARGEST_SCALE << shift < max(recipe.steps):
        shift += 1
    return shift


def build_sample_prior(recipe: SamplePriorRecipe, setup: Setup) -> SamplePriorNet:
    """One sample prior.

    Raises:
        ConfigError: more channels, or wider images, than the integer nets hold.
    """
    features = setup.channels * (4 if recipe.code else 2)
    if features > MAX_PRIOR_WIDTH:
        raise ConfigError(
            f"a sample prior over {setup.channels} channels has {features} inputs, "
            f"at most {MAX_PRIOR_WIDTH} are possible: leave [[sample_prior]] out"
        )
    if setup.kind == "image":
        taps = image_offsets(setup.shape[1], image_radius(recipe.taps))
        later: tuple[tuple[int, ...], ...] = tuple((0,) for _ in recipe.dilations)
    else:
        taps = tuple(range(1, recipe.taps + 1))
        later = tuple((0, d) if d else (0,) for d in recipe.dilations)
    if taps[-1] > MAX_OFFSET:
        raise ConfigError(
            f"images {setup.shape[1]} pixels wide are too wide for sample_prior.taps "
            f"{recipe.taps}: a prior reaches at most {MAX_OFFSET} pixels back"
        )
    shift = tuple(_feature_shift(recipe, p) for p in setup.feature_shift)
    finer = round(sum(setup.feature_shift) / setup.channels - sum(shift) / setup.channels)
    return SamplePriorNet(
        SamplePriorSpec(
            channels=setup.channels,
            kind=recipe.kind,
            feature_shift=shift,
            feature_exponent=min(max(setup.feature_exponent + finer, 0), 10),
            center=setup.center,
            width=recipe.width,
            offsets=(taps, *later),
            taps=taps,
            has_code=recipe.code,
            lookahead=recipe.lookahead,
            bits=recipe.bits,
        )
    )
