"""Fill the tables of README.md and bench/README.md from bench/results.

    python bench/tables.py            write them
    python bench/tables.py --check    say whether they are up to date

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; the names are those of TABLES.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from denoise_tables import DENOISE_TABLES
from page import BLOCK, RESULTS, ROOT, find, markdown, number, read
from rd_tables import RD_TABLES
from runtime_tables import RUNTIME_TABLES

PAGES = (ROOT / "README.md", ROOT / "bench" / "README.md")
METHODS = ("edgeae", "edgeae, no model", "pcodec", "xz -9e", "zlib -9")
PROMISES = ("lossy", "max error 10", "max error 5", "max error 1", "lossless")


def rate_of(bundle: str) -> str:
    """Bits per sample of one bundle, a row per promise."""
    rows = [row for row in read("rate") if row["bundle"] == bundle]
    methods = [m for m in METHODS if any(row["method"] == m for row in rows)]
    body = []
    for promise in PROMISES:
        if not any(row["promise"] == promise for row in rows):
            continue
        cells = [
            number(find(rows, promise=promise, method=m, metric="bits_per_sample")) for m in methods
        ]
        ours = {"promise": promise, "method": "edgeae"}
        for metric, digits in (("rmse", 2), ("max_error", 4)):
            value = find(rows, **ours, metric=metric)
            cells.append(f"{float(value):.{digits}g}" if value else "–")
        body.append([promise, *cells])
    return markdown(["bit/sample", *methods, "RMSE", "largest error"], body)


def rate_table() -> str:
    """Bits per sample of every bundle."""
    parts = []
    for bundle in sorted({row["bundle"] for row in read("rate")}):
        rows = [row for row in read("rate") if row["bundle"] == bundle]
        n = max(int(row["n"]) for row in rows)
        parts.append(f"**{bundle}** · test part of `{rows[0]['data']}` · {n:,} samples")
        parts.append(rate_of(bundle))
    return "\n\n".join(parts)


def summary_table() -> str:
    """One row per bundle: edgeae beside the better of the general coders."""
    rows = read("rate")
    body = []
    for bundle in sorted({row["bundle"] for row in rows}):
        own = [row for row in rows if row["bundle"] == bundle]
        cells = []
        for promise in PROMISES:
            ours = find(own, promise=promise, method="edgeae", metric="bits_per_sample")
            peers = [
                find(own, promise=promise, method=method, metric="bits_per_sample")
                for method in METHODS[2:]
            ]
            best = min((float(p) for p in peers if p), default=None)
            cells.append(number(ours, 2) + (f" ({best:.2f})" if ours and best else ""))
        body.append([bundle, *cells])
    return markdown(["bit/sample", *PROMISES], body)


def speed_table() -> str:
    """Msamples/s by promise and engine."""
    rows = read("speed")
    body = []
    columns = [
        (engine, verb) for engine in ("extension", "python") for verb in ("encode", "decode")
    ]
    for promise in PROMISES:
        cells = [
            number(find(rows, promise=promise, method=engine, metric=f"{verb}_speed"))
            for engine, verb in columns
        ]
        if any(cell != "–" for cell in cells):
            body.append([promise, *cells])
    return markdown(["Msamples/s", *(f"{verb}, {engine}" for engine, verb in columns)], body)


def device_table() -> str:
    """Import time and memory."""
    rows = read("device")
    body = [
        [
            "`import edgeae` after numpy, median",
            number(find(rows, metric="import_time"), 1) + " ms",
        ]
    ]
    for row in rows:
        if row["metric"] == "peak_rss":
            what = f"{row['method']}, {row['promise']}: peak memory over numpy's"
            body.append([what, f"{float(row['value']):.1f} MiB"])
    return markdown(["device side", ""], body)


def laws_table() -> str:
    """Overhead, growth and coder loss."""
    rows = read("laws")
    columns = (
        ("overhead", 0, "container, bytes"),
        ("overhead_share", 2, "container, %"),
        ("growth_over_classical", 0, "largest growth of a frame, bytes"),
        ("coder_loss_beyond_half_percent", 2, "largest loss of the coder beyond 0.5 %, bytes"),
    )
    body = []
    for bundle in sorted({row["bundle"] for row in rows}):
        own = [row for row in rows if row["bundle"] == bundle]
        for promise in PROMISES:
            cells = [
                number(find(own, promise=promise, metric=metric), digits)
                for metric, digits, _ in columns
            ]
            if any(cell != "–" for cell in cells):
                body.append([f"{bundle}, {promise}", *cells])
    return markdown(["", *(title for _, _, title in columns)], body)


def system_line() -> str:
    """On what it was measured."""
    path = RESULTS / "system.json"
    if not path.exists():
        return ""
    lines: dict[str, list[str]] = {}
    for suite, s in sorted(json.loads(path.read_text()).items()):
        packages = ", ".join(f"{name} {version}" for name, version in s["packages"].items())
        line = (
            f"{s['cpu']}, {s['cores']} cores, {s['system']}, Python {s['python']}, {packages}; "
            f"{s['measured']}, commit {s['commit']}"
        )
        lines.setdefault(line, []).append(suite)
    return "\n".join(f"- {', '.join(suites)}: {line}" for line, suites in lines.items())


TABLES: dict[str, Callable[[], str]] = {
    "rate": rate_table,
    "rate-ecg-own": lambda: rate_of("ecg-own"),
    "summary": summary_table,
    "speed": speed_table,
    "device": device_table,
    "laws": laws_table,
    "system": system_line,
    **DENOISE_TABLES,
    **RD_TABLES,
    **RUNTIME_TABLES,
}


def filled(text: str) -> str:
    """A page with its tables made anew."""
    return BLOCK.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text)


def stale() -> list[Path]:
    """Pages whose tables do not show the results."""
    return [page for page in PAGES if page.read_text() != filled(page.read_text())]


def main() -> int:
    """Write the tables, or check them."""
    found = stale()
    if "--check" in sys.argv[1:]:
        print(*(f"{page}: run python bench/tables.py" for page in found), sep="\n")
        return 3 if found else 0
    for page in found:
        page.write_text(filled(page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
