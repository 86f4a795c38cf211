"""The quickstart report's pictures, as SVG that follows the reader's light or dark theme."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray

from edgeae.exporting.measure import Coding

__all__ = ["overview_picture", "rate_picture", "trade_picture", "zoom_picture"]

Samples = NDArray[Any]

_INK, _FAINT, _GRID = "#20262d", "#6b7580", "#dfe3e8"
_SIGNAL, _RECON, _BOUND, _OURS = "#9aa4af", "#c2410c", "#0f766e", "#1d4ed8"
_CLASSICAL, _XZ, _ZLIB = "#0e9488", "#a8a29e", "#d6d3d1"
_DARK = {
    _INK: "#e6e9ee",
    _FAINT: "#99a3af",
    _GRID: "#333b45",
    _SIGNAL: "#7d8894",
    _RECON: "#fb923c",
    _BOUND: "#2dd4bf",
    _OURS: "#7ba7ff",
    _CLASSICAL: "#2bb3a4",
    _XZ: "#78716c",
    _ZLIB: "#57534e",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgeae",
    "font.size": 10.0,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "legend.frameon": False,
    "path.simplify": True,
}


def _svg(figure: Figure) -> str:
    """The figure's SVG, its colours as variables that a dark theme replaces."""
    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    names = {light: f"--c{number}" for number, light in enumerate(_DARK)}
    for light, name in names.items():
        text = text.replace(light, f"var({name})")
    text = text.replace("'DejaVu Sans'", "system-ui, 'Segoe UI', 'DejaVu Sans'")
    light_rules = "".join(f"{name}:{light};" for light, name in names.items())
    dark_rules = "".join(f"{names[light]}:{dark};" for light, dark in _DARK.items())
    style = (
        f"<style>svg{{{light_rules}}}"
        f"@media (prefers-color-scheme: dark){{svg{{{dark_rules}}}}}</style>"
    )
    head = text.index(">") + 1
    return text[:head] + style + text[head:]


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def zoom_picture(x: Samples, codings: Sequence[Coding], start: int, rate_hz: float) -> str:
    """A stretch of the signal and its reconstruction per mode, each beside its error."""
    n = min(400, len(x) - start)
    part = slice(start, start + n)
    t_ms = np.arange(n) / rate_hz * 1e3
    with mpl.rc_context(_STYLE):
        figure = _figure(9.6, 2.05 * len(codings) + 0.6)
        axes = figure.subplots(len(codings), 2, sharex=True, squeeze=False, width_ratios=[1.7, 1])
        for (left, right), coding in zip(axes, codings, strict=True):
            left.plot(t_ms, x[part], color=_SIGNAL, linewidth=3.2, label="original")
            left.plot(t_ms, coding.recon[part], color=_RECON, linewidth=1.1, label="decoded")
            left.set_title(f"{coding.mode.title}: {coding.rate:.2f} bit/sample")
            left.set_ylabel("counts")
            _error(right, t_ms, coding.recon[part].astype(np.int64) - x[part], coding)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
        for axis in axes[-1]:
            axis.set_xlabel("milliseconds")
            axis.set_xlim(t_ms[0], t_ms[-1])
        return _svg(figure)


def _error(axis: Any, t: Samples, error: Samples, coding: Coding) -> None:
    bound = coding.mode.max_error
    if coding.mode.lossless:
        axis.set_title("Error: 0 everywhere")
        axis.set_ylim(-1, 1)
    elif bound is not None:
        axis.set_title(f"Error: at most {coding.worst:g}, promised {bound}")
        axis.axhspan(-bound, bound, color=_BOUND, alpha=0.13, linewidth=0)
        for edge in (-bound, bound):
            axis.axhline(edge, color=_BOUND, linewidth=1.1)
        axis.set_ylim(-1.35 * bound, 1.35 * bound)
    else:
        axis.set_title(f"Error: RMSE {coding.rmse:.1f}, {coding.snr_db:.1f} dB SNR")
        top = 1.15 * max(1.0, float(np.abs(error).max()))
        axis.set_ylim(-top, top)
    ticks = FixedLocator([-bound, 0, bound]) if bound else MaxNLocator(5, integer=True)
    axis.yaxis.set_major_locator(ticks)
    axis.plot(t, error, color=_RECON, linewidth=0.8)


