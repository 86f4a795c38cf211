"""The sample prior: codes the signal itself from its own past, and from a code where there is one.

The grid indices of a signal are coded with a quantizer of step ``delta``, closed loop, so that each
decoded index lies within ``delta // 2`` of the true one; ``delta`` 1 is lossless. Channels may have
steps of their own. What is computed per step stands in `edgeae.runtime.prior_rules`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.cdf import MAX_SHIFT
from edgeae.bitstream.pace import Marks
from edgeae.bitstream.steps import channel_steps
from edgeae.errors import ModelError
from edgeae.runtime.adaptive import AdaptiveRules
from edgeae.runtime.causal import CausalNet
from edgeae.runtime.prior_arrays import (
    get_array,
    pack_net,
    unpack_net,
    whole_number,
    whole_numbers,
)
from edgeae.runtime.prior_coding import decode_frames, encode_frames
from edgeae.runtime.prior_rules import PriorRules, step_condition

__all__ = ["SamplePrior", "decode_samples", "encode_samples"]

IntArray = npt.NDArray[np.int32]
_KINDS = ("delta", "level")


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplePrior:
    """A causal net over decoded samples.

    Features per signal channel, in this order: all past changes (``delta``) or levels (``level``),
    then with a code all its coming changes and all past errors r - u, then with ``has_cond`` all
    quantizer steps. Outputs: C means in sixteenths of 2^``shift`` grid steps, then C scale indices.

    Attributes:
        net: the net.
        shape: uint16 [385], see `edgeae.bitstream.cdf`.
        kind: "delta" predicts from the sample before, "level" from ``center``.
        center: per channel, see ``kind``; one entry stands for all.
        shift: per channel the feature shift p; one entry stands for all.
        has_code: the net reads the synthesis net's output.
        lookahead: J, how many steps ahead it reads it.
        has_cond: the net reads the quantizer steps.
        adaptive: how a frame's own past corrects the net, or None.

    Raises:
        ModelError: the net does not fit the rest.
    """

    net: CausalNet
    shape: npt.NDArray[np.uint16]
    kind: Literal["delta", "level"] = "delta"
    center: tuple[int, ...] = (0,)
    shift: tuple[int, ...] = (0,)
    has_code: bool = False
    lookahead: int = 0
    has_cond: bool = True
    adaptive: AdaptiveRules | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ModelError(f"a sample prior's kind must be one of {_KINDS}, found {self.kind!r}")
        object.__setattr__(self, "center", self.rules.center)
        object.__setattr__(self, "shift", self.rules.shift)

    @property
    def n_channels(self) -> int:
        """Signal channels C."""
        return self.net.n_outputs // 2

    @cached_property
    def rules(self) -> PriorRules:
        """What is coded, and how."""
        return PriorRules(
            net=self.net,
            shape=self.shape,
            n_channels=self.n_channels,
            by_delta=self.kind == "delta",
            center=self.center,
            shift=self.shift,
            has_code=self.has_code,
            lookahead=self.lookahead,
            n_cond=self.n_channels * self.has_cond,
            adaptive=self.adaptive,
        )

    def cond(self, delta: int | Sequence[int]) -> tuple[int, ...]:
        """Return the values by which the net knows the quantizer steps."""
        if not self.has_cond:
            return ()
        steps = channel_steps(delta, self.n_channels)
        return tuple(step_condition(d, p) for d, p in zip(steps, self.shift, strict=True))

    @property
    def most_octaves(self) -> int:
        """How many times `louder` can double the signal that the net knows; 0: not at all."""
        known = self.adaptive is not None and len(self.adaptive.levels) == self.n_channels
        return MAX_SHIFT - max(self.shift) if known and self.kind == "delta" else 0

    def louder(self, octaves: int) -> SamplePrior:
        """Return the same prior for a signal 2^octaves times as large as the one it was made for.

        Args:
            octaves: 0 to `most_octaves`.
        """
        return replace(self, shift=tuple(p + octaves for p in self.shift))

    def octaves(self, x: IntArray) -> int:
        """Return how much louder than all that the net has met a frame is, rounded up.

        Args:
            x: grid indices, int32 [G, T, C].
        """
        if not self.most_octaves or x.shape[1] < 2 or not x.size:
            return 0
        assert self.adaptive is not None
        changes = np.abs(np.diff(x.astype(np.int64), axis=1))
        octaves = 0
        for c, level in enumerate(self.adaptive.levels):
            most, total = level * changes[..., c].size, 16 * int(changes[..., c].sum())
            while total > most << octaves and octaves < self.most_octaves:
                octaves += 1
        return octaves

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the prior as named arrays; `from_arrays` reads them back."""
        return {
            "shape": self.shape,
            "kind": np.array(_KINDS.index(self.kind), np.int32),
            "center": self.rules.centers,
            "shift": self.rules.shifts,
            "has_code": np.array(self.has_code, np.int32),
            "lookahead": np.array(self.lookahead, np.int32),
            "has_cond": np.array(self.has_cond, np.int32),
            **({} if self.adaptive is None else self.adaptive.to_arrays()),
            **pack_net(self.net),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> SamplePrior:
        """Rebuild a prior from `to_arrays`.

        Raises:
            ModelError: an array is missing or does not fit the others.
        """
        return cls(
            net=unpack_net(arrays),
            shape=get_array(arrays, "shape"),
            kind=cast(Literal["delta", "level"], _KINDS[whole_number(arrays, "kind", 1)]),
            center=whole_numbers(arrays, "center"),
            shift=whole_numbers(arrays, "shift"),
            has_code=bool(whole_number(arrays, "has_code", 1)),
            lookahead=whole_number(arrays, "lookahead"),
            has_cond=bool(whole_number(arrays, "has_cond", 1)),
            adaptive=AdaptiveRules.from_arrays(arrays),
        )


def encode_samples(
    prior: SamplePrior,
    x: Sequence[IntArray],
    delta: int | Sequence[int] = 1,
    code: Sequence[IntArray] | None = None,
    limits: Sequence[int | None] | None = None,
    paces: Sequence[Marks | None] | None = None,
    marks: Marks | None = None,
) -> list[tuple[bytes, IntArray] | None]:
    """Code frames of grid indices.

    Args:
        prior: the prior.
        x: int32 [G, T, C] each: one group for a series; for images a group per image, T pixels in
            raster order.
        delta: quantizer step, odd: one per channel, or one for all.
        code: the synthesis net's output, int32 like ``x``, where the prior reads one.
        limits: per frame the most bytes that its payload may take, or None for any.
        paces: per frame the most bytes at each mark (see `edgeae.bitstream.pace`), G * T steps
            being counted, or None for any.
        marks: int64 [frames, 9], gets the bytes at each mark of the frames that were coded.

    Returns:
        Per frame its payload and the decoded indices, int32 [G, T, C]; None where an index lies
        outside ±(2^30 - 1), the payload passes its limit, or falls behind the pace.
    """
    return encode_frames(prior.rules, x, delta, prior.cond(delta), code, limits, paces, marks)


def decode_samples(
    prior: SamplePrior,
    payloads: Sequence[bytes],
    shapes: Sequence[tuple[int, int]],
    delta: int | Sequence[int] = 1,
    code: Sequence[IntArray] | None = None,
) -> list[IntArray]:
    """Read frames that `encode_samples` wrote.

    Args:
        prior: the prior.
        payloads: the frames' bytes.
        shapes: G and T of each frame, bounded by the caller.
        delta: as for `encode_samples`.
        code: as for `encode_samples`.

    Returns:
        int32 [G, T, C] each.

    Raises:
        CorruptError: a payload is damaged.
    """
    return decode_frames(prior.rules, payloads, shapes, delta, prior.cond(delta), code)
