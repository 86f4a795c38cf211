"""Noise for denoisers: the SNR is hit exactly, a seed decides everything, options are checked."""

import numpy as np
import pytest

from edgeae.errors import ConfigError
from edgeae.train.noise import NoisePart, add_noise, make_noise, mix, snr_db

RATE = 360.0
KINDS = ["white", "coloured", "hum", "wander", "emg", "impulses"]


def clean(n=4000, channels=2):
    t = np.arange(n)[:, None] / RATE
    return 900 + 50 * np.sin(2 * np.pi * np.arange(3, 3 + channels) * t)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("snr", [-3.0, 0.0, 12.0])
def test_the_snr_is_hit_exactly_in_every_channel(kind, snr):
    x = clean()
    y = mix(x, [NoisePart(kind=kind), NoisePart(kind="white", power=0.5)], snr, RATE,
            np.random.default_rng(1))  # fmt: skip
    for c in range(2):
        assert snr_db(x[:, c], y[:, c]) == pytest.approx(snr, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides_everything_and_power_is_one(kind):
    part = NoisePart(kind=kind)
    a, b, c = (make_noise(part, 1000, 2, RATE, np.random.default_rng(s)) for s in (3, 3, 4))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert np.allclose(np.mean(a**2, axis=0), 1)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_short_signals_have_finite_noise(kind, n):
    assert np.isfinite(make_noise(NoisePart(kind=kind), n, 1, RATE, np.random.default_rng(0))).all()


def band_share(x, low, high):
    power = np.abs(np.fft.rfft(x[:, 0])) ** 2
    f = np.fft.rfftfreq(len(x), 1 / RATE)
    return power[(f >= low) & (f <= high)].sum() / power.sum()


def test_each_kind_is_where_it_says():
    def noise(**fields):
        return make_noise(NoisePart(**fields), 36_000, 1, RATE, np.random.default_rng(2))

    assert band_share(noise(kind="wander", low_hz=0.1, high_hz=0.6), 0.05, 0.8) > 0.95
    assert band_share(noise(kind="emg", low_hz=20.0, high_hz=150.0), 18, 170) > 0.9
    assert band_share(noise(kind="hum", hz=60.0, harmonics=2), 59, 122) > 0.999
    assert band_share(noise(kind="coloured", exponent=2.0), 0, 1) > 0.9
    few = np.abs(noise(kind="impulses", rate_hz=3.6)[:, 0])
    assert 0.003 < np.mean(few > 0) < 0.03


def test_shares_are_kept():
    rng = np.random.default_rng(0)
    parts = [NoisePart(kind="wander", power=3.0), NoisePart(kind="white")]
    assert band_share(add_noise(parts, 36_000, 1, RATE, rng), 0, 1) == pytest.approx(0.75, abs=0.03)


def test_drop_outs_hold_the_last_sample():
    x = np.random.default_rng(0).normal(size=(3600, 2))
    part = NoisePart(kind="dropouts", rate_hz=1.0, length_s=0.1)
    y = mix(x, [part], 100.0, RATE, np.random.default_rng(1))
    held = np.flatnonzero((y[1:] == y[:-1]).all(1))
    assert len(held) > 100
    assert np.array_equal(np.delete(y, held + 1, 0), np.delete(x, held + 1, 0))


def test_recorded_noise_comes_from_the_folder(tmp_path):
    np.save(tmp_path / "a.npy", np.tile([5.0, 7.0], 500))
    (tmp_path / "notes.txt").write_text("not a signal")
    part = NoisePart(kind="recorded", folder=str(tmp_path))
    got = make_noise(part, 300, 1, RATE, np.random.default_rng(0))
    assert np.allclose(np.abs(got), 1)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"kind": "pink"}, "expected one of"),
        ({"kind": "white", "hz": 60.0}, "takes no hz"),
        ({"kind": "recorded"}, "needs the folder"),
        ({"kind": "wander", "low_hz": 2.0, "high_hz": 1.0}, "low, then high"),
    ],
)
def test_options_that_make_no_sense_are_refused(fields, told):
    with pytest.raises(ConfigError, match=told):
        NoisePart(**fields)


def test_a_folder_without_recordings_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        part = NoisePart(kind="recorded", folder=str(folder))
        with pytest.raises(ConfigError, match="noise folder"):
            make_noise(part, 10, 1, RATE, np.random.default_rng(0))
