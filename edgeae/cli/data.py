"""``edgeae data``: get a freely licensed data set."""

from __future__ import annotations

import typer

from edgeae.cli.base import command, note

__all__ = ["data"]


@command("data")
def data(
    name: str = typer.Argument(..., help="mnist, or ecg (MIT-BIH)."),
) -> None:
    """Download a data set, checksums verified, to where recipes find it."""
    from edgeae.train.download import fetch

    print(fetch(name, say=note))
