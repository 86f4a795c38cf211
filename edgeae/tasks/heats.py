"""Which codes are worth a whole frame, as its beginning tells.

A bundle has several sample priors for the same step: a tight one and a coarse one, with the window
code and without. Each codes the frame's beginning; those that are clearly beaten there do not code
the rest. Who goes on against a prior that has coded the frame has to keep to its pace.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeae.bitstream.pace import Marks
from edgeae.tasks.setup import Indices

__all__ = ["beginning", "close_behind", "to_overtake", "winners"]

_PART, _PART_OF_IMAGES = 24, 16
_LEAST = 256
_MOST = 4096
_ROUNDS = 8  # a frame has at least so many beginnings
_CLOSE = 32  # within 1/32
_CLOSE_BYTES = 4
_BEHIND = np.array([8, 8, 7, 6, 5, 4, 3, 2, 1])  # in 256, at each mark: of what codes alike
_LEARNING = np.array([28, 20, 14, 10, 7, 5, 3, 2, 1])  # of what has yet to learn
_LEARNING_BYTES = 64


def beginning(x: Indices) -> Indices | None:
    """The part of a frame [G, T, C] that tells how well priors do; None if it is too short.

    Of a series its first steps, of pictures the first ones.
    """
    groups, length, _ = x.shape
    if groups == 1:
        n = min(max(length // _PART, _LEAST), _MOST)
        return np.ascontiguousarray(x[:, :n]) if n * _ROUNDS <= length else None
    n = max(groups // _PART_OF_IMAGES, -(-_LEAST // length))
    return x[:n] if n * _ROUNDS <= groups else None


def winners(sizes: Sequence[int | None]) -> list[int]:
    """The numbers of the ways worth going on with, the likeliest first.

    Args:
        sizes: bytes that each way takes for a beginning, None where it cannot code it.

    Example:
        >>> winners([130, 200, None, 127])
        [3, 0]
    """
    able = sorted((size, number) for number, size in enumerate(sizes) if size is not None)
    if not able:
        return list(range(len(sizes)))
    most = able[0][0] + able[0][0] // _CLOSE + _CLOSE_BYTES
    return [number for size, number in able if size <= most]


def close_behind(marks: Marks) -> Marks:
    """The pace of a sample prior against another one that took so many bytes to each mark."""
    return marks + (_BEHIND * marks >> 8) + _CLOSE_BYTES


def to_overtake(marks: Marks) -> Marks:
    """The pace of the recalling mode, which begins with nothing known, against a sample prior."""
    return marks + (_LEARNING * marks >> 8) + _LEARNING_BYTES
