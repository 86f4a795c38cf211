"""What a channel remembers: bits that followed the same past, mixed by how well each past foretold.

A difference of neighbouring samples is coded bit by bit: whether it is zero, its sign, how long
it is, and its digits. Nine contexts, from no past at all to the last six differences, each keep a
count of what this very bit was before; a match with an earlier stretch of the signal adds its own
guess. A small mixer, one for each kind of bit, weighs their logits [1]_. FORMAT.md, section 8.4,
describes it; ``native/recall.c`` is the twin of this module.

References:
    .. [1] M. Mahoney, "Adaptive weighing of context models for lossless data compression", Florida
       Tech. report CS-2005-16, 2005.
"""

from __future__ import annotations

from edgeae.bitstream.cdf import logistic_shape
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.errors import CorruptError

__all__ = ["Recall", "bits_for", "mix"]

_MASK = 0xFFFFFFFF
_CONTEXTS = 9
_REACH = 3071  # of a logit, in 1/256
_LEAST = 16  # frequency of a bit
_MOST_SEEN = 30
_PACE = (50000, 29000, *(131072 // (2 * n + 3) for n in range(2, _MOST_SEEN + 1)))
_WEIGHT = 12288  # 3/16
_WEIGHT_LIMIT = 1 << 20
_LONGEST = 32
_SHAPE = [int(v) for v in logistic_shape()]


class Recall:
    """Codes the symbols of one channel, in steps of its delta.

    Args:
        coder: what writes the bits, or reads them.
        n_steps: samples of the channel; the memory's size follows from it.
    """

    def __init__(self, coder: RangeEncoder | RangeDecoder, n_steps: int) -> None:
        self._coder = coder
        self._slot_mask = (1 << bits_for(64 * n_steps, 22)) - 1
        self._place_shift = 32 - bits_for(2 * n_steps, 20)
        self._slots: dict[int, list[int]] = {}  # place: tag, probability, times seen
        self._mixers: dict[int, tuple[list[int], list[int]]] = {}
        self._places: dict[int, int] = {}
        self._hits = [49152] * 16
        self._contexts = [99] * _CONTEXTS
        self._q: list[int] = []
        self._d = [0] * 6
        self._usual = 0  # size of recent differences, in 1/256
        self._at = 0  # where the match goes on, 0 for none
        self._length = 0

    def code(self, value: int) -> int:
        """Code the next symbol; return it, as the reader sees it.

        Args:
            value: the symbol, anything where it is read.
        """
        q = self._q
        if q:
            self._set_contexts()
            last = q[-1]
            expected = q[self._at] - last if self._at else None
            found = self._difference(value - last, expected)
            q.append(last + found)
            self._d = [found, *self._d[:5]]
            self._usual += (256 * abs(found) - self._usual) >> 3
        else:
            q.append(self._first(value))
        self._follow()
        return q[-1]

    def _first(self, value: int) -> int:
        if isinstance(self._coder, RangeEncoder):
            self._coder.golomb(2 * value if value >= 0 else -2 * value - 1, 6)
            return value
        z = self._coder.golomb(6)
        return -1 - (z >> 1) if z & 1 else z >> 1

    def _set_contexts(self) -> None:
        d = self._d
        c1 = mix(1, d[0])
        c2 = mix(c1, d[1])
        c3 = mix(mix(c2, d[2]), d[3])
        c5 = mix(2, self._q[-1])
        one, two = _size_class(d[0]), _size_class(d[1])
        self._contexts = [
            *(99, c1, c2, c3, mix(mix(c3, d[4]), d[5]), c5, mix(mix(c5, d[0]), d[1])),
            *(mix(mix(3, _size_class(self._usual >> 4)), one), mix(mix(4, one), two)),
        ]

    def _follow(self) -> None:
        """Go on with the match, or look for one."""
        q, t = self._q, len(self._q) - 1
        if self._at and q[self._at] == q[t]:
            self._length += 1
            self._at += 1
        else:
            self._at = self._length = 0
        if t < 2:
            return
        place = mix(mix(q[t], q[t - 1]), q[t - 2]) >> self._place_shift
        at = self._places.get(place, 0)
        if not self._at and at:
            length = 0
            while length < min(_LONGEST, at) and q[at - 1 - length] == q[t - length]:
                length += 1
            if length >= 2:
                self._at, self._length = at, length
        self._places[place] = t + 1

    def _difference(self, d: int, expected: int | None) -> int:
        size, other = abs(d), abs(expected or 0)
        bits, theirs = max(size.bit_length() - 1, 0), max(other.bit_length() - 1, 0)
        if self._bit(int(d == 0), 1, 0, None if expected is None else int(expected == 0)):
            return 0
        matched = bool(expected)
        minus = int((expected or 0) < 0)
        sign = self._bit(int(d < 0), 2, 1, minus if matched else None)
        matched = matched and minus == sign
        node = 256 + 64 * sign
        n = 0
        while True:
            hint = int(n < theirs)
            kind = 2 + min(n, 13)
            more = self._bit(int(n < bits), node + 2 * n, kind, hint if matched else None)
            matched = matched and more == hint
            if not more:
                break
            n += 1
            if n > 31:
                raise CorruptError("a difference is longer than 32 bits")
        path = 1
        for i in range(n - 1, -1, -1):
            hint = other >> i & 1
            kind = 16 + 12 * min(n - 1 - i, 3) + min(i, 11)
            place = mix(node + n, path) | 0x80000000
            digit = self._bit(size >> i & 1, place, kind, hint if matched else None)
            matched = matched and digit == hint
            path = path * 2 + digit
        return -path if sign else path

    def _bit(self, bit: int, node: int, kind: int, expected: int | None) -> int:
        """Code one bit; ``expected`` is the match's."""
        slots, inputs, met = [], [], []
        for context in self._contexts:
            h = mix(context, node)
            slot = self._slots.get(h & self._slot_mask)
            if slot is None:
                slot = self._slots[h & self._slot_mask] = [h >> 22, 32768, 0]
            elif slot[0] != h >> 22:
                slot[:] = (h >> 22, 32768, 0)
            slots.append(slot)
            met.append(slot[2])
            inputs.append(_LOGIT[slot[1] >> 4] if slot[2] else 0)
        trust = 4 + (met[6] > 2) if met[6] else sum(met[i] > 0 for i in (2, 3, 4))
        length = min(self._length, 15)
        guess = 0
        if expected is not None:
            guess = _LOGIT[self._hits[length] >> 4] * (1 if expected else -1)
        inputs += (guess, 256)
        number = (kind * 6 + trust) * 4 + (0 if expected is None else 1 + length // 6)
        mixer = self._mixers.get(number)
        if mixer is None:
            mixer = self._mixers[number] = ([_WEIGHT] * (_CONTEXTS + 1) + [0], [0])
        weights, seen = mixer
        yes = _squash(sum(w * v for w, v in zip(weights, inputs, strict=True)) >> 16)
        yes = min(max(yes, _LEAST), 65536 - _LEAST)
        coder = self._coder
        if isinstance(coder, RangeDecoder):
            bit = int(coder.target() < yes)
        low, share = (0, yes) if bit else (yes, 65536 - yes)
        if isinstance(coder, RangeDecoder):
            coder.consume(low, share)
        else:
            coder.encode(low, share)

        goal = 65535 if bit else 0
        pull = 13 + (seen[0] >= 32) + (seen[0] >= 64) + (seen[0] >= 128)
        seen[0] += 1
        for i, v in enumerate(inputs):
            moved = weights[i] + (((goal - yes) * v + (1 << (pull - 1))) >> pull)
            weights[i] = min(max(moved, -_WEIGHT_LIMIT), _WEIGHT_LIMIT)
        for slot in slots:
            slot[1] += ((goal - slot[1]) * _PACE[slot[2]]) >> 16
            slot[2] = min(slot[2] + 1, _MOST_SEEN)
        if expected is not None:
            hit = self._hits[length]
            self._hits[length] = hit + (((65535 if expected == bit else 0) - hit) >> 6)
        return bit


def bits_for(n: int, most: int) -> int:
    """Bits that number so many places, 10 to ``most``."""
    return min(max((n - 1).bit_length(), 10), most)


def mix(a: int, b: int) -> int:
    """A hash of two numbers, of which only the low 32 bits count."""
    h = (a * 0x9E3779B1 ^ (b + 0x7F4A7C15) * 0x85EBCA6B) & _MASK
    h = (h ^ (h >> 15)) * 0xC2B2AE35 & _MASK
    return h ^ (h >> 13)


def _size_class(v: int) -> int:
    """A number's sign and size, by half octaves."""
    size = abs(v)
    if size >= 3:
        b = size.bit_length() - 1
        size = 2 * b + (size >> (b - 1) & 1)
    return -size - 1 if v < 0 else size


def _squash(x: int) -> int:
    """The probability of a logit in 1/256, of 65536."""
    u = min(max(x, -_REACH), _REACH) + _REACH + 1
    return (_SHAPE[u >> 4] * (16 - (u & 15)) + _SHAPE[(u >> 4) + 1] * (u & 15)) >> 4


def _logits() -> list[int]:
    """For probabilities out of 4096, the least logit that reaches them."""
    found, x = [], -_REACH
    for p in range(4096):
        while x < _REACH and _squash(x) < 16 * p + 8:
            x += 1
        found.append(x)
    return found


_LOGIT = _logits()
