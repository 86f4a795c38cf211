"""Signals, spectrograms and images as pieces of a page, with numpy and the standard library."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import SignalError

__all__ = ["picture", "png", "spectrogram", "wave_plot"]

Array = NDArray[Any]

_WIDTH, _ROW, _LEFT, _BOTTOM = 960, 118, 8, 20
_POINTS = 1400  # more samples than this are drawn as an envelope
_MOST_COLUMNS = 900
_FLOOR_DB = 80.0
_COLOURS = np.array(
    [(8, 6, 30), (60, 15, 110), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191)]
)


def wave_plot(
    rows: Sequence[tuple[str, Array, str]],
    *,
    words: str,
    seconds: tuple[float, float] | None = None,
    marks: Sequence[Sequence[float]] = (),
) -> str:
    """Series [T] under one another, all on one scale, as inline SVG.

    Args:
        rows: title, samples and CSS class of each.
        words: what the picture shows, for those who do not see it.
        seconds: where the first and the last sample lie, for the axis.
        marks: of each row, places in 0..1 to point at.

    Example:
        >>> wave_plot([("a", np.zeros(4), "line")], words="a flat line")[:4]
        '<svg'
    """
    finite = [np.asarray(x, np.float64) for _, x, _ in rows]
    low = min((float(np.nanmin(x)) for x in finite if x.size), default=0.0)
    high = max((float(np.nanmax(x)) for x in finite if x.size), default=1.0)
    height = _ROW * len(rows) + _BOTTOM
    parts = []
    for number, ((title, _, kind), x) in enumerate(zip(rows, finite, strict=True)):
        top = _ROW * number + 28
        parts.append(f'<path class={kind} d="{_path(x, top, low, high)}"/>')
        parts += [
            f'<path class=peak d="M{_LEFT + place * (_WIDTH - 2 * _LEFT):.1f} {top - 3}l-4 -7h8z"/>'
            for place in (marks[number] if number < len(marks) else ())
        ]
        parts.append(f'<text x="{_LEFT}" y="{top - 14}">{html.escape(title)}</text>')
    if seconds is not None:
        for share in (0.0, 0.5, 1.0):
            at = seconds[0] + share * (seconds[1] - seconds[0])
            anchor = ("start", "middle", "end")[round(2 * share)]
            x_at = _LEFT + share * (_WIDTH - 2 * _LEFT)
            parts.append(
                f'<text x="{x_at:.0f}" y="{height - 5}" text-anchor={anchor}>{at:.6g} s</text>'
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role=img '
        f'aria-label="{html.escape(words)}">' + "".join(parts) + "</svg>"
    )


def _path(x: Array, top: float, low: float, high: float) -> str:
    """A line, or an envelope of many samples, in tenths of a pixel."""
    x = np.where(np.isfinite(x), x, low)
    if len(x) > _POINTS:
        columns = np.array_split(x, _POINTS // 2)
        x = np.ravel([(column.min(), column.max()) for column in columns])
    across = np.linspace(_LEFT, _WIDTH - _LEFT, max(len(x), 1))
    down = top + (high - x) / max(high - low, 1e-12) * (_ROW - 36)
    return "M" + "L".join(f"{a:.1f} {d:.1f}" for a, d in zip(across, down, strict=False))


def spectrogram(x: Array, *, window: int = 512, top_db: float | None = None) -> tuple[Array, float]:
    """Power over time and frequency as colours uint8 [F, T, 3], low frequencies at the bottom.

    Args:
        x: samples [T].
        window: samples of a frame.
        top_db: the level of the brightest colour; None: of the loudest frame.

    Returns:
        The colours and the level of the brightest.
    """
    x = np.asarray(x, np.float64)
    if len(x) < window:
        x = np.pad(x, (0, window - len(x)))
    hop = max(window // 4, len(x) // _MOST_COLUMNS)
    starts = range(0, len(x) - window + 1, hop)
    frames = np.stack([x[i : i + window] for i in starts]) * np.hanning(window)
    power = 10 * np.log10(np.abs(np.fft.rfft(frames, axis=1)) ** 2 + 1e-12)
    top = float(power.max()) if top_db is None else top_db
    level = np.clip(1 + (power - top) / _FLOOR_DB, 0, 1) * (len(_COLOURS) - 1)
    at = np.arange(len(_COLOURS))
    colours = np.stack([np.interp(level, at, _COLOURS[:, c]) for c in range(3)], axis=2)
    return np.rint(colours).astype(np.uint8).transpose(1, 0, 2)[::-1], top


def png(pixels: Array) -> bytes:
    """A PNG of uint8 pixels [H, W] or [H, W, 3].

    Example:
        >>> png(np.zeros((2, 3), np.uint8))[1:4]
        b'PNG'

    References:
        Portable Network Graphics (third edition), https://www.w3.org/TR/png-3/.
    """
    if pixels.dtype != np.uint8 or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    ):
        raise SignalError(f"no picture: shape {list(pixels.shape)} of {pixels.dtype}")
    rows = np.ascontiguousarray(pixels).reshape(pixels.shape[0], -1)
    plain = np.pad(rows, ((0, 0), (1, 0))).tobytes()  # each row without a filter
    head = struct.pack(
        ">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2 * (pixels.ndim == 3), 0, 0, 0
    )
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(plain, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def picture(pixels: Array, words: str, *, kind: str = "") -> str:
    """Pixels as an ``img`` with the data inside."""
    data = base64.b64encode(png(pixels)).decode()
    return f'<img class="{kind}" src="data:image/png;base64,{data}" alt="{html.escape(words)}">'
