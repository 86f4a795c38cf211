"""The search of the classical codec: its estimates in C and Python, and what is given up early."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_classical import KINDS, LIMIT, deltas, needs_c, params, signal
from tiny_bundle import series_bundle

import edgeae
from edgeae.bitstream import classical_kernel
from edgeae.bitstream.classical import encode_classical, encode_classical_within
from edgeae.bitstream.classical_kernel import measure, reflection
from edgeae.bitstream.classical_params import ChannelParams, Raster
from edgeae.bitstream.classical_reflection import reflection_of
from edgeae.bitstream.reader import FrameReader
from edgeae.native import core
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.sample_prior import encode_samples
from edgeae.tasks.codec import FrameCodec


def in_python(call: Any, *args: Any, **options: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classical_kernel, "core", None)
        return call(*args, **options)


# --- estimates --------------------------------------------------------------------------------


@needs_c
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_c_and_python_estimate_alike(data: st.DataObject) -> None:
    planar = data.draw(st.booleans())
    raster = Raster(5, 4) if planar else Raster()
    n = 20 * data.draw(st.sampled_from([1, 3, 15]))  # some go on for more than one lap
    near = data.draw(st.booleans())
    choices = data.draw(st.lists(params(int(near), planar), min_size=1, max_size=24))
    delta, seed = data.draw(deltas), data.draw(st.integers(0, 99))
    x = signal(data.draw(st.sampled_from(KINDS)), n, seed)[:, 0]
    helper = signal("walk", n, seed + 1)[:, 0] if near else None
    choices = [p if abs(p.center_index(delta)) <= LIMIT else p._replace(center=0) for p in choices]
    for exactly in (False, True):
        args = x, helper, delta, raster, choices
        assert measure(*args, exactly=exactly) == in_python(measure, *args, exactly=exactly)


@needs_c
@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 400),
    st.integers(0, 99),
    st.sampled_from([1, 3, 41, 100_001, LIMIT]),
    st.sampled_from([1, -5, 60]),
)
def test_c_and_python_reflect_alike(kind: str, n: int, seed: int, delta: int, factor: int) -> None:
    y = signal(kind, n, seed)[:, 0].astype(np.int64) * factor
    found = reflection(y, delta)
    assert found == reflection_of(y, delta)
    assert len(found) == 16
    assert max(map(abs, found)) <= 63


def test_reflection_finds_a_known_predictor() -> None:
    rng = np.random.default_rng(5)
    x = np.zeros(4000)
    for t in range(2, len(x)):
        x[t] = 1.5 * x[t - 1] - 0.8 * x[t - 2] + rng.normal(0, 100)
    q = reflection(np.rint(x).astype(np.int64), 1)
    found = np.sin(np.pi / 2 * np.array(q[:3]) / 64)
    assert np.abs(found - [1.5 / 1.8, -0.8, 0]).max() < 0.05


@pytest.mark.parametrize("kind", ["walk", "sine", "noise"])
@pytest.mark.parametrize("delta", [1, 7])
def test_estimates_come_near_the_truth(kind: str, delta: int) -> None:
    x = signal(kind, 600)[:, 0]
    for base in (0, 3, 8):
        choice = ChannelParams(base=base, center=int(x[0]) // delta)
        (likely,) = measure(x, None, delta, Raster(), [choice])
        (true,) = measure(x, None, delta, Raster(), [choice], exactly=True)
        assert abs(likely / 16 / (true / 256) - 1) < 0.15


def test_who_falls_behind_gives_up() -> None:
    x = signal("sine", 400)[:, 0]
    choices = [ChannelParams(base=b, center=int(x[0])) for b in (3, 2, 3)]
    found = measure(x, None, 1, Raster(), choices)
    assert found[0] == found[2] < 400 * 16 * 8
    (alone,) = measure(x, None, 1, Raster(), choices[1:2])
    assert found[1] != alone  # told from where it gave up
    assert found[0] < 0.8 * alone < found[1] < 1.2 * alone


@needs_c
def test_the_kernel_refuses_nonsense() -> None:
    assert core is not None
    x, costs = np.zeros(4, np.int32), np.zeros(1, np.int64)
    good = np.array([0, 0, -1, 3, 0, 0, 0, 0, -1, 0, 0] + [0] * 16, np.int32)
    core.classical_measure(x, 1, 0, 0, good, b"", costs, False)
    for place, value in ((0, 32), (1, 16), (2, 0), (2, 1), (3, 16), (5, 32), (9, 30), (11, 64)):
        bad = good.copy()
        bad[place] = value
        with pytest.raises(ValueError, match="classical"):
            core.classical_measure(x, 1, 0, 0, bad, b"", costs, False)
    for delta in (0, 2, 1 << 30):
        with pytest.raises(ValueError, match="classical"):
            core.classical_measure(x, delta, 0, 0, good, b"", costs, True)
        with pytest.raises(ValueError, match="classical"):
            core.classical_reflect(np.zeros(4, np.int64), delta or -1, np.zeros(16, np.int32))
    with pytest.raises(ValueError, match="reference"):
        core.classical_measure(x, 1, 0, 0, good, x[:3], costs, False)
    with pytest.raises(ValueError, match="params"):
        core.classical_measure(x, 1, 0, 0, good, b"", np.zeros(2, np.int64), False)


# --- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("pure", [False, True], ids=["c", "python"])
def test_a_limit_changes_no_byte(channels: int, pure: bool) -> None:
    x = np.concatenate([signal("sine", 150, seed) for seed in range(channels)], axis=1)

    def check() -> None:
        payload, recon = encode_classical(x, 5)
        for limit in (len(payload), len(payload) + 1, 10**9):
            found = encode_classical_within(x, 5, limit)
            assert found is not None
            assert found[0] == payload
            assert np.array_equal(found[1], recon)
        for limit in (len(payload) - 1, len(payload) // 2, 0):
            assert encode_classical_within(x, 5, limit) is None

    in_python(check) if pure else check()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_within_a_limit_is_found(kind: str) -> None:
    """The search stops early where nothing comes near the limit, not where something does."""
    x = signal(kind, 1500)
    for delta in (1, 9):
        size = len(encode_classical(x, delta)[0])
        for limit in (size, size + size // 16 + 1):
            found = encode_classical_within(x, delta, limit)
            assert found is not None
            assert len(found[0]) == size


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return series_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.mark.parametrize("pure", [False, True], ids=["c", "python"])
def test_a_prior_keeps_its_limit(
    bundle: Bundle, pure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pure:
        monkeypatch.setattr("edgeae.native.core", None)
    prior = next(p for p in bundle.sample_priors if not p.has_code)
    x = [signal(kind, 200)[None] for kind in ("walk", "sine", "sparse")]
    free = encode_samples(prior, x, 3)
    sizes = [len(found[0]) for found in free if found is not None]
    assert len(sizes) == len(x)
    for limits in ([*sizes[:2], None], [n + 1 for n in sizes]):
        for found, expected in zip(encode_samples(prior, x, 3, None, limits), free, strict=True):
            assert found is not None
            assert expected is not None
            assert found[0] == expected[0]
    assert encode_samples(prior, x, 3, None, [sizes[0] - 1, 0, sizes[2] - 1]) == [None] * 3


@pytest.mark.parametrize("max_error", [None, 2, 20])
def test_what_is_given_up_would_not_have_been_chosen(
    bundle: Bundle, max_error: float | None
) -> None:
    """Whichever code comes first, the frames are those of a choice among all."""
    promise: dict[str, Any] = {"lossless": True} if max_error is None else {"max_error": max_error}
    rng = np.random.default_rng(1)
    x = np.concatenate(
        [
            *(signal(kind, 256)[:, 0] >> 20 * (kind in ("noise", "edges")) for kind in KINDS),
            np.repeat(rng.integers(-300, 300, 64), 4),
            np.cumsum(rng.logistic(0, 3, 256)).astype(np.int32),
        ]
    ).astype(np.int32)
    data = edgeae.encode(bundle, x, frame_length=128, grid=(1, 1), **promise)
    reader = FrameReader(io.BytesIO(data))
    frames = list(reader)
    assert {frame.mode.name for frame in frames} > {"CLASSICAL"}
    codec = FrameCodec(reader.header, bundle)
    for frame in frames:
        samples = x[frame.start : frame.start + frame.n_items, None]
        block = codec._to_indices(samples)
        constant = codec._constant(block)
        if constant is None:
            (candidates,) = codec._code_bounded([block], every=True)
        else:
            candidates = [constant]
        best = codec._choose(block, candidates)
        for other in (best, *codec.encode([samples])):
            assert (other.mode, other.payload) == (frame.mode, frame.payload)


def test_frames_beside_the_grid_are_not_given_up(tmp_path: Path) -> None:
    """Floats: a code may miss samples that another keeps, so that its size alone says nothing."""
    bundle = series_bundle(tmp_path / "b")
    rng = np.random.default_rng(2)
    x = np.cumsum(rng.normal(0, 3, 1500)).astype(np.float32)
    x[::97] = np.nan
    y = edgeae.decode(bundle, edgeae.encode(bundle, x, max_error=1.0, frame_length=100))
    held = np.isfinite(x)
    assert np.array_equal(np.isfinite(y), held)
    assert np.abs(x[held].astype(float) - y[held]).max() <= 1.0
