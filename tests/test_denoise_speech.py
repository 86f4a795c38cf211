"""Training of speech denoisers: other voices made of one, mixtures, the phases end to end."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
soundfile = pytest.importorskip("soundfile")

from edgeae.errors import ConfigError, ModelError, SignalError  # noqa: E402
from edgeae.metrics import si_sdr_db  # noqa: E402
from edgeae.runtime.stft import StftFrontEnd  # noqa: E402
from edgeae.train.denoise_speech import (  # noqa: E402
    FRONT,
    denoised_speech,
    features_of,
    load_speech_denoiser,
    mask_spec,
    quantize_speech_denoiser,
    speech_metrics,
    speech_net,
    train_speech_denoiser,
)
from edgeae.train.recipe import parse_recipe  # noqa: E402
from edgeae.train.run import RunFolder  # noqa: E402
from edgeae.train.speech import (  # noqa: E402
    RATE_HZ,
    Mixing,
    SpeechMixer,
    read_audio,
    read_noises,
    resampled,
    revoiced,
    said,
)
from edgeae.train.speech_loss import SpeechLoss, bands_of  # noqa: E402
from edgeae.train.speech_test import digit_sentences, mixtures  # noqa: E402


def buzz(seconds, hz, seed=0):
    """A voice of sorts: pulses through two resonances, in syllables."""
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    x = sum(np.sin(2 * np.pi * hz * k * t) * np.exp(-(((k * hz - 700) / 900) ** 2))
            for k in range(1, int(5000 / hz)))  # fmt: skip
    rng = np.random.default_rng(seed)
    rough = 0.01 * rng.standard_normal(len(t))
    return ((0.05 * x + rough) * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * t))).astype(np.float32)


def pitch_hz(x, near):
    power = np.abs(np.fft.rfft(x * np.hanning(len(x)))) ** 2
    r = np.fft.irfft(power)
    low, high = int(0.7 * RATE_HZ / near), int(1.4 * RATE_HZ / near)
    return RATE_HZ / (low + int(np.argmax(r[low:high])))


@pytest.mark.parametrize(("pitch", "formant"), [(0.6, 0.9), (0.8, 1.0), (1.3, 1.1)])
def test_another_voice_has_another_pitch(pitch, formant):
    x = buzz(1.0, 200)
    y = revoiced(x, pitch, formant, np.random.default_rng(0))
    assert len(y) == pytest.approx(len(x) / pitch, abs=2)
    middle = y[len(y) // 4 : len(y) // 4 + 8000]
    assert pitch_hz(middle, 200 * pitch) == pytest.approx(200 * pitch, rel=0.06)
    assert np.sqrt(np.mean(y**2)) == pytest.approx(np.sqrt(np.mean(x**2)), rel=1e-3)


def test_a_change_of_rate_keeps_a_tone():
    x = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000).astype(np.float32)
    wanted = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    found = resampled(x, 8000)
    assert len(found) == 16000
    np.testing.assert_allclose(found[500:-500], wanted[500:-500], atol=0.02)


def test_every_recording_is_said_by_others_too():
    recordings = [buzz(1.0, 200, i) for i in range(2)]
    voices = said(recordings, 3, voices=2, room=0.0)
    assert len(voices) == 3
    lengths = [len(v) for v in voices]
    assert len(set(lengths)) == 3  # other voices are slower or faster
    again = said(recordings, 3, voices=2, room=0.0)
    assert all(map(np.array_equal, voices, again))


def mixer(**fields):
    noise = np.random.default_rng(1).standard_normal(RATE_HZ * 2).astype(np.float32)
    return SpeechMixer([buzz(4, 180)], [[noise]], Mixing(**fields), FRONT)


def test_mixtures_have_the_ratio_asked_for_and_hang_on_the_seed_alone():
    of = mixer(snr_db=(5.0, 5.0))
    clean, noisy = of.batch(4, 32 * FRONT.hop, np.random.default_rng(3))
    power = [v.abs().square().sum((1, 2)) for v in (clean, noisy - clean)]
    ratio = 10 * torch.log10(power[0] / power[1])
    torch.testing.assert_close(ratio, torch.full((4,), 5.0), atol=0.01, rtol=0)
    again = of.batch(4, 32 * FRONT.hop, np.random.default_rng(3))
    assert torch.equal(again[0], clean)
    assert torch.equal(again[1], noisy)
    with pytest.raises(ConfigError, match="no noise"):
        SpeechMixer([buzz(1, 100)], [[]], Mixing(), FRONT)


def test_training_sees_the_features_that_the_runtime_makes():
    x = buzz(1.5, 150)[: 90 * FRONT.hop]
    spectra = mixer().spectra(torch.from_numpy(x)[None])
    bands = bands_of(FRONT, spectra, spectra)
    trained = features_of(FRONT, bands.noisy / bands.scale).numpy()
    run = StftFrontEnd(FRONT).analyse(x[None])
    assert trained.shape == run.shape
    assert np.mean(trained == run) > 0.98
    assert np.abs(trained - run).max() <= 1


def test_the_loss_of_bands_is_that_of_bins():
    clean, noisy = mixer().batch(2, 16 * FRONT.hop, np.random.default_rng(0))
    mask = torch.rand(2, FRONT.n_bands, clean.shape[2])
    bands = bands_of(FRONT, clean, noisy)
    _, metrics = SpeechLoss(FRONT, RATE_HZ).spectral(bands, mask)
    spread = mask[:, torch.from_numpy(FRONT.band_of_bin)]
    error = (noisy * spread - clean).abs().square().sum((1, 2))
    wanted = 10 * torch.log10(clean.abs().square().sum((1, 2)) / error).mean()
    assert metrics["snr_db"] == pytest.approx(float(wanted), abs=0.02)
    scale = torch.sqrt(bands.scale)
    small = [(v.abs() * scale) ** 0.3 for v in (noisy * spread, clean)]
    wanted = (small[0] - small[1]).square().mean()
    assert metrics["magnitude"] == pytest.approx(float(wanted), rel=0.03)


def test_the_ear_hears_no_error_in_the_truth_and_more_in_more_noise():
    judge = SpeechLoss(FRONT, RATE_HZ)
    clean, noise = (judge_bands(seed) for seed in (1, 2))
    found = [[float(term(clean, clean + share * noise)) for share in (0.0, 0.03, 0.3, 3.0)]
             for term in (judge.envelope, judge.loudness)]  # fmt: skip
    for values in found:
        assert values[0] < 0.01
        assert np.all(np.diff(values) > 0.002)


def test_intelligibility_hangs_on_the_shape_of_an_envelope_and_not_on_its_level():
    judge, clean = SpeechLoss(FRONT, RATE_HZ), judge_bands(1)
    tilted = clean * torch.linspace(0.1, 4, clean.shape[1]).view(1, -1, 1)
    assert float(judge.envelope(clean, tilted)) < 0.02
    flat = clean.mean(2, keepdim=True).expand_as(clean)
    assert float(judge.envelope(clean, flat)) > 0.9


def judge_bands(seed):
    """Band powers with syllables of their own in every third of an octave."""
    generator = torch.Generator().manual_seed(seed)
    walk = torch.randn(2, FRONT.n_bands // 3, 80, generator=generator)
    level = torch.nn.functional.avg_pool1d(walk, 5, 1, 2).repeat_interleave(3, 1)
    return torch.exp(3 * level)


def test_a_net_of_ones_gives_the_recording_back():
    net = speech_net(mask_spec(FRONT, width=4, dilations=(1,)))
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        net.last.bias.fill_(1.0)
    x = buzz(0.7, 120)
    np.testing.assert_allclose(denoised_speech(net, x), x, atol=1e-6)
    assert si_sdr_db(x, denoised_speech(net, x)) > 80


@pytest.fixture
def folders(tmp_path):
    speech, noise, test = (tmp_path / name for name in ("speech", "noise/hiss", "other"))
    for folder in (speech, noise, test):
        folder.mkdir(parents=True)
    for i in range(10):
        soundfile.write(speech / f"{i}.flac", buzz(1.2, 180 + i, i), RATE_HZ)
    rng = np.random.default_rng(0)
    for fold in (1, 2, 3):
        for origin in range(5):
            hiss = 0.1 * rng.standard_normal(44100).astype(np.float32)
            soundfile.write(noise / f"{fold}-{fold}{origin}-A.ogg", hiss, 44100)
    for digit in range(3):
        soundfile.write(test / f"{digit}_ann_0.wav", buzz(0.6, 120, digit)[::2], 8000)
    return tmp_path


def recipe_of(folders, more=""):
    return parse_recipe(f"""
