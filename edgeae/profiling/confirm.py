"""Compare with an earlier result, and measure what seems worse once more before saying so."""

from __future__ import annotations

from collections.abc import Callable

from edgeae.profiling.bundle_profile import bundle_again, profile_bundle
from edgeae.profiling.compare import Regression, compare
from edgeae.profiling.denoise_profile import denoiser_again, profile_denoiser
from edgeae.profiling.graph_profile import graph_again, profile_graph
from edgeae.profiling.options import BenchOptions
from edgeae.profiling.profile import Profile
from edgeae.runtime.bundle import load

__all__ = ["confirmed_regressions", "is_graph", "profile"]

Say = Callable[[str], None]
_RETRIES = 2
_TIMES = {"latency", "start"}


def is_graph(path: str) -> bool:
    """Whether a path names an ONNX file rather than a bundle."""
    return path.lower().endswith((".onnx", ".ort"))


def is_denoiser(path: str) -> bool:
    """Whether a bundle denoises.

    Raises:
        ModelError: there is no bundle.
    """
    return load(path).task == "denoise"


def profile(path: str, options: BenchOptions, *, say: Say = lambda _: None) -> Profile:
    """Measure a bundle or an ONNX file; see `profile_bundle` and its two siblings."""
    if is_graph(path):
        return profile_graph(path, options, say=say)
    return (profile_denoiser if is_denoiser(path) else profile_bundle)(path, options, say=say)


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

    A time that seems worse is measured again, up to twice; a real change is there each time, a
    disturbance hardly ever.

    Raises:
        ConfigError: the results measure different things.
    """
    found = compare(base, new, max_regress)
    again = graph_again if is_graph(path) else bundle_again
    if again is bundle_again and is_denoiser(path):
        again = denoiser_again
    for _ in range(_RETRIES):
        parts = {regression.part for regression in found} & _TIMES
        if not parts:
            break
        say("some times seem worse: measuring them again")
        once_more = Profile(data={**new.data, **again(path, options, parts)})
        found = [
            regression
            for regression in compare(base, once_more, max_regress)
            if any(regression.figure == other.figure for other in found)
        ]
    return found
