"""The codec, frame by frame: each frame in the smallest mode that keeps the stream's promise.

Encoding, in the order of this file::

    samples ──to indices──► grid indices + exceptions (what the grid cannot hold)
            ──candidates──► raw · constant · classical · neural · neural + residual · neural past
            ──choose──────► the smallest, its samples checked against the promise ──► Frame

A frame is checked on the samples a decoder will make of it, after the cast to the stream's dtype.
Samples that miss the promise all the same join the exceptions, which travel bit for bit.

Shapes: frames hold n items (time steps or images); inside they are segments int32 [G, T, C]: one
segment of T = n time steps, or G = n images of T = H * W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.bitstream.classical import decode_classical, encode_classical
from edgeae.bitstream.crc import crc16, sample_check
from edgeae.bitstream.frame import Frame, Mode
from edgeae.bitstream.header import Promise, StreamHeader
from edgeae.bitstream.plain import (
    decode_constant,
    decode_raw,
    encode_constant,
    encode_raw,
    pack_exceptions,
    unpack_exceptions,
)
from edgeae.bitstream.varint import pack_varint, unpack_varint
from edgeae.errors import CorruptError, ModelError, TruncatedError, WrongModelError
from edgeae.native import core
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.latent_prior import decode_latents, encode_latents, step_condition
from edgeae.runtime.manifest import NetSpec
from edgeae.runtime.sample_prior import SamplePrior, decode_samples, encode_samples
from edgeae.runtime.transform import analyse, n_steps, symbolize, synthesise
from edgeae.signal.lattice import Lattice

__all__ = ["FrameCodec", "frames_at_once", "lossy_delta", "lossy_rmse", "samples_within"]

_BATCH_FRAMES = 64
_BATCH_SAMPLES = 1 << 16 if core is not None else 1 << 20  # numpy's loops want company
_MAX_VARIANTS = 4

Samples = NDArray[Any]
Indices = NDArray[np.int32]


@dataclass(kw_only=True)
class _Block:
    """One frame's samples on their way in.

    samples: flat, in the stream's dtype. x: indices [G, T, C], exceptions bridged over.
    held: flat mask of the samples that the grid can hold.
    """

    n_items: int
    samples: Samples
    x: Indices
    held: NDArray[np.bool_]


@dataclass(kw_only=True)
class _Candidate:
    """A coded block. recon: what a decoder will get; None for raw. check: overrides recon's."""

    mode: Mode
    payload: bytes
    recon: Indices | None = None
    variant: int = 0
    check: int | None = None


