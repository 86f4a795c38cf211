"""The hidden grid of a signal: most sensors are integers in disguise.

A signal lies on a grid when every sample is ``n * num / den`` for an integer ``n``: the codec then
works on ``n``, and a lossless round trip is one of small integers. ``detect_grid`` looks for the
coarsest such step and proves it on every finite sample: it decodes to the very same float.

How a step is found (steps coarser than the float format can hide are the only ones believed):

1. integers: the greatest common divisor;
2. powers of two: the lowest mantissa bit in use;
3. decimals: ``1 / 10**d``, then the common divisor of what is left;
4. any other step (``9.81 / 4096``, ``1 / 131``): from the smallest difference between distinct
   values, refined over ever longer differences, then the simplest fraction that still explains
   every sample.

float64 samples that are float32 ones made wider, as a file of a float32 sensor often has them,
hide their step below float32's rounding: 5.827 reads 5.827000141143799. They are searched as
float32, and a step found so is marked ``single``. Where nothing is found, samples may at last lie
``NEAR_ULPS`` beside the grid, as numbers do that were computed or parsed in a hurry on their way;
where that hurry explains more of them (45.752 reads 45.751999999999995), the grid is ``parsed``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgeae.errors import ConfigError, SignalError
from edgeae.signal.grid_steps import (
    INDEX_LIMIT,
    decimal_steps,
    dyadic_step,
    general_steps,
    subsample,
)
from edgeae.signal.ulps import ulps_beside

__all__ = [
    "INDEX_LIMIT",
    "NEAR_ULPS",
    "Grid",
    "GridSpec",
    "detect_grid",
    "detect_grids",
    "fallback_grid",
]

GridSpec = tuple[int, int] | tuple[int, int, bool] | tuple[int, int, bool, bool]
"""A grid as plain numbers: (num, den), then True if it is ``single``; False, True if ``parsed``."""

NEAR_ULPS = 8
"""How far beside a grid floats may lie, in units of the last place, if they do not lie on one."""

_NEAR_BITS = 4  # 2 * NEAR_ULPS = 2^4
_INT64_MAX = (1 << 63) - 1
_MAX_DECIMALS = 15
_MANTISSA_BITS = {"e": 11, "f": 24, "d": 53}
_SAMPLE_SIZE = 4096
_EVIDENCE_BITS = 24.0
"""How many bits of coincidence a step must explain, beyond its own description."""


@dataclass(frozen=True)
class Grid:
    """Integers in disguise: sample = ``n * num / den`` in float64, then cast to the dtype.

    ``num`` and ``den`` are first rounded to float64 where they exceed 2^53; product and quotient
    are rounded to it too. These are IEEE's basic operations: every machine gets the same sample.

    Attributes:
        num: numerator of the step, 1..2^63 - 1.
        den: denominator, likewise.
        single: float64 samples pass through float32 on their way: they are widened float32 ones.
        parsed: float64 samples are decimals that a fast parser read, as common readers of CSV
            files do: the shortest digits as one integer, divided by 10 to the powers of two whose
            sum is the number of decimals, the smallest first, each quotient rounded.

    Example:
        >>> import numpy as np
        >>> grid = Grid(1, 1000)
        >>> n, exact = grid.to_index(np.array([0.25, 1.5, 0.0001], np.float32))
        >>> n.tolist(), exact.tolist()
        ([250, 1500, 0], [True, True, False])
        >>> grid.to_values(n, np.float32).tolist()
        [0.25, 1.5, 0.0]
        >>> Grid(1, 1000, single=True).to_values(np.array([5827]), np.float64).tolist()
        [5.827000141143799]
    """

    num: int = 1
    den: int = 1
    single: bool = False
    parsed: bool = False

    def __post_init__(self) -> None:
        if self.num < 1 or self.den < 1 or max(self.num, self.den) >= 1 << 63:
            raise ConfigError(
                f"a grid is a positive fraction num/den below 2^63, got {self.num}/{self.den}"
            )
        if not isinstance(self.single, bool) or not isinstance(self.parsed, bool):
            raise ConfigError(
                "a grid is (num, den), (num, den, True) or (num, den, False, True), got "
                f"{self.single!r}, {self.parsed!r} last"
            )
        if self.parsed and (self.single or self.as_decimal is None):
            raise ConfigError(
                f"a parsed grid has a step of up to {_MAX_DECIMALS} decimals and is not single; "
                f"{self.num}/{self.den} is none"
            )

    def __repr__(self) -> str:
        end = ", single=True)" if self.single else ", parsed=True)" if self.parsed else ")"
        return f"Grid(num={self.num}, den={self.den}{end}"

    @property
    def as_decimal(self) -> tuple[int, int] | None:
        """The step as ``(digits, decimals)``, if it has such with digits below 2^23."""
        for decimals in range(_MAX_DECIMALS + 1):
            digits, rest = divmod(self.num * 10**decimals, self.den)
            if rest == 0:
                return (digits, decimals) if digits < 1 << 23 else None
        return None

    @property
    def step(self) -> float:
        """Distance of two neighbours in user units."""
        return self.num / self.den

    @property
    def spec(self) -> GridSpec:
        """The grid as plain numbers; ``Grid(*spec)`` is the way back."""
        if self.parsed:
            return self.num, self.den, False, True
        return (self.num, self.den, True) if self.single else (self.num, self.den)

    def resolution(self, x: NDArray[Any]) -> float:
        """How far apart the floats are that samples of ``x``'s size are rounded to.

        0 for integers, and where ``n * num / den`` needs no rounding.
        """
        if x.dtype.kind != "f":
            return 0.0
        info = np.finfo(np.float32 if self.single else x.dtype)
        peak = float(np.max(np.abs(x[np.isfinite(x)]), initial=0.0))
        peak = min(max(peak, self.step), float(info.max))
        if self.den & (self.den - 1) == 0:
            dyadic = self.num & (self.num - 1) == 0
            if dyadic or peak * self.den < 2.0 ** (info.nmant + 1):
                return 0.0
        apart = float(np.spacing(info.dtype.type(peak)))
        return 4 * apart if self.parsed else apart

    def to_index(self, x: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Nearest grid index of every sample, and where the index is the sample, bit for bit.

        Args:
            x: integer or float array of any shape; NaN and Inf are allowed.

        Returns:
            ``n`` int32 of the same shape, 0 where the sample is not finite or out of range; and a
            mask that is True where ``to_values(n)`` has the sample's very bits (so not for NaN,
            and not for -0.0).
        """
        x = np.asarray(x)
        if x.dtype.kind in "iu" and self.num == self.den == 1 and x.dtype.itemsize <= 2:
            return x.astype(np.int32), np.ones(x.shape, np.bool_)  # nothing can go wrong
        if x.dtype.kind in "iu" and self.den == 1:
            wide = np.minimum(x, x.dtype.type(min(_INT64_MAX, np.iinfo(x.dtype).max)))
            n64 = wide.astype(np.int64) // self.num
            inside = (n64 > -INDEX_LIMIT) & (n64 < INDEX_LIMIT)
            n = np.where(inside, n64, 0).astype(np.int32)
            return n, inside & (self.to_values(n, x.dtype) == x)
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = np.rint(x.astype(np.float64) * self.den / self.num)
            inside = np.abs(scaled) < INDEX_LIMIT  # False for NaN
            n = np.where(inside, scaled, 0.0).astype(np.int32)
        back = self.to_values(n, x.dtype)
        same = (back == x) & inside
        if x.dtype.kind == "f":
            same &= np.signbit(back) == np.signbit(x)
        return n, same

    def to_values(self, n: NDArray[np.int32], dtype: DTypeLike) -> NDArray[Any]:
        """Samples of the given dtype at indices ``n``; integer dtypes saturate at their ends."""
        kind = np.dtype(dtype)
        if kind.kind in "iu" and self.den == 1 and self.num < 1 << 32:
            if self.num == 1 and kind.itemsize <= 2:
                info = np.iinfo(kind)
                return np.minimum(np.maximum(n, info.min), info.max).astype(kind)
            wide = np.asarray(n, np.int64) * self.num
            if kind.itemsize == 8:
                return (np.maximum(wide, 0) if kind.kind == "u" else wide).astype(kind)
            info = np.iinfo(kind)
            return np.clip(wide, info.min, info.max).astype(kind)
        if self.parsed and kind == np.float64:
            return self._parsed(n)
        values = np.asarray(n, np.float64) * float(self.num) / float(self.den)
        if kind.kind in "iu":
            return _saturated(np.rint(values), kind)
        if self.single and kind == np.float64:
            values = values.astype(np.float32)
        with np.errstate(over="ignore"):
            return values.astype(kind)

    def _parsed(self, n: NDArray[np.int32]) -> NDArray[np.float64]:
        assert self.as_decimal is not None
        digits, most = self.as_decimal
        m = np.asarray(n, np.int64) * digits
        decimals = np.full(m.shape, most)
        for _ in range(most):
            shorter = (m % 10 == 0) & (decimals > 0)
            m = np.where(shorter, m // 10, m)
            decimals -= shorter
        values: NDArray[np.float64] = m.astype(np.float64)
        for k in range(_MAX_DECIMALS.bit_length()):
            values = np.where(decimals >> k & 1, values / 10.0 ** (1 << k), values)
        return values

    def index_bound(self, max_error: float, *, on_grid: bool = True) -> int:
        """Largest index error ``e`` that keeps ``|x - x_hat| <= max_error``; -1 if there is none.

        The bound is read as the decimal that was typed: 0.009 on a grid of 0.001 allows 9.

        Args:
            max_error: the promise in user units.
            on_grid: False adds half a step for samples that had to be rounded to the grid.

        Example:
            >>> Grid(1, 1000).index_bound(0.009)
            9
            >>> Grid(1, 1024).index_bound(0.009, on_grid=False)
            8
        """
        if not max_error >= 0 or math.isinf(max_error):
            raise ConfigError(f"max_error must be a finite number >= 0, got {max_error}")
        steps = Fraction(repr(float(max_error))) * self.den / self.num
        return math.floor(steps if on_grid else steps - Fraction(1, 2))


def detect_grid(x: NDArray[Any]) -> Grid | None:
    """Coarsest grid that holds every finite sample exactly, or None.

    Args:
        x: integer or float samples of any shape. NaN and Inf are left aside.

    Returns:
        A grid whose round trip is exact in ``x.dtype`` for every finite sample (a -0.0 counts as
        0.0), or where there is none, within ``NEAR_ULPS``; with every index below 2^30. None where
        only the float format's own resolution was found, as in white noise.

    Example:
        >>> import numpy as np
        >>> counts = np.random.default_rng(0).integers(-3000, 3000, 5000)
        >>> detect_grid((counts * 981 / 409600).astype(np.float32))
        Grid(num=981, den=409600)
        >>> detect_grid(counts * 4)
        Grid(num=4, den=1)
        >>> detect_grid(np.random.default_rng(0).normal(size=5000).astype(np.float32)) is None
        True
    """
    x = np.asarray(x).ravel()
    if x.dtype.kind in "iu":
        return _integer_grid(x)
    if x.dtype.char not in _MANTISSA_BITS:
        raise SignalError(f"expected integer or float samples, got dtype {x.dtype}")
    x = x[np.isfinite(x)]
    found = _float_grid(x)
    if x.dtype == np.float64 and (found is None or not _hides_nothing(found, x)):
        found = _single_grid(x, found)
    if found is None and x.dtype != np.float16:
        found = _float_grid(x, near=True)
        if found is not None and x.dtype == np.float64 and found.as_decimal is not None:
            parsed = replace(found, parsed=True)
            beside, still = (np.count_nonzero(~g.to_index(x)[1]) for g in (found, parsed))
            found = parsed if 2 * still < beside else found
    return found


def detect_grids(x: NDArray[Any]) -> tuple[Grid | None, ...]:
    """The grid of every channel of ``x`` [T, C] by itself, for instruments of several sensors."""
    return tuple(detect_grid(x[:, c]) for c in range(x.shape[1]))


def fallback_grid(max_error: float | None, x_range: float | tuple[float, float]) -> Grid:
    """A power-of-two grid for data that have none of their own.

    Fine enough that a bound in whole steps loses at most 1/64 of ``max_error`` (0.02 bit per
    sample), or, without a bound, 16 bits over the range.

    Args:
        max_error: the promise in user units, or None for lossy coding.
        x_range: largest |x|, or (lowest, highest) sample.

    Raises:
        ConfigError: the bound is so small beside the range that 30 bits cannot index it.

    Example:
        >>> fallback_grid(0.01, (-20.0, 20.0))
        Grid(num=1, den=8192)
        >>> fallback_grid(None, 1000.0)
        Grid(num=1, den=64)
    """
    ends = x_range if isinstance(x_range, tuple) else (-x_range, x_range)
    peak = max(abs(ends[0]), abs(ends[1]), 1e-300)
    width = abs(ends[1] - ends[0]) or peak
    if max_error is not None and not 0 < max_error < math.inf:
        raise ConfigError(f"max_error must be a finite number > 0, got {max_error}")
    target = max_error / 64 if max_error is not None else width / 65536
    exponent = math.frexp(target)[1] - 1  # 2^exponent <= target
    coarsest = math.frexp(peak / (INDEX_LIMIT // 2))[1]  # leaves a factor of 2 for unseen peaks
    if max_error is not None and max_error < 2 * 2.0**coarsest:
        raise ConfigError(
            f"max_error {max_error:g} is too small for samples up to {peak:g}: "
            f"an index has 30 bits; use at least {2 * 2.0**coarsest:g} or --lossless"
        )
    exponent = max(exponent, coarsest)
    if abs(exponent) > 62:
        raise ConfigError(
            f"samples of the order {peak:g} need a grid step of 2^{exponent}; "
            "scale the signal first"
        )
    return Grid(1 << exponent, 1) if exponent >= 0 else Grid(1, 1 << -exponent)


def _integer_grid(x: NDArray[Any]) -> Grid | None:
    if x.size == 0:
        return Grid(1, 1)
    low, high = int(x.min()), int(x.max())
    divisor = 1
    if low != high:
        magnitude = np.abs(x.astype(np.int64)) if high < 1 << 63 and low > -(1 << 63) else x
        divisor = abs(int(np.gcd.reduce(magnitude[:_SAMPLE_SIZE])))
        if divisor != 1:  # one odd sample among the first ones settles it for most signals
            divisor = abs(int(np.gcd.reduce(magnitude))) or 1
    if max(abs(low), abs(high)) // divisor >= INDEX_LIMIT or divisor >= 1 << 53:
        return None
    return Grid(divisor, 1)


def _float_grid(x: NDArray[Any], *, near: bool = False) -> Grid | None:
    """The coarsest grid of finite floats, as their own format shows it."""
    probe = np.unique(np.abs(subsample(x, _SAMPLE_SIZE)))
    probe = probe[probe > 0]
    if probe.size == 0:
        return Grid(1, 1)
    mantissa = _MANTISSA_BITS[x.dtype.char] - (_NEAR_BITS if near else 0)
    candidates = {*decimal_steps(probe), None if near else dyadic_step(probe, mantissa)}
    for step in sorted(filter(None, candidates), reverse=True):
        grid = _proved(x, step, near=near)
        if grid is not None and _believable(grid, probe, mantissa, near=near):
            break
    else:
        grid = None
    if grid is None or not _is_coarse(grid, probe, mantissa):
        for step in general_steps(x, mantissa):
            general = _proved(x, step, near=near)
            if general is not None and _believable(general, probe, mantissa, near=near):
                return general
    return grid


def _single_grid(x: NDArray[np.float64], plain: Grid | None) -> Grid | None:
    """The grid of float64 samples that were float32 ones, if it is coarser than the plain one."""
    with np.errstate(over="ignore"):
        narrow = x.astype(np.float32)
    if not np.isfinite(narrow).all():  # float64's largest number is but an ulp from infinity
        return plain
    beside = np.abs(ulps_beside(x, narrow.astype(np.float64)))
    if int(beside.max(initial=0)) > (NEAR_ULPS if plain is None else 0):
        return plain
    found = _float_grid(narrow)
    if found is None or (plain is not None and plain.step >= found.step):
        return plain
    return found if _holds(found, x, near=plain is None)[0] else replace(found, single=True)


def _hides_nothing(grid: Grid, x: NDArray[np.float64]) -> bool:
    """Whether a grid is so coarse that floats with float32's few bits would show it too."""
    return float(np.max(np.abs(x), initial=0.0)) < grid.step * 2.0 ** (_MANTISSA_BITS["f"] - 2)


def _saturated(values: NDArray[np.float64], kind: np.dtype[Any]) -> NDArray[Any]:
    """Whole numbers as integers; a cast from float64 is undefined beyond the ends of the type."""
    info = np.iinfo(kind)
    end = float(info.max)  # of 64 bits: one too large
    below = end if int(end) == info.max else np.nextafter(end, 0.0)
    inside = np.clip(values, info.min, below).astype(kind)
    return np.where(values >= end, kind.type(info.max), inside)


def _holds(grid: Grid, x: NDArray[Any], *, near: bool) -> tuple[bool, NDArray[np.int32]]:
    """Whether all finite samples lie on a grid, or near it, and their indices."""
    n, exact = grid.to_index(x)
    exact |= (x == 0) & (n == 0)
    if near and not exact.all():
        exact |= np.abs(ulps_beside(x, grid.to_values(n, x.dtype))) <= NEAR_ULPS
    return bool(exact.all()), n


def _proved(x: NDArray[Any], step: Fraction, *, near: bool) -> Grid | None:
    """The grid of this step, made as coarse as all samples allow, if it holds them."""
    if max(step.numerator, step.denominator) >= 1 << 63:
        return None
    grid = Grid(step.numerator, step.denominator)
    for size in (256, x.size):  # most wrong steps fail on the first few samples
        holds, n = _holds(grid, x[:size], near=near)
        if not holds:
            return None
    if x.min() != x.max():
        divisor = int(np.gcd.reduce(n))
        coarser = step * max(divisor, 1)
        if divisor > 1 and max(coarser.numerator, coarser.denominator) < 1 << 63:
            rough = Grid(coarser.numerator, coarser.denominator)
            if _holds(rough, x, near=near)[0]:
                return rough
    return grid


def _believable(grid: Grid, probe: NDArray[np.float64], mantissa: int, *, near: bool) -> bool:
    """True unless the step is what the float format's own resolution would show in noise."""
    peak = float(probe[-1])
    dyadic = grid.den & (grid.den - 1) == 0
    if not near and dyadic and peak / grid.step < 2.0 ** min(mantissa, 30):
        return True  # as if the floats were integers all along: nothing can be finer
    if near and not _is_coarse(grid, probe, mantissa):
        return False  # large samples would be near any grid so fine
    spacing = np.ldexp(1.0, np.frexp(probe)[1] - mantissa)
    evidence = float(np.sum(np.maximum(np.log2(grid.step / spacing), 0.0)))
    # A step is paid for by its own description; for one value alone, any decimal would do.
    cost = math.log2(grid.num) + math.log2(grid.den)
    return evidence > min(_EVIDENCE_BITS, 4.0 * probe.size) + cost


def _is_coarse(grid: Grid, probe: NDArray[np.float64], mantissa: int) -> bool:
    return float(probe[-1]) / grid.step < 2.0 ** (mantissa - 2)
