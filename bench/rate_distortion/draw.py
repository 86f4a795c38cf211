"""Draw results/rd.csv: what is saved per suite, rate over bound, and images' bytes over dB."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from page import ROOT, Rows, read
from rd_tables import (
    COARSE,
    LIBRARIES,
    LOSSLESS,
    NO_MODEL,
    OURS,
    TWIN,
    best_library,
    names,
    ours,
    rd_rows,
    total,
)
from suites import SUITES

ASSETS = ROOT / ".assets"
WIDTH = 860
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #20262d }
.small { font-size: 11.5px; fill: #6b7580 }
.ours { stroke: #c2410c; fill: #c2410c } .none { stroke: #d97706; fill: #d97706 }
.twin { stroke: #1d4ed8; fill: #1d4ed8 } .best { stroke: #6b7580; fill: #6b7580 }
.other { stroke: #b8c0c8; fill: #b8c0c8 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round } .other.line { stroke-width: 1 }
.none.line { stroke-dasharray: 5 3 }
.grid { stroke: #dfe3e8 } .bar { stroke: none } .label { stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9ee } .small { fill: #99a3af }
  .ours { stroke: #fb923c; fill: #fb923c } .none { stroke: #fbbf24; fill: #fbbf24 }
  .twin { stroke: #60a5fa; fill: #60a5fa } .best { stroke: #99a3af; fill: #99a3af }
  .other { stroke: #4a5562; fill: #4a5562 } .grid { stroke: #333b45 }
}
.bar, .label, .line.bar { stroke: none } .line { fill: none }
"""
TITLES = {
    "ecg-own": "ECG, own patient",
    "ecg": "ECG, unseen patients",
    "power": "household power",
    "gas": "gas sensor",
    "ppg": "pulse at the wrist",
    "har": "phone and watch motion",
    "imu": "watch, six channels",
    "fan": "fan vibration",
    "ett": "transformer loads",
    "skab": "water circulation",
    "nab": "servers and taxis",
    "speech": "speech, foreign",
}


def draw() -> None:
    """All pictures."""
    ASSETS.mkdir(exist_ok=True)
    (ASSETS / "rate-saved.svg").write_text(saved())
    for setting in ("frames", "whole"):
        (ASSETS / f"rate-{setting}.svg").write_text(panels(setting))
    if read("rd-images"):
        (ASSETS / "rate-images.svg").write_text(images())


