"""The causal net: numpy in parallel, numpy in lockstep and plain integers agree."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import random_net

from edgeae.errors import ModelError, SignalError
from edgeae.runtime.causal import CausalLayer, CausalNet
from edgeae.runtime.causal_lockstep import LockstepState

pasts = st.lists(st.booleans(), min_size=1, max_size=5)
seeds = st.integers(0, 2**32)
nets = st.builds(random_net, seeds, pasts, st.integers(1, 6))


def rhe(v: int, shift: int) -> int:
    """v * 2^-shift, rounded half to even, in integers."""
    if shift <= 0:
        return v << -shift
    q, rest = v >> shift, v & ((1 << shift) - 1)
    half = 1 << (shift - 1)
    return q + (rest > half or (rest == half and q & 1 == 1))


def naive(net: CausalNet, features: np.ndarray) -> np.ndarray:
    """The definition, in Python's own integers: features [I, T] -> [O, T]."""
    n = features.shape[1]
    out = np.zeros((net.n_outputs, n), np.int64)
    hidden = [np.zeros((layer.n_out, n), np.int64) for layer in net.layers]

    def taps(
        x: np.ndarray, offsets: tuple[int, ...], weight: np.ndarray, o: int, t: int, first: bool
    ) -> int:
        total = 0
        for k, offset in enumerate(offsets):
            if t - offset < 0:
                continue
            for i in range(x.shape[0]):
                if not (first and offset == 0 and net.past[i]):
                    total += int(weight[o, k, i]) * int(x[i, t - offset])
        return total

    for t in range(n):
        x, first = features, True
        for layer, y in zip(net.layers, hidden, strict=True):
            for o in range(layer.n_out):
                acc = taps(x, layer.offsets, layer.weight, o, t, first) + int(layer.bias[o])
                y[o, t] = min(max(rhe(acc, int(layer.shift[o])), 0), layer.peak)
            x, first = y, False
        for o in range(net.n_outputs):
            acc = taps(x, net.head.offsets, net.head.weight, o, t, first) + int(net.head.bias[o])
            skip = taps(features, net.skip_offsets, net.skip_weight, o, t, True)
            hs, ss = int(net.head.shift[o]), int(net.skip_shift[o])
            s = max(hs, ss, 0)
            out[o, t] = rhe((acc << (s - hs)) + (skip << (s - ss)), s)
    return out


