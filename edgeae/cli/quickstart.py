"""``edgeae quickstart``: the whole way once, on a generated sensor stream."""

from __future__ import annotations

from typing import Any

import typer

from edgeae.cli.base import ExitCode, command, fail, note, print_json
from edgeae.cli.train import PhaseProgress

__all__: list[str] = []


@command("quickstart")
def quickstart(
    out: str = typer.Option(
        "edgeae-quickstart", "--out", help="Folder for everything that is made."
    ),
    seed: int | None = typer.Option(None, "--seed", help="Seed of the training."),
    settings: list[str] | None = typer.Option(
        None, "--set", metavar="KEY=VALUE", help="Override a field of the recipe 'sensor'."
    ),
    threads: int = typer.Option(1, help="Threads to train with; nets this small gain little."),
    as_json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
) -> None:
    """Train, quantize, export, compress and check a codec; write a report. Needs no data."""
    from edgeae.exporting.quickstart import quickstart as run_quickstart

    try:
        made = run_quickstart(
            out,
            seed=seed,
            settings=settings or [],
            progress=PhaseProgress(),
            say=note,
            threads=threads,
        )
    except KeyboardInterrupt:
        fail(f"interrupted; the same command goes on where {out} stopped")
    if as_json:
        print_json(made.report)
    else:
        print("\n".join(_table(made.report)))
        print(f"\nReport: {made.html}\n\nThe same with your own file:")
        print("\n".join(f"  {line}" for line in made.report["commands"]))
    if made.broken:
        fail("; ".join(made.broken), ExitCode.GATE)


def _table(report: dict[str, Any]) -> list[str]:
    lines = ["", f"{'bit/sample':14} {'model':>7} {'classical':>10} {'xz':>7} {'zlib':>7}  error"]
    for mode in report["modes"]:
        best = {
            family: min(p["bits_per_sample"] for p in mode["peers"] if p["family"] == family)
            for family in ("classical", "xz", "zlib")
        }
        found = (
            "none: every bit equal"
            if mode["promise"] == "lossless"
            else f"worst {mode['worst_error']:g}, RMSE {mode['rmse']:.2f}"
        )
        lines.append(
            f"{mode['title']:14} {mode['bits_per_sample']:7.3f} {best['classical']:10.3f} "
            f"{best['xz']:7.3f} {best['zlib']:7.3f}  {found}"
        )
    passed = sum(check["passed"] for check in report["checks"])
    lines.append(f"{passed} of {len(report['checks'])} checks passed")
    return lines
