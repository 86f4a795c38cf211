"""The priors that code a signal by itself, whatever their kind.

A bundle's sample priors are `SamplePrior`, for signals of any kind, and `PixelPrior`, for images of
few levels. Both are used through the functions below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.pace import Marks
from edgeae.bitstream.steps import channel_steps
from edgeae.errors import CorruptError
from edgeae.runtime import sample_prior
from edgeae.runtime.pixel_prior import PixelPrior
from edgeae.runtime.sample_prior import SamplePrior

__all__ = ["AnyPrior", "decode_samples", "encode_samples", "unpack_prior"]

AnyPrior = SamplePrior | PixelPrior

IntArray = npt.NDArray[np.int32]


def encode_samples(
    prior: AnyPrior,
    x: Sequence[IntArray],
    delta: int | Sequence[int] = 1,
    code: Sequence[IntArray] | None = None,
    limits: Sequence[int | None] | None = None,
    paces: Sequence[Marks | None] | None = None,
    marks: Marks | None = None,
) -> list[tuple[bytes, IntArray] | None]:
    """Code frames of grid indices: see `edgeae.runtime.sample_prior.encode_samples`.

    A pixel prior takes frames of its own levels, with one step for all channels; others give None.
    It knows no pace, and notes no marks.
    """
    if isinstance(prior, SamplePrior):
        return sample_prior.encode_samples(prior, x, delta, code, limits, paces, marks)
    steps = set(channel_steps(delta, prior.n_channels))
    if len(steps) > 1:
        return [None] * len(x)
    return prior.encode(x, steps.pop(), [None] * len(x) if limits is None else limits)


def decode_samples(
    prior: AnyPrior,
    payloads: Sequence[bytes],
    shapes: Sequence[tuple[int, int]],
    delta: int | Sequence[int] = 1,
    code: Sequence[IntArray] | None = None,
) -> list[IntArray]:
    """Read frames that `encode_samples` wrote.

    Raises:
        CorruptError: a payload is damaged, or no encoder would have taken this prior.
    """
    if isinstance(prior, SamplePrior):
        return sample_prior.decode_samples(prior, payloads, shapes, delta, code)
    steps = set(channel_steps(delta, prior.n_channels))
    size = prior.raster.height * prior.raster.width
    if len(steps) > 1 or any(length != size for _, length in shapes):
        raise CorruptError("a frame says it was coded with a pixel prior that does not fit it")
    return prior.decode(payloads, [groups for groups, _ in shapes], steps.pop())


def unpack_prior(arrays: Mapping[str, npt.NDArray[Any]]) -> AnyPrior:
    """Rebuild a prior of either kind from its ``to_arrays``.

    Raises:
        ModelError: an array is missing or does not fit the others.
    """
    kind = PixelPrior if any(name.startswith("pixel.") for name in arrays) else SamplePrior
    return kind.from_arrays(arrays)
