"""Bench a denoiser: blocks as they come, several streams at once, whole signals, start, memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import SignalError
from edgeae.profiling.blocks import Workload, measure
from edgeae.profiling.denoise_calls import process_of
from edgeae.profiling.loops import CallLoop
from edgeae.profiling.machine import machine
from edgeae.profiling.options import BenchOptions
from edgeae.profiling.process import FreshProcesses
from edgeae.profiling.profile import Profile
from edgeae.profiling.recorder import Recorder
from edgeae.profiling.reference import Reference
from edgeae.profiling.rows import Row, Say, bundle_row, head, medians, rates, warm_starts
from edgeae.profiling.stages import STAGES
from edgeae.runtime.bundle import Bundle, load
from edgeae.tasks.denoise import denoise

__all__ = ["denoiser_again", "profile_denoiser"]

_SHARES = {"latency": 0.55, "batch": 0.1, "file": 0.1, "growth": 0.15}
_BLOCK_S = 0.016
_BLOCK_ITEMS = 64
_SIDE = 256
_BLOCKS = 16
_FILE_BLOCKS = 256
_COLD_STARTS = 5
_MEMORY_RUNS = 3
_IMPORTS = ("edgeae.profiling.denoise_calls", "edgeae.runtime.bundle")

Samples = NDArray[Any]


class _Loop:
    """Denoises the same blocks again and again, as one stream (or image by image)."""

    def __init__(
        self, name: str, call: Callable[[Samples], Any], pieces: Sequence[Samples]
    ) -> None:
        self.name, self._call, self._pieces = name, call, pieces

    def run(self, recorder: Recorder) -> None:
        """One block of calls."""
        for piece in self._pieces:
            recorder.time("denoise", self._call, piece)


class _Subject:
    """A denoiser, its signal, and the blocks it comes in."""

    def __init__(self, path: str, options: BenchOptions) -> None:
        self.path, self.options = path, options
        self.bundle = self.open()
        spec = self.bundle.signal
        self.is_image = spec.is_image
        self.rate_hz = spec.rate_hz
        self.items = options.frame_items or (1 if self.is_image else self._block_items())
        self.whole, self.source = self._signal(options.input)
        if len(self.whole) < self.items:
            raise SignalError(
                f"{options.input}: {len(self.whole)} items, a block has {self.items}: give a "
                "longer signal"
            )
        count = max(1, min(_BLOCKS, len(self.whole) // self.items))
        self.pieces = [
            np.ascontiguousarray(self.whole[k * self.items : (k + 1) * self.items])
            for k in range(count)
        ]
        self.name = f"blocks of {self.items}" if not self.is_image else f"{self.items} image(s)"
        self.call = self.denoiser()
        self.engine = self.engine_of(self.call)

    def open(self) -> Bundle:
        """The bundle, loaded anew."""
        return load(self.path, engine=self.options.engine, threads=self.options.threads)

    def denoiser(self, streams: int = 1) -> Callable[[Samples], Samples]:
        """What takes one block."""
        return process_of(self.bundle, streams=streams)

    @staticmethod
    def engine_of(call: Any) -> str:
        return str(call.__self__.engine)

    def _block_items(self) -> int:
        """The multiple of the hop that is nearest to 16 ms, or 64 samples."""
        spec = self.bundle.denoise
        hop = spec.hop * int((spec.front_end or {}).get("hop", 1))
        wanted = _BLOCK_ITEMS
        if self.rate_hz and self.rate_hz * _BLOCK_S >= _BLOCK_ITEMS:
            wanted = round(self.rate_hz * _BLOCK_S)
        return max(hop, round(wanted / hop) * hop)

    def _signal(self, path: str | None) -> tuple[Samples, str]:
        """A file's signal, or noise of a size that the net knows."""
        spec = self.bundle.signal
        if path is not None:
            from edgeae.signal import read_signal

            found = read_signal(path)
            return found.data, Path(path).name
        rng = np.random.default_rng(0)
        if self.is_image:
            sides = (spec.height or _SIDE, spec.width or _SIDE)
            shape = (max(4, self.items), *sides, spec.channels)
            return rng.integers(0, 256, shape).astype(spec.dtype), "made-up images"
        n = _BLOCKS * self.items
        dtype = np.dtype(spec.dtype)
        if self.bundle.denoise.front_end is not None:
            x = rng.normal(0, 0.1, n) * (0.5 + np.sin(np.arange(n) * 0.01))
            return x.astype(np.float32), "made-up noise"
        pairs = np.array(spec.grids, np.float64)
        center = np.array(self.bundle.denoise.center, np.float64)
        index = center + np.rint(rng.normal(0, 300, (n, spec.channels)))
        values = index * pairs[:, 0] / pairs[:, 1]
        if dtype.kind in "iu":
            values = np.clip(values, np.iinfo(dtype).min, np.iinfo(dtype).max)
        x = values.astype(dtype)
        return (x[:, 0] if spec.channels == 1 else x), "made-up noise"


