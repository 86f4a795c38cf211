"""``edgeae bench``: how fast a bundle or an ONNX file is on this machine, and what it takes."""

from __future__ import annotations

import sys

import typer

from edgeae.cli.base import ExitCode, command, fail, note

__all__: list[str] = []


@command("bench")
def bench(
    model: str = typer.Argument(..., metavar="MODEL", help="A bundle, or an ONNX file."),
    engine: str = typer.Option("auto", help="auto, native or onnxruntime."),
    threads: int = typer.Option(1, help="Threads inside one operator of a net."),
    frame: int | None = typer.Option(
        None, "--frame", help="Time steps or images per frame: 1,024 steps, or one image."
    ),
    batch: int = typer.Option(64, help="Frames handed over at once where batches are measured."),
    duration: float = typer.Option(
        30.0, help="Seconds to measure for; the fresh processes take some more."
    ),
    source: str | None = typer.Option(
        None, "--input", metavar="FILE", help="A signal; else the bundle's golden vector."
    ),
    max_error: float | None = typer.Option(
        None, "--max-error", help="The bound to measure with; else five steps of the grid."
    ),
    growth: int | None = typer.Option(
        None, "--growth", help="Frames to watch the memory over; else what the time permits."
    ),
    shape: list[str] | None = typer.Option(
        None, "--shape", metavar="NAME=1,640", help="Shape of an ONNX file's input; may repeat."
    ),
    json_out: str | None = typer.Option(
        None, "--json", metavar="OUT", help="Write all figures as JSON; - for stdout alone."
    ),
    report: str | None = typer.Option(
        None, "--report", metavar="HTML", help="Write a page with plots."
    ),
    base: str | None = typer.Option(
        None, "--compare", metavar="BASE.json", help="An earlier --json to compare with."
    ),
    max_regress: str = typer.Option(
        "15%", "--max-regress", help="How much worse than BASE a figure may be; else exit code 3."
    ),
) -> None:
    """Measure latency, start, throughput, memory and size on this machine."""
    from edgeae.profiling.machine import limit_threads

    limit_threads(threads)  # before NumPy is imported

    from edgeae.errors import VersionError
    from edgeae.profiling.compare import notes, parse_percent, require_comparable
    from edgeae.profiling.confirm import confirmed_regressions, profile
    from edgeae.profiling.options import BenchOptions, parse_shape
    from edgeae.profiling.page import write_page
    from edgeae.profiling.profile import Profile
    from edgeae.profiling.table import lines_of

    options = BenchOptions(
        engine=engine,
        threads=threads,
        frame_items=frame,
        batch=batch,
        duration_s=duration,
        input=source,
        max_error=max_error,
        growth_frames=growth,
        shapes=dict(map(parse_shape, shape or [])),
    )
    allowed = parse_percent(max_regress)
    older = None if base is None else Profile.read(base)
    if older is not None:
        require_comparable(older, options)
    try:
        found = profile(model, options, say=note)
    except VersionError as error:
        fail(str(error), ExitCode.USAGE)
    if json_out == "-":
        sys.stdout.write(found.to_text())
    else:
        print("\n".join(lines_of(found)))
    if json_out not in (None, "-"):
        found.write(json_out)
    if report is not None:
        write_page(report, found)
    if older is None:
        return
    for text in notes(older, found):
        note(text)
    worse = confirmed_regressions(model, older, found, allowed, options, say=note)
    for regression in worse:
        note(f"worse: {regression}")
    if worse:
        fail(
            f"{len(worse)} figure(s) are more than {100 * allowed:g} % worse than in {base}",
            ExitCode.GATE,
        )
    note(f"nothing is more than {100 * allowed:g} % worse than in {base}")
