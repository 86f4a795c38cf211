"""Measure on this machine: latency by stage, start, memory, throughput; and compare two results."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeae.profiling.bundle_profile import profile_bundle
    from edgeae.profiling.compare import Regression, compare, parse_percent
    from edgeae.profiling.graph_profile import profile_graph
    from edgeae.profiling.options import BenchOptions
    from edgeae.profiling.profile import Profile

__all__ = [
    "BenchOptions",
    "Profile",
    "Regression",
    "compare",
    "parse_percent",
    "profile_bundle",
    "profile_graph",
]

_HOMES = {
    "BenchOptions": "options",
    "Profile": "profile",
    "Regression": "compare",
    "compare": "compare",
    "parse_percent": "compare",
    "profile_bundle": "bundle_profile",
    "profile_graph": "graph_profile",
}


def __getattr__(name: str) -> Any:
    # Fresh processes are measured from before NumPy is imported, so this must not import it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
