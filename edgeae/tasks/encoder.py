"""The encoder's half of a stream: samples in, bytes out, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from edgeae.bitstream.frame import MAX_RADIO_PAYLOAD_BYTES, Frame, pack_frame
from edgeae.bitstream.header import Profile, StreamHeader
from edgeae.bitstream.writer import StreamPacker
from edgeae.errors import ConfigError, SignalError
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.manifest import NetSpec
from edgeae.tasks.codec import FrameCodec, frames_at_once
from edgeae.tasks.pieces import in_pieces
from edgeae.tasks.plan import (
    RADIO_HEAD_BYTES,
    GridChoice,
    GridLike,
    StreamOptions,
    choose_grid,
    default_ndim,
    lossy_deltas,
    make_header,
    parse_lattice,
    parse_profile,
)
from edgeae.tasks.steer import (
    RAMP_FRAMES,
    Course,
    NoiseCourse,
    Outlook,
    PlannedSteps,
    RateCourse,
    Steering,
    check_target,
    finest_step,
)

__all__ = ["ByteSink", "StreamEncoder", "sample_type"]

_DTYPES = "iuf"
_END_BYTES = {Profile.FILE: 20, Profile.RADIO: 0}
"""What a stream's end takes, index included: about so much in a short file."""

Samples = NDArray[Any]


class ByteSink(Protocol):
    """Anything that takes bytes: a file, a socket's ``makefile("wb")``."""

    def write(self, data: bytes, /) -> object:
        """Take all of the bytes."""


