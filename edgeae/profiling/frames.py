"""The signal a bundle is measured on, cut into frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ConfigError, SignalError
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.bundle_files import read_arrays
from edgeae.signal.lattice import Lattice

__all__ = ["Frames", "frames_of"]

_FRAME_ITEMS = 1024
_FRAME_SAMPLES = 1 << 14
_MAX_SAMPLES = 1 << 20

Samples = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Frames:
    """A signal and its frames.

    Attributes:
        whole: [n, C] or [n, H, W, C] (or without C where the file has none).
        items: time steps or images per frame.
        source: where it comes from, in words.
        rate_hz: items per second, if known.
    """

    whole: Samples
    items: int
    source: str
    rate_hz: float | None

    def pieces(self, count: int) -> list[Samples]:
        """Up to ``count`` whole frames, spread over the signal; at least one."""
        n = len(self.whole) // self.items
        chosen = np.unique(np.linspace(0, n - 1, max(1, min(count, n))).astype(int))
        return [
            np.ascontiguousarray(self.whole[k * self.items : (k + 1) * self.items]) for k in chosen
        ]


def frames_of(
    bundle: Bundle,
    *,
    path: str | None = None,
    frame_items: int | None = None,
) -> Frames:
    """The signal of a file; without one, the bundle's golden vector; without that, noise.

    Args:
        bundle: the model.
        path: a signal file.
        frame_items: time steps or images per frame; None takes 1,024 steps (fewer where there are
            more than 16 channels) or one image.

    Raises:
        ConfigError: ``frame_items`` is not positive.
        SignalError: the file is no signal, does not fit the bundle, or is shorter than a frame.
    """
    spec = bundle.signal
    if frame_items is not None and frame_items < 1:
        raise ConfigError(f"a frame has {frame_items} items: give at least 1")
    items = frame_items or (
        1 if spec.is_image else min(_FRAME_ITEMS, max(1, _FRAME_SAMPLES // spec.channels))
    )
    rate = spec.rate_hz
    if path is not None:
        from edgeae.signal import read_signal

        signal = read_signal(path)
        whole, source, rate = signal.data, Path(path).name, signal.rate_hz or rate
        _check(bundle, whole, path)
    elif "golden.npz" in bundle.files:
        whole = _golden(bundle)
        source = f"golden vector, {len(whole)} items there and back"
        whole = _there_and_back(whole, items)
    else:
        whole = _noise(bundle, items)
        source = "noise, for the bundle has no golden vector"
    if len(whole) < items:
        raise SignalError(f"{path}: {len(whole)} items, a frame has {items}: give a longer signal")
    limit = max(items, _MAX_SAMPLES // max(1, whole[:1].size))
    return Frames(
        whole=np.ascontiguousarray(whole[:limit]), items=items, source=source, rate_hz=rate
    )


def _check(bundle: Bundle, x: Samples, path: str) -> None:
    spec = bundle.signal
    channels = x.shape[-1] if x.ndim in (2, 4) else 1
    size = x.shape[1:3] if x.ndim >= 3 else (None, None)
    if (channels, *size) != (spec.channels, spec.height, spec.width):
        wanted = f"{spec.channels} channel(s)"
        if spec.is_image:
            wanted = f"images of {spec.height} x {spec.width} pixels, " + wanted
        raise SignalError(
            f"{path} has shape {list(x.shape)}, bundle {bundle.name!r} is made for {wanted}"
        )


def _golden(bundle: Bundle) -> Samples:
    index = read_arrays(bundle.files["golden.npz"], "golden.npz")["signal"]
    return _samples(bundle, index.reshape(-1, bundle.signal.channels))


def _noise(bundle: Bundle, items: int) -> Samples:
    """Noise of a size that a net for unit variance knows."""
    spec = bundle.signal
    num, den = spec.grids[0]
    rng = np.random.default_rng(0)
    shape = (4 * items * (spec.height or 1) * (spec.width or 1), spec.channels)
    index = np.rint(rng.standard_normal(shape) * min(den / num, 1 << 20)).astype(np.int32)
    return _samples(bundle, index)


def _samples(bundle: Bundle, index: NDArray[np.int32]) -> Samples:
    """Grid indices [n, C] as the user's samples."""
    spec = bundle.signal
    values: Samples = Lattice.of(spec.grids).to_values(index, np.dtype(spec.dtype))
    if spec.is_image:
        return values.reshape(-1, spec.height or 1, spec.width or 1, spec.channels)
    return values[:, 0] if spec.channels == 1 else values


def _there_and_back(x: Samples, items: int) -> Samples:
    """Forwards, backwards, forwards and so on: long, and without jumps."""
    lap = np.concatenate([x, x[-2:0:-1]]) if len(x) > 2 else x
    wanted = 64 * items if items * max(1, x[:1].size) < 1 << 15 else 4 * items
    return np.concatenate([lap] * (1 + wanted // len(lap)))
