"""Variable-length integers: seven bits a byte, low bits first (LEB128).

Only the shortest spelling of a number is legal, so equal values have equal bytes.
"""

from __future__ import annotations

from edgeae.errors import CorruptError, TruncatedError

__all__ = [
    "MAX_VARINT",
    "pack_signed",
    "pack_varint",
    "unpack_signed",
    "unpack_varint",
    "unzigzag",
    "zigzag",
]

MAX_VARINT = 2**63 - 1
_MAX_BYTES = 9


def pack_varint(value: int) -> bytes:
    """Spell ``0 <= value < 2**63`` in one to nine bytes.

    Example:
        >>> pack_varint(300).hex()
        'ac02'
    """
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"a varint holds 0..2**63-1, not {value}")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def unpack_varint(data: bytes | bytearray | memoryview, pos: int) -> tuple[int, int]:
    """Read the varint at `pos`; return (value, position after it).

    Raises:
        TruncatedError: the bytes run out inside the number.
        CorruptError: the number is longer than it needs to be, or than nine bytes.

    Example:
        >>> unpack_varint(bytes.fromhex("ac02"), 0)
        (300, 2)
    """
    value = 0
    for i in range(_MAX_BYTES):
        if pos + i >= len(data):
            raise TruncatedError(f"the bytes ran out inside the number at byte {pos}")
        byte = data[pos + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if byte == 0 and i > 0:
                raise CorruptError(f"the number at byte {pos} is longer than it needs to be")
            return value, pos + i + 1
    raise CorruptError(f"the number at byte {pos} is longer than {_MAX_BYTES} bytes")


def zigzag(value: int) -> int:
    """Fold the sign into bit 0: 0, -1, 1, -2 become 0, 1, 2, 3."""
    return 2 * value if value >= 0 else -2 * value - 1


def unzigzag(value: int) -> int:
    """Undo `zigzag`."""
    return value >> 1 if value & 1 == 0 else -(value >> 1) - 1


def pack_signed(value: int) -> bytes:
    """Spell a signed number as the varint of its `zigzag`."""
    return pack_varint(zigzag(value))


def unpack_signed(data: bytes | bytearray | memoryview, pos: int) -> tuple[int, int]:
    """Read a signed number; return (value, position after it)."""
    value, pos = unpack_varint(data, pos)
    return unzigzag(value), pos
