"""What is learnt about one CSV column while its cells go by, and how its text is made again."""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np

from edgeae.errors import SignalError
from edgeae.signal.base import Array

__all__ = ["HOLES", "NumberColumn", "TimeColumn", "is_hole", "is_number", "is_time", "number_texts"]

HOLES = {"", "nan", "na", "n/a", "null", "none", "-", "#n/a"}
_CLOCKS = {"t", "ts", "time", "timestamp", "seconds", "epoch", "date", "datetime"}
_COUNTERS = {"i", "n", "no", "nr", "index", "idx", "row", "sample", "frame", "unnamed", "id", "#"}
_UNITS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:([ T])(\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?)(Z|[+-]\d\d:?\d\d)?)?$"
)
_MAX_JUMPS = 1000


def is_hole(cell: str) -> bool:
    """True for an empty cell, NA, NaN and their like."""
    return cell.strip().lower() in HOLES


def is_number(cell: str, comma: bool) -> bool:
    """True if the cell is a number or a hole."""
    try:
        float(cell.replace(",", ".") if comma else cell)
    except ValueError:
        return is_hole(cell)
    return True


def is_time(cell: str) -> bool:
    """True for ISO 8601 dates and times."""
    return _ISO.match(cell.strip()) is not None


class NumberColumn:
    """A column of samples: its values, its holes, and the one way its numbers are written.

    Formats: ``d`` whole numbers, ``f3`` three decimals, ``e18`` scientific, ``r`` the shortest text
    that gives the same float64, ``t`` the same without a trailing ``.0``, ``s`` the shortest text
    in the dtype of the samples.
    """

    def __init__(self, name: str, comma: bool) -> None:
        self.name = name
        self.comma = comma
        self.parts: list[Array] = []
        self.holes: Counter[str] = Counter()
        self._formats: list[str] | None = None

    def add(self, cells: list[str], first_line: int) -> None:
        """Take the next cells; a SignalError names the line of a cell that is no number."""
        texts = [cell.replace(",", ".") for cell in cells] if self.comma else cells
        try:
            values = np.array(texts, np.float64)
        except ValueError:
            values = np.array([self._value(t, first_line + i) for i, t in enumerate(texts)])
        missing = np.isnan(values)
        if missing.any():
            self.holes.update(cell for cell, hole in zip(cells, missing, strict=True) if hole)
            texts = [text for text, hole in zip(texts, missing, strict=True) if not hole]
        known = values[~missing]
        if texts and self._formats is None:
            self._formats = _likely_formats(texts[0])
        self._formats = (
            [f for f in self._formats or [] if number_texts(known, f) == texts]
            if (texts)
            else self._formats
        )
        self.parts.append(values)

    def _value(self, text: str, line: int) -> float:
        if is_hole(text):
            return float("nan")
        try:
            return float(text)
        except ValueError:
            raise SignalError(
                f"line {line}, column {self.name!r}: {text[:40]!r} is not a number"
            ) from None

    @property
    def format(self) -> str | None:
        """The way all numbers so far are written; None if there is no one way."""
        return self._formats[0] if self._formats else None

    @property
    def is_mixed(self) -> bool:
        """True where the text of some number will not come back, only its value."""
        return self._formats == []

    def values(self) -> Array:
        """All values so far, holes as NaN."""
        return np.concatenate(self.parts)


def _likely_formats(text: str) -> list[str]:
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    if exponent:
        return [f"e{decimals}", "r", "t"]
    return [f"f{decimals}", "r", "t"] if "." in mantissa else ["d", "t"]


def number_texts(values: Array, form: str) -> list[str]:
    """The cells of a column of numbers, with a point; NaN and Inf as Python writes them."""
    if not (
        form[:1] in ("d", "f", "e", "r", "t", "s") and (len(form) == 1 or form[1:].isdecimal())
    ):
        raise ValueError(f"unknown number format {form!r}")
    if form == "s" or (values.dtype.kind in "iu" and form in "drt"):
        return list(values.astype(str).tolist())
    numbers = values.tolist()
    if form[0] in "fe":
        template = f"%.{min(int(form[1:] or 0), 60)}{form[0]}"
        return [template % v for v in numbers]
    texts = [repr(float(v)) for v in numbers]
    if form == "d":
        return [f"{v:.0f}" for v in numbers]
    return texts if form == "r" else [t.removesuffix(".0") for t in texts]


