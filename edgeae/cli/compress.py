"""``edgeae compress``: a signal file to a stream."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import typer

from edgeae.cli.base import command, fail, note, print_json
from edgeae.cli.output import LazyOutput, Progress, refuse_same_file
from edgeae.errors import ConfigError

__all__ = ["load_bundle_argument"]

_CHUNK_SAMPLES = 1 << 20
_WHY_MISSED = "the bundle's steps do not reach it on this signal, or it is too short to steer"
BUNDLE_HELP = "A bundle (folder or zip), or 'none' to code without a model."


@command("compress")
def compress(
    bundle: str = typer.Argument(..., help=BUNDLE_HELP),
    source: str = typer.Argument(
        ..., metavar="IN", help="The signal: .npy .npz .csv .wav .raw, images, or - for stdin."
    ),
    target: str = typer.Argument(..., metavar="OUT", help="The stream to write, - for stdout."),
    max_error: float | None = typer.Option(
        None, "--max-error", help="Keep every sample within this bound, in the signal's units."
    ),
    lossless: bool = typer.Option(False, "--lossless", help="Keep every bit."),
    step: int | None = typer.Option(
        None, "--step", help="Quantizer step of the latents: larger is smaller and coarser."
    ),
    target_rate: float | None = typer.Option(
        None, "--target-rate", help="Bits per sample that the stream comes to, within 2 %."
    ),
    target_snr: float | None = typer.Option(
        None, "--target-snr", help="dB that the stream comes to, and at most half a dB more."
    ),
    effort: int = typer.Option(
        0, help="Rounds of trying other symbols for each image of a lossy stream, 0 to 16."
    ),
    profile: str = typer.Option("file", help="file, or radio for short packets."),
    max_packet: int | None = typer.Option(
        None, "--max-packet", help="Largest radio frame in bytes."
    ),
    frame_length: int | None = typer.Option(
        None, "--frame-length", help="Time steps or images per frame."
    ),
    dtype: str | None = typer.Option(None, help="Type of raw samples, such as int16 or >i2."),
    channels: int | None = typer.Option(None, help="Channels of raw samples, interleaved."),
    rate: float | None = typer.Option(None, help="Samples per second."),
    columns: str | None = typer.Option(None, help="Columns of a CSV, separated by commas."),
    key: str | None = typer.Option(None, help="Array of a .npz."),
    verify: bool = typer.Option(False, "--verify", help="Decode OUT again and compare."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Compress IN to OUT with the model of BUNDLE."""
    from edgeae.signal import iter_signal, read_signal
    from edgeae.tasks.plan import StreamOptions, choose_grid, parse_profile
    from edgeae.tasks.stream import StreamEncoder
    from edgeae.tasks.survey import survey

    refuse_same_file(source, target)
    if target == "-" and (as_json or verify):
        raise ConfigError("OUT is stdout, so --json and --verify have nowhere to go")
    if source == "-" and verify:
        raise ConfigError("IN is stdin, so there is nothing to compare with: leave --verify out")
    options = StreamOptions(
        max_error=max_error,
        lossless=lossless,
        step=step,
        target_rate=target_rate,
        target_snr=target_snr,
        profile=parse_profile(profile),
        frame_length=frame_length,
        max_packet=max_packet,
        rate_hz=rate,
    )
    model = load_bundle_argument(bundle)
    form: dict[str, Any] = {
        "dtype": dtype,
        "channels": channels,
        "rate_hz": rate,
        "columns": None if columns is None else columns.split(","),
        "key": key,
    }
    began = time.perf_counter()
    grid, total, outlook = None, None, None
    if source == "-":
        pieces = iter_signal(source, frame_length or (1 << 16), **form)
    else:
        signal = read_signal(source, **form)
        total = signal.n_items
        grid = choose_grid(signal.data, model, options, whole=True)
        if max_error is not None:
            for allowed, nominal in sorted(set(zip(grid.bounds, grid.nominals, strict=True))):
                _tell_tight_bound(max_error, allowed, nominal)
        outlook = survey(signal.data, model, options, grid)
        pieces = _cut(signal)
    first = next(pieces, None)
    if first is None:
        fail(f"{source} is empty")
    for text in first.notes:
        note(text)
    _tell_rate(model, first.rate_hz)
    output = LazyOutput(target)
    encoder = StreamEncoder(
        model,
        max_error=max_error,
        lossless=lossless,
        step=step,
        target_rate=target_rate,
        target_snr=target_snr,
        outlook=outlook,
        profile=profile,
        frame_length=frame_length,
        max_packet=max_packet,
        grid=grid,
        rate_hz=first.rate_hz,
        metadata={"source": first.meta} if first.meta else {},
        effort=effort,
        file=output,
    )
    progress = Progress(total, "images" if first.is_image else "samples")
    n_items, n_samples, n_raw = 0, 0, 0
    try:
        with output, encoder:
            for piece in chain([first], pieces):
                encoder.write(piece.data)
                n_items += piece.n_items
                n_samples += piece.data.size
                n_raw += piece.data.nbytes
                progress.show(n_items)
    except BaseException:
        progress.clear()
        if output.n_bytes:
            note(f"{target} is incomplete: it holds the first {encoder.n_items} items")
        raise
    progress.clear()
    if verify:
        _verify(model, source, target, form, max_error, lossless)
    seconds = time.perf_counter() - began
    bits = 8 * output.n_bytes / n_samples
    if target_rate is not None and abs(bits / target_rate - 1) > 0.02:
        note(f"the target was {target_rate:g} bit/sample: {_WHY_MISSED}")
    snr = encoder.reached if target_snr is not None else None
    if snr is not None and not 0 <= snr - (target_snr or 0.0) <= 0.5:
        note(f"the target was {target_snr:g} dB, it came to {snr:.2f}: {_WHY_MISSED}")
    if as_json:
        print_json(
            {
                "items": n_items,
                "samples": n_samples,
                "input_bytes": n_raw,
                "output_bytes": output.n_bytes,
                "bits_per_sample": bits,
                "seconds": seconds,
                "promise": options.promise.value,
                "max_error": max_error,
                "target_rate": target_rate,
                "target_snr": target_snr,
                "snr_db": snr,
                "verified": verify,
            }
        )
    else:
        note(
            f"{source}: {n_raw:,} -> {output.n_bytes:,} bytes, {bits:.3f} bit/sample, "
            f"{n_raw / output.n_bytes:.1f}:1, {seconds:.1f} s"
            + ("" if snr is None else f", {snr:.2f} dB")
            + (", verified" if verify else "")
        )


