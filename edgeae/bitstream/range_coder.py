"""The range coder: symbols in, bytes out, and back.

A 32-bit range coder with byte output and carry propagation [1]_. Frequencies are out of 65536. An
encoder's state is the interval ``[low, low + range)``; coding a symbol shrinks it to that symbol's
share, and whole bytes leave as soon as ``range`` falls below 2^24. ``native/range_coder.h`` is the
same coder in C99 and writes the same bytes.

References:
    .. [1] G. N. N. Martin, "Range encoding: an algorithm for removing redundancy from a digitised
       message", 1979; the carry handling follows LZMA's.
"""

from __future__ import annotations

from edgeae.errors import CorruptError, SignalError

__all__ = ["RangeDecoder", "RangeEncoder"]

_TOP = 1 << 24
_MASK = 0xFFFFFFFF
# A finished payload drops at most this many trailing zero bytes, so a decoder never reads further.
_MAX_PADDING = 8


class RangeEncoder:
    """Codes symbols, given as intervals of a 16-bit frequency table, into bytes.

    Example:
        >>> encoder = RangeEncoder()
        >>> encoder.encode(0, 60000)
        >>> encoder.bits(5, 3)
        >>> encoder.golomb(1000, 3)
        >>> payload = encoder.finish()
        >>> decoder = RangeDecoder(payload)
        >>> decoder.target() < 60000
        True
        >>> decoder.consume(0, 60000)
        >>> decoder.bits(3), decoder.golomb(3)
        (5, 1000)
        >>> decoder.finish()
    """

    __slots__ = ("_low", "_out", "_range")

    def __init__(self) -> None:
        self._low = 0
        self._range = _MASK
        self._out = bytearray()

    def encode(self, cum: int, freq: int) -> None:
        """Code the symbol that owns ``[cum, cum + freq)`` out of 65536; ``freq`` is at least 1."""
        step = self._range >> 16
        self._low += step * cum
        self._range = step * freq
        if self._low > _MASK:
            self._carry()
        while self._range < _TOP:
            self._out.append(self._low >> 24)
            self._low = (self._low << 8) & _MASK
            self._range <<= 8

    def bits(self, value: int, n: int) -> None:
        """Code ``n`` (0 to 32) equally likely bits, most significant first."""
        while n > 0:
            m = min(n, 16)
            n -= m
            chunk = (value >> n) & ((1 << m) - 1)
            self.encode(chunk << (16 - m), 1 << (16 - m))

    def golomb(self, value: int, k: int) -> None:
        """Code ``value`` (0 <= value < 2^32 - 2^k) as an Exp-Golomb code of order ``k``."""
        u = value + (1 << k)
        if value < 0 or u > _MASK:
            raise SignalError(f"an escaped value must be in 0..{_MASK - (1 << k)}, found {value}")
        prefix = u.bit_length() - 1 - k
        for _ in range(prefix):
            self.bits(1, 1)
        self.bits(0, 1)
        self.bits(u & ((1 << (k + prefix)) - 1), k + prefix)

    @property
    def n_bytes(self) -> int:
        """Whole bytes so far."""
        return len(self._out)

    def spent(self) -> int:
        """How much of the code's interval is used up so far, in 1/256 bit, nearly."""
        bits = self._range.bit_length()
        return 256 * (8 * len(self._out) + 32 - bits) - (self._range << 8 >> (bits - 1) & 255)

    def finish(self) -> bytes:
        """Return the payload, in as few bytes as tell the last interval apart."""
        end = self._low + self._range
        for shift in (32, 24):
            value = (self._low + (1 << shift) - 1) >> shift << shift
            if value < end:
                break
        self._low = value
        if value > _MASK:
            self._carry()
        out = self._out
        out += self._low.to_bytes(4, "big")
        shortest = max(0, len(out) - _MAX_PADDING)
        while len(out) > shortest and out[-1] == 0:
            out.pop()
        return bytes(out)

    def _carry(self) -> None:
        self._low &= _MASK
        i = len(self._out) - 1
        while self._out[i] == 255:
            self._out[i] = 0
            i -= 1
        self._out[i] += 1


class RangeDecoder:
    """Reads back what a `RangeEncoder` wrote; see there for an example.

    Any bytes are accepted: bytes that no encoder wrote give some symbols or a `CorruptError`.
    """

    __slots__ = ("_code", "_end", "_payload", "_pos", "_range")

    def __init__(self, payload: bytes | bytearray | memoryview) -> None:
        self._payload = bytes(payload)
        self._end = len(self._payload)
        self._code = int.from_bytes(self._payload[:4].ljust(4, b"\0"), "big")
        self._range = _MASK
        self._pos = 4

    def target(self) -> int:
        """Return the point, 0..65535, whose symbol comes next."""
        return min(self._code // (self._range >> 16), 65535)

    def consume(self, cum: int, freq: int) -> None:
        """Step over the symbol that owns ``[cum, cum + freq)``.

        Raises:
            CorruptError: no encoder writes these bytes, or they ran out.
        """
        step = self._range >> 16
        self._code -= step * cum
        self._range = step * freq
        if self._code >= self._range:
            raise CorruptError("the range coder's bytes are damaged: the code left its interval")
        while self._range < _TOP:
            pos = self._pos
            byte = self._payload[pos] if pos < self._end else 0
            self._code = (self._code << 8) | byte
            self._range <<= 8
            self._pos = pos + 1
            if pos >= self._end + _MAX_PADDING:
                raise CorruptError(
                    f"the range coder's bytes ran out: {self._end} bytes hold fewer symbols"
                )

    def bits(self, n: int) -> int:
        """Read ``n`` (0 to 32) bits that `RangeEncoder.bits` wrote."""
        value = 0
        while n > 0:
            m = min(n, 16)
            n -= m
            chunk = self.target() >> (16 - m)
            self.consume(chunk << (16 - m), 1 << (16 - m))
            value = (value << m) | chunk
        return value

    def golomb(self, k: int) -> int:
        """Read a number that `RangeEncoder.golomb` wrote with the same ``k``."""
        n = k
        while self.bits(1):
            n += 1
            if n > 31:
                raise CorruptError("an escape code is longer than 32 bits")
        return self.bits(n) + (1 << n) - (1 << k)

    def finish(self) -> None:
        """Check that every byte was used.

        Raises:
            CorruptError: bytes are left over.
        """
        if self._pos < self._end:
            raise CorruptError(
                f"{self._end - self._pos} bytes are left after the last range-coded symbol"
            )
