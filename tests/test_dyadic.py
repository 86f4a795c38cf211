"""Laws of exact nets: torch, onnxruntime and int64 give the same bits, and the proof is one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgeae.exporting.certificate import NotDyadicError, certify  # noqa: E402
from edgeae.exporting.freeze import frozen  # noqa: E402
from edgeae.exporting.graphs import analysis_graph, causal_graph, synthesis_graph  # noqa: E402
from edgeae.exporting.integers import run_integers  # noqa: E402
from edgeae.exporting.torch_graph import run_torch  # noqa: E402
from edgeae.models.causal import CausalTorchNet  # noqa: E402
from edgeae.models.dyadic import DyadicConv, DyadicGrid, calibrating, set_quantized  # noqa: E402
from edgeae.models.transforms import AnalysisNet, SynthesisNet, TransformSpec  # noqa: E402
from edgeae.runtime.session import OPTIMIZATION_LEVELS, open_session  # noqa: E402

SMALL = settings(max_examples=12, deadline=None)


def engines(model, x):
    """Every way to run a graph: all of them must agree with the int64 engine."""
    for level in OPTIMIZATION_LEVELS:
        for threads in (1, 2):
            session = open_session(
                model.SerializeToString(),
                name="graph",
                input_name=model.graph.input[0].name,
                output_name=model.graph.output[0].name,
                threads=threads,
                optimization=level,
            )
            yield f"onnxruntime {level} {threads}", session.run(x)
    yield "torch kernels", run_torch(model, x)


def check_equal(model, x, expected):
    """expected: what the torch net itself gave, as integers."""
    x = np.asarray(x, np.float32)
    reference = run_integers(model, x)
    assert np.array_equal(reference, np.asarray(expected, np.int64))
    for name, found in engines(model, x):
        assert np.array_equal(found, np.rint(found)), name
        assert np.array_equal(found.astype(np.int64), reference), name


def quantized(net, *inputs):
    with torch.no_grad(), calibrating(net):
        net(*inputs)
    net.connect()
    set_quantized(net, True)
    return net.eval()


@st.composite
def specs(draw):
    family = draw(st.sampled_from(["conv1d", "conv2d", "dense"]))
    channels = draw(st.integers(1, 3))
    depth = draw(st.integers(1, 3 if family != "conv2d" else 2))
    strides = [draw(st.integers(1, 4 if family == "conv1d" else 2)) for _ in range(depth)]
    shape = {
        "family": family,
        "channels": channels,
        "latent": draw(st.integers(1, 6)),
        "widths": tuple(draw(st.integers(1, 12)) for _ in range(depth)),
        "center": tuple(draw(st.integers(-3000, 3000)) for _ in range(channels)),
        "shift": tuple(draw(st.integers(0, 6)) for _ in range(channels)),
        "exponent": draw(st.integers(0, 8)),
        "bits": draw(st.integers(8, 12)),
    }
    if family == "dense":
        shape |= {"strides": (), "kernels": (), "window": draw(st.integers(2, 24))}
    else:
        shape |= {
            "strides": tuple(strides),
            "kernels": tuple(s + draw(st.integers(0, 5)) for s in strides),
        }
    return TransformSpec(**shape)


STILL = TransformSpec(  # its only ReLU before the latent hardly opens
    family="conv2d", latent=1, widths=(11, 1), strides=(2, 2), kernels=(2, 3), exponent=0, bits=11
)


@given(specs(), st.integers(0, 2**31))
@example(STILL, 2**31)
@SMALL
def test_transforms_are_equal_in_every_engine(spec, seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    analysis, synthesis = AnalysisNet(spec), SynthesisNet(spec)
    items = spec.stride * int(rng.integers(1, 4))
    space = (items, items) if spec.dims == 2 else (items,)
    size = (5, spec.channels, *space)
    center = np.reshape(spec.center, (-1, *[1] * spec.dims))
    typical = np.rint(rng.normal(0, 300, size)) + center
    latent = quantized(analysis, torch.tensor(typical, dtype=torch.float32))
    with torch.no_grad():
        set_quantized(analysis, False)
        quantized(synthesis, latent(torch.tensor(typical, dtype=torch.float32)))
        set_quantized(analysis, True)
    wild = rng.integers(-(2**23), 2**23, size).astype(np.float64)
    x = torch.tensor(np.concatenate([typical, wild]), dtype=torch.float32)
    model = analysis_graph(analysis, {})
    certify(model)
    with torch.no_grad():
        check_equal(model, x.numpy(), (analysis(x) * 16).numpy())
    steps = analysis(x).shape[2:]
    codes = torch.tensor(rng.integers(-2047, 2048, (7, spec.latent, *steps)), dtype=torch.float32)
    model = synthesis_graph(synthesis, {})
    certify(model)
    with torch.no_grad():
        check_equal(model, codes.numpy(), synthesis(codes / 16).numpy())


@st.composite
def causal_nets(draw):
    past = draw(st.lists(st.booleans(), min_size=1, max_size=5))
    depth = draw(st.integers(0, 3))
    offsets = st.lists(st.integers(0, 20), min_size=1, max_size=6, unique=True).map(sorted)
    hidden = [(draw(st.integers(1, 10)), draw(offsets)) for _ in range(depth)]
    n_out = draw(st.integers(1, 4))
    exponent = draw(st.integers(0, 4))
    return CausalTorchNet(
        past=past,
        n_out=n_out,
        hidden=hidden,
        skip_offsets=draw(st.one_of(st.just([]), offsets)),
        out_exponents=[draw(st.integers(2, 7)) for _ in range(n_out)],
        feature_grid=DyadicGrid(exponent=exponent, lo=-2047, hi=2047),
        bits=draw(st.integers(8, 12)),
    )


@given(causal_nets(), st.integers(0, 2**31))
@SMALL
def test_causal_nets_are_equal_in_every_engine(net, seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    for p in net.parameters():
        with torch.no_grad():
            p.copy_(torch.randn(p.shape) * 0.3)
    scale = 2.0**-net.feature_grid.exponent
    typical = rng.integers(-200, 201, (3, len(net.past), 40))
    quantized(net, torch.tensor(typical * scale, dtype=torch.float32))
    x = np.concatenate([typical, rng.integers(-2047, 2048, typical.shape)])
    exponents = 2.0 ** net.out_exponent.numpy()[:, None]
    with torch.no_grad():
        expected = net(torch.tensor(x * scale, dtype=torch.float32)).numpy() * exponents
    twin = net.integer_net()
    assert np.array_equal(twin.run(x), expected.astype(np.int64))
    model = causal_graph(twin, {})
    certify(model)
    check_equal(model, x, expected)


@given(st.integers(0, 2**31))
@SMALL
def test_frozen_layers_compute_the_same(seed):
    torch.manual_seed(seed)
    layer = DyadicConv(1, 3, 5, kernel=6, stride=2, relu=bool(seed % 2))
    x = torch.randint(-2047, 2048, (4, 3, 24)).float()
    with torch.no_grad(), calibrating(layer):
        layer(x)
    layer.connect(DyadicGrid(exponent=0, lo=-2047, hi=2047))
    layer.quantized = True
    with torch.no_grad():
        assert torch.equal(frozen(layer)(x), layer(x))
    assert layer.quantized
    assert layer.weight.requires_grad


def test_the_straight_through_gradient_reaches_all_weights():
    torch.manual_seed(0)
    spec = TransformSpec(widths=(8,), strides=(4,), kernels=(8,))
    net = AnalysisNet(spec)
    x = torch.randn(2, 1, 32) * 100
    quantized(net, x)
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


# --- the certificate ------------------------------------------------------------------------------


def graph(*nodes, constants=(), peak=2047, shape=("N", 2, "T"), out=("N", None, None)):
    """A graph of (op, inputs, output, attributes) from "x" to "y"."""
    made = [helper.make_node(op, ins, [o], name=o, **(a or {})) for op, ins, o, a in nodes]
    model = helper.make_model(
        helper.make_graph(
            made,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(out))],
            [numpy_helper.from_array(np.asarray(v), k) for k, v in constants],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    if peak is not None:
        helper.set_model_props(model, {"edgeae.input_peak": str(peak)})
    return model


def f32(*values):
    return np.array(values, np.float32)


CONV = ("Conv", ["x", "w"], "y", None)


def weights(*rows):
    return np.array(rows, np.float32)[:, :, None]


def test_bounds_are_those_of_the_sums():
    model = graph(CONV, constants=[("w", weights([1, -2], [0.5, 0.25]))])
    (layer,) = certify(model)
    assert (layer.peak, layer.exponent) == (3 * 2047, 2)
    assert layer.headroom_bits == pytest.approx(24 - np.log2(3 * 2047))


def test_a_sum_just_below_the_limit_passes_and_one_at_it_does_not():
    assert certify(graph(CONV, constants=[("w", weights([127, 1]))], peak=2**17 - 1))
    with pytest.raises(NotDyadicError, match="a sum can reach 16777216"):
        certify(graph(CONV, constants=[("w", weights([127, 1]))], peak=2**17))


def test_fine_and_coarse_weights_in_one_sum_count_on_the_fine_grid():
    w = weights([2.0**-8, 2.0**6])
    with pytest.raises(NotDyadicError, match="a sum can reach"):
        certify(graph(CONV, constants=[("w", w)], peak=2047))
    assert certify(graph(CONV, constants=[("w", w)], peak=511))


NAN = float("nan")

QUANTIZER = [
    ("QuantizeLinear", ["x", "s", "z"], "q", None),
    ("DequantizeLinear", ["q", "s", "z"], "y", None),
]
REJECTED = {
    "a sigmoid": ([("Sigmoid", ["x"], "y", None)], [], "Sigmoid is not a dyadic"),
    "a transposed convolution": (
        [("ConvTranspose", ["x", "w"], "y", None)],
        [("w", weights([1, 1], [1, 1]))],
        "ConvTranspose is not a dyadic",
    ),
    "a factor of three": ([("Mul", ["x", "c"], "y", None)], [("c", f32(3))], "power of two"),
    "a division by three": ([("Div", ["x", "c"], "y", None)], [("c", f32(3))], "power of two"),
    "a constant divided by data": ([("Div", ["c", "x"], "y", None)], [("c", f32(4))], "followed"),
    "a product of data": ([("Mul", ["x", "x"], "y", None)], [], "followed"),
    "a weight that is a third": ([CONV], [("w", weights([1 / 3, 1]))], "a sum can reach"),
    "a weight that is NaN": ([CONV], [("w", weights([NAN, 1]))], "NaN"),
    "a weight that is infinite": ([CONV], [("w", weights([np.inf, 1]))], "Inf"),
    "a bias that is a third": (
        [("Conv", ["x", "w", "b"], "y", None)],
        [("w", weights([1, 1])), ("b", f32(1 / 3))],
        "a sum can reach",
    ),
    "a clip far from zero": (
        [("Clip", ["x", "lo", "hi"], "y", None)],
        [("lo", np.float32(5)), ("hi", np.float32(9))],
        "without 0",
    ),
    "another domain": (
        [("Relu", ["x"], "y", {"domain": "com.evil"})],
        [],
        "com.evil has no dyadic",
    ),
    "padding with a number": (
        [("Pad", ["x", "p", "v"], "y", None)],
        [("p", np.array([0, 0, 1, 0, 0, 0])), ("v", np.float32(0.1))],
        "another value than 0",
    ),
    "a quantizer that is no power of two": (
        QUANTIZER,
        [("s", np.float32(0.1)), ("z", np.uint8(3))],
        "no power of two",
    ),
    "16-bit quantizers": (
        QUANTIZER,
        [("s", np.float32(0.5)), ("z", np.int16(3))],
        "expected 8 bits",
    ),
    "concatenation with a third": (
        [("Concat", ["x", "c"], "t", {"axis": 1}), ("Conv", ["t", "w"], "y", None)],
        [("c", np.full((1, 1, 4), 1 / 3, np.float32)), ("w", weights([1, 1, 1]))],
        "a sum can reach",
    ),
    "a tensor that nobody made": ([("Relu", ["z"], "y", None)], [], "followed"),
}  # fmt: skip


@pytest.mark.parametrize("case", REJECTED)
def test_the_certificate_rejects(case):
    nodes, constants, words = REJECTED[case]
    with pytest.raises(NotDyadicError, match=words):
        certify(graph(*nodes, constants=constants))


def test_a_graph_that_hides_its_range_is_rejected():
    with pytest.raises(NotDyadicError, match="input_peak"):
        certify(graph(("Relu", ["x"], "y", None), peak=None))


def test_grids_of_channels_do_not_leak_when_channels_move():
    """Channel 0 is scaled down, then the channels swap by a Slice: its grid must go along."""
    nodes = [
        ("Mul", ["x", "c"], "scaled", None),
        ("Slice", ["scaled", "b", "e", "a", "s"], "moved", None),
        ("Conv", ["moved", "w"], "y", None),
    ]
    constants = [
        ("c", np.array([2.0**-14, 1], np.float32).reshape(1, 2, 1)),
        ("b", np.array([1])), ("e", np.array([-3])), ("a", np.array([1])), ("s", np.array([-1])),
        ("w", weights([2.0**14, 0], [0, 1])),
    ]  # fmt: skip
    with pytest.raises(NotDyadicError, match="a sum can reach"):
        certify(graph(*nodes, constants=constants))


def test_a_factor_per_time_step_is_not_taken_for_one_per_channel():
    nodes = [("Mul", ["x", "c"], "scaled", None), ("Conv", ["scaled", "w"], "y", None)]
    constants = [("c", f32(2.0**-14, 1)), ("w", weights([0, 1]))]  # [T], T = 2 = channels
    with pytest.raises(NotDyadicError, match="a sum can reach"):
        certify(graph(*nodes, constants=constants, shape=("N", 2, 2), peak=2**12))


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 5))
@SMALL
def test_certified_bounds_are_reached_by_the_worst_input_and_passed_by_none(seed, n_in, kernel):
    rng = np.random.default_rng(seed)
    w = rng.integers(-127, 128, (1, n_in, kernel)) / 2.0 ** rng.integers(0, 6)
    b = rng.integers(-500, 500, 1) / 2.0 ** rng.integers(0, 6)
    model = graph(
        ("Conv", ["x", "w", "b"], "sum", {"pads": [kernel // 2, kernel // 2]}),
        ("Round", ["sum"], "y", None),
        constants=[("w", w.astype(np.float32)), ("b", b.astype(np.float32))],
        peak=255,
        shape=("N", n_in, "T"),
    )
    (layer,) = certify(model)
    worst = np.abs(w).sum() * 255 + np.abs(b[0])  # all products of the bias's sign
    assert worst * 2.0**layer.exponent == layer.peak
    every = np.concatenate([w.ravel() * 255, b]) * 2.0**layer.exponent
    assert np.array_equal(every, np.rint(every))  # the grid holds every product
    x = rng.integers(-255, 256, (4, n_in, 9)).astype(np.float32)
    reference = run_integers(model, x)
    for name, found in engines(model, x):
        assert np.array_equal(found.astype(np.int64), reference), name


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_other_operators_are_equal_in_every_engine(mode):
    nodes = [
        ("Clip", ["x", "lo", "hi"], "clipped", None),
        ("DepthToSpace", ["clipped"], "big", {"blocksize": 2, "mode": mode}),
        ("Flatten", ["big"], "flat", None),
        ("Gemm", ["flat", "g", "gb"], "sum", {"transB": 1}),
        ("Relu", ["sum"], "relu", None),
        ("QuantizeLinear", ["relu", "s", "z"], "q", None),
        ("DequantizeLinear", ["q", "s", "z"], "d", None),
        ("Div", ["d", "half"], "ints", None),
        ("Unsqueeze", ["ints", "axis"], "wide", None),
        ("Squeeze", ["wide", "axis"], "y", None),
    ]
    rng = np.random.default_rng(0)
    constants = [
        ("lo", np.float32(-100)), ("hi", np.float32(100)),
        ("g", (rng.integers(-9, 10, (5, 16)) / 8).astype(np.float32)),
        ("gb", (rng.integers(-99, 99, 5) / 16).astype(np.float32)),
        ("s", np.float32(0.5)), ("z", np.uint8(7)), ("half", np.float32(0.5)),
        ("axis", np.array([1])),
    ]  # fmt: skip
    model = graph(*nodes, constants=constants, shape=("N", 4, 2, 2), out=("N", 5))
    certify(model)
    x = rng.integers(-2047, 2048, (6, 4, 2, 2)).astype(np.float32)
    check_equal(model, x, run_integers(model, x))
    assert len(np.unique(run_integers(model, x))) > 5


def test_wide_signals_stay_below_the_limit():
    """A 23-bit signal: fewer bits for the last layer, and still a certificate."""
    spec = TransformSpec(
        widths=(4,), strides=(4,), kernels=(4,), center=(100_000,), shift=(12,), exponent=4
    )
    assert spec.out_bits < 14
    torch.manual_seed(0)
    net = quantized(SynthesisNet(spec), torch.randn(2, 8, 4) * 10)
    certify(synthesis_graph(net, {}))
    narrow = TransformSpec(center=(0,), shift=(0,))
    assert narrow.out_bits == 14
