"""The quickstart: train, quantize, export, code what was never trained on, check, report.

::

    OUT/
      run/               the training run; a second quickstart goes on with it
      sensor.bundle/     the exported model
      test.npy           the test part
      streams/NAME.eae   the test part, coded in each mode
      report.html        pictures and tables
      report.json        the same numbers
"""

from __future__ import annotations

import os
import platform
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import edgeae
from edgeae import native
from edgeae.errors import ConfigError
from edgeae.exporting.bundle import export_run
from edgeae.exporting.measure import (
    PACKET_ITEMS,
    Coding,
    Mode,
    code_in_mode,
    curve,
    memory_of,
    packets_of,
)
from edgeae.exporting.pictures import (
    overview_picture,
    rate_picture,
    trade_picture,
    zoom_picture,
)
from edgeae.exporting.report import REPORT_FORMAT, write_html, write_json
from edgeae.quantize.dyadic import is_quantized, quantize
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.processor import processor_name
from edgeae.train.datasets import load_dataset
from edgeae.train.recipe import load_recipe, with_overrides
from edgeae.train.run import Progress, RunFolder
from edgeae.train.training import silent, train

__all__ = ["MODES", "Quickstart", "quickstart"]

RECIPE = "sensor"
MODES = (
    Mode(name="lossy"),
    Mode(name="max-error-5", max_error=5),
    Mode(name="max-error-2", max_error=2),
    Mode(name="lossless", lossless=True),
)
_PACKAGES = ("edgeae", "numpy", "onnxruntime", "torch", "onnx", "matplotlib")

Samples = NDArray[Any]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """What a quickstart left behind.

    Attributes:
        folder: where everything is.
        html, json: the report.
        report: its numbers.
    """

    folder: Path
    html: Path
    json: Path
    report: dict[str, Any]

    @property
    def broken(self) -> list[str]:
        """The checks that failed."""
        return [
            f"{check['mode']}: {check['name']} ({check['detail']})"
            for check in self.report["checks"]
            if not check["passed"]
        ]


class _Stages:
    """Announces the stages, and times them."""

    def __init__(self, say: Say, n_stages: int) -> None:
        self._say, self._n = say, n_stages
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, words: str) -> Iterator[None]:
        self._say(f"[{len(self.seconds) + 1}/{self._n}] {words}")
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 2)


def quickstart(
    out: str | os.PathLike[str] = "edgeae-quickstart",
    *,
    seed: int | None = None,
    settings: Iterable[str] = (),
    progress: Progress = silent,
    say: Say = lambda _: None,
    threads: int = 1,
) -> Quickstart:
    """Run the whole of edgeae once, on a generated sensor stream.

    Args:
        out: folder for everything that is made; a second call reuses what is finished there.
        seed: of the training; None takes the recipe's.
        settings: overrides of the recipe, ``key=value``.
        progress: called as training and measuring go on.
        say: called with a sentence at the start of each stage.
        threads: threads to train with. Nets this small gain little from more than one, and lose
            much where other programs want the same cores.

    Raises:
        ConfigError: the folder holds another recipe's run, or cannot be used, or other data.
    """
    folder = Path(out)
    recipe = with_overrides(load_recipe(RECIPE), settings)
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    if recipe.data.source != RECIPE:
        raise ConfigError(
            f"the quickstart is about the data set {RECIPE!r}, not {recipe.data.source!r}: "
            "train other data with edgeae init, train and export"
        )
    _make(folder / "streams")
    stages = _Stages(say, 6)
    run = RunFolder(folder / "run")
    with stages.stage("train", _training_words(run)):
        train(recipe, out=run.path, progress=progress, threads=threads)
    with stages.stage("quantize", "Moving it to 8-bit integers, with fine-tuning"):
        quantize(run, progress=progress, threads=threads)
    bundle_path = folder / f"{RECIPE}.bundle"
    with stages.stage("export", "Exporting to ONNX, with a certificate of exactness"):
        torch.set_num_threads(threads)
        bundle = export_run(run, bundle_path, progress=progress)
    test = load_dataset(recipe.data.source, "test")
    x = np.ascontiguousarray(test.segments[0][:, 0])
    np.save(folder / "test.npy", x)
    with stages.stage("code", f"Coding {x.size:,} samples it was not trained on, in 4 modes"):
        codings = []
        for number, mode in enumerate(MODES, 1):
            coding = code_in_mode(bundle, x, mode)
            (folder / "streams" / f"{mode.name}.eae").write_bytes(coding.stream)
            codings.append(coding)
            progress(mode.name, number / len(MODES), {"bits_per_sample": coding.rate})
    with stages.stage("measure", "Measuring latency and memory"):
        packets, memory = _measured(folder, bundle, x, progress)
        lines = curve(bundle, x, lambda done: progress("rates", done, {}))
    with stages.stage("report", "Writing the report"):
        report = {
            "format": REPORT_FORMAT,
            "version": 1,
            "seed": recipe.seed,
            "data": _data_part(x, test.rate_hz or 1.0),
            "modes": [
                _mode_part(coding, packets[coding.mode.name], memory[coding.mode.name])
                for coding in codings
            ],
            "curve": lines,
            "checks": [
                *(asdict(check) for coding in codings for check in coding.checks),
                _lightness(memory),
            ],
            "training": {
                "seconds": round(run.seconds(), 1),
                "quantization": bundle.manifest.raw["metrics"]["quantization"],
            },
            "model": _model_part(bundle),
            "sizes": _sizes(folder, bundle),
            "recipe": bundle.manifest.raw["recipe"],
            "system": _system(),
            "commands": _commands(),
            "seconds": stages.seconds,
        }
        pictures = _pictures(x, codings, lines, report["data"])
        write_json(folder / "report.json", report)
        write_html(folder / "report.html", report, pictures)
    return Quickstart(
        folder=folder, html=folder / "report.html", json=folder / "report.json", report=report
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror or error}") from error


