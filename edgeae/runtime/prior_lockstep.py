"""Coding with a prior in numpy: all frames in lockstep, one step of each at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.cdf import CdfFamily
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.errors import CorruptError
from edgeae.runtime.causal_lockstep import LockstepState
from edgeae.runtime.prior_rules import LARGEST_INDEX, PriorRules

__all__ = ["decode_lockstep", "encode_lockstep"]

_BATCH_ITEMS = 1 << 21  # a batch has about this many samples

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
Shape = tuple[int, int]


def encode_lockstep(
    rules: PriorRules,
    x: Sequence[IntArray],
    delta: Sequence[int],
    cond: Sequence[int],
    code: Sequence[IntArray | None],
) -> list[tuple[bytes, IntArray] | None]:
    """Code frames; see `edgeae.runtime.prior_coding.encode_frames`."""
    families = _families(rules, delta)
    if all(step == 1 for step in delta):
        return [_encode_known(rules, families, f, cond, u) for f, u in zip(x, code, strict=True)]
    firsts: list[LongArray] = [rules.firsts(f) for f in x]
    encoders = [RangeEncoder() for _ in x]
    recons = [np.zeros(f.shape, np.int32) for f in x]
    lost: set[int] = set()
    width = np.array(delta, np.int64)
    for group, items in _batches([f.shape[:2] for f in x]):
        walk = _Walk(rules, group, items, recons, code, firsts, cond)
        for t in walk:
            centre, frac16, ls = walk.predict(t)
            now = np.stack([x[i][group, t] for i in items[: len(centre)]]).astype(np.int64)
            d = now - centre
            k = np.sign(d) * ((np.abs(d) + width // 2) // width)
            r = centre + k * width
            beyond = (np.abs(r) > LARGEST_INDEX) | (np.abs(now) > LARGEST_INDEX)
            if beyond.any():
                lost.update(items[b] for b in np.flatnonzero(beyond.any(axis=1)))
                r = np.clip(r, -LARGEST_INDEX, LARGEST_INDEX)
            rows = zip(items, ls.tolist(), frac16.tolist(), k.tolist(), strict=False)
            for i, *row in rows:
                for family, *symbol in zip(families, *row, strict=True):
                    family.encode(encoders[i], *symbol)
            walk.learn(t, r)
    return [
        None if i in lost else (rules.pack_firsts(firsts[i]) + encoder.finish(), recons[i])
        for i, encoder in enumerate(encoders)
    ]


def _encode_known(
    rules: PriorRules,
    families: Sequence[CdfFamily],
    x: IntArray,
    cond: Sequence[int],
    code: IntArray | None,
) -> tuple[bytes, IntArray] | None:
    """Code a frame whose decoded samples are known: the net runs over all steps at once."""
    if x.size and max(int(x.max()), -int(x.min())) > LARGEST_INDEX:
        return None
    encoder = RangeEncoder()
    firsts = anchor = rules.firsts(x)
    n = x.shape[1]
    for group, frame in enumerate(x.astype(np.int64) if n else ()):
        if rules.net is None:
            assert rules.statics is not None
            out = np.broadcast_to(rules.statics.astype(np.int64), (n, 2 * rules.n_channels))
        else:
            u = None if code is None else code[group].astype(np.int64)
            before = np.concatenate([frame[:1], frame[:-1]])
            features = rules.side_features(u, cond, n), rules.past_features(frame, before, u)
            rows = np.empty((n, rules.net.n_inputs), np.int64)
            rows[:, ~rules.net.past], rows[:, rules.net.past] = features
            out = rules.net.run(rows.T[None])[0].T.astype(np.int64)
        centre, frac16, ls = rules.place(out, np.concatenate([anchor[None], frame[:-1]]))
        for row in zip(ls.tolist(), frac16.tolist(), (frame - centre).tolist(), strict=True):
            for family, *symbol in zip(families, *row, strict=True):
                family.encode(encoder, *symbol)
        anchor = frame[0]
    return rules.pack_firsts(firsts) + encoder.finish(), x.copy()


def decode_lockstep(
    rules: PriorRules,
    payloads: Sequence[bytes],
    shapes: Sequence[Shape],
    delta: Sequence[int],
    cond: Sequence[int],
    code: Sequence[IntArray | None],
) -> list[IntArray]:
    """Read frames; see `edgeae.runtime.prior_coding.decode_frames`."""
    families = _families(rules, delta)
    width = np.array(delta, np.int64)
    firsts: list[LongArray] = []
    decoders = []
    for payload in payloads:
        first, at = rules.unpack_firsts(payload)
        firsts.append(first)
        decoders.append(RangeDecoder(payload[at:]))
    recons = [np.zeros((*shape, rules.n_channels), np.int32) for shape in shapes]
    for group, items in _batches(shapes):
        walk = _Walk(rules, group, items, recons, code, firsts, cond)
        for t in walk:
            centre, frac16, ls = walk.predict(t)
            k = np.array(
                [
                    [
                        family.decode(decoders[i], *place)
                        for family, *place in zip(families, *row, strict=True)
                    ]
                    for i, *row in zip(items, ls.tolist(), frac16.tolist(), strict=False)
                ],
                dtype=np.int64,
            )
            if np.any(np.abs(k) > 0x7FFFFFFF):
                raise CorruptError("damaged prior-coded bytes: an escape is too wide")
            r = centre + k * width
            if np.any(np.abs(r) > LARGEST_INDEX):
                raise CorruptError("damaged prior-coded bytes: an index is out of range")
            walk.learn(t, r)
    for decoder in decoders:
        decoder.finish()
    return recons


def _families(rules: PriorRules, delta: Sequence[int]) -> list[CdfFamily]:
    """The tables of each channel; channels that are alike share them."""
    keys = list(zip(delta, rules.shift, strict=True))
    families = {key: CdfFamily(rules.shape, *key) for key in dict.fromkeys(keys)}
    return [families[key] for key in keys]


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
        rules: PriorRules,
        group: int,
        items: list[int],
        recons: list[IntArray],
        code: Sequence[IntArray | None],
        firsts: list[LongArray],
        cond: Sequence[int],
    ) -> None:
        self.rules = rules
        self.recons = [recons[i][group] for i in items]
        self.codes = [u[group].astype(np.int64) for u in (code[i] for i in items) if u is not None]
        self.lengths = [len(r) for r in self.recons]
        n = len(items)
        self.before = np.stack(
            [recons[i][group - 1, 0].astype(np.int64) if group else firsts[i] for i in items]
        )
        if rules.net is None:
            assert rules.statics is not None
            self.out = np.broadcast_to(rules.statics.astype(np.int64), (n, 2 * rules.n_channels))
            return
        self.state = LockstepState(rules.net, n)
        sides = [
            rules.side_features(self.codes[b] if self.codes else None, cond, length)
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
            if self.rules.net is not None:
                self.state.keep(n)
            yield t

    def predict(self, t: int) -> tuple[LongArray, LongArray, LongArray]:
        """Return centre, frac16 and ls of the step, int64 [n, C] each."""
        n = len(self.before)
        if self.rules.net is None:
            out = self.out[:n]
        else:
            side = np.stack([s[t] for s in self.sides[:n]])
            out = self.state.step(side).astype(np.int64)
        return self.rules.place(out, self.before)

    def learn(self, t: int, r: LongArray) -> None:
        """Store the step's samples, int64 [n, C], and go on."""
        for recon, row in zip(self.recons, r, strict=False):
            recon[t] = row
        if self.rules.net is not None:
            u = np.stack([u[t] for u in self.codes[: len(r)]]) if self.codes else None
            before = r if t == 0 else self.before
            self.state.fill(self.rules.past_features(r, before, u))
        self.before = r
