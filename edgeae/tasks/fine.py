"""The fine end of a lossy stream: frames by a sample prior, at a step that fits the stream's.

A window code has few latents. Below some step of theirs only the rate still grows, and what is left
of the error are details that the net cannot draw. A sample prior, with the window code before it or
alone, goes on from there, at every rate up to lossless: at the quantizer step at which one more bit
buys as much as the window code's training gave for it.

::

    step of the stream ──► worth of a bit ──► delta ──► window code + residual, or the past alone
                                                └─► delta, payload      (mode 3, variant 2 or 3)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeae.bitstream.varint import pack_varint, unpack_varint
from edgeae.errors import CorruptError, TruncatedError
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.latent_prior import decode_latents, encode_latents, step_condition
from edgeae.runtime.sample_prior import SamplePrior, decode_samples, encode_samples
from edgeae.runtime.transform import analyse, n_steps, symbolize, synthesise
from edgeae.tasks.search import worth_of_a_bit

__all__ = ["FIRST_VARIANT", "FineCode", "FineFrame", "fine_delta"]

Indices = NDArray[np.int32]

FIRST_VARIANT = 2
"""Frames of mode 3 are fine from this variant on."""

_ERROR_PER_BIT = math.log(2) / 6  # squared error that a bit saves, of a quantizer of step 1
_WITH_CODE, _PAST_ALONE = FIRST_VARIANT, FIRST_VARIANT + 1  # a frame's variant


@dataclass(frozen=True, kw_only=True)
class FineFrame:
    """A coded frame: payload, the indices that a decoder will get [G, T, C], variant of mode 3."""

    payload: bytes
    recon: Indices
    variant: int


def fine_delta(bundle: Bundle, step: int) -> int | None:
    """Quantizer step of the samples that goes with a step of the latents.

    Returns:
        An odd number; None where the window code alone serves: at the bundle's usual step and
        above, for images, and where no sample prior takes such a step.
    """
    net = bundle.net
    if net is None or not bundle.manifest.exact or bundle.signal.is_image:
        return None
    worth = worth_of_a_bit(bundle, step)
    if worth is None or step >= net.default_step:
        return None
    delta = 2 * round((math.sqrt(worth / _ERROR_PER_BIT) - 1) / 2) + 1
    return delta if any(FineCode(bundle).priors(delta)) else None


class FineCode:
    """Codes and decodes frames of series by the sample priors of an exact bundle.

    Args:
        bundle: the model.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def priors(self, delta: int) -> Iterator[tuple[int, SamplePrior, int]]:
        """Variant, prior and step of the window code, of what takes a quantizer step.

        Of each variant it is the first that the bundle has.
        """
        net = self._bundle.net
        pairs = zip(self._bundle.sample_prior_ranges, self._bundle.sample_priors, strict=True)
        seen = set()
        for spec, prior in pairs:
            variant = _WITH_CODE if spec.has_code else _PAST_ALONE
            if variant in seen or not spec.delta_min <= delta <= spec.delta_max:
                continue
            if isinstance(prior, SamplePrior) and net is not None:
                seen.add(variant)
                yield variant, prior, spec.step or net.default_step

    def encode(self, x: Sequence[Indices], delta: int) -> list[list[FineFrame]]:
        """Code frames of grid indices, int32 [G, T, C], in all the ways there are."""
        found: list[list[FineFrame]] = [[] for _ in x]
        head = pack_varint(delta)
        for variant, prior, step in self.priors(delta):
            heads, codes = [head] * len(x), None
            if variant == _WITH_CODE:
                latent_prior = self._bundle.latent_prior
                assert latent_prior is not None
                symbols = [symbolize(y, step) for y in analyse(self._bundle, x)]
                latents = encode_latents(latent_prior, symbols, step_condition(step))
                codes = synthesise(self._bundle, symbols, step, [each.shape[1] for each in x])
                heads = [head + pack_varint(len(latent)) + latent for latent in latents]
            coded = encode_samples(prior, x, delta, codes)
            for frames, begin, result in zip(found, heads, coded, strict=True):
                if result is not None:
                    payload, recon = begin + result[0], result[1]
                    frames.append(FineFrame(payload=payload, recon=recon, variant=variant))
        return found

    def decode(
        self, payloads: Sequence[bytes], shapes: Sequence[tuple[int, int]], variant: int
    ) -> list[Indices]:
        """Read the payloads of frames of one variant.

        Args:
            payloads: the frames' bytes.
            shapes: G and T of each frame, bounded by the caller.
            variant: of all of them.

        Raises:
            CorruptError: a payload is damaged, or no prior takes its quantizer step.
        """
        return [self._decode(*pair, variant) for pair in zip(payloads, shapes, strict=True)]

    def _decode(self, payload: bytes, shape: tuple[int, int], variant: int) -> Indices:
        delta, payload = _split(payload, "quantizer step")
        fitting = [found[1:] for found in self.priors(delta) if found[0] == variant]
        if not fitting or delta % 2 == 0:
            raise CorruptError(
                f"a frame has quantizer step {delta}, for which the bundle has no sample prior"
            )
        prior, step = fitting[0]
        codes = None
        if variant == _WITH_CODE:
            size, payload = _split(payload, "window code")
            if size > len(payload):
                raise CorruptError(f"a window code of {size} bytes in a frame of {len(payload)}")
            latent_prior = self._bundle.latent_prior
            if latent_prior is None:
                raise CorruptError("a frame has a window code, and the bundle has none")
            counts = [(shape[0], n_steps(self._bundle, shape[1]))]
            symbols = decode_latents(latent_prior, [payload[:size]], counts, step_condition(step))
            codes = synthesise(self._bundle, symbols, step, [shape[1]])
            payload = payload[size:]
        return decode_samples(prior, [payload], [shape], delta, codes)[0]


def _split(payload: bytes, what: str) -> tuple[int, bytes]:
    """A number at the beginning, and the rest."""
    try:
        value, begin = unpack_varint(payload, 0)
    except TruncatedError as error:
        raise CorruptError(f"a frame ends before its {what}") from error
    return value, payload[begin:]
