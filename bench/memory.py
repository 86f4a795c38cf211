"""Weigh every runtime on the same networks: resident memory in fresh processes, and files.

    EDGEAE_DATA=... python bench/memory.py [NETWORK...] [--runs 3]

Each process imports numpy, notes its memory, opens the runtime and the network, runs it 200 times
on one window, and notes it again; what is filed is the difference, the median of some processes.
Only Linux can tell. ``ecg-stream`` codes 64 frames with a StreamEncoder instead, and decodes them.
Writes results/memory.csv and results/memory.system.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peers
from suite import file_suite, one_thread, say

FIELDS = ("network", "peer", "spelling", "metric", "value", "unit", "n", "note")
SKIPPED = ("onnxruntime, IOBinding", peers.BOUND)  # the same memory as session.run
STREAM = "ecg-stream"
CALLS = 200
ENGINES = ("native", "onnxruntime")

Row = tuple[Any, ...]


def memory_kib() -> tuple[int, int]:
    """Resident now, and at most."""
    found = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found[name] = int(value.split()[0])
    return found["VmRSS"], found["VmHWM"]


# -- inside a fresh process ------------------------------------------------------------------------


def weigh_net(peer: str, path: str, window: str) -> dict[str, float]:
    """KiB over numpy's: with the network open, and after the calls."""
    x = np.load(window)
    (chosen,) = (p for p in peers.PEERS if p.name == peer)
    base, _ = memory_kib()
    run = chosen.open(Path(path), x)
    opened, _ = memory_kib()
    for _ in range(CALLS):
        run(x)
    steady, peak = memory_kib()
    return {"opened": opened - base, "steady": steady - base, "peak": peak - base}


def weigh_stream(engine: str, path: str, frames: str) -> dict[str, float]:
    """KiB over numpy's of a program that codes, and of one that decodes as well."""
    x = np.load(frames)
    base, _ = memory_kib()
    import edgeae

    bundle = edgeae.load(path, engine=engine)
    encoder = edgeae.StreamEncoder(bundle, profile="radio", frame_length=x.shape[1], grid=(1, 1))
    packets = [encoder.write(frame) for frame in x]
    encoded, _ = memory_kib()
    decoder = edgeae.StreamDecoder(bundle)
    for packet in packets:
        decoder.write(packet)
        decoder.end_packet()
    steady, peak = memory_kib()
    return {"opened": encoded - base, "steady": steady - base, "peak": peak - base}


# -- outside ---------------------------------------------------------------------------------------


def weighed(what: str, name: str, path: Path, source: Path, runs: int) -> dict[str, float] | str:
    """Medians over fresh processes, or why there are none."""
    command = [sys.executable, __file__, "--child", what, name, str(path), str(source)]
    found: dict[str, list[float]] = {}
    for _ in range(runs):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["no message"])[-1][:160]
        for metric, kib in json.loads(done.stdout.strip().splitlines()[-1]).items():
            found.setdefault(metric, []).append(kib)
    return {metric: statistics.median(values) / 1024 for metric, values in found.items()}


def _rows(name: tuple[str, ...], found: dict[str, float] | str, runs: int) -> Iterator[Row]:
    if isinstance(found, str):
        say(f"{', '.join(name)}: {found}")
        yield (*name, "left_out", "", "", 0, found)
        return
    for metric, value in found.items():
        yield (*name, metric, value, "MiB", runs, "")


def net_rows(network: str, runs: int) -> Iterator[Row]:
    """Every runtime on one network."""
    from networks import load_network

    net = load_network(network)
    with tempfile.TemporaryDirectory() as folder:
        for artefact in peers.artefacts(net, 1):
            name = (network, artefact.peer.name, artefact.spelling)
            if artefact.peer.name in SKIPPED:
                continue
            if artefact.why or artefact.path is None:
                yield from _rows(name, artefact.why, 0)
                continue
            x, window = net.windows[:1], Path(folder) / "window.npy"
            if artefact.path.suffix == ".tflite":
                x = peers.litert_ends(artefact.path)[0](x)
            np.save(window, x)
            yield (*name, "file", float(artefact.path.stat().st_size), "bytes", 1, net.note)
            found = weighed("net", artefact.peer.name, artefact.path, window, runs)
            yield from _rows(name, found, runs)


def stream_rows(runs: int) -> Iterator[Row]:
    """The codec on either engine."""
    from networks import ROOT, ecg_frames

    import edgeae

    path = ROOT / "export" / "models" / "ecg"
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "frames.npy"
        np.save(frames, np.stack(ecg_frames(edgeae.load(path), 64)[0]))
        for engine in ENGINES:
            name = (STREAM, f"edgeae, {engine}", "lossy")
            yield from _rows(name, weighed("stream", engine, path, frames, runs), runs)


def main() -> int:
    """Measure and write."""
    if sys.argv[1:2] == ["--child"]:
        what, *arguments = sys.argv[2:]
        weigh = {"net": weigh_net, "stream": weigh_stream}[what]
        print(json.dumps(weigh(*arguments)))
        return 0
    from networks import NAMES

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = (*NAMES, STREAM)
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--runs", type=int, default=3, help="processes each (3)")
    arguments = parser.parse_args()
    if unknown := set(arguments.networks) - set(names):
        parser.error(f"no such network: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if not Path("/proc/self/status").exists():
        say("only Linux tells how much memory a process has")
        return 1
    one_thread()
    began = time.perf_counter()
    chosen = arguments.networks or names
    for name in chosen:
        say(f"{name} ({time.perf_counter() - began:.0f} s)")
        rows = stream_rows(arguments.runs) if name == STREAM else net_rows(name, arguments.runs)
        file_suite("memory", FIELDS, list(rows), replaced=name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