class StreamEncoder:
    """Codes a signal that arrives piece by piece.

    Args:
        bundle: the model; None codes without one (``max_error`` or ``lossless`` only).
        dtype: type of the samples; None takes that of the first piece.
        channels: channels C; None takes the first piece's.
        image_size: (H, W) of images; None takes the first piece's.
        max_error: bound E on |x - x_hat|, in the signal's units.
        lossless: every sample comes back bit for bit. With neither, the stream is lossy.
        step: step of the latents' quantizer; None takes the bundle's default.
        target_rate: bits per sample that a lossy stream comes to, headers included, within 2 %:
            every frame gets its own step. It holds from the first dozens of frames on, as far as
            the bundle's steps reach.
        target_snr: dB that a lossy stream comes to, and at most half a dB more; likewise.
        outlook: what a survey told of the whole signal that a target is for; None where it is
            live.
        profile: ``file`` (searchable, CRC-32) or ``radio`` (short packets that may get lost).
        frame_length: items per frame; None takes the profile's usual length.
        max_packet: largest radio frame in bytes; frames are halved until they fit.
        grid: the signal's grid, (num, den), or one per channel; None looks for it in the first
            frame.
        rate_hz: sampling rate, carried along; None takes the bundle's.
        metadata: JSON object, carried along.
        effort: rounds of trying other symbols for each image of a lossy stream, 0 to 16: a few
            per cent less at the same error, and many times slower.
        file: where to write what ``write``, ``flush`` and ``close`` return, if anywhere.

    Attributes:
        header: the stream's header, None until the first frame is cut.
        n_items: items coded so far.

    Raises:
        ConfigError: an option makes no sense.

    Example:
        >>> import numpy as np
        >>> import edgeae
        >>> encoder = StreamEncoder(None, lossless=True)
        >>> data = encoder.write(np.arange(1000, dtype=np.int16)) + encoder.close()
        >>> edgeae.decode(None, data)[:4].tolist()
        [0, 1, 2, 3]
    """

    def __init__(
        self,
        bundle: Bundle | None,
        *,
        dtype: DTypeLike | None = None,
        channels: int | None = None,
        image_size: tuple[int, int] | None = None,
        max_error: float | None = None,
        lossless: bool = False,
        step: int | None = None,
        target_rate: float | None = None,
        target_snr: float | None = None,
        outlook: Outlook | None = None,
        profile: Profile | str = Profile.FILE,
        frame_length: int | None = None,
        max_packet: int | None = None,
        grid: GridLike | GridChoice | None = None,
        rate_hz: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        effort: int = 0,
        file: ByteSink | None = None,
    ) -> None:
        self._options = StreamOptions(
            max_error=max_error,
            lossless=lossless,
            step=step,
            target_rate=target_rate,
            target_snr=target_snr,
            profile=parse_profile(profile),
            frame_length=frame_length,
            max_packet=max_packet,
            lattice=None if isinstance(grid, GridChoice) else parse_lattice(grid),
            rate_hz=rate_hz,
            metadata=metadata or {},
            effort=effort,
        )
        self._choice = grid if isinstance(grid, GridChoice) else None
        self._bundle = bundle
        if bundle is not None:
            _ = bundle.codec  # raises where the bundle is for another task
            if self._options.steered:
                check_target(bundle, rate=target_rate, snr=target_snr)
        self._outlook = outlook
        self._steering: Steering | PlannedSteps | None = None
        self._file = file
        self._dtype = None if dtype is None else sample_type(np.dtype(dtype))
        self._layout = None if channels is None else (channels, image_size)
        self._ndim: int | None = None
        self._held: Samples | None = None
        self._n_held = 0
        self._codec: FrameCodec | None = None
        self._packer: StreamPacker | None = None
        self._closed = False
        self.n_items = 0

    @property
    def reached(self) -> float | None:
        """Where a target is given, what the frames so far come to: bits per sample, or dB."""
        return None if self._steering is None else self._steering.reached

    @property
    def header(self) -> StreamHeader | None:
        """The stream's header, None until the first frame is cut."""
        return None if self._codec is None else self._codec.header

    def write(self, samples: ArrayLike) -> bytes:
        """Take samples; return the bytes of the frames they completed, often none.

        Args:
            samples: [T], [T, C], [N, H, W] or [N, H, W, C], any number of items, always of the
                same dtype and layout.

        Raises:
            SignalError: dtype or shape differs from what the stream has.
            ModelError: the bundle does not fit the signal or cannot give the promise.
        """
        x = self._checked(samples)
        held = self._held_buffer(x)
        length = len(held)
        blocks = []
        if self._n_held:
            missing = min(length - self._n_held, len(x))
            held[self._n_held : self._n_held + missing] = x[:missing]
            self._n_held += missing
            x = x[missing:]
            if self._n_held == length:
                blocks.append(held.copy())
                self._n_held = 0
        n_whole = len(x) // length
        blocks += [x[k * length : (k + 1) * length] for k in range(n_whole)]
        data = self._encode(blocks)
        rest = x[n_whole * length :]
        if len(rest):
            held[: len(rest)] = rest
            self._n_held = len(rest)
        return data

    def flush(self) -> bytes:
        """Code what is held back as a short frame, so that everything written can be decoded."""
        if self._closed:
            raise ConfigError("the encoder is closed")
        if self._held is None or not self._n_held:
            return b""
        block = self._held[: self._n_held].copy()
        self._n_held = 0
        return self._encode([block])

    def close(self) -> bytes:
        """Flush, and end the stream. A second call does nothing."""
        if self._closed:
            return b""
        data = self.flush()
        if self._packer is None:
            data += self._begin(None)
        if self._packer is not None:
            data += self._sent(self._packer.end())
        self._closed = True
        return data

    def __enter__(self) -> StreamEncoder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After a failure the end mark stays away: the stream is truncated, and says so.
        if kind is not None or self._closed:
            return
        if self._file is None:
            raise ConfigError(
                "the encoder was left open, and the bytes of its end would be lost: "
                "call close() inside the with block, or give a file"
            )
        self.close()

    def _checked(self, samples: ArrayLike) -> Samples:
        """Samples as [n, C] or [n, H, W, C] in native byte order, the same kind as before."""
        if self._closed:
            raise ConfigError("the encoder is closed")
        x: Samples = np.asarray(samples)
        kind = sample_type(x.dtype)
        if self._dtype is None:
            self._dtype = kind
        if kind != self._dtype:
            raise SignalError(
                f"samples are {kind.name}, the stream is {self._dtype.name}: convert them first"
            )
        is_image = x.ndim >= 3
        channels = x.shape[-1] if x.ndim in (2, 4) else 1
        if not 1 <= x.ndim <= 4 or channels == 0 or 0 in x.shape[1:]:
            raise SignalError(
                f"samples have shape {list(x.shape)}; expected [T], [T, C], [N, H, W] or "
                "[N, H, W, C]"
            )
        layout = (channels, (x.shape[1], x.shape[2]) if is_image else None)
        if self._layout is None:
            self._layout = layout
        if layout != self._layout or self._ndim not in (None, x.ndim):
            raise SignalError(
                f"samples have shape {list(x.shape)}, the stream has {self._layout[0]} "
                f"channel(s)"
                + (f" of {self._layout[1]} pixels" if self._layout[1] else "")
                + (f" and {self._ndim} axes" if self._ndim not in (None, x.ndim) else "")
            )
        self._ndim = x.ndim
        shape = (len(x), *(layout[1] or ()), channels)
        return x.astype(kind, copy=False).reshape(shape)

    def _held_buffer(self, x: Samples) -> Samples:
        if self._held is None:
            header = self._plan(x[:0])
            FrameCodec(header, self._bundle)  # what does not fit is said before a sample is taken
            self._held = np.empty((header.frame_length, *x.shape[1:]), x.dtype)
        return self._held

    def _plan(self, first: Samples) -> StreamHeader:
        channels, image_size = self._layout or (1, None)
        choice = self._choice or choose_grid(first, self._bundle, self._options)
        header = make_header(
            first,
            self._bundle,
            self._options,
            channels=channels,
            image_size=image_size,
            ndim=self._ndim or default_ndim(channels, image_size),
            choice=choice,
        )
        self._check_packet(header)
        return header

    def _check_packet(self, header: StreamHeader) -> None:
        if header.profile is not Profile.RADIO:
            return
        needed = header.samples_per_item * header.itemsize + RADIO_HEAD_BYTES
        allowed = self._packet_bytes()
        if needed > allowed:
            raise ConfigError(
                f"a packet of {allowed} bytes cannot be sure to hold one item, which may take "
                f"{needed}: use a larger max_packet or the file profile"
            )

    def _packet_bytes(self) -> int:
        limit = self._options.max_packet
        return MAX_RADIO_PAYLOAD_BYTES if limit is None else min(limit, MAX_RADIO_PAYLOAD_BYTES)

    def _begin(self, first: Samples | None) -> bytes:
        """The header's bytes; from here on the stream's form is fixed."""
        if first is None:  # nothing was ever written
            channels, image_size = self._layout or (1, None)
            first = np.zeros((0, *(image_size or ()), channels), self._dtype or np.dtype(np.int16))
        header = self._plan(first)
        self._codec = self._open_codec(header)
        self._packer = StreamPacker(header)
        if self._options.steered and len(first):
            # the first frame's step is the header's: a frame at that step need not name it
            trial = self._open_steering(header)
            trial.meet(first)
            step, _ = self._steered_frame(first, trial)
            header = replace(header, step=step, deltas=lossy_deltas(self._model(), step))
            self._codec = self._open_codec(header)
            self._packer = StreamPacker(header)
            self._steering = self._open_steering(header)
        return self._sent(self._packer.begin())

    def _model(self) -> Bundle:
        if self._bundle is None:
            raise AssertionError("a lossy stream without a bundle")
        return self._bundle

    def _open_codec(self, header: StreamHeader) -> FrameCodec:
        codec = FrameCodec(header, self._bundle)
        codec.effort = self._options.effort
        return codec

    def _open_steering(self, header: StreamHeader) -> Steering | PlannedSteps:
        options, net, outlook = self._options, self._net(), self._outlook
        if outlook is not None and outlook.step is not None:
            return PlannedSteps(outlook)
        course: Course
        low, ramp = net.min_step, RAMP_FRAMES * header.frame_length * header.samples_per_item
        if options.target_rate is not None:
            course = RateCourse(
                options.target_rate,
                overhead_bits=8 * (len(header.pack()) + _END_BYTES[header.profile]),
                ramp=ramp,
                n_total=None if outlook is None else outlook.n_samples,
            )
        else:
            course = NoiseCourse(options.target_snr or 0.0, ramp=ramp // 4)
            low = finest_step(self._bundle) if self._bundle is not None else low
        return Steering(course, low=low, high=net.max_step, start=max(low, header.step))

    def _net(self) -> NetSpec:
        net = None if self._bundle is None else self._bundle.net
        if net is None:
            raise AssertionError("only a window code can be steered")
        return net

    def _encode(self, blocks: list[Samples]) -> bytes:
        if not blocks:
            return b""
        parts = []
        if self._packer is None:
            parts.append(self._begin(blocks[0]))
        at_once = frames_at_once(blocks[0].size)
        for begin in range(0, len(blocks), at_once):
            parts += self._encode_batch(blocks[begin : begin + at_once])
        return b"".join(parts)

    def _encode_batch(self, blocks: list[Samples], *, met: bool = False) -> Iterator[bytes]:
        codec, packer = self._opened()
        steering = self._steering
        frames: Iterable[Frame] = codec.encode(blocks) if steering is None else ()
        if steering is not None:
            frames = self._steered(blocks, steering, met=met)
        for block, frame in zip(blocks, frames, strict=True):
            if self._too_large(frame, packer):
                middle = (len(block) + 1) // 2
                for half in (block[:middle], block[middle:]):
                    yield from self._encode_batch([half], met=True)
                continue
            for piece in in_pieces(codec, block, frame):
                data = packer.frame(piece)
                self.n_items += piece.n_items
                if steering is not None:
                    steering.took(piece.n_items * packer.header.samples_per_item)
                yield self._sent(data)

    def _steered(
        self, blocks: list[Samples], steering: Steering | PlannedSteps, *, met: bool
    ) -> Iterator[Frame]:
        """Frames one by one: each step follows from the frames before."""
        for block in blocks:
            if not met:
                steering.meet(block)
            yield self._steered_frame(block, steering)[1]

    def _steered_frame(
        self, block: Samples, steering: Steering | PlannedSteps
    ) -> tuple[int, Frame]:
        """A block's frame at the step that keeps to the course, and that step."""
        codec, packer = self._opened()
        frames: dict[int, Frame] = {}

        def coded(step: int) -> Frame:
            if step not in frames:
                (frames[step],) = codec.encode([block], step)
            return frames[step]

        def cost(step: int) -> float:
            if isinstance(steering, PlannedSteps):
                raise AssertionError("a plan asks for no cost")
            frame, header = coded(step), packer.header
            n_bytes = len(pack_frame(frame, header, packer.n_items, header.checksum))
            return steering.course.cost(block, partial(codec.decode, [frame]), n_bytes)

        step = steering.choose(block.size, cost)
        return step, coded(step)

    def _opened(self) -> tuple[FrameCodec, StreamPacker]:
        if self._codec is None or self._packer is None:
            raise AssertionError("the stream has not begun")
        return self._codec, self._packer

    def _too_large(self, frame: Frame, packer: StreamPacker) -> bool:
        if packer.header.profile is not Profile.RADIO or frame.n_items == 1:
            return False
        limit = self._packet_bytes()
        if len(frame.payload) + len(frame.exceptions) > limit:
            return True
        header = packer.header
        return len(pack_frame(frame, header, packer.n_items, header.checksum)) > limit

    def _sent(self, data: bytes) -> bytes:
        if self._file is not None and data:
            self._file.write(data)
        return data


def sample_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in native byte order, or a SignalError where it cannot be coded."""
    if dtype.kind not in _DTYPES or dtype.itemsize > 8:
        raise SignalError(
            f"samples are {dtype}; expected integers or floats of up to 64 bits: convert them first"
        )
    return dtype.newbyteorder("=")
