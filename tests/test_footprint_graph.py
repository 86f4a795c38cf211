"""A graph's footprint against counts that owe nothing to it: the onnx package and brute force."""

from __future__ import annotations

import itertools
import math
import random
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeae.errors import ConfigError, EdgeAEError, ModelError
from edgeae.footprint.arena import ALIGNMENT, Lifetime, arena_bytes, peak_live_bytes, place
from edgeae.footprint.graph import View, describe_graph
from edgeae.runtime.bundle import Bundle

MODELS = Path(__file__).parent.parent / "export" / "models"
CASES = [
    ("ecg", "encoder.onnx", (1, 1, 1024)),
    ("ecg", "decoder.onnx", (1, 8, 32)),
    ("ecg", "prior.onnx", (1, 9, 32)),
    ("ecg", "sample_prior_0.onnx", (1, 2, 64)),
    ("mnist", "encoder.onnx", (2, 1, 28, 28)),
    ("mnist", "decoder.onnx", (1, 12, 7, 7)),
    ("mnist-dense", "encoder.onnx", (1, 784, 1)),
    ("mnist-dense", "decoder.onnx", (1, 64, 1)),
    ("imu", "encoder.onnx", (1, 6, 256)),
]


def _inferred(data: bytes, shape: tuple[int, ...]) -> tuple[onnx.ModelProto, dict]:
    """The model with a fixed input, and every tensor's shape and bytes, by the onnx package."""
    model = onnx.load_model_from_string(data)
    source = model.graph.input[0].type.tensor_type
    for dim, n in zip(source.shape.dim, shape, strict=True):
        dim.Clear()
        dim.dim_value = n
    for value in model.graph.output:  # their free axes would hide what is inferred
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    del model.graph.value_info[:]  # likewise
    model = onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)
    graph = model.graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        dims = tuple(dim.dim_value for dim in kind.shape.dim)
        assert all(dims), value.name
        size = helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
        found[value.name] = (dims, math.prod(dims) * size)
    return model, found


def _brute_force(model: onnx.ModelProto, tensors: dict) -> tuple[int, int]:
    """Peak of live bytes step by step, and MACs, straight from the operators' definitions."""
    graph = model.graph
    constant = {t.name for t in graph.initializer}
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    nodes = []
    for node in graph.node:
        if set(node.input) <= constant:
            constant |= set(node.output)
            arrays[node.output[0]] = arrays[node.input[0]]  # only its shape matters here
        else:
            nodes.append(node)
    owner = {value.name: value.name for value in graph.input}
    for node in nodes:
        shares = node.op_type in ("Reshape", "Flatten", "Identity", "Squeeze", "Unsqueeze")
        owner[node.output[0]] = owner[node.input[0]] if shares else node.output[0]
    alive = {owner[value.name] for value in graph.input}
    peak = sum(tensors[name][1] for name in alive)
    macs = 0
    for i, node in enumerate(nodes):
        alive.add(owner[node.output[0]])
        peak = max(peak, sum(tensors[name][1] for name in alive))
        later = {owner[n] for m in nodes[i + 1 :] for n in m.input if n in owner}
        alive &= later | {owner[value.name] for value in graph.output}
        if node.op_type in ("Conv", "Gemm"):
            weight = arrays[node.input[1]]
            per_output = weight.size // weight.shape[0]
            macs += math.prod(tensors[node.output[0]][0]) * per_output
    return peak, macs


