"""How a prior turns what was decoded into the place of the next integer: the rules of coding.

Per step t a prior gives, for each channel, a mean ``m`` and a scale index ``ls``::

    M = m << shift                      sixteenths of a grid step past the anchor
    c0 = anchor + ((M + 8) >> 4)        the anchor: the sample before, or center
    k  = (x - c0) / delta, rounded      coded with the table of (ls, M - 16 · ((M + 8) >> 4))
    r  = c0 + k · delta                 what the decoder sees, |x - r| <= delta // 2

and learns from what was decoded, through the net's features: differences of r (or r - center), and
with a code u its coming change u[t+J] - u[t+J-1] and its past error r - u. Features are in units
of 2^shift, rounded half to even and clipped. Shift, center and delta are a channel's own. Constant
features, the last ones, tell the net the quantizer's steps.

A *frame* is an array [G, T, C]: G groups (the images of a frame, or one) that share one range
coder while the net starts afresh for each. A frame's payload starts, where the anchor is the sample
before, with the anchors of its first step (zigzag varints); a later group's are the first samples
of the group before. `edgeae.runtime.prior_coding` codes by these rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.cdf import MAX_SHIFT, N_SCALES, check_shape
from edgeae.errors import ConfigError, CorruptError, ModelError
from edgeae.runtime.adaptive import AdaptiveRules
from edgeae.runtime.causal import CausalNet

__all__ = ["LARGEST_INDEX", "PriorRules", "step_condition"]

LARGEST_INDEX = (1 << 30) - 1
"""Grid indices lie within ± this."""
_MAX_LOOKAHEAD = 4096

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]


def step_condition(step: int, shift: int = 0) -> int:
    """Return ``round(6 · log2(step)) - 6 · shift`` within 0..127, in integers: a net's cond."""
    return min(max(((int(step) ** 12).bit_length() >> 1) - 6 * shift, 0), 127)


