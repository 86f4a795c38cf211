"""Decimals as a fast parser reads them: a few ulps beside, but by a rule."""

from __future__ import annotations

import io

import numpy as np
import pytest

import edgeae
from edgeae.bitstream.header import StreamHeader
from edgeae.bitstream.reader import FrameReader
from edgeae.errors import ConfigError
from edgeae.signal.grid import Grid, detect_grid


def fast(text: str) -> float:
    """A number as such a parser reads it: digits first, then the point, by squaring."""
    whole, _, part = text.partition(".")
    value, power, left = float(int(whole + part)), 10.0, len(part)
    while left:
        if left & 1:
            value /= power
        left >>= 1
        power *= power
    return value


def parsed(n: int = 3000, digits: int = 3) -> np.ndarray:
    walk = 45_000 + np.cumsum(np.random.default_rng(0).integers(-60, 61, n))
    return np.array([fast(f"{v / 10**digits:.{digits}f}".rstrip("0")) for v in walk])


@pytest.mark.parametrize(("step", "digits"), [((1, 1000), 3), ((1, 10**5), 5), ((1, 10**9), 9)])
def test_reads_decimals_as_the_parser_does(step, digits):
    x = parsed(digits=digits)
    grid = Grid(*step, parsed=True)
    assert grid.to_index(x)[1].all()
    assert not Grid(*step).to_index(x)[1].all()
    n = np.array([0, -45752, 46030, 10, -5], np.int32)
    values = Grid(1, 1000, parsed=True).to_values(n, np.float64)
    assert values.tolist() == [0.0, -fast("45.752"), 46.03, 0.01, -0.005]
    assert eval(repr(grid)) == grid == Grid(*grid.spec)


def test_finds_it_and_prefers_true_decimals():
    assert detect_grid(parsed()) == Grid(1, 1000, parsed=True)
    assert detect_grid(np.rint(parsed() * 1000) / 1000) == Grid(1, 1000)


def test_a_stream_of_it_needs_no_ulps():
    x = parsed()
    data = edgeae.encode(None, x, lossless=True)
    reader = FrameReader(io.BytesIO(data))
    assert reader.header.grids == ((1, 1000, False, True),)
    assert not any(frame.exceptions for frame in reader)
    assert edgeae.decode(None, data).tobytes() == x.tobytes()
    data = edgeae.encode(None, x, max_error=0.01)
    assert np.abs(edgeae.decode(None, data) - x).max() <= 0.01


def test_what_is_no_decimal_is_not_parsed():
    for step in ((1, 3), (981, 409600), (1, 10**16), (1 << 23, 1)):
        with pytest.raises(ConfigError, match="decimals"):
            Grid(*step, parsed=True)
    with pytest.raises(ConfigError, match="third entry"):
        StreamHeader(dtype="float32", channels=1, frame_length=8, grids=((1, 10, False, True),))
    header = StreamHeader(
        dtype="float64", channels=1, frame_length=8, grids=((1, 10, False, True),)
    )
    assert StreamHeader.unpack(header.pack())[0] == header