@pytest.mark.parametrize(("bundle", "file", "shape"), CASES)
def test_graph_view_is_exact_to_the_byte(bundle, file, shape):
    data = Bundle.load(MODELS / bundle).files[file]
    found = describe_graph(data, shape)
    model, tensors = _inferred(data, shape)
    peak, macs = _brute_force(model, tensors)
    assert found.peak_live_bytes == peak
    assert found.macs == macs
    assert found.weight_bytes == sum(
        numpy_helper.to_array(t).nbytes for t in model.graph.initializer
    )
    assert found.input_bytes == tensors[model.graph.input[0].name][1]
    assert found.output_bytes == tensors[model.graph.output[0].name][1]
    for layer in found.layers:
        assert layer.output_shape == tensors[layer.name][0]
        assert layer.activation_bytes in (0, tensors[layer.name][1])
    assert found.arena_bytes == -(-peak // ALIGNMENT) * ALIGNMENT  # so no layout is better


def test_device_view_of_the_ecg_encoder_is_what_a_c_program_holds():
    """Every number by hand: 16-bit activations, int8 weights, a shift and a bias per channel."""
    data = Bundle.load(MODELS / "ecg").files["encoder.onnx"]
    found = describe_graph(data, (1, 1, 1024), view="device", input_bytes=2)
    assert [layer.name for layer in found.layers] == [
        "input", "layer0", "layer1", "layer2", "latent",
    ]  # fmt: skip
    outputs = [2 * 1024, 2 * 24 * 256, 2 * 48 * 64, 2 * 48 * 32, 2 * 8 * 32]
    assert [layer.activation_bytes for layer in found.layers] == outputs
    weights = [24 * 16, 48 * 24 * 8, 48 * 48 * 5, 8 * 48 * 3]
    channels = [24, 48, 48, 8]
    expected = [w + (4 + 1) * c for w, c in zip(weights, channels, strict=True)]
    assert [layer.weight_bytes for layer in found.layers[1:]] == expected
    assert found.weight_bytes == sum(expected) + 8  # and the centre and the unit
    assert found.arena_bytes == found.peak_live_bytes == outputs[1] + outputs[2]
    assert found.n_parameters == sum(weights) + sum(channels) + 2
    assert {layer.arithmetic for layer in found.layers[1:]} == {"int16"}


def test_mac_counts_are_those_of_the_manifest():
    for name, items in (("ecg", 4096), ("imu", 1024), ("power", 1024)):
        bundle = Bundle.load(MODELS / name)
        cost, net, spec = bundle.manifest.raw["cost"], bundle.net, bundle.signal
        steps = items // net.stride
        encoder = describe_graph(bundle.files["encoder.onnx"], (1, spec.channels, items))
        decoder = describe_graph(bundle.files["decoder.onnx"], (1, net.latent_channels, steps))
        n_samples = items * spec.channels
        assert round(encoder.macs / n_samples, 1) == cost["encoder_macs_per_sample"]
        assert round(decoder.macs / n_samples, 1) == cost["decoder_macs_per_sample"]


def _mlp(dtype=np.float32) -> bytes:
    """The MLPerf Tiny autoencoder, folded, with weights of chance."""
    widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    rng = np.random.default_rng(0)
    nodes, constants, x = [], [], "x"
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        constants.append(
            numpy_helper.from_array(rng.normal(size=(n_out, n_in)).astype(dtype), f"w{i}")
        )
        constants.append(numpy_helper.from_array(rng.normal(size=n_out).astype(dtype), f"b{i}"))
        nodes.append(helper.make_node("Gemm", [x, f"w{i}", f"b{i}"], [f"g{i}"], transB=1))
        x = f"g{i}"
        if n_out != 640:
            nodes.append(helper.make_node("Relu", [x], [f"r{i}"]))
            x = f"r{i}"
    return _model(nodes, constants, ["N", 640], x)


def _model(nodes, constants, shape, output, opset=17, rank=None) -> bytes:
    graph = helper.make_graph(
        nodes, "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * (rank or len(shape)))],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model.SerializeToString()


def test_the_mlperf_autoencoder_has_its_published_size():
    for view in View:
        found = describe_graph(_mlp(), view=view)
        assert found.macs == 264_192
        assert found.n_parameters == 265_864
        assert found.weight_bytes == 4 * 265_864
        assert found.peak_live_bytes == 4 * (640 + 128)
    assert describe_graph(_mlp(), (196, 640)).macs == 196 * 264_192


def test_operators_that_only_onnxruntime_knows_are_run():
    nodes = [
        helper.make_node("Einsum", ["x", "w"], ["e"], equation="ni,oi->no"),
        helper.make_node("Relu", ["e"], ["y"]),
    ]
    weight = numpy_helper.from_array(np.ones((5, 8), np.float32), "w")
    found = describe_graph(_model(nodes, [weight], ["N", 8], "y"), (3, 8))
    assert found.layers[-1].output_shape == (3, 5)
    assert found.uncounted == ("Einsum",)


def test_shapes_that_a_graph_computes_are_followed_without_running_it(monkeypatch):
    monkeypatch.setattr("edgeae.runtime.graph_shapes.run_for_shapes", None)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Pad", ["t", "pads"], ["p"]),
        helper.make_node("Slice", ["p", "start", "end", "two"], ["c"]),
        helper.make_node("Concat", ["c", "c"], ["y"], axis=1),
    ]
    constants = [
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in {
            "zero": 0, "axis": [0], "rest": [4, -1], "pads": [0, 0, 1, 0, 0, 2],
            "start": [1], "end": [2**62], "two": [2],
        }.items()
    ]  # fmt: skip
    found = describe_graph(_model(nodes, constants, [2, 12], "y", rank=3))
    assert found.layers[-1].output_shape == (2, 6, 6)


def test_convolutions_of_all_kinds_have_onnx_own_shapes():
    rng = np.random.default_rng(1)

    def weight(*shape):
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), "w")

    for node, w in [
        (
            {"op_type": "Conv", "strides": [2, 1], "pads": [1, 0, 2, 3], "dilations": [1, 2]},
            (6, 4, 3, 3),
        ),
        (
            {"op_type": "Conv", "group": 2, "auto_pad": "SAME_UPPER", "strides": [3, 2]},
            (6, 2, 3, 3),
        ),
        ({"op_type": "ConvTranspose", "strides": [2, 2], "output_padding": [1, 0]}, (4, 6, 3, 2)),
    ]:
        nodes = [
            helper.make_node(inputs=["x", "w"], outputs=["c"], **node),
            helper.make_node(
                "MaxPool", ["c"], ["m"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1
            ),
            helper.make_node("GlobalAveragePool", ["m"], ["g"]),
            helper.make_node("Flatten", ["g"], ["y"]),
        ]
        data = _model(nodes, [weight(*w)], [2, 4, 17, 12], "y", rank=2)
        found = describe_graph(data)
        _, tensors = _inferred(data, (2, 4, 17, 12))
        assert {layer.name: layer.output_shape for layer in found.layers} == {
            name: shape for name, (shape, _) in tensors.items() if name != "x"
        }


def _float(*shape):
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def _long(*values):
    return np.array(values, np.int64)


OPERATORS = [  # operator, attributes, shape of x, further inputs, opset
    ("ArgMax", {"axis": 1, "keepdims": 0}, (2, 3, 4), [], 17),
    (
        "AveragePool",
        {"kernel_shape": [3], "auto_pad": "SAME_UPPER", "strides": [2]},
        (1, 2, 9),
        [],
        17,
    ),
    ("BatchNormalization", {}, (2, 3, 4), [_float(3)] * 4, 17),
    ("Cast", {"to": TensorProto.FLOAT16}, (2, 3), [], 17),
    (
        "ConvTranspose",
        {"group": 2, "pads": [1, 1], "dilations": [2]},
        (1, 4, 9),
        [_float(4, 3, 3)],
        17,
    ),
    ("DepthToSpace", {"blocksize": 2}, (1, 8, 3, 5), [], 17),
    ("Equal", {}, (2, 3), [_float(1, 3)], 17),
    ("Expand", {}, (3, 1), [_long(2, 3, 4)], 17),
    ("Flatten", {"axis": 2}, (2, 3, 4, 5), [], 17),
    ("Gather", {"axis": 1}, (2, 3, 4), [_long(0, 2, 2, 1)], 17),
    ("Gemm", {"transA": 1}, (4, 3), [_float(4, 5), _float(5)], 17),
    ("GlobalMaxPool", {}, (2, 3, 4, 5), [], 17),
    ("MatMul", {}, (5, 1, 2, 3), [_float(4, 3, 6)], 17),
    ("Pad", {}, (2, 3), [_long(0, 1, 0, 2)], 17),
    ("ReduceMean", {"axes": [-1], "keepdims": 0}, (2, 3, 4), [], 17),
    ("ReduceSum", {"keepdims": 1}, (2, 3, 4), [_long(0, 1)], 17),
    ("Resize", {"mode": "nearest"}, (1, 2, 3, 4), [None, np.array([1, 1, 2, 2.5], np.float32)], 17),
    ("Resize", {"mode": "nearest"}, (1, 2, 3, 4), [None, None, _long(1, 2, 7, 9)], 17),
    ("Slice", {}, (9, 8), [_long(-2, 1), _long(0, 99), _long(0, 1), _long(-3, 2)], 17),
    ("SpaceToDepth", {"blocksize": 2}, (1, 2, 4, 6), [], 17),
    ("Squeeze", {}, (1, 3, 1), [], 17),
    ("Squeeze", {"axes": [2]}, (1, 3, 1), [], 11),
    ("Tile", {}, (2, 3), [_long(2, 2)], 17),
    ("Transpose", {}, (2, 3, 4), [], 17),
    ("Unsqueeze", {}, (2, 3), [_long(0, -1)], 17),
    ("Upsample", {"mode": "nearest"}, (1, 2, 3, 4), [np.array([1, 1, 2, 3], np.float32)], 9),
]


@pytest.mark.parametrize(("op", "attributes", "shape", "others", "opset"), OPERATORS)
def test_every_operator_has_onnx_own_shape(monkeypatch, op, attributes, shape, others, opset):
    monkeypatch.setattr("edgeae.runtime.graph_shapes.run_for_shapes", None)
    names = ["" if value is None else f"c{i}" for i, value in enumerate(others)]
    constants = [
        numpy_helper.from_array(value, name)
        for name, value in zip(names, others, strict=True)
        if name
    ]
    nodes = [helper.make_node(op, ["x", *names], ["y"], **attributes)]
    graph = helper.make_graph(
        nodes, "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name="y")],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    (known,) = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    kind = known.type.tensor_type
    found = describe_graph(model.SerializeToString())
    dims = tuple(dim.dim_value for dim in kind.shape.dim)
    assert found.layers[0].output_shape == dims
    size = helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
    assert found.output_bytes == math.prod(dims) * size


def test_quantized_operators_and_recurrent_ones_are_counted():
    """The same products in four spellings; a recurrent layer multiplies in every step."""
    x8 = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])]
    scales = [numpy_helper.from_array(np.float32(0.1), "s")]
    scales += [numpy_helper.from_array(np.array(3, np.uint8), "z")]
    weight = numpy_helper.from_array(np.ones((6, 4, 3), np.int8), "w")
    zero = numpy_helper.from_array(np.array(0, np.int8), "wz")
    integer = helper.make_node("ConvInteger", ["q", "w", "z", "wz"], ["i"])
    linear = helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "wz", "s", "z"], ["l"])
    for node, kind in ((integer, TensorProto.INT32), (linear, TensorProto.UINT8)):
        graph = helper.make_graph(
            [*x8, node], "q",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 4, 9))],
            [helper.make_tensor_value_info(node.output[0], kind, (2, 6, 7))],
            [*scales, weight, zero],
        )  # fmt: skip
        found = describe_graph(helper.make_model(graph).SerializeToString(), view="device")
        assert found.macs == 2 * 6 * 7 * 4 * 3
        assert found.n_parameters == 72
        assert found.layers[-1].arithmetic == "int8"
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        nodes = [helper.make_node(op, ["x", "w", "r"], ["y"], hidden_size=5)]
        constants = [
            numpy_helper.from_array(_float(1, 5 * gates, 3), "w"),
            numpy_helper.from_array(_float(1, 5 * gates, 5), "r"),
        ]
        found = describe_graph(_model(nodes, constants, [7, 2, 3], "y", rank=4))
        assert found.layers[0].output_shape == (7, 1, 2, 5)
        assert found.macs == 7 * 2 * gates * 5 * (3 + 5)
        assert found.n_parameters == gates * 5 * (3 + 5)


