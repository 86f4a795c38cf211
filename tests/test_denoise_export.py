"""Denoisers as graphs: torch, onnxruntime, int64 and the C kernels give the same bits."""

import json

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from denoiser_bundles import (  # noqa: E402
    STFT,
    image_net,
    plain_mask_net,
    speech_bundle,
    speech_net,
    stream_bundle,
    stream_net,
)

import edgeae  # noqa: E402
from edgeae.errors import ConfigError, ModelError  # noqa: E402
from edgeae.exporting.certificate import NotDyadicError, certify, output_peaks  # noqa: E402
from edgeae.exporting.denoise import export_denoiser  # noqa: E402
from edgeae.exporting.denoise_graph import image_graph, state_tensors, stream_graph  # noqa: E402
from edgeae.exporting.integers import run_integers_of  # noqa: E402
from edgeae.exporting.torch_graph import run_torch_of  # noqa: E402
from edgeae.exporting.verify import verify_bundle  # noqa: E402
from edgeae.models.denoise import StreamNet, StreamSpec  # noqa: E402
from edgeae.runtime.bundle import Bundle, seal  # noqa: E402
from edgeae.runtime.denoise_net import stream_net as open_stream  # noqa: E402
from edgeae.runtime.native_net import clones  # noqa: E402
from edgeae.runtime.session import OPTIMIZATION_LEVELS, open_graph  # noqa: E402

NETS = {
    "hop 4": lambda: stream_net(),
    "two channels": lambda: stream_net(n_in=2, n_out=2, center=(3, -5), shift=(0, 1)),
    "nothing held at first": lambda: stream_net(first=4),
    "mask": lambda: plain_mask_net(),
    "mask of planes": lambda: speech_net(),
    "one held at first": lambda: stream_net(hop=1, first=2),
}
ENGINES = ["onnxruntime", *(["native"] if clones() else [])]


def feed_of(net, n=3, steps=20, seed=0):
    """A signal of full range and a state that the net itself has made."""
    rng = np.random.default_rng(seed)
    spec = net.spec
    x = rng.integers(-(2**12), 2**12, (n, spec.n_in, steps * spec.hop)).astype(np.float32)
    with torch.no_grad():
        _, state = net(torch.from_numpy(x), net.initial_state(n))
    return x, state


def as_integers(net, tensors):
    """State tensors as the graph's integers; those of no length left out."""
    scales = [2.0**net.spec.exponent]
    scales += [2.0**net.trunk.first.out_grid.exponent] * len(net.spec.dilations)
    scales += [2.0 ** int(layer.in_exponent) for layer in getattr(net, "plane_layers", ())]
    return [(t * s).numpy() for t, s in zip(tensors, scales, strict=True) if t.shape[2]]


@pytest.mark.parametrize("name", NETS)
def test_a_stream_graph_gives_the_bits_of_the_net_on_every_engine(name):
    net = NETS[name]()
    model = stream_graph(net, {"bundle": name})
    certify(model)
    x, state = feed_of(net)
    with torch.no_grad():
        y, after = net(torch.from_numpy(x), state)
    if net.spec.out_exponent is not None:
        y = y * 2.0**net.spec.out_exponent
    wanted = [y.numpy(), *as_integers(net, after)]
    names = [s.name for s in state_tensors(net) if s is not None]
    feed = {"signal": x, **dict(zip(names, as_integers(net, state), strict=True))}
    found = {"int64": run_integers_of(model, feed), "torch": run_torch_of(model, feed)}
    for level in OPTIMIZATION_LEVELS:
        for threads in (1, 2):
            graph = model.SerializeToString()
            session = open_graph(graph, name=name, threads=threads, optimization=level)
            found[level, threads] = session.run(feed)
    for engine, values in found.items():
        assert all(map(np.array_equal, values, wanted)), engine


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_graph_gives_the_bits_of_the_net_on_every_engine(channels):
    net = image_net(channels=channels)
    model = image_graph(net, {})
    certify(model)
    rng = np.random.default_rng(5)
    x = rng.integers(-80, 330, (2, channels, 12, 20)).astype(np.float32)
    sigma = np.array([7, 55], np.float32)
    with torch.no_grad():
        wanted = net(torch.from_numpy(x), torch.from_numpy(sigma)).numpy()
    feed = {"image": x, "sigma": np.broadcast_to(sigma[:, None, None, None], (2, 1, 6, 10)).copy()}
    assert np.array_equal(run_integers_of(model, feed)[0], wanted)
    assert np.array_equal(run_torch_of(model, feed)[0], wanted)
    graph = model.SerializeToString()
    for level in OPTIMIZATION_LEVELS:
        assert np.array_equal(open_graph(graph, name="i", optimization=level).run(feed)[0], wanted)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_runtime_carries_the_state(engine, name, tmp_path):
    net = NETS[name]()
    front_end = STFT.to_json() if name.startswith("mask") else None
    export_denoiser(net, tmp_path / "b", name="b", signal={}, front_end=front_end)
    bundle = edgeae.load(tmp_path / "b", engine=engine)
    x, _ = feed_of(net, n=2, steps=60)
    with torch.no_grad():
        wanted = net(torch.from_numpy(x), net.initial_state(2))[0].numpy()
    if net.spec.out_exponent is not None:
        wanted = wanted * 2.0**net.spec.out_exponent
    runner = open_stream(bundle, streams=2)
    assert runner.engine == engine
    for cuts in ([60], [1] * 60, [7, 7, 7, 7, 7, 25], [3, 1, 56]):
        ends = np.cumsum([net.spec.hop * c for c in cuts])[:-1]
        found = np.concatenate([runner.run(part) for part in np.split(x, ends, axis=2)], axis=2)
        assert np.array_equal(found, wanted)
        runner.reset()