def random_features(seed: int, net: CausalNet, batch: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    p = net.feature_peak
    wide = rng.integers(-p, p + 1, (batch, net.n_inputs, n))
    return np.where(rng.random(wide.shape) < 0.2, wide, rng.integers(-9, 10, wide.shape))


def lockstep(net: CausalNet, features: np.ndarray) -> np.ndarray:
    state = LockstepState(net, features.shape[0])
    out = np.zeros((features.shape[0], net.n_outputs, features.shape[2]), np.int32)
    for t in range(features.shape[2]):
        out[:, :, t] = state.step(features[:, ~net.past, t])
        state.fill(features[:, net.past, t])
    return out


@settings(max_examples=25, deadline=None)
@given(nets, seeds)
def test_parallel_equals_the_definition(net: CausalNet, seed: int) -> None:
    features = random_features(seed, net, 1, 30)
    assert np.array_equal(net.run(features)[0], naive(net, features[0]))


@settings(max_examples=40, deadline=None)
@given(nets, seeds, st.integers(0, 4), st.integers(0, 200))
def test_lockstep_equals_parallel(net: CausalNet, seed: int, batch: int, n: int) -> None:
    features = random_features(seed, net, batch, n)
    assert np.array_equal(lockstep(net, features), net.run(features))


def test_long_signals_in_chunks_equal_short_ones() -> None:
    net = random_net(3, [True, False], 2, n_layers=2)
    features = random_features(1, net, 1, 120_000)
    out = net.run(features)
    assert np.array_equal(out[:, :, :500], net.run(features[:, :, :500]))
    assert np.array_equal(out[:, :, -1000:], net.run(features[:, :, -2000:])[:, :, -1000:])


@settings(max_examples=20, deadline=None)
@given(nets, seeds)
def test_the_future_is_not_seen(net: CausalNet, seed: int) -> None:
    features = random_features(seed, net, 1, 60)
    changed = features.copy()
    changed[:, net.past, 30:] = 5
    changed[:, :, 31:] = -5
    assert np.array_equal(net.run(features)[..., :31], net.run(changed)[..., :31])


def test_signals_may_end_one_after_another() -> None:
    net = random_net(8, [True], 2, n_layers=2)
    features = random_features(1, net, 3, 100)
    whole = net.run(features)
    state = LockstepState(net, 3)
    for t in range(100):
        if t == 40:
            state.keep(2)
        if t == 70:
            state.keep(1)
        n = 3 - (t >= 40) - (t >= 70)
        assert np.array_equal(state.step(), whole[:n, :, t])
        state.fill(features[:n, :, t])


@settings(max_examples=20, deadline=None)
@given(nets, seeds)
def test_arrays_round_trip(net: CausalNet, seed: int) -> None:
    file = io.BytesIO()
    np.savez(file, **net.to_arrays())  # type: ignore[arg-type]
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        back = CausalNet.from_arrays(dict(arrays))
    assert np.array_equal(back.words(), net.words())
    features = random_features(seed, net, 1, 20)
    assert np.array_equal(net.run(features), back.run(features))


def test_damaged_arrays_are_refused() -> None:
    good = random_net(5, [True, False], 2, n_layers=1).to_arrays()
    for name in good:
        with pytest.raises(ModelError, match="missing"):
            CausalNet.from_arrays({k: v for k, v in good.items() if k != name})
        for bad in (
            np.zeros((7, 7, 7), np.int64),
            np.array(1.5),
            np.array([5000], np.int32),
            np.array(-1, np.int32),
            np.array("x"),
        ):
            with pytest.raises(ModelError):
                CausalNet.from_arrays({**good, name: bad})


def layer(**changes: Any) -> CausalLayer:
    fields: dict[str, Any] = {
        "offsets": (1, 2),
        "weight": np.ones((2, 2, 1), np.int8),
        "bias": np.zeros(2, np.int32),
        "shift": np.zeros(2, np.int32),
        "bits": 0,
    }
    return CausalLayer(**{**fields, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"offsets": (2, 1)},
        {"offsets": (1, 1)},
        {"offsets": (-1, 1)},
        {"offsets": (1, 4097)},
        {"offsets": ()},
        {"weight": np.ones((2, 2, 1))},
        {"weight": np.ones((2, 1), np.int8)},
        {"bias": np.zeros(3, np.int32)},
        {"shift": np.full(2, 24, np.int32)},
        {"shift": np.full(2, -5, np.int32)},
        {"bits": 16},
    ],
)
def test_wrong_layers_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        layer(**changes)


def test_sums_that_could_pass_24_bits_are_refused() -> None:
    past = np.array([True])
    net = CausalNet(n_inputs=1, past=past, layers=(), head=layer())
    edge = (1 << 24) - 2 * 2047
    with pytest.raises(ModelError, match="16777216"):
        replace(net, head=layer(bias=np.full(2, -edge, np.int32)))
    replace(net, head=layer(bias=np.full(2, 1 - edge, np.int32)))
    big = np.full((2, 5, 1), 2047, np.int16)
    with pytest.raises(ModelError, match="16777216"):
        replace(net, skip_offsets=range(1, 6), skip_weight=big)
    replace(net, skip_offsets=range(1, 6), skip_weight=big, feature_peak=127)


def test_wrong_features_are_refused() -> None:
    net = CausalNet(n_inputs=1, past=np.array([True]), layers=(), head=layer())
    for features in (np.zeros((1, 2, 3)), np.zeros((1, 3)), np.full((1, 1, 3), 2048)):
        with pytest.raises(SignalError):
            net.run(features)
