"""Time every runtime on the same networks, one call after another, one thread everywhere.

    EDGEAE_DATA=... python bench/latency.py [NETWORK...] [--seconds 24]

A round gives each runtime one block of calls, in an order that is shuffled anew, so that all meet
the same machine. A ratio is the median over rounds of (median of the block) / (median of the
block of onnxruntime's ``session.run`` on the float net in the same round). Before anything is timed
every runtime must give the right numbers: of an exact net the very bits; else see LIMITS_DB. What
does not is not timed, and is listed with the reason.

``ecg-stream`` is a StreamEncoder and a StreamDecoder on frames of 1,024 samples, by promise.
Writes results/latency.csv and results/latency.system.json.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from networks import NAMES, ROOT, Network, ecg_frames, load_network
from peers import BOUND, REFERENCE, SPELLINGS, Run, artefacts, litert_ends
from suite import file_suite, one_thread, say

import edgeae

if TYPE_CHECKING:
    from edgeae.profiling.packets import PacketLoop

FIELDS = ("network", "batch", "peer", "spelling", "metric", "value", "unit", "n", "note")
BATCHES = (1, 196)
STREAM = "ecg-stream"
BLOCK_SECONDS = {1: 0.006, 196: 0.03}
MAX_CALLS = 1000
LEAST_ROUNDS = 3
LIMITS_DB = {"fp32": 90.0, "int8": 10.0}
REFERENCE_FILE_DB = 25.0
FRAMES = 64
PROMISES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lossy", {}),
    ("max error 5", {"max_error": 5}),
    ("max error 1", {"max_error": 1}),
    ("lossless", {"lossless": True}),
)

Row = tuple[Any, ...]


@dataclass(kw_only=True)
class Case:
    """Something to time.

    Attributes:
        name: peer and spelling.
        run: one call.
        inputs: what to call it with, in turn.
        note: for the table.
        sqnr_db: against the float net; 999 where exact bits are equal to the exact graph's.
        n_calls: calls in a block.
        taken: nanoseconds of every call.
        medians: per round the block's median.
    """

    name: tuple[str, str]
    run: Callable[[Any], Any]
    inputs: Sequence[Any]
    note: str = ""
    sqnr_db: float | None = None
    n_calls: int = 1
    taken: list[int] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)

    def warm(self, seconds: float) -> None:
        """Run for a while, and choose how many calls make a block."""
        self.block(2)
        self.n_calls = 1
        once = self.block(5) / 1e9
        self.n_calls = int(np.clip(seconds / max(once, 1e-7), 1, MAX_CALLS))
        self.block(self.n_calls)
        self.taken.clear()
        self.medians.clear()

    def block(self, n_calls: int) -> float:
        """Time so many calls, after a few that bring its data back; their median."""
        clock, run, inputs = time.perf_counter_ns, self.run, self.inputs
        for k in range(max(1, n_calls // 10)):
            run(inputs[-1 - k % len(inputs)])
        times = []
        for k in range(n_calls):
            x = inputs[k % len(inputs)]
            began = clock()
            run(x)
            times.append(clock() - began)
        self.taken += times
        self.medians.append(statistics.median(times))
        return self.medians[-1]


def alternate(cases: Sequence[Case | StreamCase], *, block_seconds: float, seconds: float) -> int:
    """Give every case a block per round, until time is up; the number of rounds."""
    for case in cases:
        case.warm(block_seconds)
    order, rng = list(cases), random.Random(0)
    ends, rounds = time.perf_counter() + seconds, 0
    gc.collect()
    gc.disable()
    try:
        while rounds < LEAST_ROUNDS or time.perf_counter() < ends:
            rng.shuffle(order)
            for case in order:
                case.block(case.n_calls)
            rounds += 1
    finally:
        gc.enable()
    return rounds


# -- nets ------------------------------------------------------------------------------------------


def net_rows(network: Network, batch: int, seconds: float) -> Iterator[Row]:
    """Every runtime on one network."""
    windows = network.windows
    inputs = [np.ascontiguousarray(windows[i : i + batch]) for i in range(0, len(windows), batch)]
    inputs = [x for x in inputs if len(x) == batch]
    cases = []
    left_out = [(("", kind), why) for kind, why in network.missing.items() if kind in SPELLINGS]
    expected: dict[str, np.ndarray] = {}
    for artefact in artefacts(network, batch):
        name = (artefact.peer.name, artefact.spelling)
        if artefact.why or artefact.path is None:
            left_out.append((name, artefact.why))
            continue
        fed, back, note = inputs, _same, ""
        try:
            if artefact.path.suffix == ".tflite":
                into, back = litert_ends(artefact.path)
                fed = [into(x) for x in inputs]
                note = "int8 in and out" if fed[0].dtype == np.int8 else ""
            run = artefact.peer.open(artefact.path, fed[0])
            told = _judged(name, run, fed, back, expected)
        except Exception as error:  # a peer's own, of any kind
            told = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
        if isinstance(told, str):
            left_out.append((name, told))
        else:
            cases.append(Case(name=name, run=run, inputs=fed, note=note, sqnr_db=told))
    for name, why in left_out:
        say(f"{network.name}, batch {batch}: {', '.join(filter(None, name))}: {why}")
        yield (network.name, batch, *name, "left_out", "", "", 0, why)
    rounds = alternate(cases, block_seconds=BLOCK_SECONDS.get(batch, 0.01), seconds=seconds)
    for case in cases:
        note = "; ".join(part for part in (case.note, network.note) if part)
        for metric, value, unit, n in _figures(case, cases, rounds):
            yield (network.name, batch, *case.name, metric, value, unit, n, note)


def _same(y: np.ndarray) -> np.ndarray:
    return y


def _judged(
    name: tuple[str, str],
    run: Run,
    inputs: Sequence[np.ndarray],
    back: Callable[[np.ndarray], np.ndarray],
    expected: dict[str, np.ndarray],
) -> float | str:
    """SQNR in dB, or why it is not the right network.

    Args:
        name: peer and spelling.
        run: its call.
        inputs: all of them.
        back: to floats.
        expected: the reference's outputs, by spelling; filled by the first, onnxruntime.
    """
    peer, spelling = name
    if peer == BOUND:
        return 999.0
    outputs = np.concatenate([np.array(back(run(x)), np.float32) for x in inputs])
    kind = "exact" if spelling.startswith("exact") else spelling
    if peer == REFERENCE[0] and kind not in expected:
        expected[kind] = outputs
    plain = expected["fp32"].astype(np.float64)
    noise = float(np.mean((outputs - plain) ** 2))
    found = 10 * np.log10(float(np.mean(plain**2)) / noise) if noise else 999.0
    if kind == "exact":
        n = int(np.count_nonzero(outputs != expected["exact"]))
        return found if n == 0 else f"gives other bits for {n:,} of {outputs.size:,} values"
    limit = LIMITS_DB.get(kind, REFERENCE_FILE_DB)
    if found < limit:
        return f"{found:.1f} dB from the float net, {limit:g} are expected"
    return found


def _figures(
    case: Case, cases: Sequence[Case], rounds: int
) -> Iterator[tuple[str, float, str, int]]:
    times = np.array(case.taken) / 1e3
    yield "p50", float(np.percentile(times, 50)), "us", times.size
    yield "p99", float(np.percentile(times, 99)), "us", times.size
    by_name = {other.name: np.array(other.medians) for other in cases}
    own = by_name[case.name]
    if REFERENCE in by_name:
        ratios = own / by_name[REFERENCE]
        for metric, q in (("ratio", 50), ("ratio_p25", 25), ("ratio_p75", 75)):
            yield metric, float(np.percentile(ratios, q)), "", rounds
    if case.sqnr_db is not None and case.name[0] != BOUND:
        yield "sqnr", case.sqnr_db, "dB", len(case.inputs)
    bare = by_name.get((BOUND, case.name[1]))
    if case.name[0] == "edgeae, onnxruntime" and bare is not None:
        yield "wrapper_ratio", float(np.median(own / bare)), "", rounds
        yield "wrapper_overhead", float(np.median(own - bare)) / 1e3, "us", rounds


# -- streams ---------------------------------------------------------------------------------------


class StreamCase:
    """A running StreamEncoder and StreamDecoder; a block is some frames there and back.

    Attributes:
        name: engine and promise.
        taken: nanoseconds of every frame, by direction.
    """

    def __init__(self, name: tuple[str, str], loop: PacketLoop) -> None:
        self.name, self._loop = name, loop
        self.taken: dict[str, list[int]] = {}
        self.n_calls = 1

    def warm(self, seconds: float) -> None:
        """Run for a while; a block is all the frames, however long that takes."""
        ends = time.perf_counter() + seconds
        self.block(1)
        while time.perf_counter() < ends:
            self.block(1)
        self.taken.clear()

    def block(self, n_calls: int) -> None:
        """Encode every frame, then decode every packet."""
        from edgeae.profiling.recorder import Recorder

        for _ in range(n_calls):
            recorder = Recorder()
            self._loop.run(recorder)
            for verb, times in recorder.taken.items():
                self.taken.setdefault(verb, []).extend(times)


def stream_rows(seconds: float) -> Iterator[Row]:
    """Frames of the ECG codec: encoding, and decoding what came of it."""
    from edgeae.profiling.packets import PacketLoop, PromiseSpec

    cases, note = [], ""
    for engine in ("native", "onnxruntime"):
        bundle = edgeae.load(ROOT / "export" / "models" / "ecg", engine=engine)
        frames, note = ecg_frames(bundle, FRAMES)
        for promise, keywords in PROMISES:
            name = (f"edgeae, {engine}", promise)
            spec = PromiseSpec(name=promise, keywords=keywords)
            try:
                case = StreamCase(name, PacketLoop(bundle, frames, spec, grid=(1, 1)))
                case.block(1)
            except edgeae.EdgeAEError as error:
                say(f"{STREAM}: {', '.join(name)}: {error}")
                yield (STREAM, 1, *name, "left_out", "", "", 0, str(error))
                continue
            cases.append(case)
    alternate(cases, block_seconds=0.1, seconds=seconds)
    for case in cases:
        for verb, taken in case.taken.items():
            for metric, q in (("p50", 50), ("p99", 99)):
                value = float(np.percentile(np.array(taken) / 1e6, q))
                yield (STREAM, 1, *case.name, f"{verb}_{metric}", value, "ms", len(taken), note)


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = (*NAMES, STREAM)
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--seconds", type=float, default=24.0, help="for each table (24)")
    arguments = parser.parse_args()
    if unknown := set(arguments.networks) - set(names):
        parser.error(f"no such network: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    one_thread()
    began = time.perf_counter()
    for name in arguments.networks or names:
        say(f"{name} ({time.perf_counter() - began:.0f} s)")
        if name == STREAM:
            rows = list(stream_rows(arguments.seconds))
        else:
            network = load_network(name)
            rows = [row for batch in BATCHES for row in net_rows(network, batch, arguments.seconds)]
        file_suite("latency", FIELDS, rows, replaced=name)
    say(f"{time.perf_counter() - began:.0f} s, load {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
