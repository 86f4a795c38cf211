"""The ``edgeae`` command: a thin skin that parses, calls and prints.

Each module registers its commands on ``app`` when it is imported; nothing heavy is imported before
a command runs.
"""

from __future__ import annotations

import sys

from edgeae.cli import (
    adapt,
    bench,
    compress,
    data,
    decompress,
    denoise,
    import_,
    inspect,
    quickstart,
    report,
    train,
)
from edgeae.cli.base import app, settings

__all__ = ["app", "main"]

_COMMANDS = (
    adapt,
    bench,
    compress,
    data,
    decompress,
    denoise,
    import_,
    inspect,
    quickstart,
    report,
    train,
)


def main() -> None:
    """Run the command line; ``--debug`` may stand anywhere on it."""
    arguments = sys.argv[1:]
    if "--debug" in arguments:
        settings.debug = True
        arguments = [argument for argument in arguments if argument != "--debug"]
    app(arguments, prog_name="edgeae")
