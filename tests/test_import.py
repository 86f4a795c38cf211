"""``edgeae import``: Keras files are folded to what they compute, and quantized to what is said."""

from __future__ import annotations

import json
import os
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("onnx")
h5py = pytest.importorskip("h5py")

import keras_files as made  # noqa: E402
import torch  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

import edgeae  # noqa: E402
from edgeae.cli import app  # noqa: E402
from edgeae.errors import DependencyError, ModelError, SignalError  # noqa: E402
from edgeae.exporting.verify import verify_bundle  # noqa: E402
from edgeae.importing.dense_import import import_keras, keras_to_torch  # noqa: E402
from edgeae.importing.example import read_windows, sliding_windows  # noqa: E402
from edgeae.importing.fold import fold_layers  # noqa: E402
from edgeae.importing.keras import read_keras  # noqa: E402
from edgeae.importing.measures import sqnr_db  # noqa: E402
from edgeae.models.dense import narrowest, run_dense, to_torch  # noqa: E402

DATA = Path(os.environ.get("EDGEAE_DATA", "nowhere")) / "mlperf_tiny_ad"
CLIP = DATA / "normal_id_01_00000000_hist_librosa.bin"
WIDTHS = (24, 16, 4, 16, 24)


def normal(n: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (n, width)).astype(np.float32)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32 - 1),
    widths=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    shape=st.sampled_from(["sequential", "functional", "keras 3"]),
    data=st.data(),
)
def test_a_folded_chain_computes_what_its_layers_say(tmp_path, seed, widths, shape, data):
    """The law: any mix of dense layers, normalisations and activations, in any file's spelling."""
    rng = np.random.default_rng(seed)
    entries: list[made.Entry] = [("InputLayer", {"batch_input_shape": [None, widths[0]]}, {})]
    if data.draw(st.booleans()):
        entries.append(made.norm(rng, widths[0]))
    for n_in, n_out in pairwise(widths):
        bias, scale, center = (data.draw(st.booleans()) for _ in range(3))
        entries.append(made.dense(rng, n_in, n_out, use_bias=bias))
        if data.draw(st.booleans()):
            entries.append(made.norm(rng, n_out, scale=scale, center=center))
        entries.append(made.activation(data.draw(st.sampled_from(["relu", "linear", "tanh"]))))
        entries.append(("Dropout", {"rate": 0.5}, {}))
        if data.draw(st.booleans()):
            entries.append(made.norm(rng, n_out))
    entries.append(made.dense(rng, widths[-1], 3, activation="sigmoid"))
    path = made.write_keras(
        tmp_path / "net.h5",
        entries,
        sequential=shape == "sequential",
        keras=3 if shape == "keras 3" else 2,
    )
    layers = fold_layers(read_keras(path))
    x = normal(16, widths[0])
    expected = made.evaluate(entries, x)
    np.testing.assert_allclose(run_dense(layers, x)[-1], expected, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        got = to_torch(layers)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_the_dense_bias_survives_the_fold(tmp_path):
    """gamma b / sqrt(var + eps) is in the folded bias; a fold that drops it is another net."""
    rng = np.random.default_rng(0)
    entries = [made.dense(rng, 5, 3), made.norm(rng, 3)]
    (layer,) = fold_layers(read_keras(made.write_keras(tmp_path / "net.h5", entries)))
    weights = {key: v.astype(np.float32).astype(float) for key, v in entries[1][2].items()}
    gain = weights["gamma"] / np.sqrt(weights["moving_variance"] + 1e-3)
    bias = entries[0][2]["bias"].astype(np.float32)
    np.testing.assert_allclose(
        layer.bias, (bias - weights["moving_mean"]) * gain + weights["beta"], rtol=1e-12
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    entries = made.autoencoder(np.random.default_rng(3), WIDTHS)
    return made.write_keras(tmp_path_factory.mktemp("keras") / "small.h5", entries)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    t = np.arange(60)[:, None]
    frames = 20 * np.sin(t / 5 + np.arange(8)) - 30 + normal(60, 8)
    path = tmp_path_factory.mktemp("clip") / "clip.bin"
    frames.astype("<f4").tofile(path)
    return path


def test_what_an_import_writes(tmp_path, model, clip):
    report = import_keras(model, tmp_path / "out", example=clip, frame=8)
    assert report == json.loads((tmp_path / "out" / "import.json").read_text())
    assert report["parity"]["fold_sqnr_db"] > 200
    assert report["example"]["windows"] == 58
    models = report["models"]
    assert set(models) == {"float", "int8", "dyadic", "dyadic_qdq"}
    for name, found in models.items():
        assert (tmp_path / "out" / found["file"]).stat().st_size == found["bytes"]
        assert found["sqnr_db"] > (90 if name == "float" else 25)
    assert models["dyadic"]["output_sha256"] == models["dyadic_qdq"]["output_sha256"]
    assert not report["skipped"]


def test_the_bundle_of_an_import_is_exact_and_codes_frames(tmp_path, model, clip):
    import_keras(model, tmp_path / "out", example=clip, frame=8)
    bundle = edgeae.load(tmp_path / "out" / "bundle")
    assert (bundle.signal.channels, bundle.net.fixed_window) == (8, 3)
    assert [c for c in verify_bundle(bundle, windows=8) if c.passed is False] == []
    frames = np.fromfile(clip, "<f4").reshape(-1, 8)
    for error in (0.5, 0.01):
        back = edgeae.decode(bundle, edgeae.encode(bundle, frames, max_error=error))
        assert np.abs(back.astype(np.float64) - frames).max() <= error


def test_without_an_example_only_the_float_graph_is_written(tmp_path, model):
    report = import_keras(model, tmp_path / "out")
    assert set(report["models"]) == {"float"}
    assert "example" in report["skipped"]["int8"]


def test_a_net_that_int8_chains_cannot_hold_is_imported_in_float(tmp_path):
    rng = np.random.default_rng(0)
    entries = [made.dense(rng, 6, 3, activation="tanh"), made.dense(rng, 3, 6)]
    path = made.write_keras(tmp_path / "net.h5", entries)
    np.save(tmp_path / "x.npy", normal(9, 6))
    report = import_keras(path, tmp_path / "out", example=tmp_path / "x.npy")
    assert set(report["models"]) == {"float"}
    assert "tanh" in report["skipped"]["int8"]


def test_a_net_that_is_no_autoencoder_gets_no_bundle(tmp_path):
    rng = np.random.default_rng(0)
    entries = [made.dense(rng, 6, 4, activation="relu"), made.dense(rng, 4, 2)]
    path = made.write_keras(tmp_path / "net.h5", entries)
    np.save(tmp_path / "x.npy", normal(9, 6))
    report = import_keras(path, tmp_path / "out", example=tmp_path / "x.npy")
    assert set(report["models"]) == {"float", "int8", "dyadic", "dyadic_qdq"}
    assert "score" not in report["models"]["float"]
    assert "windows" in report["skipped"]["bundle"]


# -- errors ----------------------------------------------------------------------------------------


def broken(tmp_path, *entries: made.Entry, **options) -> str:
    path = made.write_keras(tmp_path / "net.h5", entries, **options)
    with pytest.raises(ModelError) as caught:
        fold_layers(read_keras(path))
    return str(caught.value)


def test_layers_that_are_not_understood_are_named(tmp_path):
    rng = np.random.default_rng(0)
    gru = ("GRU", {"name": "memory", "units": 4}, {})
    assert "'memory' is a GRU" in broken(tmp_path, made.dense(rng, 4, 4), gru)
    assert "'elu'" in broken(tmp_path, made.dense(rng, 4, 4, activation="elu"))
    capped = ("ReLU", {"max_value": 6.0}, {})
    assert "max_value" in broken(tmp_path, made.dense(rng, 4, 4), capped)
    assert "no Dense layer" in broken(tmp_path, ("Flatten", {}, {}))
    stray = made.norm(rng, 4, name="stray")
    assert "'stray'" in broken(tmp_path, made.dense(rng, 4, 4, activation="relu"), stray)
    axis = made.norm(rng, 4, axis=[2])
    assert "axis" in broken(tmp_path, made.dense(rng, 4, 4), axis)


def test_weights_that_do_not_fit_are_named(tmp_path):
    rng = np.random.default_rng(0)
    narrow = made.norm(rng, 3, name="narrow")
    assert "'narrow'" in broken(tmp_path, made.dense(rng, 4, 4), narrow)
    assert "takes 5 values" in broken(tmp_path, made.dense(rng, 4, 4), made.dense(rng, 5, 4))
    kind, config, weights = made.dense(rng, 4, 4)
    assert "no weight 'bias'" in broken(tmp_path, (kind, config, {"kernel": weights["kernel"]}))
    spoilt = {**weights, "bias": np.full(4, np.nan)}
    assert "NaN" in broken(tmp_path, (kind, config, spoilt))


def test_nets_that_are_no_chains_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    path = made.write_keras(
        tmp_path / "net.h5", [made.dense(rng, 4, 4), made.dense(rng, 4, 4)], sequential=False
    )
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["inbound_nodes"] = [[["dense_0", 0, 0, {}], ["x", 0, 0, {}]]]
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(ModelError, match="only chains"):
        read_keras(path)


def test_files_that_are_no_keras_models_are_refused(tmp_path, model):
    (tmp_path / "text.h5").write_text("no model")
    (tmp_path / "new.keras").write_bytes(b"PK\x03\x04rest")
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["dense"] = np.zeros(3)
    whole = model.read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    for name, expected in (
        ("missing.h5", "no such file"),
        ("text.h5", "not a Keras"),
        ("new.keras", "model.save"),
        ("weights.h5", "model_config"),
        ("cut.h5", "damaged"),
    ):
        with pytest.raises(ModelError, match=expected):
            read_keras(tmp_path / name)


def test_a_missing_h5py_names_the_extra(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DependencyError, match=r"edgeae\[train\]"):
        read_keras(model)


def test_examples_that_do_not_fit(tmp_path, clip):
    with pytest.raises(SignalError, match="--frame"):
        read_windows(clip, 24)
    with pytest.raises(SignalError, match="whole number"):
        read_windows(clip, 24, 7)
    np.save(tmp_path / "odd.npy", np.zeros((9, 7)))
    np.save(tmp_path / "nan.npy", np.full((9, 24), np.nan))
    np.save(tmp_path / "short.npy", np.zeros((2, 8)))
    for name in ("odd.npy", "nan.npy", "short.npy", "missing.npy"):
        with pytest.raises(SignalError):
            read_windows(tmp_path / name, 24)


def test_windows_slide_by_a_frame(tmp_path, clip):
    frames = np.fromfile(clip, "<f4").reshape(-1, 8)
    rows = read_windows(clip, 24, 8)
    assert rows.shape == (58, 24)
    np.testing.assert_array_equal(rows[7], frames[7:10].reshape(-1))
    np.save(tmp_path / "frames.npy", frames)
    np.testing.assert_array_equal(read_windows(tmp_path / "frames.npy", 24), rows)
    np.save(tmp_path / "rows.npy", rows)
    np.testing.assert_array_equal(read_windows(tmp_path / "rows.npy", 24), rows)
    assert sliding_windows(frames[:1], 3).shape == (0, 24)


def test_the_command(tmp_path, model, clip):
    run = CliRunner().invoke
    arguments = ["import", str(model), "--out", str(tmp_path / "out")]
    result = run(app, [*arguments, "--example", str(clip), "--frame", "8"])
    assert result.exit_code == 0, result.output
    assert "dyadic_qdq" in result.output
    result = run(app, [*arguments, "--json"])
    assert json.loads(result.stdout)["skipped"]
    assert run(app, ["import", str(clip), "--out", str(tmp_path / "x")]).exit_code == 1
    assert run(app, ["import", str(model), "--out", str(clip)]).exit_code == 2


# -- the real file ---------------------------------------------------------------------------------


@pytest.mark.skipif(not CLIP.exists(), reason="needs EDGEAE_DATA/mlperf_tiny_ad")
def test_mlperf_tiny_anomaly_detection(tmp_path):
    """The public yardstick's own numbers, and what our int8 has to reach."""
    report = import_keras(DATA / "ad01.h5", tmp_path, example=CLIP, frame=128)
    models = report["models"]
    assert models["float"]["score"] == pytest.approx(9.491290, abs=1e-4)
    for name, least in (("int8", 42), ("dyadic", 40), ("dyadic_qdq", 40)):
        assert models[name]["sqnr_db"] >= least
        assert abs(models[name]["score_change_percent"]) <= 0.7
        assert models[name]["bytes"] <= 300_000
    layers = fold_layers(read_keras(DATA / "ad01.h5"))
    rows = read_windows(CLIP, 640, 128)
    assert narrowest(layers) == 5
    with torch.no_grad():
        got = keras_to_torch(DATA / "ad01.h5")(torch.from_numpy(rows)).numpy()
    assert np.mean((rows.astype(float) - got) ** 2) == pytest.approx(9.491290, abs=1e-4)
    assert sqnr_db(run_dense(layers, rows)[-1], got) > 90
