"""Which sample priors code a frame: its beginning tells, alike in every engine."""

from __future__ import annotations

import io

import numpy as np
import pytest
from tiny_bundle import series_bundle

import edgeae
import edgeae.native as native
from edgeae.bitstream.reader import FrameReader
from edgeae.tasks.codec import FrameCodec
from edgeae.tasks.heats import beginning, winners

KINDS = ["walk", "pairs", "sawtooth", "triangle", "square", "few", "two halves"]


def signal(kind: str, n: int = 2400) -> np.ndarray:
    rng = np.random.default_rng(5)
    t = np.arange(n)
    walk = np.cumsum(rng.integers(-9, 10, n))
    found = {
        "walk": walk,
        "pairs": np.repeat(rng.integers(-300, 300, n // 4), 4),
        "sawtooth": t * 7 % 400,
        "triangle": np.abs(t * 5 % 800 - 400),
        "square": 300 * (t // 37 % 2),
        "few": rng.choice([-90, 0, 5, 210], n),
        "two halves": np.where(t < n // 2, walk, t * 7 % 400),
    }[kind]
    return np.clip(found, -1000, 1000).astype(np.int16)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return series_bundle(tmp_path_factory.mktemp("heats") / "b")


def sizes(data: bytes) -> list[int]:
    frames = FrameReader(io.BytesIO(data))
    return [len(frame.payload) + len(frame.exceptions) for frame in frames]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_makes_no_frame_larger(bundle, kind):
    x = signal(kind)
    for options in ({"lossless": True}, {"max_error": 2}):
        for length in (600, len(x)):
            shared = {"frame_length": length, "grid": list(bundle.signal.grids), **options}
            pairs = (edgeae.encode(model, x, **shared) for model in (bundle, None))
            assert all(a <= b + 1 for a, b in zip(*map(sizes, pairs), strict=True))


@pytest.mark.skipif(native.core is None, reason="the C extension is not built")
def test_every_engine_sends_the_same_priors_on(bundle, monkeypatch):
    x = signal("pairs")
    data = edgeae.encode(bundle, x, max_error=2, frame_length=len(x))
    monkeypatch.setattr(native, "core", None)
    assert edgeae.encode(bundle, x, max_error=2, frame_length=len(x)) == data


def test_a_beaten_prior_does_not_code_the_rest(bundle, monkeypatch):
    """The beginning of a long frame is coded both ways, the frame one way."""
    coded = []
    code = FrameCodec._by_prior

    def watched(self, way, pairs, *more):
        coded.extend((way, x.shape[1]) for x, _ in pairs)
        return code(self, way, pairs, *more)

    monkeypatch.setattr(FrameCodec, "_by_prior", watched)
    x = signal("pairs", 4096)
    edgeae.encode(bundle, x, max_error=2, frame_length=len(x))
    assert sorted(n for _, n in coded) == [256, 256, 4096]
    coded.clear()
    edgeae.encode(bundle, x[:600], max_error=2, frame_length=600)
    assert [n for _, n in coded] == [600, 600]


def test_the_beginning_is_a_small_part():
    assert beginning(np.zeros((1, 2047, 3), np.int32)) is None
    assert beginning(np.zeros((1, 2048, 3), np.int32)).shape == (1, 256, 3)
    assert beginning(np.zeros((1, 1 << 20, 3), np.int32)).shape == (1, 4096, 3)
    assert beginning(np.zeros((64, 784, 1), np.int32)).shape == (4, 784, 1)
    assert beginning(np.zeros((4, 784, 1), np.int32)) is None


def test_the_close_ones_go_on():
    assert winners([1000, 1033, None, 1200, 999]) == [4, 0, 1]
    assert winners([None, None]) == [0, 1]
