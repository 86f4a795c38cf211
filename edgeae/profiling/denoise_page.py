"""What a denoiser did to a signal, as one HTML page: before, after, what is gone, and figures."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import EdgeAEError, SignalError
from edgeae.metrics import psnr_db, si_sdr_db, snr_db
from edgeae.profiling.page import html_page
from edgeae.profiling.traces import picture, spectrogram, wave_plot

__all__ = ["Denoised", "denoised_page", "figures", "write_denoised_page"]

Array = NDArray[Any]

_CHANNELS, _IMAGES = 4, 6  # shown at most
_ZOOM = 1200  # samples
_SOUND_HZ = 4000.0  # from this rate on there are spectrograms
_CSS = """
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin:20px 0}
.tile{background:var(--panel);border-radius:8px;padding:12px 14px;color:var(--faint);font-size:14px}
.tile b{display:block;font-size:23px;color:var(--ink)}
figure{margin:12px 0} .was,.back,.gone,.truth{fill:none;stroke-width:1.1}
.was{stroke:#8b96a2}.back{stroke:var(--ours)}.gone{stroke:var(--mark)}.truth{stroke:#0f766e}
.strip{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:10px}
img{display:block;width:100%;height:auto;border-radius:4px} .pixels{image-rendering:pixelated}
.heard{height:190px}
"""


@dataclass(frozen=True, kw_only=True)
class Denoised:
    """A signal before and after.

    Attributes:
        title: whose it is.
        before: [T], [T, C]; images [N, H, W] or [N, H, W, C].
        after: of the same shape.
        is_image: whether these are images.
        reference: the truth, where it is known.
        rate_hz: of a series.
        unit: of its samples.
        notes: lines to tell besides.
    """

    title: str
    before: Array
    after: Array
    is_image: bool = False
    reference: Array | None = None
    rate_hz: float | None = None
    unit: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that before, after and the truth belong together."""
        for name, x in (("denoised signal", self.after), ("reference", self.reference)):
            if x is not None and x.shape != self.before.shape:
                raise SignalError(
                    f"the {name} has shape {list(x.shape)}, the noisy signal "
                    f"{list(self.before.shape)}: they must be alike"
                )


def figures(shown: Denoised) -> list[tuple[str, str]]:
    """What is told above the pictures: words and value."""
    before, after = (_rows(shown, x) for x in (shown.before, shown.after))
    unit = f" {shown.unit}" if shown.unit else ""
    found = [
        ("input, RMS around its mean", f"{_rms(before - before.mean(0)):.4g}{unit}"),
        ("output, RMS around its mean", f"{_rms(after - after.mean(0)):.4g}{unit}"),
        ("removed, RMS", f"{_rms(before - after):.4g}{unit}"),
    ]
    if shown.reference is None:
        return found
    truth = _rows(shown, shown.reference)
    if shown.is_image:
        top = 255.0 if shown.before.dtype == np.uint8 else float(np.ptp(truth))
        pairs = [("PSNR", psnr_db(truth, before, peak=top), psnr_db(truth, after, peak=top))]
    else:
        pairs = [
            ("SNR", snr_db(truth, before), snr_db(truth, after)),
            ("SI-SDR", _si_sdr(truth, before), _si_sdr(truth, after)),
        ]
    return [
        *((f"{name} before → after", f"{was:.2f} → {now:.2f} dB") for name, was, now in pairs),
        *found,
    ]


def denoised_page(shown: Denoised) -> str:
    """The page as text; nothing in it is fetched from elsewhere."""
    return html_page(shown.title, _sections(shown), css=_CSS)


def write_denoised_page(path: str | Path, shown: Denoised) -> None:
    """Write the page.

    Raises:
        EdgeAEError: it cannot be written.
    """
    try:
        Path(path).write_text(denoised_page(shown), encoding="utf-8")
    except OSError as error:
        raise EdgeAEError(f"cannot write {path}: {error.strerror or error}") from error


def _rows(shown: Denoised, x: Array) -> NDArray[np.float64]:
    """[T, C], or all pixels of images; what is no number counts as nothing."""
    values = np.nan_to_num(np.asarray(x, np.float64))
    return values.reshape(-1, 1) if shown.is_image else values.reshape(len(values), -1)


def _rms(x: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0


def _si_sdr(truth: NDArray[np.float64], x: NDArray[np.float64]) -> float:
    return float(np.mean([si_sdr_db(truth[:, c], x[:, c]) for c in range(truth.shape[1])]))


def _sections(shown: Denoised) -> Iterator[str]:
    tiles = "".join(
        f"<div class=tile><b>{html.escape(value)}</b>{html.escape(words)}</div>"
        for words, value in figures(shown)
    )
    yield f"<div class=tiles>{tiles}</div>"
    for text in shown.notes:
        yield f"<p>{html.escape(text)}</p>"
    yield from _images(shown) if shown.is_image else _series(shown)


def _series(shown: Denoised) -> Iterator[str]:
    before, after = _rows(shown, shown.before), _rows(shown, shown.after)
    truth = None if shown.reference is None else _rows(shown, shown.reference)
    n, n_channels = before.shape
    rate = shown.rate_hz
    stretches = [("All of it", 0, n)]
    if n > 2 * _ZOOM:
        loudest = int(np.argmax(np.abs(after - np.median(after, 0)).max(1)))
        start = int(np.clip(loudest - _ZOOM // 2, 0, n - _ZOOM))
        stretches.insert(0, ("Around the largest value", start, start + _ZOOM))
    for heading, start, stop in stretches:
        yield f"<h2>{heading}</h2>"
        span = (start / rate, stop / rate) if rate else None
        for c in range(min(n_channels, _CHANNELS)):
            part = slice(start, stop)
            rows = [("before", before[part, c], "was"), ("after", after[part, c], "back")]
            if truth is not None:
                rows.append(("reference", truth[part, c], "truth"))
            yield _figure(c, n_channels, wave_plot(rows, words=heading, seconds=span))
            gone = before[part, c] - after[part, c]
            plot = wave_plot([("removed", gone, "gone")], words="what was removed", seconds=span)
            yield f"<figure>{plot}</figure>"
    if n_channels > _CHANNELS:
        yield f"<p>{n_channels - _CHANNELS} more channels are not shown.</p>"
    if rate and rate >= _SOUND_HZ:
        yield f"<h2>Spectrograms</h2>\n<p>0 to {rate / 2000:g} kHz, the same colours for all.</p>"
        colours, top = spectrogram(before[:, 0])
        yield f"<figure><figcaption>before</figcaption>{picture(colours, 'before', kind='heard')}"
        yield "</figure>"
        for name, x in (("after", after), ("reference", truth)):
            if x is not None:
                colours, _ = spectrogram(x[:, 0], top_db=top)
                image = picture(colours, name, kind="heard")
                yield f"<figure><figcaption>{name}</figcaption>{image}</figure>"


def _figure(channel: int, n_channels: int, plot: str) -> str:
    title = f"<figcaption>channel {channel + 1}</figcaption>" if n_channels > 1 else ""
    return f"<figure>{title}{plot}</figure>"


def _images(shown: Denoised) -> Iterator[str]:
    n = len(shown.before)
    dtype = shown.before.dtype
    top = float(np.iinfo(dtype).max) if dtype.kind in "iu" else 255.0
    for i in range(min(n, _IMAGES)):
        before, after = (np.asarray(x[i], np.float64) for x in (shown.before, shown.after))
        strip = [("before", before), ("after", after)]
        strip.append(("removed, twice as strong, around grey", top / 2 + 2 * (before - after)))
        if shown.reference is not None:
            strip.append(("reference", np.asarray(shown.reference[i], np.float64)))
        drawn = [
            f"<figure>{picture(_pixels(x * 255 / top), words, kind='pixels')}"
            f"<figcaption>{words}</figcaption></figure>"
            for words, x in strip
        ]
        yield f"<div class=strip>{''.join(drawn)}</div>"
    if n > _IMAGES:
        yield f"<p>{n - _IMAGES} more images are not shown.</p>"


def _pixels(x: NDArray[np.float64]) -> Array:
    levels = np.rint(np.clip(np.nan_to_num(x), 0, 255)).astype(np.uint8)
    if levels.ndim == 3 and levels.shape[2] not in (3,):
        levels = levels[..., 0]
    return levels
