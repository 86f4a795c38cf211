"""Finding frames in bytes as they come: verify them, step over lost radio packets."""

from __future__ import annotations

import struct

from edgeae.bitstream.file_index import END_MAGIC, TRAILER_BYTES, FileIndex
from edgeae.bitstream.frame import (
    Control,
    Frame,
    file_frame,
    unpack_file_body,
    unpack_file_head,
    unpack_radio,
)
from edgeae.bitstream.header import MAGIC, Profile, StreamHeader
from edgeae.errors import CorruptError, StreamError, TruncatedError, VersionError

__all__ = ["FrameParser"]


class FrameParser:
    """Turns the bytes of a stream, fed in any pieces, into verified frames.

    It keeps no more than one frame's bytes.

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
            size = head.end + (TRAILER_BYTES if is_end else 0)
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
