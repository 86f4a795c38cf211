"""Coding with priors: round trips, C equals numpy, damaged bytes, sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import random_net

import edgeae.native as native
from edgeae.bitstream import CdfFamily, laplace_shape, logistic_shape
from edgeae.errors import CorruptError, ModelError, SignalError
from edgeae.runtime.adaptive import AdaptiveRules
from edgeae.runtime.latent_prior import LatentPrior, decode_latents, encode_latents
from edgeae.runtime.mixture import MAX_HISTORY, MAX_LEARNT, N_PARTS, MixtureNet
from edgeae.runtime.prior_rules import LARGEST_INDEX, step_condition
from edgeae.runtime.sample_prior import SamplePrior, decode_samples, encode_samples

CORE = native.core
ENGINES = ["numpy"] if CORE is None else ["numpy", "C"]
needs_core = pytest.mark.skipif(CORE is None, reason="the C extension is not built")
seeds = st.integers(0, 2**32)
deltas = st.one_of(st.just(1), st.integers(0, 300).map(lambda e: 2 * e + 1))
wide = st.integers(0, 1 << 20).map(lambda e: 2 * e + 1)
per_channel = st.lists(st.one_of(deltas, wide), min_size=4, max_size=4)
steps = st.one_of(deltas, per_channel)
Frames = list[np.ndarray]


@contextmanager
def engine(name: str) -> Iterator[None]:
    native.core = CORE if name == "C" else None
    try:
        yield
    finally:
        native.core = CORE


def random_prior(seed: int, **fixed: Any) -> SamplePrior:
    rng = np.random.default_rng(seed)
    c = fixed.get("n_channels", int(rng.integers(1, 5)))
    fields: dict[str, Any] = {
        "kind": ["delta", "level"][int(rng.integers(2))],
        "center": tuple(rng.integers(-100, 100, c).tolist()),
        "shift": tuple(rng.integers(0, 5, c).tolist()),
        "has_code": bool(rng.integers(2)),
        "lookahead": int(rng.integers(0, 5)),
        "has_cond": bool(rng.integers(2)),
        "shape": [logistic_shape(), laplace_shape()][int(rng.integers(2))],
        "adaptive": random_rules(rng, c) if rng.integers(3) else None,
        **fixed,
    }
    fields.pop("n_channels", None)
    code = fields["has_code"]
    past = [True] * c + [False] * (c * code) + [True] * (c * code)
    past += [False] * (c * fields["has_cond"])
    return SamplePrior(net=random_net(seed, past, 2 * c), **fields)


def random_rules(rng: np.random.Generator, channels: int) -> AdaptiveRules:
    n = int(rng.integers(1, 4))
    learnt = random_mixture(int(rng.integers(1 << 30)), channels) if rng.integers(3) else None
    weights = rng.integers(64, 9000, (n, N_PARTS))
    weights[:, 1] = (1 << 16) - np.delete(weights, 1, axis=1).sum(axis=1)
    return AdaptiveRules(
        taps=int(rng.integers(0, 12)),
        cross=int(rng.integers(0, 4)),
        forget=float(rng.choice([0.5, 0.99, 0.999, 1.0])),
        steps=tuple(int(v) for v in np.cumsum(rng.integers(1, 30, n))),
        gains=tuple(float(v) for v in rng.choice([0.0, 0.001, 0.01, 1.0], n)),
        weights=tuple(map(tuple, weights.tolist())),
        learnt=learnt,
        trust=tuple(rng.integers(1024, 64513, n if learnt else 0).tolist()),
    )


def random_mixture(seed: int, channels: int) -> MixtureNet:
    rng = np.random.default_rng(seed)
    history, parts = int(rng.integers(0, MAX_HISTORY + 1)), int(rng.integers(1, MAX_LEARNT + 1))
    inputs = [False] * MixtureNet.n_features(history, channels)
    net = random_net(seed, inputs, 3 * parts, feature_peak=127, dense=True)
    return MixtureNet(net=net, history=history)


def random_frames(seed: int, prior: SamplePrior, n: int = 3) -> tuple[Frames, Frames | None]:
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        shape = (int(rng.integers(0, 3)), int(rng.integers(0, 90)), prior.n_channels)
        x = np.cumsum(rng.integers(-30, 31, shape), axis=1)
        x += (rng.random(shape) < 0.02) * rng.integers(-(2**28), 2**28, shape)
        frames.append(x.astype(np.int32))
    code = [x + rng.integers(-5, 6, x.shape, dtype=np.int32) for x in frames]
    return frames, code if prior.has_code else None


def steps_of(prior: SamplePrior, delta: int | list[int]) -> int | list[int]:
    return delta if isinstance(delta, int) else delta[: prior.n_channels]


def shapes_of(frames: Frames) -> list[tuple[int, int]]:
    return [f.shape[:2] for f in frames]


@settings(max_examples=30, deadline=None)
@given(seeds, steps)
def test_samples_come_back_within_the_bound_in_every_engine(
    seed: int, delta: int | list[int]
) -> None:
    prior = random_prior(seed)
    delta = steps_of(prior, delta)
    x, code = random_frames(seed, prior)
    coded: dict[str, Any] = {}
    for name in ENGINES:
        with engine(name):
            coded[name] = encode_samples(prior, x, delta, code)
            payloads = [item[0] for item in coded[name] if item is not None]
            back = decode_samples(prior, payloads, shapes_of(x), delta, code)
        for f, (_, recon), b in zip(x, coded[name], back, strict=True):
            assert np.array_equal(recon, b)
            assert np.all(np.abs(f - b) <= np.array(delta) // 2)
            assert b.dtype == np.int32
    assert all([p for p, _ in c] == [p for p, _ in coded["numpy"]] for c in coded.values())


@settings(max_examples=20, deadline=None)
@given(seeds, steps)
def test_frames_are_independent(seed: int, delta: int | list[int]) -> None:
    prior = random_prior(seed)
    delta = steps_of(prior, delta)
    x, code = random_frames(seed, prior, 4)
    with engine("numpy"):
        together = encode_samples(prior, x, delta, code)
        for i, item in enumerate(together):
            alone = encode_samples(prior, [x[i]], delta, None if code is None else [code[i]])
            assert item is not None
            assert alone[0] is not None
            assert alone[0][0] == item[0]


@settings(max_examples=30, deadline=None)
@given(seeds, st.binary(max_size=60), st.integers(0, 70), st.sampled_from(ENGINES))
def test_damaged_bytes_end_in_samples_or_corrupt_error(
    seed: int, junk: bytes, cut: int, name: str
) -> None:
    prior = random_prior(seed, has_code=False)
    x, _ = random_frames(seed, prior, 1)
    (item,) = encode_samples(prior, x, 5)
    assert item is not None
    for payload in (junk, item[0][:cut], item[0][:cut] + junk, item[0] + b"." * 9):
        with engine(name):
            try:
                (back,) = decode_samples(prior, [payload], shapes_of(x), 5)
            except CorruptError:
                continue
        assert np.abs(back).max(initial=0) <= LARGEST_INDEX


@needs_core
@settings(max_examples=30, deadline=None)
@given(seeds, st.binary(max_size=60), steps)
def test_engines_agree_on_damaged_bytes(seed: int, junk: bytes, delta: int | list[int]) -> None:
    prior = random_prior(seed, has_code=False)
    delta = steps_of(prior, delta)
    results = []
    for name in ENGINES:
        with engine(name):
            try:
                results.append(decode_samples(prior, [junk], [(1, 20)], delta)[0].tolist())
            except CorruptError:
                results.append(None)
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ENGINES)
def test_a_few_bytes_cannot_stand_for_a_huge_frame(name: str) -> None:
    prior = random_prior(4, has_code=False, n_channels=1)
    with engine(name), pytest.raises(CorruptError):
        decode_samples(prior, [b"\x02\x00\x55\xaa"], [(1, 1 << 24)], 3)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("delta", [1, 3, 2001])
@pytest.mark.parametrize("value", [LARGEST_INDEX + 1, -LARGEST_INDEX - 1, 2**31 - 1, -(2**31)])
def test_indices_out_of_range_are_left_to_others(name: str, delta: int, value: int) -> None:
    prior = random_prior(9, has_code=False, n_channels=1)
    good = np.arange(20, dtype=np.int32).reshape(1, 20, 1)
    for at in (0, 7):
        bad = good.copy()
        bad[0, at, 0] = value
        with engine(name):
            first, second = encode_samples(prior, [bad, good], delta)
        assert first is None
        assert second is not None


@pytest.mark.parametrize("name", ENGINES)
def test_indices_at_the_ends_of_the_range(name: str) -> None:
    for seed in range(20):
        prior = random_prior(seed, has_code=False, n_channels=1)
        rng = np.random.default_rng(seed)
        ends = rng.choice([-LARGEST_INDEX, LARGEST_INDEX, 0], (1, 40, 1)).astype(np.int32)
        with engine(name):
            (item,) = encode_samples(prior, [ends])
            assert item is not None
            assert np.array_equal(decode_samples(prior, [item[0]], [(1, 40)])[0], ends)
            for delta in (3, (1 << 30) - 1):
                (item,) = encode_samples(prior, [ends], delta)
                if item is not None:
                    (back,) = decode_samples(prior, [item[0]], [(1, 40)], delta)
                    assert np.array_equal(back, item[1])


@pytest.mark.parametrize("kind", ["level", "delta"])
@pytest.mark.parametrize(
    ("shift", "delta"), [((0, 0), (1, 1)), ((2, 2), (1, 1)), ((1, 3), (5, 41))]
)
def test_size_is_the_tables_information(
    kind: str, shift: tuple[int, ...], delta: tuple[int, ...]
) -> None:
    prior = random_prior(
        2,
        kind=kind,
        has_code=False,
        has_cond=True,
        adaptive=None,
        shift=shift,
        center=(7, -9),
        n_channels=2,
    )
    rng = np.random.default_rng(0)
    x = rng.integers(-60, 60, (1, 3000, 2), dtype=np.int32)
    (item,) = encode_samples(prior, [x], delta)
    assert item is not None
    rules, r = prior.rules, item[1][0].astype(np.int64)
    past = rules.past_features(r, np.concatenate([r[:1], r[:-1]]), None)
    side = rules.side_features(None, prior.cond(delta), 3000)
    out = prior.net.run(np.concatenate([past, side], axis=1).T[None])[0].T.astype(np.int64)
    mean, ls = rules.means(out)
    first = rules.firsts(x, delta)[None]
    centre, frac16 = rules.place(mean, np.concatenate([first, r[:-1]]))
    k, remainder = np.divmod(r - centre, delta)
    assert not remainder.any()
    families = [CdfFamily(prior.shape, d, p) for d, p in zip(delta, shift, strict=True)]
    bits = [f.code_bits(*(a[:, c] for a in (ls, frac16, k))) for c, f in enumerate(families)]
    ideal = sum(b.sum() for b in bits) / 8
    assert ideal * 0.995 - 4 <= len(item[0]) <= ideal * 1.005 + 4


def test_one_entry_stands_for_every_channel() -> None:
    prior = random_prior(11, kind="level", has_code=False, n_channels=3, shift=(2,), center=(5,))
    assert prior.shift == (2, 2, 2)
    assert prior.center == (5, 5, 5)
    x, _ = random_frames(3, prior)
    one, each = encode_samples(prior, x, 7), encode_samples(prior, x, [7, 7, 7])
    assert [item and item[0] for item in one] == [item and item[0] for item in each]


def test_the_condition_is_the_rounded_logarithm() -> None:
    steps = [*range(1, 3000, 2), 10**6 + 1, (1 << 30) - 1]
    for step in steps:
        assert step_condition(step) == min(127, round(6 * np.log2(step)))
    assert step_condition(1, 3) == 0
    assert step_condition(101, 3) == step_condition(101) - 18
    prior = random_prior(1, n_channels=2, has_cond=True, shift=(0, 3))
    assert prior.cond([1, 101]) == (0, step_condition(101, 3))
    assert prior.cond(101) == (step_condition(101), step_condition(101, 3))


def latent_priors(seed: int, n_channels: int) -> list[LatentPrior]:
    rng = np.random.default_rng(seed)
    net = random_net(seed, [True] * n_channels + [False], 2 * n_channels, feature_peak=127)
    statics = np.stack(
        [rng.integers(-100, 100, n_channels), rng.integers(-5, 70, n_channels)]
    ).astype(np.int32)
    shape = logistic_shape()
    return [LatentPrior(shape=shape, net=net), LatentPrior(shape=shape, statics=statics)]


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 6), st.integers(0, 127))
def test_symbols_come_back_in_every_engine(seed: int, n_channels: int, cond: int) -> None:
    rng = np.random.default_rng(seed)
    y = [
        rng.laplace(0, 3, (int(rng.integers(0, 3)), int(rng.integers(0, 40)), n_channels))
        for _ in range(3)
    ]
    symbols = [np.round(v).astype(np.int32) for v in y]
    symbols[0][..., :1] *= 10000
    for prior in latent_priors(seed, n_channels):
        payloads = []
        for name in ENGINES:
            with engine(name):
                payloads.append(encode_latents(prior, symbols, cond))
                back = decode_latents(prior, payloads[-1], shapes_of(symbols), cond)
            assert all(np.array_equal(a, b) for a, b in zip(back, symbols, strict=True))
        assert payloads[0] == payloads[-1]


@pytest.mark.parametrize("name", ENGINES)
def test_symbols_out_of_range(name: str) -> None:
    for prior in latent_priors(1, 1):
        wide = np.full((1, 1, 1), (1 << 20) + 1, np.int32)
        with engine(name):
            with pytest.raises(SignalError, match="symbol"):
                encode_latents(prior, [wide])
            (item,) = prior_frames(prior, wide)
            with pytest.raises(CorruptError, match="symbol"):
                decode_latents(prior, [item], [(1, 1)])


def prior_frames(prior: LatentPrior, y: np.ndarray) -> list[bytes]:
    from edgeae.runtime.prior_coding import encode_frames

    cond = (0,) * prior.rules.n_cond
    return [item[0] for item in encode_frames(prior.rules, [y], 1, cond) if item is not None]


def test_arrays_round_trip() -> None:
    for seed in range(10):
        prior = random_prior(seed)
        back = SamplePrior.from_arrays(prior.to_arrays())
        x, code = random_frames(seed, prior)
        for a, b in zip(
            encode_samples(prior, x, 3, code), encode_samples(back, x, 3, code), strict=True
        ):
            assert a is not None
            assert b is not None
            assert a[0] == b[0]
    for latent in latent_priors(3, 2):
        y = np.ones((1, 5, 2), np.int32)
        again = LatentPrior.from_arrays(latent.to_arrays())
        assert encode_latents(again, [y]) == encode_latents(latent, [y])


def test_damaged_arrays_are_refused() -> None:
    rules = AdaptiveRules(learnt=random_mixture(1, 2), trust=(9000,))
    prior = random_prior(1, adaptive=rules, n_channels=2)
    sources = [(SamplePrior.from_arrays, prior.to_arrays())]
    sources += [(LatentPrior.from_arrays, p.to_arrays()) for p in latent_priors(1, 2)]  # type: ignore[misc]
    for read, good in sources:
        for name in set(good) - {"adaptive"}:  # without that one there are no rules
            with pytest.raises(ModelError, match=r"missing|needs|found"):
                read({k: a for k, a in good.items() if k != name})
            for bad in (np.zeros((3, 3, 3)), np.array(-(2**31)), np.array("x"), np.zeros(0)):
                with pytest.raises(ModelError):
                    read({**good, name: bad})


def test_priors_that_do_not_fit_are_refused() -> None:
    prior = random_prior(1, has_code=False, has_cond=True, n_channels=2)
    for changes in (
        {"kind": "slope"},
        {"has_code": True},
        {"has_cond": False},
        {"shift": (0, 21)},
        {"shift": (0, 0, 0)},
        {"shift": ()},
        {"lookahead": -1},
        {"center": (0, 1 << 30)},
        {"center": (0, 0, 0)},
        {"shape": np.zeros(3, np.uint16)},
    ):
        with pytest.raises(ModelError, match="prior"):
            replace(prior, **changes)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="one of them"):
        LatentPrior(shape=logistic_shape())
    with pytest.raises(ModelError, match="feature_peak"):
        LatentPrior(shape=logistic_shape(), net=prior.net)


@pytest.mark.parametrize("name", ENGINES)
def test_wrong_calls_are_refused(name: str) -> None:
    prior = random_prior(1, has_code=False, n_channels=1)
    with_code = random_prior(1, has_code=True, n_channels=1)
    x = np.zeros((1, 5, 1), np.int32)
    with engine(name):
        for frame in (x[0], x.astype(np.int64), np.zeros((1, 5, 2), np.int32)):
            with pytest.raises(SignalError, match="int32"):
                encode_samples(prior, [frame])
        for delta in (0, -1, 4, 1 << 30, [], [1, 1], [2]):
            with pytest.raises(SignalError, match="delta"):
                encode_samples(prior, [x], delta)  # type: ignore[arg-type]
        with pytest.raises(SignalError, match="code"):
            encode_samples(prior, [x], 1, [x])
        with pytest.raises(SignalError, match="code"):
            encode_samples(with_code, [x])
        with pytest.raises(SignalError, match="code"):
            encode_samples(with_code, [x], 1, [x, x])
        with pytest.raises(SignalError, match="int32"):
            encode_samples(with_code, [x], 1, [x[:, 1:]])
        with pytest.raises(SignalError, match="payloads"):
            decode_samples(prior, [b""], [])
        with pytest.raises(SignalError, match="constant"):
            encode_latents(latent_priors(1, 1)[0], [x], 128)


@needs_core
@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(0, 400), st.integers(-(2**31), 2**31 - 1))
def test_the_c_engine_survives_damaged_nets(seed: int, at: int, value: int) -> None:
    assert CORE is not None
    prior = random_prior(seed, has_code=False, n_channels=1)
    words = prior.net.words()
    words[at % len(words)] = value
    x = np.arange(30, dtype=np.int32)
    for w in (words, words[:at], np.append(words, words[:3])):
        shift, cond = np.array(prior.shift, np.int32), np.zeros(int(prior.has_cond), np.int32)
        options = (w, None, prior.shape, 1, 1, np.zeros(1, np.int32), shift, 0, cond, None)
        step, out = np.ones(1, np.int32), np.empty(30, np.int32)
        try:
            payload = CORE.prior_encode(options, step, x, None, 1, 30, out)
            assert CORE.prior_decode(options, step, payload, None, 1, 30, out)
        except ValueError:
            continue


@needs_core
def test_the_c_engine_checks_its_arguments() -> None:
    assert CORE is not None
    prior = random_prior(1, has_code=False, has_cond=False, n_channels=1)
    x, out = np.zeros(6, np.int32), np.empty(6, np.int32)
    one, none = np.ones(1, np.int32), np.zeros(0, np.int32)
    gain, parts = np.array([0.5]), np.array([64, 65536 - 6 * 64, 64, 64, 64, 64, 64], np.int32)
    small, half = random_mixture(3, 1), one << 15
    more = (small.words, small.history, one, half)
    rules = (3, 1, 0.9, gain, parts, more)
    good: tuple[Any, ...] = (prior.net.words(), None, prior.shape, 1, 1, one, one, 0, none, rules)
    assert CORE.prior_encode(good, one, x, None, 2, 3, out) is not None
    for i, bad in (
        (0, None),
        (0, x),
        (1, x),
        (2, x),
        (3, 0),
        (3, 200),
        (5, one * (2**31 - 1)),
        (5, x),
        (5, None),
        (6, one * 21),
        (6, x),
        (7, -1),
        (8, one),
        (8, one.view(np.int16)[:1]),
        (9, (25, *rules[1:])),
        (9, (-1, *rules[1:])),
        (9, (3, 5, *rules[2:])),
        (9, (3, 1, 0.4, gain, parts, None)),
        (9, (3, 1, float("nan"), gain, parts, None)),
        (9, (3, 1, 0.9, 2 * gain + 0.1, parts, None)),
        (9, (3, 1, 0.9, gain * float("nan"), parts, None)),
        (9, (3, 1, 0.9, gain[:0], parts, None)),
        (9, (3, 1, 0.9, gain, parts[:6], None)),
        (9, (3, 1, 0.9, gain, parts + 1, None)),
        (9, (*rules[:5], (x, *more[1:]))),
        (9, (*rules[:5], (random_mixture(4, 2).words, *more[1:]))),
        (9, (*rules[:5], (more[0], more[1] + 1, one, half))),
        (9, (*rules[:5], (more[0], -1, one, half))),
        (9, (*rules[:5], (*more[:2], one[:0], half))),
        (9, (*rules[:5], (*more[:3], half[:0]))),
        (9, (*rules[:5], (*more[:3], one * 1023))),
        (9, (*rules[:5], (*more[:3], one * 64513))),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            CORE.prior_encode((*good[:i], bad, *good[i + 1 :]), one, x, None, 2, 3, out)
    for args in (
        (0 * one, x, None, 2, 3, out),
        (x, x, None, 2, 3, out),
        (one, x, x, 2, 3, out),
        (one, x, None, -1, 3, out),
        (one, x, None, 1 << 62, 3, out),
        (one, x, None, 2, 4, out),
        (one, x, None, 2, 3, out[:5]),
        (one, x[:5], None, 2, 3, out),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            CORE.prior_encode(good, *args)
