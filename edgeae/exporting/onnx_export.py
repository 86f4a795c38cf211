"""Torch modules to ONNX files, in float or as static QDQ int8."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from edgeae.errors import ModelError

__all__ = ["to_onnx"]

OPSET = 18
TRACED_ITEMS = 3
CALIBRATION_BATCH = 32
QUANTIZED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Relu", "MaxPool")

Rows = npt.NDArray[np.float32]


def to_onnx(
    module: nn.Module,
    rows: Rows,
    source: str,
    target: str,
    *,
    int8: bool,
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    """Export a module of one input and one output; the batch axis stays free.

    Args:
        module: the module, in eval mode.
        rows: inputs float32 [N, ...]; the graph is traced with a few and calibrated with all.
        source: name of the graph's input.
        target: name of its output.
        int8: quantize weights and activations (static QDQ, unsigned activations).
        metadata: what the graph says of itself, each key after ``edgeae.``.

    Raises:
        ModelError: torch cannot export the module, or onnxruntime cannot quantize it.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, ready = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        _export(module, rows, source, target, plain)
        if int8:
            _quantize_static(plain, ready, rows, source)
        model = onnx.load(str(ready if int8 else plain))
    _strip(model)
    onnx.helper.set_model_props(model, {f"edgeae.{k}": v for k, v in metadata.items()})
    return model


def _export(module: nn.Module, rows: Rows, source: str, target: str, to: Path) -> None:
    example = torch.from_numpy(np.resize(rows, (TRACED_ITEMS, *rows.shape[1:])))
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                module,
                (example,),
                str(to),
                input_names=[source],
                output_names=[target],
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
                dynamic_shapes=({0: torch.export.Dim("N")},),
            )
    except Exception as error:  # the exporter has no common exception
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"torch cannot export the {source} to {target} net: {reason[0]}"
        ) from error


def _quantize_static(plain: Path, ready: Path, rows: Rows, source: str) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.left = iter(np.array_split(rows, -(-len(rows) // CALIBRATION_BATCH)))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.left, None)
            return None if part is None else {source: part}

    try:
        with _quiet():
            quantize_static(
                str(plain),
                str(ready),
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    except Exception as error:  # likewise
        raise ModelError(f"onnxruntime cannot quantize the {source} net: {error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' advice, which is for their own developers."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _strip(model: onnx.ModelProto) -> None:
    """Drop stack traces and docstrings: they tell the exporting machine's paths."""
    model.doc_string = ""
    model.graph.doc_string = ""
    parts = (model.graph.node, model.graph.initializer, model.graph.value_info)
    for part in (*parts, model.graph.input, model.graph.output):
        for thing in part:
            thing.doc_string = ""
            del thing.metadata_props[:]
    del model.graph.metadata_props[:]
