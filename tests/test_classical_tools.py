"""Lattices, tallies and lags of the classical codec: what they are for, and that they hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_classical import LIMIT, needs_c

from edgeae.bitstream import classical_kernel
from edgeae.bitstream.classical import decode_classical, encode_classical
from edgeae.bitstream.classical_choice import choose_params
from edgeae.bitstream.classical_lattice import PITCH_LIMIT, Lattice, likely_lattices
from edgeae.bitstream.classical_params import ChannelParams, Raster
from edgeae.bitstream.classical_tally import Tally, likely_tallies
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder

RNG = np.random.default_rng


def walk(n: int = 800, seed: int = 0) -> np.ndarray:
    return np.rint(np.cumsum(RNG(seed).normal(0, 5, n))).astype(np.int64)


def size(x: np.ndarray, delta: int = 1) -> int:
    """Bytes of one channel [T]; what comes back is proved on the way."""
    column = x.astype(np.int32)[:, None]
    payload, recon = encode_classical(column, delta)
    assert np.array_equal(decode_classical(payload, len(x), 1, delta), recon)
    assert np.abs(recon.astype(np.int64) - column).max() <= delta // 2
    return len(payload)


# --- lattices ---------------------------------------------------------------------------------


@needs_c  # for speed
@pytest.mark.parametrize("pitch", [2, 10, 4096, 327_927])
def test_multiples_with_an_offset_cost_what_their_numbers_cost(pitch: int) -> None:
    assert size(walk() * pitch + pitch // 3) <= size(walk()) + 12


@needs_c
@pytest.mark.parametrize("pitch", [8.192, 66.98, 1234.5])
def test_rounded_multiples_of_any_number_do_too(pitch: float) -> None:
    assert size(np.rint(walk() * pitch + 17.3)) <= 1.02 * size(walk()) + 16


@needs_c
def test_an_offset_may_move_now_and_then() -> None:
    offset = np.repeat(RNG(1).integers(0, 8, 8), 100)
    assert size(8 * walk() + offset) < size(walk()) + 50
    assert size(8 * walk() + offset) < 0.8 * (size(walk()) + 300)  # 3 bits more each without


@needs_c
def test_a_bound_that_spans_no_two_points_keeps_to_the_lattice() -> None:
    states = 1000 * RNG(2).integers(0, 6, 800)
    assert size(states + 77, 999) <= size(states + 77) + 2
    assert size(states + 77, 3) <= size(states + 77) + 2


def test_the_lattice_found_is_the_coarsest_within_the_bound() -> None:
    x = (7 * walk() + 3).astype(np.int32)
    assert likely_lattices(x, 1) == [Lattice(7, 0, int(x[0]) % 7)]
    assert likely_lattices(x, 15) == [Lattice(21, 0, int(x[0]) % 21)]  # one point either way
    assert likely_lattices(x, 21) == []
    assert likely_lattices(walk().astype(np.int32), 1) == []


@given(
    hnp.arrays(np.int32, st.integers(2, 60), elements=st.integers(-LIMIT, LIMIT)),
    st.sampled_from([1, 3, 1001, LIMIT]),
    st.integers(1, 1000),
)
@settings(deadline=None)
def test_any_lattice_found_can_be_coded(x: np.ndarray, delta: int, factor: int) -> None:
    x = np.concatenate([x, np.clip(x // factor * factor, -LIMIT, LIMIT)])
    for lattice in likely_lattices(x, delta):
        assert delta < lattice.pitch >> lattice.bits
        assert lattice.pitch < PITCH_LIMIT
        assert -1 <= lattice.phase < lattice.pitch
        assert (np.abs(lattice.numbers(x).astype(np.int64)) <= 1 << 31).all()
    size(x, delta)


def test_one_sample_beside_a_lattice_hides_neither() -> None:
    x = 40 * walk(1000)
    x[500] += 4  # all samples are still multiples of 4
    assert {w.pitch for w in likely_lattices(x, 1)} == {4, 40}


# --- tallies ----------------------------------------------------------------------------------


@needs_c
@pytest.mark.parametrize(
    ("symbols", "bits"),
    [([-900, -17, 3, 220, 1023], 2.32), ([0, 100_000_007], 1.0), (list(range(0, 90, 10)), 3.17)],
)
def test_few_values_cost_their_entropy(symbols: list[int], bits: float) -> None:
    x = RNG(3).choice(symbols, 1000)
    assert size(x) < bits * 125 + 10 + 7 * len(symbols)


@needs_c
def test_rare_pulses_cost_little_more_than_their_places_and_heights() -> None:
    x = (RNG(4).random(1000) < 0.01) * RNG(5).integers(-2000, 2000, 1000)
    assert size(x) < 45  # 10 of 12 bits, and 0.08 bits for each sample
    x = (RNG(4).random(60_000) < 0.01) * RNG(5).integers(-30_000, 30_000, 60_000)
    pulses = np.count_nonzero(x)  # all different: none that came once is kept for long
    assert size(x) < 1.06 * (pulses * 15.9 / 8 + 0.081 * 60_000 / 8)


@needs_c
def test_noise_within_an_interval_costs_the_interval() -> None:
    assert size(RNG(6).integers(0, 5000, 1000)) < 1.012 * np.log2(5000) * 125


def test_a_tally_knows_up_to_256_symbols_and_forgets() -> None:
    rng = RNG(7)
    symbols = np.concatenate([np.arange(300), rng.integers(0, 3, 9000), np.arange(300)]).tolist()
    encoder, tally = RangeEncoder(), Tally()
    known = [tally.encode(encoder, symbol) for symbol in symbols]
    assert not any(known[:300])
    assert all(known[300:9300])
    assert len(tally.symbols) == 256
    decoder, tally = RangeDecoder(encoder.finish()), Tally()
    for symbol, was_known in zip(symbols, known, strict=True):
        found = tally.decode(decoder)
        assert found == (symbol if was_known else None)
        if found is None:
            tally.learn(symbol)
    decoder.finish()


def test_estimates_of_tallies_come_near_the_truth() -> None:
    for symbols, shift in (([5, 900, 17], 0), ([*range(9), 90], 0), (list(range(9000)), 10)):
        x = RNG(8).choice(symbols, 700).astype(np.int64)
        choice = likely_tallies(x, np.inf)[0]
        assert (choice.order, choice.shift) == (0, shift)
        assert abs(choice.cost / (8 * size(x)) - 1) < 0.08


@needs_c
def test_tallies_of_long_channels_are_halved_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    many = RNG(9).integers(0, 300, 9000)
    pulses = (RNG(10).random(9000) < 0.03) * RNG(11).integers(0, 9000, 9000)
    tallied = (ChannelParams(base=16, tally=1, reflection=(0,), start=3),)
    for x in (many, pulses):
        rows = x.astype(np.int32)[None]
        fast = classical_kernel.encode_rows(rows, (1,), Raster(), tallied)
        with monkeypatch.context() as patch:
            patch.setattr(classical_kernel, "core", None)
            slow = classical_kernel.encode_rows(rows, (1,), Raster(), tallied)
            back = classical_kernel.decode_rows(fast[0], 9000, (1,), Raster())
        assert fast[0] == slow[0]
        assert np.array_equal(back, rows)


# --- lags -------------------------------------------------------------------------------------


@needs_c
@pytest.mark.parametrize("period", [19, 173, 400])
def test_a_period_is_paid_for_once(period: int) -> None:
    once = RNG(10).integers(-300, 300, period)
    x = np.tile(once, 8)[: 4 * period + 200]
    assert size(x) < 1.35 * size(once) + 40


@needs_c
def test_a_period_under_noise_leaves_the_noise() -> None:
    noise = RNG(11).integers(-2, 3, 1000)
    x = np.tile(RNG(12).integers(-300, 300, 100), 10) + noise
    assert size(x) < 0.55 * size(RNG(13).integers(-300, 300, 1000))


# --- all of them ------------------------------------------------------------------------------

SIGNALS: dict[str, Callable[[], np.ndarray]] = {
    "lattice": lambda: np.rint(walk(300) * 66.98),
    "moving": lambda: 8 * walk(300) + np.repeat([0, 3, 5], 100),
    "codes": lambda: RNG(14).choice([-900, -17, 3, 1023], 300),
    "uniform": lambda: RNG(15).integers(0, 5000, 300),
    "period": lambda: np.tile(RNG(16).integers(-300, 300, 50), 6),
}


@needs_c
@pytest.mark.parametrize("kind", SIGNALS)
@pytest.mark.parametrize("delta", [1, 5])
def test_c_and_python_choose_alike(kind: str, delta: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = SIGNALS[kind]().astype(np.int32)[:, None]
    fast = encode_classical(x, delta)
    assert any(p.has_tools for p in choose_params(x[:, 0], [], delta, Raster()))
    monkeypatch.setattr(classical_kernel, "core", None)
    slow = encode_classical(x, delta)
    assert fast[0] == slow[0]
    assert np.array_equal(fast[1], slow[1])
    assert np.array_equal(decode_classical(fast[0], 300, 1, delta), fast[1])
