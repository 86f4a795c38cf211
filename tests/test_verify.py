"""``edgeae verify`` finds what was changed in a bundle, whatever was changed, and exits with 3."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import helper, numpy_helper  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import edgeae  # noqa: E402
from edgeae.cli import app  # noqa: E402
from edgeae.exporting.bundle import export_run  # noqa: E402
from edgeae.exporting.verify import verify_bundle  # noqa: E402
from edgeae.runtime.bundle import Bundle, pack_arrays, pack_coder, read_arrays, seal  # noqa: E402
from edgeae.train.recipe import parse_recipe  # noqa: E402
from edgeae.train.training import train  # noqa: E402

RECIPE = """
name = "tiny"
[model]
latent = 3
widths = [8]
strides = [5]
kernels = [8]
[train]
steps = 20
batch = 4
crop = 200
validate_every = 10
[quantize]
steps = 5
prior_steps = 5
rounds = 1
[latent_prior]
width = 6
[[sample_prior]]
steps = [1, 11]
width = 6
taps = 6
dilations = [1]
train_steps = 20
batch = 4
crop = 200
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    rng = np.random.default_rng(0)
    t = np.arange(6000)
    np.save(folder / "x.npy", np.rint(200 * np.sin(t / 11) + rng.normal(0, 4, t.size)).astype("i2"))
    threads = torch.get_num_threads()
    run = train(parse_recipe(RECIPE), out=folder / "run", data=str(folder / "x.npy"), threads=1)
    made = export_run(run, folder / "bundle")
    torch.set_num_threads(threads)
    return made


def breaches(bundle):
    return {c.name: c.detail for c in verify_bundle(bundle, windows=8) if c.passed is False}


def resealed(bundle, *, files=None, change=None):
    """The bundle as a skilled forger leaves it: every hash fits again."""
    manifest = json.loads(bundle.files["manifest.json"])
    if change is not None:
        change(manifest)
    content = {k: v for k, v in bundle.files.items() if k != "manifest.json"} | (files or {})
    return Bundle.from_files(seal(manifest, content))


def cli(bundle, folder):
    folder.mkdir(exist_ok=True)
    for name, content in bundle.files.items():
        (folder / name).write_bytes(content)
    return CliRunner().invoke(app, ["verify", str(folder), "--windows", "8"])


def with_other_weight(graph):
    """One weight of the last layer moved by one step."""
    model = onnx.load_model_from_string(graph)
    tensor = [t for t in model.graph.initializer if t.name.endswith("weight_q")][-1]
    weight = numpy_helper.to_array(tensor).copy()
    weight.flat[0] += 1 if weight.flat[0] < 100 else -1
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    return model.SerializeToString()


def test_an_untouched_bundle_passes(bundle, tmp_path):
    outcome = list(verify_bundle(bundle, windows=8))
    assert [c for c in outcome if c.passed is False] == []
    names = " ".join(c.name for c in outcome)
    for part in (
        "golden vectors",
        "encoder.onnx: certificate",
        "manifest: certificate",
        "decoder.onnx: input range",
        "decoder.onnx: int64 engine",
        "decoder.onnx: torch",
        "prior.onnx: graph = integer net",
        "sample_prior_0.onnx: graph = integer net",
        "sample prior 0: C coder = Python coder",
        "latent prior: C coder = Python coder",
        "round trips",
    ):
        assert part in names
    result = cli(bundle, tmp_path / "b")
    assert result.exit_code == 0, result.output


