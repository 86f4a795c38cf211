"""MLPerf Tiny's anomaly detection, imported and quantized: results/mlperf.csv and bench/mlperf.md.

    EDGEAE_DATA=... python bench/mlperf.py            measure, then fill the page
    EDGEAE_DATA=... python bench/mlperf.py --bundle   and write export/models/ad01
    python bench/mlperf.py --page                     only fill the page from the CSV
    python bench/mlperf.py --check                    say whether the page is up to date

Nothing here is timed; results/mlperf.system.json holds the versions all the same.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from page import BLOCK, RESULTS, ROOT, Rows, find, markdown, number

PAGE = ROOT / "bench" / "mlperf.md"
MODEL = ROOT / "export" / "models" / "ad01"
FIELDS = ("net", "against", "layer", "metric", "value", "unit", "n")
FRAME = 128
FLOAT, CONVERTED = "ad01.h5", "ad01_fp32.tflite"
REFERENCES = (CONVERTED, "ad01_int8.tflite", "model_ToyCar_quant_fullint.tflite")
OURS = ("float.onnx", "int8.onnx", "dyadic.onnx", "dyadic_qdq.onnx")
PUBLISHED = {
    FLOAT: ("anomaly", "result.csv"),
    CONVERTED: ("tflite_anomaly", "tflite_result.csv"),
    "model_ToyCar_quant_fullint.tflite": (
        "tflite_quant_fullint_anomaly",
        "tflite_quant_fullint_result.csv",
    ),
}
NOTES = """
## Where it comes from

The anomaly detection model of MLPerf Tiny, `ad01.h5` of mlcommons/tiny at commit
1afd2c9820f795965a6134facd0b4dfae41ef23f, imported with `edgeae import`: its batch normalisation
folded with the dense biases kept, then quantized after training with powers of two, calibrated on
98 windows of one log-mel clip of that repository. Input: 128 log-mel energies in dB, five frames a
window. `bench/mlperf.md` of edgeae measures it against the files that the benchmark ships.

Copyright (c) 2020 Hitachi, Ltd., MIT licence: see `LICENSE.ad01` beside this file.
"""

Row = tuple[str, str, str, str, float, str, int]


def measure(data: Path, out: Path) -> Iterator[Row]:
    """Import into a folder, then hold every net against the float model and the conversion."""
    from edgeae.importing.compare import compare_traces
    from edgeae.importing.dense_import import import_keras
    from edgeae.importing.example import read_windows
    from edgeae.importing.measures import reconstruction_score, sqnr_db
    from edgeae.importing.trace import read_model

    clip = data / "normal_id_01_00000000_hist_librosa.bin"
    licence = (data / "LICENSE").read_bytes()
    about = {"recipe": {"description": "MLPerf Tiny anomaly detection (ad01), exact in int8."}}
    import_keras(
        data / FLOAT,
        out,
        example=clip,
        frame=FRAME,
        about=about,
        extra_files={"LICENSE.ad01": licence},
        notes=NOTES,
    )
    rows = read_windows(clip, 640, FRAME)
    traces = {FLOAT: read_model(data / FLOAT).trace(rows)}
    traces |= {name: read_model(data / name).trace(rows) for name in REFERENCES}
    traces |= {name: read_model(out / name).trace(rows) for name in OURS}
    odd = slice(1, None, 2)
    for name, trace in traces.items():
        path = (out if name in OURS else data) / name
        yield name, "", "", "size", path.stat().st_size, "bytes", 1
        score = reconstruction_score(rows, trace.output)
        yield name, "", "", "score", score, "dB^2", len(rows)
        for against in (FLOAT, CONVERTED):
            if against == name or (against == CONVERTED and name not in REFERENCES):
                continue
            expected, given = traces[against].output[odd], trace.output[odd]
            mean = expected.mean(axis=0)
            change = 100 * (score / reconstruction_score(rows, traces[against].output) - 1)
            worst = float(np.abs(expected - given).max())
            n = len(expected)
            yield name, against, "", "sqnr", sqnr_db(expected, given), "dB", n
            centred = sqnr_db(expected - mean, given - mean)
            yield name, against, "", "sqnr_centred", centred, "dB", n
            yield name, against, "", "max_difference", worst, "dB", n
            yield name, against, "", "score_change", change, "%", len(rows)
    found = compare_traces(traces[FLOAT], traces[CONVERTED], rows)
    yield CONVERTED, FLOAT, "", "sqnr_all", found.sqnr_db, "dB", len(rows)
    for layer in found.layers:
        told = {
            "as_run": layer.sqnr_db,
            "alone": layer.alone_db,
            "weights": layer.weight_db,
            "biases": layer.bias_db,
            "biases_without_own": layer.own_bias_db,
        }
        for metric, value in told.items():
            if value is not None:
                yield CONVERTED, FLOAT, layer.name, metric, min(value, 999.0), "dB", len(rows)
    yield from published(data / "scores")


def published(folder: Path) -> Iterator[Row]:
    """What the reference's own files say: the score of the clip, and the AUC of the test set."""
    for net, (scores, result) in PUBLISHED.items():
        lines = (folder / f"{scores}_score_ToyCar_id_01.csv").read_text().splitlines()
        (score,) = (line.split(",")[1] for line in lines if "normal_id_01_00000000" in line)
        yield net, "", "", "published_score", float(score), "dB^2", 1
        (line,) = (v for v in (folder / result).read_text().splitlines() if v.startswith("Average"))
        yield net, "", "", "published_auc", float(line.split(",")[1]), "", 4


