"""``import``: bring a net of another framework in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from edgeae.cli.base import command, note, print_json

__all__: list[str] = []


@command("import")
def import_(
    model: Path = typer.Argument(..., metavar="MODEL.h5", help="A Keras autoencoder, as HDF5."),
    out: Path | None = typer.Option(None, "--out", help="Folder to write; default: MODEL's name."),
    example: Path | None = typer.Option(
        None, "--example", help="Input to calibrate and score with: .npy, or raw float32 (.bin)."
    ),
    frame: int | None = typer.Option(
        None,
        "--frame",
        min=1,
        help="Values of one frame: the example is a run of frames, and inputs are windows that "
        "slide over it, one frame apart.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
) -> None:
    """Import a Keras autoencoder: float, int8 and exact (dyadic) int8, measured against the file.

    Even windows of the example calibrate, odd ones measure.
    """
    from edgeae.importing.dense_import import import_keras

    folder = out or Path(model.stem)
    report = import_keras(model, folder, example=example, frame=frame)
    if as_json:
        print_json(report)
        return
    parity = report["parity"]
    print(
        f"{model.name}: {len(report['layers'])} layers folded; against the file's own layers "
        f"{parity['fold_sqnr_db']:.0f} dB, as float32 {parity['float_onnx_sqnr_db']:.0f} dB"
    )
    for name, found in report["models"].items():
        print(_line(name, found))
    for what, why in report["skipped"].items():
        note(f"no {what}: {why}")
    print(f"wrote {folder}. Next:")
    print(f"  edgeae verify {folder / 'float.onnx'} --against OTHER.tflite --example X")
    if "bundle" in report:
        print(f"  edgeae verify {folder / 'bundle'}")


def _line(name: str, found: dict[str, Any]) -> str:
    text = f"  {name:11} {found['bytes']:>10,} bytes"
    if "sqnr_db" in found:
        text += f"  {found['sqnr_db']:6.1f} dB"
    if "score" in found:
        text += f"  score {found['score']:.6f} ({found['score_change_percent']:+.3f} %)"
    return text
