"""Writing CSV in the form that its reader remembered."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from edgeae.errors import SignalError
from edgeae.signal.base import Array
from edgeae.signal.csv_columns import is_hole, number_texts, time_texts

__all__ = ["write_csv"]

_BLOCK_ROWS = 1 << 14


def write_csv(file: BinaryIO, data: Array, meta: dict[str, Any], rate_hz: float | None) -> None:
    """Write a series as CSV, in the form that ``meta`` of a CSV file remembers.

    Without such a memory: a header ``ch0,ch1,...``, a leading ``time_s`` if the rate is known, and
    the shortest numbers that read back as the same samples.
    """
    if data.ndim > 2:
        raise SignalError(f"CSV holds a series, not images of shape {list(data.shape)}")
    table = data.reshape(len(data), -1)
    columns = _columns_to_write(meta, table, rate_hz)
    form = _Form.from_meta(meta)
    out = io.StringIO(newline="")
    for line in form.preamble:
        out.write(f"{line}{form.newline}")
    if meta.get("header", "columns" not in meta):
        names = [_quoted(column["name"], form.delimiter) for column in columns]
        out.write(form.delimiter.join(names) + form.newline)
    for start in range(0, len(table), _BLOCK_ROWS):
        block = table[start : start + _BLOCK_ROWS]
        cells, channel = [], 0
        for column in columns:
            if "time" in column:
                cells.append(time_texts(column["time"], len(block), start))
                continue
            cells.append(_cells(block[:, channel], str(column.get("format", "s")), form))
            channel += 1
        lines = map(form.delimiter.join, zip(*cells, strict=True))
        out.write(form.newline.join(lines))
        if start + len(block) < len(table) or not meta.get("ends_bare"):
            out.write(form.newline)
        file.write(out.getvalue().encode("utf-8", "surrogateescape"))
        out = io.StringIO(newline="")


@dataclass(frozen=True, kw_only=True)
class _Form:
    """What a file looked like. It may come out of a stream, so it is checked."""

    delimiter: str = ","
    newline: str = "\n"
    hole: str = ""
    comma: bool = False
    preamble: tuple[str, ...] = ()

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> _Form:
        form = cls(
            delimiter=meta.get("delimiter", ","),
            newline=meta.get("newline", "\n"),
            hole=meta.get("hole", ""),
            comma=meta.get("comma", False) is True,
            preamble=tuple(meta.get("preamble", ())),
        )
        if (
            form.delimiter not in _DELIMITERS
            or form.newline not in ("\n", "\r\n")
            or not (isinstance(form.hole, str) and is_hole(form.hole))
            or not all(isinstance(line, str) and line[:1] == "#" for line in form.preamble)
        ):
            raise ValueError("the CSV form in the metadata makes no sense")
        return form


_DELIMITERS = {",", ";", "\t", " ", ", ", "; ", "\t "}


def _quoted(name: str, delimiter: str) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter[0], lineterminator="").writerow([name])
    return out.getvalue()


def _columns_to_write(
    meta: dict[str, Any], table: Array, rate_hz: float | None
) -> list[dict[str, Any]]:
    columns = meta.get("columns")
    if isinstance(columns, list) and all(
        isinstance(c, dict) and isinstance(c.get("name"), str) for c in columns
    ):
        n_numbers = sum("time" not in c for c in columns)
        if n_numbers == table.shape[1]:
            return columns
    plain: list[dict[str, Any]] = [{"name": f"ch{i}"} for i in range(table.shape[1])]
    if rate_hz:
        period = repr(1 / rate_hz)
        decimals = len(period.partition(".")[2])
        if "e" not in period and decimals <= 9:
            step = round(10**decimals / rate_hz)
            clock = {"start": 0, "step": step, "decimals": decimals, "format": f"f{decimals}"}
            plain.insert(0, {"name": "time_s", "time": clock})
    return plain


def _cells(values: Array, number_format: str, form: _Form) -> list[str]:
    texts = number_texts(values, number_format)
    if values.dtype.kind == "f":
        for i in np.flatnonzero(np.isnan(values)):
            texts[i] = form.hole
    return [t.replace(".", ",") for t in texts] if form.comma else texts
