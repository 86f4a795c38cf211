"""Compare two results of a bench: which figures got worse by more than they may.

A latency counts as worse only where two measures of it agree, and each is taken in units of the
reference that ran beside it, so that neither a drifting clock nor a busy neighbour makes one:

floor   the mean over a block's frames of the least that each frame ever took: what a frame takes
        when nothing disturbs it.
blocks  the lower quartile over all blocks of the block's median.

Cold and warm starts count by their least time, memory and bytes as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeae.errors import ConfigError
from edgeae.profiling.options import BenchOptions
from edgeae.profiling.profile import Profile

__all__ = ["Regression", "compare", "notes", "parse_percent", "require_comparable"]

_LEAST_KIB = 1024  # memory that allocators and libraries may take or not
_OPTIONS = ("frame_items", "threads", "batch", "shapes")


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A figure that got worse.

    Attributes:
        part: of the result that it stands in: ``latency``, ``start``, ``memory``, ``artefacts``.
        figure: what it is.
        unit: of the values.
        base, new: the values.
        change: relative, in units of the reference where it is a time; 0.3 stands for 30 %.
        detail: the stage that grew most, where that is known.
    """

    part: str
    figure: str
    unit: str
    base: float
    new: float
    change: float
    detail: str = ""

    def __str__(self) -> str:
        text = f"{self.figure}: {self.base:,.5g} -> {self.new:,.5g} {self.unit}"
        return f"{text} ({self.change:+.0%})" + (f"; {self.detail}" if self.detail else "")


