"""Both spellings of an exact graph give the same bits in every engine, at every level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgeae.exporting.certificate import NotDyadicError, certify  # noqa: E402
from edgeae.exporting.dyadic_graph import pair_sums_fit  # noqa: E402
from edgeae.exporting.freeze import frozen  # noqa: E402
from edgeae.exporting.graphs import analysis_graph, synthesis_graph  # noqa: E402
from edgeae.exporting.integers import run_integers  # noqa: E402
from edgeae.exporting.spelling import int8_spelling  # noqa: E402
from edgeae.exporting.torch_graph import run_torch  # noqa: E402
from edgeae.models.dyadic import calibrating, set_quantized  # noqa: E402
from edgeae.models.transforms import AnalysisNet, SynthesisNet, TransformSpec  # noqa: E402
from edgeae.runtime.session import OPTIMIZATION_LEVELS, open_session  # noqa: E402


def check_same(model, spelled, x):
    """Both spellings, every engine, level, number of threads and batch."""
    x = np.asarray(x, np.float32)
    expected = run_integers(model, x)
    assert np.array_equal(run_integers(spelled, x), expected)
    assert np.array_equal(run_torch(spelled, x), expected)
    for level in OPTIMIZATION_LEVELS:
        for threads in (1, 2):
            session = open_session(
                spelled.SerializeToString(), name="g", threads=threads, optimization=level
            )
            for batch in (1, len(x)):
                found = np.concatenate(
                    [session.run(x[i : i + batch]) for i in range(0, len(x), batch)]
                )
                assert np.array_equal(found, expected), (level, threads, batch)
    plain = ort.InferenceSession(spelled.SerializeToString())  # without our options
    assert np.array_equal(plain.run(None, {spelled.graph.input[0].name: x})[0], expected)


def operators(model):
    return [node.op_type for node in model.graph.node]


def fused(model, tmp_path):
    """The operators that onnxruntime makes of a graph."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options)
    return operators(onnx.load(options.optimized_model_filepath))


# -- nets as they are trained ----------------------------------------------------------------


@st.composite
def specs(draw):
    family = draw(st.sampled_from(["conv1d", "conv2d", "dense"]))
    depth = draw(st.integers(2, 3))
    shape = {
        "family": family,
        "channels": draw(st.integers(1, 2)),
        "latent": draw(st.integers(1, 5)),
        "widths": tuple(draw(st.integers(1, 20)) for _ in range(depth)),
        "bits": 8,
    }
    if family == "dense":
        shape |= {"strides": (), "kernels": (), "window": draw(st.integers(4, 24))}
    else:
        shape["strides"] = tuple(draw(st.integers(1, 2)) for _ in range(depth))
        shape["kernels"] = tuple(draw(st.integers(1, 5)) for _ in range(depth))
    shape["center"] = shape["shift"] = (0,) * shape["channels"]
    return TransformSpec(**shape)


def quantized(net, x, weight_bits):
    frozen(net)
    for layer in net.layers:
        layer.weight_bits = weight_bits
    with torch.no_grad(), calibrating(net):
        net(x)
    net.connect()
    set_quantized(net, True)
    return net.eval()


@settings(max_examples=12, deadline=None)
@given(specs(), st.integers(0, 1000), st.sampled_from([7, 8]))
def test_trained_nets_spell_both_ways(spec, seed, weight_bits):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    side = spec.stride * (1 if spec.family == "dense" else 4)
    space = (side, side) if spec.dims == 2 else (side,)
    x = rng.normal(0, 500, (3, spec.channels, *space)).round().astype(np.float32)
    analysis = quantized(AnalysisNet(spec), torch.from_numpy(x), weight_bits)
    model = analysis_graph(analysis, {})
    spelled = int8_spelling(model)
    assert spelled is not None
    check_same(model, spelled, x)
    shape = run_integers(model, x).shape
    latent = rng.integers(-2047, 2048, shape).astype(np.float32)
    synthesis = quantized(SynthesisNet(spec), torch.from_numpy(latent), weight_bits)
    model = synthesis_graph(synthesis, {})
    spelled = int8_spelling(model)
    if spelled is not None:
        check_same(model, spelled, latent)


