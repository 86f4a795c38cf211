"""The tables of results/latency.csv and results/memory.csv."""

from __future__ import annotations

import json
from collections.abc import Callable

from page import RESULTS, Rows, find, markdown, number, read
from peers import BOUND, SPELLINGS

NETWORKS = {
    "ad01": "MLPerf Tiny's autoencoder",
    "ecg-encoder": "ECG encoder, 1,024 samples",
    "ecg-decoder": "ECG decoder, 1,024 samples",
}
WEIGHED = ("ad01", "ecg-encoder")
STREAM = "ecg-stream"
SHOWN = (
    ("edgeae, native", ("exact",)),
    ("edgeae, native", ("fp32",)),
    ("edgeae, onnxruntime", ("exact-int8", "exact")),
    ("onnxruntime", ("fp32",)),
    ("onnxruntime, IOBinding", ("fp32",)),
    ("onnxruntime", ("int8",)),
    ("LiteRT", ("fp32",)),
    ("LiteRT", ("int8",)),
    ("OpenVINO", ("int8",)),
    ("ExecuTorch", ("int8",)),
    ("torch eager", ("fp32",)),
)
"""What the README shows: a peer, and which spelling of it, the first that there is."""


def shown(network: str, metric: str, peer: str, spellings: tuple[str, ...]) -> str:
    """A figure of a single window, of the first spelling that has it."""
    rows = read("latency")
    for spelling in spellings:
        named = {"network": network, "batch": "1", "peer": peer, "spelling": spelling}
        if value := find(rows, **named, metric=metric):
            return value
    return ""


def title(peer: str, spelling: str) -> str:
    """Peer and spelling in words; ours stand out."""
    words = SPELLINGS.get(spelling, spelling)
    if (peer, spelling) == ("edgeae, native", "exact"):
        words = "exact, integers"
    return f"**{peer}**, {words}" if peer.startswith("edgeae") else f"{peer}, {words}"


def short_title(peer: str, spellings: tuple[str, ...]) -> str:
    """For a row of SHOWN: exact is exact, in whichever spelling."""
    words = title(peer, "exact" if "exact" in spellings else spellings[0])
    return words.partition(", integers")[0].replace(", free scales", "")


def summary() -> str:
    """A row per runtime; a single window of each network."""
    memory = read("memory")
    body = []
    for peer, spellings in SHOWN:
        if not any(shown(network, "p50", peer, spellings) for network in NETWORKS):
            continue
        row = [short_title(peer, spellings)]
        for network in NETWORKS:
            time = number(shown(network, "p50", peer, spellings), 1)
            ratio = number(shown(network, "ratio", peer, spellings), 2)
            row.append(f"{time} ({ratio})")
        sqnr = shown("ad01", "sqnr", peer, spellings)
        row.append("" if float(sqnr or 999) > 90 else number(sqnr, 1))
        found = [
            find(memory, network="ad01", peer=where, spelling=s, metric="opened")
            for where in (peer, peer.partition(", IO")[0])
            for s in spellings
        ]
        row.append(number(next(filter(None, found), ""), 0))
        body.append(row)
    head = ["µs per window (ratio)", *(NETWORKS[n].partition(",")[0] for n in NETWORKS)]
    return markdown([*head, "dB of int8", "MiB"], body)


def all_runtimes() -> str:
    """Every runtime on every network."""
    rows = read("latency")
    parts = []
    for network, name in NETWORKS.items():
        own = [row for row in rows if row["network"] == network]
        if own:
            parts.append(f"**{name}** (`{network}`)")
            parts.append(_one_network(own))
            parts += _left_out(own)
    return "\n\n".join(parts)


def _one_network(rows: Rows) -> str:
    names = dict.fromkeys((r["peer"], r["spelling"]) for r in rows if r["metric"] == "p50")
    body = []
    for peer, spelling in names:
        row = [title(peer, spelling)]
        for batch, digits in (("1", 1), ("196", 0)):
            named = {"peer": peer, "spelling": spelling, "batch": batch}
            row += [number(find(rows, **named, metric=m), digits) for m in ("p50", "p99")]
            row.append(number(find(rows, **named, metric="ratio"), 2))
        sqnr = find(rows, peer=peer, spelling=spelling, metric="sqnr", batch="1")
        row.append("" if not sqnr else "≥ 90" if float(sqnr) > 90 else number(sqnr, 1))
        body.append(row)
    head = ["µs per call", "1: p50", "p99", "ratio", "196: p50", "p99", "ratio", "dB"]
    return markdown(head, body)


