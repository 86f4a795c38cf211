"""From data to a verified bundle, for every family, in seconds: tiny nets, generated data."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import edgeae  # noqa: E402
import edgeae.train.run as run_module  # noqa: E402
from edgeae.bitstream.frame import Mode  # noqa: E402
from edgeae.bitstream.reader import FrameReader  # noqa: E402
from edgeae.errors import ConfigError, ModelError, SignalError  # noqa: E402
from edgeae.exporting.bundle import export_run  # noqa: E402
from edgeae.exporting.verify import verify_bundle  # noqa: E402
from edgeae.models.sample_prior import SamplePriorNet, SamplePriorSpec  # noqa: E402
from edgeae.quantize import quantize  # noqa: E402
from edgeae.tasks.codec import FrameCodec  # noqa: E402
from edgeae.train.phases import SamplePriorPhase, Signal, turned  # noqa: E402
from edgeae.train.recipe import SamplePriorRecipe, parse_recipe, with_overrides  # noqa: E402
from edgeae.train.run import RunFolder, Schedule  # noqa: E402
from edgeae.train.training import train  # noqa: E402

COMMON = """
name = "tiny"
seed = 3
[train]
steps = 60
batch = 8
crop = 250
validate_every = 20
distortion_weight = 0.002
[quantize]
steps = 20
prior_steps = 12
rounds = 2
[latent_prior]
width = 8
offsets = [1, 2]
"""
PRIOR = """
[[sample_prior]]
steps = [1, 11]
width = 8
taps = 8
dilations = [1]
train_steps = 40
batch = 8
crop = 200
"""
FAMILIES = {
    "conv1d": COMMON
    + PRIOR
    + """
[model]
family = "conv1d"
latent = 3
widths = [8, 8]
strides = [5, 2]
kernels = [8, 4]
""",
    "dense": COMMON
    + PRIOR
    + """
[model]
family = "dense"
latent = 5
widths = [16]
window = 20
""",
    "none": COMMON.replace("[latent_prior]\nwidth = 8\noffsets = [1, 2]\n", "")
    + PRIOR
    + """
[model]
family = "none"
""",
    "conv2d": COMMON
    + PRIOR.replace("taps = 8", 'taps = 4\nkind = "level"')
    + """
