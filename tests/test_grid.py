from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeae.errors import ConfigError
from edgeae.signal.grid import (
    INDEX_LIMIT,
    NEAR_ULPS,
    Grid,
    detect_grid,
    detect_grids,
    fallback_grid,
)
from edgeae.signal.ulps import move_ulps, ulps_beside

DATA = Path(os.environ.get("EDGEAE_DATA", "/nowhere"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="EDGEAE_DATA is not set")

STEPS = [(1, 1000), (1, 500), (1, 100), (1, 8), (1, 4096), (981, 409600), (1, 200), (1, 131),
         (5, 82), (1, 3), (7, 1), (25, 10)]  # fmt: skip


def counts(peak: int = 3000, size: int = 20000) -> np.ndarray:
    return np.random.default_rng(1).integers(-peak, peak + 1, size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("peak", [40, 3000, 40000])
def test_finds_the_step_that_made_the_data(step, peak, dtype):
    x = (counts(peak) * step[0] / step[1]).astype(dtype)
    grid = detect_grid(x)
    assert grid is not None
    assert Fraction(grid.num, grid.den) == Fraction(*step)
    n, exact = grid.to_index(x)
    assert np.array_equal(n, counts(peak))
    assert exact.all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finds_a_constant_that_samples_were_multiplied_by(dtype):
    x = counts().astype(dtype) * dtype(0.07 * np.pi / 180)
    grid = detect_grid(x)
    assert grid is not None
    assert np.array_equal(grid.to_index(x)[0], counts())
    later = counts(9000).astype(dtype) * dtype(0.07 * np.pi / 180)
    assert grid.to_index(later)[1].all()


@pytest.mark.parametrize("factor", [0.00239, 0.07 * np.pi / 180, 1.7, 250.1])
def test_finds_a_float64_constant_of_all_53_bits(factor):
    grid = detect_grid(counts() * factor)
    assert grid is not None
    assert 1 << 52 < max(grid.num, grid.den) < 1 << 63
    assert grid.to_index(counts(9000) * factor)[1].all()


@pytest.mark.parametrize("step", [(1, 1000), (1, 200), (981, 409600), (1, 131), (1, 3)])
def test_finds_the_step_below_float32(step):
    narrow = (counts() * step[0] / step[1]).astype(np.float32)
    grid = detect_grid(narrow.astype(np.float64))
    assert grid == Grid(*step, single=True)
    assert grid.to_index(narrow.astype(np.float64))[1].all()
    assert grid.to_values(counts().astype(np.int32), np.float32).tobytes() == narrow.tobytes()


@pytest.mark.parametrize("step", [1, 4, 0.125])
def test_float32_hides_nothing_in_short_floats(step):
    grid = detect_grid((counts() * step).astype(np.float32).astype(np.float64))
    assert grid is not None
    assert not grid.single
    assert grid.step == step


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finds_the_step_of_numbers_a_few_ulps_beside_it(dtype, single):
    if single and dtype is np.float32:
        pytest.skip("float32 is single anyway")
    exact = Grid(1, 1000, single=single).to_values(counts().astype(np.int32), dtype)
    off = np.random.default_rng(0).integers(-3, 4, exact.size).astype(np.int32)
    x = np.where(exact == 0, exact, move_ulps(exact, off))
    assert detect_grid(x) == Grid(1, 1000, single=single)
    x[77] = np.pi / 7
    assert detect_grid(x) is None


def test_a_grid_prints_as_it_is_made():
    for grid in (Grid(1, 10), Grid(1, 10, single=True)):
        assert eval(repr(grid)) == grid == Grid(*grid.spec)


def test_casts_beyond_the_ends_of_64_bits_saturate():
    ends = np.array([-(2**31), 2**31 - 1, 0], np.int64).astype(np.int32)
    for grid in (Grid((1 << 63) - 1, 1), Grid((1 << 63) - 1, 3)):
        assert grid.to_values(ends, np.int64).tolist() == [-(2**63), 2**63 - 1, 0]
        assert grid.to_values(ends, np.uint64).tolist() == [0, 2**64 - 1, 0]


def test_nan_inf_and_negative_zero_are_not_in_the_way():
    x = np.array([np.nan, 0.25, -0.0, np.inf, 0.125, -np.inf, 7.5], np.float32)
    grid = detect_grid(x)
    assert grid == Grid(1, 8)
    n, exact = grid.to_index(x)
    assert n.tolist() == [0, 2, 0, 0, 1, 0, 60]
    assert exact.tolist() == [False, True, False, False, True, False, True]


@pytest.mark.parametrize(
    ("values", "grid"),
    [
        ([], Grid(1, 1)),
        ([0.0, 0.0], Grid(1, 1)),
        ([np.nan], Grid(1, 1)),
        ([5.0] * 9, Grid(1, 1)),
        ([0.1] * 9, Grid(1, 10)),
        ([0.3], Grid(1, 10)),
        ([np.pi], None),
        ([1e300], None),
        ([1e-300], None),
    ],
)
def test_small_and_constant_data(values, grid):
    assert detect_grid(np.array(values)) == grid


@pytest.mark.parametrize("size", [5, 30, 1000, 100000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_white_noise_has_no_grid(size, dtype):
    for seed in range(3):
        noise = np.random.default_rng(seed).normal(size=size).astype(dtype)
        assert detect_grid(noise) is None
        assert detect_grid(noise * dtype(1e4) + dtype(3)) is None or dtype is np.float32


@pytest.mark.parametrize("n", [1, 40])
@pytest.mark.parametrize("values", [[1.0], [1.0, -1.0], [1.0, 0.0]])
def test_floats_next_to_infinity_are_no_float32_ones(values, n):
    x = np.array(values * n) * np.finfo(np.float64).max
    detect_grid(x)  # warns of no overflow


def test_integers():
    assert detect_grid(counts() * 2) == Grid(2, 1)
    assert detect_grid(np.array([3, 4, 5], np.uint8)) == Grid(1, 1)
    assert detect_grid(np.array([6, 6], np.int16)) == Grid(1, 1)
    assert detect_grid(np.array([-(2**31), 0, 2**31 - 1], np.int32)) is None
    assert detect_grid(np.array([-(2**31), 2**30], np.int32)) == Grid(2**30, 1)
    assert detect_grid(np.array([2**63 + 4, 8], np.uint64)) is None
    assert detect_grid(np.array([-(2**63), 8], np.int64)) is None


def test_integer_index_and_saturation():
    grid = Grid(2, 1)
    n, exact = grid.to_index(np.array([4, 5, -6], np.int16))
    assert n[[0, 2]].tolist() == [2, -3]
    assert exact.tolist() == [True, False, True]
    assert grid.to_values(np.array([200, -1], np.int32), np.uint8).tolist() == [255, 0]
    assert Grid(1, 1).to_index(np.array([2**40, 2**63 + 5], np.uint64))[1].tolist() == [False] * 2
    assert Grid(1000, 1).to_index(np.array([7], np.uint8))[1].tolist() == [False]
    n, exact = Grid(1, 1).to_index(np.array([INDEX_LIMIT - 1, INDEX_LIMIT], np.int64))
    assert n.tolist() == [INDEX_LIMIT - 1, 0]
    assert exact.tolist() == [True, False]


FLOATS = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.integers(0, 40),
    elements=st.floats(width=16, allow_nan=True, allow_infinity=True),
)
INTS = hnp.arrays(
    st.sampled_from([np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64]),
    st.integers(0, 40),
)


@given(x=st.one_of(FLOATS, INTS))
@example(x=np.array([-(2**63), 0]))  # whose magnitude has no int64
@settings(max_examples=200, deadline=None)
def test_a_found_grid_always_holds_every_finite_sample(x):
    grid = detect_grid(x)
    if grid is None:
        return
    n, exact = grid.to_index(x)
    back = grid.to_values(n, x.dtype)
    finite = np.isfinite(x.astype(np.float64))
    near = x.dtype.kind == "f" and not np.array_equal(back[finite], x[finite])
    if near:
        beside = np.abs(ulps_beside(x[finite], back[finite]))
        assert (beside[back[finite] != x[finite]] <= NEAR_ULPS).all()
    assert near or (exact == (finite & ~((x == 0) & np.signbit(x.astype(np.float64))))).all()
    assert n.dtype == np.int32
    assert np.abs(n.astype(np.int64)).max(initial=0) < INDEX_LIMIT


@given(
    n=hnp.arrays(np.int32, 50, elements=st.integers(-100000, 100000)),
    num=st.integers(1, 1000),
    den=st.integers(1, 10000),
)
@settings(max_examples=200, deadline=None)
def test_any_fraction_round_trips(n, num, den):
    grid = Grid(num, den)
    x = grid.to_values(n, np.float64)
    back, exact = grid.to_index(x)
    assert np.array_equal(back, n)
    assert exact.all()
    found = detect_grid(x)
    if found is not None:
        assert np.array_equal(found.to_values(found.to_index(x)[0], np.float64), x)


def test_index_bound_reads_the_decimal_as_typed():
    grid = Grid(1, 1000)
    assert [grid.index_bound(k / 1000) for k in range(200)] == list(range(200))
    assert Grid(1, 1).index_bound(0.9) == 0
    assert grid.index_bound(0.0004, on_grid=False) == -1
    with pytest.raises(ConfigError, match="finite"):
        grid.index_bound(float("nan"))


@given(bound=st.floats(1e-6, 1e6), peak=st.floats(1e-6, 1e6))
@settings(deadline=None)
def test_fallback_grid_keeps_the_bound_and_the_range(bound, peak):
    try:
        grid = fallback_grid(bound, peak)
    except ConfigError:
        assert bound < peak * 2.0**-26
        return
    assert peak / grid.step < INDEX_LIMIT
    e = grid.index_bound(bound, on_grid=False)
    assert e >= 1
    if bound > peak * 2.0**-22:
        assert (2 * e + 1) * grid.step > 2 * bound * 63 / 64 - grid.step


def test_grid_rejects_nonsense():
    for num, den in [(0, 1), (1, 0), (-1, 1), (1 << 63, 1)]:
        with pytest.raises(ConfigError, match="fraction"):
            Grid(num, den)


def test_a_million_samples():
    x = (np.random.default_rng(0).integers(-30000, 30000, 1 << 20) * 981 / 409600).astype("f4")
    assert detect_grid(x) == Grid(981, 409600)


@needs_data
@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("lfzip/pow/active_power_val.npy", Grid(1, 500)),
        ("lfzip/gas/HT_Sensor_dataset_0.npy", Grid(1, 100000)),
        ("lfzip/ppg/S2_BVP.npy", Grid(1, 100)),
    ],
)
def test_real_sensors(name, grid):
    assert detect_grid(np.load(DATA / name)) == grid


@needs_data
def test_every_channel_of_a_watch_has_its_own_grid():
    with np.load(DATA / "har" / "s01.npz") as archive:
        x = archive["s01_01_sw__x"]
    grids = detect_grids(x)
    assert len(set(grids[:3])) == len(set(grids[3:])) == 1
    assert grids[0] is not None
    assert grids[0].step == pytest.approx(9.81 / 4096, rel=1e-6)
    assert grids[3] is not None
    assert grids[3].step == pytest.approx(0.07 * np.pi / 180, rel=1e-6)
    assert detect_grid(x) is None
