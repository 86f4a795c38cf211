"""Sources and sinks of samples, and the grid hidden in them."""

from __future__ import annotations

from edgeae.signal.base import SignalFile
from edgeae.signal.files import atomic_output
from edgeae.signal.grid import INDEX_LIMIT, Grid, detect_grid, detect_grids, fallback_grid
from edgeae.signal.io import SignalSink, iter_signal, read_signal, write_signal

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
