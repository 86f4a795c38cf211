"""The two checksums of the format, both from the standard library's C code.

References:
    CRC-16: CCITT polynomial 0x1021, most significant bit first, start 0xFFFF, no final XOR
    ("CRC-16/CCITT-FALSE"; check value of ``123456789`` is 0x29B1).
    CRC-32: ISO-HDLC, as in zlib, PNG and Ethernet (check value 0xCBF43926).
"""

from __future__ import annotations

import binascii
import zlib

import numpy as np
import numpy.typing as npt

__all__ = ["crc16", "crc32", "sample_check"]

_BLOCK = 1 << 16


def crc16(data: bytes | bytearray | memoryview, start: int = 0xFFFF) -> int:
    """CRC-16/CCITT-FALSE of `data`, or its continuation from `start`.

    Example:
        >>> hex(crc16(b"123456789"))
        '0x29b1'
    """
    return binascii.crc_hqx(data, start)


def crc32(data: bytes | bytearray | memoryview, start: int = 0) -> int:
    """CRC-32 as in zlib, or its continuation from `start`.

    Example:
        >>> hex(crc32(b"123456789"))
        '0xcbf43926'
    """
    return zlib.crc32(data, start)


def sample_check(
    indices: npt.NDArray[np.integer],
    exceptions: npt.NDArray[np.intp] | None = None,
    ulps: npt.NDArray[np.integer] | None = None,
) -> int:
    """The frame's check of its decoded samples.

    Args:
        indices: grid indices of the frame, any shape, in stream order.
        exceptions: flat positions of samples that travel as exceptions; they count as 0.
        ulps: how far the samples lie beside the grid, flat, if the frame says so.

    Returns:
        CRC-16 of the indices, then of the ulps, as little-endian int32.
    """
    flat = np.ascontiguousarray(indices, dtype="<i4").reshape(-1)
    if exceptions is not None and len(exceptions):
        flat = flat.copy()
        flat[exceptions] = 0
    crc = 0xFFFF
    for part in (flat,) if ulps is None else (flat, ulps.astype("<i4", copy=False)):
        for begin in range(0, part.size, _BLOCK):
            crc = binascii.crc_hqx(part[begin : begin + _BLOCK].tobytes(), crc)
    return crc