def test_a_states_range_holds_for_ever():
    model = stream_graph(stream_net(), {})
    stated = {p.key: float(p.value) for p in model.metadata_props if "state" in p.key}
    given = output_peaks(model)
    assert stated
    for key, peak in stated.items():
        assert given["next_" + key.removeprefix("edgeae.input_peak.")] <= peak


def test_the_certificate_asks_for_every_inputs_range():
    model = stream_graph(stream_net(), {})
    kept = [p for p in model.metadata_props if not p.key.endswith("state_1")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    with pytest.raises(NotDyadicError, match=r"edgeae\.input_peak\.state_1"):
        certify(model)


def test_a_float_net_is_not_exported(tmp_path):
    with pytest.raises(ModelError, match="not quantized"):
        export_denoiser(StreamNet(StreamSpec()), tmp_path / "b", name="f", signal={})


@pytest.mark.parametrize("make", [stream_bundle, speech_bundle])
def test_verify_passes(make, tmp_path):
    checks = list(verify_bundle(make(tmp_path / "b"), windows=16))
    assert len(checks) >= 8
    assert not [c for c in checks if c.passed is False]


def changed(bundle, manifest=lambda m: None, graph=lambda g: None):
    """The bundle with its manifest and graph changed and sealed anew."""
    raw = json.loads(bundle.files["manifest.json"])
    manifest(raw)
    model = onnx.load_model_from_string(bundle.files["denoiser.onnx"])
    graph(model)
    files = {k: v for k, v in bundle.files.items() if k != "manifest.json"}
    for key in ("files", "sha256", "fingerprint", "format", "version"):
        raw.pop(key)
    return Bundle.from_files(seal(raw, files | {"denoiser.onnx": model.SerializeToString()}))


def breaches(bundle):
    return [c.name for c in verify_bundle(bundle, windows=16) if c.passed is False]


def test_verify_finds_what_was_changed(tmp_path):
    bundle = stream_bundle(tmp_path / "b")

    def louder(model):
        for tensor in model.graph.initializer:
            if tensor.name == "layer1_bias":
                values = onnx.numpy_helper.to_array(tensor) + 1
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    assert "golden vectors" in breaches(changed(bundle, graph=louder))
    other = changed(bundle, manifest=lambda m: m["denoise"]["state"][1].update(peak=10**6))
    assert "denoiser.onnx: ranges of inputs and states" in breaches(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["state"][1].update(shape=[12, 3]), "the manifest says"),
        (lambda d: d["state"][1].update(name="memory"), "the manifest says"),
        (lambda d: d["state"].pop(), "the manifest says"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_that_is_not_the_manifests_is_refused_at_load(change, message, engine, tmp_path):
    bundle = stream_bundle(tmp_path / "b")
    other = changed(bundle, manifest=lambda m: change(m["denoise"]))
    other.engine = engine
    with pytest.raises(ModelError, match=message):
        edgeae.Denoiser(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(family="gru"), "family"),
        (lambda d: d.update(hop=0), "hop"),
        (lambda d: d.update(delay_samples=-1), "delay_samples"),
        (lambda d: d.update(center=[]), "center"),
        (lambda d: d.update(center=[0.5]), "center"),
        (lambda d: d.update(state={}), "state"),
        (lambda d: d.update(state=[3]), "state"),
        (lambda d: d["state"].append(d["state"][0]), "same name"),
        (lambda d: d["state"][0].update(peak=0), "peak"),
        (lambda d: d.update(front_end={"kind": "stft"}), "front_end"),
        (lambda d: d.update(family="speech"), "front_end"),
        (lambda d: d.update(family="speech", front_end={"kind": "stft"}), "output_exponent"),
        (lambda d: d.update(sigma=1), "sigma"),
        (lambda d: d["signal"].update(kind="sound"), "kind"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(change, message, tmp_path):
    bundle = stream_bundle(tmp_path / "b")
    with pytest.raises(ModelError, match=message):
        changed(bundle, manifest=lambda m: change(m["denoise"]))


def test_the_task_is_named_where_a_bundle_is_for_another(tmp_path):
    bundle = stream_bundle(tmp_path / "b")
    assert bundle.task == "denoise"
    assert bundle.exact
    with pytest.raises(ModelError, match="is a denoiser, not a codec"):
        edgeae.encode(bundle, np.zeros(100, np.int16))
    with pytest.raises(ModelError, match="is a denoiser, not a codec"):
        edgeae.StreamEncoder(bundle)
    with pytest.raises(ConfigError, match="sigma"):
        edgeae.denoise(bundle, np.zeros(10, np.int16), sigma=3)


def test_the_card_says_what_it_is(tmp_path):
    card = speech_bundle(tmp_path / "b").files["README.md"].decode()
    assert "edgeae denoise" in card
    assert "31 samples" in card
    assert "transform around the net" in card