name = "tiny"
task = "denoise"
[data]
source = "{folders / "speech"}"
test = "{folders / "other"}"
[denoise]
family = "speech"
test_snr_db = [5.0]
width = 6
dilations = [1, 2]
steps = 4
batch = 2
crop = 8192
settle = 0
validate_every = 2
[[denoise.noise]]
kind = "recorded"
folder = "{folders / "noise"}"
{more}
[quantize]
steps = 3
""")


def test_no_noise_is_in_two_parts(folders):
    parts = {
        part: {name for kind in read_noises(folders / "noise", part).values() for name, _ in kind}
        for part in ("train", "val", "test")
    }
    assert {name[0] for name in parts["test"]} == {"3"}
    assert len(parts["test"]) == 5
    assert len(parts["train"]) + len(parts["val"]) == 10
    assert len(parts["val"]) == 1
    assert not parts["train"] & parts["val"]


def test_a_recipe_is_trained_and_quantized(folders, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create(recipe_of(folders))
    train_speech_denoiser(run, progress=lambda *_: None)
    report = quantize_speech_denoiser(run, progress=lambda *_: None)
    assert set(report) == {"float", "rounded_only", "dyadic", "change_percent"}
    net = load_speech_denoiser(run)
    assert net.last.quantized
    features = torch.randint(-99, 99, (1, FRONT.n_bands, 9)).float()
    with torch.no_grad():
        mask, _ = net(features, net.initial_state(1))
    assert torch.equal(mask * 256, torch.round(mask * 256))
    assert set(speech_metrics(run)["dyadic"]) == {"5"}


def test_what_cannot_be_trained_is_said(folders, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create(recipe_of(folders, '[[denoise.noise]]\nkind = "hum"'))
    with pytest.raises(ConfigError, match="hum"):
        train_speech_denoiser(run, progress=lambda *_: None)
    with pytest.raises(ModelError, match="denoise-q"):
        load_speech_denoiser(run)
    (tmp_path / "bad.wav").write_bytes(b"RIFF nonsense")
    with pytest.raises(SignalError, match=r"bad\.wav"):
        read_audio(tmp_path / "bad.wav")


def test_test_mixtures_are_seeded_and_hit_their_ratio(folders):
    sentences = digit_sentences(folders / "other", per_speaker=2, digits=3)
    assert list(sentences) == ["ann-0", "ann-1"]
    found = mixtures(sentences, read_noises(folders / "noise", "test"), (0.0, 10.0))
    assert [m.snr_db for m in found] == [0.0, 10.0] * 2
    for m in found:
        ratio = 10 * np.log10(np.mean(m.clean**2) / np.mean((m.noisy - m.clean) ** 2))
        assert ratio == pytest.approx(m.snr_db, abs=0.05)
