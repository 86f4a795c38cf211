"""Graphs as .ort files, and the operators that a minimal build of onnxruntime needs for them.

A minimal build has no optimizer: it runs a .ort graph as it was written. So graphs are optimized
when they are written, and the list of operators is read from what came out. A list made of the
ONNX files misses the fused operators (QGemm, FusedConv), and a build made of it cannot run them
(onnxruntime #23018). The level is ``extended``: the next one lays tensors out for this processor.

References:
    https://onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html and
    https://onnxruntime.ai/docs/reference/operators/reduced-operator-config-file.html
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

from edgeae.errors import ModelError
from edgeae.runtime.session import session_options

__all__ = ["CONFIG", "ort_files", "to_ort"]

CONFIG = "required_operators.config"
LEVEL = "extended"


def ort_files(graphs: Mapping[str, bytes]) -> dict[str, bytes]:
    """A .ort file for each ONNX file, and ``required_operators.config`` for all of them.

    Args:
        graphs: ONNX files by name, ``encoder.onnx`` and the like.

    Raises:
        ModelError: onnxruntime cannot read a graph, or its tools fail.
    """
    made = {Path(name).stem + ".ort": to_ort(data, name=name) for name, data in graphs.items()}
    return made | {CONFIG: _operators(made)}


def to_ort(graph: bytes, *, name: str) -> bytes:
    """The bytes of a .ort file: the graph, optimized for any processor.

    Args:
        graph: an ONNX file.
        name: what to call it in messages.

    Raises:
        ModelError: onnxruntime cannot read the graph.
    """
    import onnxruntime as ort

    options = session_options(graph, optimization=LEVEL)
    options.add_session_config_entry("session.save_model_format", "ORT")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "graph.ort"
        options.optimized_model_filepath = str(target)
        try:
            ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            return target.read_bytes()
        except Exception as error:
            raise ModelError(f"{name}: onnxruntime cannot write it as .ort: {error}") from error


def _operators(graphs: Mapping[str, bytes]) -> bytes:
    """The configuration of a build with the operators and types of .ort graphs, and no others."""
    import onnxruntime as ort

    level = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", ResourceWarning)  # the tools leave files open
            from onnxruntime.tools.ort_format_model import create_config_from_models

            paths = []
            for name, data in graphs.items():
                paths.append(Path(folder) / name)
                paths[-1].write_bytes(data)
            target = Path(folder) / CONFIG
            create_config_from_models(paths, target, enable_type_reduction=True)
            written = target.read_text(encoding="utf-8")
    except Exception as error:  # the tools have no common exception
        raise ModelError(f"onnxruntime's tools cannot list the operators: {error}") from error
    finally:
        logging.disable(level)
    lines = [line for line in written.splitlines() if not line.startswith("#")]
    head = [
        f"# Operators and types of {', '.join(sorted(graphs))}",
        f"# written by onnxruntime {ort.__version__}; for its build.sh:",
        f"# --minimal_build --include_ops_by_config {CONFIG}",
        "# --enable_reduced_operator_type_support",
    ]
    return ("\n".join([*head, *lines]) + "\n").encode()
