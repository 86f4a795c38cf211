"""One frame: the unit that is coded, checked and lost by itself.

FORMAT.md, sections 4 and 5, describe the bytes. This module turns a `Frame` into the bytes of
either profile and back; `reader.py` finds frames in a stream, `writer.py` strings them together.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field

from edgeae.bitstream.crc import crc16, crc32
from edgeae.bitstream.header import Profile, StreamHeader
from edgeae.bitstream.varint import pack_varint, unpack_varint
from edgeae.errors import ConfigError, CorruptError, TruncatedError, VersionError

__all__ = [
    "MAX_RADIO_PAYLOAD_BYTES",
    "Control",
    "Frame",
    "Mode",
    "max_payload_bytes",
    "pack_control",
    "pack_frame",
]

MAX_RADIO_PAYLOAD_BYTES = 0xFFFF
MAX_CONTROL_BYTES = 1 << 22

_SHORT = 0x08
_EXCEPTIONS = 0x10
_CONTROL = 0x80
_LONG_PAYLOAD = 511
_POSITIONS = 1 << 16
# A radio frame this many position units behind the expected one is late or a duplicate.
STALE_UNITS = 1 << 12


class Mode(enum.IntEnum):
    """How a frame's payload codes its samples. 6 is reserved."""

    RAW = 0
    CONSTANT = 1
    CLASSICAL = 2
    NEURAL = 3
    NEURAL_RESIDUAL = 4
    NEURAL_PAST = 5
    RECALL = 7


_VARIANTS = {
    Mode.CONSTANT: 2,
    Mode.NEURAL: 4,
    Mode.NEURAL_RESIDUAL: 4,
    Mode.NEURAL_PAST: 4,
}


class Control(enum.IntEnum):
    """Frames of the file profile that hold no samples. 0x10..0x1F may be skipped by readers."""

    END = 0x00
    SKIPPABLE = 0x10


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """A coded frame.

    Attributes:
        mode: how the payload codes the samples.
        n_items: time steps or images in the frame.
        payload: the coded samples, without the exceptions.
        check: `crc.sample_check` of the decoded samples; None in the radio profile, which has
            no room for it.
        exceptions: samples off the grid (`plain.pack_exceptions`, `plain.join_ulps`), or empty.
        variant: which of up to four sample priors coded the frame (modes 4 and 5); whether the
            payload begins with a step of its own (mode 3: 1), and is fine (2, 3); whether a
            constant counts halves of a step (mode 1: 1); else 0.
        start: item number of the frame's first item; set by readers, ignored by writers.
        lost_items: items missing between the frame before and this one; set by readers.
    """

    mode: Mode
    n_items: int
    payload: bytes
    check: int | None = None
    exceptions: bytes = b""
    variant: int = 0
    start: int = field(default=0, compare=False)
    lost_items: int = field(default=0, compare=False)


def max_payload_bytes(header: StreamHeader, n_items: int) -> int:
    """The format's cap on a payload (with its exceptions): twice the raw samples and 64 bytes."""
    cap = 2 * n_items * header.samples_per_item * header.itemsize + 64
    return min(cap, MAX_RADIO_PAYLOAD_BYTES) if header.profile is Profile.RADIO else cap


def _joined_payload(frame: Frame, header: StreamHeader) -> bytes:
    if not 1 <= frame.n_items <= header.frame_length:
        raise ConfigError(f"a frame of {frame.n_items} items: 1..{header.frame_length} are allowed")
    if not 0 <= frame.variant <= 3:
        raise ConfigError(f"variant {frame.variant} of a frame: 0..3 are allowed")
    body = frame.payload
    if frame.exceptions:
        body = pack_varint(len(frame.exceptions)) + frame.exceptions + body
    cap = max_payload_bytes(header, frame.n_items)
    if len(body) > cap:
        raise ConfigError(
            f"the payload of a frame takes {len(body)} bytes; the format's cap is {cap}. "
            "Use a shorter frame_length"
        )
    return body


def _split_payload(body: bytes, has_exceptions: bool) -> tuple[bytes, bytes]:
    if not has_exceptions:
        return b"", body
    try:
        size, pos = unpack_varint(body, 0)
    except TruncatedError as error:
        raise CorruptError("the payload is too short for its list of exceptions") from error
    if not 1 <= size <= len(body) - pos:
        raise CorruptError(
            f"the list of exceptions is said to take {size} of {len(body) - pos} bytes"
        )
    return body[pos : pos + size], body[pos + size :]


