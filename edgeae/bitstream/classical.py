"""The classical codec: frames of any integers, without a model.

It stands for what every signal can count on: a base predictor (polynomials fitted to the last
samples, or a linear predictor that the frame carries), an adaptive filter that learns the rest, and
tables that follow the size of recent residuals. FORMAT.md, section 8, describes the bytes. The loop
runs in C (``native/classical.c``) where it is built, else in Python (`classical_loop`), with equal
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.classical_loop import code_channel
from edgeae.bitstream.classical_params import (
    INDEX_LIMIT,
    ChannelParams,
    Raster,
    read_params,
    write_params,
)
from edgeae.bitstream.classical_search import choose_params
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.bitstream.steps import channel_steps
from edgeae.errors import CorruptError, SignalError
from edgeae.native import core

__all__ = ["decode_classical", "encode_classical"]

IntArray = npt.NDArray[np.int32]

_N_REFLECTION = 16


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
    raster = _raster(image_size, x.shape[0])
    if x.size == 0 or int(x.max()) >= INDEX_LIMIT or int(x.min()) <= -INDEX_LIMIT:
        raise SignalError("the classical codec takes at least one index, each within 2**30")
    rows = np.ascontiguousarray(x.T, dtype=np.int32)
    steps = channel_steps(delta, len(rows))
    chosen: list[ChannelParams] = []
    done: list[IntArray] = []
    for channel, (row, step) in enumerate(zip(rows, steps, strict=True)):
        params = choose_params(row, done, step, raster, partial(_size, step))
        chosen.append(params)
        if channel + 1 < len(rows):
            near = done[params.reference] if params.reference >= 0 else None
            done.append(_encode(row[None], (step,), raster, [params], near)[1][0])
    payload, recon = _encode(rows, steps, raster, chosen, None)
    return payload, np.ascontiguousarray(recon.T)


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
    steps = channel_steps(delta, channels)
    recon = np.empty((channels, n_steps), np.int32)
    if core is not None:
        deltas = np.array(steps, np.int32)
        good = core.classical_decode(payload, channels, deltas, raster.width, raster.height, recon)
        if not good:
            raise CorruptError("the payload of a classical frame is damaged")
    else:
        decoder = RangeDecoder(payload)
        rows: list[list[int]] = []
        for channel, step in enumerate(steps):
            params = read_params(decoder, channel, step, raster)
            near = rows[params.reference] if params.reference >= 0 else None
            rows.append(code_channel(decoder, n_steps, near, params, step, raster))
        decoder.finish()
        recon[:] = rows
    return np.ascontiguousarray(recon.T)


def _raster(image_size: tuple[int, int] | None, n_steps: int) -> Raster:
    if image_size is None:
        return Raster()
    height, width = image_size
    if n_steps % (height * width):
        raise SignalError(f"{n_steps} pixels are not a whole number of {height} x {width} pictures")
    return Raster(width, height)


def _packed(params: list[ChannelParams]) -> IntArray:
    """The C kernel's parameter structs."""
    table = np.zeros((len(params), 6 + _N_REFLECTION), np.int32)
    for row, p in zip(table, params, strict=True):
        row[:6] = p.base, p.filter, p.reference, p.start, p.center, p.gain
        row[6 : 6 + len(p.reflection)] = p.reflection
    return table


def _size(
    step: int, piece: IntArray, near: IntArray | None, params: ChannelParams, raster: Raster
) -> int:
    """Bytes that a piece of one channel takes with given parameters."""
    return len(_encode(piece[None], (step,), raster, [params], near)[0])


def _encode(
    rows: IntArray,
    steps: Sequence[int],
    raster: Raster,
    params: list[ChannelParams],
    near: IntArray | None,
) -> tuple[bytes, IntArray]:
    """Code channels [C, T] with given steps and parameters.

    With `near` there is one channel, and `near` is the reconstruction of its reference.
    """
    recon = np.empty_like(rows)
    if core is not None:
        if near is not None:
            params = [_as_second(params[0])]
        table = _packed(params)
        payload: bytes = core.classical_encode(
            rows,
            len(rows),
            np.array(steps, np.int32),
            raster.width,
            raster.height,
            table,
            b"" if near is None else near,
            recon,
        )
        return payload, recon
    encoder = RangeEncoder()
    done: list[list[int]] = []
    for channel, (row, step, p) in enumerate(zip(rows.tolist(), steps, params, strict=True)):
        if near is not None:
            write_params(encoder, _as_second(p), 1, raster)
            done.append(code_channel(encoder, row, near.tolist(), p, step, raster))
        else:
            write_params(encoder, p, channel, raster)
            reference = done[p.reference] if p.reference >= 0 else None
            done.append(code_channel(encoder, row, reference, p, step, raster))
    recon[:] = done
    return encoder.finish(), recon


def _as_second(params: ChannelParams) -> ChannelParams:
    """The parameters of a channel coded alone, as if its reference were the only one before it."""
    return replace(params, reference=0)
