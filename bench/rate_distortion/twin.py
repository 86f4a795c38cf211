"""The twin without a network: what a codec learns that is fitted on the same data, but has no net.

A linear predictor of order 16 and frequency tables, one for each of 12 levels of how large the
residuals of late were; all of it fitted on the training part of the same data set, then fixed. It
predicts from reconstructed samples, so that the bound holds; it is fitted anew for every bound, on
samples with that bound's noise. Its bytes are real: `edgeae.bitstream.range_coder`'s coder, written
again here for Numba, and tested against it. What it is fitted to counts as its model, not as rate.

A residual k counts steps of 2 E + 1 from the prediction. Where a level's residuals are large, the
low bits of k are sent as they are; what a table does not hold is sent as an Exp-Golomb code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["ORDER", "Twin", "decode", "encode", "fit"]

ORDER = 16
LEVELS = 12
REACH = 127  # the largest |k >> low bits| with a symbol of its own
TAP_BITS = 16
TAIL = 2 * REACH + 1  # the symbol before an Exp-Golomb code
MOST = 400_000  # samples to fit on, taken as long pieces from everywhere
PACES = ((3, 4), (2, 5), (3, 3), (3, 6), (5, 5))  # how fast the two means of |k| forget: 2^-n

Array = NDArray[Any]
Ints = NDArray[np.int64]


FRAGILE = 0.03  # what taps must gain in training to be trusted with an offset like its own


@dataclass(frozen=True)
class Kind:
    """One way to make a twin.

    Attributes:
        rounds: of the least squares; 0 just holds the last sample.
        rounded: fitted on rounded samples, else on samples and the bound's noise.
        free: around the training part's mean, else with taps that sum to 1.
    """

    rounds: int
    rounded: bool
    free: bool


KINDS = (
    Kind(0, False, False),
    *itertools.starmap(Kind, itertools.product((1, 4), (False, True), (False, True))),
)


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A fitted twin.

    Attributes:
        delta: 2 E + 1, in grid steps.
        lattice: predictions are rounded to multiples of delta; else reconstructions follow them.
        mean: what is taken off before predicting; 0 where the taps sum to 1.
        taps: int64 [16], times 2^16.
        paces: how fast the two means of |k| forget.
        start: of both means, at a frame's first sample.
        edges: int64 [11], between levels.
        low_bits: int64 [12], of each level.
        cum: int64 [12, 257], the tables.
        order: of the Exp-Golomb code of a frame's first sample.
    """

    delta: int
    lattice: bool
    mean: int
    taps: Ints
    paces: tuple[int, int]
    start: int
    edges: Ints
    low_bits: Ints
    cum: Ints
    order: int

    @property
    def n_bytes(self) -> int:
        """Of the model: 16-bit frequencies and edges of four bytes, 3-byte taps."""
        return 2 * (self.cum.size - LEVELS) + 4 * self.edges.size + LEVELS + 3 * ORDER + 16


