"""The native engine: the same bits as onnxruntime and as int64 arithmetic, for any exact graph."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from native_graphs import (
    GraphMaker,
    onnx,
    random_dense_graph,
    random_image_graph,
    random_series_graph,
)

import edgeae.native as native
from edgeae.errors import ModelError
from edgeae.runtime.engines import open_net
from edgeae.runtime.layout import lay_out
from edgeae.runtime.native_net import NativeNet, clones, open_native
from edgeae.runtime.session import open_session
from edgeae.runtime.views import UnsupportedGraphError

pytestmark = pytest.mark.skipif(not clones(), reason="the C extension is not built")


def _signal(rng: np.random.Generator, shape: tuple[int, ...], peak: int = 2047) -> Any:
    x = rng.integers(-peak, peak + 1, shape)
    x.reshape(-1)[: x.size // 8] = rng.choice([-peak, peak], x.size // 8)
    return x.astype(np.float32)


def _int64(graph: bytes, x: Any) -> Any:
    from edgeae.exporting.dyadic_graph import NotDyadicError
    from edgeae.exporting.integers import run_integers

    try:
        return run_integers(onnx.load_model_from_string(graph), x)
    except NotDyadicError:
        return None


@pytest.mark.parametrize("clone", clones())
@pytest.mark.parametrize("make", [random_series_graph, random_image_graph, random_dense_graph])
def test_bits_are_those_of_onnxruntime_and_int64(make: Any, clone: str) -> None:
    rng = np.random.default_rng(5)
    for seed in range(25):
        graph, shapes = make(seed)
        net = open_native(graph, exact=True, clone=clone)
        session = open_session(graph, name="g.onnx")
        for shape in shapes:
            x = _signal(rng, shape)
            y = net.run(x)
            np.testing.assert_array_equal(y, session.run(x), err_msg=f"seed {seed} {shape}")
            reference = _int64(graph, x)
            if reference is not None:
                np.testing.assert_array_equal(y, reference, err_msg=f"seed {seed} {shape}")


@pytest.mark.parametrize("clone", clones())
@pytest.mark.parametrize("shift", [0, 1, 2, 8, 15, 22])
def test_ties_go_to_even_and_ends_hold(clone: str, shift: int) -> None:
    """Every residue of a sum around 0 and around the ends of the range, at every position."""
    g = GraphMaker(np.random.default_rng(0), [1, None], peak=32767)
    weight = np.array([[[1]], [[-1]], [[min(1 << max(shift - 1, 0), 500)]]])
    column = np.exp2(-float(shift))
    w = g.constant((weight * column).astype(np.float32))
    g.node("Conv", g.x, w, g.constant(np.zeros(3, np.float32)))
    g.rounded(False, 12)
    graph = g.model(3)
    x = np.concatenate([np.arange(-600, 601), [-32767, 32767], np.arange(0, 32767, 61)])
    x = x.astype(np.float32).reshape(1, 1, -1)
    exact = np.rint(weight[:, 0] * x[0].astype(np.float64) * column)
    want = np.clip(exact, -4095, 4095)[None]
    np.testing.assert_array_equal(open_native(graph, exact=True, clone=clone).run(x), want)


@pytest.mark.parametrize("clone", clones())
def test_largest_sums(clone: str) -> None:
    """Sums just below 2^24, from the largest activations and weights there are."""
    g = GraphMaker(np.random.default_rng(0), [2, None], peak=32767)
    weight = np.array([[[255], [255]], [[-255], [-255]], [[511], [0]]], np.float32)
    g.node("Conv", g.x, g.constant(weight), g.constant(np.array([7, -7, 0], np.float32)))
    graph = g.model(3)
    x = np.full((1, 2, 40), 32767, np.float32)
    x[:, :, ::3] *= -1
    net = open_native(graph, exact=True, clone=clone)
    want = np.einsum("oik,nit->not", weight.astype(np.int64), x.astype(np.int64))
    np.testing.assert_array_equal(net.run(x), want + np.array([[[7], [-7], [0]]]))


def test_quantize_dequantize_spelling() -> None:
    """QDQ with powers of two, as static quantization writes it, runs as the same integers."""
    rng = np.random.default_rng(3)
    g = GraphMaker(rng, [3, None], peak=2047)

    def quantize(scale: float, zero: Any) -> None:
        s, z = g.constant(np.float32(scale)), g.constant(zero)
        g.node("QuantizeLinear", g.x, s, z)
        g.node("DequantizeLinear", g.x, s, z)

    quantize(2.0, np.int8(3))
    g.product(g.weights((24, 3, 5)), rng.integers(3, 9, 24), pads=[2, 2])
    g.node("Relu", g.x)
    quantize(0.5, np.uint8(0))
    g.product(g.weights((8, 24, 3)), rng.integers(3, 9, 8), pads=[1, 1])
    quantize(0.25, np.uint8(100))
    graph = g.model(3)
    session = open_session(graph, name="q.onnx", optimization="disable")
    for clone in clones():
        net = open_native(graph, exact=True, clone=clone)
        for n, t in ((1, 64), (3, 37)):
            x = (rng.integers(-2000, 2000, (n, 3, t)) / 4).astype(np.float32)
            np.testing.assert_array_equal(net.run(x), session.run(x))


def test_dense_head_and_flatten() -> None:
    """Convolution, flatten, matrix product, and back to channels and time."""
    rng = np.random.default_rng(4)
    g = GraphMaker(rng, [2, None])
    g.declared = ["N", 2, 32]
    g.layer(6, (3,), pads=[1, 1], strides=[2])
    g.node("Flatten", g.x)
    g.shape[0] = 96
    g.layer(40, (), transB=1)
    g.node("Reshape", g.x, g.constant(np.array([-1, 5, 8])))
    g.shape[0] = 5
    g.layer(3, (3,), pads=[1, 1])
    graph = g.model(3)
    session = open_session(graph, name="g.onnx")
    for clone in clones():
        x = _signal(rng, (4, 2, 32))
        np.testing.assert_array_equal(
            open_native(graph, exact=True, clone=clone).run(x), session.run(x)
        )


def test_channels_may_have_their_own_scales_at_both_ends() -> None:
    """In batches of matrix products, where the channels are the innermost loop."""
    rng = np.random.default_rng(9)
    g = GraphMaker(rng, [300])
    g.node("Sub", g.x, g.constant(rng.integers(-90, 90, (1, 300)).astype(np.float32)))
    g.node("Mul", g.x, g.constant(np.exp2(rng.integers(-3, 2, (1, 300))).astype(np.float32)))
    g.node("Round", g.x)
    g.clip(-255, 255)
    g.layer(40, (), transB=1)
    g.node("Mul", g.x, g.constant(np.exp2(rng.integers(-3, 4, (1, 40))).astype(np.float32)))
    g.node("Add", g.x, g.constant(rng.integers(-9, 9, (1, 40)).astype(np.float32)))
    graph = g.model(2)
    session = open_session(graph, name="g.onnx")
    for clone in clones():
        for n in (1, 3, 70):
            x = _signal(rng, (n, 300))
            net = open_native(graph, exact=True, clone=clone)
            np.testing.assert_array_equal(net.run(x), session.run(x))


def test_space_to_depth_slice_and_transpose() -> None:
    rng = np.random.default_rng(6)
    g = GraphMaker(rng, [3, None, None])
    g.node("SpaceToDepth", g.x, blocksize=2)
    g.shape[0] = 12
    g.layer(10, (3, 3), pads=[1, 1, 1, 1])
    start, end, axes = (g.constant(np.array(v)) for v in ([1, 2], [2**62, 9], [2, 1]))
    g.node("Slice", g.x, start, end, axes)
    g.shape[0] = 7
    g.node("Transpose", g.x, perm=[0, 1, 3, 2])
    g.layer(4, (2, 3))
    graph = g.model(4)
    session = open_session(graph, name="g.onnx")
    for clone in clones():
        x = _signal(rng, (2, 3, 12, 16))
        np.testing.assert_array_equal(
            open_native(graph, exact=True, clone=clone).run(x), session.run(x)
        )


def test_causal_convolution_through_pad() -> None:
    """Zeros on the left alone, dilated taps, and a residual: what a streaming net is made of."""
    rng = np.random.default_rng(7)
    g = GraphMaker(rng, [5, None])
    for dilation in (1, 2, 4):
        before, peak = g.x, g.peak
        pads = g.constant(np.array([0, 0, 2 * dilation, 0, 0, 0]))
        g.node("Pad", g.x, pads)
        g.layer(5, (3,), dilations=[dilation])
        g.node("Add", before, g.x)
        g.peak += peak
        g.rounded(False, 11)
    graph = g.model(3)
    session = open_session(graph, name="g.onnx")
    for clone in clones():
        for t in (20, 64):
            x = _signal(rng, (2, 5, t))
            net = open_native(graph, exact=True, clone=clone)
            np.testing.assert_array_equal(net.run(x), session.run(x))


@pytest.mark.parametrize("clone", clones())
def test_float_nets_agree_closely(clone: str) -> None:
    rng = np.random.default_rng(8)
    g = GraphMaker(rng, [3, None])

    def weights(*shape: int) -> str:
        scale = 1 / np.sqrt(np.prod(shape[1:]))
        return g.constant((rng.normal(size=shape) * scale).astype(np.float32))

    for n_in, n_out, k in ((3, 24, 5), (24, 40, 3), (40, 4, 7)):
        bias = g.constant(rng.normal(size=n_out).astype(np.float32))
        g.node("Conv", g.x, weights(n_out, n_in, k), bias, pads=[k // 2, k // 2])
        g.node("Relu", g.x)
    g.shape[0] = 4
    g.shuffle(2)
    graph = g.model(3)
    net, session = open_native(graph, clone=clone), open_session(graph, name="f.onnx")
    assert not net.exact
    for shape in ((1, 3, 64), (5, 3, 33)):
        x = rng.normal(size=shape).astype(np.float32)
        want = session.run(x)
        assert np.abs(net.run(x) - want).max() <= 1e-5 * np.abs(want).max()


def test_batches_are_singles_and_shapes_may_change() -> None:
    graph, _ = random_series_graph(3)
    net = open_native(graph, exact=True)
    rng = np.random.default_rng(1)
    channels = net.input_shape[1] or 1
    for t in (64, 65, 80, 100, 130, 64):
        x = _signal(rng, (3, channels, t))
        whole = net.run(x)
        for i in range(3):
            np.testing.assert_array_equal(net.run(x[i : i + 1])[0], whole[i])
        out = np.full((*whole.shape[:2], 2 * whole.shape[2]), 7, np.float32)[:, :, ::2]
        net.run_into(x[::-1], out)
        np.testing.assert_array_equal(out, whole[::-1])


def test_threads_may_share_a_net() -> None:
    graph, shapes = random_image_graph(2)
    net = open_native(graph, exact=True)
    rng = np.random.default_rng(1)
    inputs = [_signal(rng, (8, *shapes[0][1:])) for _ in range(4)]
    want = [net.run(x) for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(30):
            if not np.array_equal(net.run(inputs[i]), want[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- what it refuses -------------------------------------------------------------------------------


def _one_layer(weight: float, peak: int | None = 2047) -> GraphMaker:
    g = GraphMaker(np.random.default_rng(0), [4, None], peak=peak or 0)
    w = g.constant(np.full((3, 4, 3), weight, np.float32))
    g.node("Conv", g.x, w)
    return g


def test_numbers_outside_the_stated_range_are_refused() -> None:
    g = _one_layer(1.0)
    net = open_native(g.model(3), exact=True)
    x = np.zeros((1, 4, 16), np.float32)
    for bad in (np.nan, np.inf, 0.5, 2048.0, -3000.0):
        x[0, 2, 9] = bad
        with pytest.raises(ModelError, match="no integers of the range"):
            net.run(x)
    x[0, 2, 9] = -2047
    net.run(x)
    with pytest.raises(ModelError, match="has shape"):
        net.run(np.zeros((1, 5, 16), np.float32))
    with pytest.raises(ModelError, match="the array to write to"):
        net.run_into(x, np.zeros((1, 3, 16), np.float32))


def test_a_sum_that_may_reach_the_limit_is_refused() -> None:
    below, above = 683.0, 685.0  # 12 of them times 2047
    open_native(_one_layer(below).model(3), exact=True)
    with pytest.raises(UnsupportedGraphError, match=r"a sum can reach \d+, not below 2\^24"):
        open_native(_one_layer(above).model(3), exact=True)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("sigmoid", "no Sigmoid"),
        ("thirds", "16 bits"),
        ("no range", "states no range"),
        ("scale", "no power of two"),
        ("unrounded", "not rounded"),
        ("batch", "batch"),
    ],
)
def test_graphs_beyond_the_engine_are_refused_and_run_on_onnxruntime(
    what: str, message: str
) -> None:
    g = _one_layer(1 / 3 if what == "thirds" else 1 / 8, 0 if what == "no range" else 2047)
    if what == "no range":
        g.input_peak = 1 << 20
    if what == "sigmoid":
        g.node("Sigmoid", g.x)
    elif what == "scale":
        g.rounded(True, 8)
        g.node("Mul", g.x, g.constant(np.float32(0.3)))
    elif what == "unrounded":
        g.node("Conv", g.x, g.constant(np.full((2, 3, 1), 0.5, np.float32)))
    elif what == "batch":
        g.rounded(True, 8)
        g.node("Reshape", g.x, g.constant(np.array([1, -1, 3])))
    graph = g.model(3)
    with pytest.raises(UnsupportedGraphError, match=message):
        open_native(graph, exact=True)
    assert open_net(graph).engine == "onnxruntime"


def test_engine_is_chosen_and_errors_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeae.errors import ConfigError

    graph, _ = random_series_graph(1)
    assert open_net(graph).engine == "native"
    assert open_net(graph, engine="onnxruntime").engine == "onnxruntime"
    assert open_net(graph, threads=2).engine == "onnxruntime"
    with pytest.raises(UnsupportedGraphError, match="one thread"):
        open_net(graph, engine="native", threads=2)
    with pytest.raises(ConfigError, match="expected one of auto, native, onnxruntime"):
        open_net(graph, engine="tpu")
    with pytest.raises(ModelError, match="expected 'signal'"):
        open_net(graph, engine="native", input_name="signal")
    with pytest.raises(ModelError, match="not an ONNX file"):
        open_net(b"nothing", engine="native")
    with pytest.raises(UnsupportedGraphError, match="expected one of"):
        open_native(graph, clone="mmx")
    monkeypatch.setattr(native, "core", None)
    assert open_net(graph).engine == "onnxruntime"
    with pytest.raises(UnsupportedGraphError, match="C extension"):
        open_net(graph, engine="native")


# -- hostile programs ------------------------------------------------------------------------------


def test_changed_words_are_refused_or_harmless() -> None:
    """Whatever the words say, the C side reads and writes inside its own memory."""
    core: Any = native.core
    rng = np.random.default_rng(0)
    refused = 0
    for make in (random_series_graph, random_image_graph, random_dense_graph):
        for seed in range(6):
            graph, shapes = make(seed)
            net = open_native(graph, exact=True)
            assert isinstance(net, NativeNet)
            layout = lay_out(net._compiler.compile(shapes[0][1:]), rows=shapes[0][0])
            for _ in range(150):
                words = layout.words.copy()
                constants = layout.constants
                at = int(rng.integers(len(words)))
                change = int(rng.choice([-1, 1, 7, -(2**20), 2**20, 2**31 - 1, -(2**31)]))
                words[at] = np.clip(int(words[at]) + change, -(2**31), 2**31 - 1)
                try:
                    handle = core.net_open(words, constants, 0)
                except ValueError:
                    refused += 1
                    continue
                n_in, n_out = int(words[4]), int(words[5])
                if max(n_in, n_out) < 1 << 22:
                    core.net_run(handle, np.zeros(n_in, "f4"), np.zeros(n_out, "f4"), 1)
    assert refused > 500


def test_arguments_are_checked() -> None:
    core: Any = native.core
    graph, shapes = random_dense_graph(1)
    net = open_native(graph, exact=True)
    layout = lay_out(net._compiler.compile(shapes[0][1:]))
    with pytest.raises(ValueError, match="not a program"):
        core.net_open(layout.words[:3], layout.constants, 0)
    with pytest.raises(ValueError, match="left over"):
        core.net_open(np.append(layout.words, np.int32(0)), layout.constants, 0)
    with pytest.raises(ValueError, match="outside the constants"):
        core.net_open(layout.words, layout.constants[:0], 0)
    handle = core.net_open(layout.words, layout.constants, 99)
    x = np.zeros(shapes[0], np.float32)
    with pytest.raises(ValueError, match="expected"):
        core.net_run(handle, x[:, :-1].copy(), x, 1)
    with pytest.raises(ValueError, match="out of range"):
        core.net_run(handle, x, x, -1)
    with pytest.raises(TypeError):
        core.net_run(handle, x, x)
