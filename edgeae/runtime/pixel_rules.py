"""How a pixel prior codes: the order of levels, their bins, and how logits become frequencies.

Levels count from 0; the *ground* is the commonest one. With a quantizer step d = 2 E + 1 the bins
are whole steps away from the ground::

    k = sign(x - ground) * ((|x - ground| + d // 2) // d)       r = clip(ground + k * d, 0, last)

so that |x - r| <= E and the ground comes back as itself. What is coded per pixel, from one integer
logit per level (sixteenths of an octave)::

    is k 0?         frequency ``flag[logit of the ground]`` out of 65536
    else which k?   weight of a bin: the sum over its levels of ``weight[best logit - logit]``
                    frequency: 1 + floor(weight * m / 2^32), m = floor((65536 - bins) * 2^32 / sum)
                    what the floors left over goes to the last bin

An image is read in raster order, the channels of a pixel one after the other; each row ends with a
margin of steps that hold nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError
from edgeae.runtime.causal import CausalNet
from edgeae.runtime.prior_rules import step_condition

__all__ = [
    "FEATURE_PEAK",
    "LOGIT_EXPONENT",
    "MAX_LEVELS",
    "PixelRaster",
    "PixelRules",
    "check_table",
    "default_tables",
    "level_bins",
]

LOGIT_EXPONENT = 4
FEATURE_PEAK = 127
MAX_LEVELS = 256
MAX_LOGIT = 256
_ONE = 65536
_MAX_SIDE = 4096
_PLACE = 64  # the image's edge, as a place

LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PixelRaster:
    """The steps of one image.

    Attributes:
        height: rows H.
        width: columns W.
        channels: C.
        margin: columns after each row that hold nothing.
    """

    height: int
    width: int
    channels: int
    margin: int

    def __post_init__(self) -> None:
        sides = (self.height, self.width, self.channels)
        if not all(1 <= side <= _MAX_SIDE for side in sides) or not 0 <= self.margin <= self.width:
            raise ModelError(
                f"images of {self.height} x {self.width} pixels and {self.channels} channels with "
                f"a margin of {self.margin}: sides must be 1 to {_MAX_SIDE}, the margin no wider"
            )

    @property
    def stride(self) -> int:
        """Steps from a pixel to the one below it."""
        return (self.width + self.margin) * self.channels

    @property
    def n_steps(self) -> int:
        """Steps of an image, margins included."""
        return self.height * self.stride

    def offsets(self, radius: int) -> tuple[int, ...]:
        """Steps back to the step itself and its causal neighbours within ``radius`` pixels.

        Example:
            >>> PixelRaster(height=8, width=8, channels=1, margin=1).offsets(1)
            (0, 1, 8, 9, 10)
        """
        reach = radius * self.channels
        found = set(range(reach + 1))
        for up in range(1, radius + 1):
            found |= set(range(up * self.stride - reach, up * self.stride + reach + 1))
        return tuple(sorted(found))

    def place(self) -> npt.NDArray[np.int32]:
        """Where each step lies: int32 [4 + (C if C > 1), n_steps].

        Row and column, -64 to 64 from edge to edge, and their squares; then which channel it is.
        """
        y, x, c = np.indices((self.height, self.width + self.margin, self.channels)).reshape(3, -1)
        row = (2 * y + 1 - self.height) * _PLACE // self.height
        column = np.minimum((2 * x + 1 - self.width) * _PLACE // self.width, _PLACE)
        planes = [row, column, row * row // _PLACE, column * column // _PLACE]
        if self.channels > 1:
            planes += [_PLACE * (c == i) for i in range(self.channels)]
        return np.stack(planes).astype(np.int32)

    def inside(self) -> npt.NDArray[np.bool_]:
        """Which steps hold a level: bool [n_steps]."""
        x = np.indices((self.height, self.width + self.margin, self.channels))[1]
        found: npt.NDArray[np.bool_] = (x < self.width).reshape(-1)
        return found


@lru_cache(maxsize=64)
def level_bins(step: int, levels: int, ground: int) -> tuple[LongArray, LongArray]:
    """Bin of each level, counted from 0, and the level that the bin comes back as: int64 [levels].

    Example:
        >>> [a.tolist() for a in level_bins(3, 8, 0)]
        [[0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 3, 3, 3, 6, 6, 6]]
    """
    gap = np.arange(levels) - ground
    k = np.sign(gap) * ((np.abs(gap) + step // 2) // step)
    return k - k[0], np.clip(ground + k * step, 0, levels - 1)


def check_table(
    value: npt.NDArray[Any], dtype: str, shape: tuple[int | None, ...], name: str
) -> npt.NDArray[Any]:
    """The array, of that dtype and shape (None: any size), or a ModelError."""
    a = np.asarray(value)
    fits = len(a.shape) == len(shape) and all(
        n == m or (n is None and m > 0) for n, m in zip(shape, a.shape, strict=True)
    )
    if not fits or a.dtype.name != dtype:
        raise ModelError(
            f"a pixel prior's {name} must be {dtype} {list(shape)}, found {a.dtype} {list(a.shape)}"
        )
    return a


def default_tables() -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """Flag and weight as the logits say them: a logistic function, and powers of two."""
    z = np.arange(-MAX_LOGIT, MAX_LOGIT + 1) / 2**LOGIT_EXPONENT
    flag = np.clip(np.round(_ONE / (1 + np.exp2(-z))), 1, _ONE - 1)
    weight = np.round((_ONE - 1) * np.exp2(-np.arange(256) / 2**LOGIT_EXPONENT))
    return flag.astype(np.uint16), weight.astype(np.uint16)


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelRules:
    """A pixel prior in the form that both engines read; see `edgeae.runtime.pixel_prior`."""

    net: CausalNet
    table: npt.NDArray[np.int16]
    raster: PixelRaster
    ground: int
    flag: npt.NDArray[np.uint16]
    weight: npt.NDArray[np.uint16]

    @cached_property
    def words(self) -> npt.NDArray[np.int32]:
        """The net in the form that the C engine reads."""
        return self.net.words()

    @cached_property
    def place(self) -> npt.NDArray[np.int16]:
        """`PixelRaster.place`, int16 [n_steps, places]."""
        return np.ascontiguousarray(self.raster.place().T.astype(np.int16))

    @cached_property
    def inside(self) -> npt.NDArray[np.bool_]:
        """`PixelRaster.inside`."""
        return self.raster.inside()

    @property
    def levels(self) -> int:
        """How many levels there are."""
        return self.net.n_outputs

    def bins(self, step: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Bin of each level, uint8 [levels], and what each bin comes back as, uint8 [bins]."""
        bins, back = level_bins(step, self.levels, self.ground)
        first = np.searchsorted(bins, np.arange(bins[-1] + 1))
        return bins.astype(np.uint8), back[first].astype(np.uint8)

    def side(self, t: int, step: int) -> LongArray:
        """Side features of a step: int64 [places + 1]."""
        return np.append(self.place[t].astype(np.int64), step_condition(step))

    def flags(self, logit: LongArray) -> LongArray:
        """How likely the ground is, out of 65536."""
        clipped = np.clip(logit, -MAX_LOGIT, MAX_LOGIT) + MAX_LOGIT
        return self.flag[clipped].astype(np.int64)

    def cumulative(self, logits: LongArray, bins: npt.NDArray[np.uint8]) -> LongArray:
        """Cumulative frequencies of the bins where it is not the ground: int64 [n, bins + 1].

        Args:
            logits: int64 [n, levels].
            bins: of each level.
        """
        own, n_bins = int(bins[self.ground]), int(bins[-1]) + 1
        beside = bins != own
        best = logits[:, beside].max(axis=1, keepdims=True)
        weight = self.weight.astype(np.int64)[np.clip(best - logits, 0, 255)] * beside
        first = np.searchsorted(bins, np.arange(n_bins))
        sums = np.add.reduceat(weight, first, axis=1)
        scale = ((_ONE - (n_bins - 1)) << 32) // sums.sum(axis=1, keepdims=True)
        freq = 1 + ((sums * scale) >> 32)
        freq[:, own] = 0
        last = n_bins - 2 if own == n_bins - 1 else n_bins - 1
        freq[:, last] += _ONE - freq.sum(axis=1)
        return np.concatenate([np.zeros((len(freq), 1), np.int64), np.cumsum(freq, axis=1)], axis=1)
