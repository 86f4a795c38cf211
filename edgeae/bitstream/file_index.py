"""What the end of a file says: totals, and places to start reading from."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeae.bitstream.varint import pack_varint, unpack_varint
from edgeae.errors import CorruptError, TruncatedError

__all__ = ["END_MAGIC", "TRAILER_BYTES", "FileIndex"]

END_MAGIC = b"EAE\x89"
TRAILER_BYTES = 8
"""After the end frame: its size, and the magic."""
_FIRST_STRIDE = 16
_MAX_ENTRIES = 4096


@dataclass(kw_only=True)
class FileIndex:
    """The end frame's contents; FORMAT.md, section 7, describes the bytes.

    Attributes:
        n_items: items in the file.
        n_frames: frames in the file.
        stride: frames from one entry to the next.
        entries: (item, bytes after the header) of frames 0, stride, 2 * stride, ...; that of frame
            0 is (0, 0).
    """

    n_items: int = 0
    n_frames: int = 0
    stride: int = _FIRST_STRIDE
    entries: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])

    def count(self, n_items: int, offset: int) -> None:
        """Take in the next frame: how many items it has, and its first byte after the header."""
        if self.n_frames % self.stride == 0 and self.n_frames:
            self.entries.append((self.n_items, offset))
            if len(self.entries) > _MAX_ENTRIES:
                self.stride *= 2
                del self.entries[1::2]
        self.n_frames += 1
        self.n_items += n_items

    def pack(self) -> bytes:
        """The body of the end frame."""
        body = bytearray(pack_varint(self.n_items) + pack_varint(self.n_frames))
        body += pack_varint(self.stride) + pack_varint(len(self.entries) - 1)
        item, offset = self.entries[0]
        for next_item, next_offset in self.entries[1:]:
            body += pack_varint(next_item - item) + pack_varint(next_offset - offset)
            item, offset = next_item, next_offset
        return bytes(body)

    @classmethod
    def unpack(cls, body: bytes) -> FileIndex:
        """Read the body of an end frame.

        Raises:
            CorruptError: it breaks a rule.
        """
        try:
            n_items, pos = unpack_varint(body, 0)
            n_frames, pos = unpack_varint(body, pos)
            stride, pos = unpack_varint(body, pos)
            count, pos = unpack_varint(body, pos)
            if count > len(body):
                raise CorruptError("the index announces more entries than it has bytes")
            entries = [(0, 0)]
            for _ in range(count):
                items, pos = unpack_varint(body, pos)
                size, pos = unpack_varint(body, pos)
                entries.append((entries[-1][0] + items, entries[-1][1] + size))
        except TruncatedError as error:
            raise CorruptError("the index is cut short") from error
        if pos != len(body):
            raise CorruptError("the index has bytes left over")
        return cls(n_items=n_items, n_frames=n_frames, stride=stride, entries=entries)
