"""Draw results/latency.csv: one window on every runtime, as a share of onnxruntime's time."""

from __future__ import annotations

from html import escape

from runtime_tables import NETWORKS, SHOWN, short_title, shown

WIDTH, ROW, LABEL, GAP, TOP = 860, 24, 236, 22, 44
LONGEST = 1.6
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #20262d }
.small { font-size: 11.5px; fill: #6b7580 }
.bar { fill: #9aa4af } .ours { fill: #c2410c }
.one { stroke: #6b7580; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9ee } .small { fill: #99a3af }
  .bar { fill: #7d8894 } .ours { fill: #fb923c } .one { stroke: #99a3af }
}
"""


def bars() -> str:
    """The SVG; bars that would leave their panel are cut, their number stands beside them."""
    rows = [
        (peer, spellings)
        for peer, spellings in SHOWN
        if any(shown(network, "ratio", peer, spellings) for network in NETWORKS)
    ]
    height = TOP + ROW * len(rows) + 10
    panel = (WIDTH - LABEL - GAP * len(NETWORKS)) / len(NETWORKS)
    unit = (panel - 40) / LONGEST
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>Time of one window on one thread, over that of onnxruntime in float</title>",
        f"<style>{STYLE}</style>",
    ]
    for number, (peer, spellings) in enumerate(rows):
        words = short_title(peer, spellings).replace("*", "")
        at = TOP + ROW * number + 15
        parts.append(f'<text x="{LABEL - 8}" y="{at}" text-anchor="end">{escape(words)}</text>')
    for place, (network, name) in enumerate(NETWORKS.items()):
        left = LABEL + place * (panel + GAP)
        parts.append(f'<text x="{left:.1f}" y="18">{escape(name.partition(",")[0])}</text>')
        one = left + unit
        parts.append(
            f'<path class="one" d="M{one:.1f} {TOP - 4}V{height - 10}"/>'
            f'<text class="small" x="{one:.1f}" y="{TOP - 9}" text-anchor="middle">1</text>'
        )
        for number, (peer, spellings) in enumerate(rows):
            value = shown(network, "ratio", peer, spellings)
            if not value:
                continue
            length = unit * min(float(value), LONGEST)
            kind = "ours" if peer.startswith("edgeae") else "bar"
            top = TOP + ROW * number
            parts.append(
                f'<rect class="{kind}" x="{left:.1f}" y="{top + 3}" width="{length:.1f}" '
                f'height="{ROW - 8}" rx="2"/>'
                f'<text class="small" x="{left + panel:.1f}" y="{top + 15}" text-anchor="end">'
                f"{float(value):.2f}</text>"
            )
    return "\n".join([*parts, "</svg>", ""])
