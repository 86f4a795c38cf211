"""What an encoder of the classical codec chooses for each channel, and how it is coded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.bitstream.varint import unzigzag, zigzag
from edgeae.errors import CorruptError

__all__ = [
    "INDEX_LIMIT",
    "MAX_SHIFT",
    "PLANAR",
    "ChannelParams",
    "Raster",
    "read_params",
    "write_params",
]

INDEX_LIMIT = 1 << 30
MAX_SHIFT = 28
"""Most low bits that a tally does not see."""
_MAX_LAG = 1 << 25
_MAX_PITCH_BITS = 16
PLANAR = 32
"""The base predictor for pictures."""


class ChannelParams(NamedTuple):
    """What an encoder chose for one channel.

    Attributes:
        base: 0..15 an entry of `BOOK`, 15 + p a linear predictor of order p, or `PLANAR`.
        filter: 0 for none, else 1 + 4 * (place in `FILTER_LENGTH`) + (place in `FILTER_RATE`).
        reference: the channel that helps to predict, -1 for none.
        start: first guess of the residual's size: ``2 ** (start - 3)`` steps; with a tally, of
            symbols that are new to it, ``2 ** (2 * start - 3)``.
        center: in steps of delta; of 1 with a linear predictor or a lattice.
        gain: eighths of the reference that are subtracted before all else, -32..31.
        reflection: p reflection coefficients ``sin(pi / 2 * q / 64)``, q in -63..63.
        pitch: distance of a lattice's points in ``2 ** -pitch_bits`` indices, 0 for no lattice.
        pitch_bits: 0..16.
        phase: a point of the lattice, likewise; -1 for one that goes through the sample before.
        tally: 0 for none, else 1 + the low bits that it does not see.
        lag: the channel itself, so many steps ago, is the reference; 0 for none.
    """

    base: int
    filter: int = 0
    reference: int = -1
    start: int = 3
    center: int = 0
    gain: int = 0
    reflection: tuple[int, ...] = ()
    pitch: int = 0
    pitch_bits: int = 0
    phase: int = -1
    tally: int = 0
    lag: int = 0

    @property
    def has_tools(self) -> bool:
        """Whether there is a lattice, a tally or a lag."""
        return self.pitch > 0 or self.tally > 0 or self.lag > 0

    def center_index(self, delta: int) -> int:
        """The centre as a grid index; linear predictors and lattices want its full precision."""
        return self.center * (1 if 15 < self.base < PLANAR or self.pitch else delta)


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
    if not planar:
        encoder.bits(params.has_tools, 1)
        if params.has_tools:
            _write_tools(encoder, params)
    for i, q in enumerate(params.reflection):
        if i < 2:
            encoder.bits(q + 64, 7)
        else:
            encoder.golomb(zigzag(q), 3)


def _write_tools(encoder: RangeEncoder, params: ChannelParams) -> None:
    encoder.bits(params.pitch > 0, 1)
    if params.pitch:
        n = params.pitch.bit_length() - 1
        encoder.bits(params.pitch_bits, 5)
        encoder.bits(n, 5)
        encoder.bits(params.pitch, n)
        encoder.bits(params.phase < 0, 1)
        if params.phase >= 0:
            encoder.bits(params.phase, n + 1)
    encoder.bits(params.tally > 0, 1)
    if params.tally:
        encoder.bits(params.tally - 1, 5)
    encoder.bits(params.lag > 0, 1)
    if params.lag:
        encoder.golomb(params.lag - 1, 8)
        encoder.bits(params.gain + 32, 6)


def _read_tools(decoder: RangeDecoder, params: ChannelParams) -> ChannelParams:
    if decoder.bits(1):
        bits, n = decoder.bits(5), decoder.bits(5)
        if bits > _MAX_PITCH_BITS or n > 29:
            raise CorruptError("a lattice of the classical codec is out of range")
        pitch = decoder.bits(n) | 1 << n
        if not pitch >> bits:
            raise CorruptError("a lattice of the classical codec is finer than the grid")
        phase = -1 if decoder.bits(1) else decoder.bits(n + 1)
        params = params._replace(pitch=pitch, pitch_bits=bits, phase=phase)
    if decoder.bits(1):
        params = params._replace(tally=1 + decoder.bits(5))
        if params.tally > 1 + MAX_SHIFT:
            raise CorruptError("a tally of the classical codec leaves out too many bits")
    if decoder.bits(1):
        lag = decoder.golomb(8) + 1
        if lag > _MAX_LAG or params.reference >= 0:
            raise CorruptError("a channel of the classical codec has a lag that it must not have")
        params = params._replace(lag=lag, gain=decoder.bits(6) - 32)
    return params


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
    if base < PLANAR and decoder.bits(1):
        params = _read_tools(decoder, params)
    reflection = []
    for i in range(base - 15 if base < PLANAR else 0):
        q = decoder.bits(7) - 64 if i < 2 else unzigzag(decoder.golomb(3))
        if abs(q) > 63:
            raise CorruptError("a reflection coefficient is out of range")
        reflection.append(q)
    if abs(params.center_index(delta)) > INDEX_LIMIT + delta:
        raise CorruptError("a channel's centre is out of range")
    return params._replace(reflection=tuple(reflection))
