"""``edgeae export --tune``: another spelling for onnxruntime, the same model for everybody."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from denoiser_bundles import stream_bundle  # noqa: E402
from tiny_bundle import prior_only_bundle  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import edgeae  # noqa: E402
from edgeae.cli import app  # noqa: E402
from edgeae.errors import ModelError  # noqa: E402
from edgeae.exporting import tune as tuning  # noqa: E402
from edgeae.exporting.bundle import export_run  # noqa: E402
from edgeae.exporting.certificate import certify  # noqa: E402
from edgeae.exporting.rework import rework_bundle  # noqa: E402
from edgeae.exporting.verify import verify_bundle  # noqa: E402
from edgeae.runtime.bundle import Bundle, seal, write_bundle  # noqa: E402
from edgeae.runtime.denoise_net import image_net  # noqa: E402
from edgeae.train.recipe import parse_recipe  # noqa: E402
from edgeae.train.training import train  # noqa: E402

RECIPE = """
name = "bytes"
[model]
latent = 2
widths = [8, 8]
strides = [3, 2]
kernels = [5, 3]
bits = 8
[train]
steps = 20
batch = 4
crop = 120
validate_every = 10
[quantize]
steps = 5
prior_steps = 5
rounds = 1
[latent_prior]
width = 4
[[sample_prior]]
steps = [1]
width = 4
taps = 4
dilations = [1]
train_steps = 10
batch = 4
crop = 120
"""


@pytest.fixture(scope="module")
def signal():
    rng = np.random.default_rng(0)
    t = np.arange(4000)
    return np.rint(200 * np.sin(t / 11) + rng.normal(0, 4, t.size)).astype(np.int16)


@pytest.fixture(scope="module")
def run(tmp_path_factory, signal):
    folder = tmp_path_factory.mktemp("tune")
    np.save(folder / "x.npy", signal)
    threads = torch.get_num_threads()
    made = train(parse_recipe(RECIPE), out=folder / "run", data=str(folder / "x.npy"), threads=1)
    torch.set_num_threads(threads)
    return made


@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    return export_run(run, tmp_path_factory.mktemp("plain") / "bundle")


class Clock:
    """Tells of each block, in turns, the seconds that the spellings are to take."""

    def __init__(self, integers, int8):
        self.now, self.steps, self.calls = 0.0, (integers, int8), 0

    def __call__(self):
        if self.calls % 2:  # the end of a block
            self.now += self.steps[self.calls // 2 % 2]
        self.calls += 1
        return self.now


@pytest.fixture
def faster(monkeypatch):
    """Int8 is measured to be twice as fast, whatever this machine thinks of it."""
    monkeypatch.setattr(tuning, "_ratio", lambda first, second, clock: (0.5, 2e-5))


@pytest.fixture
def tuned(plain, tmp_path, faster):
    return rework_bundle(plain, tmp_path / "tuned", tune=True)[0]


def test_the_ratio_is_that_of_alternating_blocks():
    class Graph:
        runs = 0

        def run(self):
            self.runs += 1

    first, second = Graph(), Graph()
    ratio, seconds = tuning._ratio(first, second, Clock(0.004, 0.001))
    n_first, n_second = 2, 10  # of 4 and 1 ms, to fill 10 ms
    assert (first.runs, second.runs) == (
        1 + tuning.BLOCKS * n_first,
        1 + tuning.BLOCKS * n_second,
    )
    assert ratio == pytest.approx((0.001 / n_second) / (0.004 / n_first))
    assert seconds == pytest.approx(0.004 / n_first)


def test_a_tuned_bundle_is_the_same_model(plain, tuned, signal):
    assert tuned.fingerprint == plain.fingerprint
    assert dict(tuned.manifest.run) == {
        "encoder.onnx": "encoder.int8.onnx",
        "decoder.onnx": "decoder.int8.onnx",
    }
    assert [c.detail for c in verify_bundle(tuned, windows=8) if c.passed is False] == []
    both = edgeae.load(tuned.path, engine="onnxruntime"), edgeae.load(plain.path)
    for promise in ({}, {"max_error": 3}, {"lossless": True}):
        streams = [edgeae.encode(bundle, signal, **promise) for bundle in both]
        assert streams[0] == streams[1]
        assert np.array_equal(*(edgeae.decode(bundle, streams[0]) for bundle in both))


def test_onnxruntime_opens_the_file_that_the_manifest_names(tuned):
    for name, net in (("encoder", "encoder"), ("decoder", "decoder")):
        opened = getattr(edgeae.load(tuned.path, engine="onnxruntime"), net)()
        assert opened.metadata["edgeae.spelling"] == "int8"
        assert opened.metadata["edgeae.role"] == name


def test_what_was_measured_is_told(tuned):
    told = tuned.manifest.raw["tuning"]
    assert [g["graph"] for g in told["graphs"]] == ["encoder.onnx", "decoder.onnx"]
    assert {(g["spelling"], g["int8_over_integers"]) for g in told["graphs"]} == {("int8", 0.5)}
    assert told["onnxruntime"]
    assert "encoder.int8.onnx" in tuned.files["README.md"].decode()


def test_what_is_no_faster_is_not_kept(plain, tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_ratio", lambda first, second, clock: (0.98, 2e-5))
    again, found = rework_bundle(tuned, tmp_path / "again", tune=True)
    assert [t.spelling for t in found] == ["integers", "integers"]
    assert not again.manifest.run
    assert set(again.files) == set(plain.files)
    assert "not kept" in found[0].told()


def test_verify_finds_another_net_behind_the_tuned_name(tuned):
    model = onnx.load_model_from_string(tuned.files["encoder.int8.onnx"])
    for tensor in model.graph.initializer:
        if tensor.name.endswith("_bias_q"):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[0] += 1 << 14
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    manifest = json.loads(tuned.files["manifest.json"])
    content = {k: v for k, v in tuned.files.items() if k != "manifest.json"}
    forged = seal(manifest, content | {"encoder.int8.onnx": model.SerializeToString()})
    bundle = Bundle.from_files(forged)
    assert bundle.fingerprint == tuned.fingerprint
    broken = [c.name for c in verify_bundle(bundle, windows=8) if c.passed is False]
    assert "encoder.int8.onnx: = encoder.onnx" in broken
    assert Bundle.from_files(forged, engine="onnxruntime").self_test(force=True)


@pytest.mark.parametrize("named", [{"encoder.onnx": "nowhere.onnx"}, {"x": "encoder.onnx"}, "x"])
def test_a_manifest_that_names_files_it_has_not(plain, named):
    manifest = json.loads(plain.files["manifest.json"]) | {"run": named}
    content = {k: v for k, v in plain.files.items() if k != "manifest.json"}
    with pytest.raises(ModelError, match=r"manifest.json: run"):
        Bundle.from_files(seal(manifest, content))


def test_bundles_without_another_spelling(plain, tmp_path):
    with pytest.raises(ModelError, match="has no net to tune"):
        rework_bundle(prior_only_bundle(tmp_path / "p"), tmp_path / "q", tune=True)
    manifest = json.loads(plain.files["manifest.json"]) | {"exact": False}
    content = {k: v for k, v in plain.files.items() if k != "manifest.json"}
    with pytest.raises(ModelError, match="only exact graphs have another spelling"):
        rework_bundle(Bundle.from_files(seal(manifest, content)), tmp_path / "q", tune=True)


def test_a_machine_that_gives_other_bits_is_not_tuned(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "int8_spelling", _halved)
    with pytest.raises(ModelError, match="other bits in the int8 spelling"):
        rework_bundle(plain, tmp_path / "q", tune=True)
    assert not (tmp_path / "q").exists()


def _halved(model):
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        if node.op_type == "Round":
            node.op_type = "Floor"
    return changed


def test_on_the_command_line(run, plain, tmp_path, faster):
    runner = CliRunner()
    done = runner.invoke(app, ["export", str(run.path), "--tune", "--out", str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    assert "encoder.onnx: int8 takes 0.50 of the time of integers" in done.stderr
    assert edgeae.load(tmp_path / "a").fingerprint == plain.fingerprint
    zipped = str(tmp_path / "b.zip")
    done = runner.invoke(app, ["export", str(tmp_path / "a"), "--tune", "--ort", "--out", zipped])
    assert done.exit_code == 0, done.output
    assert {"encoder.ort", "encoder.int8.onnx"} <= set(edgeae.load(zipped).files)
    done = runner.invoke(app, ["export", zipped, "--out", str(tmp_path / "c")])
    assert done.exit_code != 0


# -- denoisers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A denoiser of images whose every tensor is bytes."""
    rng = np.random.default_rng(0)
    nodes, constants, last = [], {}, "image"

    def add(op, *values, **attributes):
        nonlocal last
        names = [f"c{len(nodes)}_{k}" for k in range(len(values))]
        constants.update(zip(names, values, strict=True))
        name = "denoised" if len(nodes) == 7 else f"t{len(nodes)}"
        nodes.append(onnx.helper.make_node(op, [last, *names], [name], name=name, **attributes))
        last = name

    ends = np.float32(0), np.float32(255)
    add("Round")
    add("Clip", *ends)
    for n_in, n_out in ((1, 4), (4, 1)):
        weight = (rng.integers(-40, 60, (n_out, n_in, 3, 3)) / 256).astype(np.float32)
        bias = np.full(n_out, 0.5, np.float32)
        add("Conv", weight, bias, pads=[1, 1, 1, 1], kernel_shape=[3, 3])
        add("Round")
        add("Clip", *ends)
    values = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 1, "H", "W"])
        for n in ("image", "denoised")
    ]
    arrays = [onnx.numpy_helper.from_array(v, n) for n, v in constants.items()]
    graph = onnx.helper.make_graph(nodes, "denoiser", values[:1], values[1:], arrays)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.helper.set_model_props(model, {"edgeae.input_peak": "511"})
    signal = {
        "kind": "image", "channels": 1, "dtype": "uint8", "rate_hz": None, "unit": "",
        "grids": [[1, 1]], "channel_names": [], "height": None, "width": None,
    }  # fmt: skip
    spec = {
        "signal": signal, "family": "image", "hop": 2, "delay_samples": 0, "center": [0],
        "state": [], "output_exponent": None, "sigma": False, "input_peak": 511, "front_end": None,
    }  # fmt: skip
    certificate = [{"graph": "denoiser.onnx", **layer.to_json()} for layer in certify(model)]
    manifest = {
        "name": "bytes", "task": "denoise", "exact": True, "denoise": spec,
        "certificate": certificate, "metrics": {},
    }  # fmt: skip
    return write_bundle(
        tmp_path_factory.mktemp("images") / "bundle",
        manifest,
        {"denoiser.onnx": model.SerializeToString()},
        golden_signal=rng.integers(0, 256, (2, 1, 16, 16)).astype(np.int32),
    )


