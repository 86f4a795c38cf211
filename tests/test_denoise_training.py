"""Training of stream denoisers: with clean truth, from pairs, and from noisy data alone."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import edgeae  # noqa: E402
from edgeae.errors import ConfigError, ModelError  # noqa: E402
from edgeae.exporting.bundle import export_run  # noqa: E402
from edgeae.quantize import quantize  # noqa: E402
from edgeae.train.denoise import denoised, load_stream_denoiser, stream_metrics  # noqa: E402
from edgeae.train.denoise_data import (  # noqa: E402
    _other_leads,
    _repaced,
    bank_of,
    hidden,
    load_denoise_data,
    two_takes,
)
from edgeae.train.recipe import parse_recipe, recipe_from_dict, recipe_to_dict  # noqa: E402
from edgeae.train.run import RunFolder  # noqa: E402
from edgeae.train.training import train  # noqa: E402

RATE = 200.0


def waves(seed, n=6000):
    """Two tones whose strength and pace drift: easy to tell from white noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(n) / RATE
    drift = np.interp(t, np.linspace(0, t[-1], 12), rng.uniform(0.5, 1.5, 12))
    return 500 + 200 * drift * (np.sin(2 * np.pi * 3 * t) + 0.5 * np.sin(2 * np.pi * 7.3 * t + 1))


def recipe_of(path, **fields):
    table = {
        "steps": 150, "batch": 8, "crop": 256, "settle": 64, "width": 12, "dilations": [1, 2, 4],
        "delay": 5, "validate_every": 50, "learning_rate": 5e-3, "snr_db": [0.0, 6.0],
        "test_snr_db": [3.0], "noise": [{"kind": "white"}], **fields,
    }  # fmt: skip
    return recipe_from_dict(
        {
            "name": "toy",
            "task": "denoise",
            "data": {"source": str(path), "rate_hz": RATE},
            "denoise": table,
            "quantize": {"steps": 40, "learning_rate": 5e-4},
        }
    )


def trained(tmp_path, data, **fields):
    np.save(tmp_path / "x.npy", np.round(data).astype(np.int16))
    recipe = recipe_of(tmp_path / "x.npy", **fields)
    return train(recipe, out=tmp_path / "run", threads=1)


def gain_db(run, clean, noisy):
    """How much nearer to the truth than the noisy signal the quantized net is, [T] each."""
    net = load_stream_denoiser(run)
    with torch.no_grad():
        out = denoised(net, torch.from_numpy(np.round(noisy).astype(np.float32))[None, None])
    out = out[0, 0].numpy()[200:]
    return 10 * np.log10(np.sum((noisy - clean)[200:] ** 2) / np.sum((out - clean[200:]) ** 2))


def test_clean_truth(tmp_path):
    run = trained(tmp_path, waves(0))
    report = quantize(run, threads=1)["denoiser"]
    assert report["dyadic"]["snr_at_3_db"] > 7
    assert report["dyadic"]["snr_at_3_db"] > report["float"]["snr_at_3_db"] - 0.5
    noise = np.random.default_rng(5).normal(0, 100, 6000)
    assert gain_db(run, waves(1), waves(1) + noise) > 3
    scores = stream_metrics(run)
    assert scores["dyadic"]["3"]["mean"] > 6
    assert len(set(scores["dyadic"]["3"].values())) == 1  # of one recording
    assert np.isfinite(scores["float"]["3"]["mean"])


def test_the_quantized_net_is_exact(tmp_path):
    run = trained(tmp_path, waves(0, 3000), steps=20)
    quantize(run, threads=1)
    net = load_stream_denoiser(run)
    x = torch.randint(-2000, 3000, (2, 1, 256)).float()
    with torch.no_grad():
        single, _ = net(x, net.initial_state(2))
        net.double()
        double, _ = net(x.double(), [s.double() for s in net.initial_state(2)])
    assert torch.equal(single.double(), double)


@pytest.mark.parametrize("target", ["noise2noise", "blind-spot"])
def test_no_clean_truth(tmp_path, target):
    rng = np.random.default_rng(3)
    clean = waves(0, 12_000)
    takes = 2 if target == "noise2noise" else 1
    noisy = np.stack([clean + rng.normal(0, 120, len(clean)) for _ in range(takes)], 1)
    run = trained(tmp_path, noisy, target=target, steps=250, gain=0.0)
    report = quantize(run, threads=1)["denoiser"]
    assert report["dyadic"]["relative_error"] < 1.2 * report["float"]["relative_error"]
    truth = waves(9)
    assert gain_db(run, truth, truth + rng.normal(0, 120, len(truth))) > 3


def test_a_hidden_sample_shows_another():
    x = torch.arange(400.0).view(1, 1, 400)
    shown, target, weight = hidden(x, torch.Generator().manual_seed(0))
    assert torch.equal(target, x)
    assert torch.equal(shown != x, weight > 0)
    assert 0 < (shown - x).abs().max() <= 4
    assert 0.02 < (weight > 0).float().mean() < 0.2


