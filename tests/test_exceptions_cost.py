"""Samples that the grid cannot hold: they travel apart, and cost the others nothing."""

from __future__ import annotations

import numpy as np
import pytest

import edgeae
from edgeae.tasks.checks import bridged


def smooth(n: int = 4096) -> np.ndarray:
    """A tone with a little noise, in hundredths: float32 [n]."""
    rng = np.random.default_rng(0)
    x = np.rint(3000 * np.sin(np.arange(n) / 7) + rng.normal(0, 2, n))
    return (x / 100).astype(np.float32)


def test_what_is_not_held_gets_an_index_between_its_neighbours():
    x = np.array([0, 50, 7, 9, -5, 30, 0], np.int32).reshape(1, -1, 1)
    held = np.array([0, 1, 0, 0, 1, 0, 0], bool).reshape(x.shape)
    near = np.array([0, 1, 1, 0, 1, 1, 0], bool).reshape(x.shape)
    assert bridged(x, held, near).ravel().tolist() == [50, 50, 7, 50, -5, -5, -5]
    assert bridged(x, held | near, near).ravel().tolist() == [50, 50, 7, 1, -5, 30, 30]
    assert bridged(x, np.zeros_like(held), near).size == 7


@pytest.mark.parametrize("odd", [-0.0, np.nan, np.float32(1 / 3)])
def test_a_few_samples_off_the_grid_cost_little_more_than_themselves(odd):
    x = smooth()
    few = np.arange(100, 4096, 400)
    x[few] = np.where(odd == 0, 0, x[few])
    plain = len(edgeae.encode(None, x, lossless=True, grid=(1, 100)))
    x[few] = odd
    data = edgeae.encode(None, x, lossless=True, grid=(1, 100))
    assert edgeae.decode(None, data).tobytes() == x.tobytes()
    assert len(data) < plain + 14 * len(few)
