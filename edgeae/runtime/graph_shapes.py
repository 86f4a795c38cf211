"""Shapes and types of all tensors of a graph, found by running it once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeae.runtime.onnx_file import OnnxGraph, with_outputs
from edgeae.runtime.session import open_graph

__all__ = ["run_for_shapes"]


def run_for_shapes(
    data: bytes, graph: OnnxGraph, inputs: Mapping[str, tuple[int, ...]], *, name: str
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Run a graph on zeros and return shape and element type of every tensor.

    Args:
        data: the file's bytes.
        graph: what `edgeae.runtime.onnx_file.read_onnx` made of them.
        inputs: shape by input.
        name: what to call it in messages.

    Raises:
        ModelError: onnxruntime is missing, or cannot run the graph.
    """
    known = {value.name for value in graph.outputs}
    inner = [n for node in graph.nodes for n in node.outputs if n and n not in known]
    feeds = {
        value.name: np.zeros(inputs[value.name], value.dtype or np.float32)
        for value in graph.inputs
    }
    session = open_graph(with_outputs(data, tuple(inner)), name=name, optimization="disable")
    values = session.run(feeds)
    return {
        output.name: (tuple(value.shape), value.dtype)
        for output, value in zip(session.outputs, values, strict=True)
    }
