"""Writing a stream: header, frames, end. Memory stays constant, however long the stream."""

from __future__ import annotations

import struct
from typing import BinaryIO

from edgeae.bitstream.file_index import END_MAGIC, FileIndex
from edgeae.bitstream.frame import Control, Frame, pack_control, pack_frame
from edgeae.bitstream.header import Profile, StreamHeader
from edgeae.errors import ConfigError

__all__ = ["FrameWriter", "StreamPacker"]


class StreamPacker:
    """Turns frames into the bytes of a stream, one after the other.

    Call `begin`, then `frame` for each frame, then `end`; the results, joined, are the stream.

    Attributes:
        n_items: items packed so far.
    """

    def __init__(self, header: StreamHeader) -> None:
        self.header = header
        self._packed_header = header.pack()
        self._seed = self._packed_header[-4:]
        self._n_bytes = 0
        self._index = FileIndex() if header.profile is Profile.FILE else None
        self.n_items = 0

    def _count(self, data: bytes) -> bytes:
        self._n_bytes += len(data)
        return data

    def begin(self) -> bytes:
        """The header. A radio stream may leave it out, or repeat it between frames."""
        if self._n_bytes and self.header.profile is Profile.FILE:
            raise ConfigError("the header of a file comes once, before the first frame")
        return self._count(self._packed_header)

    def frame(self, frame: Frame) -> bytes:
        """One frame; its first item is the one after the frame before."""
        data = pack_frame(frame, self.header, self.n_items, self._seed)
        if self._index is not None:
            self._index.count(frame.n_items, self._n_bytes - len(self._packed_header))
        self.n_items += frame.n_items
        return self._count(data)

    def skippable(self, data: bytes, kind: int = 0) -> bytes:
        """A frame for the user's own bytes, kind 0..15, that readers step over (file profile)."""
        if self.header.profile is not Profile.FILE or not 0 <= kind <= 15:
            raise ConfigError("skippable frames have kinds 0..15 and belong to the file profile")
        return self._count(pack_control(Control.SKIPPABLE + kind, data, self._seed))

    def end(self) -> bytes:
        """The index and the end mark of a file; nothing in the radio profile."""
        if self._index is None:
            return b""
        data = pack_control(Control.END, self._index.pack(), self._seed)
        return self._count(data + struct.pack("<I", len(data)) + END_MAGIC)


class FrameWriter:
    """Writes a stream of frames to a binary file object.

    Args:
        file: where to write; it is not closed.
        header: written at once.

    Example:
        >>> import io
        >>> from edgeae.bitstream.frame import Mode
        >>> file = io.BytesIO()
        >>> with FrameWriter(file, StreamHeader(dtype="int16", channels=1, frame_length=4)) as out:
        ...     out.write(Frame(mode=Mode.CONSTANT, n_items=4, payload=b"\\x06", check=0x5BF3))
        >>> len(file.getvalue())
        46
    """

    def __init__(self, file: BinaryIO, header: StreamHeader) -> None:
        self.header = header
        self._file = file
        self._packer: StreamPacker | None = StreamPacker(header)
        self._file.write(self._packer.begin())

    def _open_packer(self) -> StreamPacker:
        if self._packer is None:
            raise ConfigError("the stream is closed; no more frames can be written")
        return self._packer

    def write(self, frame: Frame) -> None:
        """Append a frame."""
        self._file.write(self._open_packer().frame(frame))

    def write_skippable(self, data: bytes, kind: int = 0) -> None:
        """Append bytes of the user's own that readers step over."""
        self._file.write(self._open_packer().skippable(data, kind))

    def close(self) -> None:
        """Write the index and the end mark. A second call does nothing."""
        if self._packer is not None:
            self._file.write(self._packer.end())
            self._packer = None

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After a failure the end mark stays away: the file is truncated, and says so.
        if kind is None:
            self.close()
