"""Sessions: bound, unbound and into the caller's array give the same, and allocate nothing."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgeae.errors import ModelError  # noqa: E402
from edgeae.runtime.session import open_graph, open_session  # noqa: E402

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def graph(nodes, inputs, outputs, constants=()):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(value, name) for name, value in dict(constants).items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def gemm():
    return graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        [("x", TensorProto.FLOAT, ["N", 4])],
        [("y", TensorProto.FLOAT, ["N", 3])],
        {"w": WEIGHT},
    )


@pytest.fixture(scope="module")
def two_by_two():
    return graph(
        [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Neg", ["a"], ["n"])],
        [("a", TensorProto.INT32, ["N"]), ("b", TensorProto.INT32, ["N"])],
        [("s", TensorProto.INT32, ["N"]), ("n", TensorProto.INT32, ["N"])],
    )


def test_every_way_to_run_gives_the_same(gemm):
    session = open_session(gemm, name="g.onnx")
    assert (session.input_name, session.output_name) == ("x", "y")
    assert (session.input_shape, session.engine) == ((None, 4), "onnxruntime")
    rng = np.random.default_rng(0)
    for batch in (1, 3, 1, 2, 3, 1):  # more shapes than are kept bound
        for layout in ("C", "F"):
            x = np.array(rng.integers(-9, 9, (batch, 4)), np.float32, order=layout)
            expected = x @ WEIGHT.T
            out = np.zeros((batch, 6), np.float32)
            bound = session.bind(x.shape)
            bound.sources[0][:] = x
            for _ in range(2):
                assert np.array_equal(session.run(x), expected)
                session.run_into(x, out[:, ::2])
                assert np.array_equal(out[:, ::2], expected)
                bound.run()
                assert np.array_equal(bound.targets[0], expected)


def test_a_result_is_the_callers_own(gemm):
    session = open_session(gemm, name="g.onnx")
    x = np.ones((1, 4), np.float32)
    results = [session.run(x * k) for k in (1, 2, 3)]
    assert [r[0, 0] for r in results] == [6, 12, 18]


def test_a_large_array_is_run_without_being_kept(gemm):
    session = open_session(gemm, name="g.onnx")
    x = np.ones((200_000, 4), np.float32)
    out = np.empty((200_000, 3), np.float32)
    for _ in range(2):
        assert np.array_equal(session.run(x), x @ WEIGHT.T)
        session.run_into(x, out)
        assert np.array_equal(out, x @ WEIGHT.T)
    assert not session._bound


def test_a_thousand_runs_leave_nothing_behind(gemm):
    session = open_session(gemm, name="g.onnx")
    x, out = np.ones((64, 4), np.float32), np.empty((64, 3), np.float32)
    bound = session.bind(x.shape)

    def frames(count):
        for _ in range(count):
            session.run_into(x, out)
            session.run(x)
            bound.run()

    frames(3)
    tracemalloc.start()
    try:
        frames(10)
        grown, most = [], []
        for _ in range(3):  # other threads may keep something now and then, a leak always does
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            frames(1000)
            after, peak = tracemalloc.get_traced_memory()
            grown.append(after - before)
            most.append(peak - before)
    finally:
        tracemalloc.stop()
    assert min(grown) < 1000
    assert min(most) < 4000  # the one result of run that is alive at a time


def test_shapes_that_do_not_fit(gemm):
    session = open_session(gemm, name="g.onnx")
    x = np.ones((2, 4), np.float32)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"array to write to has shape \[2, 4\]"):
            session.run_into(x, np.empty((2, 4), np.float32))
    for call in (session.run, lambda v: session.bind(v.shape)):
        with pytest.raises(ModelError, match=r"shape \[2, 5\], the graph takes \[None, 4\]"):
            call(np.ones((2, 5), np.float32))


def test_a_graph_of_other_inputs_and_outputs(gemm, two_by_two):
    with pytest.raises(ModelError, match="expected one input"):
        open_session(two_by_two, name="two.onnx")
    with pytest.raises(ModelError, match="expected one output, 'z'"):
        open_session(gemm, name="g.onnx", input_name="x", output_name="z")
    integers = graph(
        [helper.make_node("Neg", ["a"], ["n"])],
        [("a", TensorProto.INT32, ["N"])],
        [("n", TensorProto.INT32, ["N"])],
    )
    with pytest.raises(ModelError, match=r"float32 tensors, found \['tensor\(int32\)'\]"):
        open_session(integers, name="i.onnx")


def test_any_graph_runs_and_binds(two_by_two):
    opened = open_graph(two_by_two, name="two.onnx")
    assert [(v.name, v.dtype, v.shape) for v in opened.inputs] == [
        ("a", np.dtype(np.int32), (None,)),
        ("b", np.dtype(np.int32), (None,)),
    ]
    feed = {"b": np.array([5, 6], np.int32), "a": np.array([1, 2], np.int32)}
    assert [v.tolist() for v in opened.run(feed)] == [[6, 8], [-1, -2]]
    bound = opened.bind(feed)
    bound.sources[0][:] = 3
    bound.run()
    assert [v.tolist() for v in bound.targets] == [[8, 9], [-3, -3]]
    with pytest.raises(ModelError, match="nothing is given for b"):
        opened.bind({"a": feed["a"]})
    with pytest.raises(ModelError, match="onnxruntime failed"):
        opened.run({"a": feed["a"], "b": np.zeros(2, np.float32)})


def test_a_bound_graph_that_fails_says_so():
    data = graph(
        [helper.make_node("Gather", ["x", "i"], ["y"])],
        [("x", TensorProto.FLOAT, ["N"]), ("i", TensorProto.INT64, ["M"])],
        [("y", TensorProto.FLOAT, ["M"])],
    )
    opened = open_graph(data, name="g.onnx")
    bound = opened.bind({"x": np.ones(3, np.float32), "i": np.zeros(2, np.int64)})
    bound.sources[1][:] = 7
    with pytest.raises(ModelError, match=r"g\.onnx: onnxruntime failed"):
        bound.run()
