"""Our reader of ONNX files against the onnx package, on every graph the project has."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeae.errors import ModelError
from edgeae.runtime.onnx_file import read_onnx, with_outputs

onnx = pytest.importorskip("onnx")
GRAPHS = sorted(Path(__file__).parent.parent.glob("export/models/*/*.onnx"))


def plain(attribute):
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return list(value) if not isinstance(value, int | float | bytes) else value


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_reads_what_the_onnx_package_reads(path):
    ours, theirs = read_onnx(path.read_bytes()), onnx.load(path)
    graph = theirs.graph
    assert [(n.op, n.domain, n.name) for n in ours.nodes] == [
        (n.op_type, n.domain, n.name) for n in graph.node
    ]
    for mine, node in zip(ours.nodes, graph.node, strict=True):
        assert mine.inputs == tuple(node.input)
        assert mine.outputs == tuple(node.output)
        assert mine.attributes.keys() == {a.name for a in node.attribute}
        for attribute in node.attribute:
            np.testing.assert_array_equal(mine.attributes[attribute.name], plain(attribute))
    assert ours.constants.keys() == {t.name for t in graph.initializer}
    for tensor in graph.initializer:
        expected = onnx.numpy_helper.to_array(tensor)
        assert ours.constants[tensor.name].dtype == expected.dtype
        np.testing.assert_array_equal(ours.constants[tensor.name], expected)
    for mine, value in zip(ours.inputs + ours.outputs, [*graph.input, *graph.output], strict=True):
        dims = value.type.tensor_type.shape.dim
        assert mine.name == value.name
        assert mine.shape == tuple(d.dim_value or d.dim_param or None for d in dims)
        assert mine.dtype == np.float32
    assert ours.metadata == {p.key: p.value for p in theirs.metadata_props}
    assert ours.opset == theirs.opset_import[0].version


@pytest.mark.parametrize(
    "dtype", ["f4", "f8", "f2", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"]
)
@pytest.mark.parametrize("raw", [True, False])
def test_reads_tensors_of_every_type_in_both_spellings(dtype, raw):
    values = np.array([[0, 1, 2], [3, 100, 1]]).astype(dtype)
    kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    content = values.tobytes() if raw else values.ravel().tolist()
    tensor = onnx.helper.make_tensor("x", kind, values.shape, content, raw=raw)
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    found = read_onnx(onnx.helper.make_model(graph).SerializeToString()).constants["x"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_negative_numbers_and_nested_graphs():
    branch = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "b", [], [])
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, axis=-3, w=[-1, 2])
    graph = onnx.helper.make_graph([node], "g", [], [])
    (found,) = read_onnx(onnx.helper.make_model(graph).SerializeToString()).nodes
    assert found.attributes["axis"] == -3
    assert found.attributes["w"] == [-1, 2]
    assert found.attributes["then_branch"].nodes[0].op == "Relu"


def test_added_outputs_are_run_by_onnxruntime():
    import onnxruntime

    path = next(p for p in GRAPHS if p.parent.name == "ecg" and p.stem == "encoder")
    data = path.read_bytes()
    names = tuple(name for node in read_onnx(data).nodes for name in node.outputs[:1])[:-1]
    session = onnxruntime.InferenceSession(
        with_outputs(data, names), providers=["CPUExecutionProvider"]
    )
    assert [o.name for o in session.get_outputs()] == ["latent", *names]
    x = np.arange(64, dtype=np.float32).reshape(1, 1, 64)
    found = dict(zip(("latent", *names), session.run(None, {"signal": x}), strict=True))
    np.testing.assert_array_equal(found["centered"], x - read_onnx(data).constants["center"])
    assert with_outputs(data, ()) == data


def test_a_tensor_in_another_file_is_refused():
    tensor = onnx.helper.make_tensor("far", 1, [1], [0.0])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    with pytest.raises(ModelError, match=r"far.*save the model as one file"):
        read_onnx(onnx.helper.make_model(graph).SerializeToString())


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_any_bytes_end_in_a_graph_or_an_error(data):
    with contextlib.suppress(ModelError):
        read_onnx(data)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_files_end_in_a_graph_or_an_error(data):
    whole = GRAPHS[0].read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole[:cut])
    if at < cut:
        damaged[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ModelError):
        read_onnx(bytes(damaged))