def parse_percent(text: str) -> float:
    """A share from ``15%`` or ``15``: both stand for 0.15.

    Raises:
        ConfigError: no positive number of percent.

    Example:
        >>> parse_percent("15%"), parse_percent(" 7.5 ")
        (0.15, 0.075)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%?\s*", text)
    value = float(found.group(1)) / 100 if found else 0.0
    if not 0 < value < 1e4:
        raise ConfigError(f"{text!r} is no percentage: give one above 0, such as 15%")
    return value


def compare(base: Profile, new: Profile, max_regress: float) -> list[Regression]:
    """The figures of ``new`` that are worse than those of ``base`` by more than ``max_regress``.

    Args:
        base: an earlier result.
        new: a later one, of the same subject with the same options.
        max_regress: 0.15 stands for 15 %.

    Raises:
        ConfigError: they measure different things, and the message says what differs.
    """
    _require_same(base.data, new.data)
    return [
        regression
        for regression in _changes(base.data, new.data)
        if regression.change > max_regress and _is_large(regression)
    ]


def notes(base: Profile, new: Profile) -> list[str]:
    """What differs between two comparable results and is good to know."""
    found = []
    for name in ("fingerprint",):
        old, now = base.data["subject"].get(name), new.data["subject"].get(name)
        if old != now:
            found.append(f"another model: {name} {old} -> {now}")
    for name in ("cpu", "governor", "extension_built", "python", "libc", "versions"):
        old, now = base.data["machine"].get(name), new.data["machine"].get(name)
        if old != now:
            found.append(f"another {name.replace('_', ' ')}: {old} -> {now}")
    speeds = [_reference_us(profile.data) for profile in (base, new)]
    if min(speeds) > 0 and not 0.9 < speeds[1] / speeds[0] < 1.1:
        found.append(
            f"the machine itself was {abs(speeds[1] / speeds[0] - 1):.0%} "
            f"{'slower' if speeds[1] > speeds[0] else 'faster'} at the reference work, "
            "which the comparison takes out"
        )
    return found


def require_comparable(base: Profile, options: BenchOptions) -> None:
    """Refuse, before anything is measured, a base that was measured with other options.

    Raises:
        ConfigError: they differ, and the message says in what.
    """
    told, wanted = base.data["options"], options.to_json()
    names = ["threads", "batch", "shapes"] + ["frame_items"] * (options.frame_items is not None)
    _refuse([(name, told.get(name), wanted[name]) for name in names])


def _require_same(base: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    pairs: list[tuple[str, Any, Any]] = [
        (name, base["subject"].get(name), new["subject"].get(name))
        for name in ("kind", "name", "engine")
    ]
    pairs += [(name, base["options"].get(name), new["options"].get(name)) for name in _OPTIONS]
    pairs.append(("input", base.get("input", {}).get("source"), new.get("input", {}).get("source")))
    old_rows, new_rows = (sorted(_figure(row) for row in data["latency"]) for data in (base, new))
    pairs.append(("what is measured", old_rows, new_rows))
    _refuse(pairs)


def _refuse(pairs: Iterable[tuple[str, Any, Any]]) -> None:
    different = [f"{name}: {old} and {now}" for name, old, now in pairs if old != now]
    if different:
        raise ConfigError(
            "the two results cannot be compared, they differ in " + "; ".join(different)
        )


def _changes(base: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Regression]:
    older = {(row["promise"], row["direction"]): row for row in base["latency"]}
    for row in new["latency"]:
        yield _latency_change(older[row["promise"], row["direction"]], row)
    speed = _reference_us(base) / _reference_us(new)
    for kind, role in (("cold", "encode"), ("cold", "decode"), ("cold", "run"), ("warm", "")):
        times = [_start_ms(data, kind, role) for data in (base, new)]
        if times[0] and times[1]:
            yield Regression(
                part="start",
                figure=f"{kind} start {role}".strip(),
                unit="ms",
                base=times[0],
                new=times[1],
                change=times[1] * speed / times[0] - 1,
            )
    for part, name in (
        ("memory", "encode_peak_kib"),
        ("memory", "decode_peak_kib"),
        ("memory", "run_peak_kib"),
        ("artefacts", "device_bytes"),
    ):
        sizes = [data.get(part, {}).get(name) for data in (base, new)]
        if sizes[0] and sizes[1]:
            words, _, unit = name.rpartition("_")
            yield Regression(
                part=part,
                figure=words.replace("_", " "),
                unit="bytes" if unit == "bytes" else "KiB",
                base=sizes[0],
                new=sizes[1],
                change=sizes[1] / sizes[0] - 1,
            )


def _latency_change(base: Mapping[str, Any], new: Mapping[str, Any]) -> Regression:
    floors = [row["floor_us"] / row["reference_floor_us"] for row in (base, new)]
    blocks = [
        float(np.percentile([b["p50_us"] / b["reference_us"] for b in row["blocks"]], 25))
        for row in (base, new)
    ]
    change = min(floors[1] / floors[0], blocks[1] / blocks[0]) - 1
    return Regression(
        part="latency",
        figure=_figure(new),
        unit="µs",
        base=base["floor_us"],
        new=new["floor_us"],
        change=change,
        detail=_grown_stage(base, new),
    )


def _figure(row: Mapping[str, Any]) -> str:
    return f"{row['promise']}, {row['direction']}"


def _grown_stage(base: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    older = {row["stage"]: row["p50_us"] for row in base.get("stages", ())}
    grown = {
        row["stage"]: row["p50_us"] - older.get(row["stage"], 0.0) for row in new.get("stages", ())
    }
    if not grown:
        return ""
    stage = max(grown, key=lambda name: grown[name])
    return f"most of it in {stage!r}: {older.get(stage, 0.0):.4g} -> " + (
        f"{older.get(stage, 0.0) + grown[stage]:.4g} µs"
    )


def _is_large(regression: Regression) -> bool:
    return regression.unit != "KiB" or regression.new - regression.base > _LEAST_KIB


def _reference_us(data: Mapping[str, Any]) -> float:
    return min((float(row["reference_floor_us"]) for row in data["latency"]), default=1.0)


def _start_ms(data: Mapping[str, Any], kind: str, role: str) -> float | None:
    part = data.get("start", {}).get(kind)
    if isinstance(part, list):
        part = next((row for row in part if row["role"] == role), None)
    return None if part is None else float(part["min_ms"])
