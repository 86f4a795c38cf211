"""Image denoisers: noise of each kind, training without clean truth, and the optimizer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from denoiser_bundles import image_bundle  # noqa: E402

import edgeae  # noqa: E402
from edgeae.errors import ConfigError  # noqa: E402
from edgeae.models.denoise import ImageNet, ImageSpec  # noqa: E402
from edgeae.models.dyadic import dyadic_layers  # noqa: E402
from edgeae.runtime import denoise_net  # noqa: E402
from edgeae.runtime.native_net import clones  # noqa: E402
from edgeae.tasks.denoise_images import denoise_images  # noqa: E402
from edgeae.train.denoise_images import (  # noqa: E402
    even_out_channels,
    hidden_pixels,
    image_metrics,
    load_image_denoiser,
    net_denoiser,
    noisy_images,
    psnr_db,
    quantize_image_denoiser,
    score_images,
    train_image_denoiser,
)
from edgeae.train.denoise_recipe import DenoiseRecipe  # noqa: E402
from edgeae.train.optim import Muon  # noqa: E402
from edgeae.train.recipe import parse_recipe  # noqa: E402
from edgeae.train.run import RunFolder  # noqa: E402
from edgeae.train.training import silent  # noqa: E402

ENGINES = ["onnxruntime", *(["native"] if clones() else [])]
RECIPE = """
name = "tiny"
task = "denoise"
[data]
source = "{source}"
[denoise]
family = "image"
width = 8
depth = 1
sigma = [20, 20]
test_sigma = [20]
batch = 8
crop = 24
steps = {steps}
learning_rate = {rate}
muon = {muon}
average = 0.9
hold = 0.5
validate_every = 20
{more}
[quantize]
steps = 10
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Smooth blobs with edges, uint8 [40, 32, 32]."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:32, :32] / 32
    waves = [
        np.sin(2 * np.pi * (a * x + b * y + c)) > 0.3 * np.cos(3 * d * x)
        for a, b, c, d in rng.uniform(-1.5, 1.5, (40, 4))
    ]
    data = np.where(waves, 190, 70).astype(np.uint8)
    path = tmp_path_factory.mktemp("images") / "blobs.npy"
    np.save(path, data)
    return path


def run_of(images, folder, *, more="", steps=60, rate=0.03, muon="true"):
    run = RunFolder(folder)
    text = RECIPE.format(source=images, steps=steps, more=more, rate=rate, muon=muon)
    run.create(parse_recipe(text))
    train_image_denoiser(run, progress=silent)
    return run


def test_a_run_denoises_in_float_and_on_its_grids(images, tmp_path):
    run = run_of(images, tmp_path / "run", steps=300, more="clipped = 0.2")
    report = quantize_image_denoiser(run, progress=silent)
    noisy_db = 20 * np.log10(255 / 20)
    assert report["float"]["db_at_20"] > noisy_db + 3
    assert report["dyadic"]["db_at_20"] > report["float"]["db_at_20"] - 0.3
    net = load_image_denoiser(run)
    assert all(layer.quantized for layer in dyadic_layers(net))
    table = image_metrics(run)
    assert table["images"] == 4
    assert table["dyadic_gaussian"]["20"] > noisy_db + 3
    held = np.load(images)[-4:]
    scores = score_images(net_denoiser(net), list(held), [20.0], clipped=False)
    assert round(scores["20"], 3) == table["dyadic_gaussian"]["20"]


def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(images, tmp_path, monkeypatch):
    whole = run_of(images, tmp_path / "whole", steps=40)
    monkeypatch.setattr("edgeae.train.run.SAVE_EVERY_S", 0.0)
    calls = 0

    def killed(name, done, metrics):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    folder = RunFolder(tmp_path / "cut")
    folder.create(whole.recipe())
    with pytest.raises(KeyboardInterrupt):
        train_image_denoiser(folder, progress=killed)
    train_image_denoiser(folder, progress=silent)
    a, b = (load_image_denoiser(r, quantized=False).state_dict() for r in (whole, folder))
    weights = [k for k, v in a.items() if isinstance(v, torch.Tensor)]
    assert all(torch.equal(a[k], b[k]) for k in weights)


@pytest.mark.parametrize("target", ["noise2noise", "blind-spot"])
def test_training_without_clean_truth_denoises(tmp_path, target):
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:32, :32] / 32
    clean = np.stack(
        [128 + 70 * np.sin(6 * (a * x + b * y + c)) for a, b, c in rng.uniform(-1, 1, (40, 3))]
    )
    noisy = np.clip(np.rint(clean + 20 * rng.standard_normal(clean.shape)), 0, 255)
    np.save(tmp_path / "noisy.npy", noisy.astype(np.uint8))
    more = f'target = "{target}"\ntold = false'
    source = tmp_path / "noisy.npy"
    run = run_of(source, tmp_path / "run", more=more, steps=400, rate=0.01, muon="false")
    denoise = net_denoiser(load_image_denoiser(run, quantized=False))
    out = np.stack([denoise(x.astype(np.float32), 20.0) for x in noisy[-4:]])
    assert psnr_db(clean[-4:], out) > psnr_db(clean[-4:], noisy[-4:]) + 2


