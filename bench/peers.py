"""The runtimes a user would pick, each as one function from a float32 array to an array.

Every runtime gets one thread, its own defaults else, and a NumPy array; when the function returns,
its result can be read as a NumPy array. Importing this imports nothing but NumPy.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from networks import Network

Array = np.ndarray
Run = Callable[[Array], Array]
REFERENCE = ("onnxruntime", "fp32")
SPELLINGS = {
    "fp32": "fp32",
    "int8": "int8, free scales",
    "exact": "exact, integers in fp32",
    "exact-int8": "exact, int8",
}
BOUND = "onnxruntime, bound call alone"


def open_onnxruntime(path: Path, _: Array) -> Run:
    """``session.run``."""
    session = _plain_session(path)
    source, target = session.get_inputs()[0].name, session.get_outputs()[0].name
    return lambda x: session.run([target], {source: x})[0]


def open_iobinding(path: Path, x: Array) -> Run:
    """``run_with_iobinding`` on buffers bound once; the input is copied into its buffer."""
    session = _plain_session(path)
    io, buffer, result = _bind(session, x)

    def run(values: Array) -> Array:
        np.copyto(buffer, values)
        session.run_with_iobinding(io)
        return result

    return run


def open_bound(path: Path, x: Array) -> Run:
    """The bound call and nothing else, in a session of edgeae's options: what its wrapper wraps."""
    import onnxruntime as ort

    from edgeae.runtime.session import session_options

    data = path.read_bytes()
    session = ort.InferenceSession(data, session_options(data), providers=["CPUExecutionProvider"])
    io, buffer, result = _bind(session, x)
    np.copyto(buffer, x)

    def run(_: Array) -> Array:
        session.run_with_iobinding(io)
        return result

    return run


def open_edgeae(path: Path, _: Array) -> Run:
    """edgeae's runtime on onnxruntime."""
    from edgeae.runtime.engines import open_net

    return open_net(path.read_bytes(), name=path.name, engine="onnxruntime").run


def open_native(path: Path, _: Array) -> Run:
    """edgeae's runtime on its own C kernels."""
    from edgeae.runtime.engines import open_net

    return open_net(path.read_bytes(), name=path.name, engine="native").run


def open_litert(path: Path, x: Array) -> Run:
    """``set_tensor``, ``invoke``, ``get_tensor``; int8 ends are fed and given as int8."""
    from ai_edge_litert.interpreter import Interpreter

    with _quiet():
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        source = interpreter.get_input_details()[0]
        if tuple(source["shape"]) != x.shape:
            interpreter.resize_tensor_input(source["index"], x.shape)
        interpreter.allocate_tensors()
    into, out = source["index"], interpreter.get_output_details()[0]["index"]

    def run(values: Array) -> Array:
        interpreter.set_tensor(into, values)
        interpreter.invoke()
        return interpreter.get_tensor(out)

    return run


def litert_ends(path: Path) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """To a .tflite's input type, and from its output type to float; quantizing where they are."""
    from ai_edge_litert.interpreter import Interpreter

    with _quiet():
        interpreter = Interpreter(model_path=str(path), num_threads=1)
    ends = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    (step, zero), (out_step, out_zero) = (end["quantization"] for end in ends)
    if ends[0]["dtype"] == np.float32:
        return (lambda x: x), (lambda y: y)
    return (
        lambda x: np.clip(np.rint(x / step) + zero, -128, 127).astype(np.int8),
        lambda y: (y.astype(np.float32) - out_zero) * out_step,
    )


