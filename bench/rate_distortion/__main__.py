"""Rate against distortion: edgeae beside what a user would pick instead, on every data set.

    EDGEAE_DATA=... python bench/rate_distortion [SUITE ...]      default: all
    python bench/rate_distortion ecg --quick                      a part, written nowhere
    python bench/rate_distortion ecg --coders "edgeae; twin"       the other coders' rows stay

Two settings: whole streams as files, and frames of 1,024 samples that decode alone. Every decoded
sample is held against its bound, ours and the peers'; who breaks it has ``ok`` 0. One thread.
Writes bench/results/rd.csv, rd-images.csv and rd.system.json, the rows of other suites stay.
``python bench/tables.py`` makes the pages' tables of it, ``--draw`` the pictures.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import images
import measure
from libraries import LIBRARIES
from streams import MODELS, RESULTS, system
from suite import one_thread, say
from suites import SUITES, Group, Suite

import edgeae
from edgeae.errors import ConfigError

FIELDS = (
    *("suite", "group", "setting", "coder", "bound", "error", "n_samples", "bits_per_sample"),
    *("framed_bits_per_sample", "max_error", "ok", "encode_mb_s", "decode_mb_s", "model_bytes"),
    "note",
)
IMAGE_FIELDS = (
    *("suite", "coder", "setting", "n_images", "bytes_per_image", "blank_bytes", "psnr_db", "ok"),
    *("encode_mb_s", "decode_mb_s", "model_bytes", "note"),
)
PACKAGES = (
    *("edgeae", "numpy", "onnxruntime", "imagecodecs", "numba", "pcodec", "pillow", "soundfile"),
    "zstandard",
)
EVERY = (measure.OURS, measure.NO_MODEL, measure.TWIN, *(library.name for library in LIBRARIES))
QUICK_SAMPLES = 1 << 15


def bundle_of(suite: Suite, group: Group, models: Path) -> tuple[Any, int, str]:
    """The exported model of a suite, its size and its name, if it fits the group's channels."""
    for path in sorted(models.glob("*/manifest.json"), key=lambda p: p.parent.name != suite.name):
        raw = json.loads(path.read_text())
        source = raw.get("recipe", {}).get("data", {}).get("source", path.parent.name)
        if suite.source not in (source, path.parent.name):
            continue
        bundle = edgeae.load(path.parent)
        if bundle.manifest.codec is None or bundle.signal.channels != group.channels:
            continue
        if bundle.manifest.exact and not bundle.signal.is_image:
            return bundle, measure.model_bytes(path.parent), path.parent.name
    return None, 0, ""


def series_rows(suite: Suite, coders: set[str], models: Path, quick: bool) -> list[list[Any]]:
    """Every coder on every group in both settings."""
    rows = []
    for group in suite.groups:
        if quick:
            few = tuple(x[: QUICK_SAMPLES // group.channels] for x in group.test[:1])
            group = replace(group, test=few)
        bundle, size, name = bundle_of(suite, group, models)
        for setting in measure.SETTINGS:
            for row in measure.everything(group, bundle, setting, size, coders):
                if row.coder == measure.OURS:
                    row.note = f"bundle {name}"
                rows.append(_as_fields(suite.name, row))
                if not row.ok:
                    say(f"{suite.name}: {row.coder} at {row.bound.name}: {row.note or 'too far'}")
    return rows


def _as_fields(suite: str, row: measure.Row) -> list[Any]:
    mb = row.raw_bytes / 1e6
    coded = row.n_bytes > 0

    def bits(n: int) -> str:
        return f"{8 * n / row.n_samples:.5g}" if n else ""

    return [
        *(suite, row.group, row.setting, row.coder, row.bound.name, f"{row.bound.error:.6g}"),
        *(row.n_samples, bits(row.n_bytes), bits(row.n_framed)),
        *(f"{row.worst:.6g}" if coded else "", int(row.ok)),
        *(f"{mb / s:.3g}" if s else "" for s in (row.encode_s, row.decode_s)),
        *(row.model_bytes or "", row.note),
    ]


def write(
    name: str, fields: Sequence[str], suite: str, rows: Iterable[Sequence[Any]], coders: set[str]
) -> None:
    """Replace the rows of a suite's coders; keep all others."""
    path = RESULTS / f"{name}.csv"
    kept: list[Sequence[Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            kept = [
                [row[field] for field in fields]
                for row in csv.DictReader(file)
                if row["suite"] != suite or row["coder"] not in coders
            ]
    order = [*SUITES, *images.SUITES, *EVERY, *images.CODERS]
    where = fields.index("coder")
    every = sorted([*kept, *rows], key=lambda row: (order.index(row[0]), order.index(row[where])))
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(fields)
        writer.writerows(every)
    told = RESULTS / "rd.system.json"
    systems = json.loads(told.read_text()) if told.exists() else {}
    load = round(os.getloadavg()[1], 1)  # of the last five minutes
    systems[suite] = system(PACKAGES) | {"load_average": load}
    told.write_text(json.dumps(systems, indent=1, sort_keys=True) + "\n")


def main() -> int:
    """Measure and write."""
    names = [*SUITES, *images.SUITES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("suites", nargs="*", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a part of each, written nowhere")
    parser.add_argument("--coders", default="", help="names, separated by semicolons; default: all")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of bundles")
    parser.add_argument("--draw", action="store_true", help="only the pictures, from the results")
    options = parser.parse_args()
    if unknown := set(options.suites) - set(names):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    coders = {name.strip() for name in options.coders.split(";") if name.strip()}
    known = {*EVERY, *images.CODERS}
    if unknown := coders - known:
        parser.error(f"no such coder: {', '.join(sorted(unknown))}; there are {'; '.join(known)}")
    if options.draw:
        import draw

        draw.draw()
        return 0
    one_thread()
    for coder, why in measure.MISSING.items():
        say(f"{coder}: {why}")
    for name in options.suites or names:
        began = time.perf_counter()
        try:
            if name in images.SUITES:
                chosen = coders or {*images.CODERS}
                rows = images.rows(name, chosen, options.models, quick=options.quick)
                kind, fields = "rd-images", IMAGE_FIELDS
            else:
                suite = SUITES[name]()
                rows = series_rows(suite, coders or {*EVERY}, options.models, options.quick)
                kind, fields = "rd", FIELDS
        except ConfigError as error:
            say(f"{name}: skipped: {error}")
            continue
        say(f"{name}: {time.perf_counter() - began:.0f} s")
        if options.quick:
            csv.writer(sys.stdout, lineterminator="\n").writerows([fields, *rows])
        else:
            write(kind, fields, name, rows, coders or known)
    return 0


if __name__ == "__main__":
    sys.exit(main())
