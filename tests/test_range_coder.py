"""The range coder: round trips, sizes, damaged bytes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeae.bitstream import RangeDecoder, RangeEncoder
from edgeae.errors import CorruptError, SignalError

# A script of coder calls: ("s", cum, freq), ("b", value, n) or ("g", value, k).
intervals = st.integers(0, 65535).flatmap(
    lambda cum: st.tuples(st.just("s"), st.just(cum), st.integers(1, 65536 - cum))
)
raw_bits = st.integers(0, 32).flatmap(
    lambda n: st.tuples(st.just("b"), st.integers(0, (1 << n) - 1), st.just(n))
)
escapes = st.integers(0, 12).flatmap(
    lambda k: st.tuples(st.just("g"), st.integers(0, (1 << 32) - (1 << k) - 1), st.just(k))
)
Script = list[tuple[str, int, int]]
scripts = st.lists(st.one_of(intervals, raw_bits, escapes), max_size=200)


def write(script: Script) -> bytes:
    encoder = RangeEncoder()
    for kind, a, b in script:
        {"s": encoder.encode, "b": encoder.bits, "g": encoder.golomb}[kind](a, b)
    return encoder.finish()


def check(payload: bytes, script: Script) -> None:
    decoder = RangeDecoder(payload)
    for kind, a, b in script:
        if kind == "s":
            assert a <= decoder.target() < a + b
            decoder.consume(a, b)
        elif kind == "b":
            assert decoder.bits(b) == a
        else:
            assert decoder.golomb(b) == a
    decoder.finish()


@given(scripts)
def test_round_trip(script: Script) -> None:
    check(write(script), script)


@given(st.lists(intervals, max_size=300))
def test_size_is_the_information(script: Script) -> None:
    ideal = sum(16 - math.log2(freq) for _, _, freq in script) / 8
    assert len(write(script)) <= ideal * 1.003 + 2


def test_carries_run_through_whole_runs_of_ff() -> None:
    # 0xFFFF... is approached from below, then the last symbols push it over.
    for n in range(1, 40):
        for last in (0, 1, 65535):
            script = [("s", 65535, 1)] * n + [("s", last, 1)] * 3
            check(write(script), script)
            script = [("s", 32767, 2), *[("s", 65535, 1)] * n, ("s", last, 65536 - last)]
            check(write(script), script)


def test_zeros_at_the_end_are_dropped_but_never_too_many() -> None:
    assert write([]) == b""
    script = [("b", 0, 16)] * 100
    payload = write(script)
    assert len(payload) == 196
    check(payload, script)


def test_escapes_have_a_largest_value() -> None:
    with pytest.raises(SignalError, match="escaped"):
        RangeEncoder().golomb((1 << 32) - 8, 3)
    with pytest.raises(SignalError, match="escaped"):
        RangeEncoder().golomb(-1, 3)


@given(st.binary(max_size=40), st.lists(st.integers(0, 5), min_size=100, max_size=100))
def test_any_bytes_end_in_symbols_or_corrupt_error(payload: bytes, calls: list[int]) -> None:
    decoder = RangeDecoder(payload)
    try:
        for call in calls * 4:
            if call == 0:
                assert 0 <= decoder.golomb(3) < 1 << 32
            elif call == 1:
                assert 0 <= decoder.bits(20) < 1 << 20
            else:
                target = decoder.target()
                assert 0 <= target <= 65535
                cum = target // 1000 * 1000
                decoder.consume(cum, min(1000, 65536 - cum))
        decoder.finish()
    except CorruptError:
        pass


def test_reading_on_past_the_end_is_noticed() -> None:
    decoder = RangeDecoder(b"\x12\x34")
    with pytest.raises(CorruptError, match="ran out"):
        [decoder.bits(16) for _ in range(20)]


def test_an_endless_escape_is_noticed() -> None:
    with pytest.raises(CorruptError):
        RangeDecoder(b"\xff" * 40).golomb(3)


@settings(max_examples=50)
@given(scripts, st.binary(min_size=1, max_size=5))
def test_bytes_left_over_are_noticed(script: Script, extra: bytes) -> None:
    payload = write(script) + b"\0" * 8 + extra
    decoder = RangeDecoder(payload)
    for kind, a, b in script:
        if kind == "s":
            decoder.consume(a, b)
        elif kind == "b":
            decoder.bits(b)
        else:
            decoder.golomb(b)
    with pytest.raises(CorruptError, match="left"):
        decoder.finish()
