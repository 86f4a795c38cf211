"""The one family of frequency tables: a shape, a scale and a sixteenth of a grid step.

A prior tells where the next integer will lie: a mean in sixteenths of the grid and a scale index
``ls``. From these two and a stored *shape* (a distribution function on 385 points) follows a table
of bins of width ``delta``, with integer arithmetic only, so every machine computes the same one.
``native/cdf.h`` is the same arithmetic in C99.

The coded integer ``k`` counts steps of ``delta`` from a centre; ``frac16`` says how many sixteenths
of a grid step the mean lies past that centre. Bins far from the mean share two escape symbols, one
at each end of the table; the rest of an escaped value follows as an Exp-Golomb code. Where the
scale is wide against ``delta``, the low bits of ``k`` go uncoded. No symbol has frequency 0.
"""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.errors import ConfigError

__all__ = [
    "MAX_DELTA",
    "MAX_SHIFT",
    "N_SCALES",
    "ROW16",
    "SCALE16",
    "SHAPE_POINTS",
    "CdfFamily",
    "check_shape",
    "laplace_shape",
    "logistic_shape",
]

N_SCALES = 64
"""Scale indices go from 0 to 63."""
SCALE16 = (
    *(2, 2, 3, 3, 3, 4, 4, 4, 5, 6, 6, 7, 8, 9, 10, 11, 13, 14, 16, 18, 20, 23),
    *(25, 29, 32, 36, 40, 45, 51, 57, 64, 72, 81, 91, 102, 114, 128, 144, 161, 181, 203, 228),
    *(256, 287, 323, 362, 406, 456, 512, 575, 645, 724, 813, 912, 1024, 1149, 1290, 1448),
    *(1625, 1825, 2048, 2299, 2580, 2896),
)
"""Scale of each index in sixteenths of a feature unit: 16 · 2^((ls - 18) / 6), rounded."""
N_ROWS = 94
"""Rows of a family: the scale indices, and five octaves of wider scales that only mixtures use."""


def _rows() -> tuple[int, ...]:
    rows = [*SCALE16]
    while len(rows) < N_ROWS:
        rows.append(2 * rows[-6])
    return tuple(rows)


ROW16 = _rows()
"""`SCALE16`, then every six rows twice as wide."""
SHAPE_POINTS = 385
"""A shape holds F(z) · 65535 at z = -12, -12 + 1/16, ..., 12."""
MAX_DELTA = (1 << 30) - 1
"""The widest bin, in grid steps."""
MAX_SHIFT = 20
"""The largest feature shift ``p``: scales are multiplied by 2^p."""

_ESCAPE_ORDER = 3
_ONE = 65536
_HALF_SPAN = 12 * 4096  # of z, in 1/4096

IntArray = npt.NDArray[np.int64]


def logistic_shape() -> npt.NDArray[np.uint16]:
    """Return the logistic distribution with scale 1 as a shape: uint16 [385]."""
    return _shape([1.0 / (1.0 + math.exp(-z)) for z in _grid()])


def laplace_shape() -> npt.NDArray[np.uint16]:
    """Return the Laplace distribution with scale 1 as a shape: uint16 [385]."""
    return _shape([0.5 * math.exp(z) if z < 0 else 1 - 0.5 * math.exp(-z) for z in _grid()])


def _grid() -> list[float]:
    return [-12 + i / 16 for i in range(SHAPE_POINTS)]


def _shape(values: list[float]) -> npt.NDArray[np.uint16]:
    return np.array([math.floor(65535 * v + 0.5) for v in values], dtype=np.uint16)


def check_shape(shape: npt.ArrayLike) -> npt.NDArray[np.uint16]:
    """Return ``shape`` as uint16 [385].

    Raises:
        ConfigError: it has another length or type, or it falls somewhere.
    """
    s = np.asarray(shape)
    if s.shape != (SHAPE_POINTS,) or s.dtype != np.uint16:
        raise ConfigError(
            f"a shape must be uint16 [{SHAPE_POINTS}], found {s.dtype} {list(s.shape)}"
        )
    if np.any(s[1:] < s[:-1]):
        raise ConfigError("a shape must never fall: it is a distribution function")
    return np.ascontiguousarray(s)


