"""The tables of results/denoise.csv."""

from __future__ import annotations

import json
from collections.abc import Callable

from page import RESULTS, Rows, find, markdown, number, read

OURS, NOISY = "edgeae", "noisy"
DIGITS = {"snr": 1, "si_sdr": 1, "psnr": 2, "ssim": 3, "pesq": 2, "stoi": 1, "r_peak_f1": 4}
WORDS = {
    "snr": "SNR, dB",
    "si_sdr": "SI-SDR, dB",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "pesq": "PESQ",
    "stoi": "STOI, %",
    "r_peak_f1": "F1 of R peaks",
}
SHOWN = (
    ("ecg", "ecg", "snr", "ECG, {}: SNR"),
    ("ecg", "ecg", "r_peak_f1", "R peaks found in it: F1"),
    ("vibration", "fan-vibration", "snr", "Vibration, {}: SNR"),
    ("images", "Set12", "psnr", "Photographs, {}: PSNR"),
    ("speech", "fsdd", "si_sdr", "Speech, {}: SI-SDR"),
    ("speech", "fsdd", "pesq", "the same: PESQ"),
    ("speech", "fsdd", "stoi", "the same: STOI, %"),
)
"""What the README shows: task, data, metric, words."""


def rows_of(task: str, data: str | None = None) -> Rows:
    """Rows of a task with a value."""
    return [
        row
        for row in read("denoise")
        if row["task"] == task and row["metric"] != "left_out" and data in (None, row["data"])
    ]


def in_order(rows: Rows, field: str) -> list[str]:
    """The values of a field, as they first come; levels by size."""
    found = list(dict.fromkeys(row[field] for row in rows))
    return sorted(found, key=float) if field == "level" else found


def levels_in_words(task: str, levels: list[str]) -> str:
    """Such as 0 / 6 / 12 dB."""
    joined = " / ".join(levels)
    return f"σ {joined}" if task == "images" else f"{joined} dB"


def cell(rows: Rows, levels: list[str], method: str, metric: str) -> str:
    """A method's values at each level."""
    values = [find(rows, level=level, method=method, metric=metric) for level in levels]
    if not any(values):
        return "–"
    told = (number(value, DIGITS[metric]) for value in values)
    return " / ".join("0.0" if value == "-0.0" else value for value in told)


def best_peer(rows: Rows, levels: list[str], metric: str) -> str:
    """The other method with the best mean."""
    scores = {}
    for method in in_order(rows, "method"):
        if method.partition(",")[0] in (OURS, NOISY):
            continue
        values = [find(rows, level=level, method=method, metric=metric) for level in levels]
        if all(values):
            scores[method] = sum(map(float, values))
    return max(scores, key=lambda method: scores[method], default="")


def summary() -> str:
    """A row per task and metric: noisy, ours, and the best of the others."""
    body = []
    for task, data, metric, words in SHOWN:
        rows = rows_of(task, data)
        levels = in_order(rows, "level")
        if not levels:
            continue
        peer = best_peer(rows, levels, metric)
        note = next((row["note"] for row in rows if row["method"] == peer), "")
        ahead = note.partition(";")[0] if "whole signal" in note else ""
        body.append(
            [
                words.format(levels_in_words(task, levels)),
                cell(rows, levels, NOISY, metric),
                f"**{cell(rows, levels, OURS, metric)}**",
                cell(rows, levels, peer, metric),
                f"{peer} ({ahead})" if ahead else peer,
            ]
        )
    return markdown(["", "noisy", "edgeae", "best other", "which"], body)


def task_table(task: str) -> str:
    """Every method of a task, at every level."""
    parts = []
    main = {shown[0]: shown[1] for shown in SHOWN}
    for data in in_order(rows_of(task), "data"):
        rows = rows_of(task, data)
        levels = in_order(rows, "level")
        metrics = in_order(rows, "metric")
        if task in ("ecg", "vibration") and data != main[task]:
            metrics = ["snr"]
        methods = sorted(in_order(rows, "method"), key=lambda m: (m.startswith(OURS), m != NOISY))
        body = []
        for method in methods:
            name = f"**{method}**" if method.startswith(OURS) else method
            body.append([name, *(cell(rows, levels, method, metric) for metric in metrics)])
        n = max(int(row["n"]) for row in rows)
        pieces = "piece" if n == 1 else "pieces"
        title = f"{data}, {n} {pieces}, {levels_in_words(task, levels)}"
        parts.append(markdown([title, *(WORDS[m] for m in metrics)], body))
    return "\n\n".join([*parts, *chosen(task)])


def chosen(task: str) -> list[str]:
    """How each method was set, and what is missing."""
    notes: dict[str, list[str]] = {}
    for row in rows_of(task):
        if row["note"] and row["note"] not in notes.setdefault(row["method"], []):
            notes[row["method"]].append(row["note"])
    lines = [f"- {method}: {_joined(found)}" for method, found in notes.items() if method != NOISY]
    lines += [
        f"- {row['method']}: left out, {row['note']}"
        for row in read("denoise")
        if row["task"] == task and row["metric"] == "left_out"
    ]
    return ["\n".join(lines)] if lines else []


def _joined(notes: list[str]) -> str:
    """Notes that differ by level in their settings alone, as one."""
    parts = [note.split("; ") for note in notes]
    first = parts[0][:-1]
    settings = [part[-1].removesuffix(", tuned on training files") for part in parts]
    settings = [s.removesuffix(", tuned on training images") for s in settings]
    tail = parts[0][-1]
    told = " / ".join(settings) if len(notes) > 1 else tail
    if len(notes) > 1 and ", tuned on" in tail:
        told += ", tuned on" + tail.partition(", tuned on")[2]
    return "; ".join([*first, told])


def robust() -> str:
    """Conditions: noisy, and what ours makes of it, as it is and with the level measured."""
    found = rows_of("robust")
    tasks = in_order(found, "data")
    parts = []
    for task in tasks:
        rows = [row for row in found if row["data"] == task]
        body = []
        metric = "snr"
        methods = [m for m in in_order(rows, "method") if m.startswith(OURS)]
        for condition in dict.fromkeys(row["level"] for row in rows):
            own = [row for row in rows if row["level"] == condition]
            if own[0]["metric"] == "below_signal":
                below = f"{float(own[0]['value']):.0f} dB below the signal"
                body.append([condition, "–", below, *([""] * (len(methods) - 1))])
                continue
            metric = own[0]["metric"]
            values = [find(own, method=method) for method in (NOISY, *methods)]
            body.append([condition, *(number(value, DIGITS[metric]) for value in values)])
        parts.append(markdown([task, f"noisy: {WORDS[metric]}", *methods], body))
    return "\n\n".join(parts)


def system_line() -> str:
    """On what it was measured."""
    path = RESULTS / "denoise.system.json"
    if not path.exists():
        return ""
    s = json.loads(path.read_text())
    packages = ", ".join(f"{name} {version}" for name, version in s["packages"].items())
    return f"Python {s['python']}, {packages}; {s['measured']}, commit {s['commit']}"


DENOISE_TABLES: dict[str, Callable[[], str]] = {
    "denoise": summary,
    "denoise-ecg": lambda: task_table("ecg"),
    "denoise-images": lambda: task_table("images"),
    "denoise-speech": lambda: task_table("speech"),
    "denoise-vibration": lambda: task_table("vibration"),
    "denoise-robust": robust,
    "denoise-system": system_line,
}
