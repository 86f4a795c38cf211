"""The classical codec's work on samples, in C where it is built, else in Python: equal results."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.classical_channel import code_channel
from edgeae.bitstream.classical_measure import measure_channel
from edgeae.bitstream.classical_params import ChannelParams, Raster, read_params, write_params
from edgeae.bitstream.classical_reflection import N_REFLECTION, reflection_of
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.errors import CorruptError
from edgeae.native import core

__all__ = ["decode_rows", "encode_rows", "measure", "reflection"]

IntArray = npt.NDArray[np.int32]

_STRUCT = struct.Struct(f"{len(ChannelParams._fields) - 1 + N_REFLECTION}i")
_NO_PADDING = [(0,) * n for n in range(N_REFLECTION + 1)]


def reflection(rest: npt.NDArray[np.int64], delta: int) -> tuple[int, ...]:
    """Return reflection coefficients that foretell a signal: see `reflection_of`."""
    if core is None:
        return reflection_of(rest, delta)
    found = np.empty(N_REFLECTION, np.int32)
    core.classical_reflect(np.ascontiguousarray(rest), delta, found)
    return tuple(found.tolist())


def measure(
    piece: IntArray,
    near: IntArray | None,
    step: int,
    raster: Raster,
    choices: Sequence[ChannelParams],
    *,
    exactly: bool = False,
) -> list[int]:
    """Tell what a piece of one channel takes with each choice of parameters.

    Args:
        piece: grid indices [T].
        near: reconstruction [T] of the reference, for the choices that have one.
        step: odd step of the residual.
        raster: the pictures' size.
        choices: parameters.
        exactly: code the piece, parameters included, and tell the interval that this uses up, in
            1/256 bit; else only estimate what the residuals take, in 1/16 bit.
    """
    if near is not None:
        choices = [_as_second(params) for params in choices]
    if core is not None:
        costs = np.empty(len(choices), np.int64)
        core.classical_measure(
            *(piece, step, raster.width, raster.height),
            *(_packed(choices), b"" if near is None else near, costs, exactly),
        )
        found: list[int] = costs.tolist()
        return found
    samples = piece.tolist()
    reference = None if near is None else near.tolist()
    if not exactly:
        return measure_channel(samples, reference, choices, step, raster)
    found = []
    for params in choices:
        encoder = RangeEncoder()
        write_params(encoder, params, int(near is not None), raster)
        helper = reference if params.reference >= 0 else None
        code_channel(encoder, samples, helper, params, step, raster)
        found.append(encoder.spent())
    return found


def encode_rows(
    rows: IntArray,
    steps: Sequence[int],
    raster: Raster,
    params: Sequence[ChannelParams],
    *,
    near: IntArray | None = None,
    limit: int | None = None,
) -> tuple[bytes, IntArray] | None:
    """Code channels with given steps and parameters.

    Args:
        rows: grid indices [C, T].
        steps: odd steps of the residual, one per channel.
        raster: the pictures' size.
        params: parameters, one of each channel.
        near: only with one channel: the reconstruction [T] of its reference.
        limit: most bytes, if any.

    Returns:
        The payload and what the reader will see [C, T]; None beyond the limit.
    """
    recon = np.empty_like(rows)
    if near is not None:
        params = [_as_second(params[0])]
    if core is not None:
        payload: bytes | None = core.classical_encode(
            *(rows, len(rows), np.array(steps, np.int32), raster.width, raster.height),
            *(_packed(params), b"" if near is None else near, recon),
            -1 if limit is None else limit,
        )
        return None if payload is None else (payload, recon)
    encoder = RangeEncoder()
    done: list[list[int]] = []
    for channel, (row, step, p) in enumerate(zip(rows.tolist(), steps, params, strict=True)):
        reference = None
        if p.reference >= 0:
            reference = done[p.reference] if near is None else near.tolist()
        write_params(encoder, p, channel + (near is not None), raster)
        done.append(code_channel(encoder, row, reference, p, step, raster))
    recon[:] = done
    payload = encoder.finish()
    return (payload, recon) if limit is None or len(payload) <= limit else None


def decode_rows(payload: bytes, n_steps: int, steps: Sequence[int], raster: Raster) -> IntArray:
    """Read what `encode_rows` wrote: int32 [C, T].

    Args:
        payload: the bytes.
        n_steps: time steps T, or pixels.
        steps: odd steps of the residual, one per channel.
        raster: the pictures' size.

    Raises:
        CorruptError: the payload is damaged.
    """
    recon = np.empty((len(steps), n_steps), np.int32)
    if core is not None:
        deltas = np.array(steps, np.int32)
        if not core.classical_decode(
            payload, len(steps), deltas, raster.width, raster.height, recon
        ):
            raise CorruptError("the payload of a classical frame is damaged")
        return recon
    decoder = RangeDecoder(payload)
    rows: list[list[int]] = []
    for channel, step in enumerate(steps):
        params = read_params(decoder, channel, step, raster)
        reference = rows[params.reference] if params.reference >= 0 else None
        rows.append(code_channel(decoder, n_steps, reference, params, step, raster))
    decoder.finish()
    recon[:] = rows
    return recon


def _packed(params: Sequence[ChannelParams]) -> IntArray:
    """The C kernel's parameter structs."""
    packed = [
        _STRUCT.pack(*p[:6], *p[7:], *p.reflection, *_NO_PADDING[N_REFLECTION - len(p.reflection)])
        for p in params
    ]
    return np.frombuffer(b"".join(packed), np.int32)


def _as_second(params: ChannelParams) -> ChannelParams:
    """The parameters of a channel coded alone, as if its reference were the only one before it."""
    return params._replace(reference=0) if params.reference > 0 else params
