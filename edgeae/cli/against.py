"""``verify MODEL --against OTHER``: hold one net against another, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeae.cli.base import ExitCode, fail, note, print_json
from edgeae.errors import ConfigError

if TYPE_CHECKING:
    from edgeae.importing.compare import Comparison

__all__ = ["verify_against"]


def verify_against(
    model: str,
    other: Path,
    *,
    example: Path | None,
    frame: int | None,
    min_db: float,
    as_json: bool,
) -> None:
    """Compare, print, and end with exit code 3 where the outputs are further apart than allowed."""
    from edgeae.importing.compare import compare_traces
    from edgeae.importing.example import probe_rows, read_windows
    from edgeae.importing.trace import read_model

    reference, against = read_model(model), read_model(other)
    if reference.width != against.width:
        raise ConfigError(
            f"{reference.name} takes {reference.width} values and {against.name} takes "
            f"{against.width}: they cannot be compared"
        )
    if example is None:
        rows = probe_rows(reference.width)
        note("no --example: compared on random inputs, which may be unlike the signal")
    else:
        rows = read_windows(example, reference.width, frame)
    found = compare_traces(reference.trace(rows), against.trace(rows), rows, min_db=min_db)
    if as_json:
        print_json({"inputs": len(rows), "min_db": min_db, **found.to_json()})
    else:
        _print(found, reference.name, against.name, len(rows))
    if not found.sqnr_db >= min_db:
        fail(
            f"{against.name} is {found.sqnr_db:.1f} dB from {reference.name}, expected at least "
            f"{min_db:g}",
            ExitCode.GATE,
        )


def _print(found: Comparison, name: str, other: str, count: int) -> None:
    print(f"{name} against {other} on {count} inputs, SQNR in dB")
    if found.layers:
        print(f"  {'layer':24} {'as run':>8} {'alone':>8} {'weights':>8} {'biases':>8}")
    for layer in found.layers:
        cells = (layer.alone_db, layer.weight_db, layer.bias_db)
        told = " ".join(f"{'' if cell is None else f'{cell:.1f}':>8}" for cell in cells)
        mark = " scaled" if layer.scaled else ""
        print(f"  {layer.name[-24:]:24} {layer.sqnr_db:8.1f} {told}{mark}".rstrip())
    print(
        f"  {'output':24} {found.sqnr_db:8.1f}   {found.sqnr_centred_db:.1f} dB beside the mean, "
        f"largest difference {found.max_abs_difference:.4g}"
    )
    if found.score is not None and found.other_score is not None:
        change = 100 * (found.other_score / found.score - 1) if found.score else 0.0
        print(f"  anomaly score {found.score:.6f}, {found.other_score:.6f} ({change:+.2f} %)")
    print(found.reason)
