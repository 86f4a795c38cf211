"""The frequency tables: laws of the tables, round trips, sizes, C equals Python."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeae.bitstream import CdfFamily, RangeDecoder, RangeEncoder, laplace_shape, logistic_shape
from edgeae.bitstream.cdf import MAX_DELTA, MAX_SHIFT, N_SCALES, SCALE16, SHAPE_POINTS, check_shape
from edgeae.errors import ConfigError, CorruptError
from edgeae.native import core

needs_core = pytest.mark.skipif(core is None, reason="the C extension is not built")
deltas = st.one_of(st.integers(0, 200), st.integers(0, (MAX_DELTA - 1) // 2)).map(
    lambda e: 2 * e + 1
)
shifts = st.integers(0, MAX_SHIFT)
shapes = st.one_of(
    st.just(logistic_shape()),
    st.just(laplace_shape()),
    st.just(np.zeros(SHAPE_POINTS, np.uint16)),
    st.just(np.full(SHAPE_POINTS, 65535, np.uint16)),
    st.integers(0, 1 << 32).map(
        lambda seed: np.sort(
            np.random.default_rng(seed).integers(0, 65536, SHAPE_POINTS, dtype=np.uint16)
        )
    ),
)
families = st.builds(CdfFamily, shapes, deltas, shifts)
triples = st.tuples(
    st.integers(0, N_SCALES - 1),
    st.integers(-128, 127),
    st.one_of(st.integers(-20, 20), st.integers(-(2**31) + 1, 2**31 - 1)),
)


def test_the_scales_are_powers_of_two_to_sixths() -> None:
    assert list(SCALE16) == [max(2, round(16 * 2 ** ((ls - 18) / 6))) for ls in range(N_SCALES)]


def test_known_shapes_do_not_hang_on_the_last_bit_of_exp() -> None:
    z = -12 + np.arange(192) / 16
    for values in (65535 / (1 + np.exp(-z)), 65535 * 0.5 * np.exp(z)):
        assert np.min(np.abs(values % 1 - 0.5)) > 1e-5


@needs_core
def test_known_shapes_in_c() -> None:
    assert core is not None
    logistic, laplace = core.known_shapes()
    assert logistic == logistic_shape().tobytes()
    assert laplace == laplace_shape().tobytes()


@given(families, st.integers(0, N_SCALES - 1), st.integers(-128, 127))
def test_every_symbol_has_room(family: CdfFamily, ls: int, frac16: int) -> None:
    table = family.table(ls, frac16)
    assert table[0] == 0
    assert table[-1] == 65536
    assert len(table) == 2 * family.reach[ls] + 4
    assert all(a < b for a, b in itertools.pairwise(table))


def naive_cum(family: CdfFamily, ls: int, frac16: int, j: int) -> int:
    """The definition in FORMAT.md, in Python's own integers."""
    s = SCALE16[ls] << family.shift
    n = 2 * family.reach[ls] + 3
    edge = 16 * (family.delta << family.low_bits[ls]) * j - 8 * family.delta - frac16
    edge = max(-16 * s, min(16 * s, edge))
    b = s.bit_length()
    mult = ((1 << (24 + b)) + s // 2) // s
    z = max(1 - 49152, min(49151, (edge * mult) >> (12 + b))) + 49152
    left, right = int(family.shape[z >> 8]), int(family.shape[(z >> 8) + 1])
    t = (left * (256 - (z & 255)) + right * (z & 255)) >> 8
    return j + family.reach[ls] + 1 + ((t * (65536 - n)) >> 16)


@given(families, st.integers(0, N_SCALES - 1), st.integers(-128, 127))
def test_tables_follow_the_definition(family: CdfFamily, ls: int, frac16: int) -> None:
    reach = family.reach[ls]
    table = family.table(ls, frac16)
    assert table[1:-1] == [naive_cum(family, ls, frac16, j) for j in range(-reach, reach + 2)]


@pytest.mark.parametrize("delta", [1, 3, 41, 1001])
def test_tables_are_close_to_the_distribution(delta: int) -> None:
    family = CdfFamily(logistic_shape(), delta, 2)
    for ls in range(0, N_SCALES, 7):
        s = SCALE16[ls] * 4 / 16
        width = delta << family.low_bits[ls]
        reach = family.reach[ls]
        for frac16 in (-8, 0, 7):
            table = family.table(ls, frac16)
            for j in range(-reach, reach + 2):
                z = (width * j - delta / 2 - frac16 / 16) / s
                exact = 1 / (1 + math.exp(-max(-50, min(50, z))))
                assert abs(table[j + reach + 1] / 65536 - exact) < 0.005


@settings(max_examples=60)
@given(families, st.lists(triples, max_size=60))
def test_round_trip(family: CdfFamily, items: list[tuple[int, int, int]]) -> None:
    encoder = RangeEncoder()
    for ls, frac16, k in items:
        family.encode(encoder, ls, frac16, k)
    payload = encoder.finish()
    decoder = RangeDecoder(payload)
    for ls, frac16, k in items:
        assert family.decode(decoder, ls, frac16) == k
    decoder.finish()
    if items:
        ls_a, frac_a, k_a = (np.array(v) for v in zip(*items, strict=True))
        ideal = family.code_bits(ls_a, frac_a, k_a).sum() / 8
        assert ideal * 0.995 - 4 <= len(payload) <= ideal * 1.005 + 4


@needs_core
@settings(max_examples=100)
@given(families, st.lists(triples, max_size=60), st.binary(max_size=30))
def test_c_equals_python(family: CdfFamily, items: list[tuple[int, int, int]], junk: bytes) -> None:
    assert core is not None
    ls = np.array([i[0] for i in items], np.uint8)
    frac = np.array([i[1] for i in items], np.int8)
    k = np.array([i[2] for i in items], np.int32)
    args = (family.shape, family.delta, family.shift, ls, frac)
    encoder = RangeEncoder()
    for item in items:
        family.encode(encoder, *item)
    payload = core.cdf_encode(*args, k)
    assert payload == encoder.finish()
    back = np.zeros(len(items), np.int64)
    assert core.cdf_decode(payload, *args, back)
    assert np.array_equal(back, k)
    for damaged in (payload[:-3], payload[:2] + junk, junk):
        good = core.cdf_decode(damaged, *args, back)
        decoder = RangeDecoder(damaged)
        try:
            mine = [family.decode(decoder, a, b) for a, b, _ in items]
            decoder.finish()
        except CorruptError:
            assert not good
        else:
            assert good
            assert back.tolist() == mine


@needs_core
def test_c_refuses_wrong_arguments() -> None:
    assert core is not None
    shape, one = logistic_shape(), np.zeros(1, np.uint8)
    k = np.zeros(1, np.int32)
    for args in (
        (shape[:-1], 1, 0, one, one, k),
        (shape, 0, 0, one, one, k),
        (shape, 1, 21, one, one, k),
        (shape, 1, 0, one, one, k[:0]),
        (shape, 1, 0, one + 64, one, k),
        (shape, 1, 0, one, one, k.tobytes() + b"."),
    ):
        with pytest.raises(ValueError, match=r"out of range|expected|needs"):
            core.cdf_encode(*args)


def test_wrong_families_are_refused() -> None:
    for shape in (np.zeros(3, np.uint16), np.zeros(385), np.arange(385, 0, -1, dtype=np.uint16)):
        with pytest.raises(ConfigError, match="shape"):
            check_shape(shape)
    with pytest.raises(ConfigError, match="delta"):
        CdfFamily(logistic_shape(), 0)
    with pytest.raises(ConfigError, match="shift"):
        CdfFamily(logistic_shape(), 1, 21)