def test_a_tuned_denoiser_is_the_same_model(images, tmp_path, faster):
    tuned, found = rework_bundle(images, tmp_path / "tuned", tune=True)
    assert [t.told()[:21] for t in found] == ["denoiser.onnx: int8 t"]
    assert tuned.fingerprint == images.fingerprint
    assert dict(tuned.manifest.run) == {"denoiser.onnx": "denoiser.int8.onnx"}
    assert [c.detail for c in verify_bundle(tuned, windows=14) if c.passed is False] == []
    noisy = np.random.default_rng(0).integers(0, 256, (3, 21, 34)).astype(np.uint8)
    loaded = edgeae.load(tuned.path, engine="onnxruntime")
    assert image_net(loaded)._graph.metadata["edgeae.spelling"] == "int8"
    assert np.array_equal(edgeae.denoise(loaded, noisy), edgeae.denoise(images, noisy))


def test_verify_finds_another_net_behind_a_denoiser(images, tmp_path, faster):
    tuned, _ = rework_bundle(images, tmp_path / "tuned", tune=True)
    model = onnx.load_model_from_string(tuned.files["denoiser.int8.onnx"])
    bias = next(t for t in model.graph.initializer if t.name.endswith("_bias_q"))
    values = onnx.numpy_helper.to_array(bias) + (1 << 12)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    content = {k: v for k, v in tuned.files.items() if k != "manifest.json"}
    content["denoiser.int8.onnx"] = model.SerializeToString()
    bundle = Bundle.from_files(seal(json.loads(tuned.files["manifest.json"]), content))
    broken = {c.name for c in verify_bundle(bundle, windows=14) if c.passed is False}
    assert "denoiser.int8.onnx: = denoiser.onnx" in broken


def test_a_stream_has_one_spelling_and_says_so(tmp_path):
    plain = stream_bundle(tmp_path / "plain")
    again, found = rework_bundle(plain, tmp_path / "again", tune=True)
    assert found[0].told() == "denoiser.onnx: no layer can be int8, so there is one spelling"
    assert not again.manifest.run
    assert set(again.files) == set(plain.files)
