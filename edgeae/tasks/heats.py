"""Which sample priors are worth coding a frame with, as its beginning tells.

A bundle has several for the same step: a tight one and a coarse one, with the window code and
without. Each codes the frame's beginning; those that are clearly beaten there do not code the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeae.tasks.setup import Indices

__all__ = ["beginning", "winners"]

_PART = 16
_LEAST = 256
_MOST = 4096
_ROUNDS = 8  # a frame has at least so many beginnings
_CLOSE = 32  # within 1/32
_CLOSE_BYTES = 4


def beginning(x: Indices) -> Indices | None:
    """The part of a frame [G, T, C] that tells how well priors do; None if it is too short.

    Of a series its first steps, of pictures the first ones.
    """
    groups, length, _ = x.shape
    if groups == 1:
        n = min(max(length // _PART, _LEAST), _MOST)
        return np.ascontiguousarray(x[:, :n]) if n * _ROUNDS <= length else None
    n = max(groups // _PART, -(-_LEAST // length))
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
