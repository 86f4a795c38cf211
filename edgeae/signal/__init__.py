"""Sources and sinks of samples, and the grid hidden in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeae.signal.base import SignalFile
from edgeae.signal.grid import INDEX_LIMIT, Grid, detect_grid, detect_grids, fallback_grid

if TYPE_CHECKING:
    from edgeae.signal.files import atomic_output
    from edgeae.signal.io import iter_signal, read_signal, write_signal
    from edgeae.signal.sink import SignalSink

__all__ = [
    "INDEX_LIMIT",
    "Grid",
    "SignalFile",
    "SignalSink",
    "atomic_output",
    "detect_grid",
    "detect_grids",
    "fallback_grid",
    "iter_signal",
    "read_signal",
    "write_signal",
]

_LAZY = {"atomic_output": "files", "SignalSink": "sink"}


def __getattr__(name: str) -> Any:
    # Files are for the command line: a device that streams never pays for CSV, gzip and zip.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"edgeae.signal.{_LAZY.get(name, 'io')}"), name)
