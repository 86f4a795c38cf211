"""A denoiser's run becomes a bundle."""

from __future__ import annotations

import os
from typing import Any

from edgeae.errors import ModelError
from edgeae.exporting.bundle import check_device
from edgeae.exporting.denoise import export_denoiser
from edgeae.quantize.dyadic import is_quantized, quantize
from edgeae.runtime.bundle import Bundle
from edgeae.train.denoise_data import load_denoise_data, training_level
from edgeae.train.denoise_steps import denoise_table
from edgeae.train.denoising import denoiser_metrics, family, load_denoiser
from edgeae.train.recipe import Recipe, recipe_to_dict
from edgeae.train.run import Progress, RunFolder

__all__ = ["export_denoiser_run"]


def export_denoiser_run(
    run: RunFolder, out: str | os.PathLike[str], *, progress: Progress, threads: int
) -> Bundle:
    """Export a denoiser's run; quantizes it first where that is not done.

    The test part of the data is read here, once, for the metrics on the card.

    Raises:
        ModelError: the run is not trained, the certificate does not pass, or a budget is broken.
    """
    recipe = run.recipe()
    if not is_quantized(run):
        quantize(run, progress=progress, threads=threads)
    net = load_denoiser(run)
    parameters = sum(p.numel() for p in net.parameters())
    limit = recipe.budgets.max_parameters
    if limit is not None and parameters > limit:
        raise ModelError(
            f"budgets.max_parameters is {limit:g} and the model needs {parameters:g}; "
            "make the net smaller, or raise the budget in the recipe"
        )
    metrics = {
        "test": denoiser_metrics(run),
        "quantization": run.read_json("quantize.json"),
        "training_seconds": round(run.seconds(), 1),
    }
    front_end = None
    if family(recipe) == "speech":
        from edgeae.train.denoise_speech import FRONT

        front_end = FRONT.to_json()
    signal, data = _signal(run, recipe)
    level = None
    if family(recipe) == "stream":
        level = training_level(denoise_table(run), load_denoise_data(run))
    bundle = export_denoiser(
        net,
        out,
        name=recipe.name,
        signal=signal,
        front_end=front_end,
        level=level,
        metrics=metrics,
        recipe=_published(recipe),
        data=data,
    )
    size = sum(len(content) for content in bundle.files.values())
    most = recipe.budgets.max_bundle_bytes
    if most is not None and size > most:
        raise ModelError(f"budgets.max_bundle_bytes is {most:g} and {out} has {size:g}")
    check_device(recipe, bundle)
    return bundle


def _signal(run: RunFolder, recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest's ``signal`` and the hashes of the data."""
    if family(recipe) != "stream":
        hashes = {}
        if (run.path / "setup.json").exists():
            hashes = dict(run.read_json("setup.json").get("hashes", {}))
        return ({"rate_hz": 16_000.0} if family(recipe) == "speech" else {}), hashes
    setup = run.read_json("setup.json")
    takes = load_denoiser(run).spec.n_in  # type: ignore[union-attr]
    return {
        "channels": takes,
        "dtype": setup["dtype"],
        "rate_hz": setup["rate_hz"],
        "unit": setup["unit"],
        "grids": [list(g) for g in setup["grids"][:takes]],
        "channel_names": list(setup["names"][:takes]),
    }, setup["hashes"]


def _published(recipe: Recipe) -> dict[str, Any]:
    """The recipe for the manifest: files by name, not by their path on this machine."""
    values = recipe_to_dict(recipe)
    for table, key in [(values["data"], "source"), (values["data"], "test")] + [
        (part, "folder") for part in values["denoise"]["noise"]
    ]:
        if table.get(key):
            table[key] = os.path.basename(os.path.normpath(table[key]))
    for unused in ("model", "latent_prior", "sample_prior", "train"):
        values.pop(unused, None)
    return values
