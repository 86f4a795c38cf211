"""Measure coded streams on real data: rate, speed, device, laws. Writes bench/results/SUITE.csv.

    EDGEAE_DATA=... python bench/streams.py [rate] [speed] [device] [laws] [--bundles NAME,...]

Tidy CSV, one number a row; ``results/system.json`` says on which machine each suite ran. The tables
in the READMEs are made of these files by ``bench/tables.py``.

rate    bits per sample in the file, headers included, and distortion, for every bundle of
        export/models on the test part of its own data; beside edgeae without a model and the
        general coders. Under a bound of E steps those code round(x / (2 E + 1)).
speed   Msamples/s of one thread, median of alternating runs, with and without the C extension.
device  import time and memory of fresh processes, over numpy's.
laws    stream overhead, growth over the classical or raw coding, coder against ideal code length.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import itertools
import json
import lzma
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import edgeae
import edgeae.native
from edgeae.bitstream.range_coder import RangeEncoder
from edgeae.bitstream.reader import FrameReader
from edgeae.errors import ConfigError
from edgeae.metrics import max_abs_error, prdn, rmse
from edgeae.runtime.processor import processor_name

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
MODELS = ROOT / "export" / "models"
FIELDS = ("suite", "bundle", "data", "promise", "method", "metric", "value", "unit", "n")
BOUNDS = (1, 5, 10)
MAX_SAMPLES = 1_000_000
SPEED_BUNDLE = "ecg-own"
PACKAGES = ("edgeae", "numpy", "onnxruntime", "pcodec")

Row = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A bundle and the data it is measured on.

    Attributes:
        steps: the grid's step, in the signal's units.
    """

    name: str
    bundle: edgeae.Bundle
    data: str
    segments: tuple[np.ndarray, ...]
    steps: float

    @property
    def n_samples(self) -> int:
        return sum(x.size for x in self.segments)

    def promises(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and keyword arguments of every promise the bundle can make."""
        if self.bundle.net is not None:
            yield "lossy", {}
        if self.bundle.manifest.exact:
            for bound in reversed(BOUNDS):
                # A hair more than the bound, for floats that stand for decimal steps.
                exact = self.segments[0].dtype.kind in "iu"
                yield (
                    f"max error {bound}",
                    {"max_error": bound * self.steps * (1 + 1e-3 * (not exact))},
                )
            yield "lossless", {"lossless": True}


def subjects(names: list[str]) -> Iterator[Subject]:
    """Every exported codec whose data are there; bench/denoise measures the denoisers."""
    from edgeae.train.datasets import load_dataset

    for path in sorted(MODELS.glob("*/manifest.json")):
        name = path.parent.name
        if names and name not in names:
            continue
        bundle = edgeae.load(path.parent)
        if bundle.manifest.codec is None:
            continue
        recipe = bundle.manifest.raw.get("recipe", {}).get("data", {})
        source = recipe.get("source", name)
        try:
            test = load_dataset(source, "test", normalize=recipe.get("normalize", ""))
        except ConfigError as error:
            print(f"{name}: skipped: {error}", file=sys.stderr)
            continue
        segments = _shortened(test.segments)
        if test.is_image and not bundle.signal.is_image:  # a dense net takes images as rows
            segments = tuple(x.reshape(len(x), -1) for x in segments)
        steps = max(num / den for num, den in bundle.signal.grids)
        yield Subject(name=name, bundle=bundle, data=source, segments=segments, steps=steps)


def _shortened(segments: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """The beginning of every segment, so that together they have about MAX_SAMPLES samples."""
    share = min(1.0, MAX_SAMPLES / sum(x.size for x in segments))
    return tuple(np.ascontiguousarray(x[: math.ceil(share * len(x))]) for x in segments)


# -- rate ----------------------------------------------------------------------------------------


def rate(subject: Subject) -> Iterator[Row]:
    """Bits per sample of whole streams, and what came back."""
    for promise, options in subject.promises():
        for method, bundle in (("edgeae", subject.bundle), ("edgeae, no model", None)):
            if bundle is None and not options:
                continue
            coded = [edgeae.encode(bundle, x, **options) for x in subject.segments]
            decoded = [edgeae.decode(bundle, data) for data in coded]
            x = np.concatenate([np.ravel(part) for part in subject.segments])
            y = np.concatenate([np.ravel(part) for part in decoded])
            yield from _rate_rows(subject, promise, method, sum(map(len, coded)))
            for metric, value in (
                ("rmse", rmse(x, y)),
                ("max_error", max_abs_error(x, y)),
                ("prdn_percent", prdn(x, y)),
            ):
                yield (promise, method, metric, value, "", x.size)
        if promise != "lossy":
            yield from _peers(subject, promise, options)


def _rate_rows(subject: Subject, promise: str, method: str, n_bytes: int) -> Iterator[Row]:
    bits = 8 * n_bytes / subject.n_samples
    yield (promise, method, "bits_per_sample", bits, "bit/sample", subject.n_samples)


def _peers(subject: Subject, promise: str, options: dict[str, Any]) -> Iterator[Row]:
    coders: dict[str, Callable[[np.ndarray], bytes]] = {
        "zlib -9": lambda x: zlib.compress(x.tobytes(), 9),
        "xz -9e": lambda x: lzma.compress(x.tobytes(), preset=9 | lzma.PRESET_EXTREME),
    }
    try:
        from pcodec import ChunkConfig, standalone

        coders["pcodec"] = lambda x: standalone.simple_compress(np.ravel(x), ChunkConfig())
    except ImportError:
        print("pcodec: skipped, not installed (pip install '.[bench]')", file=sys.stderr)
    for method, coder in coders.items():
        n_bytes = 0
        for x in subject.segments:
            kept = x
            if "max_error" in options:
                index = np.rint(x.astype(np.float64) / subject.steps)
                kept = np.rint(index / (2 * int(promise.split()[-1]) + 1)).astype(np.int16)
            if kept.dtype == np.uint8 and method == "pcodec":
                kept = kept.astype(np.uint16)  # it has no 8-bit numbers
            n_bytes += len(coder(kept))
        yield from _rate_rows(subject, promise, method, n_bytes)


# -- speed ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def engine(name: str) -> Iterator[None]:
    """Run with or without the C extension."""
    core = edgeae.native.core
    edgeae.native.core = core if name == "extension" else None
    try:
        yield
    finally:
        edgeae.native.core = core


def speed(subject: Subject, runs: int = 5) -> Iterator[Row]:
    """Msamples/s of encode and decode; runs alternate, so that a slow minute meets all alike."""
    whole = subject.segments[0]
    engines = {"python": whole[: 1 << 15]}
    if edgeae.native.core is not None:
        engines["extension"] = whole
    cases = list(itertools.product(engines.items(), subject.promises()))
    taken: dict[tuple[str, str, str], list[float]] = {}
    for run in range(runs + 1):
        for (name, x), (promise, options) in cases:
            if name == "python" and run not in (1, 2, 3):
                continue
            with engine(name):
                began = time.perf_counter()
                data = edgeae.encode(subject.bundle, x, **options)
                middle = time.perf_counter()
                edgeae.decode(subject.bundle, data)
                ended = time.perf_counter()
            if run:  # the first one warms up
                taken.setdefault((promise, name, "encode"), []).append(middle - began)
                taken.setdefault((promise, name, "decode"), []).append(ended - middle)
    for (promise, name, verb), seconds in taken.items():
        n = engines[name].size
        value = n / statistics.median(seconds) / 1e6
        yield (promise, name, f"{verb}_speed", value, "Msamples/s", n)


# -- device --------------------------------------------------------------------------------------

_IMPORT = """
import numpy, time
began = time.perf_counter()
import edgeae
print(time.perf_counter() - began)
"""

_MEMORY = """
import sys, json
import numpy as np

def kib(field):
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith(field)).split()[1])

