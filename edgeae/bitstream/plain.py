"""The modes that need no coder: raw, constant, and the list of samples off the grid.

FORMAT.md, sections 5 and 6, describe the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.steps import channel_steps
from edgeae.bitstream.varint import pack_signed, pack_varint, unpack_signed, unpack_varint
from edgeae.errors import CorruptError, TruncatedError

__all__ = [
    "decode_constant",
    "decode_raw",
    "encode_coarse_constant",
    "encode_constant",
    "encode_raw",
    "join_ulps",
    "pack_exceptions",
    "split_ulps",
    "unpack_exceptions",
]

MAX_INDEX = (1 << 30) - 1


def encode_raw(samples: npt.NDArray[np.generic]) -> bytes:
    """The samples themselves, little endian, in stream order."""
    return samples.astype(samples.dtype.newbyteorder("<"), copy=False).tobytes()


def decode_raw(payload: bytes, dtype: str, n_samples: int) -> npt.NDArray[np.generic]:
    """Samples [n_samples] of a raw payload.

    Raises:
        CorruptError: the payload has not exactly that many samples.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    if len(payload) != n_samples * kind.itemsize:
        raise CorruptError(
            f"a raw frame of {n_samples} samples has {len(payload)} bytes, "
            f"not {n_samples * kind.itemsize}"
        )
    return np.frombuffer(payload, kind).astype(np.dtype(dtype))


def encode_constant(x: npt.NDArray[np.int32], delta: int | npt.NDArray[np.int64]) -> bytes | None:
    """Code indices x [T, C] as one number per channel, if every sample is then within bounds.

    Args:
        x: grid indices [T, C].
        delta: odd step, or one per channel; an index may be wrong by ``(delta - 1) / 2``.

    Returns:
        The payload, or None if a channel varies too much.

    Example:
        >>> encode_constant(np.array([[5], [6], [7]], np.int32), 3)
        b'\\x0c'
    """
    low, high = x.min(axis=0).astype(np.int64), x.max(axis=0).astype(np.int64)
    if (high - low >= delta).any():
        return None
    return b"".join(pack_signed(int(v)) for v in (low + high) >> 1)


