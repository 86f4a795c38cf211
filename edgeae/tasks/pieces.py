"""Long frames in several pieces: for signals that change their ways.

A frame of the classical mode has one set of parameters. Where a pulse is at rest now and in motion
then, short frames with parameters of their own take less, for all that each costs beside.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeae.bitstream.frame import Frame, Mode
from edgeae.bitstream.header import Profile, Promise
from edgeae.tasks.codec import FrameCodec
from edgeae.tasks.setup import Samples

__all__ = ["in_pieces"]

_PIECE_ITEMS = 4096
_HEAD_BYTES = 12  # of a short frame in a file
_LEAST_PIECES = 2


def in_pieces(codec: FrameCodec, block: Samples, frame: Frame) -> list[Frame]:
    """Several short frames in place of a long classical one of a file, if they take less.

    Every other piece shows whether the rest is worth a try.

    Args:
        codec: of the stream.
        block: the frame's samples [n, C].
        frame: what the codec made of them.

    Returns:
        The frame itself, or frames of 4,096 time steps; the choice follows from the block alone.
    """
    header, n = codec.header, len(block)
    if (
        frame.mode is not Mode.CLASSICAL
        or header.profile is not Profile.FILE
        or header.promise is Promise.LOSSY
        or header.image_size is not None
        or n < _LEAST_PIECES * _PIECE_ITEMS
    ):
        return [frame]
    pieces = [block[i : i + _PIECE_ITEMS] for i in range(0, n, _PIECE_ITEMS)]
    probes = codec.encode(pieces[1::2])
    share = sum(probe.n_items for probe in probes) / n
    if _size(probes) > share * _size([frame]):
        return [frame]
    frames = probes + codec.encode(pieces[::2])
    frames[1::2], frames[::2] = frames[: len(probes)], frames[len(probes) :]
    return frames if _size(frames) < _size([frame]) else [frame]


def _size(frames: Sequence[Frame]) -> int:
    return sum(len(f.payload) + len(f.exceptions) + _HEAD_BYTES for f in frames)