def test_wider_activations_have_one_spelling_only():
    spec = TransformSpec(widths=(6, 6), strides=(2, 2), kernels=(3, 3), latent=2, bits=10)
    x = torch.round(200 * torch.randn(2, 1, 16))
    net = quantized(AnalysisNet(spec), x, 8)
    assert int8_spelling(analysis_graph(net, {})) is None


# -- nets made by hand -----------------------------------------------------------------------


class Chain:
    """A graph written node by node; every layer's output is clipped to a range."""

    def __init__(self, shape, peak=300):
        self.nodes, self.constants, self.last = [], {}, "x"
        self.shape, self.peak, self.rank = shape, peak, len(shape)

    def add(self, op, *constants, source=None, more=(), **attributes):
        names = [f"{op}{len(self.nodes)}_{k}" for k in range(len(constants))]
        self.constants |= dict(zip(names, constants, strict=True))
        inputs = [source or self.last, *more, *names]
        self.last = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [self.last], **attributes))
        return self

    def clip(self, low, high, *, first="Round"):
        ends = np.float32(low), np.float32(high)
        if first == "Round":
            return self.add("Round").add("Clip", *ends)
        return self.add("Clip", *ends).add("Round")

    def model(self):
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.shape])],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, {"edgeae.input_peak": str(self.peak)})
        return onnx.shape_inference.infer_shapes(model)


def weights(rng, *shape, top=127, shift=7):
    return (rng.integers(-top, top + 1, shape) * 2.0**-shift).astype(np.float32)


def biases(rng, n, shift=7):
    return (rng.integers(-20000, 20001, n) * 2.0**-shift).astype(np.float32)


@pytest.mark.parametrize("first", ["Round", "Clip"])
@pytest.mark.parametrize(("low", "high"), [(0, 255), (-128, 127), (-127, 127), (0, 100), (-200, 9)])
def test_every_range_of_at_most_256_integers(low, high, first, tmp_path):
    rng = np.random.default_rng(high)
    chain = Chain((9,)).clip(low, high, first=first)
    chain.add("Gemm", weights(rng, 12, 9), biases(rng, 12), transB=1).clip(low, high, first=first)
    chain.add("Gemm", weights(rng, 12, 5)).clip(0, 255)
    chain.add("Gemm", weights(rng, 4, 5), biases(rng, 4), transB=1).add("Round")
    model = chain.model()
    spelled = int8_spelling(model)
    check_same(model, spelled, rng.integers(-300, 301, (40, 9)))
    assert fused(spelled, tmp_path).count("QGemm") == 3


def test_a_convolution_with_padding_around_a_zero_point(tmp_path):
    rng = np.random.default_rng(0)
    chain = Chain((3, 20)).clip(-128, 127)
    chain.add("Conv", weights(rng, 7, 3, 5), biases(rng, 7), pads=[2, 2], strides=[2])
    chain.clip(-128, 127)
    chain.add("Conv", weights(rng, 8, 7, 3), pads=[1, 1]).clip(0, 255)
    model = chain.model()
    spelled = int8_spelling(model)
    check_same(model, spelled, rng.integers(-300, 301, (5, 3, 20)))
    assert fused(spelled, tmp_path).count("QLinearConv") == 2