def encode_coarse_constant(
    x: npt.NDArray[np.int32], delta: int | npt.NDArray[np.int64]
) -> bytes | None:
    """Code indices x [T, C] as one number per channel, counted in halves of a step.

    Args:
        x: grid indices [T, C].
        delta: as in `encode_constant`.

    Returns:
        The payload, or None if no such number is within the bounds of all samples.

    Example:
        >>> encode_coarse_constant(np.array([[1001], [1003]], np.int32), 21)  # 95 * 10.5
        b'\\xbe\\x01'
    """
    low, high = x.min(axis=0).astype(np.int64), x.max(axis=0).astype(np.int64)
    halves = (low + high + np.asarray(delta) // 2) // delta
    index, reach = (halves * delta) >> 1, np.asarray(delta) // 2
    if ((high - index > reach) | (index - low > reach) | (np.abs(index) > MAX_INDEX)).any():
        return None
    return b"".join(pack_signed(int(v)) for v in halves)


def decode_constant(
    payload: bytes, n_steps: int, channels: int, halves_of: Sequence[int] | None = None
) -> npt.NDArray[np.int32]:
    """Grid indices int32 [n_steps, channels] of a constant payload.

    Args:
        payload: of `encode_constant`, or of `encode_coarse_constant`.
        n_steps: time steps.
        channels: C.
        halves_of: of the latter the steps, one per channel or one for all.

    Raises:
        CorruptError: the payload is not one index per channel.
    """
    values, pos = [], 0
    try:
        for _ in range(channels):
            value, pos = unpack_signed(payload, pos)
            values.append(value)
    except TruncatedError as error:
        raise CorruptError("a constant frame has fewer values than channels") from error
    if halves_of is not None:
        steps = channel_steps(halves_of, channels)
        values = [value * step >> 1 for value, step in zip(values, steps, strict=True)]
    if pos != len(payload) or max(map(abs, values)) > MAX_INDEX:
        raise CorruptError("a constant frame has bytes left over or a value out of range")
    return np.tile(np.array(values, np.int32), (n_steps, 1))


def pack_exceptions(positions: npt.NDArray[np.intp], samples: npt.NDArray[np.generic]) -> bytes:
    """Pack the samples that the grid cannot hold.

    Args:
        positions: flat positions in the frame, ascending; at least one.
        samples: the samples at these positions, in the stream's dtype, bit for bit.

    Returns:
        The list: its length in runs, then runs of neighbours, where a run of equal samples
        (a gap of NaN) stores the sample once.
    """
    size = samples.dtype.itemsize
    raw = np.frombuffer(encode_raw(samples), f"V{size}")
    bits = raw.view(np.uint8).reshape(-1, size)
    same = np.r_[False, (bits[1:] == bits[:-1]).all(axis=1)]
    joined = np.r_[False, np.diff(positions) == 1]
    pieces: list[tuple[int, int, bool]] = []
    # Stretches of equal neighbours; stretches of one merge into runs of different samples.
    begins = np.flatnonzero(~(same & joined))
    ends = np.r_[begins[1:], len(positions)]
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        alone = end - begin == 1
        if alone and pieces and not pieces[-1][2] and joined[begin]:
            pieces[-1] = (pieces[-1][0], end, False)
        else:
            pieces.append((begin, end, not alone))
    out = bytearray(pack_varint(len(pieces)))
    last = 0
    data = bits.tobytes()
    for begin, end, equal in pieces:
        first = int(positions[begin])
        out += pack_varint(first - last) + pack_varint((end - begin - 1) << 1 | equal)
        out += data[begin * size : (begin + 1 if equal else end) * size]
        last = first + end - begin
    return bytes(out)


def unpack_exceptions(
    data: bytes, dtype: str, n_samples: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.generic]]:
    """Positions and samples of a packed list of exceptions.

    Args:
        data: the list.
        dtype: the stream's sample type.
        n_samples: samples in the frame; no position is beyond them.

    Raises:
        CorruptError: the list breaks a rule.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    size = kind.itemsize
    positions: list[npt.NDArray[np.intp]] = []
    samples: list[npt.NDArray[np.generic]] = []
    last = 0
    try:
        n_runs, pos = unpack_varint(data, 0)
        if not 1 <= n_runs <= n_samples:
            raise CorruptError(f"{n_runs} runs of exceptions in a frame of {n_samples} samples")
        for _ in range(n_runs):
            gap, pos = unpack_varint(data, pos)
            packed, pos = unpack_varint(data, pos)
            count, stored = (packed >> 1) + 1, 1 if packed & 1 else (packed >> 1) + 1
            if gap + count > n_samples - last or stored * size > len(data) - pos:
                raise CorruptError("a run of exceptions reaches beyond its frame")
            values = np.frombuffer(data, kind, stored, pos)
            pos += stored * size
            positions.append(np.arange(last + gap, last + gap + count, dtype=np.intp))
            samples.append(np.repeat(values, count) if packed & 1 else values)
            last += gap + count
    except TruncatedError as error:
        raise CorruptError("the list of exceptions is cut short") from error
    if pos != len(data):
        raise CorruptError(f"the list of exceptions has {len(data) - pos} bytes too many")
    return np.concatenate(positions), np.concatenate(samples).astype(np.dtype(dtype))


def join_ulps(ulps: bytes, runs: bytes) -> bytes:
    """Exceptions made of coded ulps, and of runs where there are some."""
    return b"\0" + pack_varint(len(ulps)) + ulps + runs


def split_ulps(data: bytes) -> tuple[bytes, bytes]:
    """The coded ulps among a frame's exceptions, empty if there are none, and the runs likewise.

    Raises:
        CorruptError: the exceptions break a rule.
    """
    if data[:1] != b"\0":
        return b"", data
    try:
        size, pos = unpack_varint(data, 1)
    except TruncatedError as error:
        raise CorruptError("the list of exceptions is cut short") from error
    if not 1 <= size <= len(data) - pos:
        raise CorruptError(f"ulps are said to take {size} of {len(data) - pos} bytes")
    return data[pos : pos + size], data[pos + size :]
