"""The codec, frame by frame: each frame in the smallest mode that keeps the stream's promise.

Encoding, in the order of this file::

    samples ──to indices──► grid indices + exceptions (what the grid cannot hold)
            ──candidates──► raw · constant · classical · recall ·
                            neural · neural + residual · neural past
            ──choose──────► the smallest, its samples checked against the promise ──► Frame

A frame is checked on the samples a decoder will make of it, after the cast to the stream's dtype.
Samples that miss the promise all the same join the exceptions, which travel bit for bit.

Shapes: frames hold n items (time steps or images); inside they are segments int32 [G, T, C]: one
segment of T = n time steps, or G = n images of T = H * W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeae.bitstream.classical import encode_classical, encode_classical_within
from edgeae.bitstream.crc import crc16, sample_check
from edgeae.bitstream.frame import Frame, Mode
from edgeae.bitstream.header import Promise
from edgeae.bitstream.levels import encode_levels
from edgeae.bitstream.pace import N_MARKS, Marks, even_pace, spread
from edgeae.bitstream.plain import (
    decode_constant,
    encode_coarse_constant,
    encode_constant,
    encode_raw,
    join_ulps,
    pack_exceptions,
)
from edgeae.bitstream.recall import encode_recall
from edgeae.bitstream.varint import pack_varint
from edgeae.errors import ModelError
from edgeae.native import core
from edgeae.runtime.any_prior import encode_samples
from edgeae.runtime.latent_prior import encode_latents, step_condition
from edgeae.runtime.manifest import NetSpec
from edgeae.runtime.pixel_prior import PixelPrior
from edgeae.runtime.transform import analyse, symbolize, synthesise
from edgeae.signal.ulps import ulps_beside
from edgeae.tasks.checks import all_differ, bridged, looks_easy, may_recur, samples_within
from edgeae.tasks.fine import FineCode, fine_delta
from edgeae.tasks.frame_decoder import FrameDecoder
from edgeae.tasks.heats import beginning, close_behind, to_overtake, winners
from edgeae.tasks.search import search_symbols, worth_of_a_bit
from edgeae.tasks.setup import Indices, Samples

__all__ = ["FrameCodec", "frames_at_once", "lossy_delta", "lossy_rmse"]

_BATCH_FRAMES = 64
_BATCH_SAMPLES = 1 << 16 if core is not None else 1 << 20  # numpy's loops want company
_MAX_ULPS = 64
_LEAST_RECALLED = 2048  # time steps, where a sample prior leads
_FEW = 400  # of so many samples, one beside the grid is an exception


@dataclass(kw_only=True)
class _Block:
    """One frame's samples on their way in.

    samples: flat, in the stream's dtype. x: indices [G, T, C], exceptions bridged over.
    held: flat mask of the samples that the grid can hold. ulps: flat, how far beside it they lie.
    """

    n_items: int
    samples: Samples
    x: Indices
    held: NDArray[np.bool_]
    ulps: Indices | None = None


@dataclass(kw_only=True)
class _Candidate:
    """A coded block. recon: what a decoder will get; check: overrides recon's.

    missed: flat mask of the samples for which the promise would be broken, once it is known.
    marks: how its bytes grew, where a sample prior coded it; see `edgeae.bitstream.pace`.
    """

    mode: Mode
    payload: bytes
    recon: Indices
    variant: int = 0
    check: int | None = None
    missed: NDArray[np.bool_] | None = None
    marks: Marks | None = None


class _Way(NamedTuple):
    """A sample prior to code with: one of those that read the window code, or of the others."""

    with_code: bool
    variant: int


def frames_at_once(frame_samples: int) -> int:
    """How many frames are worth handing to a codec at once; more gain nothing but use memory."""
    return max(1, min(_BATCH_FRAMES, _BATCH_SAMPLES // max(1, frame_samples)))


def lossy_rmse(net: NetSpec | None, step: int) -> tuple[float, ...]:
    """How far a lossy frame may be off: the bundle's limits, more for steps above the usual."""
    if net is None:
        return (math.inf,)
    return tuple(limit * max(1.0, step / net.default_step) for limit in net.max_rmse)


