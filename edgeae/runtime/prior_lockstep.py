"""Coding with a prior in numpy: all frames in lockstep, one step of each at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.cdf import SCALE16, CdfFamily
from edgeae.bitstream.pace import Marks, Paced
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.errors import CorruptError
from edgeae.runtime.adaptive import Filters
from edgeae.runtime.causal_lockstep import LockstepState
from edgeae.runtime.mixture import Mixers, Mixture
from edgeae.runtime.prior_rules import LARGEST_INDEX, PriorRules, step_condition

__all__ = ["decode_lockstep", "encode_lockstep"]

_SCALES = np.array(SCALE16, np.int64)
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
    paces: Sequence[Marks | None],
    marks: Marks | None,
) -> list[tuple[bytes, IntArray] | None]:
    """Code frames; see `edgeae.runtime.prior_coding.encode_frames`."""
    families = _families(rules, delta)
    paced = [Paced(math.prod(f.shape[:2]), pace) for f, pace in zip(x, paces, strict=True)]
    if all(step == 1 for step in delta) and rules.adaptive is None:
        coded = [
            _encode_known(rules, families, f, cond, u, own)
            for f, u, own in zip(x, code, paced, strict=True)
        ]
    else:
        coded = _encode_lockstep(rules, families, x, delta, cond, code, paced)
    if marks is not None:
        marks[:] = [own.marks for own in paced]
    return coded


def _encode_lockstep(
    rules: PriorRules,
    families: Sequence[CdfFamily],
    x: Sequence[IntArray],
    delta: Sequence[int],
    cond: Sequence[int],
    code: Sequence[IntArray | None],
    paced: Sequence[Paced],
) -> list[tuple[bytes, IntArray] | None]:
    firsts: list[LongArray] = [rules.firsts(f, delta) for f in x]
    encoders = [RangeEncoder() for _ in x]
    recons = [np.zeros(f.shape, np.int32) for f in x]
    lost: set[int] = set()
    for group, items in _batches([f.shape[:2] for f in x]):
        walk = _Walk(rules, group, items, recons, code, firsts, cond, delta)
        for t in walk:
            for c, (family, width) in enumerate(zip(families, delta, strict=True)):
                centre, places = walk.expect(c, family)
                now = np.array([x[i][group, t, c] for i in items[: len(centre)]], np.int64)
                d = now - centre
                k = np.sign(d) * ((np.abs(d) + width // 2) // width)
                r = centre + k * width
                beyond = (np.abs(r) > LARGEST_INDEX) | (np.abs(now) > LARGEST_INDEX)
                if beyond.any():
                    lost.update(items[b] for b in np.flatnonzero(beyond))
                    r = np.clip(r, -LARGEST_INDEX, LARGEST_INDEX)
                for i, place, symbol in zip(items, places, k.tolist(), strict=False):
                    place.encode(encoders[i], symbol)
                walk.take(c, r)
            walk.learn(t)
            for i in items[: len(walk.now)]:
                if not paced[i].count(encoders[i].n_bytes):
                    lost.add(i)
    return [
        None if i in lost else (rules.pack_firsts(firsts[i], delta) + encoder.finish(), recons[i])
        for i, encoder in enumerate(encoders)
    ]


def _encode_known(
    rules: PriorRules,
    families: Sequence[CdfFamily],
    x: IntArray,
    cond: Sequence[int],
    code: IntArray | None,
    paced: Paced,
) -> tuple[bytes, IntArray] | None:
    """Code a frame whose decoded samples are known: the net runs over all steps at once."""
    if x.size and max(int(x.max()), -int(x.min())) > LARGEST_INDEX:
        return None
    encoder = RangeEncoder()
    ones = [1] * rules.n_channels
    firsts = anchor = rules.firsts(x, ones)
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
        mean, ls = rules.means(out)
        centre, frac16 = rules.place(mean, np.concatenate([anchor[None], frame[:-1]]))
        for row in zip(ls.tolist(), frac16.tolist(), (frame - centre).tolist(), strict=True):
            for family, *symbol in zip(families, *row, strict=True):
                family.encode(encoder, *symbol)
            if not paced.count(encoder.n_bytes):
                return None
        anchor = frame[0]
    return rules.pack_firsts(firsts, ones) + encoder.finish(), x.copy()


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
    firsts: list[LongArray] = []
    decoders = []
    for payload in payloads:
        first, at = rules.unpack_firsts(payload, delta)
        firsts.append(first)
        decoders.append(RangeDecoder(payload[at:]))
    recons = [np.zeros((*shape, rules.n_channels), np.int32) for shape in shapes]
    for group, items in _batches(shapes):
        walk = _Walk(rules, group, items, recons, code, firsts, cond, delta)
        for t in walk:
            for c, (family, width) in enumerate(zip(families, delta, strict=True)):
                centre, places = walk.expect(c, family)
                k = np.array(
                    [place.decode(decoders[i]) for i, place in zip(items, places, strict=False)],
                    np.int64,
                )
                if np.any(np.abs(k) > 0x7FFFFFFF):
                    raise CorruptError("damaged prior-coded bytes: an escape is too wide")
                r = centre + k * width
                if np.any(np.abs(r) > LARGEST_INDEX):
                    raise CorruptError("damaged prior-coded bytes: an index is out of range")
                walk.take(c, r)
            walk.learn(t)
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


class _Coder(Protocol):
    """Codes one symbol."""

    def encode(self, encoder: RangeEncoder, k: int) -> None: ...

    def decode(self, decoder: RangeDecoder) -> int: ...


class _Place:
    """Where one symbol is expected, without a mixture."""

    def __init__(self, family: CdfFamily, ls: int, frac16: int) -> None:
        self.family, self.ls, self.frac16 = family, ls, frac16

    def encode(self, encoder: RangeEncoder, k: int) -> None:
        self.family.encode(encoder, self.ls, self.frac16, k)

    def decode(self, decoder: RangeDecoder) -> int:
        return self.family.decode(decoder, self.ls, self.frac16)


class _Walk:
    """The steps of one group of a batch of frames in lockstep, longest frame first.

    Per step, and per channel in it, `expect` and `take`; then `learn`.
    """

    def __init__(
        self,
        rules: PriorRules,
        group: int,
        items: list[int],
        recons: list[IntArray],
        code: Sequence[IntArray | None],
        firsts: list[LongArray],
        cond: Sequence[int],
        delta: Sequence[int],
    ) -> None:
        self.rules = rules
        self.recons = [recons[i][group] for i in items]
        self.codes = [u[group].astype(np.int64) for u in (code[i] for i in items) if u is not None]
        self.lengths = [len(r) for r in self.recons]
        n = len(items)
        self.is_first = True
        self.before = np.stack(
            [recons[i][group - 1, 0].astype(np.int64) if group else firsts[i] for i in items]
        )
        self.now = np.zeros_like(self.before)
        self.filters: Filters | None = None
        if rules.adaptive is not None:
            self.filters = Filters(rules.adaptive, delta, n)
            a = rules.adaptive
            firsts_of = [(a.weights_at(step), a.trust_at(step)) for step in delta]
            self.mixtures = [[Mixture(*first) for _ in items] for first in firsts_of]
            levels = [step_condition(d, p) for d, p in zip(delta, rules.shift, strict=True)]
            self.mixers = Mixers(a.learnt, levels, rules.shift, n)
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
            self.before, self.now = self.before[:n], self.now[:n]
            if self.rules.net is None:
                out = self.out[:n]
            else:
                self.state.keep(n)
                side = np.stack([s[t] for s in self.sides[:n]])
                out = self.state.step(side).astype(np.int64)
            if self.filters is not None:
                self.filters.keep(n)
                self.mixers.keep(n)
            self.mean, self.ls = self.rules.means(out)
            yield t

    def expect(self, c: int, family: CdfFamily) -> tuple[LongArray, Sequence[_Coder]]:
        """Return the centres of channel c, int64 [n], and what codes each frame's symbol."""
        mean, before, ls = self.mean[:, c], self.before[:, c], self.ls[:, c].tolist()
        if self.filters is None:
            centre, frac16 = self.rules.place(mean, before, c)
            return centre, [_Place(family, *at) for at in zip(ls, frac16.tolist(), strict=True)]
        mixtures = self.mixtures[c][: len(mean)]
        moved = self.moved = self.filters.predict(c, self._scale16(c))
        share = np.array([mixture.moved_share for mixture in mixtures], np.int64)
        centre, _ = self.rules.place(mean + ((moved * share) >> 16), before, c)
        base = 16 * (self.rules.anchor(before, c) - centre) + mean
        rows, out = self._parts(c, moved)
        places = zip(mixtures, ls, rows, base.tolist(), moved.tolist(), out, strict=True)
        for mixture, *at in places:
            mixture.prepare(family, *at)
        return centre, mixtures

    def _parts(self, c: int, moved: LongArray) -> tuple[list[list[int]], list[list[int]]]:
        """Per frame, the rows that follow its own errors, and what the mixture's net gives."""
        scale16, learnt = self._scale16(c), self.mixers.learnt
        rows = self.mixers.rows(c, scale16)
        if learnt is None:
            return rows.tolist(), [[]] * len(rows)
        features = self.mixers.features(c, self.ls[:, c], scale16, moved, rows)
        return rows.tolist(), learnt.net.run(features.T[None])[0].T.tolist()

    def _scale16(self, c: int) -> LongArray:
        return _SCALES[self.ls[:, c]] << self.rules.shift[c]

    def take(self, c: int, r: LongArray) -> None:
        """Take in the samples of channel c, int64 [n]."""
        self.now[:, c] = r
        if self.filters is not None:
            before = self.before[:, c]
            error16 = 16 * (r - self.rules.anchor(before, c)) - self.mean[:, c]
            change = np.zeros_like(r) if self.is_first else r - before
            self.filters.learn(c, self._scale16(c), error16, change)
            self.mixers.meet(c, self._scale16(c), error16 - self.moved, change)

    def learn(self, t: int) -> None:
        """End the step."""
        r = self.now.copy()
        for recon, row in zip(self.recons, r, strict=False):
            recon[t] = row
        if self.rules.net is not None:
            u = np.stack([u[t] for u in self.codes[: len(r)]]) if self.codes else None
            self.state.fill(self.rules.past_features(r, r if self.is_first else self.before, u))
        if self.filters is not None:
            self.filters.advance()
            self.mixers.advance()
        self.before, self.is_first = r, False