def _page(height: float, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img">'
        f"\n<title>{escape(title)}</title>\n<style>{STYLE}</style>"
    )
    return "\n".join([head, *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    shown = f' class="{kind}"' if kind else ""
    return f'<text{shown} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _legend(entries: Sequence[tuple[str, str]], x: float, y: float) -> list[str]:
    parts = []
    for kind, words in entries:
        parts.append(
            f'<rect class="{kind} bar" x="{x}" y="{y - 9}" width="12" height="10" rx="2"/>'
        )
        parts.append(_text(x + 18, y, words, "small"))
        x += 34 + 6.3 * len(words)
    return parts


# -- what is saved -------------------------------------------------------------------------------


def saved() -> str:
    """A bar per suite: bits in frames at coarse bounds, the best library's as one."""
    label, row, top, right = 186, 30, 58, 60
    suites = names(rd_rows(setting="frames"), "suite")
    unit = (WIDTH - label - right) / 1.15
    parts = [
        _text(14, 18, "Frames of 1,024 samples, every sample within its bound: "
              "bits, as a share of the best library's"),
        *_legend([("ours", "edgeae, with a model"), ("none", "edgeae, no model yet"),
                  ("twin", "fitted predictor and tables, no network")], 14, 40),
    ]  # fmt: skip
    at_one = label + unit
    height = top + row * len(suites) + 12
    parts.append(f'<path class="grid" d="M{at_one:.1f} {top - 6}V{height - 8}"/>')
    parts.append(_text(at_one, top - 10, "best library", "small", "middle"))
    for number, suite in enumerate(suites):
        rows = rd_rows(suite, "frames")
        y = top + row * number
        bounds = [bound for bound in names(rows, "bound") if bound in COARSE]
        has_model = any(row_["coder"] == OURS for row_ in rows)
        parts.append(_text(label - 10, y + 16, TITLES.get(suite, suite), "", "end"))
        for value, kind, shift, size in (
            (_mean(rows, bounds, ours), "ours" if has_model else "none", 2, 13),
            (_mean(rows, bounds, lambda r, b: total(r, TWIN, b)), "twin", 17, 6),
        ):
            if math.isnan(value):
                continue
            width = unit * min(value, 1.12)
            parts.append(f'<rect class="{kind} bar" x="{label}" y="{y + shift}" '
                         f'width="{width:.1f}" height="{size}" rx="2"/>')  # fmt: skip
            if size > 10:
                parts.append(_text(label + width + 6, y + shift + 11, f"{value:.2f}", "small"))
    return _page(height, "Bits per sample of edgeae over those of the best library", parts)


def _mean(rows: Rows, bounds: Sequence[str], what: Callable[[Rows, str], float]) -> float:
    """The mean ratio to the best library."""
    ratios = [what(rows, bound) / best_library(rows, bound) for bound in bounds]
    ratios = [ratio for ratio in ratios if not math.isnan(ratio)]
    return sum(ratios) / len(ratios) if ratios else math.nan


# -- rate against bound --------------------------------------------------------------------------


def panels(setting: str) -> str:
    """A panel per suite: bits per sample over the bound, lossless at the left."""
    suites = names(rd_rows(setting=setting), "suite")
    columns, gap, top, tall = 3, 26, 60, 190
    wide = (WIDTH - 28 - gap * (columns - 1)) / columns
    words = "Frames of 1,024 samples" if setting == "frames" else "Whole streams"
    parts = [
        _text(14, 18, f"{words}: bits per sample over the bound on every sample; 0 is lossless"),
        *_legend([("ours", "edgeae"), ("none", "edgeae, no model"), ("twin", "twin, no network"),
                  ("best", "best library"), ("other", "each library")], 14, 40),
    ]  # fmt: skip
    for number, suite in enumerate(suites):
        left = 14 + (number % columns) * (wide + gap)
        down = top + (number // columns) * (tall + gap)
        parts += _panel(rd_rows(suite, setting), suite, left, down, wide, tall)
    height = top + math.ceil(len(suites) / columns) * (tall + gap)
    return _page(height, f"{words}: rate over bound", parts)


def _panel(
    rows: Rows, suite: str, left: float, top: float, wide: float, tall: float
) -> list[str]:  # fmt: skip
    bounds = [LOSSLESS, *(b for b in names(rows, "bound") if b != LOSSLESS)]
    lines: list[tuple[str, list[float]]] = [
        ("other", [total(rows, coder, bound) for bound in bounds]) for coder in LIBRARIES
    ]
    lines.append(("best", [best_library(rows, bound) for bound in bounds]))
    lines.append(("twin", [total(rows, TWIN, bound) for bound in bounds]))
    lines.append(("none", [total(rows, NO_MODEL, bound) for bound in bounds]))
    lines.append(("ours", [total(rows, OURS, bound) for bound in bounds]))
    kept = [v for _, values in lines[-4:] for v in values if v > 0]
    low, high = min(kept) / 1.15, max(kept) * 1.6
    inner = (left + 30, top + 20, wide - 34, tall - 52)

    def place(n: int, value: float) -> tuple[float, float]:
        share = math.log(value / low) / math.log(high / low)
        across = inner[0] + inner[2] * n / (len(bounds) - 1)
        return across, inner[1] + inner[3] * (1 - min(max(share, 0), 1))

    parts = [_text(left, top + 10, TITLES.get(suite, suite))]
    for tick in (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16):
        if low <= tick <= high:
            y = place(0, tick)[1]
            parts.append(f'<path class="grid" d="M{inner[0]:.1f} {y:.1f}h{inner[2]:.1f}"/>')
            parts.append(_text(inner[0] - 4, y + 4, f"{tick:g}", "small", "end"))
    for n, bound in enumerate(bounds):
        words = "0" if bound == LOSSLESS else bound
        parts.append(_text(place(n, low)[0], top + tall - 14, words, "small", "middle"))
    for kind, values in lines:
        points = [place(n, v) for n, v in enumerate(values) if v > 0 and low <= v <= high]
        if len(points) > 1:
            told = " ".join(f"{x:.1f} {y:.1f}" for x, y in points)
            parts.append(f'<path class="{kind} line" d="M{told}"/>')
    return parts


# -- images --------------------------------------------------------------------------------------


def images() -> str:
    """Bytes per image over PSNR, less what a black image takes."""
    every = [row for row in read("rd-images") if row["suite"] == "mnist" and row["psnr_db"]]
    left, top, wide, tall = 52, 56, WIDTH - 210, 330
    low, high, most = 15.0, 34.0, 200.0
    least = 6.0

    def place(db: float, size: float) -> tuple[float, float]:
        share = math.log(size / least) / math.log(most / least)
        return left + wide * (db - low) / (high - low), top + tall * (1 - share)

    parts = [_text(14, 18, "MNIST, one image at a time: bytes beyond a black image's, over PSNR")]
    for db in range(15, 35, 5):
        x = place(db, least)[0]
        parts.append(f'<path class="grid" d="M{x:.1f} {top}v{tall}"/>')
        parts.append(_text(x, top + tall + 16, f"{db} dB", "small", "middle"))
    for size in (10, 20, 50, 100, 200):
        y = place(low, size)[1]
        parts.append(f'<path class="grid" d="M{left} {y:.1f}h{wide}"/>')
        parts.append(_text(left - 5, y + 4, str(size), "small", "end"))
    for coder in names(every, "coder"):
        for note in names((row for row in every if row["coder"] == coder), "note"):
            points = sorted(
                (float(row["psnr_db"]), float(row["bytes_per_image"]) - float(row["blank_bytes"]))
                for row in every if (row["coder"], row["note"]) == (coder, note)
            )  # fmt: skip
            shown = [place(db, s) for db, s in points if low <= db <= high and least <= s <= most]
            if len(shown) < 2:
                continue
            kind = "ours" if coder == OURS else "twin" if coder.startswith("PCA") else "best"
            told = " ".join(f"{x:.1f} {y:.1f}" for x, y in shown)
            parts.append(f'<path class="{kind} line" d="M{told}"/>')
            words = note.removeprefix("bundle ") if note else coder
            words = f"edgeae, {words}" if coder == OURS else words
            parts.append(_text(shown[-1][0] + 6, shown[-1][1] + 4, words, "small"))
    return _page(top + tall + 30, "MNIST: bytes over PSNR", parts)


assert set(TITLES) == set(SUITES)
