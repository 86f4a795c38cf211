"""The networks that runtimes are compared on, in every spelling and format they come in.

ad01           MLPerf Tiny's anomaly detector, 640-128×4-8-128×4-640, imported from ``ad01.h5``; on
               the windows of the real clip. Without EDGEAE_DATA: random weights of that shape.
ecg-encoder    the analysis net of export/models/ecg, on 1,024 samples of the test patients
ecg-decoder    its synthesis net, on what the analysis net made of them

Files are made in ``build/bench/NETWORK``; what converters made is kept there, by the float net's
hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from convert import KINDS, NEEDS, files_of
from float_nets import float_twin

import edgeae
from edgeae.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "bench"
NAMES = ("ad01", "ecg-encoder", "ecg-decoder")
N_WINDOWS = 196
WINDOW_ITEMS = 1024
RANDOM_WEIGHTS = "random weights of its shape, for EDGEAE_DATA is not set"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network and its files.

    Attributes:
        name: one of NAMES.
        windows: float32 [196, ...], inputs.
        onnx: the graph by spelling, one of ``peers.SPELLINGS``.
        missing: why a spelling or a converted kind is not there.
        folder: where converted files lie.
        references: .tflite files that come with the benchmark, by name.
        note: what is unusual about it.
    """

    name: str
    windows: np.ndarray
    onnx: dict[str, Path]
    missing: dict[str, str]
    folder: Path
    references: dict[str, Path]
    note: str = ""

    def converted(self, kind: str, batch: int) -> Path | None:
        """A file of KINDS; None where it could not be made."""
        path = files_of(kind, self.folder).get(batch)
        return path if path is not None and path.exists() else None


def load_network(name: str, *, convert: bool = True, cache: Path = CACHE) -> Network:
    """Make a network's files.

    Args:
        name: one of NAMES.
        convert: whether to make what converters make, where it is not there yet.
        cache: the folder to write into.
    """
    make = _ad01 if name == "ad01" else _ecg
    folder = cache / name
    folder.mkdir(parents=True, exist_ok=True)
    graphs, windows, missing, references, note = make(name, folder)
    if "int8" not in graphs and "int8" not in missing:
        graphs["int8"] = _static_int8(graphs["fp32"], windows[::2])
    paths = {}
    for spelling, graph in graphs.items():
        paths[spelling] = folder / f"{spelling}.onnx"
        paths[spelling].write_bytes(graph)
    kept = folder / hashlib.sha256(graphs["fp32"]).hexdigest()[:12]
    kept.mkdir(exist_ok=True)
    np.save(kept / "examples.npy", windows[::2])
    missing |= {kind: _converted(kind, paths["fp32"], kept, convert) for kind in KINDS}
    return Network(
        name=name,
        windows=windows,
        onnx=paths,
        missing={what: why for what, why in missing.items() if why},
        folder=kept,
        references=references,
        note=note,
    )


Made = tuple[dict[str, bytes], np.ndarray, dict[str, str], dict[str, Path], str]


def _ad01(_: str, folder: Path) -> Made:
    from edgeae.importing.dense_import import import_keras
    from edgeae.importing.example import read_windows

    data = Path(os.environ.get("EDGEAE_DATA", "")) / "mlperf_tiny_ad"
    clip = data / "normal_id_01_00000000_hist_librosa.bin"
    if not (data / "ad01.h5").exists():
        graphs, windows = _random_ad01()
        return graphs, windows, {}, {}, RANDOM_WEIGHTS
    made = folder / "import"
    import_keras(data / "ad01.h5", made, example=clip, frame=128)
    files = {"fp32": "float", "int8": "int8", "exact": "dyadic", "exact-int8": "dyadic_qdq"}
    graphs = {spelling: (made / f"{name}.onnx").read_bytes() for spelling, name in files.items()}
    references = {
        "fp32, the benchmark's file": data / "ad01_fp32.tflite",
        "int8, the benchmark's file": data / "ad01_int8.tflite",
    }
    return graphs, read_windows(clip, 640, 128)[:N_WINDOWS], {}, references, ""