def lossy_delta(max_rmse: float) -> int:
    """Largest odd step whose uniform error stays below an RMSE: sqrt((d^2 - 1) / 12) <= rmse.

    Example:
        >>> lossy_delta(0.5), lossy_delta(3.6)
        (1, 11)
    """
    delta = math.isqrt(int(min(12.0 * max_rmse * max_rmse + 1.0, float(1 << 58))))
    return max(1, delta - 1 + delta % 2)


class FrameCodec(FrameDecoder):
    """Codes and decodes the frames of one stream.

    Args:
        header: the stream's header; everything that both sides must agree on is in it.
        bundle: the model that the header names, or None if it names none.

    Raises:
        WrongModelError: the header names another bundle.
        ModelError: the bundle does not fit the header's signal.
    """

    effort = 0  # of an encoder: rounds of `search_symbols` that each image is worth

    def encode(self, blocks: Sequence[Samples], step: int | None = None) -> list[Frame]:
        """Code one frame per block, each independent of the others.

        Args:
            blocks: arrays of n items each, n up to the header's frame length, in its dtype.
            step: of a lossy stream's latents, where these frames have another than the header's.
        """
        prepared = [self._to_indices(samples) for samples in blocks]
        candidates: list[list[_Candidate]] = [[] for _ in prepared]
        busy = []
        for number, block in enumerate(prepared):
            constant = self._constant(block)
            if constant is not None:
                candidates[number].append(constant)
            if constant is None and block.held.any():
                busy.append(number)
        todo = [prepared[number] for number in busy]
        if self.header.promise is Promise.LOSSY:
            coded = self._code_lossy(todo, step or self.header.step)
        else:
            coded = self._code_bounded(todo)
        for number, found in zip(busy, coded, strict=True):
            candidates[number] += found
        return [
            self._choose(block, found) for block, found in zip(prepared, candidates, strict=True)
        ]

    def _to_indices(self, samples: Samples) -> _Block:
        """Grid indices, and which samples they hold: exactly if lossless, else at all."""
        rows = np.ascontiguousarray(samples).reshape(-1, self.header.channels)
        index, held = self.lattice.to_index(rows)
        near = held
        if not held.all():  # 0 stands for what rounds to it, and for what has no index
            with np.errstate(invalid="ignore"):
                near = held | (index != 0)
                near |= np.abs(rows.astype(np.float64)) <= self.lattice.steps
        ulps = None
        if self.header.promise is Promise.LOSSLESS:
            if self.dtype.kind == "f" and not held.all():
                beside = ulps_beside(rows, self.lattice.to_values(index, self.dtype))
                close = ~held & (np.abs(beside) <= _MAX_ULPS)
                if np.count_nonzero(close) * _FEW > close.size:
                    held |= close
                    ulps = np.where(close, beside, 0).astype(np.int32).reshape(-1)
        else:
            held = near
        groups, length = self.segments(len(samples))
        x = index.reshape(groups, length, self.header.channels)
        if not held.all():
            x = bridged(x, held.reshape(x.shape), near.reshape(x.shape))
        return _Block(
            n_items=len(samples), samples=rows.reshape(-1), x=x, held=held.reshape(-1), ulps=ulps
        )

    def _constant(self, block: _Block) -> _Candidate | None:
        channels = self.header.channels
        deltas = (1,) if self.header.promise is Promise.LOSSY else self.header.deltas
        rows, variant = block.x.reshape(-1, channels), 0
        payload = encode_constant(rows, np.array(deltas))
        if payload is None:
            return None
        coarse = encode_coarse_constant(rows, np.array(deltas))
        if coarse is not None and len(coarse) < len(payload) and max(deltas) > 1:
            payload, variant = coarse, 1
        recon = decode_constant(payload, len(rows), channels, deltas if variant else None)
        return _Candidate(
            mode=Mode.CONSTANT,
            payload=payload,
            recon=recon.reshape(block.x.shape),
            variant=variant,
        )

    def _code_bounded(self, blocks: list[_Block], *, every: bool = False) -> list[list[_Candidate]]:
        """What keeps |x - x_hat| below the bound: the classical mode and the sample priors.

        Whatever cannot become the smallest frame is given up, unless ``every`` code is asked for.
        """
        found: list[list[_Candidate]] = [[] for _ in blocks]
        self._add_priors(blocks, found, every)
        self._add_classical(blocks, found, every)
        self._add_recall(blocks, found)
        return found

    def _add_recall(self, blocks: list[_Block], found: list[list[_Candidate]]) -> None:
        """The recalling mode, where it may well need fewer bytes than all others."""
        deltas = np.array(self.header.deltas)
        limits = self._limits(blocks, found, every=False)
        if self.header.image_size is not None:
            self._add_levels(blocks, found, limits)
            return
        for block, candidates, limit in zip(blocks, found, limits, strict=True):
            rows = block.x.reshape(-1, self.header.channels)
            most = block.samples.nbytes if limit is None else limit
            pace = even_pace(most)
            leader = _leader(candidates)
            if limit is not None and leader is not None and leader.marks is not None:
                if len(rows) < _LEAST_RECALLED:
                    continue
                if rows.shape[1] == 1:
                    pace = to_overtake(leader.marks)
            if may_recur(rows, deltas, most):
                coded = encode_recall(rows, self.header.deltas, most, pace)
                if coded is not None:
                    payload, recon = coded
                    recon = recon.reshape(block.x.shape)
                    candidates.append(_Candidate(mode=Mode.RECALL, payload=payload, recon=recon))

    def _add_levels(
        self, blocks: list[_Block], found: list[list[_Candidate]], limits: list[int | None]
    ) -> None:
        """The recalling mode of images, where these can do with few levels."""
        size = self.header.image_size
        assert size is not None
        for block, candidates, limit in zip(blocks, found, limits, strict=True):
            rows = block.x.reshape(-1, self.header.channels)
            coded = encode_levels(rows, self.header.deltas, size, limit)
            if coded is not None:
                payload, recon = coded
                recon = recon.reshape(block.x.shape)
                candidates.append(_Candidate(mode=Mode.RECALL, payload=payload, recon=recon))

    def _add_classical(
        self, blocks: list[_Block], found: list[list[_Candidate]], every: bool
    ) -> None:
        """The classical mode, in front of the candidates: of equals, it is chosen."""
        for block, candidates in zip(blocks, found, strict=True):
            limit = None if every else self._bytes_to_beat(block, candidates)
            leader = None if limit is None else _leader(candidates)
            pace = None if leader is None or leader.marks is None else to_overtake(leader.marks)
            classical = self._classical(block, limit, pace)
            if classical is not None:
                candidates.insert(0, classical)

    def _add_priors(self, blocks: list[_Block], found: list[list[_Candidate]], every: bool) -> None:
        """The sample priors, alone and with the window code: in each frame the likeliest first."""
        x = [block.x for block in blocks]
        heads, codes = [b""] * len(x), x
        with_code = range(len(self.code_priors) if self.header.step and blocks else 0)
        if with_code:
            neural = self._neural(x, self.header.step)
            heads = [pack_varint(len(latent)) + latent for latent, _, _ in neural]
            codes = [recon for _, recon, _ in neural]
        orders = [
            [_Way(False, variant) for variant in sorted(self.variants_for(frame))]
            + [_Way(True, variant) for variant in with_code]
            for frame in x
        ]
        if not every:
            orders = self._likeliest(x, heads, codes, orders)
        for place in range(max(map(len, orders), default=0)):
            chosen = [(i, order[place]) for i, order in enumerate(orders) if place < len(order)]
            for way in dict.fromkeys(way for _, way in chosen):
                which = [i for i, other in chosen if other == way]
                limits = self._limits([blocks[i] for i in which], [found[i] for i in which], every)
                paces = [
                    None if limit is None else _pace(found[i])
                    for i, limit in zip(which, limits, strict=True)
                ]
                if way.with_code:
                    limits = [
                        None if limit is None else max(limit - len(heads[i]), 0)
                        for i, limit in zip(which, limits, strict=True)
                    ]
                    paces = [
                        None if pace is None else pace - spread(len(heads[i]))
                        for i, pace in zip(which, paces, strict=True)
                    ]
                marks = np.zeros((len(which), N_MARKS), np.int64)
                pairs = [(x[i], codes[i]) for i in which]
                results = self._by_prior(way, pairs, limits, paces, marks)
                for i, result, own in zip(which, results, marks, strict=True):
                    if result is not None:
                        head = heads[i] if way.with_code else b""
                        candidate = _Candidate(
                            mode=Mode.NEURAL_RESIDUAL if way.with_code else Mode.NEURAL_PAST,
                            payload=head + result[0],
                            recon=result[1],
                            variant=way.variant,
                            marks=own + spread(len(head)) if own.any() else None,
                        )
                        found[i].append(candidate)

    def _by_prior(
        self,
        way: _Way,
        pairs: list[tuple[Indices, Indices]],
        limits: list[int | None] | None = None,
        paces: list[Marks | None] | None = None,
        marks: Marks | None = None,
    ) -> list[tuple[bytes, Indices] | None]:
        """Code frames and their window codes' samples one way, within their limits and paces."""
        prior = (self.code_priors if way.with_code else self.priors)[way.variant]
        codes = [code for _, code in pairs] if way.with_code else None
        x = [x for x, _ in pairs]
        return encode_samples(prior, x, self.header.deltas, codes, limits, paces, marks)

    def _likeliest(
        self,
        x: list[Indices],
        heads: list[bytes],
        codes: list[Indices],
        orders: list[list[_Way]],
    ) -> list[list[_Way]]:
        """The ways worth coding each frame, as its beginning tells; all of a short frame's."""
        starts = {}
        for i, order in enumerate(orders):
            start = beginning(x[i]) if len(order) > 1 else None
            if start is not None:
                starts[i] = (start, np.ascontiguousarray(codes[i][: len(start), : start.shape[1]]))
        sizes: dict[tuple[int, _Way], int | None] = {}
        for way in dict.fromkeys(way for i in starts for way in orders[i]):
            which = [i for i in starts if way in orders[i]]
            results = self._by_prior(way, [starts[i] for i in which])
            for i, result in zip(which, results, strict=True):
                head = len(heads[i]) * starts[i][0].size // x[i].size if way.with_code else 0
                sizes[i, way] = None if result is None else len(result[0]) + head
        return [
            [order[n] for n in winners([sizes[i, way] for way in order])] if i in starts else order
            for i, order in enumerate(orders)
        ]

    def _limits(
        self, blocks: list[_Block], found: list[list[_Candidate]], every: bool
    ) -> list[int | None]:
        """Bytes that the next code must not pass, to be chosen before those already found."""
        if every:
            return [None] * len(blocks)
        limits = (self._bytes_to_beat(*pair) for pair in zip(blocks, found, strict=True))
        return [None if limit is None else limit - 1 for limit in limits]

    def _bytes_to_beat(self, block: _Block, candidates: list[_Candidate]) -> int | None:
        """Size of the smallest payload so far, if no larger one can give a smaller frame.

        That is so where all codes have the same exceptions: what the grid cannot hold.
        """
        if not candidates:
            return None
        best = _leader(candidates)
        assert best is not None
        return len(best.payload) if np.array_equal(self._missed(block, best), ~block.held) else None

    def _code_lossy(self, blocks: list[_Block], step: int) -> list[list[_Candidate]]:
        """The window code; where it misses a frame by more than it may, the bounded modes.

        A sample prior codes a frame where it costs less, rate and error weighed as in training. The
        classical mode also stands in where it is smaller and no worse: on quiet signals.
        """
        if not blocks:
            return []
        limit = np.array(lossy_rmse(self.model().net, step))
        own = step != self.header.step
        head = pack_varint(step) if own else b""
        deltas = np.array(self.header.deltas)
        found: list[list[_Candidate]] = [[] for _ in blocks]
        missed = []
        coded = self._neural([block.x for block in blocks], step)
        others = self._others([block.x for block in blocks], step)
        worth = worth_of_a_bit(self.model(), step)
        for number, (block, (payload, recon, check)) in enumerate(zip(blocks, coded, strict=True)):
            rmse = self._rmse(block, recon)
            if others[number] and worth is not None:
                costs = [
                    8 * len(other.payload) + self._error(block, other.recon) / worth
                    for other in others[number]
                ]
                if min(costs) < 8 * len(head + payload) + self._error(block, recon) / worth:
                    found[number].append(others[number][costs.index(min(costs))])
                    continue
            if (rmse > limit).any():
                missed.append(number)
                continue
            neural = _Candidate(
                mode=Mode.NEURAL,
                payload=head + payload,
                recon=recon,
                variant=int(own),
                check=check,
            )
            found[number].append(neural)
            loss = _mean_square(rmse / deltas)  # the classical mode's is 1 / 12
            if 12.0 * loss > 0.49 and looks_easy(block.x, deltas, len(payload)):
                classical = self._classical(block)
                assert classical is not None
                if _mean_square(self._rmse(block, classical.recon) / deltas) <= loss:
                    found[number].append(classical)
        rescued = self._code_bounded([blocks[number] for number in missed])
        for number, candidates in zip(missed, rescued, strict=True):
            found[number] = candidates
        return found

    def _classical(
        self, block: _Block, limit: int | None = None, pace: Marks | None = None
    ) -> _Candidate | None:
        """The classical mode, unless it passes ``limit`` bytes or falls behind the pace."""
        rows, size = block.x.reshape(-1, self.header.channels), self.header.image_size
        coded = encode_classical_within(rows, self.header.deltas, limit, image_size=size, pace=pace)
        if coded is None:
            return None
        payload, recon = coded
        return _Candidate(mode=Mode.CLASSICAL, payload=payload, recon=recon.reshape(block.x.shape))

    def _coded_ulps(self, block: _Block) -> bytes:
        """How far the samples lie beside the grid, coded as if it were indices."""
        if block.ulps is None:
            return b""
        rows, size = block.ulps.reshape(-1, self.header.channels), self.header.image_size
        return encode_classical(rows, 1, image_size=size)[0]

    def _neural(self, x: list[Indices], step: int) -> list[tuple[bytes, Indices, int | None]]:
        """Latent payload, its reconstruction, and the check where the samples cannot serve."""
        bundle = self.model()
        prior = bundle.latent_prior
        if prior is None:
            raise ModelError(f"bundle {bundle.name!r} has no window code")
        if self.effort and bundle.signal.is_image:
            symbols = [
                search_symbols(bundle, segments, latents, step, self.effort)
                for segments, latents in zip(x, analyse(bundle, x), strict=True)
            ]
        else:
            symbols = [symbolize(latents, step) for latents in analyse(bundle, x)]
        payloads = encode_latents(prior, symbols, step_condition(step))
        recons = synthesise(bundle, symbols, step, [segments.shape[1] for segments in x])
        checks = [None if self.header.exact else sample_check(y) for y in symbols]
        return list(zip(payloads, recons, checks, strict=True))

    def _others(self, x: list[Indices], step: int) -> list[list[_Candidate]]:
        """Frames of a lossy stream by sample priors, where these may do as well for their rate.

        Images by the first pixel prior; series at fine steps as `edgeae.tasks.fine` codes them.
        """
        for variant, prior in enumerate(self.priors):
            if isinstance(prior, PixelPrior):
                return [
                    []
                    if coded is None
                    else [
                        _Candidate(
                            mode=Mode.NEURAL_PAST, payload=coded[0], recon=coded[1], variant=variant
                        )
                    ]
                    for coded in encode_samples(prior, x, self.header.deltas)
                ]
        delta = fine_delta(self.model(), step)
        if delta is None:
            return [[] for _ in x]
        return [
            [
                _Candidate(mode=Mode.NEURAL, payload=f.payload, recon=f.recon, variant=f.variant)
                for f in frames
            ]
            for frames in FineCode(self.model()).encode(x, delta)
        ]

    def _error(self, block: _Block, recon: Indices) -> float:
        """Squared error over the samples that the grid holds."""
        error = (block.x - recon.astype(np.float64)).reshape(-1) * block.held
        return float(np.dot(error, error))

    def _rmse(self, block: _Block, recon: Indices) -> NDArray[np.float64]:
        """Per channel the root mean squared error in indices, over samples that the grid holds."""
        held = block.held.reshape(-1, self.header.channels)
        error = np.subtract(block.x, recon, dtype=np.float64).reshape(held.shape)
        if not held.all():
            error *= held
        power = np.einsum("nc,nc->c", error, error)
        result: NDArray[np.float64] = np.sqrt(power / np.maximum(held.sum(axis=0), 1))
        return result

    def _choose(self, block: _Block, candidates: list[_Candidate]) -> Frame:
        """The smallest candidate, exceptions included; raw where none is smaller than the samples.

        Usually every candidate has the same exceptions, and only the first is looked at closely.
        """
        raw = encode_raw(block.samples)
        ulps = self._coded_ulps(block)
        best: Frame | None = None
        for candidate in sorted(candidates, key=lambda c: len(c.payload)):
            limit = len(raw) if best is None else _size(best)
            if len(candidate.payload) + len(ulps) >= limit:
                break
            missed = self._missed(block, candidate)
            positions = np.flatnonzero(missed)
            exceptions = b""
            if positions.size:
                if positions.size + len(candidate.payload) >= limit and all_differ(
                    block.samples[positions]
                ):
                    continue
                exceptions = pack_exceptions(positions, block.samples[positions])
            if ulps:
                exceptions = join_ulps(ulps, exceptions)
            check = candidate.check
            if check is None:
                check = sample_check(candidate.recon, positions, block.ulps)
            frame = Frame(
                mode=candidate.mode,
                n_items=block.n_items,
                payload=candidate.payload,
                check=check,
                exceptions=exceptions,
                variant=candidate.variant,
            )
            if _size(frame) < limit:
                best = frame
            if np.array_equal(missed, ~block.held):
                break  # the others have these exceptions too, and larger payloads
        if best is None:
            best = Frame(mode=Mode.RAW, n_items=block.n_items, payload=raw, check=crc16(raw))
        return best

    def _missed(self, block: _Block, candidate: _Candidate) -> NDArray[np.bool_]:
        """Flat mask of the samples for which a decoder would break the promise."""
        if candidate.missed is None:
            candidate.missed = ~block.held | self._broken(block, candidate.recon.reshape(-1))
        return candidate.missed

    def _broken(self, block: _Block, flat: Indices) -> NDArray[np.bool_]:
        promise = self.header.promise
        if promise is Promise.LOSSLESS:
            # Where held, the index stands for the very bits of the sample.
            return np.asarray(flat != block.x.reshape(-1))
        if promise is Promise.LOSSY:
            return np.zeros(flat.shape, bool)
        values = self.values_of(flat)
        return ~samples_within(block.samples, values, self.header.max_error or 0.0)


def _leader(candidates: list[_Candidate]) -> _Candidate | None:
    return min(candidates, key=lambda candidate: len(candidate.payload), default=None)


def _pace(candidates: list[_Candidate]) -> Marks | None:
    """What a sample prior has to keep to beside the one that leads, if one does."""
    leader = _leader(candidates)
    return None if leader is None or leader.marks is None else close_behind(leader.marks)


def _mean_square(x: NDArray[np.float64]) -> float:
    return float(np.mean(np.square(x)))


def _size(frame: Frame) -> int:
    """Bytes of a frame's body."""
    if not frame.exceptions:
        return len(frame.payload)
    size = len(frame.exceptions)
    return len(pack_varint(size)) + size + len(frame.payload)