def _training_words(run: RunFolder) -> str:
    if not (run.path / "recipe.json").exists():
        return "Training a codec for a generated vibration sensor"
    if is_quantized(run):
        return f"Using the finished training in {run.path}"
    return f"Going on with the training in {run.path}"


def _measured(
    folder: Path, bundle: Bundle, x: Samples, progress: Progress
) -> tuple[dict[str, Any], dict[str, Any]]:
    packets: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    model = str(folder / f"{RECIPE}.bundle")
    for number, mode in enumerate(MODES):
        packets[mode.name] = packets_of(bundle, x, mode)
        progress("latency", (number + 1) / len(MODES), {})
    for number, mode in enumerate(MODES):
        stream = str(folder / "streams" / f"{mode.name}.eae")
        memory[mode.name] = {
            "encode": memory_of("encode", model, str(folder / "test.npy"), mode),
            "decode": memory_of("decode", model, stream, mode),
        }
        progress("memory", (number + 1) / len(MODES), {})
    return packets, memory


def _lightness(memory: dict[str, Any]) -> dict[str, Any]:
    found = [role["torch_or_onnx_loaded"] for mode in memory.values() for role in mode.values()]
    return {
        "mode": "device",
        "name": "neither torch nor onnx is loaded",
        "passed": not any(found),
        "detail": f"{len(found)} programs that encode or decode",
    }


# -- parts of the report ---------------------------------------------------------------------------


def _data_part(x: Samples, rate_hz: float) -> dict[str, Any]:
    return {
        "what": "vibration sensor on a rotating machine",
        "rate_hz": rate_hz,
        "dtype": x.dtype.name,
        "bits": 8 * x.itemsize,
        "test_samples": int(x.size),
        "test_bytes": int(x.nbytes),
        "packet_items": PACKET_ITEMS,
        "zoom_start": _busy_stretch(x),
    }


def _busy_stretch(x: Samples, length: int = 400) -> int:
    """Start of a stretch that is a little livelier than most: three quarters are calmer."""
    n = max(1, len(x) // length)
    rows = x[: n * length].reshape(n, -1).astype(np.float64)
    lively = np.abs(np.diff(rows, axis=1)).mean(1)
    return int(np.argsort(lively)[(3 * n) // 4]) * length


def _mode_part(coding: Coding, packets: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    mode = coding.mode
    promise = "lossless" if mode.lossless else "lossy" if mode.max_error is None else "max_error"
    return {
        "name": mode.name,
        "title": mode.title,
        "promise": promise,
        "max_error": mode.max_error,
        "stream_bytes": len(coding.stream),
        "bits_per_sample": coding.rate,
        "ratio": coding.ratio,
        "rmse": coding.rmse,
        "snr_db": None if mode.lossless else coding.snr_db,
        "prdn_percent": coding.prdn_percent,
        "worst_error": coding.worst,
        "peer_bound": coding.peer_bound,
        "peers": [asdict(peer) for peer in coding.peers],
        "packets": packets,
        "memory": memory,
    }


def _model_part(bundle: Bundle) -> dict[str, Any]:
    raw = bundle.manifest.raw
    return {
        "name": bundle.name,
        "fingerprint": bundle.fingerprint.hex(),
        "exact": bundle.manifest.exact,
        "certified_sums": len(raw.get("certificate", [])),
        "cost": raw["cost"],
    }


def _sizes(folder: Path, bundle: Bundle) -> dict[str, Any]:
    files = {f"{RECIPE}.bundle/{name}": len(data) for name, data in sorted(bundle.files.items())}
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in bundle.files.items():
            archive.writestr(name, data)
    for path in (folder / "test.npy", *(folder / "streams" / f"{m.name}.eae" for m in MODES)):
        files[path.relative_to(folder).as_posix()] = path.stat().st_size
    return {
        "files": files,
        "bundle_bytes": sum(len(data) for data in bundle.files.values()),
        "bundle_zip_bytes": len(packed.getvalue()),
    }


def _system() -> dict[str, Any]:
    return {
        "machine": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load_per_core": _load_per_core(),
        "native_coder": native.core is not None,
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
    }


def _version(package: str) -> str:
    if package == "edgeae":
        return edgeae.__version__
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _load_per_core() -> float | None:
    try:
        return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)
    except (AttributeError, OSError):
        return None


def _commands() -> list[str]:
    return [
        "edgeae init my-recording.csv --out my-sensor.toml   # looks at the file, says why",
        "edgeae train my-sensor.toml --out runs/my-sensor",
        "edgeae export runs/my-sensor --out my-sensor.bundle",
        "edgeae compress my-sensor.bundle my-recording.csv my-recording.eae --max-error 0.5",
        "edgeae decompress my-sensor.bundle my-recording.eae back.csv",
    ]


def _pictures(
    x: Samples, codings: Sequence[Coding], lines: dict[str, Any], data: dict[str, Any]
) -> dict[str, str]:
    return {
        "zoom": zoom_picture(x, codings, data["zoom_start"], data["rate_hz"]),
        "overview": overview_picture(x, codings, data["rate_hz"]),
        "rate": rate_picture(codings),
        "trade": trade_picture(lines),
    }
