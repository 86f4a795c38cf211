"""``edgeae verify --against``: it finds the layer at which two nets part, and says why."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("h5py")

import keras_files as made
import onnx
from typer.testing import CliRunner

from edgeae.cli import app
from edgeae.errors import ModelError
from edgeae.exporting.dense_graph import float_graph
from edgeae.importing.compare import compare_traces
from edgeae.importing.dense_import import import_keras
from edgeae.importing.example import read_windows
from edgeae.importing.fold import fold_layers
from edgeae.importing.keras import read_keras
from edgeae.importing.tflite import read_tflite
from edgeae.importing.trace import read_model

DATA = Path(os.environ.get("EDGEAE_DATA", "nowhere")) / "mlperf_tiny_ad"
CLIP = DATA / "normal_id_01_00000000_hist_librosa.bin"
real = pytest.mark.skipif(not CLIP.exists(), reason="needs EDGEAE_DATA/mlperf_tiny_ad")
WIDTHS = (24, 16, 4, 16, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model, its import, and an example of 8-value frames."""
    where = tmp_path_factory.mktemp("against")
    model = made.write_keras(
        where / "net.h5", made.autoencoder(np.random.default_rng(5), WIDTHS), sequential=False
    )
    t = np.arange(60)[:, None]
    frames = 2 * np.sin(t / 5 + np.arange(8)) + np.random.default_rng(0).normal(0, 1, (60, 8))
    np.save(where / "x.npy", frames.astype(np.float32))
    import_keras(model, where / "out", example=where / "x.npy", frame=8)
    return where


def compared(folder: Path, one: str, other: str, **options):
    x = read_windows(folder / "x.npy", WIDTHS[0], 8)
    traces = (read_model(folder / name).trace(x) for name in (one, other))
    return compare_traces(*traces, x, **options)


def test_a_model_is_its_import(folder):
    found = compared(folder, "net.h5", "out/float.onnx")
    assert found.parts_at is None
    assert found.sqnr_db > 90
    assert len(found.layers) == len(WIDTHS) - 1
    assert compared(folder, "net.h5", "net.h5").to_json()["sqnr_db"] == 999


def test_quantized_nets_are_compared_up_to_factors(folder):
    for name in ("int8.onnx", "dyadic.onnx", "dyadic_qdq.onnx", "bundle"):
        found = compared(folder, "out/float.onnx", f"out/{name}", min_db=15)
        assert found.parts_at is None, name
        assert any(layer.scaled for layer in found.layers), name
    same = compared(folder, "out/dyadic.onnx", "out/dyadic_qdq.onnx")
    assert all(layer.sqnr_db == np.inf for layer in same.layers)


@pytest.mark.parametrize("spoilt", range(len(WIDTHS) - 1))
@pytest.mark.parametrize("what", ["weight", "bias"])
def test_a_planted_difference_is_found(folder, tmp_path, spoilt, what):
    layers = list(fold_layers(read_keras(folder / "net.h5")))
    value = getattr(layers[spoilt], what)
    layers[spoilt] = replace(layers[spoilt], **{what: value + 0.2 * np.abs(value).mean()})
    other = tmp_path / "other.onnx"
    other.write_bytes(float_graph(layers, {}).SerializeToString())
    x = read_windows(folder / "x.npy", WIDTHS[0], 8)
    found = compare_traces(read_model(folder / "net.h5").trace(x), read_model(other).trace(x), x)
    assert found.parts_at == layers[spoilt].name
    assert f"the {what}" in found.reason
    alone = [layer.alone_db for layer in found.layers]
    assert all((db < 60) == (number == spoilt) for number, db in enumerate(alone))


def test_a_lost_dense_bias_is_told_by_name(folder, tmp_path):
    """The defect of the reference conversion: bias' = beta - mean g, without the dense bias."""
    keras = read_keras(folder / "net.h5")
    followed = {a.name for a, b in pairwise(keras) if b.kind.startswith("Bat")}
    lossy = [
        replace(layer, weights={**layer.weights, "bias": layer.weights["bias"] * 0})
        if layer.name in followed
        else layer
        for layer in keras
    ]
    other = tmp_path / "lost.onnx"
    other.write_bytes(float_graph(fold_layers(lossy), {}).SerializeToString())
    x = read_windows(folder / "x.npy", WIDTHS[0], 8)
    found = compare_traces(read_model(folder / "net.h5").trace(x), read_model(other).trace(x), x)
    assert "exactly the dense layer's own bias" in found.reason


def test_nets_of_other_depth_are_compared_at_their_ends(folder, tmp_path):
    layers = fold_layers(read_keras(folder / "net.h5"))
    other = tmp_path / "short.onnx"
    other.write_bytes(float_graph(layers[:1] + layers[-1:], {}).SerializeToString())
    x = read_windows(folder / "x.npy", WIDTHS[0], 8)
    found = compare_traces(read_model(folder / "net.h5").trace(x), read_model(other).trace(x), x)
    assert found.layers == ()
    assert "different layers (4 and 2)" in found.reason