class TimeColumn:
    """A column of times or row numbers: start, step and the few jumps, or found to be irregular."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.texts: list[str] = []

    @property
    def is_clock(self) -> bool:
        """True if the name or the text says that this is time."""
        words = re.split(r"[ _\[(]", self.name.lower())
        return words[0] in _CLOCKS or (bool(self.texts) and is_time(self.texts[0]))

    @property
    def is_counter(self) -> bool:
        """True if the name says that this counts the rows."""
        return re.split(r"[ _:\[(]", self.name.lower())[0] in _COUNTERS

    def summary(self) -> tuple[dict[str, Any] | None, float | None]:
        """What makes the texts again (None: irregular), and seconds per step where known."""
        if len(self.texts) < 2:
            return None, None
        iso = _ISO.match(self.texts[0].strip())
        try:
            ticks, meta = _iso_ticks(self.texts, iso) if iso else _number_ticks(self.texts)
        except (ValueError, InvalidOperation, OverflowError):
            return None, None
        steps = np.diff(ticks)
        common, counts = np.unique(steps, return_counts=True)
        step = int(common[np.argmax(counts)])
        meta |= {"start": int(ticks[0]), "step": step}
        seconds = step * self._unit_s(meta, float(ticks[0]))
        jumps = np.flatnonzero(steps != step)
        most = min(_MAX_JUMPS, len(steps) // 8) if self.is_clock else 0
        if step == 0 or len(jumps) > most:
            median = float(np.median(steps)) * self._unit_s(meta, float(ticks[0]))
            return None, median if self.is_clock and median > 0 else None
        meta["jumps"] = [[int(i) + 1, int(steps[i] - step)] for i in jumps]
        if time_texts(meta, len(self.texts)) != self.texts:
            return None, None
        timed = self.is_clock or (step > 0 and meta.get("decimals", 0) > 0)
        return meta, seconds if timed and seconds > 0 else None

    def _unit_s(self, meta: dict[str, Any], start: float) -> float:
        if "iso" in meta:
            return float(_ISO_UNITS[meta["iso"]])
        scale = 10.0 ** -int(meta["decimals"])
        for unit, size in _UNITS.items():
            if re.search(rf"[_\[( ]{unit}[\])]?$", self.name.lower()):
                return scale * size
        seconds = abs(start) * scale  # a date since 1970 in s, ms, us or ns
        return scale * (
            1e-9 if seconds > 1e17 else 1e-6 if seconds > 1e14 else 1e-3 if seconds > 1e11 else 1.0
        )


_ISO_UNITS = {"D": 86400.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def _iso_ticks(texts: list[str], first: re.Match[str]) -> tuple[Array, dict[str, Any]]:
    _, separator, clock, zone = first.groups()
    zone = zone or ""
    decimals = len(clock) - 9 if clock and len(clock) > 8 else 0
    unit = (
        "D"
        if not clock
        else "m"
        if len(clock) == 5
        else {0: "s", 3: "ms", 6: "us", 9: "ns"}[
            decimals if decimals in (0, 3, 6, 9) else -1 if decimals < 0 else 0
        ]
    )
    plain = [t.removesuffix(zone) if zone else t for t in texts]
    ticks = np.array([t.replace(" ", "T") for t in plain], f"datetime64[{unit}]").astype(np.int64)
    return ticks, {"iso": unit, "separator": separator or "T", "zone": zone}


def _number_ticks(texts: list[str]) -> tuple[Array, dict[str, Any]]:
    decimals = max(len(t.partition(".")[2]) for t in texts)
    fixed = all(len(t.partition(".")[2]) == decimals for t in texts)
    if decimals > 12:
        raise ValueError("no round steps")
    ticks = np.array([int(Decimal(t).scaleb(decimals)) for t in texts], np.int64)
    form = (f"f{decimals}" if decimals else "d") if fixed else "r" if "." in texts[0] else "t"
    return ticks, {"decimals": decimals, "format": form}


def time_texts(meta: dict[str, Any], n: int, first: int = 0) -> list[str]:
    """The cells of a time column from its start, step and jumps, for rows first .. first + n."""
    ticks = int(meta["start"]) + np.arange(first, first + n, dtype=np.int64) * int(meta["step"])
    for row, extra in meta.get("jumps", []):
        ticks[max(int(row) - first, 0) :] += int(extra)
    if "iso" in meta:
        times = ticks.astype(f"datetime64[{meta['iso']}]")
        texts = np.datetime_as_string(times, unit=meta["iso"]).tolist()
        zone, separator = str(meta.get("zone", "")), str(meta.get("separator", "T"))
        return [t.replace("T", separator) + zone for t in texts]
    decimals, form = int(meta["decimals"]), str(meta["format"])
    if form[0] in "rt":
        return number_texts(ticks / 10.0**decimals, form)
    if decimals == 0:
        return list(ticks.astype(str).tolist())
    return [f"{Decimal(v).scaleb(-decimals):.{decimals}f}" for v in ticks.tolist()]
