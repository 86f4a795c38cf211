"""Import a Keras autoencoder: fold it, quantize it twice, write graphs and a bundle, measure all.

::

    model.h5 ─ read, fold ─► dense chain ──► float.onnx
    example ─ even windows ─► calibrate  ──► int8.onnx         free scales, QDQ
                                         ├─► dyadic.onnx       exact, integers in float32
                                         ├─► dyadic_qdq.onnx   the same bits, int8 kernels
                                         └─► bundle/           its halves, for streams
            ─ odd windows ──► import.json: SQNR and score of each, against the float model
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from edgeae.errors import ConfigError, ModelError
from edgeae.exporting.certificate import certify
from edgeae.exporting.dense_graph import INPUT, OUTPUT, float_graph, integer_graph, qdq_graph
from edgeae.importing.example import probe_rows, read_windows
from edgeae.importing.fold import fold_layers
from edgeae.importing.keras import read_keras
from edgeae.importing.keras_run import run_keras
from edgeae.importing.measures import reconstruction_score, sqnr_db
from edgeae.importing.window_bundle import write_window_bundle
from edgeae.models.dense import DenseLayer, run_dense, to_torch
from edgeae.quantize.static import quantize_dense
from edgeae.runtime.session import open_session

__all__ = ["REPORT", "import_keras", "keras_to_torch"]

REPORT = "import.json"
FOLD = "(bias - mean) * gamma / sqrt(variance + epsilon) + beta"
PARITY_DB = 90.0

Rows = npt.NDArray[np.float32]


def import_keras(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    example: str | os.PathLike[str] | None = None,
    frame: int | None = None,
    about: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    notes: str = "",
) -> dict[str, Any]:
    """Import a Keras .h5 file into a folder.

    Args:
        path: the model, a chain of dense layers.
        out: the folder to write into; made where there is none.
        example: input to calibrate with and to score; without it only the float graph is written.
        frame: values per frame of the example; see :func:`~edgeae.importing.example.read_windows`.
        about: parts of the bundle's manifest to add.
        extra_files: files for the bundle to carry along.
        notes: Markdown to end the bundle's card with.

    Returns:
        The report, which is also written as ``import.json``.

    Raises:
        DependencyError: h5py is not installed.
        ModelError: the file is no such model, or what was made of it differs from it.
        SignalError: the example cannot be used.
    """
    source = Path(path)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; --out takes a folder")
    keras = read_keras(source)
    layers = fold_layers(keras)
    width = layers[0].weight.shape[1]
    rows = None if example is None else read_windows(example, width, frame)
    plain = float_graph(layers, {"bundle": source.stem})
    probes = rows if rows is not None else probe_rows(width)
    report: dict[str, Any] = {
        "source": {"file": source.name, "sha256": _sha256(source), "kind": "keras"},
        "fold": FOLD,
        "layers": [
            {
                "name": layer.name,
                "inputs": layer.weight.shape[1],
                "outputs": layer.weight.shape[0],
                "activation": layer.activation,
            }
            for layer in layers
        ],
        "parity": _parity(run_keras(keras, probes), layers, plain, probes),
        "models": {},
        "skipped": {},
    }
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {"float.onnx": plain}
    if rows is None:
        report["skipped"]["int8"] = "no example to calibrate with"
    else:
        report["example"] = {
            "file": Path(example or "").name,
            "sha256": _sha256(Path(example or "")),
            "windows": len(rows),
            "frame": frame,
            "calibrated_on": "even windows",
            "measured_on": "odd windows",
        }
        try:
            free = quantize_dense(layers, rows[::2], dyadic=False)
            dyadic = quantize_dense(layers, rows[::2], dyadic=True)
        except ModelError as error:  # an activation that int8 chains do not have
            report["skipped"]["int8"] = str(error)
        else:
            graphs |= {
                "int8.onnx": qdq_graph(free, {"bundle": source.stem}),
                "dyadic.onnx": integer_graph(dyadic, {"bundle": source.stem}),
                "dyadic_qdq.onnx": qdq_graph(dyadic, {"bundle": source.stem}),
            }
            report["certificate"] = [layer.to_json() for layer in certify(graphs["dyadic.onnx"])]
            try:
                bundle = write_window_bundle(
                    layers,
                    dyadic,
                    rows,
                    folder / "bundle",
                    name=source.stem,
                    channels=frame or 1,
                    about={"source": report["source"], **(about or {})},
                    extra_files=extra_files,
                    notes=notes,
                )
                report["bundle"] = {"file": "bundle", "fingerprint": bundle.fingerprint.hex()}
            except ModelError as error:  # not an autoencoder, or one without a bottleneck
                report["skipped"]["bundle"] = str(error)
    for name, graph in graphs.items():
        content = graph.SerializeToString()
        (folder / name).write_bytes(content)
        measured = {} if rows is None else _measured(content, name, rows, layers)
        report["models"][Path(name).stem] = {"file": name, "bytes": len(content), **measured}
    if len({report["models"][k]["output_sha256"] for k in report["models"] if "dyadic" in k}) > 1:
        raise ModelError("the two spellings of the dyadic net give different bits: please report")
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def keras_to_torch(path: str | os.PathLike[str]) -> nn.Sequential:
    """A Keras chain of dense layers as a torch module, normalisation folded, in eval mode.

    Raises:
        DependencyError: h5py is not installed.
        ModelError: the file is no such model.
    """
    return to_torch(fold_layers(read_keras(path)))


def _parity(
    expected: npt.NDArray[np.float64], layers: Sequence[DenseLayer], plain: Any, probes: Rows
) -> dict[str, Any]:
    """Fold and float graph against the model as the file defines it.

    Raises:
        ModelError: they part by more than rounding.
    """
    found = {
        "inputs": len(probes),
        "fold_sqnr_db": _finite(sqnr_db(expected, run_dense(layers, probes)[-1])),
        "float_onnx_sqnr_db": _finite(
            sqnr_db(expected, _run(plain.SerializeToString(), "float.onnx", probes))
        ),
    }
    worst = min(found["fold_sqnr_db"], found["float_onnx_sqnr_db"])
    if worst < PARITY_DB:
        raise ModelError(
            f"the imported net is {worst:.1f} dB from the file's own layers, expected at least "
            f"{PARITY_DB:g}: its numbers may exceed float32"
        )
    return found


def _measured(
    content: bytes, name: str, rows: Rows, layers: Sequence[DenseLayer]
) -> dict[str, Any]:
    """A graph against the float chain, as it runs: the score on all windows, the rest on odd ones.

    ``sqnr_centred_db`` leaves the reference's mean out of the signal's power, for a net that always
    gave the mean would already have the difference of the two.
    """
    reference = run_dense(layers, rows)[-1]
    output = _run(content, name, rows)
    part = slice(1, None, 2) if len(rows) > 1 else slice(None)
    expected, given = reference[part], output[part]
    found: dict[str, Any] = {
        "sqnr_db": _finite(sqnr_db(expected, given)),
        "sqnr_centred_db": _finite(sqnr_db(expected - expected.mean(0), given - expected.mean(0))),
        "max_abs_difference": float(np.abs(expected - given).max()),
        "output_sha256": hashlib.sha256(np.ascontiguousarray(output).tobytes()).hexdigest(),
    }
    if rows.shape == output.shape:
        before, after = reconstruction_score(rows, reference), reconstruction_score(rows, output)
        found["score"] = after
        found["score_change_percent"] = 100 * (after / before - 1) if before else 0.0
    return found


def _finite(value: float) -> float:
    """JSON has no infinity; 999 dB is as good as equal."""
    return max(-999.0, min(999.0, value))


def _run(content: bytes, name: str, rows: Rows) -> Rows:
    return open_session(content, name=name, input_name=INPUT, output_name=OUTPUT).run(rows)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
