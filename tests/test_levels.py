"""The recalling codec for pictures: the bound holds, C equals Python, few levels are cheap."""

from __future__ import annotations

import contextlib
import io
import lzma
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_classical import LIMIT, needs_c

import edgeae
from edgeae.bitstream import levels
from edgeae.bitstream.frame import Mode
from edgeae.bitstream.levels import MAX_LEVELS, decode_levels, encode_levels
from edgeae.bitstream.reader import FrameReader
from edgeae.errors import CorruptError, SignalError
from edgeae.tasks.codec import FrameCodec

deltas = st.sampled_from([1, 3, 11, 255, 99_999])


@st.composite
def pictures(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, int]]:
    """Indices [N * H * W, C] of up to 16 different values, and (H, W)."""
    height, width, n = (draw(st.integers(1, high)) for high in (6, 6, 4))
    values = draw(st.lists(st.integers(-LIMIT, LIMIT), min_size=1, max_size=16))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    shape = n * height * width, draw(st.integers(1, 3))
    return np.array(values, np.int32)[rng.integers(0, len(values), shape)], (height, width)


def strokes(n: int, size: int = 24, seed: int = 0) -> np.ndarray:
    """Thick lines in white on black, soft at their edges: uint8 [n, size, size]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    out = np.zeros((n, size, size))
    for picture in out:
        for _ in range(3):
            (a, b), turn = rng.uniform(4, size - 4, 2), rng.uniform(0, np.pi)
            across = np.abs((x - a) * np.sin(turn) - (y - b) * np.cos(turn))
            np.maximum(picture, np.clip(2.5 - across, 0, 1) * 255, out=picture)
    return out.astype(np.uint8)


@given(pictures(), deltas)
@settings(max_examples=60)
def test_keeps_every_bound(pair, delta):
    x, size = pair
    payload, recon = encode_levels(x, delta, size)
    assert np.abs(recon.astype(np.int64) - x).max() <= delta // 2
    assert np.array_equal(decode_levels(payload, *x.shape, size), recon)


@needs_c
@given(pictures(), deltas)
@settings(max_examples=40)
def test_python_writes_and_reads_what_c_does(pair, delta):
    same_in_python(*pair, delta)


@needs_c
@pytest.mark.parametrize("delta", [1, 7, 91])
def test_python_equals_c_on_larger_pictures(delta):
    """Enough pixels for slots that two pasts want, and for counts that are halved."""
    x = strokes(8).astype(np.int32).reshape(-1, 1)
    x = np.concatenate([x if delta > 1 else x // 5, np.sign(x)], axis=1)
    same_in_python(x, (24, 24), delta)


def same_in_python(x: np.ndarray, size: tuple[int, int], delta: int) -> None:
    payload, recon = encode_levels(x, delta, size)
    limits = (len(payload), max(len(payload) - 1, 0), len(payload) // 2)
    within = [encode_levels(x, delta, size, limit) is None for limit in limits]
    assert within[:2] == [False, len(payload) > 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "core", None)
        assert encode_levels(x, delta, size)[0] == payload
        assert np.array_equal(decode_levels(payload, *x.shape, size), recon)
        assert [encode_levels(x, delta, size, limit) is None for limit in limits] == within


def test_no_fewer_levels_would_do():
    x = np.array([[0], [4], [5], [10], [11], [-3]], np.int32)
    _, recon = encode_levels(x, 11, (2, 3))
    assert np.unique(recon).size == 2
    assert np.unique(encode_levels(x, 9, (2, 3))[1]).size == 2
    assert np.unique(encode_levels(x, 7, (2, 3))[1]).size == 3


def test_many_levels_are_left_to_others():
    ramp = np.arange(MAX_LEVELS + 1, dtype=np.int32).repeat(8)[:, None]
    assert encode_levels(ramp, 1, (1, len(ramp))) is None
    assert encode_levels(ramp[:-8], 1, (1, len(ramp) - 8)) is not None
    noise = np.random.default_rng(0).integers(0, 17, (4096, 1)).astype(np.int32)
    assert encode_levels(noise, 1, (64, 64)) is None
    assert encode_levels(noise // 2, 1, (64, 64)) is not None


@given(st.binary(max_size=200), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=60)
@pytest.mark.parametrize("pure", [False, True], ids=["c", "python"])
def test_any_bytes_end_in_samples_or_an_error(pure, data, n, height, width):
    with pytest.MonkeyPatch.context() as patch:
        if pure:
            patch.setattr(levels, "core", None)
        with contextlib.suppress(CorruptError):
            shape = (n * height * width, 1)
            assert decode_levels(data, *shape, (height, width)).shape == shape


def test_refuses_what_it_cannot_code():
    for x in (np.zeros((0, 1), np.int32), np.array([[1 << 30]], np.int32)):
        with pytest.raises(SignalError, match="at least one index"):
            encode_levels(x, 1, (1, 1))
    with pytest.raises(SignalError, match="not a whole number"):
        encode_levels(np.zeros((7, 1), np.int32), 1, (2, 3))


@pytest.mark.parametrize("error", [0, 10, 40])
def test_streams_take_it_where_it_is_smallest(error):
    """Fewer bytes than xz -9e, which sees all pictures at once, and never a pixel too far off."""
    x = strokes(96)
    if not error:
        x = x // 64
    promise = {"max_error": error} if error else {"lossless": True}
    data = edgeae.encode(None, x, frame_length=48, **promise)
    assert [frame.mode for frame in FrameReader(io.BytesIO(data))] == [Mode.RECALL] * 2
    assert np.abs(edgeae.decode(None, data).astype(int) - x).max() <= error
    coarse = np.rint(x / (2 * error + 1)).astype(np.uint8)
    assert len(data) < len(lzma.compress(coarse.tobytes(), preset=9 | lzma.PRESET_EXTREME))


def test_a_series_must_not_be_read_as_pictures():
    x = np.tile([3, 500, -20, 7], 600).astype(np.int16)
    reader = FrameReader(io.BytesIO(edgeae.encode(None, x, lossless=True)))
    (frame,) = reader
    assert frame.mode is Mode.RECALL
    header = replace(reader.header, image_size=(40, 60), frame_length=1)
    with pytest.raises(CorruptError):
        FrameCodec(header, None).decode([replace(frame, n_items=1)])
