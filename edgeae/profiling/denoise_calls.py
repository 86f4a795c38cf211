"""What takes one block of a denoiser's signal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from edgeae.runtime.bundle import Bundle
from edgeae.tasks.denoise import Denoiser
from edgeae.tasks.denoise_images import ImageDenoiser

__all__ = ["process_of"]


def process_of(bundle: Bundle, *, streams: int = 1) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """What takes the next block of a stream, or of several in step, or images."""
    if bundle.signal.is_image:
        return ImageDenoiser(bundle).process
    return Denoiser(bundle, streams=streams).process
