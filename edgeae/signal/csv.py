"""CSV files, such that a lossless round trip gives back the same text.

Numbers become one array [T, C]. What the array cannot hold is kept as a few words of ``meta``: the
header, the delimiter, how each column writes its numbers, and time columns whose steps are regular
(a start, a step, a list of jumps). What is not kept is said in the notes.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from edgeae.errors import ConfigError, SignalError
from edgeae.signal.base import Array, SignalFile, checked, parse_dtype
from edgeae.signal.csv_columns import (
    NumberColumn,
    TimeColumn,
    is_hole,
    is_number,
    is_time,
)
from edgeae.signal.files import open_input

__all__ = ["read_csv"]

_BLOCK_ROWS = 1 << 14
_LOOK_ROWS = 200
_MAX_PREAMBLE_LINES = 20

_Row = tuple[int, list[str]]


@dataclass(kw_only=True)
class _Layout:
    """The shape of the text: what the first lines show."""

    where: str
    preamble: list[str]
    delimiter: str
    comma: bool
    newline: str
    names: list[str] = field(default_factory=list)
    header: bool = False
    ends_bare: bool = False  # the last line has no newline


def read_csv(
    path: str | Path,
    *,
    dtype: str | None = None,
    columns: Sequence[str | int] | None = None,
    rate_hz: float | None = None,
) -> SignalFile:
    """Read the columns of numbers of a CSV file.

    Args:
        path: the file; comma, semicolon, tab or space between cells, header line or none, decimal
            commas beside semicolons or tabs, ``#`` lines on top.
        dtype: of the samples; by default int32 (or int64) if all cells are whole numbers, float32
            if all are float32 numbers written in full, else float64.
        columns: names or numbers (from 0) of the columns to take; by default all numbers.
        rate_hz: overrides the rate found from a time column.

    Returns:
        data [T, C] ([T] for one column). Empty cells, NA and NaN are NaN, counted in the notes.

    Raises:
        SignalError: text among numbers, uneven rows, no rows; with the line and the column.
    """
    with open_input(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        layout, rows = _open(text, str(path))
        look = list(islice(rows, _LOOK_ROWS))
        if not look:
            raise SignalError(f"{path} has a header line and no rows")
        chosen = _chosen(columns, layout)
        numbers, times, skipped = _roles(layout, look, chosen)
        _fill(layout, numbers, times, look, rows)
        text.detach()
    notes = [f"columns not kept: {', '.join(skipped[:20])}"] if skipped else []
    if layout.preamble and len(layout.preamble) == _MAX_PREAMBLE_LINES:
        notes.append(f"of the comment lines, the first {_MAX_PREAMBLE_LINES} are kept")
    time_metas, found_hz = _settle_times(numbers, times, chosen, notes)
    order = list(numbers) if chosen is None else [i for i in chosen if i in numbers]
    data, hole = _samples([numbers[i] for i in order], notes)
    entries: dict[int, dict[str, Any]] = {
        i: {"name": c.name, "format": c.format or "t"} for i, c in numbers.items()
    }
    entries |= {i: {"name": times[i].name, "time": meta} for i, meta in time_metas.items()}
    shown = sorted(entries) if chosen is None else [*time_metas, *order]
    meta: dict[str, Any] = {
        "container": "csv",
        "columns": [entries[i] for i in shown],
        **({"header": True} if layout.header else {}),
        **({"delimiter": layout.delimiter} if layout.delimiter != "," else {}),
        **({"comma": True} if layout.comma else {}),
        **({"newline": layout.newline} if layout.newline != "\n" else {}),
        **({"ends_bare": True} if layout.ends_bare else {}),
        **({"preamble": layout.preamble} if layout.preamble else {}),
        **({"hole": hole} if hole else {}),
    }
    data = data if len(order) > 1 else data[:, 0]
    data = data if dtype is None else _cast(data, dtype, str(path))
    return SignalFile(
        data=checked(data, str(path)),
        rate_hz=found_hz if rate_hz is None else rate_hz,
        meta=meta,
        notes=tuple(notes),
    )


def _open(text: io.TextIOWrapper, where: str) -> tuple[_Layout, Iterator[_Row]]:
    preamble, top = [], text.readline()
    skipped = 0
    while top.startswith("#"):
        skipped += 1
        preamble.append(top.rstrip("\r\n"))
        top = text.readline()
    head = [top, *islice(text, 49)]
    if not top.strip() or "\0" in top:
        raise SignalError(f"{where} is {'not a CSV file' if top.strip() else 'empty'}")
    delimiter, comma = _delimiter(head)
    layout = _Layout(
        where=where,
        preamble=preamble[:_MAX_PREAMBLE_LINES],
        delimiter=delimiter,
        comma=comma,
        newline="\r\n" if top.endswith("\r\n") else "\n",
    )
    rows = _rows(layout, head, text, skipped)
    first = next(rows)
    second = next(rows, None)
    _find_header(layout, first[1], second[1] if second else first[1])
    start = [] if layout.header else [first]

    def all_rows() -> Iterator[_Row]:
        yield from start
        if second:
            yield second
        yield from rows

    return layout, all_rows()


def _rows(layout: _Layout, head: list[str], rest: io.TextIOWrapper, skipped: int) -> Iterator[_Row]:
    def lines() -> Iterator[str]:
        line = "\n"
        for line in chain(head, rest):
            yield line
        layout.ends_bare = not line.endswith("\n")

    reader = csv.reader(lines(), delimiter=layout.delimiter[0], skipinitialspace=True)
    try:
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):
                yield reader.line_num + skipped, row
    except csv.Error as error:
        raise SignalError(f"{layout.where}, line {reader.line_num + skipped}: {error}") from error


def _delimiter(lines: list[str]) -> tuple[str, bool]:
    """The delimiter, with its space if one always follows, and whether decimals use commas."""
    lines = [line.strip("\r\n") for line in lines if line.strip()][:20]
    last = lines[-1]
    for mark in "\t;,":
        if all(mark in line for line in lines):
            spaced = last.count(mark + " ") == last.count(mark)
            return mark + " " * spaced, mark != "," and "," in last and "." not in last
    if all(" " in line.strip() for line in lines) and all(
        is_number(cell, False) for cell in last.split()
    ):
        return " ", False
    return ",", False


def _find_header(layout: _Layout, first: list[str], below: list[str]) -> None:
    """The first row names the columns if it has text where the next row has a number or a time."""
    comma = layout.comma
    for name, cell in zip(first, below, strict=False):
        if not (is_number(name, comma) or is_time(name)) and (
            is_number(cell, comma) or is_time(cell)
        ):
            layout.header = True
    names = first if layout.header else [""] * len(first)
    layout.names = [name.strip() or f"column{i}" for i, name in enumerate(names)]


def _chosen(columns: Sequence[str | int] | None, layout: _Layout) -> list[int] | None:
    if columns is None:
        return None
    names, chosen = layout.names, []
    for column in columns:
        if isinstance(column, str) and column in names:
            chosen.append(names.index(column))
        elif str(column).isdecimal() and int(column) < len(names):
            chosen.append(int(column))
        else:
            raise ConfigError(
                f"{layout.where} has no column {column!r}; it has: {', '.join(names[:30])}"
            )
    if not chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(f"columns must be different and at least one, got {list(columns)}")
    return chosen


def _roles(
    layout: _Layout, look: list[_Row], chosen: list[int] | None
) -> tuple[dict[int, NumberColumn], dict[int, TimeColumn], list[str]]:
    """Columns of numbers, columns that may be clocks (some are both for now), and all others."""
    numbers: dict[int, NumberColumn] = {}
    times: dict[int, TimeColumn] = {}
    skipped = []
    for i, name in enumerate(layout.names):
        cells = [row[i] for _, row in look if i < len(row) and not is_hole(row[i])]
        if chosen is not None and i in chosen:
            numbers[i] = NumberColumn(name, layout.comma)
        elif cells and is_time(cells[0]):
            times[i] = TimeColumn(name)
        elif cells and not is_number(cells[0], layout.comma):
            skipped.append(f"{name} (text)")
        elif _may_be_clock(cells, TimeColumn(name), i == 0 and not layout.header):
            times[i] = TimeColumn(name)
            numbers[i] = NumberColumn(name, layout.comma)
        elif chosen is None:
            numbers[i] = NumberColumn(name, layout.comma)
        else:
            skipped.append(f"{name} (not chosen)")
    if not numbers:
        raise SignalError(
            f"{layout.where} has no column of numbers (delimiter {layout.delimiter!r} was found)"
        )
    if len(numbers) == 1:  # a lone ramp is the signal
        times = {i: column for i, column in times.items() if i not in numbers}
    return numbers, times, skipped


def _may_be_clock(cells: list[str], column: TimeColumn, unnamed_first: bool) -> bool:
    try:
        steps = np.diff(np.array(cells, np.float64))
    except ValueError:
        return False
    if len(steps) < 2 - column.is_clock or steps[0] == 0 or not (steps >= 0).all():
        return False
    even = bool(np.allclose(steps, steps[0], rtol=1e-6, atol=0))
    return column.is_clock or (even and (unnamed_first or column.is_counter))


def _fill(
    layout: _Layout,
    numbers: dict[int, NumberColumn],
    times: dict[int, TimeColumn],
    look: list[_Row],
    rows: Iterator[_Row],
) -> None:
    block, width = look, len(layout.names)
    while block:
        for line, row in block:
            if len(row) != width:
                # a trailing delimiter on every line is common, and harmless
                raise SignalError(
                    f"{layout.where}, line {line}: {len(row)} cells, expected {width}"
                )
        cells = list(zip(*(row for _, row in block), strict=True))
        lines = block[0][0]
        for i, number in numbers.items():
            try:
                number.add(list(cells[i]), lines)
            except SignalError as error:
                raise SignalError(f"{layout.where}, {error}") from None
        for i, time in times.items():
            time.texts.extend(cells[i])
        block = list(islice(rows, _BLOCK_ROWS))


def _settle_times(
    numbers: dict[int, NumberColumn],
    times: dict[int, TimeColumn],
    chosen: list[int] | None,
    notes: list[str],
) -> tuple[dict[int, dict[str, Any]], float | None]:
    """Regular clocks become meta; irregular ones are dropped, and mere ramps stay numbers."""
    metas, rate_hz = {}, None
    for i, column in times.items():
        meta, seconds = column.summary()
        if meta is None and not column.is_clock:
            if chosen is not None:
                numbers.pop(i, None)
                notes.append(f"columns not kept: {column.name} (not chosen)")
            continue
        numbers.pop(i, None)
        if seconds and rate_hz is None:
            rate_hz = float(f"{1 / seconds:.12g}")
        if meta is not None:
            metas[i] = meta
            jumps = len(meta["jumps"])
            extra = f" and {jumps} jumps" if jumps else ""
            notes.append(f"time column {column.name!r} is regular: kept as start, step{extra}")
        else:
            about = f" (about {rate_hz:g} Hz)" if rate_hz else ""
            notes.append(
                f"time column {column.name!r} is irregular{about}: it is not kept, and samples "
                "count as evenly spaced"
            )
    return metas, rate_hz


def _samples(columns: list[NumberColumn], notes: list[str]) -> tuple[Array, str]:
    data = np.stack([column.values() for column in columns], axis=1)
    holes: Counter[str] = Counter()
    for column in columns:
        holes.update(column.holes)
        if column.is_mixed:
            notes.append(
                f"column {column.name!r} writes its numbers in changing ways: the values are kept, "
                "their spelling is not"
            )
    if holes:
        listing = ", ".join(f"{sum(c.holes.values())} in {c.name!r}" for c in columns if c.holes)
        notes.append(f"{sum(holes.values())} holes became NaN: {listing}")
        if len(holes) > 1:
            notes.append(f"holes will all be written as {holes.most_common(1)[0][0]!r}")
    elif all(column.format == "d" for column in columns) and np.abs(data).max() <= 2.0**53:
        small = data.min() >= -(2.0**31) and data.max() < 2.0**31
        data = data.astype(np.int32 if small else np.int64)
    if data.dtype.kind == "f" and all(column.format in ("r", "t") for column in columns):
        with np.errstate(over="ignore"):
            single = data.astype(np.float32)
        longest = max(len(repr(v)) for v in data[:1000].ravel().tolist())
        if longest > 12 and np.array_equal(single, data, equal_nan=True):
            data = single
    return data, holes.most_common(1)[0][0] if holes else ""


def _cast(data: Array, dtype: str, where: str) -> Array:
    kind = parse_dtype(dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        cast = data.astype(kind)
    if kind.kind in "iu" and not np.array_equal(cast.astype(np.float64), data.astype(np.float64)):
        raise SignalError(f"{where} has samples that {kind} cannot hold; choose another dtype")
    return cast