def fit(signals: Sequence[Ints], delta: int, *, length: int | None) -> Twin:
    """Fit a twin to the training part of one channel.

    Args:
        signals: grid indices, int64 [T] each.
        delta: 2 E + 1.
        length: samples per frame, or None for whole streams.
    """
    pieces = list(_pieces(signals, length))
    joined = np.concatenate(pieces)
    margin = 1 + FRAGILE * (abs(float(np.mean(joined))) > float(np.std(joined)))

    few = pieces[:: min(4, max(1, len(pieces) // 8))]  # enough to choose on

    def taken(kind: Kind, taps: Ints, lattice: bool, paces: tuple[int, int]) -> float:
        twin = _tables(few, delta, kind.free, taps, lattice, paces)
        return sum(len(encode(twin, x)) for x in few) * (margin if kind.free else 1)

    found = {kind: _taps(few, delta, kind) for kind in KINDS}
    kind, lattice = min(
        itertools.product(KINDS, (False, True) if delta > 1 else (False,)),
        key=lambda pair: taken(pair[0], found[pair[0]], pair[1], PACES[0]),
    )
    paces = min(PACES, key=lambda paces: taken(kind, found[kind], lattice, paces))
    return _tables(pieces, delta, kind.free, _taps(pieces, delta, kind), lattice, paces)


def encode(twin: Twin, x: Ints) -> bytes:
    """Code one frame or stream, int64 [T], by itself."""
    out = np.empty(16 * len(x) + 64, np.uint8)
    n = _encode(np.ascontiguousarray(x, np.int64), *_arguments(twin), out)
    return out[:n].tobytes()


def decode(twin: Twin, data: bytes, n: int) -> Ints:
    """The reconstruction of ``n`` samples."""
    padded = np.concatenate([np.frombuffer(data, np.uint8), np.zeros(16, np.uint8)])
    return _decode(padded, n, *_arguments(twin))


def _arguments(twin: Twin) -> tuple[Any, ...]:
    return (
        twin.delta,
        twin.lattice,
        twin.mean,
        twin.taps,
        *twin.paces,
        twin.start,
        twin.edges,
        twin.low_bits,
        twin.cum,
        twin.order,
    )


# -- fitting -------------------------------------------------------------------------------------


def _pieces(signals: Sequence[Ints], length: int | None) -> Iterator[Ints]:
    """What to fit on: frames, or long pieces, evenly from everywhere."""
    span = length or 1 << 15
    cut = [x[a : a + span] for x in signals for a in range(0, len(x), span)]
    cut = [x for x in cut if len(x) > 2 * ORDER]
    every = max(1, math.ceil(sum(map(len, cut)) / MOST))
    yield from (np.ascontiguousarray(x, np.int64) for x in cut[::every])


def _mean(pieces: Sequence[Ints], delta: int) -> int:
    """A multiple of delta near the mean."""
    return int(_step(round(float(np.mean(np.concatenate(pieces)))), delta)) * delta


def _taps(pieces: Sequence[Ints], delta: int, kind: Kind) -> Ints:
    """Least squares; in later rounds, a sample weighs the less the further its neighbours missed.

    So the quiet parts count, where bits are saved.
    """
    if not kind.rounds:
        return np.eye(1, ORDER, dtype=np.int64)[0] << TAP_BITS
    mean = _mean(pieces, delta) if kind.free else None
    if kind.rounded:
        pieces = [_step_all(x, delta) for x in pieces]
        mean, delta = (None if mean is None else mean // delta), 1
    return _least_squares(pieces, delta, kind.rounds, mean)


def _least_squares(pieces: Sequence[Ints], delta: int, rounds: int, mean: int | None) -> Ints:
    """Around ``mean``, or with taps that sum to 1; the past has the noise of ``delta``."""
    noise = (delta * delta - 1) / 12
    found = np.eye(1, ORDER, dtype=np.int64)[0] << TAP_BITS
    for number in range(rounds):
        square, product, total = np.zeros((ORDER, ORDER)), np.zeros(ORDER), 0.0
        for x in pieces:
            off = int(x[0]) if mean is None else mean
            padded = np.concatenate([np.full(ORDER, x[0]), x]) - float(off)
            past = np.lib.stride_tricks.sliding_window_view(padded[:-1], ORDER)[:, ::-1]
            missed = np.abs(padded[ORDER:] - past @ (found / 2**TAP_BITS))
            scale = _smoothed(missed) + 0.3 * delta
            weight = 1 / (scale * scale) if number else np.ones(len(x))
            square += past.T @ (past * weight[:, None])
            product += past.T @ (padded[ORDER:] * weight)
            total += float(weight.sum())
        square += np.eye(ORDER) * (noise * total + 1e-9 * np.trace(square) / ORDER + 1e-9)
        if mean is None:
            ones = np.ones((ORDER, 1))
            bordered = np.block([[square, ones], [ones.T, np.zeros((1, 1))]])
            solved = np.linalg.solve(bordered, np.append(product, 1.0))[:ORDER]
        else:
            solved = np.linalg.solve(square, product)
        found = np.rint(solved * 2**TAP_BITS).astype(np.int64)
    if mean is None:
        found[0] += 2**TAP_BITS - found.sum()
    return found


def _smoothed(missed: Array) -> Array:
    """The mean over 8 samples on each side."""
    sums = np.cumsum(np.concatenate([np.zeros(9), missed, np.zeros(8)]))
    return (sums[17:] - sums[:-17]) / 17


def _tables(
    pieces: Sequence[Ints], delta: int, free: bool, taps: Ints, lattice: bool,
    paces: tuple[int, int],
) -> Twin:  # fmt: skip
    """Levels and tables for the residuals of these taps."""
    mean = _mean(pieces, delta)
    spread = max(float(np.std(np.concatenate(pieces))) / delta, 1.0)
    offset = mean if free else 0
    ks = [_residuals(x, taps, offset, delta, lattice) for x in pieces]
    coded = np.concatenate([k[1:] for k in ks])
    start = int(np.mean(np.minimum(np.abs(coded), np.quantile(np.abs(coded), 0.99)))) << 12
    activity = np.concatenate([_activity(k, *paces, start)[1:] for k in ks])
    # Levels are narrower towards the large ones, which are few and cost most.
    shares = 1 - (1 - np.arange(1, LEVELS) / LEVELS) ** 1.5
    edges = np.quantile(activity, shares).astype(np.int64)
    level = np.searchsorted(edges, activity, side="right")
    low_bits = np.zeros(LEVELS, np.int64)
    cum = np.zeros((LEVELS, TAIL + 2), np.int64)
    symbols = np.arange(-REACH, REACH + 1)
    for n in range(LEVELS):
        own = coded[level == n]
        size = float(np.mean(np.abs(own))) if own.size else 1.0
        low = 0
        while size / (1 << low) > REACH / 6:
            low += 1
        high = own >> low
        inside = np.abs(high) <= REACH
        counts = np.bincount(high[inside] + REACH, minlength=TAIL).astype(np.float64)
        narrow, wide = (np.exp(-np.abs(symbols) / (w * size / (1 << low) + 0.1)) for w in (1, 4))
        counts += 16 * narrow / narrow.sum() + 4 * wide / wide.sum()
        counts = np.append(counts, np.count_nonzero(~inside) + 0.05)
        cum[n] = _frequencies(counts)
        low_bits[n] = low
    return Twin(
        delta=delta,
        lattice=lattice,
        mean=offset,
        taps=taps,
        paces=paces,
        start=start,
        edges=edges,
        low_bits=low_bits,
        cum=cum,
        order=int(np.clip(round(math.log2(spread)), 0, 24)),
    )


def _frequencies(counts: Array) -> Ints:
    """Cumulative frequencies out of 65536, none of them 0."""
    free = 65536 - counts.size
    freq = 1 + np.floor(counts / counts.sum() * free).astype(np.int64)
    freq[int(np.argmax(freq))] += 65536 - freq.sum()
    return np.concatenate([[0], np.cumsum(freq)])


# -- the loop ------------------------------------------------------------------------------------


@njit(cache=True)
def _predict(past: Ints, at: int, taps: Ints, mean: int, delta: int, lattice: bool) -> int:
    total = 1 << (TAP_BITS - 1)
    for i in range(ORDER):
        total += taps[i] * (past[at - 1 - i] - mean)
    predicted = (total >> TAP_BITS) + mean
    return _step(predicted, delta) * delta if lattice else predicted


@njit(cache=True)
def _step(value: int, delta: int) -> int:
    """The nearest multiple; delta is odd."""
    return (value + delta // 2) // delta


@njit(cache=True)
def _step_all(x: Ints, delta: int) -> Ints:
    return (x + delta // 2) // delta


@njit(cache=True)
def _residuals(x: Ints, taps: Ints, mean: int, delta: int, lattice: bool) -> Ints:
    past = np.empty(len(x) + ORDER, np.int64)
    ks = np.empty(len(x), np.int64)
    ks[0] = _step(x[0] - mean, delta)
    past[: ORDER + 1] = mean + ks[0] * delta
    for t in range(1, len(x)):
        predicted = _predict(past, t + ORDER, taps, mean, delta, lattice)
        ks[t] = _step(x[t] - predicted, delta)
        past[t + ORDER] = predicted + ks[t] * delta
    return ks


@njit(cache=True)
def _activity(ks: Ints, fast: int, slow: int, start: int) -> Ints:
    """The sum of both means of |k| before each sample, in 1/4096."""
    out = np.empty(len(ks), np.int64)
    a = b = start
    for t in range(len(ks)):
        out[t] = a + b
        if t:
            a += ((abs(ks[t]) << 12) - a) >> fast
            b += ((abs(ks[t]) << 12) - b) >> slow
    return out


# The range coder. State: low, range, and where the next byte goes.


@njit(cache=True)
def _put(state: Ints, out: Array, cum: int, freq: int) -> None:
    low, span, at = state[0], state[1], state[2]
    step = span >> 16
    low += step * cum
    span = step * freq
    if low > 0xFFFFFFFF:
        low &= 0xFFFFFFFF
        i = at - 1
        while out[i] == 255:
            out[i] = 0
            i -= 1
        out[i] += 1
    while span < 1 << 24:
        out[at] = low >> 24
        at += 1
        low = (low << 8) & 0xFFFFFFFF
        span <<= 8
    state[0], state[1], state[2] = low, span, at


@njit(cache=True)
def _put_bits(state: Ints, out: Array, value: int, n: int) -> None:
    while n > 0:
        m = min(n, 16)
        n -= m
        chunk = (value >> n) & ((1 << m) - 1)
        _put(state, out, chunk << (16 - m), 1 << (16 - m))


@njit(cache=True)
def _put_golomb(state: Ints, out: Array, value: int, k: int) -> None:
    u = value + (1 << k)
    n = 0
    while u >> (n + 1):
        n += 1
    for _ in range(n - k):
        _put_bits(state, out, 1, 1)
    _put_bits(state, out, 0, 1)
    _put_bits(state, out, u & ((1 << n) - 1), n)


@njit(cache=True)
def _finish(state: Ints, out: Array) -> int:
    low, span, at = state[0], state[1], state[2]
    value = low
    for shift in (32, 24):
        value = ((low + (1 << shift) - 1) >> shift) << shift
        if value < low + span:
            break
    if value > 0xFFFFFFFF:
        value &= 0xFFFFFFFF
        i = at - 1
        while out[i] == 255:
            out[i] = 0
            i -= 1
        out[i] += 1
    for shift in (24, 16, 8, 0):
        out[at] = (value >> shift) & 255
        at += 1
    shortest = max(0, at - 8)
    while at > shortest and out[at - 1] == 0:
        at -= 1
    return at


@njit(cache=True)
def _get(state: Ints, data: Array, cum: int, freq: int) -> None:
    step = state[1] >> 16
    state[0] -= step * cum
    state[1] = step * freq
    while state[1] < 1 << 24:
        byte = data[state[2]] if state[2] < len(data) else 0
        state[0] = (state[0] << 8) | byte
        state[1] <<= 8
        state[2] += 1


@njit(cache=True)
def _target(state: Ints) -> int:
    return min(state[0] // (state[1] >> 16), 65535)


@njit(cache=True)
def _get_bits(state: Ints, data: Array, n: int) -> int:
    value = 0
    while n > 0:
        m = min(n, 16)
        n -= m
        chunk = _target(state) >> (16 - m)
        _get(state, data, chunk << (16 - m), 1 << (16 - m))
        value = (value << m) | chunk
    return value


@njit(cache=True)
def _get_golomb(state: Ints, data: Array, k: int) -> int:
    n = k
    while _get_bits(state, data, 1):
        n += 1
    return _get_bits(state, data, n) + (1 << n) - (1 << k)


@njit(cache=True)
def _encode(
    x: Ints, delta: int, lattice: bool, mean: int, taps: Ints, fast: int, slow: int, start: int,
    edges: Ints, low_bits: Ints, cum: Ints, order: int, out: Array,
) -> int:  # fmt: skip
    state = np.array([0, 0xFFFFFFFF, 0], np.int64)
    ks = _residuals(x, taps, mean, delta, lattice)
    levels = np.searchsorted(edges, _activity(ks, fast, slow, start), side="right")
    _put_golomb(state, out, 2 * ks[0] if ks[0] >= 0 else -2 * ks[0] - 1, order)
    for t in range(1, len(x)):
        level = levels[t]
        low = low_bits[level]
        high = ks[t] >> low
        symbol = high + REACH if abs(high) <= REACH else TAIL
        table = cum[level]
        _put(state, out, table[symbol], table[symbol + 1] - table[symbol])
        if symbol == TAIL:
            beyond = abs(high) - REACH - 1
            _put_golomb(state, out, 2 * beyond + (1 if high < 0 else 0), 3)
        if low:
            _put_bits(state, out, ks[t] & ((1 << low) - 1), low)
    return _finish(state, out)


@njit(cache=True)
def _decode(
    data: Array, n: int, delta: int, lattice: bool, mean: int, taps: Ints, fast: int, slow: int,
    start: int, edges: Ints, low_bits: Ints, cum: Ints, order: int,
) -> Ints:  # fmt: skip
    state = np.array([0, 0xFFFFFFFF, 4], np.int64)
    for i in range(4):
        state[0] = (state[0] << 8) | data[i]
    past = np.empty(n + ORDER, np.int64)
    u = _get_golomb(state, data, order)
    k = u >> 1 if u % 2 == 0 else -((u + 1) >> 1)
    past[: ORDER + 1] = mean + k * delta
    a = b = start
    for t in range(1, n):
        level = np.searchsorted(edges, a + b, side="right")
        table = cum[level]
        symbol = np.searchsorted(table, _target(state), side="right") - 1
        _get(state, data, table[symbol], table[symbol + 1] - table[symbol])
        high = symbol - REACH
        if symbol == TAIL:
            u = _get_golomb(state, data, 3)
            high = (u >> 1) + REACH + 1
            if u & 1:
                high = -high
        k = high
        low = low_bits[level]
        if low:
            k = (high << low) | _get_bits(state, data, low)
        past[t + ORDER] = _predict(past, t + ORDER, taps, mean, delta, lattice) + k * delta
        a += ((abs(k) << 12) - a) >> fast
        b += ((abs(k) << 12) - b) >> slow
    return past[ORDER:]
