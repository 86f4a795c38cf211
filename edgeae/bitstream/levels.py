"""The recalling codec for pictures of few levels: masks, symbols, any picture at coarse bounds.

Such pictures are coded as numbers of a short list of levels, by questions: is the pixel as the one
to its left, is it as the one above, ...? The answers are foretold by those that were given beside
the same neighbours before; the longer pasts, of up to six neighbours, lean on the shorter ones
until they have been met themselves [1]_. FORMAT.md, section 8.5, describes the bytes. The loop runs
in C (``native/levels.c``) where it is built, else in Python, with equal bytes.

References:
    .. [1] J. G. Cleary and I. H. Witten, "Data compression using adaptive coding and partial string
       matching", IEEE Trans. Communications 32(4), 1984; how far they lean is that of a Dirichlet
       prior, D. J. C. MacKay and L. Bauman Peto, "A hierarchical Dirichlet language model", 1995.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.bitstream.recall_model import bits_for, mix
from edgeae.bitstream.steps import channel_steps
from edgeae.errors import CorruptError, SignalError
from edgeae.native import core

__all__ = ["MAX_LEVELS", "decode_levels", "encode_levels"]

IntArray = npt.NDArray[np.int32]
ByteArray = npt.NDArray[np.uint8]

MAX_LEVELS = 64
_FEW = 16
_INDEX_LIMIT = 1 << 30
_INT32_MAX = (1 << 31) - 1
_FIRST_ORDER, _GAP_ORDER = 6, 4
_TRUST = 2  # how many times a shorter past counts
_LEAST = 16  # frequency of a bit
_MOST = 255  # of what a slot has counted
_SLOTS_BITS = 22
_SPARE = 8  # bytes at the end that may yet be dropped
_LOOK = 4096  # pixels that tell that there are too many levels


def encode_levels(
    x: IntArray,
    delta: int | Sequence[int],
    image_size: tuple[int, int],
    limit: int | None = None,
) -> tuple[bytes, IntArray] | None:
    """Code pictures of grid indices.

    Args:
        x: int32 [N * H * W, C], ``|x| < 2**30``: pixels, row by row.
        delta: odd step; every index may be wrong by ``(delta - 1) / 2``. One per channel, or one
            for all.
        image_size: (H, W).
        limit: most bytes that are wanted.

    Returns:
        The payload, and what the reader will see: int32 like x; None where a channel cannot do with
        64 levels, or with 16 and is not flat either, or the payload would pass the limit.

    Raises:
        SignalError: an index or a step is out of range, or these are no whole pictures.

    Example:
        >>> x = np.tile(np.tri(8, dtype=np.int32), (20, 1)).reshape(-1, 1)
        >>> payload, recon = encode_levels(x, 1, (8, 8))
        >>> len(payload), bool((decode_levels(payload, len(x), 1, (8, 8)) == x).all())
        (4, True)
    """
    if x.size == 0 or int(x.max()) >= _INDEX_LIMIT or int(x.min()) <= -_INDEX_LIMIT:
        raise SignalError("the recalling codec takes at least one index, each within 2**30")
    height, width = image_size
    if len(x) % (height * width):
        raise SignalError(f"{len(x)} pixels are not a whole number of {height} x {width} pictures")
    if limit is not None and limit < 0:
        return None
    steps = channel_steps(delta, x.shape[1])
    levels = np.zeros((len(steps), MAX_LEVELS), np.int32)
    counts = np.zeros(len(steps), np.int32)
    symbols = np.empty((len(steps), len(x)), np.uint8)
    for c, step in enumerate(steps):
        found = _few_levels(x[:, c], step // 2)
        if found is None:
            return None
        own, symbols[c] = found
        counts[c] = len(own)
        levels[c, : len(own)] = own
    if core is not None:
        most = -1 if limit is None else limit
        payload: bytes | None = core.levels_encode(symbols, levels, counts, width, height, most)
    else:
        payload = _encode(symbols, levels, counts.tolist(), width, height, limit)
    if payload is None:
        return None
    recon = np.stack([own[row] for own, row in zip(levels, symbols, strict=True)], axis=1)
    return payload, recon


def decode_levels(
    payload: bytes, n_steps: int, channels: int, image_size: tuple[int, int]
) -> IntArray:
    """Read pictures: int32 [n_steps, channels].

    Args:
        payload: what `encode_levels` returned.
        n_steps: pixels of all pictures.
        channels: channels.
        image_size: (H, W).

    Raises:
        CorruptError: the payload is damaged.
    """
    height, width = image_size
    x = np.empty((channels, n_steps), np.int32)
    if core is None:
        _decode(payload, x, width, height)
    elif not core.levels_decode(payload, channels, width, height, x):
        raise CorruptError("the payload of a recalling frame is damaged")
    return np.ascontiguousarray(x.T)


def _few_levels(x: IntArray, bound: int) -> tuple[IntArray, ByteArray] | None:
    """The fewest levels within a bound of all samples, ascending, and the samples' numbers."""
    if len(x) > 2 * _LOOK and _fewest(np.unique(x[:_LOOK]), bound) is None:
        return None
    values = np.unique(x)
    found = _fewest(values, bound)
    if found is None:
        return None
    lowest, highest = values[found], values[np.append(found[1:], len(values)) - 1]
    levels = (lowest.astype(np.int64) + highest) >> 1
    numbers = np.searchsorted(lowest, x, side="right") - 1
    if len(levels) > _FEW and 2 * np.count_nonzero(numbers[1:] == numbers[:-1]) < len(numbers):
        return None
    return levels.astype(np.int32), numbers.astype(np.uint8)


