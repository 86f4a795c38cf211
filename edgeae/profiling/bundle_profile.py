"""Bench a bundle: every promise, every stage, its start, its memory, its size."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from edgeae.profiling.blocks import measure
from edgeae.profiling.costs import artefacts_of, nets_of, priors_of
from edgeae.profiling.frames import Frames
from edgeae.profiling.loops import BatchLoop, FileLoop, net_loop
from edgeae.profiling.machine import machine
from edgeae.profiling.options import BenchOptions
from edgeae.profiling.packets import PacketLoop
from edgeae.profiling.process import FreshProcesses
from edgeae.profiling.profile import Profile
from edgeae.profiling.reference import Reference
from edgeae.profiling.rows import (
    FEW_ROUNDS,
    Row,
    Say,
    bundle_row,
    head,
    medians,
    rates,
    warm_starts,
)
from edgeae.profiling.stages import STAGES
from edgeae.profiling.subject import BundleSubject

__all__ = ["bundle_again", "profile_bundle"]

_SHARES = {"latency": 0.45, "nets": 0.05, "batch": 0.1, "file": 0.1, "growth": 0.15}
_COLD_STARTS = 5
_MEMORY_RUNS = 3
_IMPORTS = ("edgeae.tasks.stream", "edgeae.runtime.bundle")


def profile_bundle(
    path: str, options: BenchOptions | None = None, *, say: Say = lambda _: None
) -> Profile:
    """Measure a bundle on this machine.

    Args:
        path: of the bundle.
        options: what is asked for.
        say: called with a sentence at each step.

    Raises:
        ModelError: there is no such bundle, or it cannot be used.
        VersionError: it was made by a newer version.
        ConfigError: an option makes no sense.
        SignalError: the input file does not fit the bundle.
    """
    options = options or BenchOptions()
    about = machine()
    subject = BundleSubject(path, options)
    bundle, frames = subject.bundle, subject.frames
    budget = {name: share * options.duration_s for name, share in _SHARES.items()}
    say(f"{bundle.name}: frames of {frames.items} items, {len(subject.promises)} promise(s)")
    frame_s = subject.fit_frames(budget["latency"])
    latency = _latency(subject, budget["latency"], say)
    say("nets alone, batches, whole files")
    nets = _nets(subject, budget["nets"])
    batch = _batches(subject, budget["batch"], frame_s)
    files = _files(subject, budget["file"], frame_s)
    say("start, memory and its growth, in fresh processes")
    warm = _warm_start(subject)
    with _fresh(subject) as fresh:
        cold = [fresh.cold_start(role, _COLD_STARTS) for role in fresh.roles]
        memory = fresh.memory(_MEMORY_RUNS)
        growth = fresh.growth(n_frames=options.growth_frames, seconds=budget["growth"])
    return Profile(
        data={
            **head(about),
            "subject": bundle_row(bundle, subject.engine),
            "options": options.to_json() | {"frame_items": frames.items},
            "input": {
                "source": frames.source,
                "items": len(frames.whole),
                "samples_per_item": int(frames.whole[:1].size),
                "dtype": frames.whole.dtype.name,
                "rate_hz": frames.rate_hz,
                "frames_per_block": len(subject.pieces),
            },
            "latency": latency,
            "batch": batch,
            "file": files,
            "start": {"cold": cold, "warm": warm},
            "memory": memory,
            "growth": growth,
            "artefacts": artefacts_of(bundle),
            "nets": nets,
            "priors": priors_of(bundle, frames.items),
        }
    )


def bundle_again(path: str, options: BenchOptions, parts: Collection[str]) -> Row:
    """Measure some parts anew: what `profile_bundle` has under ``latency`` or ``start``."""
    subject = BundleSubject(path, options)
    budget = _SHARES["latency"] * options.duration_s
    subject.fit_frames(budget)
    found: Row = {}
    if "latency" in parts:
        found["latency"] = _latency(subject, budget, lambda _: None)
    if "start" in parts:
        warm = _warm_start(subject)
        with _fresh(subject) as fresh:
            cold = [fresh.cold_start(role, 2 * _COLD_STARTS) for role in fresh.roles]
        found["start"] = {"cold": cold, "warm": warm}
    return found


def _latency(subject: BundleSubject, budget_s: float, say: Say) -> list[Row]:
    """Each promise, frame by frame, with its stages."""
    loops = [subject.loop(promise, subject.pieces) for promise in subject.promises]
    probes = STAGES.get(str(subject.bundle.manifest.raw["task"]), {})
    found = measure(loops, probes, budget_s=budget_s, reference=Reference(), say=say)
    sizes = {loop.name: float(np.median(loop.sizes)) for loop in loops}
    frames = subject.frames
    return [
        measured.to_json()
        | {"packet_p50_bytes": sizes[measured.workload]}
        | _rates(float(measured.times.mean()) / 1e9, frames.items, frames)
        for measured in found
    ]


def _rates(seconds: float, n_items: int, frames: Frames) -> Row:
    return rates(seconds, n_items, frames.whole[:1].size, frames.rate_hz)


def _nets(subject: BundleSubject, budget_s: float) -> list[Row]:
    """Costs of the nets, and how long they take alone."""
    inputs = subject.net_inputs()
    if not inputs:
        return []
    bundle = subject.bundle
    nets = {"encoder.onnx": bundle.encoder(), "decoder.onnx": bundle.decoder()}
    loops = [net_loop(name, net, inputs[name]) for name, net in nets.items()]
    times = medians(loops, budget_s)
    rows = []
    for row in nets_of(bundle, {name: x.shape for name, x in inputs.items()}):
        name = row["net"]
        alone = {
            f"{direction}_p50_us": round(1e6 * seconds, 3)
            for (net, direction), (seconds, _) in times.items()
            if net == name
        }
        rows.append(row | {"engine": nets[name].engine} | alone)
    return rows


def _batches(subject: BundleSubject, budget_s: float, frame_s: float) -> list[Row]:
    """Several frames in one call, as many as were asked for or as time permits."""
    frames, promises = subject.frames, subject.promises
    fits = int(budget_s / (frame_s * len(promises) * (FEW_ROUNDS + 1)))
    n_frames = max(1, min(subject.options.batch, fits))
    loops = [
        BatchLoop(
            subject.bundle, subject.pieces, promise, n_frames=n_frames, grid=subject.grid(promise)
        )
        for promise in promises
    ]
    return [
        {
            "promise": name,
            "direction": direction,
            "frames_per_call": n_frames,
            "frame_p50_us": round(1e6 * seconds / n_frames, 3),
            **_rates(seconds, n_frames * frames.items, frames),
        }
        for (name, direction), (seconds, _) in medians(loops, budget_s).items()
    ]


def _files(subject: BundleSubject, budget_s: float, frame_s: float) -> list[Row]:
    """The whole signal, or as much of it as time permits, in one call as to a file."""
    frames, promises = subject.frames, subject.promises
    fits = budget_s / (frame_s * len(promises) * (FEW_ROUNDS + 1))
    n_items = int(max(frames.items, min(len(frames.whole), fits * frames.items)))
    loops = [FileLoop(subject.bundle, frames.whole[:n_items], promise) for promise in promises]
    found = medians(loops, budget_s)
    sizes = {loop.name: loop.n_bytes for loop in loops}
    return [
        {
            "promise": name,
            "direction": direction,
            "items": n_items,
            "file_bytes": sizes[name],
            "p50_ms": round(1e3 * seconds, 3),
            "n": n,
            **_rates(seconds, n_items, frames),
        }
        for (name, direction), (seconds, n) in found.items()
    ]


def _warm_start(subject: BundleSubject) -> Row:
    """Milliseconds to load the model again in a running process and code a frame with it."""
    promise = subject.promises[0]

    def load() -> Callable[[], object]:
        bundle = subject.open()
        if bundle.net is not None:
            bundle.encoder()
            bundle.decoder()
        len(bundle.sample_priors)  # reads the priors

        def first_use() -> None:
            grid = subject.grid(promise)
            PacketLoop(bundle, subject.pieces[:1], promise, grid=grid).encode_first()

        return first_use

    return warm_starts(load)


def _fresh(subject: BundleSubject) -> FreshProcesses:
    """Processes that code in the first promise the model has."""
    promise = subject.promises[0]
    packets = subject.loop(promise, subject.pieces).packets()
    options = subject.options
    keywords = dict(promise.keywords)
    if subject.options.input is None:
        keywords["grid"] = [list(grid) for grid in subject.bundle.signal.grids]
    imports = [*_IMPORTS]
    if "onnxruntime" in subject.engine:
        # Otherwise it would come with the first net, and could not be told from loading.
        imports.append("onnxruntime")
    return FreshProcesses(
        model=subject.path,
        load={"engine": options.engine, "threads": options.threads},
        imports=imports,
        arrays={
            "encode": np.stack(subject.pieces),
            "decode": {f"p{k}": np.frombuffer(p, np.uint8) for k, p in enumerate(packets)},
        },
        roles=("encode", "decode"),
        keywords=keywords,
    )
