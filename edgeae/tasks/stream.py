"""Samples in, bytes out, and back: whole signals at once, or streams in constant memory.

One-shot, for arrays that fit into memory::

    data = edgeae.encode(bundle, x, max_error=5)
    y = edgeae.decode(bundle, data)

Streaming, for a device's loop. How the samples are cut into ``write`` calls never changes the
bytes: frames are cut by the stream itself, every ``frame_length`` items, and at ``flush``::

    with StreamEncoder(bundle, max_error=5, file=uplink) as encoder:
        for chunk in sensor:
            encoder.write(chunk)

Whatever has left the encoder can be decoded, also if the program dies before ``close``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeae.bitstream.header import Profile
from edgeae.bitstream.reader import FrameReader
from edgeae.errors import ConfigError
from edgeae.runtime.bundle import Bundle
from edgeae.tasks.decoder import StreamDecoder
from edgeae.tasks.encoder import StreamEncoder, sample_type
from edgeae.tasks.plan import (
    GridChoice,
    GridLike,
    StreamOptions,
    choose_grid,
    parse_lattice,
    parse_profile,
)
from edgeae.tasks.steer import Outlook
from edgeae.tasks.survey import survey

__all__ = ["StreamDecoder", "StreamEncoder", "decode", "encode", "read_items"]

Samples = NDArray[Any]


def encode(
    bundle: Bundle | None,
    signal: ArrayLike,
    *,
    max_error: float | None = None,
    lossless: bool = False,
    step: int | None = None,
    target_rate: float | None = None,
    target_snr: float | None = None,
    profile: Profile | str = Profile.FILE,
    frame_length: int | None = None,
    max_packet: int | None = None,
    grid: GridLike | None = None,
    rate_hz: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    effort: int = 0,
) -> bytes:
    """Code a whole signal.

    Args:
        bundle: the model; None codes without one (``max_error`` or ``lossless`` only).
        signal: [T], [T, C], [N, H, W] or [N, H, W, C].
        max_error: bound E on |x - x_hat|, in the signal's units.
        lossless: every sample comes back bit for bit. With neither, the stream is lossy.
        step: step of the latents' quantizer; None takes the bundle's default.
        target_rate: bits per sample that a lossy stream comes to, headers included, within 2 %.
        target_snr: dB that a lossy stream comes to, and at most half a dB more.
        profile: ``file`` or ``radio``.
        frame_length: items per frame; None takes the profile's usual length.
        max_packet: largest radio frame in bytes.
        grid: the signal's grid, (num, den), or one per channel; None looks for it in the whole
            signal.
        rate_hz: sampling rate, carried along.
        metadata: JSON object, carried along.
        effort: rounds of trying other symbols for each image of a lossy stream, 0 to 16: a few
            per cent less at the same error, and many times slower.

    Raises:
        ConfigError: an option makes no sense.
        SignalError: the array is no signal.
        ModelError: the bundle does not fit the signal or cannot give the promise.

    Example:
        >>> import numpy as np
        >>> x = np.cumsum(np.random.default_rng(0).integers(-9, 10, 5000)).astype(np.int32)
        >>> y = decode(None, encode(None, x, max_error=3))
        >>> int(np.abs(x - y).max())
        3
    """
    x: Samples = np.asarray(signal)
    kind = sample_type(x.dtype)
    choice: GridLike | GridChoice | None = grid
    outlook: Outlook | None = None
    options = StreamOptions(
        max_error=max_error,
        lossless=lossless,
        step=step,
        target_rate=target_rate,
        target_snr=target_snr,
        profile=parse_profile(profile),
        frame_length=frame_length,
        lattice=parse_lattice(grid),
    )
    if 1 <= x.ndim <= 4 and (grid is None or options.steered):
        x = x.astype(kind, copy=False)
        choice = choose_grid(x, bundle, options, whole=True)
        outlook = survey(x, bundle, options, choice)
    encoder = StreamEncoder(
        bundle,
        max_error=max_error,
        lossless=lossless,
        step=step,
        target_rate=target_rate,
        target_snr=target_snr,
        outlook=outlook,
        profile=profile,
        frame_length=frame_length,
        max_packet=max_packet,
        grid=choice,
        rate_hz=rate_hz,
        metadata=metadata,
        effort=effort,
    )
    data = encoder.write(x)
    return data + encoder.close()


def decode(
    bundle: Bundle | None,
    data: bytes | bytearray | memoryview,
    *,
    start: int | None = None,
    stop: int | None = None,
) -> Samples:
    """Decode a whole stream, or items ``start`` to ``stop`` of it.

    Only the frames that hold the wanted items are decoded (file profile).

    Args:
        bundle: the model the stream was coded with; None for streams coded without one.
        data: the stream.
        start: first item, counted from 0; None starts at the first.
        stop: the item after the last one; None goes to the end.

    Raises:
        StreamError: the bytes are no complete, good stream.
        WrongModelError: the stream was coded with another bundle.
        ConfigError: ``start`` or ``stop`` is negative.
    """
    if (start or 0) < 0 or (stop or 0) < 0:
        raise ConfigError("start and stop count items from 0: they cannot be negative")
    if start is None and stop is None:
        decoder = StreamDecoder(bundle)
        parts = [decoder.write(data), decoder.close()]
        return np.concatenate(parts) if len(parts[1]) else parts[0]
    parts = list(read_items(bundle, io.BytesIO(data), start=start or 0, stop=stop))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def read_items(
    bundle: Bundle | None, file: BinaryIO, *, start: int = 0, stop: int | None = None
) -> Iterator[Samples]:
    """Decode items ``start`` to ``stop`` of a stream in a seekable file, piece by piece.

    Yields:
        Samples, at least one (possibly empty) array.

    Raises:
        StreamError: damage before the last wanted item.
        SignalError: the file cannot seek.
    """
    reader = FrameReader(file)
    decoder = StreamDecoder(bundle, header=reader.header)
    radio = reader.header.profile is Profile.RADIO
    if not radio:
        reader.seek_item(start)
    yield decoder.joined([])
    position = 0
    for frame in reader:
        first = decoder.n_items if radio else frame.start
        if stop is not None and frame.start >= stop:
            break
        samples = decoder.decode_frames([frame])
        if decoder.failure is not None:
            raise decoder.failure
        low = max(start - first, 0)
        high = len(samples) if stop is None else max(min(stop - first, len(samples)), 0)
        position = first + len(samples)
        if low < high:
            yield samples[low:high]
        if stop is not None and position >= stop:
            break
