"""The int8 spelling on x86 processors that add 8-bit products in 16 bits, under QEMU.

Needs ``qemu-x86_64-static`` (Debian: qemu-user-static): ``pytest -m platform``.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.platform

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgeae.exporting.integers import run_integers  # noqa: E402
from edgeae.exporting.spelling import int8_spelling  # noqa: E402

QEMU = "qemu-x86_64-static"
PROCESSORS = ("Haswell", "EPYC")  # AVX2 without VNNI
PROGRAM = """
import sys
sys.path[:0] = sys.argv[1].split(":")
import numpy as np
import onnxruntime as ort
from edgeae.runtime.session import open_session

folder = sys.argv[2]
x = np.load(f"{folder}/x.npy")
for name in ("spelled", "signed"):
    with open(f"{folder}/{name}.onnx", "rb") as file:
        data = file.read()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    plain = ort.InferenceSession(data, options).run(None, {"x": x})[0]
    np.save(f"{folder}/{name}-plain.npy", plain)
    np.save(f"{folder}/{name}-ours.npy", open_session(data, name=name).run(x))
"""


def layers(kind):
    """Two layers of bytes with weights as large as they get; the inputs are as well."""
    rng = np.random.default_rng(0)
    nodes, constants, last, n_in = [], {}, "x", 40
    for number, n_out in enumerate((12, 5)):
        shape = (n_out, n_in, 3) if kind == "Conv" else (n_out, n_in)
        weight = rng.integers(-127, 128, shape)
        weight[:, :2] = 127
        constants |= {
            f"low{number}": np.float32(0),
            f"high{number}": np.float32(255),
            f"w{number}": (weight / 4096).astype(np.float32),
        }
        attributes = {"pads": [1, 1]} if kind == "Conv" else {"transB": 1}
        parts = [
            ("Round", [last]),
            ("Clip", [f"round{number}", f"low{number}", f"high{number}"]),
            (kind, [f"clip{number}", f"w{number}"]),
        ]
        for op, inputs in parts:
            name = f"{op.lower()}{number}"
            more = attributes if op == kind else {}
            nodes.append(helper.make_node(op, inputs, [name], name=name, **more))
        last, n_in = nodes[-1].output[0], n_out
    nodes.append(helper.make_node("Round", [last], ["rounded"]))
    nodes.append(helper.make_node("Clip", ["rounded", "low0", "high0"], ["y"]))
    space = [6] if kind == "Conv" else []
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 40, *space])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5, *space])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"edgeae.input_peak": "255"})
    return model, rng.integers(200, 256, (7, 40, *space)).astype(np.float32)


def signed(spelled):
    """The same graph as a quantizer that does not know better writes it: weights int8."""
    changed = onnx.ModelProto()
    changed.CopyFrom(spelled)
    for tensor in changed.graph.initializer:
        if tensor.name.endswith(("_weight_q", "_weight_zero")):
            values = numpy_helper.to_array(tensor)
            assert values.dtype == np.uint8
            shifted = (values.astype(int) - 128).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(shifted, tensor.name))
    return changed


@pytest.mark.skipif(platform.machine() != "x86_64", reason="runs this machine's own Python")
@pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")
@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("kind", ["Gemm", "Conv"])
def test_no_sum_saturates(kind, processor, tmp_path):
    model, x = layers(kind)
    spelled = int8_spelling(model)
    np.save(tmp_path / "x.npy", x)
    for name, graph in (("spelled", spelled), ("signed", signed(spelled))):
        (tmp_path / f"{name}.onnx").write_bytes(graph.SerializeToString())
    python = os.path.realpath(sys.executable)
    command = [QEMU, "-cpu", processor, python, "-c", PROGRAM, ":".join(filter(None, sys.path))]
    subprocess.run([*command, str(tmp_path)], check=True, timeout=300)
    expected = run_integers(model, x)

    def equal(name):
        return np.array_equal(np.load(tmp_path / f"{name}.npy"), expected)

    assert equal("spelled-plain")
    assert equal("spelled-ours")
    assert equal("signed-ours")  # the session's options see to it
    assert not equal("signed-plain")  # the trap is there
