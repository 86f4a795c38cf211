"""Workstation commands: ``recipes``, ``init``, ``train``, ``quantize``, ``export``, ``verify``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import typer

from edgeae.cli.base import ExitCode, command, fail, note, print_json
from edgeae.errors import ConfigError, ModelError

__all__ = ["PhaseProgress"]


class PhaseProgress:
    """Shows training phases: a rewritten line on a terminal, a line per tenth elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = 0.0
        self._tenth: tuple[str, int] = ("", -1)
        self._started = time.monotonic()

    def __call__(self, name: str, done: float, metrics: Mapping[str, float]) -> None:
        """Tell how far a phase is."""
        tenth = (name, int(done * 10))
        now = time.monotonic()
        if (now - self._shown < 0.2 and done < 1) if self._live else tenth == self._tenth:
            return
        self._shown, self._tenth = now, tenth
        told = "  ".join(f"{_short(k)} {v:.4g}" for k, v in metrics.items() if k != "objective")
        text = f"{name:12} {100 * done:3.0f} %  {now - self._started:5.0f} s  {told}"[:110]
        if self._live:
            end = "\n" if done >= 1 else ""
            print("\r" + text.ljust(110), end=end, file=sys.stderr, flush=True)
        else:
            note(text.rstrip())


def _short(name: str) -> str:
    return name.replace("bits_at_step_", "step ").replace("bits_per_sample", "bit/sample")


@command("recipes")
def recipes(as_json: bool = typer.Option(False, "--json", help="Print them as JSON.")) -> None:
    """List the recipes that come with edgeae."""
    from edgeae.train.recipe import load_recipe, recipe_names

    found = [load_recipe(name) for name in recipe_names()]
    if as_json:
        print_json([{"name": r.name, "description": r.description} for r in found])
        return
    for recipe in found:
        minutes = f"{recipe.training_minutes:g} min" if recipe.training_minutes else ""
        print(f"{recipe.name:14} {minutes:>8}  {recipe.description}")


@command("init")
def init(
    data: str = typer.Argument(..., metavar="DATA", help="The signal to make a recipe for."),
    out: Path | None = typer.Option(None, "--out", help="Recipe to write; default: DATA's name."),
    dtype: str | None = typer.Option(None, help="Type of raw samples."),
    channels: int | None = typer.Option(None, help="Channels of raw samples."),
    rate: float | None = typer.Option(None, help="Samples per second."),
    columns: str | None = typer.Option(None, help="Columns of a CSV, separated by commas."),
    key: str | None = typer.Option(None, help="Array of a .npz."),
    force: bool = typer.Option(False, "--force", help="Replace an older recipe."),
) -> None:
    """Look at your data and write a commented recipe for it."""
    from edgeae.signal import read_signal
    from edgeae.train.init import init_recipe

    target = out or Path(Path(data).stem.replace(" ", "-") + ".toml")
    if target.exists() and not force:
        raise ConfigError(f"{target} exists; give another --out, or --force to replace it")
    names = columns.split(",") if columns else None
    signal = read_signal(data, dtype=dtype, channels=channels, rate_hz=rate, columns=names, key=key)
    text, reasons = init_recipe(signal, data)
    target.write_text(text, encoding="utf-8")
    for line in (*signal.notes, *reasons):
        note(f"- {line}")
    run = target.with_suffix("").name
    print(f"wrote {target}. Next:")
    print(f"  edgeae train {target} --out runs/{run}")
    print(f"  edgeae export runs/{run} --out {run}.bundle")


@command("train")
def train(
    recipe: str = typer.Argument(..., metavar="RECIPE", help="A recipe's name or .toml file."),
    data: str | None = typer.Option(None, "--data", help="Data set name or path."),
    out: Path | None = typer.Option(None, "--out", help="Folder of the run; default runs/NAME."),
    settings: list[str] | None = typer.Option(
        None, "--set", metavar="KEY=VALUE", help="Override a field of the recipe."
    ),
    threads: int = typer.Option(2, help="Threads to train with."),
) -> None:
    """Train a recipe; run it again to go on after an interruption."""
    from edgeae.train.recipe import load_recipe, with_overrides
    from edgeae.train.training import train as run_training

    chosen = with_overrides(load_recipe(recipe), settings or [])
    folder = out or Path("runs") / chosen.name
    try:
        run = run_training(chosen, out=folder, data=data, progress=PhaseProgress(), threads=threads)
    except KeyboardInterrupt:
        fail(f"interrupted; the same command goes on where {folder} stopped")
    print(f"trained {chosen.name} in {run.seconds() / 60:.1f} minutes. Next:")
    print(f"  edgeae export {folder} --out {chosen.name}.bundle")


@command("quantize")
def quantize(
    run: Path = typer.Argument(..., metavar="RUN", help="Folder of a trained run."),
    as_json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
    threads: int = typer.Option(2, help="Threads to train with."),
) -> None:
    """Move a trained run to dyadic arithmetic and say what that cost."""
    from edgeae.quantize import quantize as run_quantization
    from edgeae.train.run import RunFolder

    report = run_quantization(RunFolder(run), progress=PhaseProgress(), threads=threads)
    if as_json:
        print_json(report)
        return
    for part, found in report.items():
        print(part.replace("_", " "))
        for key, change in found["change_percent"].items():
            before, after = found["float"][key], found["dyadic"][key]
            print(f"  {_short(key):12} float {before:8.4f}  dyadic {after:8.4f}  {change:+.2f} %")