def frames_at_once(frame_samples: int) -> int:
    """How many frames are worth handing to a codec at once; more gain nothing but use memory."""
    return max(1, min(_BATCH_FRAMES, _BATCH_SAMPLES // max(1, frame_samples)))


def lossy_rmse(net: NetSpec | None, step: int) -> float:
    """How far a lossy frame may be off: the bundle's limit, more for steps above the usual."""
    return math.inf if net is None else net.max_rmse * max(1.0, step / net.default_step)


def lossy_delta(max_rmse: float) -> int:
    """Largest odd step whose uniform error stays below an RMSE: sqrt((d^2 - 1) / 12) <= rmse.

    Example:
        >>> lossy_delta(0.5), lossy_delta(3.6)
        (1, 11)
    """
    delta = math.isqrt(int(min(12.0 * max_rmse * max_rmse + 1.0, float(1 << 58))))
    return max(1, delta - 1 + delta % 2)


class FrameCodec:
    """Codes and decodes the frames of one stream.

    Args:
        header: the stream's header; everything that both sides must agree on is in it.
        bundle: the model that the header names, or None if it names none.

    Raises:
        WrongModelError: the header names another bundle.
        ModelError: the bundle does not fit the header's signal.
    """

    def __init__(self, header: StreamHeader, bundle: Bundle | None) -> None:
        found = b"" if bundle is None else bundle.fingerprint
        if header.fingerprint != found:
            if not header.fingerprint:
                bundle = None  # coded without a model: any bundle will do, for none is used
            else:
                raise WrongModelError(
                    f"the stream was coded with bundle {header.fingerprint.hex()}, "
                    + ("no bundle was given" if bundle is None else f"this one is {found.hex()}")
                )
        if bundle is not None:
            _check_signal(header, bundle)
        self.header = header
        self.bundle = bundle
        self._lattice = Lattice.of(header.grids)
        self._delta: int | tuple[int, ...] = header.channel_deltas or header.delta
        self._dtype = np.dtype(header.dtype)
        self._priors = self._matching_priors(False)
        self._code_priors = self._matching_priors(True)

    def _matching_priors(self, has_code: bool) -> list[SamplePrior]:
        """The sample priors that serve the stream's step; a frame's variant counts them."""
        if self.bundle is None:
            return []
        low, high = min(self.header.deltas), max(self.header.deltas)
        pairs = zip(self.bundle.sample_prior_ranges, self.bundle.sample_priors, strict=True)
        return [
            prior
            for spec, prior in pairs
            if spec.has_code == has_code and spec.delta_min <= low and high <= spec.delta_max
        ][:_MAX_VARIANTS]

    def _segments(self, n_items: int) -> tuple[int, int]:
        """(G, T) of a frame."""
        if self.header.image_size is None:
            return 1, n_items
        height, width = self.header.image_size
        return n_items, height * width

    # -- encoding --------------------------------------------------------------------------------

    def encode(self, blocks: Sequence[Samples]) -> list[Frame]:
        """Code one frame per block, each independent of the others.

        Args:
            blocks: arrays of n items each, n up to the header's frame length, in its dtype.
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
        coded = self._code_lossy if self.header.promise is Promise.LOSSY else self._code_bounded
        for number, found in zip(busy, coded([prepared[number] for number in busy]), strict=True):
            candidates[number] += found
        return [
            self._choose(block, found) for block, found in zip(prepared, candidates, strict=True)
        ]

    def _to_indices(self, samples: Samples) -> _Block:
        """Grid indices, and which samples they hold: exactly if lossless, else at all."""
        rows = np.ascontiguousarray(samples).reshape(-1, self.header.channels)
        index, held = self._lattice.to_index(rows)
        if self.header.promise is not Promise.LOSSLESS:
            held |= index != 0
            if not held.all():  # 0 stands for what rounds to it, and for what has no index
                with np.errstate(invalid="ignore"):
                    held |= np.abs(rows.astype(np.float64)) <= self._lattice.steps
        groups, length = self._segments(len(samples))
        x = index.reshape(groups, length, self.header.channels)
        if not held.all():
            x = _bridge(x, held.reshape(x.shape))
        return _Block(n_items=len(samples), samples=rows.reshape(-1), x=x, held=held.reshape(-1))

    def _constant(self, block: _Block) -> _Candidate | None:
        channels = self.header.channels
        deltas = (1,) if self.header.promise is Promise.LOSSY else self.header.deltas
        payload = encode_constant(block.x.reshape(-1, channels), np.array(deltas))
        if payload is None:
            return None
        recon = decode_constant(payload, block.x.size // channels, channels)
        return _Candidate(mode=Mode.CONSTANT, payload=payload, recon=recon.reshape(block.x.shape))

    def _code_bounded(self, blocks: list[_Block]) -> list[list[_Candidate]]:
        """Everything that keeps |x - x_hat| below the bound: classical and the sample priors."""
        found = [[self._classical(block)] for block in blocks]
        x = [block.x for block in blocks]
        for variant, prior in enumerate(self._priors):
            coded = encode_samples(prior, x, self._delta, None)
            for candidates, result in zip(found, coded, strict=True):
                if result is not None:
                    payload, recon = result
                    candidates.append(
                        _Candidate(
                            mode=Mode.NEURAL_PAST, payload=payload, recon=recon, variant=variant
                        )
                    )
        if self._code_priors and self.header.step and blocks:
            neural = self._neural(x)
            codes = [recon for _, recon, _ in neural]
            for variant, prior in enumerate(self._code_priors):
                coded = encode_samples(prior, x, self._delta, codes)
                for candidates, (latent, _, _), result in zip(found, neural, coded, strict=True):
                    if result is not None:
                        payload, recon = result
                        candidates.append(
                            _Candidate(
                                mode=Mode.NEURAL_RESIDUAL,
                                payload=pack_varint(len(latent)) + latent + payload,
                                recon=recon,
                                variant=variant,
                            )
                        )
        return found

    def _code_lossy(self, blocks: list[_Block]) -> list[list[_Candidate]]:
        """The window code; where it misses a frame by more than it may, the bounded modes.

        The classical mode also stands in where it is smaller and no worse: on quiet signals.
        """
        if not blocks:
            return []
        limit = lossy_rmse(self._model().net, self.header.step)
        found: list[list[_Candidate]] = [[] for _ in blocks]
        missed = []
        coded = self._neural([block.x for block in blocks])
        for number, (block, (payload, recon, check)) in enumerate(zip(blocks, coded, strict=True)):
            rmse = self._rmse(block, recon)
            if rmse > limit:
                missed.append(number)
                continue
            neural = _Candidate(mode=Mode.NEURAL, payload=payload, recon=recon, check=check)
            found[number].append(neural)
            near = rmse * math.sqrt(12.0) > 0.7 * self.header.delta  # else it would be worse
            if near and _looks_easy(block.x, self.header.delta, len(payload)):
                classical = self._classical(block)
                if classical.recon is not None and self._rmse(block, classical.recon) <= rmse:
                    found[number].append(classical)
        rescued = self._code_bounded([blocks[number] for number in missed])
        for number, candidates in zip(missed, rescued, strict=True):
            found[number] = candidates
        return found

    def _classical(self, block: _Block) -> _Candidate:
        x = block.x.reshape(-1, self.header.channels)
        payload, recon = encode_classical(x, self._delta, image_size=self.header.image_size)
        return _Candidate(mode=Mode.CLASSICAL, payload=payload, recon=recon.reshape(block.x.shape))

    def _neural(self, x: list[Indices]) -> list[tuple[bytes, Indices, int | None]]:
        """Latent payload, its reconstruction, and the check where the samples cannot serve."""
        bundle, step = self._model(), self.header.step
        prior = bundle.latent_prior
        if prior is None:
            raise ModelError(f"bundle {bundle.name!r} has no window code")
        symbols = [symbolize(latents, step) for latents in analyse(bundle, x)]
        payloads = encode_latents(prior, symbols, step_condition(step))
        recons = synthesise(bundle, symbols, step, [segments.shape[1] for segments in x])
        checks = [None if self.header.exact else sample_check(y) for y in symbols]
        return list(zip(payloads, recons, checks, strict=True))

    def _rmse(self, block: _Block, recon: Indices) -> float:
        """Root mean squared error in index units over the samples that the grid holds."""
        error = (block.x.reshape(-1) - recon.reshape(-1).astype(np.float64))[block.held]
        return math.sqrt(float(np.dot(error, error)) / max(error.size, 1))

    def _choose(self, block: _Block, candidates: list[_Candidate]) -> Frame:
        """The smallest candidate, exceptions included; raw where none is smaller than the samples.

        Usually every candidate has the same exceptions, and only the first is looked at closely.
        """
        raw = encode_raw(block.samples)
        best: Frame | None = None
        for candidate in sorted(candidates, key=lambda c: len(c.payload)):
            limit = len(raw) if best is None else _size(best)
            if len(candidate.payload) >= limit or candidate.recon is None:
                break
            missed = self._missed(block, candidate.recon)
            positions = np.flatnonzero(missed)
            exceptions = b""
            if positions.size:
                if positions.size + len(candidate.payload) >= limit and _all_differ(
                    block.samples[positions]
                ):
                    continue
                exceptions = pack_exceptions(positions, block.samples[positions])
            check = candidate.check
            if check is None:
                check = sample_check(candidate.recon, positions)
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

    def _missed(self, block: _Block, recon: Indices) -> NDArray[np.bool_]:
        """Flat mask of the samples for which a decoder would break the promise."""
        flat = recon.reshape(-1)
        promise = self.header.promise
        if promise is Promise.LOSSLESS:
            # Where held, the index stands for the very bits of the sample.
            return np.asarray(~block.held | (flat != block.x.reshape(-1)))
        if promise is Promise.LOSSY:
            return ~block.held
        values = self._values(flat)
        return ~(block.held & samples_within(block.samples, values, self.header.max_error or 0.0))

    # -- decoding --------------------------------------------------------------------------------

    def decode(self, frames: Sequence[Frame]) -> list[Samples]:
        """Samples of each frame, [n, C] or [n, H, W, C], checked against the frame's own check.

        Raises:
            CorruptError: a frame breaks a rule of the format, or its samples differ from the
                encoder's.
            ModelError: a frame needs a net that the bundle has not.
        """
        results: list[Samples | None] = [None] * len(frames)
        for key, numbers in _grouped(frames).items():
            mode, variant = key
            group = [frames[number] for number in numbers]
            if mode is Mode.RAW:
                decoded: Iterable[Samples] = map(self._decode_raw, group)
            else:
                indices, checks = self._decode_indices(mode, variant, group)
                decoded = map(self._finish, group, indices, checks)
            for number, samples in zip(numbers, decoded, strict=True):
                results[number] = samples
        return [samples for samples in results if samples is not None]

    def _decode_raw(self, frame: Frame) -> Samples:
        n_samples = frame.n_items * self.header.samples_per_item
        samples = decode_raw(frame.payload, self.header.dtype, n_samples)
        if frame.check is not None and frame.check != crc16(frame.payload):
            raise CorruptError("a raw frame's samples differ from its check")
        return self._shaped(samples, frame.n_items)

    def _decode_indices(
        self, mode: Mode, variant: int, frames: list[Frame]
    ) -> tuple[list[Indices], list[int | None]]:
        """Grid indices of frames of one mode, and the check of what it counts, if not of them."""
        shapes = [self._segments(frame.n_items) for frame in frames]
        payloads = [frame.payload for frame in frames]
        none: list[int | None] = [None] * len(frames)
        channels, delta, size = self.header.channels, self._delta, self.header.image_size
        if mode in (Mode.CONSTANT, Mode.CLASSICAL):
            read: Callable[[bytes, int], Indices] = (
                (lambda payload, n: decode_constant(payload, n, channels))
                if mode is Mode.CONSTANT
                else (
                    lambda payload, n: decode_classical(
                        payload, n, channels, delta, image_size=size
                    )
                )
            )
            pairs = zip(payloads, shapes, strict=True)
            return [read(payload, groups * length) for payload, (groups, length) in pairs], none
        if self.bundle is None:
            raise CorruptError("a frame of a stream without a model says it was coded with one")
        if mode is Mode.NEURAL:
            symbols, recons = self._decode_code(payloads, shapes)
            if not self.header.exact:
                return recons, [sample_check(y) for y in symbols]
            return recons, none
        if mode is Mode.NEURAL_PAST:
            prior = _pick(self._priors, variant)
            return decode_samples(prior, payloads, shapes, delta, None), none
        prior = _pick(self._code_priors, variant)
        parts = [_split_residual(payload) for payload in payloads]
        _, codes = self._decode_code([latent for latent, _ in parts], shapes)
        residuals = [residual for _, residual in parts]
        return decode_samples(prior, residuals, shapes, delta, codes), none

    def _decode_code(
        self, payloads: list[bytes], shapes: list[tuple[int, int]]
    ) -> tuple[list[Indices], list[Indices]]:
        """Symbols of the window code, and the samples they stand for."""
        bundle, step = self._model(), self.header.step
        if bundle.net is None or bundle.latent_prior is None or not step:
            raise CorruptError("a frame has a window code, and the bundle or the header has none")
        steps = [(groups, n_steps(bundle, length)) for groups, length in shapes]
        symbols = decode_latents(bundle.latent_prior, payloads, steps, step_condition(step))
        return symbols, synthesise(bundle, symbols, step, [length for _, length in shapes])

    def _finish(self, frame: Frame, indices: Indices, check: int | None) -> Samples:
        """Indices to samples; the check and the exceptions."""
        flat = indices.reshape(-1)
        positions, exceptions = None, None
        if frame.exceptions:
            positions, exceptions = unpack_exceptions(
                frame.exceptions, self.header.dtype, flat.size
            )
        if frame.check is not None:
            found = sample_check(flat, positions) if check is None else check
            if found != frame.check:
                raise CorruptError(
                    "the decoded samples differ from the encoder's: the model computes something "
                    "else on this machine, or the frame is damaged"
                )
        samples = self._values(flat)
        if positions is not None:
            samples[positions] = exceptions
        return self._shaped(samples, frame.n_items)

    def _values(self, flat: Indices) -> Samples:
        rows = flat.reshape(-1, self.header.channels)
        return self._lattice.to_values(rows, self._dtype).reshape(-1)

    def _shaped(self, samples: Samples, n_items: int) -> Samples:
        return samples.reshape(n_items, *(self.header.image_size or ()), self.header.channels)

    def _model(self) -> Bundle:
        if self.bundle is None:
            raise ModelError("this stream has no model, so no window code: give a bundle")
        return self.bundle


def _check_signal(header: StreamHeader, bundle: Bundle) -> None:
    spec = bundle.signal
    size = None
    if spec.is_image and spec.height is not None and spec.width is not None:
        size = (spec.height, spec.width)
    if (spec.channels, size) != (header.channels, header.image_size):
        raise ModelError(
            f"bundle {bundle.name!r} is made for {_signal_words(spec.channels, size)}, "
            f"the stream has {_signal_words(header.channels, header.image_size)}"
        )


def _signal_words(channels: int, size: tuple[int, int] | None) -> str:
    word = f"{channels} channel" + ("s" if channels != 1 else "")
    return word if size is None else f"images of {size[0]} x {size[1]} pixels, {word}"


def _bridge(x: Indices, held: NDArray[np.bool_]) -> Indices:
    """Give each sample that is not held the index of the last held one before it, or after it."""
    length = x.shape[1]
    steps = np.arange(length)[None, :, None]
    last = np.maximum.accumulate(np.where(held, steps, -1), axis=1)
    first = np.argmax(held, axis=1, keepdims=True)
    bridged: Indices = np.take_along_axis(x, np.where(last < 0, first, last), axis=1)
    return bridged


def samples_within(samples: Samples, values: Samples, max_error: float) -> NDArray[np.bool_]:
    """Where |samples - values| <= max_error, without a rounding or an overflow in between."""
    if samples.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(samples.astype(np.float64) - values.astype(np.float64))
            return np.asarray(error <= max_error)
    high, low = np.maximum(samples, values), np.minimum(samples, values)
    gap = high.astype(np.uint64) - low.astype(np.uint64)  # modulo 2^64, which is the difference
    return np.asarray(gap <= np.uint64(min(math.floor(max_error), 2**64 - 1)))


def _looks_easy(x: Indices, delta: int, n_bytes: int) -> bool:
    """Whether the classical mode may need fewer than ``n_bytes``: a cheap guess, to save time.

    Compares with a third of what the second differences would cost at step ``delta``.
    """
    bends = np.abs(np.diff(x.reshape(-1, x.shape[2]).astype(np.float64), 2, axis=0)) / delta
    return float(np.sum(np.log2(1.0 + bends))) / 24.0 < n_bytes


def _all_differ(samples: Samples) -> bool:
    """Whether no neighbouring samples are equal, so that a list of them cannot be run-length."""
    bits = samples.view(f"u{samples.dtype.itemsize}") if samples.dtype.kind == "f" else samples
    return not bool((bits[1:] == bits[:-1]).any())


def _size(frame: Frame) -> int:
    """Bytes of a frame's body."""
    if not frame.exceptions:
        return len(frame.payload)
    size = len(frame.exceptions)
    return len(pack_varint(size)) + size + len(frame.payload)


def _grouped(frames: Sequence[Frame]) -> dict[tuple[Mode, int], list[int]]:
    """Frame numbers by what decodes together."""
    groups: dict[tuple[Mode, int], list[int]] = {}
    for number, frame in enumerate(frames):
        groups.setdefault((frame.mode, frame.variant), []).append(number)
    return groups


def _pick(priors: list[SamplePrior], variant: int) -> SamplePrior:
    if variant >= len(priors):
        raise CorruptError(
            f"a frame was coded with sample prior {variant}, "
            f"the bundle has {len(priors)} for this step"
        )
    return priors[variant]


def _split_residual(payload: bytes) -> tuple[bytes, bytes]:
    try:
        size, begin = unpack_varint(payload, 0)
    except TruncatedError as error:
        raise CorruptError("a frame with a residual is empty") from error
    if size > len(payload) - begin:
        raise CorruptError(f"a window code of {size} bytes in a frame of {len(payload)}")
    return payload[begin : begin + size], payload[begin + size :]
