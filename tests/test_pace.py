"""Marks and paces: noted alike in every engine, and kept or not to the byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_classical import needs_c
from test_priors import ENGINES, engine, random_frames, random_prior, steps_of

from edgeae.bitstream import recall
from edgeae.bitstream.pace import N_MARKS, Marks, Paced, even_pace, spread
from edgeae.bitstream.recall import encode_recall
from edgeae.runtime.sample_prior import encode_samples
from edgeae.tasks.heats import close_behind, to_overtake


@given(st.integers(0, 5000), st.integers(0, 3))
@settings(max_examples=40)
def test_marks_stand_at_their_shares(n: int, per_item: int) -> None:
    paced = Paced(n)
    assert all(paced.count(per_item * (i + 1)) for i in range(n))
    at = [n // 32, n // 16, *(n * k // 8 for k in range(1, 8))]
    # a place before the first item is noted with it
    assert paced.marks.tolist() == [per_item * max(a, 1) if n else 0 for a in at]


@pytest.mark.parametrize("delta", [1, 7])
@pytest.mark.parametrize("seed", range(6))
def test_a_prior_keeps_its_own_pace_and_no_faster_one(seed: int, delta: int) -> None:
    prior = random_prior(seed)
    frames, codes = random_frames(seed, prior, 9)
    full = [i for i, frame in enumerate(frames) if frame.size]
    frames = [frames[i] for i in full]
    codes = codes and [codes[i] for i in full]
    steps = steps_of(prior, delta)
    noted, given_up = [], []
    for name in ENGINES:
        with engine(name):
            marks = np.zeros((len(frames), N_MARKS), np.int64)
            free = encode_samples(prior, frames, steps, codes, marks=marks)
            noted.append(marks)
            kept = encode_samples(prior, frames, steps, codes, paces=list(marks))
            for a, b in zip(free, kept, strict=True):
                assert a is not None
                assert b is not None
                assert a[0] == b[0]
            assert (np.diff(marks) >= 0).all()
            assert (marks[:, -1] <= [len(found[0]) for found in free if found]).all()
            for k in range(N_MARKS):
                paces: list[Marks | None] = [own - (np.arange(N_MARKS) == k) for own in marks]
                found = encode_samples(prior, frames, steps, codes, paces=paces)
                given_up.append(all(coded is None for coded in found))
    assert all(given_up)
    assert all(np.array_equal(noted[0], marks) for marks in noted)


@needs_c
@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_recalling_gives_up_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-40, 40, (int(rng.integers(1, 300)), int(rng.integers(1, 3)))).astype(np.int32)
    size = len(encode_recall(x, 3)[0])
    pace = spread(size) + rng.integers(-2, 40, N_MARKS)
    payloads = [encode_recall(x, 3, None, pace)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall, "core", None)
        payloads.append(encode_recall(x, 3, None, pace))
    assert (payloads[0] is None) == (payloads[1] is None)
    assert encode_recall(x, 3, None, pace * 0 - 1) is None


def test_paces_leave_room() -> None:
    marks = spread(3200)
    assert marks.tolist() == [100, 200, 400, 800, 1200, 1600, 2000, 2400, 2800]
    for pace in (close_behind(marks), to_overtake(marks)):
        assert (pace >= marks).all()
        assert ((pace - marks) * 8 <= marks + 8 * 64).all()
    assert (even_pace(3200)[:3] > 1 << 60).all()
    assert (even_pace(3200) > marks).all()