def test_takes_are_swapped_whole():
    x = torch.arange(8.0).view(2, 4, 1).expand(2, 4, 5)
    got, target, _ = two_takes(x, torch.Generator().manual_seed(1))
    for i in range(2):
        assert {got[i, 0, 0].item(), target[i, 0, 0].item()} == {4.0 * i, 4.0 * i + 2}
        assert abs(got[i, 0, 0] - target[i, 0, 0]) == 2


def test_augmentation_keeps_shape_and_strength():
    generator = torch.Generator().manual_seed(0)
    x = torch.from_numpy(waves(0, 500).astype(np.float32) - 500).view(1, 1, -1).repeat(4, 1, 1)
    other = _other_leads(x, 0.5, generator)
    assert other.shape == x.shape
    assert torch.allclose(other.std(2), x.std(2), rtol=1e-3)
    assert not torch.allclose(other, x, atol=1.0)
    quicker = _repaced(x, 400, 0.2, generator)
    assert quicker.shape == (4, 1, 400)
    assert torch.equal(quicker[:, :, 0], x[:, :, 0])


def test_channels_change_places_whole(tmp_path):
    x = np.random.default_rng(0).normal(size=(600, 1)) * [10, 50, 250, 1250]
    np.save(tmp_path / "x.npy", np.round(x).astype(np.int16))
    run = RunFolder(tmp_path / "run")
    run.create(recipe_of(tmp_path / "x.npy", mounting=True, gain=0.0))
    data = load_denoise_data(run)
    table = run.recipe().denoise
    _, target, _ = data.crops(table, bank_of(table, data, 0), torch.Generator().manual_seed(0))
    sizes = target.std(2)
    ratios = sizes.sort(1).values[:, 1:] / sizes.sort(1).values[:, :-1]
    assert ((ratios > 4) & (ratios < 6)).all()
    assert len({tuple(row.argsort().tolist()) for row in sizes}) > 1


def test_slow_content_is_no_part_of_the_truth(tmp_path):
    t = np.arange(6000) / RATE
    np.save(tmp_path / "x.npy", np.round(waves(0) + 900 * np.sin(0.2 * t)).astype(np.int16))
    run = RunFolder(tmp_path / "run")
    run.create(recipe_of(tmp_path / "x.npy", highpass_hz=1.0))
    data = load_denoise_data(run)
    middle = data.train.segments[0][0, 1000:-1000].numpy()
    truth = waves(0)[1000 : 1000 + len(middle)] - 500
    assert np.std(middle - truth) < 0.15 * np.std(truth)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('family = "tree"', "expected one of"),
        ('target = "guess"', "expected one of"),
        ("snr_db = [6.0, 0.0]", "low, then high"),
        ("hop = 32", "smaller than denoise.hop"),
        ("crop = 100\nsettle = 100", "settle must be smaller"),
        ("bits = 20", "expected 6 to 12"),
        ("offset = 1.0", "highpass_hz too"),
        ("dilations = [0]", "expected 1"),
        ('[[denoise.noise]]\nkind = "purple"', "expected one of"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(table, told):
    with pytest.raises(ConfigError, match=told):
        parse_recipe(f'name = "x"\ntask = "denoise"\n[denoise]\n{table}')


def test_a_recipe_survives_json():
    recipe = recipe_of("x.npy", snr_db=[-3.0, 5.0])
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


def test_data_that_cannot_be_used_are_refused(tmp_path):
    np.save(tmp_path / "short.npy", waves(0, 100).astype(np.int16))
    np.save(tmp_path / "x.npy", waves(0, 3000).astype(np.int16))
    with pytest.raises(ConfigError, match=r"denoise\.crop"):
        train(recipe_of(tmp_path / "short.npy"), out=tmp_path / "a", threads=1)
    with pytest.raises(ConfigError, match="two takes"):
        train(recipe_of(tmp_path / "x.npy", target="noise2noise"), out=tmp_path / "b", threads=1)
    with pytest.raises(ConfigError, match="nothing that can be added"):
        train(
            recipe_of(tmp_path / "x.npy", noise=[{"kind": "dropouts"}]),
            out=tmp_path / "c",
            threads=1,
        )
    with pytest.raises(ModelError, match="not finished"):
        load_stream_denoiser(RunFolder(tmp_path / "c"))


def test_a_run_becomes_a_bundle_that_denoises(tmp_path):
    run = trained(tmp_path, waves(0, 3000), steps=40)
    bundle = export_run(run, tmp_path / "toy.bundle", threads=1)
    assert bundle.manifest.exact
    noisy = np.round(waves(1, 1000) + np.random.default_rng(0).normal(0, 100, 1000))
    out = edgeae.denoise(bundle, noisy.astype(np.int16))
    with torch.no_grad():
        net = load_stream_denoiser(run)
        offline = denoised(net, torch.from_numpy(noisy.astype(np.float32))[None, None])[0, 0]
    assert out.dtype == np.int16
    assert np.array_equal(out, offline.numpy())
