"""The speech front end: how a stream is cut never shows, a mask of ones gives the input back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeae.errors import ModelError
from edgeae.runtime.stft import StftFrontEnd, StftSpec

SPEC = StftSpec()
ONE = 2.0**SPEC.mask_exponent


def signal(n_hops, streams=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.1, (streams, n_hops * SPEC.hop))
    return x * (2 + np.sin(np.arange(x.shape[1]) / 2000))


def masks(n_hops, streams=2, seed=1):
    shape = (streams, SPEC.n_bands, n_hops)
    return np.random.default_rng(seed).integers(0, 300, shape).astype(np.float32)


def run(front, x, mask, cuts):
    features, out, at = [], [], 0
    for n in cuts:
        features.append(front.analyse(x[:, at * SPEC.hop : (at + n) * SPEC.hop]))
        out.append(front.synthesise(mask[:, :, at : at + n]))
        at += n
    return np.concatenate(features, 2), np.concatenate(out, 1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_how_a_stream_is_cut_never_shows(cuts):
    n = sum(cuts)
    x, mask = signal(n), masks(n)
    whole = run(StftFrontEnd(SPEC, 2), x, mask, [n])
    parts = run(StftFrontEnd(SPEC, 2), x, mask, cuts)
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_streams_side_by_side_are_each_alone():
    x, mask = signal(20, 3), masks(20, 3)
    together = run(StftFrontEnd(SPEC, 3), x, mask, [7, 13])
    for i in range(3):
        alone = run(StftFrontEnd(SPEC, 1), x[i : i + 1], mask[i : i + 1], [20])
        assert all(np.array_equal(a[i : i + 1], b) for a, b in zip(together, alone, strict=True))


def test_a_mask_of_ones_gives_the_input_back_a_delay_later():
    x = signal(30)
    _, out = run(StftFrontEnd(SPEC, 2), x, np.full((2, SPEC.n_bands, 30), ONE, np.float32), [30])
    assert not out[:, : SPEC.delay].any() or np.abs(out[:, : SPEC.delay]).max() < 1e-12
    np.testing.assert_allclose(out[:, SPEC.delay :], x[:, : -SPEC.delay], atol=1e-12)


def test_a_stream_goes_on_from_its_saved_state():
    x, mask = signal(40), masks(40)
    _, whole = run(StftFrontEnd(SPEC, 2), x, mask, [40])
    front = StftFrontEnd(SPEC, 2)
    run(front, x, mask, [15])
    later = StftFrontEnd(SPEC, 2)
    later.restore(front.state())
    _, rest = run(later, x[:, 15 * SPEC.hop :], mask[:, :, 15:], [25])
    assert np.array_equal(rest, whole[:, 15 * SPEC.hop :])
    with pytest.raises(ModelError, match="front end state 'last'"):
        StftFrontEnd(SPEC, 1).restore(front.state())


@pytest.mark.parametrize("gain", [0.25, 4.0])
def test_features_do_not_hang_on_the_gain(gain):
    x = signal(200, 1)
    mask = np.zeros((1, SPEC.n_bands, 200), np.float32)
    plain, _ = run(StftFrontEnd(SPEC, 1), x, mask, [200])
    other, _ = run(StftFrontEnd(SPEC, 1), gain * x, mask, [200])
    assert np.mean(np.abs(plain - other) <= 1) > 0.95  # the rest is near the floor


def test_silence_moves_no_level_and_features_stay_in_range():
    x = np.concatenate(
        [np.zeros((1, 50 * SPEC.hop)), signal(60, 1), np.zeros((1, SPEC.hop * 40))], 1
    )
    front = StftFrontEnd(SPEC, 1)
    features = front.analyse(x)
    assert not features[:, :, :50].any()
    assert np.abs(features).max() <= SPEC.peak
    level = front.state()["level"]
    front.synthesise(np.zeros_like(features))
    front.analyse(np.zeros((1, 30 * SPEC.hop)))
    assert np.array_equal(front.state()["level"], level)


def test_a_doubling_of_the_power_is_sixteen_steps():
    power = np.exp2(np.arange(-160, 160) / 16.0 + 1e-6)
    logs = SPEC.log_bands(np.repeat(power[:, None], SPEC.n_bins, 1))
    wanted = np.floor(16 * np.log2(power + SPEC.floor))
    assert np.array_equal(logs, np.repeat(wanted[:, None], SPEC.n_bands, 1))


def test_it_is_written_down_and_read_back():
    assert StftSpec.from_json(SPEC.to_json()) == SPEC
    assert SPEC.n_bands == 129


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "wavelet"}, "'wavelet'"),
        ({"window": 400}, "two hops"),
        ({"fine": 66}, "single"),
        ({"hop": "256"}, "front_end.hop"),
        ({"more": 1}, "front_end.more"),
        ({"floor": -1.0}, "positive"),
        ({"mask_exponent": 40}, "mask_exponent"),
    ],
)
def test_a_damaged_description_is_said(change, said):
    with pytest.raises(ModelError, match=said):
        StftSpec.from_json({**SPEC.to_json(), **change})


def test_a_mask_without_its_features_is_refused():
    front = StftFrontEnd(SPEC, 1)
    with pytest.raises(ValueError, match="must follow"):
        front.synthesise(np.zeros((1, SPEC.n_bands, 1), np.float32))