class CdfFamily:
    """The tables of one shape for bins of width ``delta`` and scales times 2^``shift``.

    Args:
        shape: uint16 [385], see `logistic_shape`.
        delta: width of a bin in grid steps, 1 to `MAX_DELTA`.
        shift: the feature shift p, 0 to `MAX_SHIFT`.

    Example:
        >>> family = CdfFamily(logistic_shape(), delta=3)
        >>> encoder = RangeEncoder()
        >>> for k in (0, -2, 5000):
        ...     family.encode(encoder, ls=20, frac16=-3, k=k)
        >>> decoder = RangeDecoder(encoder.finish())
        >>> [family.decode(decoder, ls=20, frac16=-3) for _ in range(3)]
        [0, -2, 5000]
    """

    def __init__(self, shape: npt.NDArray[np.uint16], delta: int = 1, shift: int = 0) -> None:
        if not 1 <= delta <= MAX_DELTA:
            raise ConfigError(f"delta must be 1 to {MAX_DELTA}, found {delta}")
        if not 0 <= shift <= MAX_SHIFT:
            raise ConfigError(f"the feature shift must be 0 to {MAX_SHIFT}, found {shift}")
        self.shape = check_shape(shape)
        self.delta = int(delta)
        self.shift = int(shift)
        self._points = self.shape.astype(np.int64)
        self._tables: dict[tuple[int, int], list[int]] = {}
        scales = [s << shift for s in ROW16]
        low_bits = []
        for s in scales:
            h = 0
            while s > 256 * (self.delta << h):
                h += 1
            low_bits.append(h)
        width = [self.delta << h for h in low_bits]
        self.low_bits = low_bits
        """Per row, how many low bits of k go uncoded."""
        self.reach = [
            min(127, 2 + (s + 2 * w - 1) // (2 * w)) for s, w in zip(scales, width, strict=True)
        ]
        """Per row, the largest |k >> low_bits| with a symbol of its own."""
        self._zshift = [12 + s.bit_length() for s in scales]
        self._point_list: list[int] = self._points.tolist()
        self.scales = scales
        """Per row, the scale in sixteenths of a grid step."""
        self._mults = [((1 << (24 + s.bit_length())) + s // 2) // s for s in scales]
        self._scale_a = np.array(scales, dtype=np.int64)
        self._width_a = np.array(width, dtype=np.int64)
        self._reach_a = np.array(self.reach, dtype=np.int64)
        self._low_a = np.array(low_bits, dtype=np.int64)
        self._zshift_a = np.array(self._zshift, dtype=np.int64)
        self._mult_a = np.array(self._mults, dtype=np.int64)

    def cum(self, ls: npt.ArrayLike, frac16: npt.ArrayLike, q: npt.ArrayLike) -> IntArray:
        """Return the cumulative frequency below symbol ``q``, for arrays that broadcast.

        Args:
            ls: scale index, 0 to 63.
            frac16: mean minus centre in sixteenths of a grid step.
            q: symbol, 0 to ``2 * reach + 3``.
        """
        ls_a, frac_a, q_a = np.asarray(ls), np.asarray(frac16), np.asarray(q, dtype=np.int64)
        reach, scale = self._reach_a[ls_a], self._scale_a[ls_a]
        n = 2 * reach + 3
        edge = 16 * self._width_a[ls_a] * (q_a - reach - 1) - 8 * self.delta - frac_a
        edge = np.clip(edge, -16 * scale, 16 * scale)  # |z| > 12 anyway; keeps products in 64 bits
        z = (edge * self._mult_a[ls_a]) >> self._zshift_a[ls_a]
        z = np.clip(z, 1 - _HALF_SPAN, _HALF_SPAN - 1) + _HALF_SPAN
        i, f = z >> 8, z & 255
        t = (self._points[i] * (256 - f) + self._points[i + 1] * f) >> 8
        inner = q_a + ((t * (_ONE - n)) >> 16)
        result: IntArray = np.where(q_a <= 0, 0, np.where(q_a >= n, _ONE, inner))
        return result

    def shape_at(self, ls: int, edge16: int) -> int:
        """Return the shape's value, 0 to 65535, at an edge.

        Args:
            ls: row, 0 to 93.
            edge16: the edge past the mean, in sixteenths of a grid step.
        """
        limit = 16 * self.scales[ls]
        z = (min(max(edge16, -limit), limit) * self._mults[ls]) >> self._zshift[ls]
        z = min(max(z, 1 - _HALF_SPAN), _HALF_SPAN - 1) + _HALF_SPAN
        i, f = z >> 8, z & 255
        return (self._point_list[i] * (256 - f) + self._point_list[i + 1] * f) >> 8

    def table(self, ls: int, frac16: int) -> list[int]:
        """Return the whole table: 0, ..., 65536 around ``2 * reach + 3`` symbols."""
        key = (ls, frac16)
        table = self._tables.get(key)
        if table is None:
            q = np.arange(2 * self.reach[ls] + 4)
            table = self._tables[key] = self.cum(ls, frac16, q).tolist()
        return table

    def encode(self, encoder: RangeEncoder, ls: int, frac16: int, k: int) -> None:
        """Code ``k`` (|k| < 2^31)."""
        table = self.table(ls, frac16)
        reach, h = self.reach[ls], self.low_bits[ls]
        j = k >> h
        q = min(max(j + reach + 1, 0), 2 * reach + 2)
        encoder.encode(table[q], table[q + 1] - table[q])
        if not -reach <= j <= reach:
            encoder.golomb(abs(j) - reach - 1, _ESCAPE_ORDER)
        if h:
            encoder.bits(k & ((1 << h) - 1), h)

    def decode(self, decoder: RangeDecoder, ls: int, frac16: int) -> int:
        """Read the next ``k``; from damaged bytes it may be any integer with |k| < 2^57."""
        table = self.table(ls, frac16)
        reach, h = self.reach[ls], self.low_bits[ls]
        q = bisect_right(table, decoder.target()) - 1
        decoder.consume(table[q], table[q + 1] - table[q])
        j = q - reach - 1
        if j < -reach:
            j -= decoder.golomb(_ESCAPE_ORDER)
        elif j > reach:
            j += decoder.golomb(_ESCAPE_ORDER)
        return (j << h) | decoder.bits(h)

    def code_bits(
        self, ls: npt.ArrayLike, frac16: npt.ArrayLike, k: npt.ArrayLike
    ) -> npt.NDArray[np.float64]:
        """Return the ideal code length of each ``k`` in bits, escapes and low bits included."""
        ls_a, k_a = np.asarray(ls), np.asarray(k, dtype=np.int64)
        h, reach = self._low_a[ls_a], self._reach_a[ls_a]
        j = k_a >> h
        q = np.clip(j + reach + 1, 0, 2 * reach + 2)
        freq = self.cum(ls, frac16, q + 1) - self.cum(ls, frac16, q)
        bits = 16 - np.log2(freq.astype(np.float64)) + h
        beyond = np.maximum(np.abs(j) - reach - 1, 0) + (1 << _ESCAPE_ORDER)
        length = 2 * np.floor(np.log2(beyond.astype(np.float64))) + 1 - _ESCAPE_ORDER
        result: npt.NDArray[np.float64] = bits + np.where(np.abs(j) > reach, length, 0)
        return result
