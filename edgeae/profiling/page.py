"""A result as one HTML page with its plots inside."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeae.errors import EdgeAEError
from edgeae.profiling.profile import Profile
from edgeae.profiling.svg import bars, histogram_plot, line_plot
from edgeae.profiling.table import lines_of

__all__ = ["html_page", "page_of", "write_page"]

_CSS = """
:root{color-scheme:light dark;--ink:#20262d;--faint:#5d6772;--line:#cfd5dc;--page:#fff;
--panel:#f6f7f9;--ours:#1d4ed8;--mark:#b45309}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ee;--faint:#99a3af;--line:#3c4550;
--page:#14181d;--panel:#1c2229;--ours:#7ba7ff;--mark:#fbbf24}}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,'Segoe UI','DejaVu Sans',sans-serif}
main{max-width:1000px;margin:0 auto;padding:36px 20px 64px}
h1{font-size:26px;margin:0 0 4px} h2{font-size:19px;margin:38px 0 8px} p{color:var(--faint)}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:14px}
figure{margin:0;background:var(--panel);border-radius:8px;padding:10px 12px}
figcaption{font-size:14px;font-weight:600}
svg{display:block;width:100%;height:auto}
svg text{font-size:11.5px;fill:var(--faint)} .bar{fill:var(--ours)}
.axis{stroke:var(--line);fill:none} .mark{stroke:var(--mark);fill:none;stroke-dasharray:3 3}
.line{stroke:var(--ours);stroke-width:1.8;fill:none}
.s0{fill:#3b82f6}.s1{fill:#f59e0b}.s2{fill:#10b981}.s3{fill:#8b5cf6}.s4{fill:#ef4444}
.s5{fill:#06b6d4}.s6{fill:#a16207}.s7{fill:#ec4899}.s8{fill:#84cc16}.s9{fill:#6366f1}
.s10{fill:#fda4af}.s11{fill:#0f766e}.rest{fill:#a3a3a3} .narrow{max-width:500px}
pre{background:var(--panel);border-radius:8px;padding:14px 16px;overflow-x:auto;font-size:12.5px;
line-height:1.45;font-family:ui-monospace,'SF Mono',Menlo,Consolas,monospace}
"""


def write_page(path: str | Path, profile: Profile) -> None:
    """Write the page.

    Raises:
        EdgeAEError: it cannot be written.
    """
    try:
        Path(path).write_text(page_of(profile), encoding="utf-8")
    except OSError as error:
        raise EdgeAEError(f"cannot write {path}: {error.strerror or error}") from error


def page_of(profile: Profile) -> str:
    """The page as text; nothing in it is fetched from elsewhere."""
    return html_page(f"edgeae bench: {profile.data['subject']['name']}", _sections(profile))


def html_page(title: str, sections: Iterable[str], *, css: str = "") -> str:
    """A page of its own: a heading and what is under it."""
    words, body = html.escape(title), "\n".join(sections)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{words}</title><style>{_CSS}{css}</style></head>\n"
        f"<body><main>\n<h1>{words}</h1>\n{body}\n</main></body></html>\n"
    )


def _sections(profile: Profile) -> Iterator[str]:
    data = profile.data
    about = data["machine"]
    yield f"<p>{html.escape(str(about['cpu']))}, {html.escape(data['measured'])}</p>"
    yield "<h2>Latency</h2>\n<div class=grid>"
    for row in data["latency"]:
        yield _histogram(row)
    yield "</div>"
    rows = [
        (
            f"{row['promise']}, {row['direction']}",
            [(stage["stage"], stage["mean_us"]) for stage in row["stages"]],
        )
        for row in data["latency"]
        if row.get("stages")
    ]
    if rows:
        yield "<h2>Stages</h2>"
        yield f"<figure>{bars(rows, 'mean time of each stage')}</figure>"
    points = [
        (float(frames), kib / 1024)
        for frames, _, kib in data["growth"]["points"]
        if kib is not None
    ]
    if points:
        yield "<h2>Memory</h2>"
        yield _memory(points, data["growth"])
    text = html.escape("\n".join(lines_of(profile)))
    yield f"<h2>All figures</h2>\n<pre>{text}</pre>"


def _histogram(row: Mapping[str, Any]) -> str:
    title = f"{row['promise']}, {row['direction']}"
    whole, found = row["whole"], row["histogram"]
    marks = [(name, whole[f"{name}_us"]) for name in ("p50", "p90", "p99")]
    words = f"histogram of {whole['n']} calls"
    plot = histogram_plot(found["edges_us"], found["counts"], marks, words)
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{plot}</figure>"


def _memory(points: list[tuple[float, float]], growth: Mapping[str, Any]) -> str:
    title = f"Resident memory over {growth['n_frames']:,} frames"
    if growth["growth_kib"] is not None:
        title += f": {growth['growth_kib']:+,} KiB"
    plot = line_plot(points, "MiB", title)
    return f"<figure class=narrow><figcaption>{title}</figcaption>{plot}</figure>"
