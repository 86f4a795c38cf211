"""The promises hold for every sample of every input, and no frame grows beyond its bound."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_bundle import prior_only_bundle, series_bundle

import edgeae
from edgeae.bitstream.classical import encode_classical
from edgeae.bitstream.frame import Mode
from edgeae.bitstream.header import Promise, StreamHeader
from edgeae.bitstream.reader import FrameReader
from edgeae.native import core
from edgeae.signal.grid import Grid
from edgeae.signal.io import read_signal
from edgeae.signal.ulps import move_ulps
from edgeae.tasks.codec import FrameCodec
from edgeae.tasks.plan import index_bound

slow_in_python = pytest.mark.skipif(core is None, reason="minutes without the extension")
N_SAMPLES = 700 if core is not None else 350

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
FLOATS = ["float16", "float32", "float64"]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return [None, series_bundle(folder / "series"), prior_only_bundle(folder / "prior")]


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}")


def assert_within(x: np.ndarray, y: np.ndarray, max_error: float) -> None:
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
    same = bits(x) == bits(y)
    if x.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore"):
            near = np.abs(x.astype(np.float64) - y.astype(np.float64)) <= max_error
    else:
        pairs = zip(x.ravel().tolist(), y.ravel().tolist(), strict=True)
        near = np.array([abs(a - b) <= max_error for a, b in pairs], bool).reshape(x.shape)
    assert (same | near).all()


def signals(dtype: str) -> dict[str, np.ndarray]:
    kind = np.dtype(dtype)
    rng = np.random.default_rng(5)
    n = N_SAMPLES
    if kind.kind == "f":
        info = np.finfo(kind)
        noise = rng.normal(size=n).astype(kind)
        laced = noise.copy()
        laced[::50] = np.nan
        laced[100:130] = np.inf
        laced[200] = -np.inf
        laced[300] = -0.0
        payloads = bits(noise.copy())
        payloads[::7] = bits(np.full(n // 7, np.nan, kind)) + np.arange(
            n // 7, dtype=payloads.dtype
        )
        return {
            "noise": noise,
            "laced": laced,
            "nan payloads": payloads.view(kind),
            "all nan": np.full(n, np.nan, kind),
            "zeros of both signs": np.tile(np.array([0.0, -0.0], kind), n // 2),
            "extremes": np.tile(np.array([info.max, info.min, info.tiny, 0], kind), n // 4),
            "subnormal": (np.arange(n) % 9 * info.smallest_subnormal).astype(kind),
            "spike": np.where(np.arange(n) == 77, info.max, noise).astype(kind),
            "decimals": (rng.integers(-300, 300, n) * 0.1).astype(kind),
            "steps": np.repeat(rng.normal(size=n // 70), 70).astype(kind),
            "random bits": rng.integers(0, 256, n * kind.itemsize, np.uint8).view(kind),
        }
    info = np.iinfo(kind)
    return {
        "noise": rng.integers(info.min, info.max, n, dtype=kind, endpoint=True),
        "ends": np.tile(np.array([info.min, info.max], kind), n // 2),
        "walk": np.cumsum(rng.integers(-3, 4, n)).astype(kind),
        "constant": np.full(n, info.max, kind),
        "steps": np.repeat(rng.integers(0, 100, n // 70), 70).astype(kind),
        "offset": (np.arange(n) % 50).astype(kind) + kind.type(info.max // 2 + 7),
        "even": (rng.integers(0, 50, n) * 2).astype(kind),
    }


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
@pytest.mark.parametrize("profile", ["file", "radio"])
def test_lossless_is_bit_for_bit(dtype, profile, bundles):
    for name, x in signals(dtype).items():
        for bundle in bundles:
            data = edgeae.encode(bundle, x, lossless=True, profile=profile, frame_length=256)
            y = edgeae.decode(bundle, data)
            assert y.dtype == x.dtype, name
            assert y.tobytes() == x.tobytes(), name


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
@pytest.mark.parametrize("max_error", [0.0, 0.05, 1.0, 2.5, 100.0, 1e12])
def test_max_error_holds(dtype, max_error, bundles):
    for x in signals(dtype).values():
        for bundle in bundles[:2]:
            data = edgeae.encode(bundle, x, max_error=max_error, frame_length=256)
            assert_within(x, edgeae.decode(bundle, data), max_error)


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
def test_lossy_keeps_what_is_not_finite_and_stays_near(dtype, bundles):
    for name, x in signals(dtype).items():
        y = edgeae.decode(bundles[1], edgeae.encode(bundles[1], x, frame_length=256))
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        if x.dtype.kind == "f":
            odd = ~np.isfinite(x)
            assert np.array_equal(bits(x)[odd], bits(y)[odd]), name
        with np.errstate(invalid="ignore"):
            inside = np.abs(x.astype(np.float64)) < 2**29
        error = x[inside].astype(np.float64) - y[inside].astype(np.float64)
        assert np.sqrt(np.sum(error**2) / max(error.size, 1)) <= bundles[1].net.max_rmse[0] + 1, (
            name
        )


@settings(max_examples=60, deadline=None)
@given(
    x=st.sampled_from(["i1", "u2", "i4", "u8", "f2", "f4", "f8"]).flatmap(
        lambda dtype: hnp.arrays(dtype, st.tuples(st.integers(1, 60), st.integers(1, 3)))
    ),
    max_error=st.one_of(st.none(), st.floats(0, 1e9)),
)
def test_any_array_keeps_its_promise(x, max_error):
    if max_error is None:
        y = edgeae.decode(None, edgeae.encode(None, x, lossless=True, frame_length=17))
        assert x.tobytes() == y.tobytes()
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
    else:
        y = edgeae.decode(None, edgeae.encode(None, x, max_error=max_error, frame_length=17))
        assert_within(x, y, max_error)


@pytest.mark.parametrize("max_error", [None, 3])
def test_no_frame_is_larger_than_raw_or_classical(max_error, bundles):
    rng = np.random.default_rng(2)
    for x in [
        *signals("int16").values(),
        np.rint(np.cumsum(rng.logistic(0, 3, 900))).astype(np.int16),
    ]:
        promise = {"lossless": True} if max_error is None else {"max_error": max_error}
        data = edgeae.encode(bundles[1], x, frame_length=128, grid=Grid(1, 1), **promise)
        delta = 1 if max_error is None else 2 * max_error + 1
        for frame in FrameReader(io.BytesIO(data)):
            block = x[frame.start : frame.start + frame.n_items].astype(np.int32)[:, None]
            classical, _ = encode_classical(block, delta)
            size = len(frame.payload) + len(frame.exceptions)
            assert size <= min(2 * frame.n_items, len(classical)) + 1


@slow_in_python
def test_streams_add_little_to_their_payload():
    x = np.random.default_rng(0).integers(-(2**15), 2**15, 200_000).astype(np.int16)
    assert len(edgeae.encode(None, x, lossless=True)) <= 1.005 * x.nbytes


def test_bounds_on_decimal_grids_are_strict():
    x = np.array([0.001, 0.010], np.float64)
    grid = Grid(1, 1000)
    assert index_bound(grid, 0.009, x, on_grid=True) == (8, 9)
    assert index_bound(grid, 0.00901, x, on_grid=True) == (9, 9)
    assert index_bound(Grid(1, 1024), 9 / 1024, x, on_grid=True) == (9, 9)
    assert index_bound(Grid(1, 1), 9, np.arange(3), on_grid=True) == (9, 9)


@slow_in_python
def test_channels_may_lie_on_grids_of_their_own():
    rng = np.random.default_rng(0)
    n = np.cumsum(rng.integers(-9, 10, (20_000, 3)), axis=0)
    x = (n * np.array([9.81 / 4096, 0.001, 1 / 131])).astype(np.float32)
    data = edgeae.encode(None, x, lossless=True)
    header = FrameReader(io.BytesIO(data)).header
    assert len(header.grids) == 3
    assert edgeae.decode(None, data).tobytes() == x.tobytes()
    assert 8 * len(data) / x.size < 5  # as cheap as the integers behind it
    data = edgeae.encode(None, x, max_error=0.02)
    assert_within(x, edgeae.decode(None, data), 0.02)
    reader = FrameReader(io.BytesIO(data))
    assert reader.header.deltas == (17, 39, 5)  # 8, 19 and 2 steps of each grid
    assert not any(frame.exceptions for frame in reader)
    same = edgeae.encode(None, x, lossless=True, grid=header.grids)
    assert FrameReader(io.BytesIO(same)).header == header


@slow_in_python
@pytest.mark.parametrize("with_model", [False, True])
@pytest.mark.parametrize("badly_parsed", [False, True])
def test_widened_float32_samples_cost_what_their_integers_cost(with_model, badly_parsed, tmp_path):
    rng = np.random.default_rng(1)
    n = np.cumsum(rng.integers(-9, 10, (8_000, 2)), axis=0)
    x = (n * np.array([0.001, 9.81 / 4096])).astype(np.float32).astype(np.float64)
    if badly_parsed:  # by a reader that rounds at every step, as old ones of CSV files do
        off = rng.choice([-1, 0, 0, 0, 1], x.shape).astype(np.int32)
        x = np.where(n == 0, x, move_ulps(x, off))
    bundle = series_bundle(tmp_path / "b", channels=2, grids=[[1, 1000], [981, 409600]])
    bundle = bundle if with_model else None
    data = edgeae.encode(bundle, x, lossless=True)
    assert FrameReader(io.BytesIO(data)).header.grids == ((1, 1000, True), (981, 409600, True))
    assert edgeae.decode(bundle, data).tobytes() == x.tobytes()
    whole = edgeae.encode(None, n.astype(np.int32), lossless=True)
    assert 8 * (len(data) - len(whole)) / x.size < (1.6 if badly_parsed else 0.1)
    for max_error in (0.001, 0.01, 0.1):
        data = edgeae.encode(bundle, x, max_error=max_error)
        assert_within(x, edgeae.decode(bundle, data), max_error)
        assert all(len(frame.exceptions) == 0 for frame in FrameReader(io.BytesIO(data)))


@slow_in_python
@pytest.mark.skipif("EDGEAE_DATA" not in os.environ, reason="EDGEAE_DATA is not set")
def test_a_table_that_went_through_float32_and_a_rough_parser():
    path = Path(os.environ["EDGEAE_DATA"]) / "ett" / "ETTh1.csv"
    x = read_signal(path).data[:3000]
    data = edgeae.encode(None, x, lossless=True)
    assert edgeae.decode(None, data).tobytes() == x.tobytes()
    whole = edgeae.encode(None, np.rint(x * 1000).astype(np.int32), lossless=True)
    assert 8 * (len(data) - len(whole)) / x.size < 1.3  # of 64


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_a_signal_in_another_unit_than_the_models_costs_no_more(dtype, tmp_path):
    n = np.cumsum(np.random.default_rng(1).integers(-9, 10, 4_000))
    grid = (1, 1) if dtype == "int32" else (1, 500)
    bundle = series_bundle(tmp_path / "b", grids=[grid])
    x = (n * 5) if dtype == "int32" else (n / 100).astype(dtype)
    data = edgeae.encode(bundle, x, lossless=True)
    assert edgeae.decode(bundle, data).tobytes() == x.tobytes()
    assert len(data) <= len(edgeae.encode(None, x, lossless=True)) + 16  # fingerprint, rate


def test_ulps_and_exceptions_live_in_one_frame():
    rng = np.random.default_rng(0)
    n = np.cumsum(rng.integers(-9, 10, (6, 5, 7)))
    for dtype in (np.float32, np.float64):
        x = (n / 1000).astype(dtype)
        x = np.where(n == 0, x, move_ulps(x, rng.integers(-2, 3, x.shape).astype(np.int32)))
        x[50:60], x[70], x[80], x[90] = np.nan, -0.0, np.inf, -1e30
        for signal in (x, x.reshape(6, 5, 7), x.reshape(-1, 2)):
            data = edgeae.encode(None, signal, lossless=True, grid=(1, 1000), frame_length=5)
            assert edgeae.decode(None, data).tobytes() == x.tobytes()
            assert any(frame.exceptions[:1] == b"\0" for frame in FrameReader(io.BytesIO(data)))


@slow_in_python
@pytest.mark.parametrize("with_model", [False, True])
def test_each_sensor_keeps_the_promise_on_a_grid_of_its_own(with_model, tmp_path):
    """As from an instrument that reads one channel in thousandths, the other in 9.81 / 4096."""
    n = np.cumsum(np.random.default_rng(1).integers(-9, 10, (8_000, 2)), axis=0)
    x = (n * np.array([0.001, 9.81 / 4096])).astype(np.float32)
    bundle = series_bundle(tmp_path / "b", channels=2) if with_model else None
    modes = {Mode.CLASSICAL, Mode.NEURAL_PAST, Mode.NEURAL_RESIDUAL, Mode.RECALL}
    for max_error, deltas in [(None, (1, 1)), (0.001, (1, 1)), (0.01, (19, 9)), (0.1, (199, 83))]:
        promise = {"lossless": True} if max_error is None else {"max_error": max_error}
        data = edgeae.encode(bundle, x, frame_length=2048, **promise)
        reader = FrameReader(io.BytesIO(data))
        assert reader.header.grids == ((1, 1000), (981, 409600))
        assert reader.header.deltas == deltas
        frames = list(reader)
        assert {frame.mode for frame in frames} <= modes
        assert not any(frame.exceptions for frame in frames)
        back = edgeae.decode(bundle, data)
        assert_within(x, back, max_error or 0.0)
        if max_error is None:
            assert back.tobytes() == x.tobytes()
            assert 8 * len(data) / x.size < 5


def test_every_mode_takes_a_step_per_channel(tmp_path):
    """Each mode alone, so that no smaller one hides it."""
    bundle = series_bundle(tmp_path / "b", channels=2)
    x = np.cumsum(np.random.default_rng(1).integers(-9, 10, (600, 2)), axis=0).astype(np.int32)
    header = StreamHeader(
        dtype="int32",
        channels=2,
        frame_length=600,
        promise=Promise.MAX_ERROR,
        max_error=20.0,
        deltas=(5, 41),
        step=16,
        fingerprint=bundle.fingerprint,
    )
    codec = FrameCodec(header, bundle)
    block = codec._to_indices(x)
    (candidates,) = codec._code_bounded([block], every=True)
    modes = [Mode.CLASSICAL, Mode.NEURAL_PAST, Mode.NEURAL_RESIDUAL]
    assert [c.mode for c in candidates if c.mode is not Mode.RECALL] == modes
    for candidate in candidates:
        frame = codec._choose(block, [candidate])
        assert frame.mode is candidate.mode
        (back,) = codec.decode([frame])
        quiet, rough = np.abs(back - x).max(axis=0)
        assert quiet <= 2 < rough <= 20
    narrow = FrameCodec(replace(header, deltas=(5, 257)), bundle)
    (candidates,) = narrow._code_bounded([block], every=True)
    assert {c.mode for c in candidates} <= {Mode.CLASSICAL, Mode.RECALL}


def test_a_lossy_frame_keeps_the_limit_of_every_channel(tmp_path):
    limits = np.array([4.0, 20.0])
    bundle = series_bundle(tmp_path / "b", channels=2, max_rmse=limits)
    t = np.arange(512)
    quiet = np.rint(300 * np.sin(t / 90))
    rough = np.random.default_rng(0).integers(-15, 16, 512)
    for order in (1, -1):
        x = np.stack([quiet, quiet + rough][::order], axis=1)
        data = edgeae.encode(bundle, x.astype(np.int16), grid=(1, 1))
        reader = FrameReader(io.BytesIO(data))
        assert reader.header.deltas == (13, 69)
        (frame,) = reader
        assert (frame.mode is Mode.NEURAL) == (order == 1)
        error = edgeae.decode(bundle, data) - x
        assert (np.sqrt(np.mean(error**2, axis=0)) <= limits).all()


def test_off_grid_floats_use_all_of_their_bound():
    """A bound of E on noise should cost about log2(range / 2E) bits."""
    x = np.random.default_rng(0).uniform(-1, 1, 50_000)
    data = edgeae.encode(None, x, max_error=1 / 64)
    assert 8 * len(data) / x.size < np.log2(64) + 0.5
