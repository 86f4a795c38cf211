"""Open a net on an engine: our own integer kernels where they can run it, onnxruntime elsewhere.

================  ==================================================================================
``native``        the C kernels of the optional extension: exact (dyadic) graphs bit for bit, and
                  plain float chains; no onnxruntime in the process
``onnxruntime``   any graph
``auto``          ``native`` where the graph is exact, the kernels know its operators, and one
                  thread is asked for; else ``onnxruntime``. Both give an exact graph the same bits.
================  ==================================================================================
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ConfigError, ModelError
from edgeae.runtime.native_net import open_native
from edgeae.runtime.views import UnsupportedGraphError

__all__ = ["ENGINES", "Net", "check_engine", "open_net"]

ENGINES = ("auto", "native", "onnxruntime")


class Net(Protocol):
    """An open net: a float32 array in, a float32 array out, the leading axis being the batch.

    Attributes:
        engine: ``native`` or ``onnxruntime``.
        name: what to call it in messages.
        input_name: of the one input.
        output_name: of the one output.
        input_shape: None where an axis is free.
        output_shape: likewise.
        metadata: what the graph says of itself.
    """

    engine: str
    name: str
    input_name: str
    output_name: str
    input_shape: tuple[int | None, ...]
    output_shape: tuple[int | None, ...]
    metadata: dict[str, str]

    def run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the net; a fresh array."""

    def run_into(self, values: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Run the net into the caller's array."""


def check_engine(engine: str) -> str:
    """The engine's name, if there is one of that name.

    Raises:
        ConfigError: there is none.

    Example:
        >>> check_engine("tflite")
        Traceback (most recent call last):
            ...
        edgeae.errors.ConfigError: engine 'tflite': expected one of auto, native, onnxruntime
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine {engine!r}: expected one of {', '.join(ENGINES)}")
    return engine


def open_net(
    graph: bytes,
    *,
    name: str = "model.onnx",
    engine: str = "auto",
    threads: int = 1,
    input_name: str | None = None,
    output_name: str | None = None,
    tuned: bytes | None = None,
) -> Net:
    """Open an ONNX graph that maps one float32 tensor to one float32 tensor.

    Args:
        graph: the file's bytes.
        name: what to call it in messages.
        engine: one of ``ENGINES``.
        threads: threads inside one operator; the native engine has one.
        input_name: the input the graph must have; None for any one.
        output_name: the output the graph must have; None for any one.
        tuned: the same graph as onnxruntime runs it fastest; None for the graph itself.

    Raises:
        ConfigError: no such engine.
        ModelError: the graph cannot be opened, or not on that engine (UnsupportedGraphError).
    """
    check_engine(engine)
    if engine != "onnxruntime":
        try:
            if threads != 1:
                raise UnsupportedGraphError(f"{name}: the native engine runs on one thread")
            net = open_native(graph, name=name, exact=True if engine == "auto" else None)
            _check_ends(net, input_name, output_name)
            return net
        except ModelError:
            if engine == "native":
                raise
    from edgeae.runtime.session import open_session

    return open_session(
        graph if tuned is None else tuned,
        name=name,
        input_name=input_name,
        output_name=output_name,
        threads=threads,
    )


def _check_ends(net: Net, input_name: str | None, output_name: str | None) -> None:
    for found, wanted in ((net.input_name, input_name), (net.output_name, output_name)):
        if wanted not in (None, found):
            raise ModelError(
                f"{net.name}: the graph maps {net.input_name!r} to {net.output_name!r}, "
                f"expected {wanted!r}"
            )
