"""The tutorial's float net as a bundle, ``exact: false``, with its picture on the card."""

from __future__ import annotations

import os
from typing import Any

from edgeae.exporting.module import export_pair
from edgeae.runtime.bundle import Bundle
from edgeae.train.recipe import recipe_to_dict
from edgeae.train.run import RunFolder
from edgeae.train.tutorial import PICTURE, load_rows, load_tutorial

__all__ = ["export_tutorial"]


def export_tutorial(run: RunFolder, out: str | os.PathLike[str]) -> Bundle:
    """Export a finished run of the family ``tutorial``.

    Args:
        run: the run.
        out: the bundle's folder, or a file ending in ``.zip``.

    Raises:
        ModelError: the run is not finished, or the bundle cannot be written.
    """
    net, report = load_tutorial(run)
    recipe = run.recipe()
    return export_pair(
        net.encoder,
        net.decoder,
        load_rows(recipe, "val"),
        out,
        name=recipe.name,
        precision="int8",
        rows=True,
        about={
            "recipe": recipe_to_dict(recipe),
            "metrics": {"training_seconds": round(run.seconds(), 1), **report},
        },
        extra_files={PICTURE: (run.path / PICTURE).read_bytes()},
        notes=_notes(report, recipe.model.latent),
    )


def _notes(report: dict[str, Any], latent: int) -> str:
    classic, scaled = report["test_mse"], report["test_mse_on_0..1"]
    rows = [
        ("this net", "net"),
        ("the mean image, nothing coded", "mean_image"),
        (f"PCA, {latent} numbers", "pca"),
    ]
    lines = [
        "## What it learnt",
        "",
        f"![Ten test digits above their reconstructions]({PICTURE})",
        "",
        "| test MSE | rows of unit length | pixels in 0..1 |",
        "| --- | --- | --- |",
        *(f"| {words} | {classic[key]:.2g} | {scaled[key]:.2g} |" for words, key in rows),
        "",
        report["why"],
        "",
    ]
    return "\n".join(lines)