def _random_ad01() -> tuple[dict[str, bytes], np.ndarray]:
    from edgeae.exporting.dense_graph import float_graph, integer_graph, qdq_graph
    from edgeae.models.dense import DenseLayer
    from edgeae.quantize.static import quantize_dense

    rng = np.random.default_rng(0)
    widths = [640, *[128] * 4, 8, *[128] * 4, 640]
    layers = [
        DenseLayer(
            name=f"dense{i}",
            weight=rng.normal(0, (2 / inputs) ** 0.5, (outputs, inputs)),
            bias=rng.normal(0, 0.1, outputs),
            activation="relu" if i < len(widths) - 2 else "linear",
        )
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths))
    ]
    frames = np.cumsum(rng.normal(0, 1, (N_WINDOWS + 4, 128)), axis=1) - 28
    windows = np.stack([frames[i : i + 5].ravel() for i in range(N_WINDOWS)]).astype(np.float32)
    free, dyadic = (quantize_dense(layers, windows[::2], dyadic=d) for d in (False, True))
    made = {
        "fp32": float_graph(layers, {}),
        "int8": qdq_graph(free, {}),
        "exact": integer_graph(dyadic, {}),
        "exact-int8": qdq_graph(dyadic, {}),
    }
    return {name: model.SerializeToString() for name, model in made.items()}, windows


def _ecg(name: str, _: Path) -> Made:
    import onnx

    from edgeae.exporting.spelling import int8_spelling
    from edgeae.runtime.transform import dequantize, symbolize

    bundle = edgeae.load(ROOT / "export" / "models" / "ecg", engine="onnxruntime")
    frames, note = ecg_frames(bundle, N_WINDOWS)
    windows = np.stack(frames).astype(np.float32).reshape(N_WINDOWS, 1, WINDOW_ITEMS)
    exact = bundle.files["encoder.onnx"]
    if name == "ecg-decoder":
        net = bundle.net
        assert net is not None
        latents = symbolize(bundle.encoder().run(windows).astype(np.int32), net.default_step)
        windows = dequantize(latents, net.default_step, net.latent_max).astype(np.float32)
        exact = bundle.files["decoder.onnx"]
    graphs = {"fp32": float_twin(exact), "exact": exact}
    spelled = int8_spelling(onnx.load_model_from_string(exact))
    if spelled is None:
        return graphs, windows, {"exact-int8": "its activations have 10 bits"}, {}, note
    return graphs | {"exact-int8": spelled.SerializeToString()}, windows, {}, {}, note


def ecg_frames(bundle: edgeae.Bundle, count: int) -> tuple[list[np.ndarray], str]:
    """Frames of 1,024 samples of the test patients, spread over the records; else made-up ones."""
    from edgeae.train.datasets import load_dataset

    try:
        segments = load_dataset("ecg", "test").segments
    except ConfigError:
        from edgeae.profiling.frames import frames_of

        pieces = frames_of(bundle).pieces(count)
        note = "the bundle's golden vector, for EDGEAE_DATA is not set"
        return [pieces[i % len(pieces)] for i in range(count)], note
    x = np.concatenate([np.ravel(segment) for segment in segments])
    starts = np.linspace(0, len(x) - WINDOW_ITEMS, count).astype(int)
    return [np.ascontiguousarray(x[start : start + WINDOW_ITEMS]) for start in starts], ""


def _static_int8(fp32: bytes, examples: np.ndarray) -> bytes:
    """onnxruntime's own static quantization, a scale per output channel, QDQ."""
    import tempfile

    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    from edgeae.runtime.onnx_file import read_onnx

    source = read_onnx(fp32).inputs[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(np.array_split(examples, 7))

        def get_next(self) -> dict[str, np.ndarray] | None:
            part = next(self.left, None)
            return None if part is None else {source: part}

    with tempfile.TemporaryDirectory() as folder, _silent():
        plain, ready = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        plain.write_bytes(fp32)
        quantize_static(
            str(plain),
            str(ready),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return ready.read_bytes()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(level)


def _converted(kind: str, fp32: Path, folder: Path, convert: bool) -> str:
    """Make the files of a kind; why it cannot be done, or an empty string."""
    module, package = NEEDS[kind.split("-")[0]]
    if all(path.exists() for path in files_of(kind, folder).values()):
        return ""
    python = os.environ.get("EDGEAE_BENCH_CONVERTER")
    if not convert or (python is None and importlib.util.find_spec(module) is None):
        return f"not converted: pip install {package}"
    print(f"converting {fp32.parent.name} to {kind}", file=sys.stderr)
    script = Path(__file__).parent / "convert.py"
    command = [python or sys.executable, script, fp32, folder / "examples.npy", folder, kind]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return f"{package} does not convert it: {lines[-1][:160]}"
    return ""
