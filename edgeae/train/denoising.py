"""Denoisers of every family: which module trains, quantizes and loads them."""

from __future__ import annotations

from typing import Any

from edgeae.errors import ConfigError
from edgeae.models.denoise import ImageNet, StreamNet
from edgeae.train.recipe import Recipe
from edgeae.train.run import Progress, RunFolder

__all__ = ["denoiser_metrics", "load_denoiser", "quantize_denoiser", "train_denoiser"]


def family(recipe: Recipe) -> str:
    """``stream``, ``image`` or ``speech``.

    Raises:
        ConfigError: the recipe is no denoiser's.
    """
    if recipe.denoise is None:
        raise ConfigError(f"the recipe {recipe.name!r} trains a {recipe.task}, not a denoiser")
    return recipe.denoise.family


def train_denoiser(run: RunFolder, *, progress: Progress) -> None:
    """The float phase."""
    kind = family(run.recipe())
    if kind == "image":
        from edgeae.train.denoise_images import train_image_denoiser

        train_image_denoiser(run, progress=progress)
    elif kind == "speech":
        from edgeae.train.denoise_speech import train_speech_denoiser

        train_speech_denoiser(run, progress=progress)
    else:
        from edgeae.train.denoise import train_stream_denoiser

        train_stream_denoiser(run, progress=progress)


def quantize_denoiser(run: RunFolder, *, progress: Progress) -> dict[str, Any]:
    """The dyadic phase; the report is kept as ``quantize.json`` in the run's folder."""
    kind = family(run.recipe())
    if kind == "image":
        from edgeae.train.denoise_images import quantize_image_denoiser

        found = quantize_image_denoiser(run, progress=progress)
    elif kind == "speech":
        from edgeae.train.denoise_speech import quantize_speech_denoiser

        found = quantize_speech_denoiser(run, progress=progress)
    else:
        from edgeae.train.denoise import quantize_stream_denoiser

        found = quantize_stream_denoiser(run, progress=progress)
    report = {"denoiser": found}
    run.write_json("quantize.json", report)
    return report


def load_denoiser(run: RunFolder, *, quantized: bool = True) -> StreamNet | ImageNet:
    """A run's net, on its dyadic grids or in float.

    Raises:
        ModelError: that phase is not finished.
    """
    kind = family(run.recipe())
    if kind == "image":
        from edgeae.train.denoise_images import load_image_denoiser

        return load_image_denoiser(run, quantized=quantized)
    if kind == "speech":
        from edgeae.train.denoise_speech import load_speech_denoiser

        return load_speech_denoiser(run, quantized=quantized)
    from edgeae.train.denoise import load_stream_denoiser

    return load_stream_denoiser(run, quantized=quantized)


def denoiser_metrics(run: RunFolder) -> dict[str, Any]:
    """What the model card states: test metrics in float and as quantized."""
    kind = family(run.recipe())
    if kind == "image":
        from edgeae.train.denoise_images import image_metrics

        return image_metrics(run)
    if kind == "speech":
        from edgeae.train.denoise_speech import speech_metrics

        return speech_metrics(run)
    from edgeae.train.denoise import stream_metrics

    return stream_metrics(run)