def open_openvino(path: Path, x: Array) -> Run:
    """A request on its own input tensor, inferred in place."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(path))
    model.reshape(list(x.shape))
    options = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else it rounds what int8 weights are multiplied by
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    source = request.get_input_tensor().data
    target = request.get_output_tensor().data

    def run(values: Array) -> Array:
        np.copyto(source, values)
        request.infer()
        return target

    return run


def open_executorch(path: Path, _: Array) -> Run:
    """The XNNPACK backend."""
    import torch

    with _quiet():
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime, Verification

        portable_lib._unsafe_reset_threadpool(1)
        program = Runtime.get().load_program(path, verification=Verification.Minimal)
        method = program.load_method("forward")
    assert method is not None

    def run(values: Array) -> Array:
        return method.execute([torch.from_numpy(values)])[0].numpy()

    run.keep = program  # type: ignore[attr-defined]
    return run


def open_torch(path: Path, _: Array) -> Run:
    """torch eager, in inference mode."""
    import torch
    from float_nets import torch_net

    torch.set_num_threads(1)
    module = torch_net(path.read_bytes())

    def run(values: Array) -> Array:
        with torch.inference_mode():
            return module(torch.from_numpy(values)).numpy()

    return run


def open_numpy(path: Path, _: Array) -> Run:
    """numpy, as written by hand."""
    from float_nets import numpy_net

    return numpy_net(path.read_bytes())


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A runtime.

    Attributes:
        name: for tables.
        module: what must be there to import.
        package: what to install for it.
        open: path and example to a function.
        kinds: spellings of ONNX, or kinds of ``convert.KINDS``, that it runs.
    """

    name: str
    module: str
    package: str
    open: Callable[[Path, Array], Run]
    kinds: tuple[str, ...]

    @property
    def missing(self) -> str:
        """Why it cannot run here, or an empty string."""
        there = importlib.util.find_spec(self.module) is not None
        return "" if there else f"not installed: pip install {self.package}"


_ALL = tuple(SPELLINGS)
_BENCH = "'edgeae[bench]'"
PEERS = (
    Peer(
        name="onnxruntime",
        module="onnxruntime",
        package="onnxruntime",
        open=open_onnxruntime,
        kinds=_ALL,
    ),
    Peer(
        name="onnxruntime, IOBinding",
        module="onnxruntime",
        package="onnxruntime",
        open=open_iobinding,
        kinds=_ALL,
    ),
    Peer(
        name="edgeae, onnxruntime",
        module="onnxruntime",
        package="onnxruntime",
        open=open_edgeae,
        kinds=_ALL,
    ),
    Peer(
        name=BOUND,
        module="onnxruntime",
        package="onnxruntime",
        open=open_bound,
        kinds=_ALL,
    ),
    Peer(
        name="edgeae, native",
        module="edgeae.native._core",
        package=". with a C compiler",
        open=open_native,
        kinds=("fp32", "exact"),
    ),
    Peer(
        name="LiteRT",
        module="ai_edge_litert",
        package=_BENCH,
        open=open_litert,
        kinds=("litert-fp32", "litert-int8"),
    ),
    Peer(
        name="OpenVINO",
        module="openvino",
        package=_BENCH,
        open=open_openvino,
        kinds=_ALL,
    ),
    Peer(
        name="ExecuTorch",
        module="executorch",
        package="executorch",
        open=open_executorch,
        kinds=("executorch-fp32", "executorch-int8"),
    ),
    Peer(name="torch eager", module="torch", package="torch", open=open_torch, kinds=("fp32",)),
    Peer(name="numpy", module="numpy", package="numpy", open=open_numpy, kinds=("fp32",)),
)


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A file for a peer to run, or why there is none.

    Attributes:
        peer: the runtime.
        spelling: one of SPELLINGS, or with a word on where the file is from.
        path: the file.
        why: why there is none.
    """

    peer: Peer
    spelling: str
    path: Path | None
    why: str = ""


def artefacts(network: Network, batch: int) -> Iterator[Artefact]:
    """Everything to run on a network."""
    for peer in PEERS:
        for kind in peer.kinds:
            if kind in SPELLINGS:
                spelling, path = kind, network.onnx.get(kind)
                if path is None:  # the network has no such spelling, for any runtime
                    continue
            else:
                spelling, path = kind.rpartition("-")[2], network.converted(kind, batch)
            why = peer.missing or (network.missing.get(kind, "no file") if path is None else "")
            yield Artefact(peer=peer, spelling=spelling, path=path, why=why)
        if peer.name == "LiteRT":
            for spelling, path in network.references.items():
                yield Artefact(peer=peer, spelling=spelling, path=path, why=peer.missing)


def _plain_session(path: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _bind(session: Any, x: Array) -> tuple[Any, Array, Array]:
    source, target = session.get_inputs()[0].name, session.get_outputs()[0].name
    buffer = np.array(x)
    result = np.array(session.run([target], {source: x})[0])
    io = session.io_binding()
    io.bind_input(source, "cpu", 0, np.float32, list(buffer.shape), buffer.ctypes.data)
    io.bind_output(target, "cpu", 0, np.float32, list(result.shape), result.ctypes.data)
    return io, buffer, result


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what runtimes print about themselves in C++."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