@command("export")
def export(
    source: Path | None = typer.Argument(
        None, metavar="RUN", help="Folder of a trained run; or a bundle, with --tune or --ort."
    ),
    out: Path = typer.Option(..., "--out", help="Bundle to write: a folder, or a .zip."),
    tune: bool = typer.Option(
        False,
        "--tune",
        help="Measure both exact spellings of each net here (integers in float32, int8) and let "
        "onnxruntime run the faster. Bits, fingerprint and streams stay the same.",
    ),
    ort: bool = typer.Option(
        False,
        "--ort",
        help="Add its nets as .ort files and required_operators.config, for minimal builds of "
        "onnxruntime.",
    ),
    module: str | None = typer.Option(
        None, "--module", help="Your own torch pair: pkg.mod:factory, returns (encoder, decoder)."
    ),
    example: Path | None = typer.Option(
        None, "--example", help=".npy with example input for --module, [N, ...]."
    ),
    precision: str = typer.Option("int8", help="For --module: int8 (static QDQ) or float."),
    rows: bool = typer.Option(
        False, "--rows", help="For --module: the example's rows are items of many channels."
    ),
    threads: int = typer.Option(2, help="Threads to train with, where RUN is not quantized yet."),
) -> None:
    """Export a run, or your own torch module, as a bundle for devices."""
    if (source is None) == (module is None):
        raise ConfigError("export takes RUN, or --module pkg.mod:factory with --example X.npy")
    if source is not None and (source.suffix == ".zip" or (source / "manifest.json").is_file()):
        if not (tune or ort):
            raise ConfigError(f"{source} is a bundle already; --tune or --ort adds to it")
        from edgeae.runtime.bundle import load

        bundle = load(source)
    elif module is not None:
        if example is None:
            raise ConfigError("--module needs --example X.npy: input to calibrate and check with")
        from edgeae.exporting.module import export_module

        bundle = export_module(module, example, out, precision=precision, rows=rows)
    else:
        from edgeae.exporting.bundle import export_run
        from edgeae.train.run import RunFolder

        assert source is not None
        bundle = export_run(RunFolder(source), out, progress=PhaseProgress(), threads=threads)
    if tune or ort:
        from edgeae.exporting.rework import rework_bundle

        bundle, tunings = rework_bundle(bundle, out, tune=tune, ort=ort)
        for tuning in tunings:
            note(tuning.told())
    size = sum(len(content) for content in bundle.files.values())
    exact = "exact" if bundle.manifest.exact else "exact: false"
    print(f"wrote {out}: {bundle.name}, {exact}, {size:,} bytes. Next:")
    print(f"  edgeae verify {out}")
    use = "denoise {} IN OUT" if bundle.task == "denoise" else "compress {} IN OUT --max-error E"
    print(f"  edgeae {use.format(out)}")


@command("verify")
def verify(
    bundle: str = typer.Argument(
        ..., help="A bundle (folder or zip); with --against also .onnx, .h5 or .tflite."
    ),
    windows: int = typer.Option(64, help="Windows per graph and check."),
    against: Path | None = typer.Option(
        None, "--against", help="Another net to hold it against, layer by layer."
    ),
    example: Path | None = typer.Option(
        None, "--example", help="For --against: input to run both on, .npy or raw float32."
    ),
    frame: int | None = typer.Option(
        None, "--frame", min=1, help="For --example: values of a frame; inputs slide over frames."
    ),
    min_db: float = typer.Option(60.0, help="For --against: SQNR the outputs must reach."),
    as_json: bool = typer.Option(False, "--json", help="Print the outcome as JSON."),
) -> None:
    """Check that every engine gives a bundle's exact bits, or that two nets are the same."""
    if against is not None:
        from edgeae.cli.against import verify_against

        verify_against(
            bundle, against, example=example, frame=frame, min_db=min_db, as_json=as_json
        )
        return
    from edgeae.exporting.verify import verify_bundle
    from edgeae.runtime.bundle import load

    try:
        loaded = load(bundle)
    except ModelError as error:
        if not Path(bundle).exists():
            raise
        fail(f"BREACH: {error}", ExitCode.GATE)
    outcome = []
    for check in verify_bundle(loaded, windows=windows):
        outcome.append(check)
        if not as_json:
            word = {True: "ok", False: "BREACH", None: "skipped"}[check.passed]
            print(f"{word:8} {check.name}: {check.detail}")
    if as_json:
        print_json([vars(check) for check in outcome])
    broken = [check.name for check in outcome if check.passed is False]
    if broken:
        fail(f"{len(broken)} of {len(outcome)} checks failed", ExitCode.GATE)
    passed = sum(check.passed is True for check in outcome)
    note(f"{passed} checks passed, {len(outcome) - passed} did not apply")