@dataclass(frozen=True, kw_only=True, eq=False)
class PriorRules:
    """A net or a constant per channel, the shape of its tables, and how both are used.

    Attributes:
        net: the net, or None where ``statics`` stands for it.
        statics: int32 [2 C], the outputs of every step: C means, then C scale indices.
        shape: uint16 [385], see `edgeae.bitstream.cdf`.
        n_channels: C.
        by_delta: predict from the sample before, else from ``center``.
        center: per channel the anchor, where ``by_delta`` is False; one entry stands for all.
        shift: per channel, features and means are in units of 2^shift; one entry stands for all.
        has_code: the net also reads a code.
        lookahead: J, how many steps ahead it reads the code.
        n_cond: how many constants the net also reads, the last features.
        adaptive: how the frame itself corrects the net, see `edgeae.runtime.adaptive`; None: the
            net's word is taken as it is.
    """

    net: CausalNet | None
    shape: npt.NDArray[np.uint16]
    n_channels: int
    statics: IntArray | None = None
    by_delta: bool = False
    center: tuple[int, ...] = (0,)
    shift: tuple[int, ...] = (0,)
    has_code: bool = False
    lookahead: int = 0
    n_cond: int = 0
    adaptive: AdaptiveRules | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "shape", check_shape(self.shape))
        except ConfigError as error:
            raise ModelError(f"a prior's tables: {error}") from error
        c = self.n_channels
        for name, values, lowest, highest in (
            ("n_channels", (c,), 1, 128),
            ("lookahead", (self.lookahead,), 0, _MAX_LOOKAHEAD),
            ("feature shift", self.shift, 0, MAX_SHIFT),
            ("center", self.center, -LARGEST_INDEX, LARGEST_INDEX),
        ):
            for value in values:
                if not lowest <= value <= highest:
                    raise ModelError(
                        f"a prior's {name} must be {lowest} to {highest}, found {value}"
                    )
        for name in ("shift", "center"):
            values = getattr(self, name)
            if len(values) not in (1, c):
                raise ModelError(f"a prior's {name} must be 1 or {c} integers, found {len(values)}")
            object.__setattr__(self, name, values * c if len(values) == 1 else values)
        if self.adaptive is not None:
            self.adaptive.n_inputs(c)
        if self.net is None:
            statics = np.asarray(self.statics)
            extra = self.has_code or self.n_cond or self.adaptive is not None
            if statics.shape != (2 * c,) or statics.dtype != np.int32 or extra:
                raise ModelError(
                    f"a prior without a net needs int32 [{2 * c}] outputs, no code, no "
                    f"constant features and no filters, found {statics.dtype} {list(statics.shape)}"
                )
            return
        past = [True] * c + [False] * (c * self.has_code) + [True] * (c * self.has_code)
        past += [False] * self.n_cond
        if self.net.past.tolist() != past or self.net.n_outputs != 2 * c:
            raise ModelError(
                f"a prior's net for {c} channels must read past features {past} and give {2 * c} "
                f"outputs, found {self.net.past.tolist()} and {self.net.n_outputs}"
            )
        if self.n_cond and self.net.feature_peak < 127:
            raise ModelError(f"feature_peak must be >= 127, found {self.net.feature_peak}")

    @cached_property
    def words(self) -> IntArray | None:
        """The net in the form that the C engine reads."""
        return None if self.net is None else self.net.words(self.n_cond)

    @cached_property
    def centers(self) -> IntArray:
        """`center` as int32 [C]."""
        return np.array(self.center, np.int32)

    @cached_property
    def shifts(self) -> IntArray:
        """`shift` as int32 [C]."""
        return np.array(self.shift, np.int32)

    # ---- one step, or all steps of a group ----

    def means(self, out: LongArray) -> tuple[LongArray, LongArray]:
        """Return the means in sixteenths of a grid step past the anchor, and the scale indices.

        Args:
            out: the net's outputs, int64 [n, 2 C].
        """
        c = self.n_channels
        return out[:, :c] << self.shifts, np.clip(out[:, c:], 0, N_SCALES - 1)

    def place(
        self, mean: LongArray, before: LongArray, channel: int | None = None
    ) -> tuple[LongArray, LongArray]:
        """Return centre and frac16 from means and the samples before.

        Args:
            mean: int64 [n, C] in sixteenths, or [n] of one channel.
            before: like ``mean``.
            channel: which one, or None for all.
        """
        whole = (mean + 8) >> 4
        anchor = self.anchor(before, channel)
        return np.clip(anchor + whole, -LARGEST_INDEX, LARGEST_INDEX), mean - 16 * whole

    def anchor(self, before: LongArray, channel: int | None = None) -> LongArray:
        """Return what means are relative to: the samples before, or the centers."""
        if self.by_delta:
            return before
        centers = self.centers.astype(np.int64)
        level = centers if channel is None else centers[channel]
        return np.broadcast_to(level, before.shape)

    def side_features(self, code: LongArray | None, cond: Sequence[int], n: int) -> LongArray:
        """Return what the net is told ahead of n steps: int64 [n, side features]."""
        parts = []
        if code is not None:
            ahead = np.arange(n) + self.lookahead
            last = n - 1
            before = np.clip(ahead - 1, 0, last)
            parts.append(self._feature(code[np.minimum(ahead, last)] - code[before]))
        parts.append(np.broadcast_to(np.array(cond, np.int64), (n, self.n_cond)))
        return np.concatenate(parts, axis=1)

    def past_features(self, r: LongArray, before: LongArray, code: LongArray | None) -> LongArray:
        """Return what the net learns from decoded samples r [n, C]: int64 [n, past features]."""
        parts = [self._feature(r - (before if self.by_delta else self.centers))]
        if code is not None:
            parts.append(self._feature(r - code))
        return np.concatenate(parts, axis=1)

    def _feature(self, v: LongArray) -> LongArray:
        assert self.net is not None
        if any(self.shift):  # float64 holds 33 bits and the shift exactly
            v = np.rint(np.ldexp(v.astype(np.float64), -self.shifts)).astype(np.int64)
        clipped: LongArray = np.clip(v, -self.net.feature_peak, self.net.feature_peak)
        return clipped

    # ---- the payload's head ----

    def firsts(self, x: IntArray, delta: Sequence[int]) -> LongArray:
        """Return the anchors of a frame's first step: its first samples, int64 [C].

        Args:
            x: the frame [G, T, C].
            delta: the quantizer steps; anchors are sent in these.
        """
        if not x.size:
            return np.zeros(self.n_channels, np.int64)
        first = np.clip(x[0, 0].astype(np.int64), -LARGEST_INDEX, LARGEST_INDEX)
        width = np.array(delta, np.int64)
        counts = np.sign(first) * ((np.abs(first) + width // 2) // width)
        anchors: LongArray = np.clip(counts * width, -LARGEST_INDEX, LARGEST_INDEX)
        return anchors

    def pack_firsts(self, values: LongArray, delta: Sequence[int]) -> bytes:
        """Return the payload's head: the anchors as zigzag varints, where they are sent."""
        out = bytearray()
        for value, width in zip(values.tolist() if self.by_delta else (), delta, strict=False):
            v = (abs(value) + width // 2) // width * (1 if value >= 0 else -1)
            z = -2 * v - 1 if v < 0 else 2 * v
            while z > 127:
                out.append(z & 127 | 128)
                z >>= 7
            out.append(z)
        return bytes(out)

    def unpack_firsts(self, payload: bytes, delta: Sequence[int]) -> tuple[LongArray, int]:
        """Return the anchors and where the range coder's bytes begin."""
        values, at = np.zeros(self.n_channels, np.int64), 0
        for c in range(self.n_channels if self.by_delta else 0):
            z = bit = 0
            more = True
            while more:
                if at >= len(payload) or bit > 28:
                    raise CorruptError("damaged prior-coded bytes: the first samples are cut")
                z |= (payload[at] & 127) << bit
                more = payload[at] > 127
                at, bit = at + 1, bit + 7
            if z > 2 * LARGEST_INDEX:
                raise CorruptError("damaged prior-coded bytes: a first sample is out of range")
            values[c] = (-((z + 1) >> 1) if z & 1 else z >> 1) * delta[c]
        return np.clip(values, -LARGEST_INDEX, LARGEST_INDEX), at
