"""Bench any ONNX file: one call, batches, start and memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeae.errors import ConfigError, EdgeAEError, ModelError
from edgeae.footprint.graph import describe_graph
from edgeae.profiling.blocks import Measured, measure
from edgeae.profiling.graph_runs import GraphRun, feed_for, inputs_of, native_net, open_run
from edgeae.profiling.loops import CallLoop
from edgeae.profiling.machine import machine
from edgeae.profiling.options import BenchOptions
from edgeae.profiling.process import FreshProcesses
from edgeae.profiling.profile import Profile
from edgeae.profiling.reference import Reference
from edgeae.profiling.rows import head
from edgeae.runtime.engines import check_engine
from edgeae.runtime.session import open_graph

__all__ = ["graph_again", "profile_graph"]

_SHARES = {"latency": 0.6, "batch": 0.15, "growth": 0.15}
_COLD_STARTS = 5
_MEMORY_RUNS = 3

Say = Callable[[str], None]
Row = dict[str, Any]


class _Subject:
    """An ONNX file, its inputs, and the ways to run it."""

    def __init__(self, path: str, options: BenchOptions) -> None:
        for name, value in (("input", options.input), ("frame", options.frame_items)):
            if value is not None:
                raise ConfigError(f"--{name} goes with a bundle; for an ONNX file give --shape")
        check_engine(options.engine)
        self.path, self.options, self.name = path, options, Path(path).name
        self.data = _read(path)
        self.inputs, self.peak = inputs_of(self.data, name=self.name)
        self.feed = feed_for(self.inputs, options.shapes, peak=self.peak)
        opened = open_run(self.data, name=self.name, engine=options.engine, threads=options.threads)
        self.engine = opened.engine

    def loop(self, name: str, feed: Mapping[str, Any]) -> CallLoop:
        """Every way to run the graph that the engine asked for allows."""
        calls: dict[str, Callable[[Any], Any]] = {}
        if self.options.engine != "native":
            opened = open_graph(self.data, name=self.name, threads=self.options.threads)
            calls["session.run"] = opened.run
            calls["IOBinding"] = GraphRun(opened).prepare(feed)
        if self.options.engine != "onnxruntime":
            net = native_net(self.data, name=self.name)
            if net is not None:
                calls["native"] = GraphRun(net).prepare(feed)
        return CallLoop(name, calls, feed)

    def batch_feed(self) -> dict[str, Any] | None:
        """Inputs with a leading axis of ``batch``, if that is free."""
        batch = self.options.batch
        if batch == 1 or not self.inputs:
            return None
        shapes = {name: (batch, *x.shape[1:]) for name, x in self.feed.items() if x.ndim}
        try:
            feed = feed_for(self.inputs, shapes, peak=self.peak)
            open_graph(self.data, name=self.name).run(feed)
        except EdgeAEError:
            return None
        return feed


def profile_graph(
    path: str, options: BenchOptions | None = None, *, say: Say = lambda _: None
) -> Profile:
    """Measure an ONNX file on this machine.

    Args:
        path: of the file.
        options: what is asked for; ``shapes`` fills free axes.
        say: called with a sentence at each step.

    Raises:
        ModelError: there is no such file, or it cannot be run.
        ConfigError: an option makes no sense, or a shape that the graph does not take.
    """
    options = options or BenchOptions()
    about = machine()
    subject = _Subject(path, options)
    budget = {name: share * options.duration_s for name, share in _SHARES.items()}
    say(f"{subject.name}: {', '.join(f'{k} {list(x.shape)}' for k, x in subject.feed.items())}")
    latency = _latency(subject, budget["latency"], say)
    batch = []
    feed = subject.batch_feed()
    if feed is not None:
        say(f"batches of {options.batch}")
        batch = _batch(subject, feed, budget["batch"])
    say("start, memory and its growth, in fresh processes")
    with _fresh(subject) as fresh:
        cold = [fresh.cold_start("run", _COLD_STARTS)]
        memory = fresh.memory(_MEMORY_RUNS)
        growth = fresh.growth(n_frames=options.growth_frames, seconds=budget["growth"])
    return Profile(
        data={
            **head(about),
            "subject": {
                "kind": "onnx",
                "name": subject.name,
                "fingerprint": hashlib.sha256(subject.data).hexdigest()[:16],
                "engine": subject.engine,
            },
            "options": options.to_json(),
            "input": {
                "source": "noise",
                "shapes": {name: list(x.shape) for name, x in subject.feed.items()},
            },
            "latency": latency,
            "batch": batch,
            "start": {"cold": cold},
            "memory": memory,
            "growth": growth,
            "artefacts": {
                "files_bytes": {subject.name: len(subject.data)},
                "total_bytes": len(subject.data),
                "device_bytes": len(subject.data),
            },
            "nets": [_costs(subject)],
        }
    )


def graph_again(path: str, options: BenchOptions, parts: Collection[str]) -> Row:
    """Measure some parts anew: what `profile_graph` has under ``latency`` or ``start``."""
    subject = _Subject(path, options)
    found: Row = {}
    if "latency" in parts:
        found["latency"] = _latency(subject, _SHARES["latency"] * options.duration_s)
    if "start" in parts:
        with _fresh(subject) as fresh:
            found["start"] = {"cold": [fresh.cold_start("run", 2 * _COLD_STARTS)]}
    return found


def _latency(subject: _Subject, budget_s: float, say: Say = lambda _: None) -> list[Row]:
    loop = subject.loop(subject.name, subject.feed)
    found = measure([loop], {}, budget_s=budget_s, reference=Reference(), say=say)
    return [measured.to_json() | _rate(measured, 1) for measured in found]


def _batch(subject: _Subject, feed: Mapping[str, Any], budget_s: float) -> list[Row]:
    batch = subject.options.batch
    loop = subject.loop(subject.name, feed)
    found = measure([loop], {}, budget_s=budget_s, reference=Reference())
    return [
        {
            "promise": measured.workload,
            "direction": measured.direction,
            "frames_per_call": batch,
            "frame_p50_us": round(float(np.median(measured.times)) / 1e3 / batch, 3),
            **_rate(measured, batch),
        }
        for measured in found
    ]


def _rate(measured: Measured, n_items: int) -> Row:
    return {"items_per_s": round(n_items * 1e9 / float(measured.times.mean()), 1)}


def _costs(subject: _Subject) -> Row:
    """Operations, parameters and memory; only bytes where the graph cannot be followed."""
    row: Row = {
        "net": subject.name,
        "input_shape": {name: list(x.shape) for name, x in subject.feed.items()},
        "engine": subject.engine,
    }
    try:
        shapes = {name: x.shape for name, x in subject.feed.items()}
        found = describe_graph(subject.data, shapes, name=subject.name)
    except EdgeAEError as error:
        return row | {"uncounted": str(error)}
    return row | {
        "macs": found.macs,
        "parameters": found.n_parameters,
        "weight_bytes": found.weight_bytes,
        "arena_bytes": found.arena_bytes,
    }


def _fresh(subject: _Subject) -> FreshProcesses:
    imports = ["edgeae.profiling.graph_runs"]
    if subject.engine == "onnxruntime":
        imports.append("onnxruntime")
    options = subject.options
    return FreshProcesses(
        model=subject.path,
        load={"name": subject.name, "engine": options.engine, "threads": options.threads},
        imports=imports,
        arrays={"run": subject.feed},
        roles=("run",),
        graph=True,
    )


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
