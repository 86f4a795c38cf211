"""What an encoder of the classical codec chooses for each channel, and how it is coded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.bitstream.varint import unzigzag, zigzag
from edgeae.errors import CorruptError

__all__ = ["INDEX_LIMIT", "PLANAR", "ChannelParams", "Raster", "read_params", "write_params"]

INDEX_LIMIT = 1 << 30
PLANAR = 32
"""The base predictor for pictures."""


class ChannelParams(NamedTuple):
    """What an encoder chose for one channel.

    Attributes:
        base: 0..15 an entry of `BOOK`, 15 + p a linear predictor of order p, or `PLANAR`.
        filter: 0 for none, else 1 + 4 * (place in `FILTER_LENGTH`) + (place in `FILTER_RATE`).
        reference: the channel that helps to predict, -1 for none.
        start: first guess of the residual's size: ``2 ** (start - 3)`` steps.
        center: in steps of delta; of 1 with a linear predictor.
        gain: eighths of the reference that are subtracted before all else, -32..31.
        reflection: p reflection coefficients ``sin(pi / 2 * q / 64)``, q in -63..63.
    """

    base: int
    filter: int = 0
    reference: int = -1
    start: int = 3
    center: int = 0
    gain: int = 0
    reflection: tuple[int, ...] = ()

    def center_index(self, delta: int) -> int:
        """The centre as a grid index; a linear predictor wants it to full precision."""
        return self.center * (1 if 15 < self.base < PLANAR else delta)


@dataclass(frozen=True)
class Raster:
    """Width and height of the pictures that the steps scan, row by row; 0 and 0 for a series."""

    width: int = 0
    height: int = 0


def write_params(
    encoder: RangeEncoder, params: ChannelParams, channel: int, raster: Raster
) -> None:
    """Code a channel's parameters, before its samples."""
    planar = params.base == PLANAR
    if raster.width:
        encoder.bits(planar, 1)
    if not planar:
        encoder.bits(params.base, 5)
    encoder.bits(params.filter, 4)
    if channel > 0:
        encoder.bits(params.reference >= 0, 1)
        if params.reference >= 0:
            if channel > 1:
                encoder.golomb(channel - 1 - params.reference, 0)
            encoder.bits(params.gain + 32, 6)
    encoder.bits(params.start, 4)
    encoder.golomb(zigzag(params.center), 6)
    for i, q in enumerate(params.reflection):
        if i < 2:
            encoder.bits(q + 64, 7)
        else:
            encoder.golomb(zigzag(q), 3)


def read_params(decoder: RangeDecoder, channel: int, delta: int, raster: Raster) -> ChannelParams:
    """Read a channel's parameters.

    Raises:
        CorruptError: a parameter is out of range.
    """
    base = PLANAR if raster.width and decoder.bits(1) else decoder.bits(5)
    params = ChannelParams(base=base, filter=decoder.bits(4))
    if channel > 0 and decoder.bits(1):
        back = decoder.golomb(0) if channel > 1 else 0
        if back >= channel:
            raise CorruptError("a channel refers to a channel that does not come before it")
        params = params._replace(reference=channel - 1 - back, gain=decoder.bits(6) - 32)
    params = params._replace(start=decoder.bits(4), center=unzigzag(decoder.golomb(6)))
    reflection = []
    for i in range(base - 15 if base < PLANAR else 0):
        q = decoder.bits(7) - 64 if i < 2 else unzigzag(decoder.golomb(3))
        if abs(q) > 63:
            raise CorruptError("a reflection coefficient is out of range")
        reflection.append(q)
    if abs(params.center_index(delta)) > INDEX_LIMIT + delta:
        raise CorruptError("a channel's centre is out of range")
    return params._replace(reflection=tuple(reflection))
