"""The decoder's half of a stream: bytes in, samples out, in constant memory."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeae.bitstream.frame import Frame
from edgeae.bitstream.header import StreamHeader
from edgeae.bitstream.parser import FrameParser
from edgeae.errors import ConfigError, CorruptError, EdgeAEError
from edgeae.runtime.bundle import Bundle
from edgeae.tasks.codec import FrameCodec, frames_at_once
from edgeae.tasks.plan import default_ndim

__all__ = ["StreamDecoder"]

Samples = NDArray[Any]

_MAX_FILL_BYTES = 1 << 26
"""What a gap may grow to when it is filled; a forged position is a few bytes long."""


class StreamDecoder:
    """Decodes a stream that arrives piece by piece.

    Args:
        bundle: the model the stream was coded with; None for streams coded without one.
        header: the header, where it is known out of band (radio).
        lost: what stands for lost radio items: ``hold`` repeats the last sample, so that time
            goes on, up to 64 MiB at once; ``skip`` leaves them out.

    Attributes:
        n_items: items given out so far.
        failure: the error that ended the stream, if one did.
        lost_items: (first, count) of each gap in a radio stream, items counted by the sender.

    Example:
        >>> import numpy as np
        >>> import edgeae
        >>> data = edgeae.encode(None, np.arange(1000, dtype=np.int16), lossless=True)
        >>> decoder = StreamDecoder(None)
        >>> parts = [decoder.write(data[:40]), decoder.write(data[40:]), decoder.close()]
        >>> np.concatenate(parts).shape
        (1000,)
    """

    def __init__(
        self,
        bundle: Bundle | None,
        *,
        header: StreamHeader | None = None,
        lost: Literal["hold", "skip"] = "hold",
    ) -> None:
        if lost not in ("hold", "skip"):
            raise ConfigError(f"lost is {lost!r}: choose hold or skip")
        self._bundle = bundle
        self._parser = FrameParser(header)
        self._codec = None if header is None else FrameCodec(header, bundle)
        self._lost = lost
        self._last: Samples | None = None
        self.failure: EdgeAEError | None = None
        self._closed = False
        self.n_items = 0
        self.lost_items: list[tuple[int, int]] = []

    @property
    def header(self) -> StreamHeader | None:
        """The stream's header, None until it has arrived."""
        return self._parser.header

    def write(self, data: bytes | bytearray | memoryview) -> Samples:
        """Take bytes; return the samples of the frames they completed, often none.

        Until the header is complete the type of the samples is unknown; the result is then an
        empty array of bools.

        Raises:
            StreamError: the bytes are no good stream from here on. Samples of frames before the
                damage are returned first, by the call that met it; then every call raises.
            WrongModelError: the stream was coded with another bundle.
        """
        if self._closed:
            raise ConfigError("the decoder is closed")
        if self.failure is not None:
            raise self.failure
        return self.decode_frames(self._parser.feed(data))

    def end_packet(self) -> Samples:
        """Say that a radio packet ends here, so that no frame goes on beyond it."""
        return self.decode_frames(self._parser.end_packet())

    def close(self) -> Samples:
        """Say that no more bytes come; return the last samples (radio), usually none.

        Raises:
            TruncatedError: the stream is not complete.
            CorruptError: the last bytes were broken.
        """
        if self._closed:
            return self.joined([])
        if self.failure is not None:
            raise self.failure
        samples = self.decode_frames(self._parser.close())
        if self.failure is None:
            self._closed = True
        return samples

    def __enter__(self) -> StreamDecoder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and not self._closed and len(self.close()):
            raise ConfigError(
                "the last samples came with the end of the stream: "
                "call close() inside the with block and keep what it returns"
            )

    def decode_frames(self, frames: list[Frame]) -> Samples:
        """Samples of frames that were parsed elsewhere, up to the first broken one."""
        header = self._parser.header
        if header is None:
            return np.zeros(0, np.bool_)
        if self._codec is None:
            self._codec = FrameCodec(header, self._bundle)
        at_once = frames_at_once(header.frame_length * header.samples_per_item)
        parts: list[Samples] = []
        for begin in range(0, len(frames), at_once):
            batch = frames[begin : begin + at_once]
            for frame, samples in zip(batch, self._decode_batch(batch, parts), strict=False):
                parts += self._bridge(frame, samples[:1], parts)
                if self.failure is not None:
                    break
                parts.append(samples)
                self._last = samples[-1:]
                self.n_items += frame.n_items
            if self.failure is not None:
                break
        return self.joined(parts)

    def _decode_batch(self, batch: list[Frame], before: list[Samples]) -> list[Samples]:
        """Samples of a batch; of the frames before the first broken one if one is broken."""
        codec = self._codec
        if codec is None:
            raise AssertionError("frames without a header")
        try:
            return codec.decode(batch)
        except EdgeAEError as error:
            if len(batch) == 1:
                return self._fail(batch[0], error, before)
        whole: list[Samples] = []
        for frame in batch:
            try:
                whole += codec.decode([frame])
            except EdgeAEError as error:
                self._fail(frame, error, before + whole)
                break
        return whole

    def _fail(self, frame: Frame, error: EdgeAEError, before: list[Samples]) -> list[Samples]:
        failure = type(error)(f"the frame at item {frame.start}: {error}")
        failure.__cause__ = error
        self.failure = failure
        if not before:
            raise failure
        return []

    def _bridge(self, frame: Frame, next_item: Samples, before: list[Samples]) -> list[Samples]:
        """What stands for the items lost before a frame, if something shall."""
        if not frame.lost_items:
            return []
        held = next_item if self._last is None else self._last
        if self._lost == "hold" and frame.lost_items * held.nbytes > _MAX_FILL_BYTES:
            message = (
                f"{frame.lost_items} items are lost before it: too many to fill in. "
                "Decode with lost='skip'"
            )
            return self._fail(frame, CorruptError(message), before)
        self.lost_items.append((frame.start - frame.lost_items, frame.lost_items))
        if self._lost == "skip":
            return []
        self.n_items += frame.lost_items
        return [np.repeat(held, frame.lost_items, axis=0)]

    def joined(self, parts: list[Samples]) -> Samples:
        """One array in the shape that a user gave; an empty one of that shape for no parts."""
        header = self._parser.header
        if header is None:
            return np.zeros(0, np.bool_)
        if not parts:
            shape = (0, *(header.image_size or ()), header.channels)
            parts = [np.zeros(shape, header.dtype)]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        ndim = header.metadata.get("ndim", default_ndim(header.channels, header.image_size))
        if header.channels == 1 and joined.ndim != ndim:
            joined = joined[..., 0]
        return joined
