""".ort files give the bits of the ONNX files, and every operator in them is in the list."""

from __future__ import annotations

import struct

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from denoiser_bundles import image_bundle as denoising_bundle  # noqa: E402
from denoiser_bundles import speech_bundle, stream_bundle  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from tiny_bundle import dense_bundle, image_bundle, prior_only_bundle, series_bundle  # noqa: E402

import edgeae  # noqa: E402
from edgeae.errors import ModelError  # noqa: E402
from edgeae.exporting.ort_format import CONFIG, ort_files, to_ort  # noqa: E402
from edgeae.exporting.rework import rework_bundle  # noqa: E402
from edgeae.exporting.spelling import int8_spelling  # noqa: E402
from edgeae.exporting.verify_denoise import probe_feed  # noqa: E402
from edgeae.runtime.session import open_graph, open_session  # noqa: E402


class Table:
    """A table of a FlatBuffer, read by the numbers of its fields in onnxruntime's ort.fbs."""

    def __init__(self, data, at):
        self.data, self.at = data, at
        self.layout = at - self.number("<i", at)

    def number(self, kind, at):
        return struct.unpack_from(kind, self.data, at)[0]

    def place(self, field):
        entry = 4 + 2 * field
        if entry >= self.number("<H", self.layout):
            return None
        offset = self.number("<H", self.layout + entry)
        return self.at + offset if offset else None

    def follow(self, at):
        return at + self.number("<I", at)

    def table(self, field):
        return Table(self.data, self.follow(self.place(field)))

    def tables(self, field):
        start = self.follow(self.place(field))
        count = self.number("<I", start)
        return [Table(self.data, self.follow(start + 4 + 4 * k)) for k in range(count)]

    def text(self, field):
        if self.place(field) is None:
            return ""
        start = self.follow(self.place(field))
        return self.data[start + 4 : start + 4 + self.number("<I", start)].decode()

    def integer(self, field):
        return self.number("<i", self.place(field))


def operators_of(ort):
    """Domain, version and name of each node: InferenceSession.model.graph.nodes."""
    session = Table(ort, struct.unpack_from("<I", ort, 0)[0])
    nodes = session.table(1).table(7).tables(2)
    return {(n.text(2) or "ai.onnx", n.integer(3), n.text(5)) for n in nodes}


def operators_in(config):
    """The same of required_operators.config."""
    found = set()
    for line in config.decode().splitlines():
        if line.startswith("#"):
            continue
        domain, version, names = line.split(";")
        depth, name = 0, ""
        for letter in names + ",":
            depth += (letter == "{") - (letter == "}")
            if letter == "," and not depth:
                found.add((domain, int(version), name.partition("{")[0]))
                name = ""
            else:
                name += letter
    return found


def gemm_chain():
    """Two layers of bytes, whose int8 spelling onnxruntime fuses to QGemm."""
    rng = np.random.default_rng(0)
    nodes, constants, last = [], {}, "x"

    def add(op, *values, **attributes):
        nonlocal last
        names = [f"c{len(nodes)}_{k}" for k in range(len(values))]
        constants.update(zip(names, values, strict=True))
        nodes.append(helper.make_node(op, [last, *names], [f"t{len(nodes)}"], **attributes))
        last = nodes[-1].output[0]

    add("Round")
    add("Clip", np.float32(0), np.float32(255))
    for n_in, n_out in ((6, 9), (9, 4)):
        weight = rng.integers(-60, 61, (n_out, n_in)) / np.float32(64)
        add("Gemm", weight.astype(np.float32), transB=1)
        add("Round")
        add("Clip", np.float32(0), np.float32(255))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"edgeae.input_peak": "300"})
    return model


