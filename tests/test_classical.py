"""The classical codec: the bound holds, C equals Python, damaged bytes end well."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeae.bitstream import classical_kernel
from edgeae.bitstream.classical import decode_classical, encode_classical
from edgeae.bitstream.classical_loop import BOOK
from edgeae.bitstream.classical_params import (
    PLANAR,
    ChannelParams,
    Raster,
    read_params,
    write_params,
)
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.errors import CorruptError, SignalError
from edgeae.native import core

LIMIT = (1 << 30) - 1
needs_c = pytest.mark.skipif(core is None, reason="the extension is not built")

deltas = st.sampled_from([1, 3, 11, 255, 99_999, LIMIT])
orders = st.integers(1, 16)


@st.composite
def params(draw: Any, channel: int = 0, planar: bool = False, tools: bool = False) -> ChannelParams:
    base = draw(st.integers(0, 32 if planar else 31))
    filter_ = draw(st.integers(0, 15))
    reference = draw(st.integers(-1, channel - 1))
    order = base - 15 if 15 < base < PLANAR else 0
    plain = ChannelParams(
        base=base,
        filter=filter_,
        reference=reference,
        start=draw(st.integers(0, 15)),
        center=draw(st.integers(-1000, 1000)),
        gain=draw(st.integers(-32, 31)) if reference >= 0 else 0,
        reflection=tuple(draw(st.lists(st.integers(-63, 63), min_size=order, max_size=order))),
    )
    return draw(with_tools(plain)) if tools and base < PLANAR else plain


@st.composite
def with_tools(draw: Any, plain: ChannelParams) -> ChannelParams:
    bits = draw(st.integers(0, 16))
    pitch = draw(st.sampled_from([0, 1 << bits, 3 << bits, (77 << bits) + 5, (1 << 30) - 1]))
    phase = draw(st.integers(-1, pitch - 1)) if pitch else -1
    lag = draw(st.sampled_from([0, 1, 2, 17, 59, 1000])) if plain.reference < 0 else 0
    return plain._replace(
        pitch=pitch,
        pitch_bits=bits if pitch else 0,
        phase=phase,
        tally=draw(st.sampled_from([0, 1, 2, 9, 29])),
        lag=lag,
        gain=draw(st.integers(-32, 31)) if lag else plain.gain,
    )


def signal(kind: str, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    x = {
        "zero": np.zeros(n),
        "ramp": 7 * t,
        "steps": 100_000 * (t // 37 % 2),
        "sparse": (rng.random(n) < 0.02) * 2.0**29,
        "walk": np.cumsum(rng.normal(0, 5, n)),
        "sine": 1000 * np.sin(t / 9) + rng.normal(0, 1, n),
        "noise": rng.integers(-LIMIT, LIMIT, n),
        "edges": np.where(t % 2, LIMIT, -LIMIT),
    }[kind]
    return np.rint(x).astype(np.int32)[:, None]


KINDS = ["zero", "ramp", "steps", "sparse", "walk", "sine", "noise", "edges"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delta", [1, 3, 1001, LIMIT])
def test_the_bound_holds(kind: str, delta: int) -> None:
    x = signal(kind, 500)
    payload, recon = encode_classical(x, delta)
    assert recon.dtype == np.int32
    assert np.abs(recon.astype(np.int64) - x).max() <= delta // 2
    assert np.array_equal(decode_classical(payload, 500, 1, delta), recon)
    assert len(payload) <= 4 * x.size + 40


@pytest.mark.parametrize("n", [1, 2, 3, 17, 63, 64, 65])
def test_short_segments(n: int) -> None:
    x = np.concatenate([signal("walk", n), signal("sine", n)], axis=1)
    payload, recon = encode_classical(x, 1)
    assert np.array_equal(recon, x)
    assert np.array_equal(decode_classical(payload, n, 2, 1), x)


@needs_c  # for speed
def test_long_segments_are_searched_in_parts() -> None:
    x = signal("walk", 20_000)
    payload, _ = encode_classical(x, 1)
    assert np.array_equal(decode_classical(payload, 20_000, 1, 1), x)
    assert len(payload) * 8 / x.size < 4.5  # the differences' entropy is 4.37 bit


@needs_c  # for speed
def test_a_quiet_signal_takes_next_to_nothing() -> None:
    x = signal("zero", 65_536)
    assert len(encode_classical(x, 1)[0]) < 16


@needs_c  # for speed
def test_a_copied_channel_is_nearly_free() -> None:
    x = signal("noise", 2000) >> 14
    alone = len(encode_classical(x, 1)[0])
    both = len(encode_classical(np.concatenate([x, x], axis=1), 1)[0])
    assert both < 1.1 * alone


@needs_c  # for speed
def test_pictures_use_the_row_above() -> None:
    rng = np.random.default_rng(3)
    rows = np.cumsum(rng.normal(0, 9, (40, 1, 1)), 0) + np.cumsum(rng.normal(0, 9, (1, 30, 1)), 1)
    x = np.rint(rows + rng.normal(0, 1, rows.shape)).astype(np.int32).reshape(-1, 1)
    payload, _ = encode_classical(x, 1, image_size=(20, 30))
    assert len(payload) < 540  # 790 by the pixels before, 310 if the noise alone were coded
    assert np.array_equal(decode_classical(payload, 1200, 1, 1, image_size=(20, 30)), x)


def test_channels_may_have_steps_of_their_own() -> None:
    x = np.concatenate([signal("walk", 150), signal("sine", 150), signal("walk", 150, 1)], axis=1)
    steps = (1, 31, 5)
    payload, recon = encode_classical(x, steps)
    assert np.array_equal(decode_classical(payload, 150, 3, steps), recon)
    worst = np.abs(recon - x).max(axis=0)
    assert worst[0] == 0
    assert 2 < worst[1] <= 15
    assert 0 < worst[2] <= 2
    assert encode_classical(x[:50], (5, 5, 5))[0] == encode_classical(x[:50], 5)[0]
    assert len(encode_classical(x, 1)[0]) > len(payload) > len(encode_classical(x, 31)[0])


def test_bad_arguments_are_named() -> None:
    for delta in (0, 4, -1, 1 << 30, (1, 1), ()):
        with pytest.raises(SignalError, match="delta"):
            encode_classical(signal("walk", 10), delta)
        with pytest.raises(SignalError, match="delta"):
            decode_classical(b"", 10, 1, delta)
    for x in (np.array([[1 << 30]], np.int32), np.empty((0, 1), np.int32)):
        with pytest.raises(SignalError, match="classical"):
            encode_classical(x, 1)
    with pytest.raises(SignalError, match="pictures"):
        encode_classical(signal("walk", 10), 1, image_size=(3, 3))


# --- C equals Python --------------------------------------------------------------------------


@needs_c
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_c_and_python_write_the_same_bytes(data: st.DataObject) -> None:
    planar = data.draw(st.booleans())
    raster = Raster(5, 4) if planar else Raster()
    tools = data.draw(st.booleans())
    chosen = [data.draw(params(c, planar, tools)) for c in range(data.draw(st.integers(1, 3)))]
    delta = [data.draw(deltas) for _ in chosen]
    seed = data.draw(st.integers(0, 99))
    kinds = [data.draw(st.sampled_from(KINDS)) for _ in chosen]
    rows = np.stack([signal(kind, 60, seed)[:, 0] for kind in kinds])
    # keep every centre within what a reader allows
    chosen = [
        p if abs(p.center_index(d)) <= LIMIT else p._replace(center=0)
        for p, d in zip(chosen, delta, strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        fast = classical_kernel.encode_rows(rows, delta, raster, chosen)
        size = (4, 5) if planar else None
        fast_back = decode_classical(fast[0], 60, len(chosen), delta, image_size=size)
        patch.setattr(classical_kernel, "core", None)
        slow = classical_kernel.encode_rows(rows, delta, raster, chosen)
        slow_back = decode_classical(slow[0], 60, len(chosen), delta, image_size=size)
    assert fast[0] == slow[0]
    assert np.array_equal(fast[1], slow[1])
    assert np.array_equal(fast_back.T, fast[1])
    assert np.array_equal(slow_back.T, fast[1])
    missed = np.abs(fast[1].astype(np.int64) - rows).max(axis=1)
    assert all(m <= d // 2 for m, d in zip(missed, delta, strict=True))


@needs_c
@pytest.mark.parametrize("kind", ["walk", "sparse", "edges"])
def test_c_and_python_choose_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.concatenate([signal(kind, 100), signal("sine", 100, 1)], axis=1)
    fast = encode_classical(x, 3)
    monkeypatch.setattr(classical_kernel, "core", None)
    slow = encode_classical(x, 3)
    assert fast[0] == slow[0]
    assert np.array_equal(fast[1], slow[1])


# --- parameters and damage --------------------------------------------------------------------


@given(st.integers(0, 5).flatmap(lambda c: st.tuples(st.just(c), params(c, True, True))))
def test_parameters_round_trip(case: tuple[int, ChannelParams]) -> None:
    channel, chosen = case
    encoder = RangeEncoder()
    write_params(encoder, chosen, channel, Raster(4, 4))
    decoder = RangeDecoder(encoder.finish())
    assert read_params(decoder, channel, 1, Raster(4, 4)) == chosen


def test_the_book_predicts_constants() -> None:
    assert [sum(row) for row in BOOK] == [32768] * 16


def _outcome(
    payload: bytes, size: tuple[int, int] | None, delta: int | tuple[int, int]
) -> bytes | None:
    try:
        return decode_classical(payload, 24, 2, delta, image_size=size).tobytes()
    except CorruptError:
        return None


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=60),
    st.sampled_from([None, (4, 3)]),
    st.sampled_from([1, 7, 12_345, LIMIT, (1, LIMIT), (99, 3)]),
)
def test_any_bytes_end_alike_in_c_and_python(
    payload: bytes, size: tuple[int, int] | None, delta: int | tuple[int, int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        first = _outcome(payload, size, delta)
        patch.setattr(classical_kernel, "core", None)
        assert _outcome(payload, size, delta) == first


def test_damaged_payloads_end_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.concatenate([signal("sine", 24), signal("sparse", 24)], axis=1)
    payload = bytearray(encode_classical(x, 1)[0])
    cases = [bytes(payload[:cut]) for cut in range(len(payload))] + [bytes(payload) + b"\1"]
    for i in range(len(payload)):
        payload[i] ^= 0xFF
        cases.append(bytes(payload))
        payload[i] ^= 0xFF
    fast = [_outcome(case, None, 1) for case in cases]
    assert all(case != x.tobytes() for case in fast[: len(payload)])
    monkeypatch.setattr(classical_kernel, "core", None)
    assert [_outcome(case, None, 1) for case in cases] == fast


@needs_c
def test_the_kernel_refuses_nonsense() -> None:
    assert core is not None
    x = np.zeros(4, np.int32)
    good = np.array([0, 0, -1, 3, 0, 0, 0, 0, -1, 0, 0] + [0] * 16, np.int32)

    def call(table: np.ndarray, *, channels: int = 1, delta: int = 1, width: int = 0) -> bytes:
        steps = np.full(channels, delta, np.int32)
        return bytes(
            core.classical_encode(x, channels, steps, width, width, table, b"", np.empty_like(x))
        )

    assert call(good)
    beyond = ((6, -1), (6, 1 << 30), (7, 17), (8, -2), (9, 30), (10, (1 << 25) + 1), (11, 64))
    for place, value in ((0, 32), (1, 16), (2, 1), (3, 16), (5, 32), *beyond):
        bad = good.copy()
        bad[place] = value
        with pytest.raises(ValueError, match="classical"):
            call(bad)
    for delta in (0, 2, 1 << 30):
        with pytest.raises(ValueError, match="classical"):
            call(good, delta=delta)
    with pytest.raises(ValueError, match="steps"):
        call(np.tile(good, 3), channels=3)
    with pytest.raises(ValueError, match="params"):
        call(good, channels=2)
