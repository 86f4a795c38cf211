"""The words and constants of a program for ``native/net.c``: their order is that file's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.runtime.views import UnsupportedGraphError

__all__ = ["BLOCK", "Constants", "ConvWords", "Packed", "Words", "pack_float", "pack_integers"]

BLOCK = 16
"""Outputs that a layer computes together."""
_MAGIC = 0x4E454132
_ALIGN = 64

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]


def aligned(size: int) -> npt.NDArray[np.uint8]:
    """Zeros at an address that is a multiple of 64."""
    room = np.zeros(size + _ALIGN, np.uint8)
    start = -room.ctypes.data % _ALIGN
    return room[start : start + size]


class Constants:
    """Tables and weights, one after the other, each aligned to 64 bytes."""

    def __init__(self) -> None:
        self._parts: list[Array] = []
        self._size = 0

    def put(self, values: Array) -> int:
        """Append an array; returns its place in bytes."""
        at = self._size
        raw = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        padding = -len(raw) % _ALIGN
        self._parts += [raw, np.zeros(padding, np.uint8)]
        self._size += len(raw) + padding
        return at

    def array(self) -> npt.NDArray[np.uint8]:
        """All of them, aligned to 64 bytes."""
        whole = aligned(self._size)
        if self._parts:
            np.concatenate(self._parts, out=whole)
        return whole


class Words:
    """The program's int32 words: a header, then each step as its kind, its length and the rest."""

    def __init__(
        self, *, is_float: bool, arena_bytes: int, n_in: int, n_out: int, rows: int
    ) -> None:
        self._head = [_MAGIC, int(is_float), 0, arena_bytes, n_in, n_out, rows, 0]
        self._steps: list[list[int]] = []

    def add(self, step: Sequence[int]) -> None:
        """Append a step: its kind, then its words without the length."""
        self._steps.append([step[0], len(step) + 1, *step[1:]])

    def array(self) -> npt.NDArray[np.int32]:
        """All the words.

        Raises:
            UnsupportedGraphError: a number does not fit 32 bits.
        """
        self._head[2] = len(self._steps)
        words = np.array([*self._head, *(w for step in self._steps for w in step)], np.int64)
        if np.abs(words).max() > np.iinfo(np.int32).max:
            raise UnsupportedGraphError("the net is too large")
        return words.astype(np.int32)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A layer's weights and tables as the kernels read them.

    Attributes:
        weight: int8, int16 or float32 [block, run, ...].
        consts: int32 [4, lanes]: bias, rounding, parity mask, shift; float32 [1, lanes]: bias.
        n_blocks: blocks of 16 lanes.
        length: pairs of a run, or numbers in a float net.
        reach: numbers that a window reads from the start of its last run on.
    """

    weight: Array
    consts: Array
    n_blocks: int
    length: int
    reach: int


@dataclass(frozen=True, kw_only=True)
class ConvWords:
    """A convolution's words, but for what is known once buffers are placed."""

    n_h: int
    n_w: int
    src_h: int
    src_w: int
    dst_h: int
    dst_w: int
    segments: list[int]
    packed: Packed
    low: int
    high: int
    wide: bool

    def words(self, constants: Constants, src: int, dst: int, blocks: list[int]) -> list[int]:
        """The step's words; its tables go to ``constants``."""
        p = self.packed
        segment = constants.put(np.array(self.segments, np.int32))
        block = constants.put(np.array(blocks, np.int32))
        weight, consts = constants.put(p.weight), constants.put(p.consts)
        return [
            5,
            src,
            dst,
            self.n_h,
            self.n_w,
            self.src_h,
            self.src_w,
            self.dst_h,
            self.dst_w,
            len(self.segments),
            p.length,
            segment,
            p.n_blocks,
            block,
            weight,
            p.weight.itemsize,
            consts,
            self.low,
            self.high,
            int(self.wide),
        ]


def _spread(runs: Array, channel: Ints, offset: Ints) -> Array:
    """Weights per lane [lanes, runs, length]: each lane's runs begin ``offset`` numbers later."""
    n_runs, length = runs.shape[1:]
    whole = np.zeros((len(channel), n_runs, length + int(offset.max(initial=0))), runs.dtype)
    for lane, (c, at) in enumerate(zip(channel.tolist(), offset.tolist(), strict=True)):
        if c >= 0:
            whole[lane, :, at : at + length] = runs[c]
    return whole


def pack_integers(runs: Array, bias: Array, shift: Array, channel: Ints, offset: Ints) -> Packed:
    """Integer weights int16 [O, runs, length] for lanes.

    Args:
        runs: the weights.
        bias: int64 [O].
        shift: int64 [O], 0 to 30.
        channel: output of each lane, -1 for none; a multiple of 16 lanes.
        offset: where in the window a lane's runs begin.

    Raises:
        UnsupportedGraphError: a shift is out of range.
    """
    used = channel >= 0
    per_lane = np.where(used, shift[np.maximum(channel, 0)], 0)
    if per_lane.min() < 0 or per_lane.max() > 30:
        raise UnsupportedGraphError(f"shifts of {per_lane.min()} to {per_lane.max()}")
    whole = _spread(runs, channel, offset)
    odd = whole.shape[2] % 2
    whole = np.pad(whole, [(0, 0), (0, 0), (0, odd)])
    n_blocks, n_runs, pairs = len(channel) // BLOCK, whole.shape[1], whole.shape[2] // 2
    weight = whole.reshape(n_blocks, BLOCK, n_runs, pairs, 2).transpose(0, 2, 3, 1, 4)
    narrow = weight.min(initial=0) >= -128 and weight.max(initial=0) <= 127
    consts = np.zeros((4, len(channel)), np.int32)
    consts[0] = np.where(used, bias[np.maximum(channel, 0)], 0)
    consts[1] = np.where(per_lane > 0, (1 << np.maximum(per_lane - 1, 0)) - 1, 0)
    consts[2] = per_lane > 0
    consts[3] = per_lane
    return Packed(
        weight=np.ascontiguousarray(weight, np.int8 if narrow else np.int16),
        consts=consts,
        n_blocks=n_blocks,
        length=pairs,
        reach=2 * pairs,
    )


def pack_float(runs: Array, bias: Array, shift: Array, channel: Ints, offset: Ints) -> Packed:
    """Float weights [O, runs, length] for lanes; ``shift`` is not used."""
    del shift
    whole = _spread(runs.astype(np.float32), channel, offset)
    n_blocks, n_runs, length = len(channel) // BLOCK, whole.shape[1], whole.shape[2]
    weight = whole.reshape(n_blocks, BLOCK, n_runs, length).transpose(0, 2, 3, 1)
    lanes = np.where(channel >= 0, bias[np.maximum(channel, 0)], 0)
    return Packed(
        weight=np.ascontiguousarray(weight),
        consts=lanes.astype(np.float32)[None],
        n_blocks=n_blocks,
        length=length,
        reach=length,
    )