def _left_out(rows: Rows) -> list[str]:
    found: dict[str, None] = {}
    for row in rows:
        if row["metric"] == "left_out":
            words = title(row["peer"], row["spelling"]).removeprefix(", ").replace("*", "")
            found[f"- {words}: {row['note']}"] = None
    notes = dict.fromkeys(row["note"] for row in rows if row["metric"] == "p50" and row["note"])
    lines = [f"- {note}" for note in notes if note != "int8 in and out"]
    lines = [*lines, *found]
    return ["Not in the table, or different:\n\n" + "\n".join(lines)] if lines else []


def wrapper() -> str:
    """edgeae's session around the bound call of the same graph."""
    rows = [row for row in read("latency") if row["batch"] == "1"]
    body = []
    for network in NETWORKS:
        for spelling, words in SPELLINGS.items():
            own = {"network": network, "spelling": spelling}
            ratio = find(rows, **own, metric="wrapper_ratio")
            if ratio:
                bare = find(rows, **own, peer=BOUND, metric="p50")
                over = find(rows, **own, metric="wrapper_overhead")
                body.append(
                    [f"{network}, {words}", number(bare, 1), number(over, 1), number(ratio, 2)]
                )
    return markdown(["", "bound call, µs", "wrapper adds, µs", "ratio"], body)


def frames() -> str:
    """Latency of the ECG codec, frame by frame."""
    rows = [row for row in read("latency") if row["network"] == STREAM]
    body = []
    for peer, promise in dict.fromkeys((row["peer"], row["spelling"]) for row in rows):
        row = [f"{promise}, {peer.partition(', ')[2]}"]
        for verb in ("encode", "decode"):
            for metric in ("p50", "p99"):
                named = {"peer": peer, "spelling": promise, "metric": f"{verb}_{metric}"}
                row.append(number(find(rows, **named), 2))
        body.append(row)
    return markdown(["ms per frame", "encode: p50", "p99", "decode: p50", "p99"], body)


def memory() -> str:
    """Resident memory over numpy's, and the file."""
    rows = read("memory")
    names = dict.fromkeys((row["peer"], row["spelling"]) for row in rows)
    body = []
    for peer, spelling in names:
        row = [title(peer, spelling)]
        for network in WEIGHED:
            own = {"network": network, "peer": peer, "spelling": spelling}
            row.append(number(find(rows, **own, metric="opened"), 1))
            row.append(number(find(rows, **own, metric="peak"), 1))
            size = find(rows, **own, metric="file")
            row.append(number(str(float(size) / 1024) if size else "", 0))
        if any(cell != "–" for cell in row[1:]):
            body.append(row)
    head = [""]
    for network in WEIGHED:
        head += [f"{network}: open, MiB", "peak", "file, KiB"]
    return markdown(head, body)


def stream_memory() -> str:
    """The whole codec on either engine."""
    rows = [row for row in read("memory") if row["network"] == STREAM]
    body = []
    for peer in dict.fromkeys(row["peer"] for row in rows):
        body.append(
            [peer]
            + [number(find(rows, peer=peer, metric=m), 1) for m in ("opened", "steady", "peak")]
        )
    return markdown(["MiB over numpy's", "encoding", "and decoding", "peak"], body)


def system_lines() -> str:
    """On what it was measured."""
    lines = []
    for suite in ("latency", "memory"):
        path = RESULTS / f"{suite}.system.json"
        if path.exists():
            s = json.loads(path.read_text())
            packages = ", ".join(f"{name} {version}" for name, version in s["packages"].items())
            lines.append(
                f"- {suite}: {s['cpu']}, {s['cores']} cores, {s['system']}, Python {s['python']}, "
                f"{packages}; {s['measured']}, commit {s['commit']}, "
                f"load {s['load_average'][0]:g}"
            )
    return "\n".join(lines)


RUNTIME_TABLES: dict[str, Callable[[], str]] = {
    "latency": summary,
    "latency-all": all_runtimes,
    "wrapper": wrapper,
    "frames": frames,
    "memory": memory,
    "memory-stream": stream_memory,
    "runtime-system": system_lines,
}