def test_a_blind_spot_cannot_be_told_the_noise(images, tmp_path):
    with pytest.raises(ConfigError, match="told=false"):
        run_of(images, tmp_path / "run", more='target = "blind-spot"')


def test_noise_has_the_level_that_the_net_is_told():
    generator = torch.Generator().manual_seed(1)
    clean = torch.full((64, 1, 40, 40), 100.0)
    for part in (
        DenoiseRecipe(family="image", sigma=(5, 50)),
        DenoiseRecipe(family="image", sigma=(5, 50), poisson=1.0),
        DenoiseRecipe(family="image", sigma=(5, 50), salt=1.0),
    ):
        noisy, level = noisy_images(clean, part, generator)
        found = (noisy - clean).square().mean((1, 2, 3)).sqrt()
        assert torch.allclose(found, level, rtol=0.1)
    camera = DenoiseRecipe(family="image", sigma=(50, 50), clipped=1.0)
    noisy, _ = noisy_images(clean, camera, generator)
    assert torch.equal(noisy, noisy.round().clamp(0, 255))


def test_photon_noise_is_stronger_where_it_is_bright():
    clean = torch.cat([torch.full((1, 1, 64, 64), v) for v in (20.0, 180.0)], 3)
    part = DenoiseRecipe(family="image", sigma=(10, 10), poisson=1.0)
    noisy, _ = noisy_images(clean, part, torch.Generator().manual_seed(2))
    dark, bright = (noisy - clean).split(64, 3)
    assert float(bright.std() / dark.std()) == pytest.approx(3.0, rel=0.1)


def test_hidden_pixels_take_a_neighbours_value():
    x = torch.arange(64.0).view(1, 1, 8, 8).repeat(50, 1, 1, 1)
    seen, mask = hidden_pixels(x, torch.Generator().manual_seed(0))
    assert torch.equal(seen[~mask], x[~mask])
    assert mask.any()
    assert (seen[mask] != x[mask]).all()


def test_muon_finds_a_least_squares_solution():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Linear(6, 2))
    x = torch.randn(256, 6)
    y = x @ torch.randn(6, 2) + 1
    optimizer = Muon(net.parameters(), lr=0.2)
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 0.2 * (1 - step / 400)
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5


@pytest.mark.parametrize("views", [2, 4])
def test_views_are_averaged_and_turn_with_the_image(tmp_path, views):
    bundle = image_bundle(tmp_path / "b")
    x = np.random.default_rng(1).integers(0, 256, (3, 10, 14)).astype(np.uint8)
    seen = denoise_images(bundle, x, sigma=20, views=views)
    assert seen.shape == x.shape
    turned = denoise_images(bundle, np.ascontiguousarray(x[:, ::-1, ::-1]), sigma=20, views=views)
    assert np.array_equal(turned[:, ::-1, ::-1], seen)
    with pytest.raises(ConfigError, match="expected one of 1, 2, 4"):
        denoise_images(bundle, x, views=3)


@pytest.mark.parametrize("weights", [0, 1, 2])
def test_evened_channels_leave_the_float_net_as_it_is(weights):
    torch.manual_seed(4)
    net = ImageNet(ImageSpec(width=8, depth=3, weights=weights))
    for layer in dyadic_layers(net):
        torch.nn.init.normal_(layer.bias, std=0.1)
    x = torch.randint(0, 256, (2, 1, 16, 16)).float()
    sigma = torch.tensor([10.0, 40.0])
    with torch.no_grad():
        before, peaks = net(x, sigma), net.trunk_peaks(x, sigma)
        even_out_channels(net, peaks)
        after, evened = net(x, sigma), net.trunk_peaks(x, sigma)
    assert torch.allclose(before, after, atol=1e-2)
    assert evened.max() / evened.min() < 1.01 * (peaks.max() / peaks.min()).sqrt()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("views", [1, 4])
def test_tiles_give_the_bits_of_the_whole(tmp_path, monkeypatch, engine, views):
    image_bundle(tmp_path / "b")
    x = np.random.default_rng(3).integers(0, 256, (1, 141, 99)).astype(np.uint8)
    bundle = edgeae.load(tmp_path / "b", engine=engine)
    whole = denoise_images(bundle, x, sigma=20, views=views)
    shapes = []
    monkeypatch.setattr(denoise_net, "_TILE", 48)
    monkeypatch.setattr(denoise_net.ImageDenoiseNet, "_whole", seen(shapes))
    assert np.array_equal(denoise_images(bundle, x, sigma=20, views=views), whole)
    assert max(max(shape) for shape in shapes) == 48
    assert len(shapes) > 6 * views


def seen(shapes):
    run = denoise_net.ImageDenoiseNet._whole

    def noted(self, image, sigma):
        shapes.append(image.shape[2:])
        return run(self, image, sigma)

    return noted
