"""Where a block's numbers lie in memory, and in which lanes of the kernels they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import numpy.typing as npt

from edgeae.runtime.net_words import BLOCK
from edgeae.runtime.views import View

__all__ = [
    "Buffer",
    "Lanes",
    "best_merge",
    "lanes_of",
    "placement",
    "plain_strides",
    "rank_of",
    "three_axes",
]


@dataclass(kw_only=True, eq=False)
class Buffer:
    """Where a block's numbers lie.

    Attributes:
        shape: (C, H, W) of the block.
        view: the order they are laid out in, [C] or [C, W] or [C, H, W].
        rows: row of each channel of the block, from the row of its position.
        columns: place of each channel in that row.
        row_step: rows per step of H.
        column_step: numbers per step of W.
        grid: (C, H, W) of the layout.
        pads: zeros above, below, left and right, in rows and columns of the layout.
        right: columns at the end of each row that may be overwritten, ``pads[3]`` at least.
        item: bytes of a number.
        extra: numbers after the last row that are read and not used.
        first: step that writes it.
        last: last step that reads it.
        offset: in bytes, once placed.
        n_rows: samples that run together, one after the other.
    """

    shape: tuple[int, int, int]
    view: View
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    row_step: int
    column_step: int
    grid: tuple[int, int, int]
    item: int
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    right: int = 0
    extra: int = 0
    first: int = 0
    last: int = 0
    offset: int = 0
    n_rows: int = 1

    @property
    def row(self) -> int:
        """Numbers of a row."""
        return (self.pads[2] + self.grid[2] + max(self.right, self.pads[3])) * self.grid[0]

    @property
    def base(self) -> int:
        """Place of the layout's first number."""
        return self.pads[0] * self.row + self.pads[2] * self.grid[0]

    @property
    def sample(self) -> int:
        """Numbers of a sample."""
        return (self.pads[0] + self.grid[1] + self.pads[1]) * self.row

    @property
    def size(self) -> int:
        """Bytes."""
        return (self.sample * self.n_rows + self.extra) * self.item

    @property
    def at(self) -> int:
        """Number of the first element, counted from the arena's start."""
        return self.offset // self.item

    def places(self) -> npt.NDArray[np.int64]:
        """Place of each channel at position (0, 0)."""
        return self.base + self.rows * self.row + self.columns

    def strides(self) -> tuple[int, int]:
        """Numbers per step of the block's H and W."""
        return self.row_step * self.row, self.column_step


@dataclass(frozen=True, kw_only=True)
class Lanes:
    """The outputs of a layer in the order of memory, cut into blocks of at most 16.

    Attributes:
        channel: output channel of each lane, -1 in lanes of none.
        position: which of the merged positions a lane computes.
        counts: lanes in use per block.
    """

    channel: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    counts: list[int]

    def table(self, buffer: Buffer) -> list[int]:
        """Pairs per block: where its outputs go at position (0, 0), and how many they are."""
        places = buffer.places()
        found = []
        for i, count in enumerate(self.counts):
            channel, position = int(self.channel[i * BLOCK]), int(self.position[i * BLOCK])
            found += [int(places[channel]) + position * buffer.column_step, count]
        return found


def lanes_of(buffer: Buffer, merge: int) -> Lanes:
    """Lanes of a layer that writes to a buffer ``merge`` positions at a time."""
    n = len(buffer.rows)
    channel = np.tile(np.arange(n), merge)
    position = np.repeat(np.arange(merge), n)
    far = buffer.grid[0] * (buffer.grid[2] + 1) * 64  # rows are never neighbours
    place = buffer.rows[channel] * far + buffer.columns[channel] + position * buffer.column_step
    order = np.argsort(place, kind="stable")
    channel, position, place = channel[order], position[order], place[order]
    cuts = [0, *(np.flatnonzero(np.diff(place) != 1) + 1).tolist(), len(place)]
    lanes, moves, counts = [], [], []
    for begin, end in pairwise(cuts):
        for at in range(begin, end, BLOCK):
            count = min(BLOCK, end - at)
            lanes += [*channel[at : at + count].tolist(), *([-1] * (BLOCK - count))]
            moves += [*position[at : at + count].tolist(), *([0] * (BLOCK - count))]
            counts.append(count)
    return Lanes(channel=np.array(lanes), position=np.array(moves), counts=counts)


def best_merge(buffer: Buffer, length: int, stride: int, width: int) -> int:
    """How many positions to compute at once: fewest vector operations per position."""
    best, least = 1, np.inf
    for merge in (1, 2, 3, 4, 8, 16):
        if merge > 1 and (merge > width or len(buffer.rows) * merge > 8 * BLOCK):
            break
        cost = len(lanes_of(buffer, merge).counts) * (length + (merge - 1) * stride + 6) / merge
        if cost < 0.95 * least:
            best, least = merge, cost
    return best


def placement(view: View, shape: tuple[int, int, int], item: int) -> Buffer | None:
    """A buffer in a view's order, or None where no layer can write that order."""
    c, h, w = shape
    if view.start != (0, 0, 0) or prod(view.shape) != c * h * w:
        return None
    grid = three_axes(view.shape)
    row_axis = 1 if len(view.axes) == 3 else None
    channel = np.zeros(1, np.int64)
    rows, columns = np.zeros(1, np.int64), np.zeros(1, np.int64)
    row_step = column_step = 0
    seen = {1: 1, 2: 1}
    for number, axis in enumerate(view.axes):
        stride = 1 if number == 0 else grid[0]
        if number == row_axis:
            stride = 1
        for f in reversed(axis):
            in_rows = number == row_axis
            if f.axis == 0:
                if f.step < 1:
                    return None
                steps = np.arange(f.size, dtype=np.int64)
                channel = (channel[:, None] + steps * f.step).reshape(-1)
                rows = (rows[:, None] + steps * (stride if in_rows else 0)).reshape(-1)
                columns = (columns[:, None] + steps * (0 if in_rows else stride)).reshape(-1)
            else:
                if seen[f.axis] != 1 or f.step != 1 or in_rows != (f.axis == 1):
                    return None
                seen[f.axis] = f.size
                if f.axis == 1:
                    row_step = stride
                else:
                    column_step = stride
            stride *= f.size
    if seen != {1: h, 2: w} or not np.array_equal(np.sort(channel), np.arange(c)):
        return None
    order = np.argsort(channel)
    return Buffer(
        shape=shape,
        view=view,
        rows=rows[order],
        columns=columns[order],
        row_step=row_step,
        column_step=column_step,
        grid=grid,
        item=item,
    )


def plain_strides(buffer: Buffer, rank: int) -> list[int]:
    """Strides of the axes [C], [C, W] or [C, H, W] of a buffer in its own order."""
    return {1: [1], 2: [1, buffer.grid[0]], 3: [1, buffer.row, buffer.grid[0]]}[rank]


def rank_of(shape: tuple[int, int, int]) -> int:
    """How many axes a block of that shape needs."""
    return 3 if shape[1] > 1 else 2 if shape[2] > 1 else 1


def three_axes(shape: Sequence[int]) -> tuple[int, int, int]:
    """[C], [C, W] or [C, H, W] as (C, H, W)."""
    if len(shape) == 1:
        return shape[0], 1, 1
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    return shape[0], shape[1], shape[2]
