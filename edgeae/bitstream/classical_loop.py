"""The classical codec's coding loop in Python: the twin of ``native/classical.c``.

FORMAT.md, section 8, describes what happens here. One channel after the other: a base predictor, an
adaptive filter on top of it, and a mixture of three adaptive scales that codes the residual. All
integers; Python's do not overflow, and the limits that keep the C twin from overflowing are part of
the format.
"""

from __future__ import annotations

from edgeae.bitstream.classical_mixture import Mixture
from edgeae.bitstream.classical_params import INDEX_LIMIT, PLANAR, ChannelParams, Raster
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.errors import CorruptError

__all__ = ["BOOK", "FILTER_LENGTH", "FILTER_RATE", "SINE", "Walk", "code_plain"]

BOOK = (
    (32768,),
    (16384, 16384),
    (8192, 8192, 8192, 8192),
    (65536, -32768),
    (43690, 10923, -21845),
    (32768, 16384, 0, -16384),
    (21845, 15292, 8738, 2185, -4369, -10923),
    (16384, 12873, 9362, 5851, 2341, -1170, -4681, -8192),
    (98304, -98304, 32768),
    (73728, -24576, -40960, 24576),
    (49152, 9830, -13107, -19661, -9830, 16384),
    (36863, 15799, 585, -8777, -12288, -9947, -1755, 12288),
    (24577, 15639, 8192, 2234, -2234, -5213, -6703, -6703, -5213, -2234, 2234, 8192),
    (131072, -196608, 131072, -32768),
    (163840, -327680, 327680, -163840, 32768),
    (196608, -491520, 655360, -491520, 196608, -32768),
)
"""Polynomials of degree 0 to 5, fitted by least squares to the last 1 to 12 samples; Q15."""
SINE = (
    *(0, 804, 1608, 2411, 3212, 4011, 4808, 5602, 6393, 7180, 7962, 8740, 9512),
    *(10279, 11039, 11793, 12540, 13279, 14010, 14733, 15447, 16151, 16846, 17531, 18205, 18868),
    *(19520, 20160, 20788, 21403, 22006, 22595, 23170, 23732, 24279, 24812, 25330, 25833, 26320),
    *(26791, 27246, 27684, 28106, 28511, 28899, 29269, 29622, 29957, 30274, 30572, 30853, 31114),
    *(31357, 31581, 31786, 31972, 32138, 32286, 32413, 32522, 32610, 32679, 32729, 32758),
)
"""Q15 of sin(pi / 2 * i / 64)."""
FILTER_LENGTH = (4, 8, 16, 32)
FILTER_RATE = (4, 5, 6, 8)

_PLANAR_TAPS = 6
_REFERENCE_TAPS = 4


def _clip(value: int, limit: int) -> int:
    return -limit if value < -limit else min(value, limit)


def _step_up(reflection: tuple[int, ...]) -> list[int]:
    """From reflection coefficients to the filter's, all in Q15."""
    coef: list[int] = []
    for q in reflection:
        r = SINE[q] if q >= 0 else -SINE[-q]
        coef = [
            *(_clip(a - ((r * b + 16384) >> 15), 1 << 26) for a, b in zip(coef, reversed(coef))),  # noqa: B905
            r,
        ]
    return coef


