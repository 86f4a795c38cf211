"""Decoding, frame by frame: indices by mode, the check, the cast, the exceptions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgeae.bitstream.classical import decode_classical
from edgeae.bitstream.crc import crc16, sample_check
from edgeae.bitstream.frame import Frame, Mode
from edgeae.bitstream.header import MAX_STEP, Promise
from edgeae.bitstream.levels import decode_levels
from edgeae.bitstream.plain import decode_constant, decode_raw, split_ulps, unpack_exceptions
from edgeae.bitstream.recall import decode_recall
from edgeae.bitstream.varint import unpack_varint
from edgeae.errors import CorruptError, TruncatedError
from edgeae.runtime.any_prior import AnyPrior, decode_samples
from edgeae.runtime.latent_prior import decode_latents, step_condition
from edgeae.runtime.transform import n_steps, synthesise
from edgeae.signal.ulps import move_ulps
from edgeae.tasks.fine import FIRST_VARIANT, FineCode
from edgeae.tasks.setup import FrameSetup, Indices, Samples

__all__ = ["FrameDecoder"]


class FrameDecoder(FrameSetup):
    """Decodes the frames of one stream."""

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
        return self.shaped(samples, frame.n_items)

    def _decode_indices(
        self, mode: Mode, variant: int, frames: list[Frame]
    ) -> tuple[list[Indices], list[int | None]]:
        """Grid indices of frames of one mode, and the check of what it counts, if not of them."""
        shapes = [self.segments(frame.n_items) for frame in frames]
        payloads = [frame.payload for frame in frames]
        none: list[int | None] = [None] * len(frames)
        channels, deltas, size = self.header.channels, self.header.deltas, self.header.image_size
        if mode in (Mode.CONSTANT, Mode.CLASSICAL, Mode.RECALL):

            def read(payload: bytes, n: int) -> Indices:
                if mode is Mode.CONSTANT:
                    return decode_constant(payload, n, channels, deltas if variant else None)
                if mode is Mode.RECALL and size is not None:
                    return decode_levels(payload, n, channels, size)
                if mode is Mode.RECALL:
                    return decode_recall(payload, n, channels, deltas)
                return decode_classical(payload, n, channels, deltas, image_size=size)

            pairs = zip(payloads, shapes, strict=True)
            return [read(payload, groups * length) for payload, (groups, length) in pairs], none
        if self.bundle is None:
            raise CorruptError("a frame of a stream without a model says it was coded with one")
        if mode is Mode.NEURAL and variant >= FIRST_VARIANT:
            if self.header.promise is not Promise.LOSSY or size is not None:
                raise CorruptError("a frame with a step of its own, where the stream fixes it")
            return FineCode(self.bundle).decode(payloads, shapes, variant), none
        if mode is Mode.NEURAL:
            symbols, recons = self._decode_window_code(payloads, shapes, own_steps=variant == 1)
            if not self.header.exact:
                return recons, [sample_check(y) for y in symbols]
            return recons, none
        if mode is Mode.NEURAL_PAST:
            prior = _pick(self.priors, variant)
            return decode_samples(prior, payloads, shapes, deltas, None), none
        prior = _pick(self.code_priors, variant)
        parts = [_split_residual(payload) for payload in payloads]
        _, codes = self._decode_code([latent for latent, _ in parts], shapes, self.header.step)
        residuals = [residual for _, residual in parts]
        return decode_samples(prior, residuals, shapes, deltas, codes), none

    def _decode_window_code(
        self, payloads: list[bytes], shapes: list[tuple[int, int]], *, own_steps: bool
    ) -> tuple[list[Indices], list[Indices]]:
        """Symbols and samples of frames at the header's step, or each at one of its own."""
        if not own_steps:
            return self._decode_code(payloads, shapes, self.header.step)
        pairs = [_split_step(payload) for payload in payloads]
        symbols: dict[int, Indices] = {}
        recons: dict[int, Indices] = {}
        for step in {step for step, _ in pairs}:
            numbers = [number for number, pair in enumerate(pairs) if pair[0] == step]
            found = self._decode_code(
                [pairs[number][1] for number in numbers],
                [shapes[number] for number in numbers],
                step,
            )
            symbols |= zip(numbers, found[0], strict=True)
            recons |= zip(numbers, found[1], strict=True)
        order = range(len(payloads))
        return [symbols[number] for number in order], [recons[number] for number in order]

    def _decode_code(
        self, payloads: list[bytes], shapes: list[tuple[int, int]], step: int
    ) -> tuple[list[Indices], list[Indices]]:
        """Symbols of the window code, and the samples they stand for."""
        bundle = self.model()
        if bundle.net is None or bundle.latent_prior is None or not step:
            raise CorruptError("a frame has a window code, and the bundle or the header has none")
        steps = [(groups, n_steps(bundle, length)) for groups, length in shapes]
        symbols = decode_latents(bundle.latent_prior, payloads, steps, step_condition(step))
        return symbols, synthesise(bundle, symbols, step, [length for _, length in shapes])

    def _finish(self, frame: Frame, indices: Indices, check: int | None) -> Samples:
        """Indices to samples; the check and the exceptions."""
        flat = indices.reshape(-1)
        positions, exceptions = None, None
        coded_ulps, runs = split_ulps(frame.exceptions)
        ulps = self._decode_ulps(coded_ulps, flat.size) if coded_ulps else None
        if runs:
            positions, exceptions = unpack_exceptions(runs, self.header.dtype, flat.size)
        if frame.check is not None:
            found = sample_check(flat, positions, ulps) if check is None else check
            if found != frame.check:
                raise CorruptError(
                    "the decoded samples differ from the encoder's: the model computes something "
                    "else on this machine, or the frame is damaged"
                )
        samples = self.values_of(flat)
        if ulps is not None:
            samples = move_ulps(samples, ulps)
        if positions is not None:
            samples[positions] = exceptions
        return self.shaped(samples, frame.n_items)

    def _decode_ulps(self, payload: bytes, n_samples: int) -> Indices:
        """How far samples lie beside the grid: coded as if they were indices."""
        channels, size = self.header.channels, self.header.image_size
        ulps = decode_classical(payload, n_samples // channels, channels, 1, image_size=size)
        return ulps.reshape(-1)


def _grouped(frames: Sequence[Frame]) -> dict[tuple[Mode, int], list[int]]:
    """Frame numbers by what decodes together."""
    groups: dict[tuple[Mode, int], list[int]] = {}
    for number, frame in enumerate(frames):
        groups.setdefault((frame.mode, frame.variant), []).append(number)
    return groups


def _pick(priors: list[AnyPrior], variant: int) -> AnyPrior:
    if variant >= len(priors):
        raise CorruptError(
            f"a frame was coded with sample prior {variant}, "
            f"the bundle has {len(priors)} for this step"
        )
    return priors[variant]


def _split_step(payload: bytes) -> tuple[int, bytes]:
    """A frame's own step, and the rest of its payload."""
    try:
        step, begin = unpack_varint(payload, 0)
    except TruncatedError as error:
        raise CorruptError("a frame with a step of its own is empty") from error
    if not 1 <= step <= MAX_STEP:
        raise CorruptError(f"a frame has step {step}; it must be in 1..{MAX_STEP}")
    return step, payload[begin:]


def _split_residual(payload: bytes) -> tuple[bytes, bytes]:
    try:
        size, begin = unpack_varint(payload, 0)
    except TruncatedError as error:
        raise CorruptError("a frame with a residual is empty") from error
    if size > len(payload) - begin:
        raise CorruptError(f"a window code of {size} bytes in a frame of {len(payload)}")
    return payload[begin : begin + size], payload[begin + size :]
