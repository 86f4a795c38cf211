"""What the end of a file says: totals, and places to start reading from."""

from __future__ import annotations

from array import array
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
        places: item and bytes after the header of frame 0, of frame ``stride``, of frame
            2 * ``stride`` and so on, in turn; those of frame 0 are 0. Plain numbers, for a device
            that writes for days keeps thousands.
    """

    n_items: int = 0
    n_frames: int = 0
    stride: int = _FIRST_STRIDE
    places: array[int] = field(default_factory=lambda: array("Q", (0, 0)))

    @property
    def entries(self) -> list[tuple[int, int]]:
        """The places as pairs."""
        return list(zip(self.places[::2], self.places[1::2], strict=True))

    def count(self, n_items: int, offset: int) -> None:
        """Take in the next frame: how many items it has, and its first byte after the header."""
        if self.n_frames % self.stride == 0 and self.n_frames:
            self.places.extend((self.n_items, offset))
            if len(self.places) > 2 * _MAX_ENTRIES:
                self.stride *= 2
                self._halve()
        self.n_frames += 1
        self.n_items += n_items

    def _halve(self) -> None:
        """Keep every other place, in the memory that is there."""
        kept = (len(self.places) // 2 + 1) // 2
        for k in range(kept):
            self.places[2 * k : 2 * k + 2] = self.places[4 * k : 4 * k + 2]
        del self.places[2 * kept :]

    def pack(self) -> bytes:
        """The body of the end frame."""
        entries = self.entries
        body = bytearray(pack_varint(self.n_items) + pack_varint(self.n_frames))
        body += pack_varint(self.stride) + pack_varint(len(entries) - 1)
        item, offset = entries[0]
        for next_item, next_offset in entries[1:]:
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
            places = array("Q", (0, 0))
            for _ in range(count):
                items, pos = unpack_varint(body, pos)
                size, pos = unpack_varint(body, pos)
                places.extend((places[-2] + items, places[-1] + size))
        except OverflowError as error:
            raise CorruptError("the index points beyond 2^64") from error
        except TruncatedError as error:
            raise CorruptError("the index is cut short") from error
        if pos != len(body):
            raise CorruptError("the index has bytes left over")
        return cls(n_items=n_items, n_frames=n_frames, stride=stride, places=places)
