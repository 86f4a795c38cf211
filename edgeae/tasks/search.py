"""A longer look for symbols: those that a decoder makes the most of, bit for bit.

Rounding a latent to the nearest symbol looks at neither the rate nor the samples. Here other
symbols are tried through the real prior and the real synthesis net, and kept where they lower
``bits + error / worth``: rate and squared error, weighed as in training. A decoder does not care.

It is for frames of segments that stand for themselves, the images of a frame; a segment of a
series is one among many candidates' worth of work, and is left as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.runtime.bundle import Bundle
from edgeae.runtime.latent_prior import latent_bits, step_condition
from edgeae.runtime.transform import symbolize, synthesise

__all__ = ["search_symbols", "worth_of_a_bit"]

_NEAR = 0.25  # latents that are further from their symbol may take the next one
_AT_ONCE = 12  # changes that are tried together, the most promising first
_BASE_STEP = 16

Indices = NDArray[np.int32]
Floats = NDArray[np.float64]


def worth_of_a_bit(bundle: Bundle, step: int) -> float | None:
    """Squared error, over all samples, that training gave for one bit; None where it is not told.

    Args:
        bundle: a bundle with a window code.
        step: quantizer step of its latents.
    """
    recipe: Any = bundle.manifest.raw.get("recipe")
    try:
        weight = float(recipe["train"]["distortion_weight"])
    except (KeyError, TypeError, ValueError):
        return None
    return (step / _BASE_STEP) ** 2 / weight if weight > 0 else None


def search_symbols(bundle: Bundle, x: Indices, latents: Indices, step: int, rounds: int) -> Indices:
    """Symbols of a frame of images.

    Args:
        bundle: a bundle with a window code for images.
        x: grid indices, int32 [G, T, C].
        latents: as `edgeae.runtime.transform.analyse` gives them, int32 [G, S, L].
        step: quantizer step.
        rounds: how often every image is looked at; fewer where nothing gets better.

    Returns:
        int32 [G, S, L].
    """
    symbols = symbolize(latents, step)
    worth = worth_of_a_bit(bundle, step)
    if worth is None or not bundle.signal.is_image:
        return symbols
    for image in range(len(x)):
        trial = _Trial(bundle, x[image], step, worth)
        best = symbols[image]
        cost = float(trial.costs(best[None])[0])
        for _ in range(rounds):
            found, lower = _better(trial, best, latents[image], cost)
            if lower >= cost:
                break
            best, cost = found, lower
        symbols[image] = best
    return symbols


class _Trial:
    """What symbols of one image cost."""

    def __init__(self, bundle: Bundle, x: Indices, step: int, worth: float) -> None:
        self.bundle, self.x, self.step, self.worth = bundle, x, step, worth

    def costs(self, symbols: Indices) -> Floats:
        """Bits and error of symbols [n, S, L], in bits: float64 [n]."""
        prior = self.bundle.latent_prior
        assert prior is not None
        bits = latent_bits(prior, symbols, step_condition(self.step)).sum(axis=(1, 2))
        (recon,) = synthesise(self.bundle, [symbols], self.step, [len(self.x)])
        error = np.square(recon - self.x.astype(np.float64)).sum(axis=(1, 2))
        found: Floats = bits + error / self.worth
        return found


def _better(
    trial: _Trial, symbols: Indices, latents: Indices, cost: float
) -> tuple[Indices, float]:
    """The best of several changes together, the most promising ones: symbols and their cost."""
    flat = symbols.reshape(-1)
    offset = latents.reshape(-1) / trial.step - flat
    at = np.flatnonzero((flat != 0) | (np.abs(offset) > _NEAR))
    nearer = -np.sign(flat[at])
    aside = np.where(offset[at] > 0, 1, -1)
    moves = np.concatenate([np.stack([at, nearer], 1), np.stack([at, aside], 1)])
    moves = np.unique(moves[moves[:, 1] != 0], axis=0).astype(np.int64)
    if not len(moves):
        return symbols, cost
    tried = np.repeat(flat[None], len(moves), axis=0)
    tried[np.arange(len(moves)), moves[:, 0]] += moves[:, 1].astype(np.int32)
    costs = trial.costs(tried.reshape(-1, *symbols.shape))
    order = [n for n in np.argsort(costs, kind="stable").tolist() if costs[n] < cost][:_AT_ONCE]
    if not order:
        return symbols, cost
    together = [flat]
    for n in order:
        place, by = moves[n].tolist()
        now = together[-1].copy()
        now[place] = flat[place] + by
        together.append(now)
    stacked = np.stack(together[1:]).reshape(-1, *symbols.shape)
    found = trial.costs(stacked)
    best = int(found.argmin())
    return stacked[best], float(found[best])