def profile_denoiser(
    path: str, options: BenchOptions | None = None, *, say: Say = lambda _: None
) -> Profile:
    """Measure a denoiser on this machine.

    Args:
        path: of the bundle.
        options: what is asked for; ``frame_items`` is the length of a block, which is else the
            multiple of the hop nearest to 16 ms (of slow signals, to 64 samples), or one image.
        say: called with a sentence at each step.

    Raises:
        ModelError: there is no such bundle, or it cannot be used.
        SignalError: the input file does not fit the bundle.
    """
    options = options or BenchOptions()
    about = machine()
    subject = _Subject(path, options)
    bundle = subject.bundle
    budget = {name: share * options.duration_s for name, share in _SHARES.items()}
    say(f"{bundle.name}: {subject.name}")
    latency = _latency(subject, budget["latency"], say)
    batch = _batches(subject, budget["batch"])
    files = _files(subject, budget["file"])
    warm = _warm_start(subject)
    say("start, memory and its growth, in fresh processes")
    with _fresh(subject) as fresh:
        cold = [fresh.cold_start("run", _COLD_STARTS)]
        memory = fresh.memory(_MEMORY_RUNS)
        growth = fresh.growth(n_frames=options.growth_frames, seconds=budget["growth"])
    sizes = {name: len(content) for name, content in sorted(bundle.files.items())}
    return Profile(
        data={
            **head(about),
            "subject": bundle_row(bundle, subject.engine),
            "options": options.to_json() | {"frame_items": subject.items},
            "input": {
                "source": subject.source,
                "items": len(subject.whole),
                "samples_per_item": int(subject.whole[:1].size),
                "dtype": subject.whole.dtype.name,
                "rate_hz": subject.rate_hz,
                "frames_per_block": len(subject.pieces),
            },
            "latency": latency,
            "batch": batch,
            "file": files,
            "start": {"cold": cold, "warm": warm},
            "memory": memory,
            "growth": growth,
            "artefacts": {
                "files_bytes": sizes,
                "total_bytes": sum(sizes.values()),
                "device_bytes": sizes["manifest.json"] + sizes["denoiser.onnx"],
            },
            "nets": [_net(subject)],
            "priors": [],
        }
    )


def denoiser_again(path: str, options: BenchOptions, parts: Collection[str]) -> Row:
    """Measure some parts anew: what `profile_denoiser` has under ``latency`` or ``start``."""
    subject = _Subject(path, options)
    found: Row = {}
    if "latency" in parts:
        found["latency"] = _latency(
            subject, _SHARES["latency"] * options.duration_s, lambda _: None
        )
    if "start" in parts:
        warm = _warm_start(subject)
        with _fresh(subject) as fresh:
            found["start"] = {"cold": [fresh.cold_start("run", 2 * _COLD_STARTS)], "warm": warm}
    return found


def _latency(subject: _Subject, budget_s: float, say: Say) -> list[Row]:
    """Block by block, with the stages."""
    loop: Workload = _Loop(subject.name, subject.call, subject.pieces)
    found = measure([loop], STAGES["denoise"], budget_s=budget_s, reference=Reference(), say=say)
    return [
        measured.to_json() | _rates(float(measured.times.mean()) / 1e9, subject.items, subject)
        for measured in found
    ]


def _rates(seconds: float, n_items: int, subject: _Subject) -> Row:
    return rates(seconds, n_items, subject.whole[:1].size, subject.rate_hz)


def _batches(subject: _Subject, budget_s: float) -> list[Row]:
    """Several streams (or images) in one call."""
    n = subject.options.batch
    if subject.is_image:
        n = min(n, 8)
        many = np.concatenate([subject.pieces[k % len(subject.pieces)] for k in range(n)])
        call = subject.denoiser()
    else:
        many = np.stack([subject.pieces[k % len(subject.pieces)] for k in range(n)])
        call = subject.denoiser(streams=n)
    loop = CallLoop(subject.name, {"denoise": call}, many)
    ((seconds, _),) = medians([loop], budget_s).values()
    return [
        {
            "promise": subject.name,
            "direction": "denoise",
            "frames_per_call": n,
            "frame_p50_us": round(1e6 * seconds / n, 3),
            **_rates(seconds, n * subject.items, subject),
        }
    ]


def _files(subject: _Subject, budget_s: float) -> list[Row]:
    """A whole signal in one call."""
    if subject.is_image:
        return []
    laps = -(-_FILE_BLOCKS * subject.items // len(subject.whole))
    whole = np.concatenate([subject.whole] * laps)
    call = lambda x: denoise(subject.bundle, x)  # noqa: E731
    loop = CallLoop("whole signal", {"denoise": call}, whole)
    ((seconds, n),) = medians([loop], budget_s).values()
    return [
        {
            "promise": "whole signal",
            "direction": "denoise",
            "items": len(whole),
            "p50_ms": round(1e3 * seconds, 3),
            "n": n,
            **_rates(seconds, len(whole), subject),
        }
    ]


def _net(subject: _Subject) -> Row:
    """What the manifest says that the net takes."""
    cost = subject.bundle.manifest.raw.get("cost", {})
    spec = subject.bundle.denoise
    row: Row = {"net": "denoiser.onnx", "engine": subject.engine}
    if "parameters" not in cost:
        return row | {"uncounted": "the manifest does not say"}
    per = cost.get("macs_per_pixel") if subject.is_image else cost.get("macs_per_sample")
    held = sum(state.shape[0] * state.shape[1] for state in spec.state)
    return row | {
        "macs": float(per or 0) * subject.items * int(subject.whole[:1].size),
        "parameters": int(cost["parameters"]),
        "weight_bytes": int(cost["parameters"]),
        "arena_bytes": 2 * held,
    }


def _warm_start(subject: _Subject) -> Row:
    """Milliseconds to load the model again in a running process and denoise a block with it."""

    def load() -> Callable[[], object]:
        call = process_of(subject.open())
        return lambda: call(subject.pieces[0])

    return warm_starts(load)


def _fresh(subject: _Subject) -> FreshProcesses:
    imports = [*_IMPORTS]
    if subject.engine == "onnxruntime":
        imports.append("onnxruntime")
    return FreshProcesses(
        model=subject.path,
        load={"engine": subject.options.engine, "threads": subject.options.threads},
        imports=imports,
        arrays={"run": np.stack(subject.pieces)},
        roles=("run",),
    )