[model]
family = "conv2d"
latent = 3
widths = [8]
strides = [2]
kernels = [4]
""",
}
FAMILIES["pixels"] = (
    FAMILIES["conv2d"]
    .replace('"level"', '"pixel"')
    .replace("[latent_prior]", '[latent_prior]\nkind = "cells"')
    .replace("[train]", '[train]\noptimizer = "muon"\nlearning_rate = 0.02\nfocus = 0.2')
)
IMAGES = ("conv2d", "pixels")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two channels with a slow part that a code catches; small pictures."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    t = np.arange(12_000)
    slow = 400 * np.sin(t / 23) * (1 + 0.3 * np.sin(t / 331))
    series = np.stack([slow + rng.normal(0, 6, t.size), 0.5 * slow + rng.normal(0, 3, t.size)], 1)
    np.save(folder / "series.npy", np.rint(series).astype(np.int16))
    y, x = np.mgrid[:8, :8]
    phase = rng.random((300, 1, 1)) * 6
    images = 100 + 80 * np.sin(x / 2 + phase) * np.cos(y / 3) + rng.normal(0, 3, (300, 8, 8))
    np.save(folder / "images.npy", np.clip(np.rint(images), 0, 255).astype(np.uint8))
    return folder


def source(data, family):
    return str(data / ("images.npy" if family in IMAGES else "series.npy"))


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """Runs and bundles by family, made once."""
    kept = {}

    def make(family):
        if family not in kept:
            folder = tmp_path_factory.mktemp(family)
            recipe = parse_recipe(FAMILIES[family])
            run = train(recipe, out=folder / "run", data=source(data, family), threads=1)
            quantize(run, threads=1)
            kept[family] = run, export_run(run, folder / "bundle")
        return kept[family]

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recipe_becomes_a_verified_bundle(made, data, family):
    _, bundle = made(family)
    assert bundle.exact
    breaches = [c for c in verify_bundle(bundle, windows=8) if c.passed is False]
    assert breaches == []
    x = np.load(source(data, family))[-200:]
    assert np.array_equal(edgeae.decode(bundle, edgeae.encode(bundle, x, lossless=True)), x)
    back = edgeae.decode(bundle, edgeae.encode(bundle, x, max_error=5))
    assert np.abs(back.astype(int) - x).max() <= 5
    if bundle.net is not None:
        lossy = edgeae.encode(bundle, x)
        assert edgeae.decode(bundle, lossy).shape == x.shape


@pytest.mark.parametrize("family", FAMILIES)
def test_metrics_are_logged_and_reported(made, family):
    run, bundle = made(family)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    phases = {line["phase"] for line in lines}
    wanted = {"prior0", "prior0-q1"} | ({"prior0-q0"} if family != "pixels" else set())
    if family != "none":
        wanted |= {"transform", "transform-q"}
    assert wanted <= phases
    validated = [line for line in lines if "objective" in line]
    assert validated
    assert all(np.isfinite(line["objective"]) for line in validated)
    assert run.seconds() > 0
    report = run.read_json("quantize.json")
    assert "sample_prior_0" in report
    raw = bundle.manifest.raw
    assert raw["metrics"]["quantization"] == report
    assert raw["recipe"]["name"] == "tiny"
    assert "/" not in raw["recipe"]["data"]["source"]
    assert raw["certificate"]
    assert raw["cost"]["sample_prior_0_parameters"] > 0
    card = bundle.files["README.md"].decode()
    assert "## Certificate" in card
    assert "edgeae verify" in card


def test_training_learns_something(made):
    run, bundle = made("conv1d")
    steps = [m for m in run.metrics() if m["phase"] == "transform" and "rmse" in m]
    assert steps[-1]["rmse"] < 0.9 * steps[0]["rmse"]
    assert bundle.manifest.raw["metrics"]["window_code"]["rmse"] < 250


def test_the_same_seed_gives_the_same_bundle(made, data, tmp_path):
    _, first = made("none")
    recipe = parse_recipe(FAMILIES["none"])
    run = train(recipe, out=tmp_path / "again", data=source(data, "none"), threads=1)
    quantize(run, threads=1)
    again = export_run(run, tmp_path / "b.zip")
    assert again.fingerprint == first.fingerprint
    other = train(
        with_overrides(recipe, ["seed=4"]),
        out=tmp_path / "other",
        data=source(data, "none"),
        threads=1,
    )
    weights = [torch.load(r.phases / "prior0.pt")["module"] for r in (run, other)]
    assert any(
        not torch.equal(a, b)
        for a, b in zip(weights[0].values(), weights[1].values(), strict=True)
        if isinstance(a, torch.Tensor) and a.is_floating_point()
    )


@pytest.mark.parametrize("stop_at", [("transform", 1), ("transform", 2), ("prior0", 1)])
def test_a_killed_run_goes_on_to_the_same_weights(made, data, tmp_path, monkeypatch, stop_at):
    whole, _ = made("conv1d")
    monkeypatch.setattr(run_module, "SAVE_EVERY_S", 0.0)
    calls = []

    def kill(name, done, metrics):
        calls.append(name)
        if (name, calls.count(name)) == stop_at:
            raise KeyboardInterrupt

    recipe = parse_recipe(FAMILIES["conv1d"])
    arguments = {"out": tmp_path / "run", "data": source(data, "conv1d"), "threads": 1}
    with pytest.raises(KeyboardInterrupt):
        train(recipe, progress=kill, **arguments)
    with pytest.raises(ModelError, match=r"not finished|damaged|no phase|prior0|transform"):
        quantize(RunFolder(tmp_path / "run"), threads=1)
    run = train(recipe, **arguments)
    for phase in ("transform", "prior0"):
        found, expected = (torch.load(r.phases / f"{phase}.pt")["module"] for r in (run, whole))
        for key, value in expected.items():
            same = torch.equal(found[key], value) if torch.is_tensor(value) else True
            assert same, (phase, key)
    assert not list(run.phases.glob("*.part"))


def test_a_sample_prior_with_a_code_is_used_and_decoded(data, tmp_path, monkeypatch):
    """A net that knows the slow part: mode "neural + residual" must be coded and decoded.

    The modes without a model, which code so simple a signal in less, are left out.
    """
    monkeypatch.setattr(FrameCodec, "_add_classical", lambda *_: None)
    monkeypatch.setattr(FrameCodec, "_add_recall", lambda *_: None)
    rng = np.random.default_rng(1)
    held = np.repeat(rng.integers(-900, 900, 1200), 10)  # steps that no past foretells
    x = (held + np.rint(rng.normal(0, 2, held.size))).astype(np.int16)
    np.save(tmp_path / "steps.npy", x)
    recipe = parse_recipe(
        FAMILIES["conv1d"]
        .replace("train_steps = 40", "train_steps = 250\ncode = true\nlookahead = 2")
        .replace("steps = 60", "steps = 300")
        .replace("distortion_weight = 0.002", "distortion_weight = 0.02")
        .replace("latent = 3", "latent = 6")
    )
    run = train(recipe, out=tmp_path / "run", data=str(tmp_path / "steps.npy"), threads=1)
    bundle = export_run(run, tmp_path / "bundle")
    assert bundle.sample_priors[0].has_code
    modes = set()
    for options in ({"max_error": 5}, {"max_error": 1}, {"lossless": True}):
        stream = edgeae.encode(bundle, x[-2000:], frame_length=500, **options)
        back = edgeae.decode(bundle, stream)
        error = np.abs(back.astype(int) - x[-2000:]).max()
        assert error <= options.get("max_error", 0)
        modes |= frame_modes(stream)
    assert Mode.NEURAL_RESIDUAL in modes
    assert [c for c in verify_bundle(bundle, windows=8) if c.passed is False] == []


def test_every_segment_gives_its_share_of_a_head():
    """Long ones make up for short ones, and no more is taken than was asked for."""
    series = tuple(torch.zeros(1, n) for n in (50, 900, 2000, 2000))
    head = Signal(segments=series, spread=torch.ones(1)).head(1000, 8)
    lengths = [x.shape[-1] for x in head]
    assert len(lengths) == 4
    assert lengths[0] == 48
    assert min(lengths[1:]) >= 240
    assert 960 <= sum(lengths) <= 1000


def test_a_turn_moves_all_sensors_alike_and_keeps_lengths():
    """Half are quarters of a turn: exact. The rest is as exact as rounding allows."""
    generator = torch.Generator().manual_seed(2)
    sensor = torch.randint(-2000, 2000, (64, 3, 50), generator=generator).float()
    out = turned(torch.cat([sensor, sensor], 1), generator)
    assert torch.equal(out[:, :3], out[:, 3:])
    assert torch.equal(out, torch.round(out))
    before, after = sensor.norm(dim=1), out[:, :3].norm(dim=1)
    assert (before - after).abs().max() < 1
    exact = (after == before).all(1)
    assert 16 < int(exact.sum()) < 48
    kept = (out[exact, :3].abs().sort(1).values == sensor[exact].abs().sort(1).values).all()
    assert bool(kept)
    assert not torch.equal(out[exact, :3], sensor[exact])
    segments = (torch.arange(300.0).reshape(3, 100),)
    still = Signal(segments=segments, spread=torch.ones(3))
    assert still.crops(4, 100, generator).eq(segments[0]).all()
    moving = dataclasses.replace(still, turns=True)
    assert not moving.crops(4, 100, generator).eq(segments[0]).all()


@pytest.mark.parametrize("step", [1.0, 21.0])
def test_what_a_prior_trains_on_keeps_its_bound(step):
    """Half of the crops come with noise, half stand still until they must jump."""
    recipe = SamplePriorRecipe(steps=(int(step),))
    phase = SamplePriorPhase(
        *("p", SamplePriorNet(SamplePriorSpec()), recipe, Schedule(steps=1, learning_rate=1e-3)),
        *[Signal(segments=(torch.zeros(1, 64),), spread=torch.ones(1))] * 2,
    )
    x = torch.round(torch.linspace(0, 30, 400)).expand(8, 1, 400)
    r = phase._noisy(x, torch.full((8,), step), torch.Generator().manual_seed(1))
    assert (r - x).abs().max() <= (step - 1) / 2
    jumps = (r[..., 1:] != r[..., :-1]).float().mean((1, 2))
    assert step == 1 or sorted(jumps.tolist())[3] < 0.02 < sorted(jumps.tolist())[4]


def frame_modes(stream):
    return {frame.mode for frame in FrameReader(io.BytesIO(stream))}


@pytest.mark.parametrize(
    ("budget", "value"),
    [("max_parameters", 50), ("max_macs_per_sample", 10), ("max_bundle_bytes", 1000)],
)
def test_budgets_are_a_gate(made, tmp_path, budget, value):
    run, _ = made("none")
    settings = json.loads((run.path / "recipe.json").read_text())
    settings["budgets"] = {budget: value}
    copied = tmp_path / "run"
    copied.mkdir()
    (copied / "phases").symlink_to(run.phases)
    for name in ("setup.json", "quantize.json", "metrics.jsonl"):
        (copied / name).write_bytes((run.path / name).read_bytes())
    (copied / "recipe.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=f"budgets.{budget} is {value}"):
        export_run(RunFolder(copied), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def short(family, *settings):
    return with_overrides(parse_recipe(FAMILIES[family]), settings)


@pytest.mark.parametrize(
    ("recipe", "name", "error", "words"),
    [
        (short("conv1d"), "images.npy", ConfigError, "images take conv2d"),
        (short("conv2d"), "series.npy", ConfigError, "images take conv2d"),
        (
            short("conv2d", "model.strides=[3]"),
            "images.npy",
            ConfigError,
            "do not divide by the product",
        ),
        (short("conv1d", "data.turns=true"), "series.npy", ConfigError, "three axes a sensor"),
        (short("conv1d"), "missing.npy", ConfigError, "missing.npy"),
        (short("conv1d"), "short.npy", ConfigError, "a crop needs 250"),
        (short("none"), "flat.npy", SignalError, "constant"),
        (short("none"), "empty.npy", SignalError, "empty"),
    ],
)
def test_data_that_cannot_be_learnt_from_is_told(data, tmp_path, recipe, name, error, words):
    np.save(data / "short.npy", np.arange(120, dtype=np.int16))
    np.save(data / "flat.npy", np.full(5000, 7, np.int16))
    np.save(data / "empty.npy", np.zeros(0, np.int16))
    with pytest.raises(error, match=words):
        train(recipe, out=tmp_path / "run", data=str(data / name), threads=1)


def test_a_run_keeps_to_its_recipe_and_its_data(data, tmp_path):
    recipe = short("none", "sample_prior.0.train_steps=2")
    np.save(tmp_path / "x.npy", np.load(data / "series.npy")[:3000])
    arguments = {"out": tmp_path / "run", "data": str(tmp_path / "x.npy"), "threads": 1}
    train(recipe, **arguments)
    with pytest.raises(ConfigError, match="another recipe"):
        train(with_overrides(recipe, ["seed=9"]), **arguments)
    np.save(tmp_path / "x.npy", np.load(data / "series.npy")[1:3001])
    with pytest.raises(ConfigError, match=r"x.npy changed since the run"):
        train(recipe, **arguments)


def test_a_recipe_without_data_asks_for_it(tmp_path):
    with pytest.raises(ConfigError, match="give --data"):
        train(short("none"), out=tmp_path / "run")


def test_a_damaged_checkpoint_is_told(data, tmp_path):
    recipe = short("none", "sample_prior.0.train_steps=2")
    run = train(recipe, out=tmp_path / "run", data=source(data, "none"), threads=1)
    file = run.phases / "prior0.pt"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match="damaged"):
        quantize(run, threads=1)


def test_divergence_is_told(data, tmp_path):
    recipe = short("none", "sample_prior.0.learning_rate=1e30")
    with pytest.raises(ModelError, match="diverged"):
        train(recipe, out=tmp_path / "run", data=source(data, "none"), threads=1)


TUTORIAL = """
name = "digits-dense"
[data]
source = "digits"
normalize = "l2"
[model]
family = "tutorial"
latent = 10
[train]
steps = 60
batch = 128
learning_rate = 0.003
"""


def test_the_tutorial_ends_with_its_picture(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    seen = []
    run = train(
        parse_recipe(TUTORIAL),
        out=tmp_path / "run",
        threads=1,
        progress=lambda name, done, metrics: seen.append((name, done)),
    )
    assert {"tutorial", "tutorial-0..1"} == {name for name, _ in seen}
    assert (run.path / "digits.png").read_bytes().startswith(b"\x89PNG")
    report = run.read_json("tutorial.json")
    for key in ("test_mse", "test_mse_on_0..1"):
        assert report[key]["pca"] < report[key]["mean_image"]
        assert report[key]["net"] > 0
    bundle = export_run(run, tmp_path / "bundle")
    assert not bundle.manifest.exact
    assert bundle.signal.channels == 64
    assert (tmp_path / "bundle" / "digits.png").is_file()
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "![" in card
    assert "PCA, 10 numbers" in card
    x = np.random.default_rng(0).random((20, 64), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    back = edgeae.decode(bundle, edgeae.encode(bundle, x))
    assert back.shape == x.shape
    assert np.sqrt(np.mean((back - x) ** 2)) < 0.2
    train(parse_recipe(TUTORIAL), out=tmp_path / "run", threads=1)  # finished: nothing to do


def test_the_tutorial_wants_unit_rows(tmp_path):
    recipe = with_overrides(parse_recipe(TUTORIAL), ['data.normalize=""'])
    with pytest.raises(ConfigError, match="l2"):
        train(recipe, out=tmp_path / "run", threads=1)