def test_a_skip_connection_keeps_its_tensor_alive():
    """x -> relu a -> conv b; a + b: a lives on while b is made."""
    weight = numpy_helper.from_array(np.ones((2, 2, 1), np.float32), "w")
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    data = _model(nodes, [weight], [1, 2, 8], "y")
    for view in View:
        found = describe_graph(data, view=view)
        assert found.peak_live_bytes == 3 * 64
        assert len(found.layers) == 3


@pytest.mark.parametrize("view", list(View))
def test_a_damaged_file_is_a_model_error_or_a_footprint(view):
    data = Bundle.load(MODELS / "mnist").files["encoder.onnx"]
    names = rb"Conv|Round|Clip|DequantizeLinear|layer\d_\w+|strides|pads|signal|latent|center"
    spots = [m.start() + k for m in re.finditer(names, data) for k in range(-4, 12)]
    rng = random.Random(0)
    outcomes = set()
    for _ in range(400):
        damaged = bytearray(data)
        damaged[rng.choice(spots) % len(data)] = rng.randrange(256)
        try:
            outcomes.add(describe_graph(bytes(damaged), (1, 1, 28, 28), view=view).macs > 0)
        except EdgeAEError:
            outcomes.add("error")
    assert {True, "error"} <= outcomes


def test_a_shared_weight_is_counted_once():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    data = _model(nodes, [numpy_helper.from_array(np.ones((4, 4), np.float32), "w")], ["N", 4], "y")
    assert describe_graph(data).n_parameters == 16
    assert describe_graph(data).macs == 32


