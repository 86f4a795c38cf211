"""The classical codec's coding loop in Python: the twin of ``native/classical.c``.

FORMAT.md, section 8, describes what happens here. One channel after the other: a base predictor, an
adaptive filter on top of it, and a mixture of three adaptive scales that codes the residual. All
integers; Python's do not overflow, and the limits that keep the C twin from overflowing are part of
the format.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeae.bitstream.cdf import logistic_shape
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.bitstream.varint import unzigzag, zigzag
from edgeae.errors import CorruptError

__all__ = [
    "BOOK",
    "FILTER_LENGTH",
    "FILTER_RATE",
    "PLANAR",
    "SINE",
    "ChannelParams",
    "Raster",
    "code_channel",
    "read_params",
    "write_params",
]

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
    (65535, -4681, -28087, -21065, 0, 18725, 18725, -16384),
    (
        *(32769, 16384, 4681, -2971, -7202, -8642, -7922, -5671),
        *(-2521, 900, 3961, 6031, 6482, 4681, 0, -8192),
    ),
)
"""Polynomials of degree 0 to 3, fitted by least squares to the last 1 to 16 samples; Q15."""
SINE = (
    *(0, 804, 1608, 2411, 3212, 4011, 4808, 5602, 6393, 7180, 7962, 8740, 9512),
    *(10279, 11039, 11793, 12540, 13279, 14010, 14733, 15447, 16151, 16846, 17531, 18205, 18868),
    *(19520, 20160, 20788, 21403, 22006, 22595, 23170, 23732, 24279, 24812, 25330, 25833, 26320),
    *(26791, 27246, 27684, 28106, 28511, 28899, 29269, 29622, 29957, 30274, 30572, 30853, 31114),
    *(31357, 31581, 31786, 31972, 32138, 32286, 32413, 32522, 32610, 32679, 32729, 32758),
)
"""Q15 of sin(pi / 2 * i / 64)."""
PLANAR = 32
"""The base predictor for pictures."""
FILTER_LENGTH = (4, 8, 16, 32)
FILTER_RATE = (4, 5, 6, 8)

_PLANAR_TAPS = 6
_REFERENCE_TAPS = 4
_LEVEL_STARTS = (
    *(18, 29, 38, 47, 55, 63, 69, 75, 81, 86, 91, 95, 99, 103, 106, 109, 112, 114, 116, 118, 120),
    *(122, 123, 125, 126, 128, 129, 130, 131, 132, 133, 135, 136, 137, 138, 138, 139, 140, 142),
    *range(143, 168),
)
_LEVELS = [sum(start <= q for start in _LEVEL_STARTS) for q in range(168)]
_INVERSE_SCALE = (370728, 339959, 311744, 285870, 262144, 240387, 220436, 202141)
_RATES = (1, 4, 7)
_MIN_WEIGHT = 128
_SHAPE = [int(v) for v in logistic_shape()]
_INDEX_LIMIT = 1 << 30


@dataclass(frozen=True, kw_only=True)
class ChannelParams:
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


def _clip(value: int, limit: int) -> int:
    return -limit if value < -limit else min(value, limit)


class _Mixture:
    """Three logistic scales that follow the recent |k| at three speeds, and their weights."""

    def __init__(self, start: int) -> None:
        self.sizes = [1 << (13 + start)] * 3
        # In pictures the weights depend on the neighbours: none, all predicted, or not.
        self.weight_sets = [[21846, 21845, 21845] for _ in range(3)]
        self.weights = self.weight_sets[0]
        self.n = 0
        self.phi = self.low_bits = self.reach = 0
        self.scales: list[tuple[int, int, int]] = []

    def prepare(self, phi: int, near_size: int | None) -> None:
        """Get ready for a symbol whose mean lies ``phi / 4096`` steps past the centre."""
        sizes = self.sizes
        self.weights = self.weight_sets[0]
        if near_size is not None:
            sizes = [near_size, *sizes[1:]]
            self.weights = self.weight_sets[1 if near_size == 0 else 2]
        levels = []
        for size in sizes:
            n = size.bit_length()
            q = 8 * n + ((size >> (n - 4) if n > 4 else size << (4 - n)) & 7)
            levels.append(_LEVELS[q] if q < 168 else q - 103)
        self.scales = []
        for level in levels:
            before = max(0, (level >> 3) - 12)
            after = 14 + (level >> 3) - before
            self.scales.append((_INVERSE_SCALE[level & 7], before, after))
        self.phi = phi
        self.low_bits = max(0, (min(levels) - 52) >> 3)
        e = max(0, max(0, (max(levels) - 5) >> 3) - self.low_bits)
        self.reach = 127 if e > 6 else 2 + (1 << e)

    def edge(self, j: int) -> tuple[int, list[int]]:
        """The cumulative frequency below bin j, and the three scales' parts of it."""
        edge = ((j << 12) << self.low_bits) - 2048 - self.phi
        at, total = [], 0
        for (mult, before, after), weight in zip(self.scales, self.weights, strict=True):
            z = ((edge >> before) * mult) >> after
            u = (-49151 if z < -49151 else min(z, 49151)) + 49152
            i, f = u >> 8, u & 255
            t = (_SHAPE[i] * (256 - f) + _SHAPE[i + 1] * f) >> 8
            at.append(t)
            total += weight * t
        n = 2 * self.reach + 3
        return j + self.reach + 1 + (((total >> 16) * (65536 - n)) >> 16), at

    def learn(self, k: int, low: list[int], high: list[int]) -> None:
        """Take in k, whose bin lies between the edges `low` and `high`."""
        weights = self.weights
        mean = sum(w * (b - a + 1) for w, a, b in zip(weights, low, high, strict=True)) >> 16
        for i in range(3):
            gain = ((high[i] - low[i] + 1) << 12) // mean - 4096
            weights[i] = max(weights[i] + ((weights[i] * gain) >> 17), _MIN_WEIGHT)
        weights[weights.index(max(weights))] += 65536 - sum(weights)
        begin = (self.n + 2).bit_length() - 1
        self.n = min(self.n + 1, 1024)
        size = abs(k) << 16
        for i, rate in enumerate(_RATES):
            self.sizes[i] += (size - self.sizes[i]) >> min(begin, rate)
        self.sizes[2] = max(self.sizes[2], 32)

    def encode(self, encoder: RangeEncoder, k: int) -> None:
        reach, h = self.reach, self.low_bits
        j = k >> h
        low, high = (0, [0, 0, 0]), (65536, [65535, 65535, 65535])
        if j >= -reach:
            low = self.edge(min(j, reach + 1))
        if j <= reach:
            high = self.edge(max(j + 1, -reach))
        encoder.encode(low[0], high[0] - low[0])
        if abs(j) > reach:
            encoder.golomb(abs(j) - reach - 1, 3)
        if h:
            encoder.bits(k - (j << h), h)
        self.learn(k, low[1], high[1])

    def decode(self, decoder: RangeDecoder) -> int:
        target = decoder.target()
        a, b, step, j = -self.reach - 1, self.reach + 2, 1, 0
        low, high = (0, [0, 0, 0]), (65536, [65535, 65535, 65535])
        while b - a > 1:
            here = self.edge(j)
            if target < here[0]:
                b, high, j = j, here, j - step
            else:
                a, low, j = j, here, j + step
            if not a < j < b or (a > -self.reach - 1 and b < self.reach + 2):
                j = a + (b - a) // 2
            step *= 2
        decoder.consume(low[0], high[0] - low[0])
        k = a
        if a < -self.reach:
            k -= decoder.golomb(3)
        elif a > self.reach:
            k += decoder.golomb(3)
        k = (k << self.low_bits) + decoder.bits(self.low_bits)
        if abs(k) > 4 * _INDEX_LIMIT:
            raise CorruptError("a residual of the classical codec is out of range")
        self.learn(k, low[1], high[1])
        return k


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
        self.inputs = [0] * (self.own + (_REFERENCE_TAPS if params.reference >= 0 else 0))
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
    steps = samples if isinstance(samples, int) else len(samples)
    center, half = params.center_index(delta), (delta - 1) // 2
    per_bin = (256 * 65536 + delta // 2) // delta
    planar = params.base == PLANAR
    coef = list(BOOK[params.base]) if params.base < 16 else _step_up(params.reflection)
    past = [0] * len(coef)
    mixture = _Mixture(params.start)
    adaptive = _Filter(params, delta) if params.filter else None
    recon: list[int] = []
    rest: list[int] = []  # the samples less what the centre and the reference foretell
    sizes: list[int] = []
    for t in range(steps):
        near_size = None
        origin = center
        if reference is not None and params.gain:
            origin += (params.gain * reference[t] + 4) >> 3
        if planar:
            around = _look_around(rest, t, raster)
            w, n, nw = around[:3]
            low, high = min(w, n), max(w, n)
            base = low if nw >= high else high if nw <= low else w + n - nw
            near_size = _near_size(sizes, t, raster)
            if adaptive:
                adaptive.inputs[:_PLANAR_TAPS] = [_clip(v - base, 1 << 24) for v in around]
            mean = 16 * base
        else:
            mean = (sum(a * y for a, y in zip(coef, past, strict=True)) + 1024) >> 11
        if adaptive:
            if reference is not None:
                adaptive.push_reference(reference[t] - reference[t - 1] if t else 0)
            mean += adaptive.predict()
        c0 = _clip(origin + ((mean + 8) >> 4), _INDEX_LIMIT)
        frac = _clip(mean - 16 * (c0 - origin), 8)
        mixture.prepare((frac * per_bin + 32768) >> 16, near_size)
        if isinstance(samples, int):
            assert isinstance(coder, RangeDecoder)
            k = mixture.decode(coder)
        else:
            assert isinstance(coder, RangeEncoder)
            gap = samples[t] - c0
            k = -((half - gap) // delta) if gap < 0 else (gap + half) // delta
            mixture.encode(coder, k)
        r = c0 + k * delta
        if not -(1 << 31) <= r < 1 << 31:
            raise CorruptError("a sample of the classical codec is out of range")
        recon.append(r)
        rest.append(r - origin)
        sizes.append(abs(k))
        if adaptive:
            limit = ((3 * mixture.sizes[1] + 19661) * delta) >> 12
            adaptive.learn(16 * (r - origin) - mean, limit)
            if not planar:
                adaptive.push(rest[t] - rest[t - 1] if t else 0)
        if not planar:
            past = [_clip(r - origin, 1 << 32), *past[:-1]]
    return recon


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
        params = replace(params, reference=channel - 1 - back, gain=decoder.bits(6) - 32)
    params = replace(params, start=decoder.bits(4), center=unzigzag(decoder.golomb(6)))
    reflection = []
    for i in range(base - 15 if base < PLANAR else 0):
        q = decoder.bits(7) - 64 if i < 2 else unzigzag(decoder.golomb(3))
        if abs(q) > 63:
            raise CorruptError("a reflection coefficient is out of range")
        reflection.append(q)
    if abs(params.center_index(delta)) > _INDEX_LIMIT + delta:
        raise CorruptError("a channel's centre is out of range")
    return replace(params, reflection=tuple(reflection))