@pytest.mark.parametrize("make", [series_bundle, image_bundle, dense_bundle])
def test_a_bundle_with_ort_files(make, tmp_path):
    plain = make(tmp_path / "plain")
    made, _ = rework_bundle(plain, tmp_path / "ort", ort=True)
    assert made.fingerprint == plain.fingerprint
    assert set(made.files) - set(plain.files) == {"encoder.ort", "decoder.ort", CONFIG}
    assert edgeae.load(tmp_path / "ort").exact
    written = operators_of(made.files["encoder.ort"]) | operators_of(made.files["decoder.ort"])
    assert operators_in(made.files[CONFIG]) == written
    rng = np.random.default_rng(0)
    for name in ("encoder", "decoder"):
        first = open_session(made.files[f"{name}.onnx"], name="onnx")
        second = open_session(made.files[f"{name}.ort"], name="ort")
        assert (second.input_name, second.input_shape) == (first.input_name, first.input_shape)
        assert second.metadata == first.metadata
        x = rng.integers(-99, 99, [s or 8 for s in first.input_shape]).astype(np.float32)
        for _ in range(2):
            assert np.array_equal(first.run(x), second.run(x))


@pytest.mark.parametrize("make", [stream_bundle, speech_bundle, denoising_bundle])
def test_a_denoiser_with_ort_files(make, tmp_path):
    plain = make(tmp_path / "plain")
    made, _ = rework_bundle(plain, tmp_path / "ort", ort=True)
    assert made.fingerprint == plain.fingerprint
    assert set(made.files) - set(plain.files) == {"denoiser.ort", CONFIG}
    assert operators_in(made.files[CONFIG]) == operators_of(made.files["denoiser.ort"])
    graph = onnx.load_model_from_string(made.files["denoiser.onnx"])
    feed = probe_feed(made, graph, 3, np.random.default_rng(0))
    first, second = (
        open_graph(made.files[f"denoiser.{kind}"], name=kind).run(feed) for kind in ("onnx", "ort")
    )
    assert len(first) == 1 + len(made.denoise.state)
    assert all(map(np.array_equal, first, second))


def test_a_fused_operator_that_no_onnx_file_names_is_listed():
    model = gemm_chain()
    spelled = int8_spelling(model)
    files = ort_files({"g.onnx": spelled.SerializeToString()})
    fused = ("com.microsoft", 1, "QGemm")
    assert fused in operators_in(files[CONFIG])
    assert operators_in(files[CONFIG]) == operators_of(files["g.ort"])
    assert "QGemm" not in {node.op_type for node in spelled.graph.node}
    x = np.random.default_rng(1).integers(-300, 300, (5, 6)).astype(np.float32)
    expected = open_session(model.SerializeToString(), name="onnx").run(x)
    assert np.array_equal(open_session(files["g.ort"], name="ort").run(x), expected)


def test_a_float_graph_needs_no_quantization_operators():
    """Its weights are dequantized when it is written."""
    w = helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0)
    gemm = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    graph = helper.make_graph(
        [w, gemm],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(np.ones((3, 2), np.int8), "q"),
            numpy_helper.from_array(np.ones(3, np.float32), "s"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    ort = to_ort(model.SerializeToString(), name="g.onnx")
    assert {name for _, _, name in operators_of(ort)} == {"Gemm"}


def test_the_list_tells_nothing_of_the_machine_that_made_it(tmp_path):
    files = ort_files({"g.onnx": gemm_chain().SerializeToString()})
    text = files[CONFIG].decode()
    assert text.startswith("# Operators and types of g.ort\n# written by onnxruntime ")
    assert "/" not in text.replace("build.sh", "")
    assert '"float"' in text  # types are listed too


def test_no_layout_of_this_machine_gets_into_a_file():
    """A convolution of 16 channels would be laid out in blocks at the level ``all``."""
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [conv],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16, 8, 8])],
        [numpy_helper.from_array(np.ones((16, 16, 1, 1), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    ort = to_ort(model.SerializeToString(), name="g.onnx")
    assert {(domain, name) for domain, _, name in operators_of(ort)} == {("ai.onnx", "Conv")}


def test_what_cannot_be_written_or_opened(tmp_path):
    with pytest.raises(ModelError, match=r"x\.onnx: onnxruntime cannot write it as \.ort"):
        to_ort(b"not a graph", name="x.onnx")
    with pytest.raises(ModelError, match="no net to write"):
        rework_bundle(prior_only_bundle(tmp_path / "p"), tmp_path / "q", ort=True)
    ort = to_ort(gemm_chain().SerializeToString(), name="g.onnx")
    with pytest.raises(ModelError, match="cannot open"):
        open_graph(ort[: len(ort) // 2], name="half.ort")