before = kib("VmRSS")
import edgeae
bundle = edgeae.load(sys.argv[1])
dtype, channels = np.dtype(sys.argv[3]), int(sys.argv[4])
options = json.loads(sys.argv[5])
encoder = edgeae.StreamEncoder(bundle, **options)
with open(sys.argv[2], "rb") as sensor:
    while chunk := sensor.read(256 * channels * dtype.itemsize):
        encoder.write(np.frombuffer(chunk, dtype).reshape(-1, channels))
print(json.dumps([kib("VmRSS") - before, kib("VmHWM") - before]))
"""


def device(subject: Subject, runs: int = 11) -> Iterator[Row]:
    """What a device's program costs beside numpy."""
    times = [float(_fresh(_IMPORT)) for _ in range(runs)]
    yield ("", "edgeae", "import_time", 1e3 * statistics.median(times), "ms", runs)
    if subject.bundle.signal.is_image or not Path("/proc/self/status").exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        x = subject.segments[0]
        raw = Path(folder) / "signal.raw"
        x.tofile(raw)
        for promise, options in subject.promises():
            for profile in ("file", "radio"):
                found = json.loads(
                    _fresh(
                        _MEMORY,
                        MODELS / subject.name,
                        raw,
                        x.dtype.name,
                        subject.bundle.signal.channels,
                        json.dumps(options | {"profile": profile}),
                    )
                )
                for metric, value in zip(("rss", "peak_rss"), found, strict=True):
                    yield (promise, f"StreamEncoder, {profile}", metric, value / 1024, "MiB", 1)