def test_input_shapes_that_do_not_fit_are_refused():
    data = Bundle.load(MODELS / "ecg").files["encoder.onnx"]
    with pytest.raises(ConfigError, match="axis T is free"):
        describe_graph(data)
    with pytest.raises(ConfigError, match=r"cannot have the shape \[1, 2, 64\]"):
        describe_graph(data, (1, 2, 64))
    with pytest.raises(ConfigError, match="no input 'pixels'"):
        describe_graph(data, {"pixels": (1, 1, 64)})
    with pytest.raises(ModelError, match="not an ONNX file"):
        describe_graph(b"what", (1,))


@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.integers(-1, 12), st.integers(0, 6)), max_size=24
    ).map(
        lambda rows: [
            Lifetime(name=str(i), n_bytes=n, first=first, last=first + length)
            for i, (n, first, length) in enumerate(rows)
        ]
    )
)
def test_no_two_living_tensors_share_a_byte(tensors):
    placed = place(tensors)
    assert len(placed) == sum(t.n_bytes > 0 for t in tensors)
    for i, a in enumerate(placed):
        assert a.offset % ALIGNMENT == 0
        for b in placed[:i]:
            together = a.tensor.first <= b.tensor.last and b.tensor.first <= a.tensor.last
            apart = (
                a.offset + a.tensor.n_bytes <= b.offset or b.offset + b.tensor.n_bytes <= a.offset
            )
            assert apart or not together
    assert arena_bytes(placed) >= peak_live_bytes(tensors)
