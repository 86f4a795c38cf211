"""Compare with an earlier result, and measure what seems worse once more before saying so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgeae.profiling.bundle_profile import bundle_latency, profile_bundle
from edgeae.profiling.compare import Regression, compare, is_latency
from edgeae.profiling.graph_profile import graph_latency, profile_graph
from edgeae.profiling.options import BenchOptions
from edgeae.profiling.profile import Profile

__all__ = ["confirmed_regressions", "is_graph", "profile"]

Say = Callable[[str], None]
_RETRIES = 2


def is_graph(path: str) -> bool:
    """Whether a path names an ONNX file rather than a bundle."""
    return path.lower().endswith((".onnx", ".ort"))


def profile(path: str, options: BenchOptions, *, say: Say = lambda _: None) -> Profile:
    """Measure a bundle or an ONNX file; see `profile_bundle` and `profile_graph`."""
    return (profile_graph if is_graph(path) else profile_bundle)(path, options, say=say)


def confirmed_regressions(
    path: str,
    base: Profile,
    new: Profile,
    max_regress: float,
    options: BenchOptions,
    *,
    say: Say = lambda _: None,
) -> list[Regression]:
    """The figures that are worse by more than ``max_regress``, and stay so.

    A latency that seems worse is measured again, up to twice; a real change is there each time, a
    disturbance hardly ever.

    Raises:
        ConfigError: the results measure different things.
    """
    found = compare(base, new, max_regress)
    for _ in range(_RETRIES):
        if not any(is_latency(new, regression) for regression in found):
            break
        say("some latencies seem worse: measuring them again")
        rows = (graph_latency if is_graph(path) else bundle_latency)(path, options)
        again = replace(new, data={**new.data, "latency": rows})
        still = {regression.figure for regression in compare(base, again, max_regress)}
        found = [
            regression
            for regression in found
            if regression.figure in still or not is_latency(new, regression)
        ]
    return found
