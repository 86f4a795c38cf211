"""A bundle fitted to a device's own signal: exact as before, smaller there, the same encoder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from tiny_bundle import series_bundle  # noqa: E402

import edgeae  # noqa: E402
from edgeae.errors import EdgeAEError, ModelError, SignalError, WrongModelError  # noqa: E402
from edgeae.exporting.adapt import adapt_bundle  # noqa: E402
from edgeae.exporting.bundle import export_run  # noqa: E402
from edgeae.exporting.restore import restore_model  # noqa: E402
from edgeae.exporting.verify import verify_bundle  # noqa: E402
from edgeae.models.integer import runtime_latent_prior, runtime_sample_prior  # noqa: E402
from edgeae.quantize.adapt import AdaptSettings  # noqa: E402
from edgeae.runtime.sample_prior import encode_samples  # noqa: E402
from edgeae.train.recipe import parse_recipe  # noqa: E402
from edgeae.train.training import train  # noqa: E402

RECIPE = """
name = "tiny"
seed = 3
[model]
family = "conv1d"
latent = 3
widths = [8, 8]
strides = [5, 2]
kernels = [8, 4]
[train]
steps = 40
batch = 8
crop = 250
validate_every = 20
distortion_weight = 0.002
[latent_prior]
width = 8
offsets = [1, 2]
[quantize]
steps = 20
prior_steps = 12
rounds = 1
[[sample_prior]]
steps = [1, 11]
width = 8
taps = 8
dilations = [1]
train_steps = 25
batch = 8
crop = 200
[[sample_prior]]
code = true
lookahead = 2
steps = [5]
width = 8
taps = 8
dilations = [1]
train_steps = 10
batch = 8
crop = 200
"""
QUICK = AdaptSettings(code_steps=40, prior_steps=30, rounds=1, learning_rate=3e-3)

FEW = replace(QUICK, code_steps=4, prior_steps=4)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wave(n: int, seed: int, period: float, noise: float) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    t = np.arange(n)
    slow = 300 * np.sin(t / period) + 90 * np.sin(2.7 * t / period)
    return np.rint(1000 + slow + rng.normal(0, noise, n)).astype(np.int16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapt")


@pytest.fixture(scope="module")
def parent(folder):
    np.save(folder / "old.npy", wave(9000, 0, 23, 8))
    run = train(parse_recipe(RECIPE), out=folder / "run", data=str(folder / "old.npy"), threads=1)
    return export_run(run, folder / "parent")


@pytest.fixture(scope="module")
def new() -> np.ndarray[Any, Any]:
    """Another device: slower, quieter."""
    return wave(12_000, 1, 61, 2)


@pytest.fixture(scope="module")
def adapted(parent, new, folder):
    hashes = {"new.npy": hashlib.sha256(new.tobytes()).hexdigest()}
    return adapt_bundle(
        parent, new, folder / "adapted", name="tiny-new", hashes=hashes, settings=QUICK
    )


def test_a_restored_model_computes_what_the_bundle_computes(parent):
    model = restore_model(parent)
    rng = np.random.default_rng(0)
    for net, prior in zip(model.priors, parent.sample_priors, strict=True):
        again = runtime_sample_prior(net, prior.shape).to_arrays()
        features = rng.integers(-400, 400, (2, prior.net.n_inputs, 500)).astype(np.int32)
        again_net = runtime_sample_prior(net).net
        assert np.array_equal(again_net.run(features), prior.net.run(features))
        assert set(again) == {
            k for k in prior.to_arrays() if not k.startswith(("adaptive", "mixture"))
        }
    latent = parent.latent_prior.net
    features = rng.integers(-20, 20, (2, latent.n_inputs, 200)).astype(np.int32)
    assert np.array_equal(
        runtime_latent_prior(model.code.prior).net.run(features), latent.run(features)
    )
    signal = rng.integers(500, 1500, (2, 1, 400)).astype(np.float32)
    with torch.no_grad():
        y = model.code.analysis(torch.from_numpy(signal))
        x = model.code.synthesis(torch.round(y))
    found = parent.encoder().run(signal)
    assert np.array_equal(found, y.numpy() * 16)
    whole = np.rint(y.numpy()).astype(np.float32) * 16
    assert np.array_equal(parent.decoder().run(whole), x.numpy())


def test_it_stays_exact_and_its_encoder_stays(parent, adapted, new):
    made = adapted.bundle
    assert made.exact
    assert made.files["encoder.onnx"] == parent.files["encoder.onnx"]
    assert made.fingerprint != parent.fingerprint
    assert [c for c in verify_bundle(made, windows=8) if c.passed is False] == []
    tail = new[-900:]
    assert np.array_equal(edgeae.decode(made, edgeae.encode(made, tail, lossless=True)), tail)
    back = edgeae.decode(made, edgeae.encode(made, tail, max_error=5))
    assert np.abs(back.astype(int) - tail).max() <= 5


def test_streams_of_parent_and_child_are_not_mixed_up(parent, adapted, new):
    for mine, other in ((parent, adapted.bundle), (adapted.bundle, parent)):
        data = edgeae.encode(mine, new[:600], max_error=5)
        assert edgeae.decode(mine, data).shape == (600,)
        with pytest.raises(WrongModelError):
            edgeae.decode(other, data)


def test_it_gains_where_it_was_not_fitted(parent, adapted, new):
    assert {part.name for part in adapted.parts} == {
        "latent prior",
        "decoder",
        "sample prior 0",
        "sample prior 1",
    }
    for part in adapted.parts:
        assert (part.kept != "the parent's") == (part.after < part.before)
    assert any(part.kept == "adapted" for part in adapted.parts)
    gains = {gain.promise: gain for gain in adapted.gains}
    assert set(gains) == {"lossy", "max error 2", "max error 5", "lossless"}
    assert gains["lossy"].rmse_after <= gains["lossy"].rmse_before
    later = wave(4000, 2, 61, 2).astype(np.int32)[None, :, None]
    sizes = [
        len(encode_samples(bundle.sample_priors[0], [later], 11)[0][0])
        for bundle in (parent, adapted.bundle)
    ]
    assert sizes[1] < 0.95 * sizes[0]


def test_its_lineage_is_told(parent, adapted, new, folder):
    (entry,) = adapted.bundle.manifest.raw["lineage"]
    assert entry["parent"] == parent.fingerprint.hex()
    assert entry["items"] == len(new)
    assert list(entry["data"]) == ["new.npy"]
    assert entry["settings"]["code_steps"] == QUICK.code_steps
    assert [gain["promise"] for gain in entry["gains"]] == [g.promise for g in adapted.gains]
    again = adapt_bundle(adapted.bundle, new[:4000], folder / "again.zip", settings=FEW)
    assert [entry["parent"] for entry in again.bundle.manifest.raw["lineage"]] == [
        parent.fingerprint.hex(),
        adapted.bundle.fingerprint.hex(),
    ]


def test_what_became_worse_stays_the_parents(parent, folder):
    """A wild learning rate ruins every part; none of it is kept."""
    wild = replace(QUICK, code_steps=6, prior_steps=6, learning_rate=30.0)
    same = wave(9000, 0, 23, 8)
    result = adapt_bundle(parent, same, folder / "wild", settings=wild)
    assert all(part.kept != "adapted" for part in result.parts)
    assert result.bundle.files["decoder.onnx"] == parent.files["decoder.onnx"]
    assert all(gain.percent <= 0.5 for gain in result.gains)


def test_the_encoder_learns_only_when_told(parent, new, folder):
    told = replace(QUICK, encoder=True, prior_steps=2)
    result = adapt_bundle(parent, new[:6000], folder / "encoder", settings=told)
    part = next(part for part in result.parts if part.name == "window code")
    changed = result.bundle.files["encoder.onnx"] != parent.files["encoder.onnx"]
    assert changed == (part.after < part.before)
    assert [c for c in verify_bundle(result.bundle, windows=8) if c.passed is False] == []


@pytest.mark.parametrize(
    ("samples", "rate_hz", "words"),
    [
        (np.arange(1500, dtype=np.int16), None, "too little data: 1,500 items"),
        (np.full(9000, 7, np.int16), None, "constant, 7 throughout"),
        (np.full(9000, np.nan, np.float32), None, "9,000 of 9,000 samples are NaN"),
        (np.zeros((9000, 2), np.int16), None, "made for 1 channel"),
        (np.zeros((200, 8, 8), np.uint8), None, "made for 1 channel"),
    ],
)
def test_data_that_cannot_be_learned_from(parent, tmp_path, samples, rate_hz, words):
    with pytest.raises(SignalError, match=words):
        adapt_bundle(parent, samples, tmp_path / "no", rate_hz=rate_hz)
    assert not (tmp_path / "no").exists()


def test_another_rate_is_refused(parent, new, tmp_path):
    manifest = dict(parent.manifest.raw)
    codec = manifest["codec"] | {"signal": manifest["codec"]["signal"] | {"rate_hz": 250.0}}
    files = {n: d for n, d in parent.files.items() if n != "manifest.json"}
    from edgeae.runtime.bundle import write_bundle

    timed = write_bundle(tmp_path / "timed", manifest | {"codec": codec}, files)
    with pytest.raises(SignalError, match=r"have 500 Hz.*made for 250 Hz"):
        adapt_bundle(timed, new, tmp_path / "no", rate_hz=500.0)


def test_bundles_that_cannot_be_trained_on(tmp_path, new):
    with pytest.raises(ModelError, match="not exported from the run"):
        adapt_bundle(series_bundle(tmp_path / "hand"), new, tmp_path / "no")
    denoiser = Path(__file__).parents[1] / "export" / "models" / "denoise-ecg"
    with pytest.raises(EdgeAEError, match="is a denoiser"):
        adapt_bundle(edgeae.load(denoiser), new, tmp_path / "no")


def test_the_command_line(parent, new, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    import edgeae.quantize.adapt as module
    from edgeae.cli import app

    monkeypatch.setattr(module, "AdaptSettings", lambda encoder: replace(FEW, encoder=encoder))
    np.save(tmp_path / "device7.npy", new[:4000])
    out = tmp_path / "out.zip"
    start = ["adapt", str(parent.path), "--data", str(tmp_path / "device7.npy")]
    done = CliRunner().invoke(app, [*start, "--out", str(out), "--json", "--threads", "1"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    made = edgeae.load(out)
    assert (made.name, made.fingerprint.hex()) == ("tiny-device7", told["fingerprint"])
    assert made.manifest.raw["lineage"][0]["data"].keys() == {"device7.npy"}
    short = CliRunner().invoke(app, [*start, "--seconds", "2", "--rate", "100"])
    assert short.exit_code == 1
    assert "too little data: 200 items" in short.output
