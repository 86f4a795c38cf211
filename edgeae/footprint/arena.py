"""One block of memory for all tensors: who needs which bytes when.

A tensor lives from the step that writes it to the last step that reads it. Tensors that live at
the same time must not overlap; others may share bytes. Tensors are placed one by one where there is
room for all of their life, in a few orders: the largest first, the first first, from one end of the
block or from both in turn.

References:
    Y. Pisarchyk and J. Lee, Efficient Memory Management for Deep Neural Net Inference,
    https://arxiv.org/abs/2001.03288, "greedy by size for
    offset calculation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ALIGNMENT", "Lifetime", "Placed", "arena_bytes", "peak_live_bytes", "place"]

ALIGNMENT = 4
"""Every tensor starts at a multiple of so many bytes: a word of a microcontroller."""


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """A tensor that needs memory.

    Attributes:
        name: of the tensor.
        n_bytes: its size.
        first: the step that writes it; -1 for an input.
        last: the last step that reads it.
    """

    name: str
    n_bytes: int
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A tensor and where it lies, in bytes from the start of the arena."""

    tensor: Lifetime
    offset: int


def place(tensors: Sequence[Lifetime]) -> list[Placed]:
    """Offsets for all tensors: the smallest of a few greedy layouts.

    Example:
        >>> a = Lifetime(name="a", n_bytes=8, first=-1, last=0)
        >>> b = Lifetime(name="b", n_bytes=6, first=0, last=1)
        >>> c = Lifetime(name="c", n_bytes=4, first=1, last=2)
        >>> [(p.tensor.name, p.offset) for p in place([a, b, c])]
        [('a', 0), ('b', 8), ('c', 0)]
    """
    real = [t for t in tensors if t.n_bytes]
    by_size = sorted(real, key=lambda t: (-t.n_bytes, t.first, t.name))
    by_time = sorted(real, key=lambda t: (t.first, -t.n_bytes, t.name))
    limit = _aligned(peak_live_bytes(real))
    layouts = [
        _greedy(by_size, None),
        _greedy(by_time, None),
        _greedy(by_size, limit),
        _greedy(by_time, limit),
    ]
    return min(layouts, key=arena_bytes)


def _greedy(tensors: Sequence[Lifetime], limit: int | None) -> list[Placed]:
    """One after the other at the lowest free place; with a limit every second as high as it can."""
    placed: list[Placed] = []
    for number, tensor in enumerate(tensors):
        beside = [
            (p.offset, _aligned(p.offset + p.tensor.n_bytes))
            for p in placed
            if p.tensor.first <= tensor.last and tensor.first <= p.tensor.last
        ]
        size = _aligned(tensor.n_bytes)
        offset = _lowest(size, beside)
        if limit is not None and number % 2 and offset + size <= limit:
            mirrored = [(limit - end, limit - begin) for begin, end in beside if end <= limit]
            if len(mirrored) == len(beside):
                offset = limit - _lowest(size, mirrored) - size
        placed.append(Placed(tensor=tensor, offset=offset))
    return placed


def _lowest(size: int, taken: Sequence[tuple[int, int]]) -> int:
    """The lowest offset where so many bytes are free."""
    offset = 0
    for begin, end in sorted(taken):
        if offset + size <= begin:
            break
        offset = max(offset, end)
    return offset


def arena_bytes(placed: Sequence[Placed]) -> int:
    """Size of the block that holds a layout."""
    return max((_aligned(p.offset + p.tensor.n_bytes) for p in placed), default=0)


def peak_live_bytes(tensors: Sequence[Lifetime]) -> int:
    """Most bytes alive in one step: no layout needs less."""
    steps = range(-1, max((t.last for t in tensors), default=-1) + 1)
    return max(sum(t.n_bytes for t in tensors if t.first <= s <= t.last) for s in steps)


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT
