"""The exported speech denoiser: small, gain-invariant, the same bits however a stream is cut."""

from pathlib import Path

import numpy as np
import pytest

import edgeae
from edgeae.errors import SignalError
from edgeae.runtime.stft import StftSpec

BUNDLE = Path(__file__).parents[1] / "export" / "models" / "denoise-speech"
RATE_HZ = 16_000

pytestmark = pytest.mark.skipif(not BUNDLE.exists(), reason="the bundle is not there")


@pytest.fixture(scope="module")
def bundle():
    return edgeae.load(BUNDLE)


def vowels(seconds=3.0, hz=130.0):
    """A glottal buzz through moving resonances, with pauses: speech as far as a mask net cares."""
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    pitch = hz * (1 + 0.06 * np.sin(2 * np.pi * 0.7 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE_HZ
    first = 500 + 200 * np.sin(2 * np.pi * 1.1 * t)
    second = 1500 + 500 * np.sin(2 * np.pi * 0.8 * t)
    x = np.zeros_like(t)
    for k in range(1, 24):
        f = k * pitch
        gain = np.exp(-(((f - first) / 150) ** 2)) + 0.4 * np.exp(-(((f - second) / 200) ** 2))
        x += (gain + 0.02) * np.sin(k * phase) / np.sqrt(k)
    loud = np.clip(np.sin(2 * np.pi * 1.5 * t) * 3, 0, 1)
    return 0.2 * x * loud


def noisy(level=0.03):
    return vowels() + level * np.random.default_rng(0).standard_normal(3 * RATE_HZ)


def ratio_db(truth, found):
    return 10 * np.log10(np.sum(truth**2) / np.sum((truth - found) ** 2))


def test_it_is_as_small_and_as_prompt_as_its_card_says(bundle):
    assert bundle.manifest.exact
    assert sum(p.stat().st_size for p in BUNDLE.iterdir()) < 1_000_000
    assert (BUNDLE / "denoiser.onnx").stat().st_size <= 150_000
    denoiser = edgeae.Denoiser(bundle)
    assert denoiser.delay_samples / RATE_HZ <= 0.040
    assert StftSpec.from_json(bundle.denoise.front_end).hop == 256


def test_noise_goes_and_a_voice_stays(bundle):
    hiss = noisy() - vowels()
    assert np.mean(edgeae.denoise(bundle, hiss) ** 2) < 0.1 * np.mean(hiss**2)
    assert ratio_db(vowels(), edgeae.denoise(bundle, vowels())) > 10


@pytest.mark.parametrize("gain", [0.5, 4.0])
def test_it_does_not_hang_on_the_gain(bundle, gain):
    x = noisy()
    plain, other = edgeae.denoise(bundle, x), edgeae.denoise(bundle, gain * x) / gain
    assert ratio_db(plain, other) > 20


@pytest.mark.parametrize("block", [1, 160, 256, 1000])
def test_blocks_of_any_length_give_the_bits_of_the_whole(bundle, block):
    x = noisy()[: 160 * 60].astype(np.float32)
    whole = edgeae.denoise(bundle, x)
    denoiser = edgeae.Denoiser(bundle)
    parts = [denoiser.process(x[i : i + block]) for i in range(0, len(x), block)]
    out = np.concatenate([*parts, denoiser.flush()])
    assert np.array_equal(out[denoiser.delay_samples :], whole)


def test_silence_stays_silence_and_another_rate_is_refused(bundle):
    assert not edgeae.denoise(bundle, np.zeros(RATE_HZ, np.float32)).any()
    with pytest.raises(SignalError, match="16000"):
        edgeae.denoise(bundle, np.zeros(100), rate_hz=8000)
