"""Nets from a recipe and what was read off the data."""

from __future__ import annotations

from edgeae.errors import ConfigError
from edgeae.models.latent_prior import LatentPriorNet
from edgeae.models.sample_prior import SamplePriorNet, SamplePriorSpec
from edgeae.models.transforms import AnalysisNet, SynthesisNet, TransformSpec
from edgeae.train.phases import WindowCode
from edgeae.train.recipe import MAX_OFFSET, MAX_PRIOR_WIDTH, Recipe, SamplePriorRecipe
from edgeae.train.setup import Setup

__all__ = ["build_sample_prior", "build_window_code", "image_offsets", "transform_spec"]


MIN_OUT_BITS = 8
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
        columns = setup.shape[1] // spec.stride
        offsets = image_offsets(columns, 1)
    return WindowCode(
        AnalysisNet(spec),
        SynthesisNet(spec),
        LatentPriorNet(spec.latent, width=prior.width, offsets=offsets, depth=prior.depth),
    )


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
        taps = image_offsets(setup.shape[1], max(1, round((recipe.taps / 2) ** 0.5)))
        later: tuple[tuple[int, ...], ...] = tuple((0,) for _ in recipe.dilations)
    else:
        taps = tuple(range(1, recipe.taps + 1))
        later = tuple((0, d) if d else (0,) for d in recipe.dilations)
    if taps[-1] > MAX_OFFSET:
        raise ConfigError(
            f"images {setup.shape[1]} pixels wide are too wide for sample_prior.taps "
            f"{recipe.taps}: a prior reaches at most {MAX_OFFSET} pixels back"
        )
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
