"""Coding integers with a prior, closed loop: the engine under samples and latents.

Per step t a prior gives, for each channel, a mean ``m`` and a scale index ``ls``::

    M = m << shift                      sixteenths of a grid step past the anchor
    c0 = anchor + ((M + 8) >> 4)        the anchor: the sample before, or `center`
    k  = (x - c0) / delta, rounded      coded with the table of (ls, M - 16 · ((M + 8) >> 4))
    r  = c0 + k · delta                 what the decoder sees, |x - r| <= delta // 2

and learns from what was decoded, through the net's features: differences of r (or r - center), and
with a code u its coming change u[t+J] - u[t+J-1] and its past error r - u. Features are in units
of 2^shift, rounded half to even and clipped.

A *frame* is an array [G, T, C]: G groups (the images of a frame, or one) that share one range
coder while the net starts afresh for each. A frame's payload starts, where the anchor is the sample
before, with the anchors of its first step (zigzag varints); a later group's are the first samples
of the group before. Where the C extension is there it codes frame by frame; without it numpy walks
over all frames in lockstep. Both give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

import edgeae.native as native
from edgeae.bitstream.cdf import MAX_DELTA, MAX_SHIFT, N_SCALES, CdfFamily, check_shape
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.errors import CorruptError, ModelError, SignalError
from edgeae.runtime.causal import CausalNet, LockstepState

__all__ = ["LARGEST_INDEX", "PriorCoder", "step_condition"]

LARGEST_INDEX = (1 << 30) - 1
"""Grid indices lie within ± this."""
_MAX_LOOKAHEAD = 4096
_BATCH_ITEMS = 1 << 21  # numpy walks over batches of about this many samples

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
Shape = tuple[int, int]


def step_condition(step: int, shift: int = 0) -> int:
    """Return ``round(6 · log2(step)) - 6 · shift`` within 0..127, in integers: a net's cond."""
    return min(max(((int(step) ** 12).bit_length() >> 1) - 6 * shift, 0), 127)