def load_bundle_argument(path: str) -> Any:
    """The bundle of a command's first argument; None for ``none``."""
    from edgeae.runtime.bundle import Bundle

    return None if path == "none" and not Path(path).exists() else Bundle.load(path)


def _cut(signal: Any) -> Iterator[Any]:
    """A signal in pieces of about a million samples."""
    from edgeae.signal import SignalFile

    length = max(1, _CHUNK_SAMPLES // max(1, signal.data[:1].size))
    for begin in range(0, signal.n_items, length):
        yield SignalFile(
            data=signal.data[begin : begin + length],
            rate_hz=signal.rate_hz,
            meta=signal.meta,
            notes=signal.notes if begin == 0 else (),
        )


def _tell_tight_bound(max_error: float, allowed: int, nominal: int) -> None:
    if allowed < nominal:
        note(
            f"--max-error {max_error:g} is {nominal} steps of the signal's grid, but rounding in "
            f"floats may exceed it by a hair, so {allowed} are used; "
            f"{max_error * 1.001:g} would allow {nominal}"
        )


def _tell_rate(model: Any, rate_hz: float | None) -> None:
    expected = None if model is None else model.signal.rate_hz
    if expected and rate_hz and abs(rate_hz / expected - 1) > 0.01:
        note(
            f"the signal has {rate_hz:g} Hz, the bundle was trained for {expected:g} Hz: "
            "the promise holds, the rate may suffer"
        )


def _verify(
    model: Any,
    source: str,
    target: str,
    form: dict[str, Any],
    max_error: float | None,
    lossless: bool,
) -> None:
    """Decode the written stream and compare it with the input."""
    import numpy as np

    from edgeae.signal import read_signal
    from edgeae.tasks.checks import samples_within
    from edgeae.tasks.stream import read_items

    x = read_signal(source, **form).data
    position = 0
    with open(target, "rb") as file:
        for y in read_items(model, file):
            part = np.ascontiguousarray(x[position : position + len(y)])
            if lossless:
                good = part.tobytes() == np.ascontiguousarray(y).tobytes()
            elif max_error is not None:
                good = bool(samples_within(part, y, max_error).all())
            else:
                good = part.shape == y.shape
            if not good:
                fail(f"{target}: items {position} to {position + len(y)} break the promise")
            position += len(y)
    if position != len(x):
        fail(f"{target} decodes to {position} items, {source} has {len(x)}")
