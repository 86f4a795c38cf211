"""Plots as inline SVG: a histogram, stacked bars, a line. Colours come from the page's CSS."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Sequence

__all__ = ["bars", "histogram_plot", "line_plot", "us"]

_WIDTH, _HEIGHT = 460, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 30
_BAR_HEIGHT, _BAR_GAP = 22, 10
_N_COLOURS = 12


def histogram_plot(
    edges: Sequence[float], counts: Sequence[int], marks: Sequence[tuple[str, float]], words: str
) -> str:
    """Counts per bin on a logarithmic axis of microseconds, with named marks.

    Args:
        edges: of the bins, [B + 1].
        counts: [B].
        marks: name and place of each.
        words: what the picture shows, for those who do not see it.
    """
    low, high = math.log(edges[0]), math.log(edges[-1])
    top = max(counts) or 1

    def x(value: float) -> float:
        inner = _WIDTH - _LEFT - _RIGHT
        return _LEFT + inner * (math.log(max(value, 1e-9)) - low) / max(high - low, 1e-9)

    def y(count: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * count / top

    parts = []
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            parts.append(
                f'<rect class=bar x="{x(left):.1f}" y="{y(count):.1f}" '
                f'width="{max(x(right) - x(left) - 0.5, 0.5):.1f}" '
                f'height="{y(0) - y(count):.1f}"/>'
            )
    for number, (name, value) in enumerate(marks):
        parts.append(f'<path class=mark d="M{x(value):.1f} {_TOP}V{y(0):.1f}"/>')
        if x(value) < _WIDTH - 50:
            words_at, anchor = x(value) + 3, "start"
        else:
            words_at, anchor = x(value) - 3, "end"
        parts.append(
            f'<text x="{words_at:.1f}" y="{_TOP + 9 + 12 * number}" text-anchor={anchor}>'
            f"{html.escape(name)}</text>"
        )
    for value in _log_ticks(edges[0], edges[-1]):
        parts.append(
            f'<text class=tick x="{x(value):.1f}" y="{_HEIGHT - 12}" '
            f"text-anchor=middle>{us(value)}</text>"
        )
    parts.append(f'<path class=axis d="M{_LEFT} {y(0):.1f}H{_WIDTH - _RIGHT}"/>')
    parts.append(_text(_LEFT - 6, _TOP + 9, f"{top:,}"))
    return _svg(_HEIGHT, parts, words)


def line_plot(points: Sequence[tuple[float, float]], unit: str, words: str) -> str:
    """A line through (x, y), y in ``unit`` from 0."""
    top = 1.15 * max(y for _, y in points)
    right = max(x for x, _ in points) or 1.0

    def place(x: float, y: float) -> str:
        inner = _WIDTH - _LEFT - _RIGHT
        across = _LEFT + inner * x / right
        return f"{across:.1f} {_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * y / top:.1f}"

    path = "L".join(place(x, y) for x, y in points)
    ground = _HEIGHT - _BOTTOM
    parts = [
        f'<path class=axis d="M{_LEFT} {_TOP}V{ground}H{_WIDTH - _RIGHT}"/>',
        f'<path class=line d="M{path}"/>',
        _text(_LEFT - 6, ground, "0"),
        _text(_LEFT - 6, _TOP + 9 + 0.13 * (ground - _TOP), f"{top / 1.15:,.0f} {unit}"),
        _text(_WIDTH - _RIGHT, _HEIGHT - 12, f"{right:,.0f}"),
    ]
    return _svg(_HEIGHT, parts, words)


def bars(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], words: str) -> str:
    """One stacked bar per row, as wide as its sum: name, then (part, value in microseconds)."""
    longest = max(sum(value for _, value in parts) for _, parts in rows) or 1.0
    names = list(dict.fromkeys(name for _, parts in rows for name, _ in parts))
    colours = (f"s{number % _N_COLOURS}" for number in itertools.count())
    kinds = {name: "rest" if name == "rest" else next(colours) for name in names}
    left, width = 130, 900
    inner = width - left - 80
    drawn = []
    for number, (title, parts) in enumerate(rows):
        top = _TOP + number * (_BAR_HEIGHT + _BAR_GAP)
        drawn.append(_text(left - 8, top + 15, title))
        at = float(left)
        for name, value in parts:
            wide = inner * max(value, 0.0) / longest
            drawn.append(
                f'<rect class={kinds[name]} x="{at:.1f}" y="{top}" '
                f'width="{wide:.1f}" height="{_BAR_HEIGHT}"><title>{html.escape(name)} '
                f"{us(value)}</title></rect>"
            )
            at += wide
        total = sum(value for _, value in parts)
        drawn.append(f'<text x="{at + 6:.1f}" y="{top + 15}">{us(total)}</text>')
    bottom = _TOP + len(rows) * (_BAR_HEIGHT + _BAR_GAP) + 8
    for number, name in enumerate(names):
        x, y = left + (number % 3) * 255, bottom + (number // 3) * 18
        drawn.append(f'<rect class={kinds[name]} x="{x}" y="{y}" width="11" height="11"/>')
        drawn.append(f'<text x="{x + 16}" y="{y + 10}">{html.escape(name)}</text>')
    height = bottom + 18 * (1 + (len(names) - 1) // 3) + 6
    return _svg(height, drawn, words, width)


def _svg(height: float, parts: Sequence[str], words: str, width: int = _WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" role=img aria-label="{html.escape(words)}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(x: float, y: float, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor=end>{html.escape(words)}</text>'


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, three to six of them where that goes."""
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        ticks = [
            factor * 10.0**power
            for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for factor in factors
            if low <= factor * 10.0**power <= high
        ]
        if len(ticks) >= 3:
            return ticks[:: -(-len(ticks) // 6)]
    return [low, high]


def us(value: float) -> str:
    """A time in the unit that suits it.

    Example:
        >>> us(3.14159), us(1234.5), us(2_500_000)
        ('3.14 µs', '1.23 ms', '2.5 s')
    """
    for unit, size in (("µs", 1.0), ("ms", 1e3)):
        if value < 1000 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e6:.3g} s"
