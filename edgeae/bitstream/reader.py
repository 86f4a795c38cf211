"""Reading a stream from a file object, from the start or from any item on."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

from edgeae.bitstream.file_index import END_MAGIC, TRAILER_BYTES, FileIndex
from edgeae.bitstream.frame import Control, Frame, unpack_file_body, unpack_file_head
from edgeae.bitstream.header import Profile, StreamHeader
from edgeae.bitstream.parser import FrameParser
from edgeae.errors import SignalError, StreamError, TruncatedError

__all__ = ["FrameReader"]

_CHUNK = 1 << 16


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
        if size < self._header_bytes + TRAILER_BYTES:
            return None
        self._file.seek(-TRAILER_BYTES, io.SEEK_END)
        trailer = self._file.read(TRAILER_BYTES)
        (end_bytes,) = struct.unpack("<I", trailer[:4])
        room = size - self._header_bytes - TRAILER_BYTES
        if trailer[4:] != END_MAGIC or not 0 < end_bytes <= room:
            return None
        self._file.seek(-TRAILER_BYTES - end_bytes, io.SEEK_END)
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
