"""``edgeae adapt``: a bundle fitted to one device's own signal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import typer

from edgeae.cli.base import command, note, print_json
from edgeae.errors import ConfigError

__all__: list[str] = []


@command("adapt")
def adapt(
    bundle: Path = typer.Argument(..., help="A bundle (folder or zip) that edgeae export made."),
    data: str = typer.Option(
        ..., "--data", metavar="NEW", help="The device's own signal: .npy .npz .csv .wav .raw."
    ),
    out: Path | None = typer.Option(
        None, "--out", help="Bundle to write: a folder, or a .zip; default: BUNDLE-NEW.bundle."
    ),
    encoder: bool = typer.Option(
        False, "--encoder", help="Fit the encoder too; else devices keep theirs, bit for bit."
    ),
    seconds: float | None = typer.Option(
        None, "--seconds", help="Take only so much from the beginning of NEW."
    ),
    dtype: str | None = typer.Option(None, help="Type of raw samples, such as int16 or >i2."),
    channels: int | None = typer.Option(None, help="Channels of raw samples, interleaved."),
    rate: float | None = typer.Option(None, help="Samples per second, where NEW does not say it."),
    columns: str | None = typer.Option(None, help="Columns of a CSV, separated by commas."),
    key: str | None = typer.Option(None, help="Array of a .npz."),
    threads: int = typer.Option(2, help="Threads to train with."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Fit BUNDLE to one device's own signal: tables, priors and decoder, in minutes."""
    from edgeae.cli.train import PhaseProgress
    from edgeae.exporting.adapt import adapt_bundle
    from edgeae.quantize.adapt import AdaptSettings
    from edgeae.runtime.bundle import load
    from edgeae.signal import read_signal
    from edgeae.train.datasets import hash_of

    loaded = load(bundle)
    names = columns.split(",") if columns else None
    signal = read_signal(data, dtype=dtype, channels=channels, rate_hz=rate, columns=names, key=key)
    for text in signal.notes:
        note(text)
    samples = signal.data
    if seconds is not None:
        hertz = signal.rate_hz or loaded.signal.rate_hz
        if hertz is None:
            raise ConfigError("--seconds needs to know how many samples a second has: give --rate")
        samples = samples[: max(0, round(seconds * hertz))]
    stem = Path(data).stem
    target = out or Path(f"{loaded.name}-{stem}.bundle")
    result = adapt_bundle(
        loaded,
        samples,
        target,
        name=f"{loaded.name}-{stem}",
        rate_hz=signal.rate_hz,
        hashes=hash_of(data),
        settings=AdaptSettings(encoder=encoder),
        progress=PhaseProgress(),
        threads=threads,
    )
    if as_json:
        print_json(
            {
                "bundle": str(target),
                "fingerprint": result.bundle.fingerprint.hex(),
                "seconds": round(result.seconds, 1),
                "parts": [dataclasses.asdict(part) for part in result.parts],
                "gains": [dataclasses.asdict(gain) for gain in result.gains],
            }
        )
        return
    for part in result.parts:
        note(f"{part.name}: {part.before:.3f} -> {part.after:.3f}, kept: {part.kept}")
    print(f"{'last tenth of ' + stem:24} {loaded.name:>12} {'adapted':>12}   bit/sample")
    for gain in result.gains:
        told = f"  RMSE {gain.rmse_before:.3g} -> {gain.rmse_after:.3g}"
        told = told if gain.promise == "lossy" else ""
        print(
            f"{gain.promise:24} {gain.before:12.3f} {gain.after:12.3f} {gain.percent:+7.1f} %{told}"
        )
    print(f"wrote {target}: {result.bundle.name}, {result.seconds:.0f} s. Next:")
    print(f"  edgeae verify {target}")
