"""Long frames in pieces: where it pays, and nowhere else."""

from __future__ import annotations

import io

import numpy as np
import pytest
from test_classical import needs_c

import edgeae
from edgeae.bitstream.reader import FrameReader
from edgeae.tasks import pieces


def tones(n: int, changing: bool) -> np.ndarray:
    """A tone whose pitch stays, or changes every 4,096 samples: int16 [n]."""
    rng = np.random.default_rng(0)
    pitch = 0.2 + 0.3 * rng.random(-(-n // 4096)) if changing else np.full(-(-n // 4096), 0.3)
    phase = np.cumsum(np.repeat(pitch, 4096)[:n])
    return np.rint(8000 * np.sin(phase) + rng.normal(0, 2, n)).astype(np.int16)


def lengths(data: bytes) -> list[int]:
    return [frame.n_items for frame in FrameReader(io.BytesIO(data))]


@needs_c
def test_a_long_frame_is_cut_where_the_signal_changes():
    x = tones(20_000, changing=True)
    data = edgeae.encode(None, x, lossless=True)
    assert lengths(data) == [4096] * 4 + [20_000 - 4 * 4096]
    assert np.array_equal(edgeae.decode(None, data), x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_PIECE_ITEMS", 1 << 20)
        assert len(data) < len(edgeae.encode(None, x, lossless=True))


@needs_c
def test_the_cut_is_the_same_however_the_samples_come():
    x = tones(20_000, changing=True)
    encoder = edgeae.StreamEncoder(None, lossless=True)
    data = b"".join(encoder.write(x[i : i + 777]) for i in range(0, len(x), 777))
    assert data + encoder.close() == edgeae.encode(None, x, lossless=True)


@needs_c
def test_a_steady_signal_stays_whole():
    assert lengths(edgeae.encode(None, tones(20_000, changing=False), lossless=True)) == [20_000]
