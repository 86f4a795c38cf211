from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from edgeae.bitstream.cdf import SHAPE_POINTS, CdfFamily, check_shape, logistic_shape
from edgeae.quantize.tables import shape_from_bins

EDGES = np.linspace(-12, 12, SHAPE_POINTS)


def observed(values: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """The bins of a lattice of ``width`` that values fall into, as a quantizer shows them."""
    low = np.floor(values / width) * width
    return low, low + width


def narrow_and_wide(rng: np.random.Generator, n: int) -> np.ndarray:
    """A mixture far from the logistic: a sharp peak and long tails."""
    return np.where(rng.random(n) < 0.7, rng.normal(0, 0.3, n), rng.laplace(0, 2.5, n))


@pytest.mark.parametrize("width", [0.05, 0.5, 1.5])
def test_a_known_distribution_is_recovered_from_bins(width):
    rng = np.random.default_rng(0)
    values = narrow_and_wide(rng, 200_000)
    shift = rng.random(values.size) * width  # every observation has its own lattice
    low, high = observed(values + shift, width)
    shape = shape_from_bins(low - shift, high - shift, rounds=60)
    truth = np.searchsorted(np.sort(values), EDGES) / values.size
    assert np.abs(shape / 65535 - truth).max() < 0.02
    assert np.abs(logistic_shape() / 65535 - truth).max() > 0.05


def test_the_logistic_is_recovered():
    rng = np.random.default_rng(1)
    low, high = observed(rng.logistic(0, 1, 100_000), 0.3)
    gap = np.abs(shape_from_bins(low, high).astype(int) - logistic_shape())
    assert gap.max() < 0.01 * 65535


@pytest.mark.parametrize("n", [0, 1, 5])
def test_few_observations_leave_the_logistic(n):
    z = np.linspace(-3, 3, n)
    gap = np.abs(shape_from_bins(z - 0.1, z + 0.1).astype(int) - logistic_shape())
    assert gap.max() < 0.02 * 65535


def test_shapes_are_ones_that_the_coder_takes():
    rng = np.random.default_rng(2)
    for scale in (0.0, 0.01, 1.0, 40.0):
        z = rng.normal(0, 1, 3000) * scale
        shape = shape_from_bins(z - 0.2, z + 0.2)
        check_shape(shape)
        assert (np.diff(shape.astype(int)) >= 0).all()
        assert np.abs(shape.astype(int) + shape[::-1] - 65535).max() <= 1


@pytest.mark.parametrize("sample", ["mixture", "uniform", "logistic"])
def test_counted_tables_code_no_worse_than_the_logistic(sample):
    rng = np.random.default_rng(3)
    n = 20_000
    z = {
        "mixture": narrow_and_wide(rng, n),
        "uniform": rng.uniform(-2, 2, n),
        "logistic": rng.logistic(0, 1, n),
    }[sample]
    ls = np.full(n, 18 + 6 * 4)  # a scale of 16 grid steps
    index = np.rint(z * 16).astype(np.int64)
    shape = shape_from_bins((index - 0.5) / 16, (index + 0.5) / 16)
    counted, logistic = (
        CdfFamily(s, 1, 0).code_bits(ls, np.zeros(n, np.int64), index).sum()
        for s in (shape, logistic_shape())
    )
    assert counted <= logistic * 1.001
    if sample != "logistic":
        assert counted < logistic * 0.99
