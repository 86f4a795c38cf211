"""Draw the README's pictures: three seconds of an ECG, as it was and came back; runtimes as bars.

    EDGEAE_DATA=... python bench/picture.py [BUNDLE]
    python bench/picture.py latency                     only the bars

Writes .assets/latency.svg, from results/latency.csv, and .assets/ecg.svg. Its signal is the test
part of the bundle's own data; rates are those of all of it, errors those of the samples shown.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from bars import bars

import edgeae

ROOT = Path(__file__).resolve().parent.parent
WIDTH, ROW, LEFT, RIGHT, TOP = 860, 112, 14, 170, 12
BEGIN, SECONDS = 20_000, 3.0
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #20262d }
.small { font-size: 11.5px; fill: #6b7580 }
.was { stroke: #9aa4af } .back { stroke: #c2410c } .grid { stroke: #dfe3e8 }
.was, .back { fill: none; stroke-width: 12; stroke-linejoin: round }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9ee } .small { fill: #99a3af }
  .was { stroke: #7d8894 } .back { stroke: #fb923c } .grid { stroke: #333b45 }
}
"""


def trace(x: np.ndarray, kind: str, top: float, low: float, high: float) -> str:
    """A trace, scaled into its row; steps of a tenth of a pixel, which keeps the file small."""
    across = np.linspace(LEFT, WIDTH - RIGHT, len(x))
    down = top + (high - x) / (high - low) * (ROW - 22)
    points = np.rint(10 * np.stack([across, down], axis=1)).astype(int)
    steps = " ".join(f"{a} {b}" for a, b in np.diff(points, axis=0))
    return (
        f'<path class="{kind}" transform="scale(.1)" d="M{points[0][0]} {points[0][1]}l{steps}"/>'
    )


def picture(bundle: edgeae.Bundle, signal: np.ndarray) -> str:
    """The SVG."""
    rate_hz = bundle.signal.rate_hz or 1.0
    shown = slice(BEGIN, BEGIN + round(SECONDS * rate_hz))
    x = np.ravel(signal)
    raw_bits = 8 * x.dtype.itemsize
    low, high = float(x[shown].min()), float(x[shown].max())
    rows = [("original", "", x, raw_bits)]
    for title, option, promise in (
        ("lossless", "--lossless", {"lossless": True}),
        ("within 5 counts", "--max-error 5", {"max_error": 5}),
        ("lossy", "default", {}),
    ):
        data = edgeae.encode(bundle, signal, **promise)
        y = np.ravel(edgeae.decode(bundle, data))
        rows.append((title, option, y, 8 * len(data) / x.size))
    height = TOP + ROW * len(rows) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{SECONDS:g} s of an ECG, and what came back in three modes</title>",
        f"<style>{STYLE}</style>",
    ]
    for second in range(int(SECONDS) + 1):
        at = LEFT + second / SECONDS * (WIDTH - RIGHT - LEFT)
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{height - 16}"/>')
        parts.append(f'<text class="small" x="{at:.1f}" y="{height - 3}">{second} s</text>')
    for number, (title, option, y, bits) in enumerate(rows):
        top = TOP + ROW * number + 8
        if number:
            parts.append(trace(x[shown], "was", top, low, high))
        parts.append(trace(y[shown], "back" if number else "was", top, low, high))
        error = np.abs(y[shown].astype(np.float64) - x[shown])
        lines = [title, option] if option else [title]
        lines.append(f"{bits:.2f} bit/sample" if number else f"{bits} bit/sample in memory")
        if number:
            found = f"error ≤ {error.max():g}" if error.any() else "every bit equal"
            lines.append(f"{raw_bits / bits:.1f} : 1, {found}")
        for line, text in enumerate(lines):
            kind = ' class="small"' if line else ""
            where = f'x="{WIDTH - RIGHT + 14}" y="{top + 18 + 17 * line}"'
            parts.append(f"<text{kind} {where}>{text}</text>")
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Draw them."""
    from edgeae.train.datasets import load_dataset

    target = ROOT / ".assets" / "latency.svg"
    target.parent.mkdir(exist_ok=True)
    target.write_text(bars())
    if sys.argv[1:] == ["latency"]:
        return
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "export/models/ecg-own"
    bundle = edgeae.load(path)
    source = bundle.manifest.raw["recipe"]["data"]["source"]
    target = ROOT / ".assets" / "ecg.svg"
    target.write_text(picture(bundle, load_dataset(source, "test").segments[0]))


if __name__ == "__main__":
    main()