def pack_frame(frame: Frame, header: StreamHeader, start: int, seed: bytes) -> bytes:
    """The frame's bytes in the profile of `header`.

    Args:
        frame: what to pack.
        header: the stream's header.
        start: item number of the frame's first item.
        seed: `header.checksum`.

    Raises:
        ConfigError: the frame breaks a cap of the format.
    """
    body = _joined_payload(frame, header)
    tag = frame.mode | frame.variant << 5 | (_EXCEPTIONS if frame.exceptions else 0)
    if header.profile is Profile.RADIO:
        return _pack_radio(tag, body, frame, header, start, seed)
    head = bytearray([tag])
    if frame.n_items != header.frame_length:
        head[0] |= _SHORT
        head += pack_varint(frame.n_items)
    if frame.check is None:
        raise ConfigError("a frame of the file profile needs the check of its samples")
    data = bytes(head) + pack_varint(len(body)) + body + struct.pack("<H", frame.check)
    return data + struct.pack("<I", crc32(data, crc32(seed)))


def _pack_radio(
    tag: int, body: bytes, frame: Frame, header: StreamHeader, start: int, seed: bytes
) -> bytes:
    unit = header.position_unit
    extra = b""
    if frame.n_items != header.frame_length or start % unit:
        tag |= _SHORT
        extra = pack_varint(frame.n_items * unit + start % unit)
    size = min(len(body), _LONG_PAYLOAD)
    head = struct.pack(">I", tag << 25 | (start // unit % _POSITIONS) << 9 | size)
    if size == _LONG_PAYLOAD:
        head += struct.pack("<H", len(body))
    data = head + extra + body
    return data + struct.pack("<H", crc16(data, crc16(seed)))


def pack_control(kind: int, body: bytes, seed: bytes) -> bytes:
    """The bytes of a frame without samples (file profile)."""
    if len(body) > MAX_CONTROL_BYTES:
        raise ConfigError(f"{len(body)} bytes in a control frame; the cap is {MAX_CONTROL_BYTES}")
    data = bytes([_CONTROL | kind]) + pack_varint(len(body)) + body
    return data + struct.pack("<I", crc32(data, crc32(seed)))


def _mode(number: int) -> Mode:
    try:
        return Mode(number)
    except ValueError:
        raise VersionError(
            f"the frame has mode {number} of a newer format. Install a newer edgeae"
        ) from None


@dataclass(frozen=True, slots=True)
class FileFrameHead:
    """The part of a file frame before its payload."""

    tag: int
    n_items: int
    payload_at: int
    end: int

    @property
    def control(self) -> int | None:
        """The number of a control frame, None for a frame with samples."""
        return self.tag & 0x7F if self.tag & _CONTROL else None


def unpack_file_head(data: bytes | bytearray | memoryview, header: StreamHeader) -> FileFrameHead:
    """Read a file frame's head at the start of `data`; sizes are capped, nothing is verified.

    Raises:
        TruncatedError: more bytes are needed.
        CorruptError: a cap or rule is broken.
    """
    if not len(data):
        raise TruncatedError("the bytes ran out before a frame")
    tag, pos, n_items = data[0], 1, header.frame_length
    if tag & _CONTROL:
        size, pos = unpack_varint(data, pos)
        if size > MAX_CONTROL_BYTES:
            raise CorruptError(
                f"a control frame announces {size} bytes; the cap is {MAX_CONTROL_BYTES}"
            )
        return FileFrameHead(tag, 0, pos, pos + size + 4)
    if tag & _SHORT:
        n_items, pos = unpack_varint(data, pos)
        if not 1 <= n_items < header.frame_length:
            raise CorruptError(
                f"a short frame announces {n_items} items; the stream's frames "
                f"have {header.frame_length}"
            )
    size, pos = unpack_varint(data, pos)
    cap = max_payload_bytes(header, n_items)
    if size > cap:
        raise CorruptError(f"a frame announces {size} bytes of payload; the cap is {cap}")
    return FileFrameHead(tag, n_items, pos, pos + size + 6)


def unpack_file_body(data: bytes, head: FileFrameHead, seed: bytes) -> tuple[bytes, int]:
    """Verify the checksum of a whole frame; return its payload and, if it has one, its check."""
    if struct.unpack_from("<I", data, head.end - 4)[0] != crc32(data[: head.end - 4], crc32(seed)):
        raise CorruptError("the frame's checksum is wrong: its bytes have changed")
    if head.control is not None:
        return data[head.payload_at : head.end - 4], 0
    (check,) = struct.unpack_from("<H", data, head.end - 6)
    return data[head.payload_at : head.end - 6], check


def file_frame(head: FileFrameHead, body: bytes, check: int, start: int) -> Frame:
    """The `Frame` of a verified file frame."""
    mode = _mode(head.tag & 7)
    exceptions, payload = _split_payload(body, bool(head.tag & _EXCEPTIONS))
    _check_tag(mode, head.tag)
    return Frame(
        mode=mode,
        n_items=head.n_items,
        payload=payload,
        check=check,
        exceptions=exceptions,
        variant=head.tag >> 5 & 3,
        start=start,
    )


def _check_tag(mode: Mode, tag: int) -> None:
    variant = tag >> 5 & 3
    if variant >= _VARIANTS.get(mode, 1):
        raise CorruptError(f"a frame of mode {mode} has variant {variant}, which it cannot have")
    if tag & _EXCEPTIONS and mode is Mode.RAW:
        raise CorruptError("a raw frame has a list of exceptions")


def unpack_radio(
    data: bytes | bytearray | memoryview, header: StreamHeader, expected: int, seed: bytes
) -> tuple[Frame | None, int]:
    """Try to read a radio frame at the start of `data`.

    Args:
        data: bytes from the candidate's first on.
        header: the stream's header.
        expected: item number where the next frame should start.
        seed: `header.checksum`.

    Returns:
        The frame and its length in bytes; None instead of the frame if it is late or a duplicate.

    Raises:
        TruncatedError: more bytes are needed.
        CorruptError: no frame starts here.
    """
    if len(data) < 4:
        raise TruncatedError("the bytes ran out in a radio frame's head")
    (word,) = struct.unpack(">I", data[:4])
    tag, position, size = word >> 25, word >> 9 & 0xFFFF, word & 0x1FF
    if tag & 7 not in iter(Mode):
        raise CorruptError("no frame has this mode")
    mode = Mode(tag & 7)
    _check_tag(mode, tag)
    pos, unit = 4, header.position_unit
    if size == _LONG_PAYLOAD:
        if len(data) < 6:
            raise TruncatedError("the bytes ran out in a radio frame's head")
        (size,) = struct.unpack("<H", data[4:6])
        pos = 6
        if size < _LONG_PAYLOAD:
            raise CorruptError("a length is longer than it needs to be")
    n_items, offset = header.frame_length, 0
    if tag & _SHORT:
        packed, pos = unpack_varint(data, pos)
        n_items, offset = divmod(packed, unit)
        if not 1 <= n_items <= header.frame_length or (
            n_items == header.frame_length and offset == 0
        ):
            raise CorruptError(f"an irregular frame of {n_items} items")
    if size > max_payload_bytes(header, n_items):
        raise CorruptError(f"a radio frame announces {size} bytes of payload")
    end = pos + size + 2
    if len(data) < end:
        raise TruncatedError("the bytes ran out in a radio frame")
    whole = bytes(data[:end])
    if struct.unpack_from("<H", whole, end - 2)[0] != crc16(whole[:-2], crc16(seed)):
        raise CorruptError("the radio frame's checksum is wrong")
    exceptions, payload = _split_payload(whole[pos:-2], bool(tag & _EXCEPTIONS))
    # The position counts modulo 2**16; take the nearest one that is not behind.
    ahead = (position - expected // unit) % _POSITIONS
    start = (expected // unit + ahead) * unit + offset
    if ahead >= _POSITIONS - STALE_UNITS or start < expected:
        return None, end
    return Frame(
        mode=mode,
        n_items=n_items,
        payload=payload,
        exceptions=exceptions,
        variant=tag >> 5 & 3,
        start=start,
        lost_items=start - expected,
    ), end
