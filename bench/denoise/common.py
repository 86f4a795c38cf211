"""What the tasks share: rows, our bundles, and peers that may be missing."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeae

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "export" / "models"
FIELDS = ("task", "data", "level", "method", "metric", "value", "unit", "n", "note")
TASKS = ("ecg", "images", "speech", "vibration")
OURS = "edgeae"

Array = NDArray[Any]
Row = tuple[Any, ...]

# import name: what pip calls it
PEERS = {
    "bm3d": "bm3d",
    "noisereduce": "noisereduce",
    "pesq": "pesq",
    "pyrnnoise": "pyrnnoise",
    "pystoi": "pystoi",
    "pywt": "PyWavelets",
    "skimage": "scikit-image",
    "webrtc_noise_gain": "webrtc-noise-gain",
}
PACKAGES = ("edgeae", "numpy", "onnxruntime", "scipy", *PEERS.values())


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to denoise.

    Attributes:
        name: in the table.
        run: the noisy signal to the estimate.
        ahead: how far it looks ahead, in words.
        chosen: settings that were tuned on training material, in words.
    """

    name: str
    run: Callable[[Array], Array]
    ahead: str = ""
    chosen: str = ""

    @property
    def note(self) -> str:
        return "; ".join(part for part in (self.ahead, self.chosen) if part)


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


def usable(task: str, module: str, method: str) -> tuple[bool, list[Row]]:
    """Whether a peer is installed; if not, the row that says so."""
    if importlib.util.find_spec(module) is not None:
        return True, []
    extra = "its licence is for non-commercial use" if module == "bm3d" else 'or "edgeae[bench]"'
    why = f"not installed: pip install {PEERS[module]}, {extra}"
    return False, [left_out(task, method, why)]


def left_out(task: str, method: str, why: str) -> Row:
    """A method that was not measured."""
    say(f"{task}: {method}: {why}")
    return (task, "", "", method, "left_out", "", "", 0, why)


def bundle_of(task: str, models: Path = MODELS) -> tuple[edgeae.Bundle | None, list[Row]]:
    """Our denoiser of a task; if it is not there, the row that says so."""
    name = "denoise-image" if task == "images" else f"denoise-{task}"
    if not (models / name / "manifest.json").exists():
        return None, [left_out(task, OURS, f"there is no bundle {name}")]
    return edgeae.load(models / name), []


def tuned(
    options: Iterable[tuple[str, Callable[[Array], Array]]],
    score: Callable[[Callable[[Array], Array]], float],
) -> tuple[str, Callable[[Array], Array]]:
    """The option with the best score on training material."""
    return max(options, key=lambda option: score(option[1]))


def file_rows(task: str, rows: Iterable[Row]) -> None:
    """Put a task's rows into results/denoise.csv in place of its old ones, the system beside."""
    from streams import RESULTS, system

    path = RESULTS / "denoise.csv"
    kept: list[Any] = []
    if path.exists():
        with path.open(newline="") as file:
            old = csv.DictReader(file)
            kept = [[row[f] for f in FIELDS] for row in old if row["task"] != task]
    new = [[f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows(sorted([*kept, *new], key=lambda row: str(row[0])))
    told = json.dumps(system(PACKAGES), indent=1, sort_keys=True)
    (RESULTS / "denoise.system.json").write_text(told + "\n")


def mean(values: Iterable[float]) -> float:
    """The mean of what is a number."""
    return float(np.mean([v for v in values if np.isfinite(v)] or [np.nan]))