def test_a_changed_byte_is_a_breach(bundle, tmp_path):
    for name in ("decoder.onnx", "coder.npz", "manifest.json", "golden.npz"):
        files = dict(bundle.files)
        content = bytearray(files[name])
        content[len(content) // 2] ^= 1
        files[name] = bytes(content)
        result = cli(Bundle(bundle.manifest, files), tmp_path / name)
        assert result.exit_code == 3, (name, result.output)


def test_a_missing_bundle_is_no_breach_but_a_failure(tmp_path):
    result = CliRunner().invoke(app, ["verify", str(tmp_path / "nothing")])
    assert result.exit_code == 1


def test_a_changed_weight_is_a_breach_though_every_hash_fits(bundle, tmp_path):
    for name in ("encoder.onnx", "decoder.onnx"):
        forged = resealed(bundle, files={name: with_other_weight(bundle.files[name])})
        assert "golden vectors" in breaches(forged)
        assert not forged.exact  # the runtime sees it too
    assert cli(forged, tmp_path / "b").exit_code == 3


def test_changed_prior_weights_are_a_breach(bundle):
    prior = bundle.sample_priors[0]
    arrays = read_arrays(bundle.files["coder.npz"], "coder.npz")
    key = next(k for k in arrays if k == "sample0.net.head.bias")
    arrays[key] = arrays[key] + 64
    forged = resealed(bundle, files={"coder.npz": pack_arrays(arrays)})
    found = breaches(forged)
    assert "golden vectors" in found
    assert "sample_prior_0.onnx: graph = integer net" in found
    assert prior.net.n_outputs == 2


def test_a_prior_graph_for_other_runtimes_must_be_the_prior(bundle):
    forged = resealed(bundle, files={"prior.onnx": with_other_weight(bundle.files["prior.onnx"])})
    assert "prior.onnx: graph = integer net" in breaches(forged)


def float_decoder(bundle):
    """A decoder with a sigmoid: it runs, and no certificate covers it."""
    model = onnx.load_model_from_string(bundle.files["decoder.onnx"])
    last = model.graph.node[-1]
    name = last.output[0]
    last.output[0] = "before"
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    model.graph.initializer.append(zero)
    model.graph.node.extend(
        [
            helper.make_node("Sigmoid", ["before"], ["soft"], name="soft"),
            helper.make_node("Mul", ["soft", "zero"], ["nothing"], name="nothing"),
            helper.make_node("Add", ["before", "nothing"], [name], name="last"),
        ]
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_a_graph_that_is_not_certified_is_a_breach(bundle, tmp_path):
    forged = resealed(bundle, files={"decoder.onnx": float_decoder(bundle)})
    found = breaches(forged)
    assert "Sigmoid is not a dyadic operator" in found["decoder.onnx: certificate"]
    assert "manifest: certificate" in found
    assert cli(forged, tmp_path / "b").exit_code == 3


def test_another_certificate_in_the_manifest_is_a_breach(bundle, tmp_path):
    def prouder(manifest):
        manifest["certificate"][0]["headroom_bits"] += 1

    forged = resealed(bundle, change=prouder)
    assert list(breaches(forged)) == ["manifest: certificate"]
    assert cli(forged, tmp_path / "b").exit_code == 3


def test_inputs_beyond_the_certified_range_are_a_breach(bundle):
    def wider(manifest):
        manifest["codec"]["net"]["latent_max"] = 1 << 18

    assert "decoder.onnx: input range" in breaches(resealed(bundle, change=wider))

    model = onnx.load_model_from_string(bundle.files["encoder.onnx"])
    for prop in model.metadata_props:
        if prop.key == "edgeae.input_peak":
            prop.value = "100"
    forged = resealed(bundle, files={"encoder.onnx": model.SerializeToString()})
    assert "encoder.onnx: input range" in breaches(forged)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x07"])
def test_a_file_that_is_no_graph_is_a_breach(bundle, content):
    assert breaches(resealed(bundle, files={"decoder.onnx": content}))


def test_other_tables_are_a_breach(bundle):
    from edgeae.bitstream.cdf import laplace_shape
    from edgeae.runtime.sample_prior import SamplePrior

    old = bundle.sample_priors[0]
    other = SamplePrior(
        net=old.net, shape=laplace_shape(), kind=old.kind, center=old.center, shift=old.shift
    )
    forged = resealed(bundle, files={"coder.npz": pack_coder(bundle.latent_prior, [other])})
    assert "golden vectors" in breaches(forged)


def test_what_is_not_exact_is_told_apart(bundle):
    """Without the word "exact" there is no certificate to check, and the rest still runs."""

    def modest(manifest):
        manifest["exact"] = False
        manifest["certificate"] = []

    modest_bundle = resealed(bundle, change=modest)
    outcome = {c.name: c.passed for c in verify_bundle(modest_bundle, windows=8)}
    assert not any("certificate" in name for name in outcome)
    assert False not in outcome.values()
    with pytest.raises(edgeae.errors.ModelError):
        edgeae.encode(modest_bundle, np.zeros(100, np.int16), max_error=1)
