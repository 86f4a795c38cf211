"""One channel of the classical codec in Python: the twin of ``code_channel`` in C.

Most channels are predicted and their residuals coded, as `classical_loop` does. What keeps to a
lattice, comes from few values or repeats itself takes other ways, which FORMAT.md, section 8.3,
describes: the residual is the number of a lattice's point, and a tally may code it.
"""

from __future__ import annotations

from edgeae.bitstream.classical_lattice import Lattice
from edgeae.bitstream.classical_loop import Walk, code_plain
from edgeae.bitstream.classical_mixture import Mixture
from edgeae.bitstream.classical_params import ChannelParams, Raster
from edgeae.bitstream.classical_tally import Tally
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.bitstream.varint import unzigzag, zigzag
from edgeae.errors import CorruptError

__all__ = ["code_channel"]

_MAX_RESIDUAL = 1 << 32
_MAX_REACH = 1 << 49


def code_channel(
    coder: RangeEncoder | RangeDecoder,
    samples: list[int] | int,
    reference: list[int] | None,
    params: ChannelParams,
    delta: int,
    raster: Raster,
) -> list[int]:
    """Code one channel; return what the reader sees.

    Args:
        coder: encoder, or decoder.
        samples: the samples to encode, or how many to decode.
        reference: reconstruction of the channel that helps to predict.
        params: the channel's parameters.
        delta: odd step of the residual.
        raster: the pictures' size.

    Raises:
        CorruptError: the decoder's bytes are damaged.
    """
    if not params.has_tools:
        return code_plain(coder, samples, reference, params, delta, raster)
    lattice = Lattice(params.pitch, params.pitch_bits, params.phase) if params.pitch else None
    step = (lattice.scaled + 32768) >> 16 if lattice else delta
    per_bin = (256 * 65536 + step // 2) // step
    walk = Walk(reference, params, delta, raster, step)
    residuals, rests = _Residuals(coder, params), _Rests(coder)
    origin = walk.center if params.phase < 0 else 0
    for t in range(samples if isinstance(samples, int) else len(samples)):
        c0 = walk.expect()[0]
        sample = None if isinstance(samples, int) else samples[t]
        first = 0
        if lattice:
            if t and params.phase < 0:
                origin = walk.recon[-1]
            first = lattice.number(c0 - origin)
            c0 = origin + lattice.point(first)
        frac = walk.mean - 16 * (c0 - walk.origin)
        phi = (min(max(frac, -8 * step), 8 * step) * per_bin + 32768) >> 16
        if lattice is None:
            k = residuals.code(None if sample is None else walk.nearest(sample), phi)
            r = c0 + k * delta
        else:
            number = None if sample is None else lattice.number(sample - origin)
            k = residuals.code(None if number is None else number - first, phi)
            beside = 0
            if sample is not None and number is not None:
                beside = _nearest(sample - origin - lattice.point(number), delta)
            beside = rests.code(beside)
            if abs(first + k) > _MAX_REACH // lattice.scaled:
                raise CorruptError("a lattice point of the classical codec is out of range")
            r = origin + lattice.point(first + k) + beside * delta
        walk.take_sample(r, k, residuals.mixture.sizes[1])
    return walk.recon


def _nearest(gap: int, delta: int) -> int:
    size = (abs(gap) + (delta - 1) // 2) // delta
    return -size if gap < 0 else size


class _Residuals:
    """How residuals are coded: by a tally, and by the mixture what it does not know."""

    def __init__(self, coder: RangeEncoder | RangeDecoder, params: ChannelParams) -> None:
        self.coder, self.shift = coder, params.tally - 1
        self.tally = Tally() if params.tally else None
        self.mixture = Mixture(2 * params.start if params.tally else params.start)

    def code(self, k: int | None, phi: int) -> int:
        """Code a residual, or read one; its mean lies ``phi / 4096`` steps past the centre."""
        if self.tally is None:
            self.mixture.prepare(phi, None)
            return self._mixed(k)
        symbol = self._tallied(self.tally, None if k is None else k >> self.shift)
        if abs(symbol) > _MAX_RESIDUAL >> self.shift:
            raise CorruptError("a residual of the classical codec is out of range")
        if isinstance(self.coder, RangeEncoder):
            assert k is not None
            self.coder.bits(k - (symbol << self.shift), self.shift)
            return k
        return (symbol << self.shift) + self.coder.bits(self.shift)

    def _tallied(self, tally: Tally, symbol: int | None) -> int:
        if isinstance(self.coder, RangeEncoder):
            assert symbol is not None
            if not tally.encode(self.coder, symbol):
                self.mixture.prepare(0, None)
                self.mixture.encode(self.coder, symbol)
            return symbol
        known = tally.decode(self.coder)
        if known is None:
            self.mixture.prepare(0, None)
            known = self.mixture.decode(self.coder)
            tally.learn(known)
        return known

    def _mixed(self, k: int | None) -> int:
        if isinstance(self.coder, RangeEncoder):
            assert k is not None
            self.mixture.encode(self.coder, k)
            return k
        return self.mixture.decode(self.coder)


class _Rests:
    """How far samples lie beside a lattice, in steps of the quantizer."""

    def __init__(self, coder: RangeEncoder | RangeDecoder) -> None:
        self.coder, self.tally = coder, Tally()

    def code(self, rest: int) -> int:
        """Code a rest, or read one."""
        if isinstance(self.coder, RangeEncoder):
            if not self.tally.encode(self.coder, rest):
                self.coder.golomb(zigzag(rest), 2)
            return rest
        known = self.tally.decode(self.coder)
        if known is None:
            known = unzigzag(self.coder.golomb(2))
            self.tally.learn(known)
        return known
