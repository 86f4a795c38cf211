"""Denoise images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeae.errors import ConfigError, SignalError
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.denoise_net import ImageDenoiseNet, image_net

__all__ = ["VIEWS", "ImageDenoiser", "denoise_images", "estimate_sigma"]

_BATCH_PIXELS = 1 << 20
_ROBUST = 0.6745  # the median magnitude of a normal number

_Turn = tuple[int, int, bool]
_TURNS: tuple[_Turn, ...] = ((1, 1, False), (-1, -1, False), (1, 1, True), (-1, -1, True))
VIEWS = (1, 2, 4)
"""How many views of an image can be averaged."""

Samples = NDArray[Any]


class ImageDenoiser:
    """Denoises images of any size; keeps its buffers from one to the next of the same size.

    Args:
        bundle: a denoiser of images.

    Attributes:
        engine: what runs the net.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._net: ImageDenoiseNet = image_net(bundle)
        self.engine = self._net.engine

    def process(
        self, images: ArrayLike, *, sigma: float | ArrayLike | None = None, views: int = 1
    ) -> Samples:
        """Denoise images; arguments and errors as of [denoise_images][]."""
        if views not in VIEWS:
            raise ConfigError(f"views is {views}, expected one of {', '.join(map(str, VIEWS))}")
        values = np.asarray(images)
        levels = self._levels(values)
        n, c, h, w = levels.shape
        told = None
        if self.bundle.denoise.sigma:
            told = _sigmas(levels, sigma)
        unit = self.bundle.denoise.hop
        pads = [(0, 0), (0, 0), (0, -h % unit), (0, -w % unit)]
        out = np.empty(levels.shape, np.float32)
        batch = max(1, _BATCH_PIXELS // max(1, h * w * c))
        for at in range(0, n, batch):
            part = np.pad(levels[at : at + batch], pads, mode="edge").astype(np.float32)
            given = None if told is None else told[at : at + batch]
            out[at : at + batch] = self._seen(part, given, views)[:, :, :h, :w]
        rows = np.moveaxis(out, 1, 3).reshape(values.shape)
        return np.ascontiguousarray(rows.astype(values.dtype))

    def _seen(
        self, part: NDArray[np.float32], sigma: NDArray[np.float32] | None, views: int
    ) -> NDArray[np.float32]:
        """The mean of what the net makes of its views; whole numbers, half to even."""
        total = self._net.run(part, sigma)
        for turn in _TURNS[1:views]:
            total += _turned(self._net.run(_turned(part, turn), sigma), turn)
        return total if views == 1 else np.rint(total / views)

    def _levels(self, values: Samples) -> NDArray[np.float64]:
        """Grey levels [N, C, H, W], whole numbers."""
        spec, channels = self.bundle.signal, self._net.channels
        wanted = np.dtype(spec.dtype)
        if values.dtype.kind != "f" and values.dtype != wanted:
            raise SignalError(
                f"images of {values.dtype}, bundle {self.bundle.name!r} is made for {wanted} "
                "(floats in the same grey levels are taken too)"
            )
        shape = values.shape
        if values.ndim in (3, 4) and shape[-1] == channels and (channels > 1 or values.ndim == 4):
            whole = values.reshape(-1, *shape[-3:])
        elif channels == 1 and values.ndim in (2, 3):
            whole = values.reshape(-1, *shape[-2:], 1)
        else:
            raise SignalError(
                f"images of shape {list(shape)}, bundle {self.bundle.name!r} is made for "
                f"{channels} channel(s): give [H, W, C] or [N, H, W, C]"
                + ("; for each channel by itself, edgeae denoise --each-channel" * (channels == 1))
            )
        if whole.size == 0:
            raise SignalError(f"no pixels: shape {list(shape)}")
        levels = np.moveaxis(whole, 3, 1).astype(np.float64)
        if np.isnan(levels).any():
            raise SignalError("the image holds NaN: fill those pixels first")
        peak = self.bundle.denoise.input_peak
        return np.clip(np.rint(levels), -peak, peak)


def _turned(images: NDArray[np.float32], turn: _Turn) -> NDArray[np.float32]:
    """Both axes mirrored or none, then transposed or not: its own inverse."""
    rows, columns, transpose = turn
    x = images[:, :, ::rows, ::columns]
    return np.ascontiguousarray(x.swapaxes(2, 3) if transpose else x)


def denoise_images(
    bundle: Bundle,
    images: ArrayLike,
    *,
    sigma: float | ArrayLike | None = None,
    views: int = 1,
) -> Samples:
    """Denoise images.

    Args:
        bundle: a denoiser of images.
        images: [H, W], [H, W, C], [N, H, W] or [N, H, W, C], of the bundle's dtype, or floats in
            the same grey levels.
        sigma: the noise's standard deviation in grey levels, one or [N], where the net is told it;
            None estimates it from each image.
        views: 1, 2 or 4: the net also sees the image upside down and transposed, and the estimates
            are averaged. Each doubling takes twice the time.

    Returns:
        Of the same shape and dtype, whole grey levels.

    Raises:
        SignalError: the images do not fit the bundle.
        ConfigError: no such number of views.
    """
    return ImageDenoiser(bundle).process(images, sigma=sigma, views=views)


def estimate_sigma(levels: NDArray[Any]) -> float:
    """Standard deviation of white noise in one channel [H, W]: the robust one of its diagonal
    differences, which smooth parts and straight edges leave out.

    Example:
        >>> import numpy as np
        >>> noise = np.random.default_rng(0).normal(0, 20, (128, 128))
        >>> abs(estimate_sigma(100 + noise) - 20) < 1
        True

    References:
        Donoho, Johnstone: Ideal spatial adaptation by wavelet shrinkage, section 4.
    """
    h, w = levels.shape[0] // 2 * 2, levels.shape[1] // 2 * 2
    if not (h and w):
        return 0.0
    x = levels[:h, :w]
    diagonal = (x[::2, ::2] - x[::2, 1::2] - x[1::2, ::2] + x[1::2, 1::2]) / 2
    return float(np.median(np.abs(diagonal)) / _ROBUST)


def _sigmas(levels: NDArray[np.float64], sigma: float | ArrayLike | None) -> NDArray[np.float32]:
    """What each image's net is told, [N]: whole grey levels."""
    if sigma is None:
        found = np.array([np.mean([estimate_sigma(c) for c in image]) for image in levels])
    else:
        found = np.asarray(sigma, np.float64)
        if found.ndim > 1 or (found.ndim == 1 and len(found) != len(levels)):
            raise SignalError(f"sigma has shape {list(found.shape)} for {len(levels)} images")
        if not (np.isfinite(found).all() and (found >= 0).all()):
            raise SignalError("sigma is a number of grey levels, 0 or more")
        found = np.broadcast_to(found, len(levels))
    whole: NDArray[np.float32] = np.rint(found).astype(np.float32)
    return whole