def _fresh(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# -- laws ----------------------------------------------------------------------------------------


def laws(subject: Subject) -> Iterator[Row]:
    """Overhead of the container, growth of frames, and loss of the range coder."""
    x = subject.segments[0]
    for promise, options in subject.promises():
        data = edgeae.encode(subject.bundle, x, **options)
        frames = list(FrameReader(io.BytesIO(data)))
        payload = sum(len(frame.payload) + len(frame.exceptions) for frame in frames)
        around = len(data) - payload
        yield (promise, "edgeae", "file_size", len(data), "bytes", x.size)
        yield (promise, "edgeae", "overhead", around, "bytes", len(frames))
        yield (promise, "edgeae", "overhead_share", 100 * around / len(data), "%", len(frames))
        if promise != "lossy":
            worst, n_frames = _growth(subject, options)
            yield (promise, "edgeae", "growth_over_classical", worst, "bytes", n_frames)
        loss, n_payloads = _coder_loss(subject, options)
        if n_payloads:
            yield (promise, "edgeae", "coder_loss_beyond_half_percent", loss, "bytes", n_payloads)


def _growth(subject: Subject, options: dict[str, Any]) -> tuple[int, int]:
    """Largest growth of a frame over the same frame without a model, on good and odd signals."""
    x = subject.segments[0]
    items = x[: max(64, (1 << 15) // x[:1].size)]
    rng = np.random.default_rng(0)
    top = 1000 if x.dtype.kind != "u" else 255
    noise = rng.integers(0, top, items.shape).astype(x.dtype)
    jumps = np.where(rng.random(items.shape) < 0.01, top - 1, 0).astype(x.dtype)
    signals = [items, noise, jumps, np.zeros_like(items), items[::-1].copy()]
    if x.dtype.kind == "f":
        signals.append(np.where(rng.random(items.shape) < 0.01, np.nan, items).astype(x.dtype))
    worst, count = -(1 << 30), 0
    grid = {"grid": list(subject.bundle.signal.grids), **options}  # the same for both
    length = 1 if subject.bundle.signal.is_image else 1024
    for signal in signals:
        with_model, without = (
            list(
                FrameReader(io.BytesIO(edgeae.encode(bundle, signal, frame_length=length, **grid)))
            )
            for bundle in (subject.bundle, None)
        )
        for a, b in zip(with_model, without, strict=True):
            grown = len(a.payload) + len(a.exceptions) - len(b.payload) - len(b.exceptions)
            worst, count = max(worst, grown), count + 1
    return worst, count


def _coder_loss(subject: Subject, options: dict[str, Any]) -> tuple[float, int]:
    """Largest (bytes - 1.005 * ideal bytes) of a payload; the limit is 4."""
    bits: dict[int, float] = {}
    worst, count = -math.inf, 0
    encode, finish = RangeEncoder.encode, RangeEncoder.finish

    def counted(self: RangeEncoder, cum: int, freq: int) -> None:
        bits[id(self)] = bits.get(id(self), 0.0) + 16 - math.log2(freq)
        encode(self, cum, freq)

    def finished(self: RangeEncoder) -> bytes:
        nonlocal worst, count
        data = finish(self)
        worst = max(worst, len(data) - 1.005 * bits.pop(id(self), 0.0) / 8)
        count += 1
        return data

    RangeEncoder.encode, RangeEncoder.finish = counted, finished  # type: ignore[method-assign]
    n = 16 if subject.bundle.signal.is_image else 1 << 14
    try:
        with engine("python"):
            for length in (64, 1024, 1 << 14):
                x = subject.segments[0][: min(n, 8 * length)]
                edgeae.encode(subject.bundle, x, frame_length=length, **options)
    finally:
        RangeEncoder.encode, RangeEncoder.finish = encode, finish  # type: ignore[method-assign]
    return worst, count


# -- results -------------------------------------------------------------------------------------

SUITES: dict[str, Callable[[Subject], Iterator[Row]]] = {
    "rate": rate,
    "speed": speed,
    "device": device,
    "laws": laws,
}


def system(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """The machine and the versions of these packages behind the numbers."""
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "measured": datetime.now(timezone.utc).date().isoformat(),
        "commit": commit,
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": found,
        "extension": edgeae.native.core is not None,
    }


def write(suite: str, bundle: str, rows: list[Row]) -> None:
    """Replace the rows of a bundle; keep those of the others that are still there."""
    path = RESULTS / f"{suite}.csv"
    kept: list[Row] = []
    if path.exists():
        with path.open(newline="") as file:
            kept = [
                tuple(row[field] for field in FIELDS)
                for row in csv.DictReader(file)
                if row["bundle"] != bundle and (MODELS / row["bundle"]).is_dir()
            ]
    RESULTS.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows(sorted(kept + rows, key=lambda row: str(row[1])))
    told = RESULTS / "system.json"
    systems = json.loads(told.read_text()) if told.exists() else {}
    systems[suite] = system()
    told.write_text(json.dumps(systems, indent=1, sort_keys=True) + "\n")


def main() -> None:
    """Run suites and write their results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("suites", nargs="*", help=f"of {', '.join(SUITES)}; default: all")
    parser.add_argument("--bundles", default="", help="names, separated by commas; default: all")
    arguments = parser.parse_args()
    unknown = set(arguments.suites) - set(SUITES)
    if unknown:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    for subject in subjects([name for name in arguments.bundles.split(",") if name]):
        for suite in arguments.suites or SUITES:
            if suite in ("speed", "device") and subject.name != SPEED_BUNDLE:
                continue
            began = time.perf_counter()
            rows: list[Row] = []
            for promise, method, metric, value, unit, n in SUITES[suite](subject):
                row = (promise, method, metric, f"{value:.6g}", unit, n)
                rows.append((suite, subject.name, subject.data, *row))
            write(suite, subject.name, rows)
            print(f"{suite} {subject.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
