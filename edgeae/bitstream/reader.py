"""Reading a stream: find the frames, verify them, seek by item, step over lost radio packets.

`FrameParser` takes bytes as they come and keeps no more than one frame of them. `FrameReader`
drives a parser from a file object.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

from edgeae.bitstream.frame import (
    Control,
    Frame,
    file_frame,
    unpack_file_body,
    unpack_file_head,
    unpack_radio,
)
from edgeae.bitstream.header import MAGIC, Profile, StreamHeader
from edgeae.bitstream.varint import unpack_varint
from edgeae.bitstream.writer import END_MAGIC
from edgeae.errors import CorruptError, SignalError, StreamError, TruncatedError, VersionError

__all__ = ["FrameParser", "FrameReader"]

_CHUNK = 1 << 16
_TRAILER_BYTES = 8


class FrameParser:
    """Turns the bytes of a stream, fed in any pieces, into verified frames.

    Args:
        header: the header, where it is known out of band (radio). Without it the stream must
            start with its header.

    Attributes:
        header: the stream's header, None until it has been read.
        n_items: item number after the last frame.
        n_frames: frames seen.
        n_lost_items: items in lost radio frames.
        n_skipped_bytes: radio bytes that belonged to no valid frame.
        n_stale_frames: late or duplicate radio frames that were dropped.

    An error inside a piece is raised once the frames before it have been returned: by the same
    call if there are none, else by the next call of `feed` or `close`.
    """

    def __init__(self, header: StreamHeader | None = None) -> None:
        self.header = header
        self.n_items = 0
        self.n_frames = 0
        self.n_lost_items = 0
        self.n_skipped_bytes = 0
        self.n_stale_frames = 0
        self.ended = False
        self._seed = header.checksum if header else b""
        self._buffer = bytearray()
        self._offset = 0
        self._at_end = False
        self._failure: StreamError | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Take more bytes; return the frames that became complete.

        Raises:
            StreamError: the stream is broken here; see the class.
        """
        if self._failure is not None:
            raise self._failure
        self._buffer += data
        frames: list[Frame] = []
        try:
            while (frame := self._next()) is not None:
                frames.append(frame)
        except StreamError as error:
            self._failure = error
            if not frames:
                raise
        return frames

    def end_packet(self) -> list[Frame]:
        """Say that no frame goes on after the bytes fed so far (a radio packet's end)."""
        if self.header is None or self.header.profile is not Profile.RADIO:
            return []
        self._at_end = True
        try:
            return self.feed(b"")
        finally:
            self._at_end = False

    def close(self) -> list[Frame]:
        """Say that no more bytes come; return the last frames (radio only).

        Raises:
            TruncatedError: a file ends before its end mark.
            CorruptError: the last bytes were broken, or a radio stream had no valid frame at all.
        """
        if self._failure is not None:
            raise self._failure
        if self.header is None:
            StreamHeader.unpack(self._buffer)
        frames = self.end_packet()
        if self._failure is not None and not frames:
            raise self._failure
        if self.header is not None and self.header.profile is Profile.RADIO:
            self._skip(len(self._buffer))
            if self.n_skipped_bytes and not self.n_frames:
                raise CorruptError(
                    f"none of the {self.n_skipped_bytes} radio bytes belongs to a valid frame: "
                    "the header or the model differs from the sender's, or the bytes are noise"
                )
            return frames
        if not self.ended:
            raise TruncatedError(
                f"the stream ends inside {self._where()}, after {self.n_items} items: "
                "its end mark is missing"
            )
        return frames

    def jump(self, *, offset: int, n_items: int, n_frames: int) -> None:
        """Go on at another place of the same file: the next byte fed is the one at `offset`."""
        self._buffer.clear()
        self._failure = None
        self.ended = False
        self._offset, self.n_items, self.n_frames = offset, n_items, n_frames

    def _where(self) -> str:
        return f"frame {self.n_frames} at byte {self._offset}"

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._offset += size
        return data

    def _skip(self, size: int) -> None:
        self._take(size)
        self.n_skipped_bytes += size

    def _next(self) -> Frame | None:
        """The next frame, or None if it takes more bytes."""
        if self.header is None:
            try:
                self.header, size = StreamHeader.unpack(self._buffer)
            except TruncatedError:
                return None
            self._seed = self._take(size)[-4:]
        if self.header.profile is Profile.RADIO:
            return self._next_radio(self.header)
        try:
            return self._next_file(self.header)
        except TruncatedError:
            return None
        except StreamError as error:
            raise type(error)(f"{self._where()}: {error}") from error

    def _next_file(self, header: StreamHeader) -> Frame | None:
        while True:
            if self.ended:
                if self._buffer:
                    raise CorruptError("there are bytes after the end mark")
                return None
            head = unpack_file_head(self._buffer[:32], header)
            is_end = head.control == Control.END
            size = head.end + (_TRAILER_BYTES if is_end else 0)
            if len(self._buffer) < size:
                return None
            data = bytes(self._buffer[:size])
            body, check = unpack_file_body(data, head, self._seed)
            if head.control is None:
                frame = file_frame(head, body, check, self.n_items)
                self._take(size)
                self.n_items += frame.n_items
                self.n_frames += 1
                return frame
            if is_end:
                self._read_end(body, data[head.end :], head.end)
            elif head.control & 0x70 != Control.SKIPPABLE:
                raise VersionError(
                    f"control frame {head.control:#04x} belongs to a newer format. "
                    "Install a newer edgeae"
                )
            self._take(size)

    def _read_end(self, body: bytes, trailer: bytes, size: int) -> None:
        index = FileIndex.unpack(body)
        if trailer != struct.pack("<I", size) + END_MAGIC:
            raise CorruptError("the end mark is broken")
        if (index.n_items, index.n_frames) != (self.n_items, self.n_frames):
            raise CorruptError(
                f"the stream ends after {self.n_frames} frames of {self.n_items} items, "
                f"but its end mark counts {index.n_frames} and {index.n_items}"
            )
        self.ended = True

    def _next_radio(self, header: StreamHeader) -> Frame | None:
        while self._buffer:
            view = memoryview(self._buffer)
            try:
                size = self._repeated_header(view, header)
                if size:
                    frame = None
                else:
                    frame, size = unpack_radio(view, header, self.n_items, self._seed)
            except TruncatedError:
                view.release()
                if not self._at_end:
                    return None
                self._skip(1)
                continue
            except CorruptError as error:
                view.release()
                if isinstance(error, _ChangedHeaderError):
                    raise
                self._skip(1)
                continue
            view.release()
            repeated = bytes(self._buffer[:4]) == MAGIC and frame is None
            self._take(size)
            if frame is not None:
                self.n_items = frame.start + frame.n_items
                self.n_lost_items += frame.lost_items
                self.n_frames += 1
                return frame
            self.n_stale_frames += not repeated
        return None

    def _repeated_header(self, view: memoryview, header: StreamHeader) -> int:
        """The length of a header that is repeated here, 0 if none starts here."""
        if bytes(view[:4]) != MAGIC:
            return 0
        try:
            again, size = StreamHeader.unpack(view)
        except TruncatedError:
            raise
        except StreamError:
            return 0
        if again != header:
            raise _ChangedHeaderError(
                "the radio stream goes on with another header; read it as a new stream"
            )
        return size