def _buckets(values: Samples, n: int) -> tuple[Samples, Samples]:
    """Smallest and largest value of each of ``n`` equal stretches."""
    length = max(1, len(values) // n)
    rows = values[: len(values) // length * length].reshape(-1, length)
    return rows.min(1), rows.max(1)


def _band(axis: Any, values: Samples, rate_hz: float, color: str) -> None:
    low, high = _buckets(values, 600)
    t_s = np.linspace(0, len(values) / rate_hz, len(low))
    axis.fill_between(t_s, low, high, color=color, linewidth=0)
    axis.set_xlim(t_s[0], t_s[-1])


def overview_picture(x: Samples, codings: Sequence[Coding], rate_hz: float) -> str:
    """The whole test part over time, and how often each error occurs in each mode that loses."""
    shown = [coding for coding in codings if not coding.mode.lossless]
    with mpl.rc_context(_STYLE):
        figure = _figure(9.6, 4.6)
        top, bottom = np.ravel(figure.subfigures(2, 1, height_ratios=[1, 1.15], squeeze=False))
        axis = top.subplots()
        _band(axis, x, rate_hz, _SIGNAL)
        axis.set_title(f"The test part: {len(x):,} samples that training never saw")
        axis.set_ylabel("counts")
        axis.set_xlabel("seconds")
        for axis, coding in zip(bottom.subplots(1, len(shown)), shown, strict=True):
            _histogram(axis, coding.recon.astype(np.int64) - x, coding)
        return _svg(figure)


def _histogram(axis: Any, error: Samples, coding: Coding) -> None:
    bound = coding.mode.max_error
    reach = int(np.abs(error).max()) if bound is None else bound
    width = max(1, (2 * reach + 1) // 60)
    half = -(-(2 * reach + 1) // width) / 2
    edges = (np.arange(int(2 * half) + 1) - half) * width
    shares = np.histogram(error, edges)[0] * (100 / error.size)
    axis.bar(edges[:-1] + width / 2, shares, 0.92 * width, color=_RECON, linewidth=0)
    if bound is not None:
        for edge in (-bound - 0.5, bound + 0.5):
            axis.axvline(edge, color=_BOUND, linewidth=1.5)
    axis.set_title(f"{coding.mode.title}: errors {error.min()} to {error.max()}".replace("-", "−"))
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_xlabel("error in counts")
    axis.set_ylabel("% of samples")
    axis.grid(False, axis="x")


def rate_picture(codings: Sequence[Coding]) -> str:
    """Bits per sample under each promise: the model, the classical mode, xz, zlib."""
    series = [
        ("edgeae model", _OURS, [coding.rate for coding in codings]),
        *(
            (label, color, [coding.best(family).bits_per_sample for coding in codings])
            for family, label, color in (
                ("classical", "edgeae without a model", _CLASSICAL),
                ("xz", "xz -9e", _XZ),
                ("zlib", "zlib -9", _ZLIB),
            )
        ),
    ]
    with mpl.rc_context({**_STYLE, "axes.grid.axis": "y"}):
        figure = _figure(9.6, 3.3)
        axis = figure.subplots()
        width = 0.2
        for number, (label, color, rates) in enumerate(series):
            at = np.arange(len(codings)) + (number - 1.5) * width
            bars = axis.bar(at, rates, 0.92 * width, color=color, label=label, linewidth=0)
            axis.bar_label(bars, fmt="%.2f", fontsize=8.5, padding=2)
        axis.set_xticks(range(len(codings)), [_promise(coding) for coding in codings])
        axis.tick_params(axis="x", length=0)
        axis.set_ylabel("bit per sample")
        axis.margins(y=0.12)
        axis.legend(loc="upper left", fontsize=9)
        return _svg(figure)


def _promise(coding: Coding) -> str:
    if coding.mode.lossless or coding.mode.max_error is not None:
        return coding.mode.title
    return f"Lossy, RMSE {coding.rmse:.1f}"


def trade_picture(lines: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Rate over distortion of the window code and of bounded coding with and without the model."""
    with mpl.rc_context(_STYLE):
        figure = _figure(9.6, 3.3)
        axis = figure.subplots()
        for name, label, color, marker in (
            ("classical", "max error, without a model", _CLASSICAL, "s"),
            ("max_error", "max error, model", _OURS, "o"),
            ("lossy", "lossy, model", _RECON, "D"),
        ):
            points = lines[name]
            if not points:
                continue
            axis.plot(
                [p["rmse"] for p in points],
                [p["bits_per_sample"] for p in points],
                color=color,
                marker=marker,
                markersize=4.5,
                linewidth=1.5,
                label=label,
            )
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(FixedLocator([0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.set_ylim(bottom=0)
        axis.set_xlabel("RMSE in counts (log scale)")
        axis.set_ylabel("bit per sample")
        axis.legend(loc="upper right", fontsize=9)
        return _svg(figure)
