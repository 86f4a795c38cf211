"""The classical codec: frames of any integers, without a model.

It stands for what every signal can count on: a base predictor (polynomials fitted to the last
samples, or a linear predictor that the frame carries), an adaptive filter that learns the rest, and
tables that follow the size of recent residuals; lattices, tallies and lags for signals that keep to
multiples, to few values, or to a period. FORMAT.md, section 8, describes the bytes. The loop
runs in C (``native/classical.c``) where it is built, else in Python (`classical_loop`), with equal
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.classical_choice import choose_params
from edgeae.bitstream.classical_kernel import decode_rows, encode_rows
from edgeae.bitstream.classical_params import INDEX_LIMIT, ChannelParams, Raster
from edgeae.bitstream.pace import EIGHTH, Marks
from edgeae.bitstream.steps import channel_steps
from edgeae.errors import SignalError

__all__ = ["decode_classical", "encode_classical", "encode_classical_within"]

IntArray = npt.NDArray[np.int32]


def encode_classical(
    x: IntArray, delta: int | Sequence[int], *, image_size: tuple[int, int] | None = None
) -> tuple[bytes, IntArray]:
    """Code a segment of grid indices.

    Args:
        x: int32 [T, C], ``|x| < 2**30``; pictures as their pixels, row by row, T = N * H * W.
        delta: odd step; every index may be wrong by ``(delta - 1) / 2``. One per channel, or one
            for all.
        image_size: (H, W) of pictures.

    Returns:
        The payload, and what the reader will see: int32 [T, C].

    Raises:
        SignalError: an index or a step is out of range, or there are no samples.

    Example:
        >>> x = np.arange(100, dtype=np.int32).reshape(50, 2)
        >>> payload, recon = encode_classical(x, 1)
        >>> len(payload) < 20, bool((decode_classical(payload, 50, 2, 1) == x).all())
        (True, True)
    """
    coded = encode_classical_within(x, delta, None, image_size=image_size)
    assert coded is not None
    return coded


def encode_classical_within(
    x: IntArray,
    delta: int | Sequence[int],
    limit: int | None,
    *,
    image_size: tuple[int, int] | None = None,
    pace: Marks | None = None,
) -> tuple[bytes, IntArray] | None:
    """Code a segment as `encode_classical` does, unless that takes more than ``limit`` bytes.

    Gives up as soon as the limit is passed, which saves time where another code is known to need
    fewer bytes; of a single channel with a pace, also where its first eighth takes too many, see
    `edgeae.bitstream.pace`. Without a limit, there is always a result.
    """
    raster = _raster(image_size, x.shape[0])
    if x.size == 0 or int(x.max()) >= INDEX_LIMIT or int(x.min()) <= -INDEX_LIMIT:
        raise SignalError("the classical codec takes at least one index, each within 2**30")
    rows = np.ascontiguousarray(x.T, dtype=np.int32)
    steps = channel_steps(delta, len(rows))
    if len(rows) == 1:
        start = None if pace is None or raster.width else (x.shape[0] >> 3, int(pace[EIGHTH]))
        coded = _encode_channel(rows, [], steps, raster, limit, start)[1]
    else:
        chosen: list[ChannelParams] = []
        done: list[IntArray] = []
        for channel, step in enumerate(steps):
            params, alone = _encode_channel(rows[channel, None], done, (step,), raster, None)
            assert params is not None
            assert alone is not None
            chosen.append(params)
            done.append(alone[1][0])
        coded = encode_rows(rows, steps, raster, chosen, limit=limit)
    return None if coded is None else (coded[0], np.ascontiguousarray(coded[1].T))


def _encode_channel(
    row: IntArray,
    done: list[IntArray],
    step: tuple[int, ...],
    raster: Raster,
    limit: int | None,
    start: tuple[int, int] | None = None,
) -> tuple[ChannelParams | None, tuple[bytes, IntArray] | None]:
    """Choose parameters for one channel [1, T] and code it alone, if within the limit.

    Its start, so many steps, must not take more than so many bytes either.
    """
    best, coded = None, None
    for params in choose_params(row[0], done, step[0], raster, limit):
        near = done[params.reference] if params.reference >= 0 else None
        if start is not None:
            head = np.ascontiguousarray(row[:, : start[0]])
            if encode_rows(head, step, raster, (params,), limit=start[1]) is None:
                continue
        found = encode_rows(row, step, raster, (params,), near=near, limit=limit)
        if found is not None:
            best, coded = params, found
            limit = len(found[0]) - 1
        best = best or params
    return best, coded


def decode_classical(
    payload: bytes,
    n_steps: int,
    channels: int,
    delta: int | Sequence[int],
    *,
    image_size: tuple[int, int] | None = None,
) -> IntArray:
    """Read a segment: int32 [n_steps, channels].

    Args:
        payload: what `encode_classical` returned.
        n_steps: time steps, or pixels of all pictures.
        channels: channels.
        delta: the step it was coded with, or one per channel.
        image_size: (H, W) of pictures.

    Raises:
        CorruptError: the payload is damaged.
    """
    raster = _raster(image_size, n_steps)
    recon = decode_rows(payload, n_steps, channel_steps(delta, channels), raster)
    return np.ascontiguousarray(recon.T)


def _raster(image_size: tuple[int, int] | None, n_steps: int) -> Raster:
    if image_size is None:
        return Raster()
    height, width = image_size
    if n_steps % (height * width):
        raise SignalError(f"{n_steps} pixels are not a whole number of {height} x {width} pictures")
    return Raster(width, height)
