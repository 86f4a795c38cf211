"""Denoisers of every family: which module trains, quantizes and loads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from edgeae.errors import ConfigError
from edgeae.models.denoise import ImageNet, StreamNet
from edgeae.train.recipe import Recipe
from edgeae.train.run import Progress, RunFolder

__all__ = ["denoiser_metrics", "load_denoiser", "quantize_denoiser", "train_denoiser"]


class _Family(NamedTuple):
    """What a family's module does with a run."""

    train: Callable[..., None]
    quantize: Callable[..., dict[str, Any]]
    load: Callable[..., StreamNet | ImageNet]
    metrics: Callable[[RunFolder], dict[str, Any]]


def family(recipe: Recipe) -> str:
    """``stream``, ``image`` or ``speech``.

    Raises:
        ConfigError: the recipe is no denoiser's.
    """
    if recipe.denoise is None:
        raise ConfigError(f"the recipe {recipe.name!r} trains a {recipe.task}, not a denoiser")
    return recipe.denoise.family


def _family_of(run: RunFolder) -> _Family:
    kind = family(run.recipe())
    if kind == "image":
        from edgeae.train import denoise_images as images

        return _Family(
            images.train_image_denoiser,
            images.quantize_image_denoiser,
            images.load_image_denoiser,
            images.image_metrics,
        )
    if kind == "speech":
        from edgeae.train import denoise_speech as speech

        return _Family(
            speech.train_speech_denoiser,
            speech.quantize_speech_denoiser,
            speech.load_speech_denoiser,
            speech.speech_metrics,
        )
    from edgeae.train import denoise as stream

    return _Family(
        stream.train_stream_denoiser,
        stream.quantize_stream_denoiser,
        stream.load_stream_denoiser,
        stream.stream_metrics,
    )


def train_denoiser(run: RunFolder, *, progress: Progress) -> None:
    """The float phase."""
    _family_of(run).train(run, progress=progress)


def quantize_denoiser(run: RunFolder, *, progress: Progress) -> dict[str, Any]:
    """The dyadic phase; the report is kept as ``quantize.json`` in the run's folder."""
    report = {"denoiser": _family_of(run).quantize(run, progress=progress)}
    run.write_json("quantize.json", report)
    return report


def load_denoiser(run: RunFolder, *, quantized: bool = True) -> StreamNet | ImageNet:
    """A run's net, on its dyadic grids or in float.

    Raises:
        ModelError: that phase is not finished.
    """
    return _family_of(run).load(run, quantized=quantized)


def denoiser_metrics(run: RunFolder) -> dict[str, Any]:
    """What the model card states: test metrics in float and as quantized."""
    return _family_of(run).metrics(run)