def _fewest(values: IntArray, bound: int) -> npt.NDArray[np.intp] | None:
    """Where among ascending values each level begins; None if there are too many."""
    begins: list[int] = []
    at = 0
    wide = values.astype(np.int64)
    while at < len(values):
        if len(begins) == MAX_LEVELS:
            return None
        begins.append(at)
        at = int(np.searchsorted(wide, wide[at] + 2 * bound, side="right"))
    return np.array(begins, np.intp)


class _Answers:
    """What was answered beside which neighbours; codes one channel."""

    def __init__(self, coder: RangeEncoder | RangeDecoder, n_levels: int, n_pixels: int) -> None:
        self._encoder = coder if isinstance(coder, RangeEncoder) else None
        self._decoder = coder if isinstance(coder, RangeDecoder) else None
        self._n_levels = n_levels
        self._mask = (1 << bits_for(8 * n_pixels, _SLOTS_BITS)) - 1
        self._slots: dict[int, list[int]] = {}  # tag, how often no, how often yes

    @property
    def n_bytes(self) -> int:
        """Bytes written so far."""
        return 0 if self._encoder is None else self._encoder.n_bytes

    def code(self, beside: tuple[int, ...], symbol: int) -> int:
        """Code a pixel's symbol; beside: those left, above, left above, right above, two left, two
        above, the number of levels where there is none."""
        n = self._n_levels
        past = [1]
        for neighbour in beside[:4]:
            past.append(mix(past[-1], neighbour))
        past.append(mix(mix(past[-1], beside[4]), beside[5]))
        for asked, level in enumerate(self._asked_for(beside[0], beside[1])):
            if asked == n - 1 or self._answer(past, asked, symbol == level):
                return level
        raise AssertionError("one of the levels is the last")

    def _asked_for(self, left: int, above: int) -> Iterator[int]:
        n = self._n_levels
        if left < n:
            yield left
        if above < n and above != left:
            yield above
        yield from (level for level in range(n) if level not in (left, above))

    def _answer(self, past: list[int], asked: int, yes: bool) -> bool:
        p, met = 32768, []
        for context in past:
            h = mix(context, asked)
            slot = self._slots.setdefault(h & self._mask, [0, 0, 0])
            if slot[0] != h >> 16:
                slot[:] = h >> 16, 0, 0
            met.append(slot)
            p = (slot[2] * 65536 + _TRUST * p) // (slot[1] + slot[2] + _TRUST)
        p = min(max(p, _LEAST), 65536 - _LEAST)
        if self._encoder is not None:
            self._encoder.encode(0 if yes else p, p if yes else 65536 - p)
        else:
            assert self._decoder is not None
            yes = self._decoder.target() < p
            self._decoder.consume(0 if yes else p, p if yes else 65536 - p)
        for slot in met:
            if slot[1] + slot[2] == _MOST:
                slot[1] >>= 1
                slot[2] >>= 1
            slot[1 + yes] += 1
        return yes


def _code_pictures(
    answers: _Answers, row: list[int], none: int, width: int, height: int, most: float = math.inf
) -> None:
    """Code a channel's symbols in place; stops where far more than ``most`` bytes are written."""
    for t in range(len(row)):
        if answers.n_bytes > most + _SPARE:
            return
        i, j = t // width % height, t % width
        beside = (
            row[t - 1] if j > 0 else none,
            row[t - width] if i > 0 else none,
            row[t - width - 1] if i > 0 and j > 0 else none,
            row[t - width + 1] if i > 0 and j + 1 < width else none,
            row[t - 2] if j > 1 else none,
            row[t - 2 * width] if i > 1 else none,
        )
        row[t] = answers.code(beside, row[t])


def _encode(
    symbols: ByteArray,
    levels: IntArray,
    counts: list[int],
    width: int,
    height: int,
    limit: int | None,
) -> bytes | None:
    encoder, most = RangeEncoder(), math.inf if limit is None else limit
    for row, own, n in zip(symbols.tolist(), levels.tolist(), counts, strict=True):
        encoder.bits(n - 1, 6)
        encoder.golomb(-2 * own[0] - 1 if own[0] < 0 else 2 * own[0], _FIRST_ORDER)
        for k in range(1, n):
            encoder.golomb(own[k] - own[k - 1] - 1, _GAP_ORDER)
        _code_pictures(_Answers(encoder, n, len(row)), row, n, width, height, most)
    payload = encoder.finish()
    return payload if len(payload) <= most else None


def _decode(payload: bytes, x: IntArray, width: int, height: int) -> None:
    decoder = RangeDecoder(payload)
    for row in x:
        n = decoder.bits(6) + 1
        first = decoder.golomb(_FIRST_ORDER)
        own = [-(first >> 1) - 1 if first & 1 else first >> 1]
        for _ in range(1, n):
            own.append(own[-1] + 1 + decoder.golomb(_GAP_ORDER))
        if own[-1] > _INT32_MAX:
            raise CorruptError("a level of a recalling frame does not fit 32 bits")
        symbols = [0] * len(row)
        _code_pictures(_Answers(decoder, n, len(row)), symbols, n, width, height)
        row[:] = np.array(own)[symbols]
    decoder.finish()
