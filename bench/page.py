"""What the tables of this folder's pages are made with: results as rows, rows as Markdown."""

from __future__ import annotations

import csv
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
BLOCK = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Rows = list[dict[str, str]]


def read(suite: str) -> Rows:
    """The rows of a suite, none if it was never run."""
    path = RESULTS / f"{suite}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def find(rows: Rows, **fields: str) -> str:
    """The one value of the row with these fields, or an empty string."""
    for row in rows:
        if all(row[name] == value for name, value in fields.items()):
            return row["value"]
    return ""


def number(value: str, digits: int = 3) -> str:
    """A value with as many digits behind the point, a dash where there is none."""
    return f"{float(value):,.{digits}f}" if value else "–"


def markdown(head: list[str], body: list[list[str]]) -> str:
    """A table, columns of numbers to the right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])
