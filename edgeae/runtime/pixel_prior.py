"""The pixel prior: codes the levels of an image one by one, from those above and to the left.

It is for images of up to 256 levels, in particular such as have a ground that most pixels show and
levels that are commoner than their neighbours. `edgeae.runtime.pixel_rules` says what is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError
from edgeae.runtime.causal import CausalNet
from edgeae.runtime.pixel_coding import decode_images, encode_images
from edgeae.runtime.pixel_rules import MAX_LEVELS, PixelRaster, PixelRules, check_table
from edgeae.runtime.prior_arrays import get_array, pack_net, unpack_net, whole_number

__all__ = ["PixelPrior"]

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelPrior:
    """A causal net over decoded levels, which gives a logit for each level.

    The net's features, in this order: the row of ``table`` for the level, which is a past feature;
    then the step's place (see `PixelRaster.place`) and the quantizer step, which are side features.

    Attributes:
        net: the net, with one output per level.
        table: int8 [levels, F], what the net reads in place of a level.
        raster: the images' size, and the order of their levels.
        low: the smallest level.
        ground: the level that most pixels have, counted from ``low``.
        flag: uint16 [513], how likely the ground is by its logit, out of 65536.
        weight: uint16 [256], a level's weight by how far its logit lies below the best.

    Raises:
        ModelError: the parts do not fit.
    """

    net: CausalNet
    table: npt.NDArray[np.int8]
    raster: PixelRaster
    low: int
    ground: int
    flag: npt.NDArray[np.uint16]
    weight: npt.NDArray[np.uint16]

    has_code = False

    def __post_init__(self) -> None:
        levels = self.net.n_outputs
        if not 2 <= levels <= MAX_LEVELS or not 0 <= self.ground < levels:
            raise ModelError(
                f"a pixel prior has 2 to {MAX_LEVELS} levels, one of them the ground, found "
                f"{levels} and {self.ground}"
            )
        if abs(self.low) > (1 << 30) - 1 - MAX_LEVELS:
            raise ModelError(f"a pixel prior's lowest level is {self.low}")
        table = check_table(self.table, "int8", (levels, None), "table")
        check_table(self.flag, "uint16", (513,), "flag")
        check_table(self.weight, "uint16", (256,), "weight")
        if self.flag.min() < 1 or self.weight[0] < 1:
            raise ModelError("a pixel prior's flag or weight holds zeros where none may be")
        n_side = len(self.raster.place()) + 1
        past = [True] * table.shape[1] + [False] * n_side
        if self.net.past.tolist() != past or self.net.skip_offsets:
            raise ModelError(
                f"a pixel prior's net must read past features {past} and have no linear taps, "
                f"found {self.net.past.tolist()}"
            )
        if self.net.feature_peak < 127 or table.min() < -127:
            raise ModelError("a pixel prior's net must allow features of ±127, its table no more")

    @property
    def n_channels(self) -> int:
        """Channels C of an image."""
        return self.raster.channels

    @property
    def span(self) -> int:
        """From the ground to the level farthest from it."""
        return max(self.ground, self.net.n_outputs - 1 - self.ground)

    @cached_property
    def rules(self) -> PixelRules:
        """What is coded, and how."""
        return PixelRules(
            net=self.net,
            table=np.ascontiguousarray(self.table, np.int16),
            raster=self.raster,
            ground=self.ground,
            flag=np.ascontiguousarray(self.flag),
            weight=np.ascontiguousarray(self.weight),
        )

    def encode(
        self, x: Sequence[IntArray], delta: int, limits: Sequence[int | None]
    ) -> list[tuple[bytes, IntArray] | None]:
        """Code frames of grid indices, int32 [G, H * W, C] each.

        Args:
            x: the frames.
            delta: quantizer step, odd.
            limits: per frame the most bytes that its payload may take, or None for any.

        Returns:
            Per frame its payload and the decoded indices; None where an index is no level, or the
            payload passes its limit.
        """
        levels = [frame.astype(np.int64) - self.low for frame in x]
        fit = [
            frame.shape[1:] == self._shape
            and frame.size > 0
            and frame.min() >= 0
            and frame.max() < self.net.n_outputs
            for frame in levels
        ]
        known = [frame.astype(np.uint8) for frame, fits in zip(levels, fit, strict=True) if fits]
        kept = [limit for limit, fits in zip(limits, fit, strict=True) if fits]
        coded = iter(encode_images(self.rules, known, delta, kept))
        found: list[tuple[bytes, IntArray] | None] = []
        for fits in fit:
            item = next(coded) if fits else None
            found.append(None if item is None else (item[0], self._indices(item[1])))
        return found

    def decode(
        self, payloads: Sequence[bytes], groups: Sequence[int], delta: int
    ) -> list[IntArray]:
        """Read frames of so many images each that `encode` wrote.

        Raises:
            CorruptError: a payload is damaged.
        """
        return [self._indices(a) for a in decode_images(self.rules, payloads, groups, delta)]

    @property
    def _shape(self) -> tuple[int, int]:
        return self.raster.height * self.raster.width, self.raster.channels

    def _indices(self, levels: npt.NDArray[np.uint8]) -> IntArray:
        return levels.astype(np.int32) + np.int32(self.low)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the prior as named arrays; `from_arrays` reads them back."""
        r = self.raster
        numbers = {
            "pixel.low": self.low,
            "pixel.ground": self.ground,
            "pixel.height": r.height,
            "pixel.width": r.width,
            "pixel.channels": r.channels,
            "pixel.margin": r.margin,
        }
        return {
            **{name: np.array(value, np.int32) for name, value in numbers.items()},
            "pixel.table": self.table,
            "pixel.flag": self.flag,
            "pixel.weight": self.weight,
            **pack_net(self.net),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> PixelPrior:
        """Rebuild a prior from `to_arrays`.

        Raises:
            ModelError: an array is missing or does not fit the others.
        """
        return cls(
            net=unpack_net(arrays),
            table=get_array(arrays, "pixel.table"),
            raster=PixelRaster(
                height=whole_number(arrays, "pixel.height"),
                width=whole_number(arrays, "pixel.width"),
                channels=whole_number(arrays, "pixel.channels"),
                margin=whole_number(arrays, "pixel.margin"),
            ),
            low=whole_number(arrays, "pixel.low"),
            ground=whole_number(arrays, "pixel.ground"),
            flag=get_array(arrays, "pixel.flag"),
            weight=get_array(arrays, "pixel.weight"),
        )