def write(rows: list[Row]) -> None:
    """File the results and what they were made with."""
    from streams import system

    with (RESULTS / "mlperf.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        for *names, value, unit, n in rows:
            writer.writerow([*names, f"{value:.9g}", unit, n])
    told = json.dumps(system(), indent=1, sort_keys=True) + "\n"
    (RESULTS / "mlperf.system.json").write_text(told)


# -- the page --------------------------------------------------------------------------------------


def read() -> Rows:
    with (RESULTS / "mlperf.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def cell(rows: Rows, digits: int, **fields: str) -> str:
    return number(find(rows, **({"layer": ""} | fields)), digits)


def nets_table(rows: Rows) -> str:
    """Every net against the float model."""
    names = {
        FLOAT: f"`{FLOAT}`, Keras: the float model",
        "float.onnx": "ours, float32",
        CONVERTED: f"reference float, `{CONVERTED}`",
        "ad01_int8.tflite": "reference int8, `ad01_int8.tflite`",
        "int8.onnx": "**ours, int8, free scales**",
        "dyadic.onnx": "**ours, int8, dyadic (exact)**",
        "dyadic_qdq.onnx": "the same bits in QDQ",
    }
    head = ["net", "bytes", "SQNR, dB", "beside the mean, dB", "largest difference, dB"]
    body = []
    for net, name in names.items():
        row = [name, cell(rows, 0, net=net, metric="size")]
        row += [
            cell(rows, digits, net=net, against=FLOAT, metric=metric)
            for metric, digits in (("sqnr", 1), ("sqnr_centred", 1), ("max_difference", 2))
        ]
        change = find(rows, net=net, against=FLOAT, metric="score_change")
        row += [cell(rows, 6, net=net, metric="score"), _percent(change)]
        body.append([entry.replace("–", "") for entry in row])
    return markdown([*head, "score", "against float"], body)


def _percent(change: str) -> str:
    return f"{round(float(change), 2) + 0.0:+.2f} %" if change else ""


def layers_table(rows: Rows) -> str:
    """The conversion against the float model, layer by layer."""
    metrics = ("as_run", "alone", "weights", "biases", "biases_without_own")
    layers = list(dict.fromkeys(row["layer"] for row in rows if row["layer"]))
    body = []
    for layer in layers:
        values = [find(rows, layer=layer, metric=metric) for metric in metrics]
        body.append([layer, *("equal" if v == "999" else number(v, 1) for v in values)])
    head = ["layer", "as run", "alone", "weights", "biases", "biases, dense bias left out"]
    return markdown(head, body)


def published_table(rows: Rows) -> str:
    """The reference's own score files beside what its networks give here."""
    body = [
        [
            f"`{net}`",
            cell(rows, 6, net=net, metric="published_score"),
            cell(rows, 6, net=net, metric="score"),
            cell(rows, 4, net=net, metric="published_auc"),
        ]
        for net in PUBLISHED
    ]
    return markdown(["net", "score, their file", "score, here", "AUC, their file"], body)


TABLES = {"nets": nets_table, "layers": layers_table, "published": published_table}


def filled(text: str) -> str:
    rows = read()
    return BLOCK.sub(lambda m: f"{m[1]}{TABLES[m[2]](rows)}\n{m[3]}", text)


def stale() -> bool:
    """Whether the page shows other numbers than the CSV."""
    return filled(PAGE.read_text()) != PAGE.read_text()


def main() -> int:
    options = set(sys.argv[1:])
    if unknown := options - {"--bundle", "--page", "--check"}:
        print(f"no such option: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    if "--check" in options:
        return int(stale())
    if "--page" not in options:
        import os

        data = Path(os.environ.get("EDGEAE_DATA", "")) / "mlperf_tiny_ad"
        if not (data / FLOAT).exists():
            print(f"{data / FLOAT} is missing: set EDGEAE_DATA", file=sys.stderr)
            return 1
        with tempfile.TemporaryDirectory() as folder:
            write(list(measure(data, Path(folder))))
            if "--bundle" in options:
                shutil.rmtree(MODEL, ignore_errors=True)
                shutil.copytree(Path(folder) / "bundle", MODEL)
    PAGE.write_text(filled(PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