class _Filter:
    """A normalised least-mean-squares filter on the latest differences."""

    def __init__(self, params: ChannelParams, delta: int) -> None:
        length, rate = divmod(params.filter - 1, 4)
        self.own = _PLANAR_TAPS if params.base == PLANAR else FILTER_LENGTH[length]
        self.rate = FILTER_RATE[rate]
        self.inputs = [0] * (
            self.own + (_REFERENCE_TAPS if params.reference >= 0 or params.lag else 0)
        )
        self.weights = [0] * len(self.inputs)
        self.floor = (delta * delta >> 10) + 1

    def push(self, value: int) -> None:
        self.inputs[: self.own] = [_clip(value, 1 << 24), *self.inputs[: self.own - 1]]

    def push_reference(self, value: int) -> None:
        self.inputs[self.own :] = [_clip(value, 1 << 24), *self.inputs[self.own : -1]]

    def predict(self) -> int:
        total = sum(w * v for w, v in zip(self.weights, self.inputs, strict=True))
        return (total + 2048) >> 12

    def learn(self, error: int, limit: int) -> None:
        error = _clip(_clip(error, limit), 1 << 30)
        energy = sum(v * v for v in self.inputs)
        g = min((abs(error) << 20) // (energy + self.floor), 1 << 36)
        g = -g if error < 0 else g
        half, shift = 1 << (7 + self.rate), 8 + self.rate
        self.weights = [
            _clip(w + ((g * v + half) >> shift), 1 << 21)
            for w, v in zip(self.weights, self.inputs, strict=True)
        ]


def _look_around(r: list[int], t: int, raster: Raster) -> tuple[int, ...]:
    """Neighbours of pixel t: west, north, north-west, north-east, west-west, north-north."""
    width = raster.width
    col, row = t % width, t // width % raster.height
    w = r[t - 1] if col else r[t - width] if row else 0
    n = r[t - width] if row else w
    nw = r[t - width - 1] if row and col else n
    ne = r[t - width + 1] if row and col + 1 < width else n
    ww = r[t - 2] if col > 1 else w
    nn = r[t - 2 * width] if row > 1 else n
    return w, n, nw, ne, ww, nn


def _near_size(sizes: list[int], t: int, raster: Raster) -> int | None:
    """Mean |k| of the coded neighbours in 1/65536; None at the first pixel."""
    width = raster.width
    col, row = t % width, t // width % raster.height
    total = n = 0
    if col:
        total, n = 2 * sizes[t - 1], 2
    if row:
        total, n = total + 2 * sizes[t - width], n + 2
        if col:
            total, n = total + sizes[t - width - 1], n + 1
        if col + 1 < width:
            total, n = total + sizes[t - width + 1], n + 1
    return (total << 16) // n if n else None


class Walk:
    """Prediction along one channel: expect a sample, be told its residual, go on.

    Attributes:
        recon: what the reader sees so far.
        sizes: |k| of every sample so far.
    """

    def __init__(
        self,
        reference: list[int] | None,
        params: ChannelParams,
        delta: int,
        raster: Raster,
        step: int | None = None,
    ) -> None:
        self.reference, self.delta, self.raster, self.lag = reference, delta, raster, params.lag
        self.step = step or delta  # of the residuals that the filter learns from
        self.center, self.gain = params.center_index(delta), params.gain
        self.planar = params.base == PLANAR
        self.coef = list(BOOK[params.base]) if params.base < 16 else _step_up(params.reflection)
        self.past = [0] * len(self.coef)
        self.adaptive = _Filter(params, self.step) if params.filter else None
        self.recon: list[int] = []
        self.sizes: list[int] = []
        self.rest: list[int] = []  # the samples less what the centre and the reference foretell
        self.origin = self.mean = self.c0 = 0

    def expect(self) -> tuple[int, int, int | None]:
        """The next sample's centre, how far past it the mean lies, and the size nearby."""
        t, reference, near_size = len(self.recon), self.reference, None
        origin = self.center
        if self.lag and t >= self.lag:
            origin += (self.gain * (self.recon[t - self.lag] - self.center) + 4) >> 3
        if reference is not None and self.gain:
            origin += (self.gain * reference[t] + 4) >> 3
        if self.planar:
            around = _look_around(self.rest, t, self.raster)
            w, n, nw = around[:3]
            low, high = min(w, n), max(w, n)
            base = low if nw >= high else high if nw <= low else w + n - nw
            near_size = _near_size(self.sizes, t, self.raster)
            if self.adaptive:
                self.adaptive.inputs[:_PLANAR_TAPS] = [_clip(v - base, 1 << 24) for v in around]
            mean = 16 * base
        else:
            mean = (sum(a * y for a, y in zip(self.coef, self.past, strict=True)) + 1024) >> 11
        if self.adaptive:
            if self.lag:
                first = t - self.lag
                change = self.recon[first] - self.recon[first - 1] if first > 0 else 0
                self.adaptive.push_reference(change)
            elif reference is not None:
                self.adaptive.push_reference(reference[t] - reference[t - 1] if t else 0)
            mean += self.adaptive.predict()
        c0 = _clip(origin + ((mean + 8) >> 4), INDEX_LIMIT)
        self.origin, self.mean, self.c0 = origin, mean, c0
        return c0, _clip(mean - 16 * (c0 - origin), 8), near_size

    def nearest(self, sample: int) -> int:
        """The residual k that brings the next sample closest."""
        gap, half = sample - self.c0, (self.delta - 1) // 2
        return -((half - gap) // self.delta) if gap < 0 else (gap + half) // self.delta

    def take(self, k: int, usual_size: int) -> None:
        """Learn from the residual; ``usual_size`` is the mixture's second size after it.

        Raises:
            CorruptError: the sample is out of range.
        """
        self.take_sample(self.c0 + k * self.delta, k, usual_size)

    def take_sample(self, r: int, k: int, usual_size: int) -> None:
        """Learn from the sample, as `take` does.

        Raises:
            CorruptError: the sample is out of range.
        """
        if not -(1 << 31) <= r < 1 << 31:
            raise CorruptError("a sample of the classical codec is out of range")
        now = r - self.origin
        self.recon.append(r)
        self.rest.append(now)
        self.sizes.append(abs(k))
        if self.adaptive:
            limit = ((3 * usual_size + 19661) * self.step) >> 12
            self.adaptive.learn(16 * now - self.mean, limit)
            if not self.planar:
                self.adaptive.push(now - self.rest[-2] if len(self.rest) > 1 else 0)
        if not self.planar:
            self.past = [_clip(now, 1 << 32), *self.past[:-1]]


def code_plain(
    coder: RangeEncoder | RangeDecoder,
    samples: list[int] | int,
    reference: list[int] | None,
    params: ChannelParams,
    delta: int,
    raster: Raster,
) -> list[int]:
    """Code one channel without a lattice, a tally or a lag; return what the reader sees.

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
    per_bin = (256 * 65536 + delta // 2) // delta
    walk, mixture = Walk(reference, params, delta, raster), Mixture(params.start)
    for t in range(samples if isinstance(samples, int) else len(samples)):
        _, frac, near_size = walk.expect()
        mixture.prepare((frac * per_bin + 32768) >> 16, near_size)
        if isinstance(samples, int):
            assert isinstance(coder, RangeDecoder)
            k = mixture.decode(coder)
        else:
            assert isinstance(coder, RangeEncoder)
            k = walk.nearest(samples[t])
            mixture.encode(coder, k)
        walk.take(k, mixture.sizes[1])
    return walk.recon
