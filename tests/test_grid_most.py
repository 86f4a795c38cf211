"""Grids that most samples lie on, and what becomes of the others."""

from __future__ import annotations

import numpy as np
import pytest

import edgeae
from edgeae.signal.grid import Grid, detect_grid
from edgeae.signal.grid_most import most_grid


def decimals(dtype: type, every: int, n: int = 6000, digits: int = 2) -> np.ndarray:
    """A random walk in decimals, with a value off the grid now and then."""
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.integers(-30, 31, n)) / 10.0**digits
    x[::every] += rng.random(-(-n // every)) / 10.0**digits
    return x.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("every", [7, 50])
def test_finds_what_most_samples_show(dtype, every):
    x = decimals(dtype, every)
    assert detect_grid(x) is None
    assert most_grid(x) == Grid(1, 100)


def test_finds_steps_that_are_not_decimal():
    x = (np.random.default_rng(0).integers(-4000, 4000, 5000) * 9.81 / 4096).astype(np.float32)
    x[::25] = np.random.default_rng(1).normal(size=200)
    assert most_grid(x) == Grid(981, 409600)


def test_finds_none_where_there_is_none():
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        assert most_grid(rng.normal(size=5000).astype(dtype)) is None
        assert most_grid(np.r_[rng.normal(size=3000), np.zeros(2000)].astype(dtype)) is None
    assert most_grid(np.full(100, np.nan)) is None
    assert most_grid(rng.choice([-1e308, 1e308, 5e-324, 0.1], 1000)) is None


@pytest.mark.parametrize("frame_length", [500, None])
def test_the_others_cost_their_own_bytes_and_come_back(frame_length):
    x = decimals(np.float64, 50)
    x[3:6] = np.nan, -0.0, np.inf
    data = edgeae.encode(None, x, lossless=True, frame_length=frame_length)
    assert edgeae.decode(None, data).tobytes() == x.tobytes()
    assert 8 * len(data) / x.size < 10  # 64 bits as they are


def test_a_later_part_may_lie_on_no_grid_at_all():
    x = np.r_[decimals(np.float64, 50), np.random.default_rng(1).normal(size=6000)]
    encoder = edgeae.StreamEncoder(None, lossless=True, frame_length=1000)
    data = b"".join([encoder.write(x), encoder.close()])
    assert edgeae.decode(None, data).tobytes() == x.tobytes()
    assert len(data) < 1.02 * 8 * 6000 + 10 * 6000 / 8