def test_moves_keep_bytes_and_a_float_reader_gets_floats(tmp_path):
    rng = np.random.default_rng(1)
    chain = Chain((8, 4, 4)).clip(0, 255)
    chain.add("Conv", weights(rng, 8, 8, 1, 1)).clip(0, 255).add("DepthToSpace", blocksize=2)
    shuffled = chain.last
    chain.add("Conv", weights(rng, 2, 2, 3, 3), pads=[1, 1, 1, 1]).clip(0, 255)
    chain.add("Add", more=[shuffled])
    model = chain.model()
    spelled = int8_spelling(model)
    check_same(model, spelled, rng.integers(-300, 301, (3, 8, 4, 4)))
    names = fused(spelled, tmp_path)
    assert names.count("QLinearConv") == 2
    assert "DepthToSpace" in names


def test_what_cannot_be_int8_stays_as_it_is():
    rng = np.random.default_rng(2)
    wide = Chain((4,)).clip(0, 255).add("Gemm", weights(rng, 3, 4, top=400), transB=1)
    assert int8_spelling(wide.add("Round").model()) is None
    fine_bias = Chain((4,)).clip(0, 255)
    fine_bias.add("Gemm", weights(rng, 3, 4, shift=2), biases(rng, 3, shift=9), transB=1)
    assert int8_spelling(fine_bias.add("Round").model()) is None
    no_bytes = Chain((4, 9)).clip(0, 256).add("Conv", weights(rng, 3, 4, 3)).clip(0, 255)
    assert int8_spelling(no_bytes.model()) is None
    last = Chain((4, 9)).clip(0, 255).add("Conv", weights(rng, 3, 4, 3)).clip(-2047, 2047)
    assert int8_spelling(last.model()) is None
    half = Chain((4, 9)).clip(-0.5, 254.5).add("Conv", weights(rng, 3, 4, 3)).clip(0, 255)
    assert int8_spelling(half.model()) is None


def test_a_channel_of_zeros():
    rng = np.random.default_rng(3)
    w, b = weights(rng, 4, 6), biases(rng, 4)
    w[1], b[1], w[2], b[3] = 0, 0, 0, 0
    model = Chain((6,)).clip(0, 255).add("Gemm", w, b, transB=1).clip(0, 255).model()
    check_same(model, int8_spelling(model), rng.integers(-300, 301, (9, 6)))


# -- saturation on x86 without VNNI ------------------------------------------------------------


@given(st.lists(st.integers(-127, 127), min_size=1, max_size=6))
def test_the_bound_on_pairs_is_what_16_bits_hold(row):
    fits = all(
        min(255 * a, 0) + min(255 * b, 0) >= -32768 and max(255 * a, 0) + max(255 * b, 0) <= 32767
        for i, a in enumerate(row)
        for b in row[i + 1 :]
    )
    assert pair_sums_fit(np.array([row])) == fits


@pytest.mark.parametrize(("top", "kind"), [(64, TensorProto.INT8), (127, TensorProto.UINT8)])
def test_weights_are_signed_only_where_they_cannot_saturate(top, kind):
    rng = np.random.default_rng(4)
    w = weights(rng, 5, 40, top=top)
    w[:, 0], w[:, 1] = top / 128, top / 128
    model = Chain((40,)).clip(0, 255).add("Gemm", w, transB=1).add("Round").model()
    spelled = int8_spelling(model)
    (found,) = (t for t in spelled.graph.initializer if t.name.endswith("_weight_q"))
    assert found.data_type == kind
    check_same(model, spelled, np.full((2, 40), 255))


def test_the_certificate_refuses_weights_that_saturate():
    chain = Chain((2,)).add("QuantizeLinear", np.float32(1), np.uint8(0))
    chain.add("DequantizeLinear", np.float32(1), np.uint8(0))
    chain.nodes.append(helper.make_node("DequantizeLinear", ["wq", "ws"], ["w"], axis=0))
    chain.constants |= {"wq": np.array([[127, 2]], np.int8), "ws": np.ones(1, np.float32)}
    chain.add("Gemm", more=["w"], transB=1)
    with pytest.raises(NotDyadicError, match="saturate on x86 without VNNI"):
        certify(chain.model())
    chain.constants["wq"] = np.array([[126, 2]], np.int8)
    certify(chain.model())