@dataclass(frozen=True, kw_only=True, eq=False)
class PriorCoder:
    """A net or a constant per channel, the shape of its tables, and how both are used.

    Attributes:
        net: the net, or None where ``statics`` stands for it.
        statics: int32 [2 C], the outputs of every step: C means, then C scale indices.
        shape: uint16 [385], see `edgeae.bitstream.cdf`.
        n_channels: C.
        by_delta: predict from the sample before, else from ``center``.
        center: the anchor where ``by_delta`` is False.
        shift: features and means are in units of 2^shift.
        has_code: the net also reads a code.
        lookahead: J, how many steps ahead it reads the code.
        has_cond: the net also reads one constant, the last feature.
    """

    net: CausalNet | None
    shape: npt.NDArray[np.uint16]
    n_channels: int
    statics: IntArray | None = None
    by_delta: bool = False
    center: int = 0
    shift: int = 0
    has_code: bool = False
    lookahead: int = 0
    has_cond: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", check_shape(self.shape))
        c = self.n_channels
        for name, value, lowest, highest in (
            ("n_channels", c, 1, 128),
            ("feature shift", self.shift, 0, MAX_SHIFT),
            ("lookahead", self.lookahead, 0, _MAX_LOOKAHEAD),
            ("center", self.center, -LARGEST_INDEX, LARGEST_INDEX),
        ):
            if not lowest <= value <= highest:
                raise ModelError(f"a prior's {name} must be {lowest} to {highest}, found {value}")
        if self.net is None:
            statics = np.asarray(self.statics)
            if statics.shape != (2 * c,) or statics.dtype != np.int32 or self.has_code:
                raise ModelError(
                    f"a prior without a net needs int32 [{2 * c}] outputs and no code, "
                    f"found {statics.dtype} {list(statics.shape)}"
                )
            return
        past = [True] * c + [False] * (c * self.has_code) + [True] * (c * self.has_code)
        past += [False] * self.has_cond
        if self.net.past.tolist() != past or self.net.n_outputs != 2 * c:
            raise ModelError(
                f"a prior's net for {c} channels must read past features {past} and give {2 * c} "
                f"outputs, found {self.net.past.tolist()} and {self.net.n_outputs}"
            )
        if self.has_cond and self.net.feature_peak < 127:
            raise ModelError(f"feature_peak must be >= 127, found {self.net.feature_peak}")

    # ---- API ----

    def encode(
        self,
        x: Sequence[IntArray],
        delta: int = 1,
        cond: int = 0,
        code: Sequence[IntArray] | None = None,
    ) -> list[tuple[bytes, IntArray] | None]:
        """Code frames.

        Args:
            x: grid indices, int32 [G, T, C] each.
            delta: quantizer step, odd.
            cond: the constant feature, 0 to 127.
            code: int32 like ``x``, where the prior reads a code.

        Returns:
            Per frame its payload and what the decoder will see; None where an index lies, or
            would be decoded, outside ±`LARGEST_INDEX`.
        """
        for f in x:
            self._check_frame(f, f.shape[:2])
        codes = self._check_code(code, [f.shape[:2] for f in x])
        self._check_step(delta, cond)
        core = native.core
        if core is None:
            return self._encode_lockstep(x, delta, cond, codes)
        result: list[tuple[bytes, IntArray] | None] = []
        options = self._options(cond)
        for f, u in zip(x, codes, strict=True):
            recon = np.empty(f.shape, np.int32)
            frame = np.ascontiguousarray(f)
            payload = core.prior_encode(options, delta, frame, u, *f.shape[:2], recon)
            result.append(None if payload is None else (payload, recon))
        return result

    def decode(
        self,
        payloads: Sequence[bytes],
        shapes: Sequence[Shape],
        delta: int = 1,
        cond: int = 0,
        code: Sequence[IntArray] | None = None,
    ) -> list[IntArray]:
        """Read frames that `encode` wrote.

        Args:
            payloads: the frames' bytes.
            shapes: G and T of each frame; the caller has bounded them.
            delta: as for `encode`.
            cond: as for `encode`.
            code: as for `encode`.

        Returns:
            int32 [G, T, C] each.

        Raises:
            CorruptError: a payload is damaged.
        """
        if len(payloads) != len(shapes):
            raise SignalError(f"{len(payloads)} payloads, but {len(shapes)} shapes")
        codes = self._check_code(code, shapes)
        self._check_step(delta, cond)
        core = native.core
        if core is None:
            return self._decode_lockstep(payloads, shapes, delta, cond, codes)
        result = []
        options = self._options(cond)
        for i, (payload, shape, u) in enumerate(zip(payloads, shapes, codes, strict=True)):
            recon = np.zeros((*shape, self.n_channels), np.int32)
            if not core.prior_decode(options, delta, payload, u, *shape, recon):
                raise CorruptError(f"payload {i} of {len(payloads)}: damaged prior-coded bytes")
            result.append(recon)
        return result

    # ---- checks ----

    def _check_frame(self, f: npt.NDArray[Any], shape: Sequence[int]) -> None:
        if f.ndim != 3 or f.shape != (*shape, self.n_channels) or f.dtype != np.int32:
            raise SignalError(
                f"a frame must be int32 [G, T, {self.n_channels}], found {f.dtype} {list(f.shape)}"
            )

    def _check_code(
        self, code: Sequence[IntArray] | None, shapes: Sequence[Sequence[int]]
    ) -> list[IntArray | None]:
        if (code is not None) != self.has_code:
            raise SignalError(
                "this prior reads a code" if self.has_code else "this prior reads no code"
            )
        if code is None:
            return [None] * len(shapes)
        if len(code) != len(shapes):
            raise SignalError(f"{len(shapes)} frames, but {len(code)} codes")
        for u, shape in zip(code, shapes, strict=True):
            self._check_frame(u, shape)
        return [np.ascontiguousarray(u) for u in code]

    def _check_step(self, delta: int, cond: int) -> None:
        if not 1 <= delta <= MAX_DELTA or delta % 2 == 0:
            raise SignalError(f"delta must be odd, 1 to {MAX_DELTA}, found {delta}")
        if not 0 <= cond <= 127:
            raise SignalError(f"the constant feature must be 0 to 127, found {cond}")

    # ---- C ----

    @cached_property
    def _words(self) -> IntArray | None:
        return None if self.net is None else self.net.words()

    def _options(self, cond: int) -> tuple[Any, ...]:
        has_cond = self.has_cond and self.net is not None
        return (
            *(self._words, self.statics if self.net is None else None, self.shape, self.n_channels),
            *(int(self.by_delta), self.center, self.shift, self.lookahead),
            cond if has_cond else -1,
        )

    # ---- numpy ----

    def _encode_lockstep(
        self,
        x: Sequence[IntArray],
        delta: int,
        cond: int,
        code: Sequence[IntArray | None],
    ) -> list[tuple[bytes, IntArray] | None]:
        family = CdfFamily(self.shape, delta, self.shift)
        if delta == 1:
            return [self._encode_known(family, f, cond, u) for f, u in zip(x, code, strict=True)]
        firsts: list[LongArray] = [self._firsts(f) for f in x]
        encoders = [RangeEncoder() for _ in x]
        recons = [np.zeros(f.shape, np.int32) for f in x]
        lost: set[int] = set()
        half = delta // 2
        for group, items in _batches([f.shape[:2] for f in x]):
            walk = _Walk(self, group, items, recons, code, firsts, cond)
            for t in walk:
                centre, frac16, ls = walk.predict(t)
                now = np.stack([x[i][group, t] for i in items[: len(centre)]]).astype(np.int64)
                d = now - centre
                k = np.sign(d) * ((np.abs(d) + half) // delta)
                r = centre + k * delta
                beyond = (np.abs(r) > LARGEST_INDEX) | (np.abs(now) > LARGEST_INDEX)
                if beyond.any():
                    lost.update(items[b] for b in np.flatnonzero(beyond.any(axis=1)))
                    r = np.clip(r, -LARGEST_INDEX, LARGEST_INDEX)
                rows = zip(items, ls.tolist(), frac16.tolist(), k.tolist(), strict=False)
                for i, *row in rows:
                    for symbol in zip(*row, strict=True):
                        family.encode(encoders[i], *symbol)
                walk.learn(t, r)
        return [
            None if i in lost else (self._pack_firsts(firsts[i]) + encoder.finish(), recons[i])
            for i, encoder in enumerate(encoders)
        ]

    def _encode_known(
        self, family: CdfFamily, x: IntArray, cond: int, code: IntArray | None
    ) -> tuple[bytes, IntArray] | None:
        """Code a frame whose decoded samples are known: the net runs over all steps at once."""
        if x.size and max(int(x.max()), -int(x.min())) > LARGEST_INDEX:
            return None
        encoder = RangeEncoder()
        firsts = anchor = self._firsts(x)
        n = x.shape[1]
        for group, frame in enumerate(x.astype(np.int64) if n else ()):
            if self.net is None:
                assert self.statics is not None
                out = np.broadcast_to(self.statics.astype(np.int64), (n, 2 * self.n_channels))
            else:
                u = None if code is None else code[group].astype(np.int64)
                before = np.concatenate([frame[:1], frame[:-1]])
                features = self.side_features(u, cond, n), self.past_features(frame, before, u)
                rows = np.empty((n, self.net.n_inputs), np.int64)
                rows[:, ~self.net.past], rows[:, self.net.past] = features
                out = self.net.run(rows.T[None])[0].T.astype(np.int64)
            centre, frac16, ls = self.place(out, np.concatenate([anchor[None], frame[:-1]]))
            symbols = zip(*(a.ravel().tolist() for a in (ls, frac16, frame - centre)), strict=True)
            for symbol in symbols:
                family.encode(encoder, *symbol)
            anchor = frame[0]
        return self._pack_firsts(firsts) + encoder.finish(), x.copy()

    def _decode_lockstep(
        self,
        payloads: Sequence[bytes],
        shapes: Sequence[Shape],
        delta: int,
        cond: int,
        code: Sequence[IntArray | None],
    ) -> list[IntArray]:
        family = CdfFamily(self.shape, delta, self.shift)
        firsts: list[LongArray] = []
        decoders = []
        for payload in payloads:
            first, at = self._unpack_firsts(payload)
            firsts.append(first)
            decoders.append(RangeDecoder(payload[at:]))
        recons = [np.zeros((*shape, self.n_channels), np.int32) for shape in shapes]
        for group, items in _batches(shapes):
            walk = _Walk(self, group, items, recons, code, firsts, cond)
            for t in walk:
                centre, frac16, ls = walk.predict(t)
                k = np.array(
                    [
                        [family.decode(decoders[i], *place) for place in zip(*row, strict=True)]
                        for i, *row in zip(items, ls.tolist(), frac16.tolist(), strict=False)
                    ],
                    dtype=np.int64,
                )
                if np.any(np.abs(k) > 0x7FFFFFFF):
                    raise CorruptError("damaged prior-coded bytes: an escape is too wide")
                r = centre + k * delta
                if np.any(np.abs(r) > LARGEST_INDEX):
                    raise CorruptError("damaged prior-coded bytes: an index is out of range")
                walk.learn(t, r)
        for decoder in decoders:
            decoder.finish()
        return recons

    # ---- one step, or all steps of a group ----

    def place(self, out: LongArray, before: LongArray) -> tuple[LongArray, LongArray, LongArray]:
        """Return centre, frac16 and ls from outputs [n, 2 C] and the samples before [n, C]."""
        c = self.n_channels
        mean = out[:, :c] << self.shift
        whole = (mean + 8) >> 4
        anchor = before if self.by_delta else self.center
        centre = np.clip(anchor + whole, -LARGEST_INDEX, LARGEST_INDEX)
        return centre, mean - 16 * whole, np.clip(out[:, c:], 0, N_SCALES - 1)

    def side_features(self, code: LongArray | None, cond: int, n: int) -> LongArray:
        """Return what the net is told ahead of n steps: int64 [n, side features]."""
        parts = []
        if code is not None:
            ahead = np.arange(n) + self.lookahead
            last = n - 1
            before = np.clip(ahead - 1, 0, last)
            parts.append(self._feature(code[np.minimum(ahead, last)] - code[before]))
        if self.has_cond:
            parts.append(np.full((n, 1), cond, np.int64))
        side: LongArray = np.concatenate([np.empty((n, 0), np.int64), *parts], axis=1)
        return side

    def past_features(self, r: LongArray, before: LongArray, code: LongArray | None) -> LongArray:
        """Return what the net learns from decoded samples r [n, C]: int64 [n, past features]."""
        parts = [self._feature(r - (before if self.by_delta else self.center))]
        if code is not None:
            parts.append(self._feature(r - code))
        return np.concatenate(parts, axis=1)

    def _feature(self, v: LongArray) -> LongArray:
        assert self.net is not None
        if self.shift:  # float64 holds 33 bits and the shift exactly
            v = np.rint(np.ldexp(v.astype(np.float64), -self.shift)).astype(np.int64)
        clipped: LongArray = np.clip(v, -self.net.feature_peak, self.net.feature_peak)
        return clipped

    # ---- the payload's head ----

    def _firsts(self, x: IntArray) -> LongArray:
        if not x.size:
            return np.zeros(self.n_channels, np.int64)
        firsts: LongArray = np.clip(x[0, 0].astype(np.int64), -LARGEST_INDEX, LARGEST_INDEX)
        return firsts

    def _pack_firsts(self, values: LongArray) -> bytes:
        out = bytearray()
        for v in values.tolist() if self.by_delta else ():
            z = -2 * v - 1 if v < 0 else 2 * v
            while z > 127:
                out.append(z & 127 | 128)
                z >>= 7
            out.append(z)
        return bytes(out)

    def _unpack_firsts(self, payload: bytes) -> tuple[LongArray, int]:
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
            values[c] = -((z + 1) >> 1) if z & 1 else z >> 1
        return values, at


def _batches(shapes: Sequence[Sequence[int]]) -> Iterator[tuple[int, list[int]]]:
    """Yield (group, frames): every group of every frame, its groups in order, longest first."""
    order = sorted((i for i, s in enumerate(shapes) if s[1] > 0), key=lambda i: -shapes[i][1])
    while order:
        size = max(1, _BATCH_ITEMS // shapes[order[0]][1])
        batch, order = order[:size], order[size:]
        for group in range(max(shapes[i][0] for i in batch)):
            items = [i for i in batch if shapes[i][0] > group]
            if items:
                yield group, items


class _Walk:
    """The steps of one group of a batch of frames in lockstep, longest frame first."""

    def __init__(
        self,
        prior: PriorCoder,
        group: int,
        items: list[int],
        recons: list[IntArray],
        code: Sequence[IntArray | None],
        firsts: list[LongArray],
        cond: int,
    ) -> None:
        self.prior = prior
        self.recons = [recons[i][group] for i in items]
        self.codes = [u[group].astype(np.int64) for u in (code[i] for i in items) if u is not None]
        self.lengths = [len(r) for r in self.recons]
        n = len(items)
        self.before = np.stack(
            [recons[i][group - 1, 0].astype(np.int64) if group else firsts[i] for i in items]
        )
        if prior.net is None:
            assert prior.statics is not None
            self.out = np.broadcast_to(prior.statics.astype(np.int64), (n, 2 * prior.n_channels))
            return
        self.state = LockstepState(prior.net, n)
        sides = [
            prior.side_features(self.codes[b] if self.codes else None, cond, length)
            for b, length in enumerate(self.lengths if self.codes else self.lengths[:1])
        ]
        # without a code all frames are told the same
        self.sides = sides if self.codes else [sides[0]] * n

    def __iter__(self) -> Iterator[int]:
        n = len(self.lengths)
        for t in range(self.lengths[0]):
            while self.lengths[n - 1] <= t:
                n -= 1
            self.before = self.before[:n]
            if self.prior.net is not None:
                self.state.keep(n)
            yield t

    def predict(self, t: int) -> tuple[LongArray, LongArray, LongArray]:
        """Return centre, frac16 and ls of the step, int64 [n, C] each."""
        n = len(self.before)
        if self.prior.net is None:
            out = self.out[:n]
        else:
            side = np.stack([s[t] for s in self.sides[:n]])
            out = self.state.step(side).astype(np.int64)
        return self.prior.place(out, self.before)

    def learn(self, t: int, r: LongArray) -> None:
        """Store the step's samples, int64 [n, C], and go on."""
        for recon, row in zip(self.recons, r, strict=False):
            recon[t] = row
        if self.prior.net is not None:
            u = np.stack([u[t] for u in self.codes[: len(r)]]) if self.codes else None
            before = r if t == 0 else self.before
            self.state.fill(self.prior.past_features(r, before, u))
        self.before = r