def test_the_command_and_its_gate(folder):
    run = CliRunner().invoke
    model, clip = str(folder / "net.h5"), str(folder / "x.npy")
    arguments = ["verify", model, "--example", clip, "--frame", "8", "--against"]
    result = run(app, [*arguments, str(folder / "out/float.onnx")])
    assert result.exit_code == 0, result.output
    assert "anomaly score" in result.output
    result = run(app, [*arguments, str(folder / "out/int8.onnx")])
    assert result.exit_code == 3, result.output
    result = run(app, [*arguments, str(folder / "out/int8.onnx"), "--min-db", "15", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["parts_at"] is None
    result = run(app, ["verify", model, "--against", str(folder / "out/float.onnx")])
    assert result.exit_code == 0, result.output
    assert "random inputs" in result.output


def test_models_that_cannot_be_compared(folder, tmp_path):
    run = CliRunner().invoke
    model = str(folder / "net.h5")
    for name, content in (("x.onnx", b"no graph"), ("x.tflite", b"no model"), ("x.bin", b"")):
        (tmp_path / name).write_bytes(content)
        result = run(app, ["verify", model, "--against", str(tmp_path / name)])
        assert result.exit_code == 1, result.output
    assert run(app, ["verify", model, "--against", str(tmp_path / "none.onnx")]).exit_code == 1
    small = made.write_keras(tmp_path / "s.h5", [made.dense(np.random.default_rng(0), 3, 3)])
    result = run(app, ["verify", model, "--against", str(small)])
    assert result.exit_code == 2
    assert "24 values" in result.output


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_hostile_tflite_bytes_end_in_an_error(data):
    with pytest.raises(ModelError):
        read_tflite(data[:4] + b"TFL3" + data[4:])


@real
def test_the_reference_conversion_is_another_net():
    """38 dB: the fold dropped the dense bias, and the comparison says so."""
    x = read_windows(CLIP, 640, 128)
    reference = read_model(DATA / "ad01.h5").trace(x)
    found = compare_traces(reference, read_model(DATA / "ad01_fp32.tflite").trace(x), x)
    assert found.sqnr_db == pytest.approx(38.4, abs=0.1)
    assert found.max_abs_difference == pytest.approx(3.5, abs=0.01)
    assert found.parts_at == "dense_1"
    assert "exactly the dense layer's own bias" in found.reason
    assert all(layer.weight_db > 100 for layer in found.layers)
    assert all(layer.own_bias_db is None or layer.own_bias_db > 100 for layer in found.layers)


@real
def test_damaged_tflite_files_end_in_an_error():
    data = bytearray((DATA / "ad01_int8.tflite").read_bytes())
    for cut in range(8, len(data), len(data) // 40):
        with pytest.raises(ModelError):
            read_tflite(bytes(data[:cut]))
    rng = np.random.default_rng(0)
    tail = len(data) - 12_000  # where the tables are
    for _ in range(200):
        spoilt = bytearray(data)
        for place in rng.integers(tail, len(data), 4):
            spoilt[place] = rng.integers(256)
        try:
            read_tflite(bytes(spoilt))
        except ModelError:
            continue


@real
@pytest.mark.parametrize("name", ["ad01_fp32", "ad01_int8", "model_ToyCar_quant_fullint"])
def test_our_reading_of_a_tflite_file_is_litert_s(name):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    net = interpreter.Interpreter(str(DATA / f"{name}.tflite"))
    net.allocate_tensors()
    (source,), (target,) = net.get_input_details(), net.get_output_details()

    def run(row):
        if source["dtype"] == np.int8:
            scale, zero = source["quantization"]
            row = np.clip(np.rint(row / scale) + zero, -128, 127).astype(np.int8)
        net.set_tensor(source["index"], row[None])
        net.invoke()
        out = net.get_tensor(target["index"])[0]
        if target["dtype"] == np.int8:
            scale, zero = target["quantization"]
            out = (out.astype(np.float64) - zero) * scale
        return out

    x = read_windows(CLIP, 640, 128)[::20]
    ours = read_model(DATA / f"{name}.tflite").trace(x).output
    theirs = np.array([run(row) for row in x])
    step = 0.4 if "fp32" not in name else 1e-3
    assert np.abs(ours - theirs).max() <= step
    assert np.mean(np.abs(ours - theirs) > 1e-3) < 0.01


def test_a_matmul_and_add_is_a_dense_layer(folder, tmp_path):
    layers = fold_layers(read_keras(folder / "net.h5"))
    helper, constants, nodes, x = onnx.helper, [], [], "input"
    for number, layer in enumerate(layers):
        for key, value in (("w", layer.weight.T), ("b", layer.bias)):
            array = np.ascontiguousarray(value, np.float32)
            constants.append(onnx.numpy_helper.from_array(array, f"{key}{number}"))
        nodes.append(helper.make_node("MatMul", [x, f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Add", [f"b{number}", f"m{number}"], [f"a{number}"]))
        x = f"a{number}"
        if layer.relu:
            nodes.append(helper.make_node("Relu", [x], [f"r{number}"]))
            x = f"r{number}"
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 24])
        for name in ("input", x)
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], constants)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    rows = read_windows(folder / "x.npy", 24, 8)
    found = compare_traces(
        read_model(folder / "net.h5").trace(rows), read_model(tmp_path / "m.onnx").trace(rows), rows
    )
    assert found.parts_at is None
    assert all(layer.bias_db > 100 for layer in found.layers)