class _ChangedHeaderError(CorruptError):
    """A radio stream changed its header."""


class FileIndex:
    """The end frame's contents: totals, and places to start reading from."""

    def __init__(
        self, n_items: int, n_frames: int, stride: int, entries: list[tuple[int, int]]
    ) -> None:
        self.n_items = n_items
        self.n_frames = n_frames
        self.stride = stride
        self.entries = entries

    @classmethod
    def unpack(cls, body: bytes) -> FileIndex:
        """Read the body of an end frame; places are (item, bytes after the header)."""
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
        return cls(n_items, n_frames, stride, entries)


class FrameReader:
    """Reads the frames of a stream from a binary file object.

    Iterating yields frames in order; a broken or truncated stream raises after the frames
    before the damage have been yielded.

    Args:
        file: positioned at the stream's start. Only `seek_item` needs it to be seekable.
        header: the header, if it is known out of band (radio).

    Raises:
        StreamError: the header is missing or broken.
    """

    def __init__(self, file: BinaryIO, header: StreamHeader | None = None) -> None:
        self._file = file
        self._parser = FrameParser(header)
        self._pending: list[Frame] = []
        self._closed = False
        self._index: FileIndex | None = None
        self._begin = file.tell() if file.seekable() else 0
        while self._parser.header is None:
            self._pull()
        self.header: StreamHeader = self._parser.header
        self._header_bytes = len(self.header.pack()) if header is None else 0

    @property
    def parser(self) -> FrameParser:
        """The parser, for its counts of lost items and skipped bytes."""
        return self._parser

    def _pull(self) -> None:
        data = self._file.read(_CHUNK)
        if data:
            self._pending += self._parser.feed(data)
        elif not self._closed:
            self._closed = True
            self._pending += self._parser.close()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            while self._pending:
                yield self._pending.pop(0)
            if self._closed:
                return
            self._pull()

    def read_index(self) -> FileIndex | None:
        """The file's index, None if the end is missing or broken. Needs a seekable file."""
        if self._index is None:
            place = self._file.tell()
            try:
                self._index = self._find_index()
            finally:
                self._file.seek(place)
        return self._index

    def _find_index(self) -> FileIndex | None:
        size = self._file.seek(0, io.SEEK_END) - self._begin
        if size < self._header_bytes + _TRAILER_BYTES:
            return None
        self._file.seek(-_TRAILER_BYTES, io.SEEK_END)
        trailer = self._file.read(_TRAILER_BYTES)
        (end_bytes,) = struct.unpack("<I", trailer[:4])
        room = size - self._header_bytes - _TRAILER_BYTES
        if trailer[4:] != END_MAGIC or not 0 < end_bytes <= room:
            return None
        self._file.seek(-_TRAILER_BYTES - end_bytes, io.SEEK_END)
        data = self._file.read(end_bytes)
        try:
            head = unpack_file_head(data[:32], self.header)
            if head.control != Control.END or head.end != end_bytes:
                return None
            index = FileIndex.unpack(unpack_file_body(data, head, self.header.checksum)[0])
        except StreamError:
            return None
        if index.entries[-1][1] > room:
            return None
        return index

    def seek_item(self, item: int) -> None:
        """Go on at the frame that holds `item`: the next frame yielded has it.

        A file without its end is searched from its start. Seeking to the end or beyond leaves no
        frames to yield.

        Raises:
            SignalError: the stream cannot be searched (a pipe, or the radio profile).
            StreamError: damage on the way.
        """
        if self.header.profile is Profile.RADIO or not self._file.seekable():
            raise SignalError("only a seekable file of the file profile can be searched by item")
        if item < 0:
            raise SignalError(f"item {item}: items count from 0")
        index = self.read_index()
        start, place, number = 0, 0, 0
        if index is not None:
            for k, (first, offset) in enumerate(index.entries):
                if first <= item:
                    start, place, number = first, offset, k * index.stride
        offset = self._header_bytes + place
        self._pending.clear()
        self._closed = False
        while True:
            self._file.seek(self._begin + offset)
            self._parser.jump(offset=offset, n_items=start, n_frames=number)
            try:
                head = unpack_file_head(self._file.read(32), self.header)
            except TruncatedError:
                break
            if head.control == Control.END or start + head.n_items > item:
                break
            offset += head.end
            start += head.n_items
            number += head.control is None
        self._file.seek(self._begin + offset)
