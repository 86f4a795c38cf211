"""What the suites that time and weigh runtimes have in common: one thread, and where results go."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PACKAGES = (
    "edgeae",
    "numpy",
    "onnxruntime",
    "ai-edge-litert",
    "openvino",
    "executorch",
    "torch",
    "litert-torch",
)


def one_thread() -> None:
    """Start this program again with one thread for NumPy's libraries, which look when they load."""
    if any(os.environ.get(name) != "1" for name in THREAD_VARIABLES):
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
        os.execv(sys.executable, [sys.executable, *sys.argv])


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


def file_suite(
    name: str,
    fields: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    replaced: str,
    packages: Sequence[str] = PACKAGES,
) -> None:
    """Write results/NAME.csv and results/NAME.system.json.

    Args:
        name: of the suite.
        fields: the columns.
        rows: of this run; floats are written with six digits.
        replaced: the network they are of; rows of others stay.
        packages: whose versions are told.
    """
    from streams import RESULTS, system

    path = RESULTS / f"{name}.csv"
    kept: list[Sequence[Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            kept = [
                [row[f] for f in fields]
                for row in csv.DictReader(file)
                if row["network"] != replaced
            ]
    new = [[f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows]
    RESULTS.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(fields)
        writer.writerows(sorted([*kept, *new], key=lambda row: str(row[0])))
    told = system(packages) | {"load_average": [round(v, 2) for v in os.getloadavg()]}
    text = json.dumps(told, indent=1, sort_keys=True) + "\n"
    (RESULTS / f"{name}.system.json").write_text(text)
