"""The recalling codec: the bound holds, C equals Python, what repeats is cheap."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_classical import LIMIT, needs_c

import edgeae
from edgeae.bitstream import recall
from edgeae.bitstream.classical import encode_classical
from edgeae.bitstream.frame import Mode
from edgeae.bitstream.reader import FrameReader
from edgeae.bitstream.recall import decode_recall, encode_recall
from edgeae.errors import CorruptError, SignalError

deltas = st.sampled_from([1, 3, 11, 255, 99_999, LIMIT])
signals = hnp.arrays(
    np.int32,
    st.tuples(st.integers(1, 60), st.integers(1, 3)),
    elements=st.one_of(st.integers(-3, 3), st.integers(-LIMIT, LIMIT)),
)


def patterns(n: int = 900, seed: int = 0) -> np.ndarray:
    """Stretches that come again in any order, at any level, with a little noise: int32 [n, 1]."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(-40, 41, (6, 30))
    jumps = np.concatenate([shapes[i] for i in rng.integers(0, 6, n // 30 + 1)])[:n]
    return np.cumsum(jumps + rng.integers(0, 40, n) // 39).astype(np.int32)[:, None]


@given(signals, deltas)
@settings(max_examples=60)
def test_keeps_every_bound(x, delta):
    payload, recon = encode_recall(x, delta)
    assert np.abs(recon.astype(np.int64) - x).max() <= delta // 2
    assert np.array_equal(decode_recall(payload, *x.shape, delta), recon)


@needs_c
@given(signals, deltas)
@settings(max_examples=40)
def test_python_writes_and_reads_what_c_does(x, delta):
    same_in_python(x, delta)


@needs_c
@pytest.mark.parametrize("delta", [1, 301])
def test_python_equals_c_on_longer_signals(delta):
    """Long enough for matches, for slots that two contexts want, and for numbers of all sizes."""
    rng = np.random.default_rng(1)
    wide = (rng.standard_cauchy((250, 2)) * 1e6).clip(-LIMIT, LIMIT).astype(np.int32)
    for x in (patterns(), wide):
        same_in_python(x, delta)


def same_in_python(x: np.ndarray, delta: int) -> None:
    payload, recon = encode_recall(x, delta)
    limits = (len(payload), max(len(payload) - 1, 0), len(payload) // 2)
    within = [encode_recall(x, delta, limit) is None for limit in limits]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall, "core", None)
        assert encode_recall(x, delta)[0] == payload
        assert np.array_equal(decode_recall(payload, *x.shape, delta), recon)
        assert [encode_recall(x, delta, limit) is None for limit in limits] == within


def test_what_came_before_costs_little():
    x = patterns(6000)
    assert len(encode_recall(x, 1)[0]) < 0.5 * len(encode_classical(x, 1)[0])


@given(st.binary(max_size=200), st.integers(1, 200), deltas)
@settings(max_examples=60)
def test_any_bytes_end_in_samples_or_an_error(data, n, delta):
    with contextlib.suppress(CorruptError):
        assert decode_recall(data, n, 1, delta).shape == (n, 1)


def test_refuses_what_it_cannot_code():
    for x in (np.zeros((0, 1), np.int32), np.array([[1 << 30]], np.int32)):
        with pytest.raises(SignalError, match="at least one index"):
            encode_recall(x, 1)


@pytest.mark.parametrize("max_error", [None, 2.0])
def test_streams_take_it_where_it_is_smallest(max_error):
    x = patterns(4000).astype(np.int16)
    promise = {"lossless": True} if max_error is None else {"max_error": max_error}
    data = edgeae.encode(None, x, frame_length=2000, **promise)
    assert [frame.mode for frame in FrameReader(io.BytesIO(data))] == [Mode.RECALL] * 2
    assert np.abs(edgeae.decode(None, data).astype(int) - x).max() <= (max_error or 0)
