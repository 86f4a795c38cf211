"""The recalling codec: signals that repeat themselves, at coarse bounds nearly all of them.

Where a classical predictor sees noise, the same few differences often follow one another in the
same order: bits are coded by what came after the same past before (`recall_model`). FORMAT.md,
section 8.4, describes the bytes. The loop runs in C (``native/recall.c``) where it is built, else
in Python, with equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.pace import Marks, Paced
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.bitstream.recall_model import Recall
from edgeae.bitstream.steps import channel_steps
from edgeae.errors import CorruptError, SignalError
from edgeae.native import core

__all__ = ["decode_recall", "encode_recall"]

IntArray = npt.NDArray[np.int32]

_INDEX_LIMIT = 1 << 30
_INT32_MAX = (1 << 31) - 1


def encode_recall(
    x: IntArray,
    delta: int | Sequence[int],
    limit: int | None = None,
    pace: Marks | None = None,
) -> tuple[bytes, IntArray] | None:
    """Code a segment of grid indices.

    Args:
        x: int32 [T, C], ``|x| < 2**30``.
        delta: odd step; every index may be wrong by ``(delta - 1) / 2``. One per channel, or one
            for all.
        limit: most bytes that are wanted; the codec gives up as soon as it is passed.
        pace: most bytes at each mark (see `edgeae.bitstream.pace`), the samples of one channel
            after the other being counted; it gives up where it falls behind.

    Returns:
        The payload, and what the reader will see: int32 [T, C]; None where it gave up.

    Raises:
        SignalError: an index or a step is out of range, or there are no samples.

    Example:
        >>> x = np.tile([3, 500, -20, 7], 250).astype(np.int32)[:, None]
        >>> payload, recon = encode_recall(x, 1)
        >>> len(payload) < 60, bool((decode_recall(payload, 1000, 1, 1) == x).all())
        (True, True)
    """
    if x.size == 0 or int(x.max()) >= _INDEX_LIMIT or int(x.min()) <= -_INDEX_LIMIT:
        raise SignalError("the recalling codec takes at least one index, each within 2**30")
    rows = np.ascontiguousarray(x.T, dtype=np.int32)
    steps = channel_steps(delta, len(rows))
    recon = np.empty_like(rows)
    if limit is not None and limit < 0:
        return None
    if core is not None:
        payload: bytes | None = core.recall_encode(
            rows,
            len(rows),
            np.array(steps, np.int32),
            recon,
            -1 if limit is None else limit,
            pace,
        )
    else:
        payload = _encode(rows, steps, recon, limit, Paced(rows.size, pace))
    return None if payload is None else (payload, np.ascontiguousarray(recon.T))


def decode_recall(
    payload: bytes, n_steps: int, channels: int, delta: int | Sequence[int]
) -> IntArray:
    """Read a segment: int32 [n_steps, channels].

    Args:
        payload: what `encode_recall` returned.
        n_steps: time steps.
        channels: channels.
        delta: the step it was coded with, or one per channel.

    Raises:
        CorruptError: the payload is damaged.
    """
    steps = channel_steps(delta, channels)
    recon = np.empty((channels, n_steps), np.int32)
    if core is None:
        _decode(payload, steps, recon)
    elif not core.recall_decode(payload, channels, np.array(steps, np.int32), recon):
        raise CorruptError("the payload of a recalling frame is damaged")
    return np.ascontiguousarray(recon.T)


def _encode(
    rows: IntArray, steps: tuple[int, ...], recon: IntArray, limit: int | None, paced: Paced
) -> bytes | None:
    encoder = RangeEncoder()
    most = math.inf if limit is None else limit
    for c, (row, step) in enumerate(zip(rows.tolist(), steps, strict=True)):
        recall = Recall(encoder, len(row))
        for t, value in enumerate(row):
            size = (abs(value) + step // 2) // step
            recon[c, t] = step * recall.code(size if value >= 0 else -size)
            if not paced.count(encoder.n_bytes) or encoder.n_bytes > most:
                return None
    payload = encoder.finish()
    return payload if limit is None or len(payload) <= limit else None


def _decode(payload: bytes, steps: tuple[int, ...], recon: IntArray) -> None:
    decoder = RangeDecoder(payload)
    for row, step in zip(recon, steps, strict=True):
        recall = Recall(decoder, len(row))
        for t in range(len(row)):
            value = step * recall.code(0)
            if abs(value) > _INT32_MAX:
                raise CorruptError("a sample of a recalling frame does not fit 32 bits")
            row[t] = value
    decoder.finish()
