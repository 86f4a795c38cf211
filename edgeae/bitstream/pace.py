"""How a frame's bytes grow while it is coded: so that a code which falls behind can give up.

A code notes the bytes written at nine *marks*: after 1/32, 1/16 and each eighth but the last of its
items. A *pace*, the most bytes at each mark, is what another code has to keep to. Both are int64
[9]. No decoder minds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["EIGHTH", "N_MARKS", "Marks", "Paced", "even_pace", "spread"]

N_MARKS = 9
EIGHTH = 2  # the mark after an eighth of the items
_SHARES = np.array([1, 2, *range(4, 32, 4)])  # in 32, of the items at each mark
_ANY = 1 << 62
_SLACK = 12  # in 200
_LEARNING_BYTES = 50

Marks = npt.NDArray[np.int64]


class Paced:
    """Counts the items of a frame, notes the marks, and compares them with a pace.

    Args:
        n: items in all.
        pace: most bytes at each mark, or None.
    """

    def __init__(self, n: int, pace: Marks | None = None) -> None:
        self._places = (n >> 5, n >> 4, *(n * k >> 3 for k in range(1, 8)))
        self._pace = None if pace is None else pace.tolist()
        self._next = self._done = 0
        self.marks = np.zeros(N_MARKS, np.int64)
        self.is_behind = False

    def count(self, n_bytes: int) -> bool:
        """Count an item; return whether the pace was kept so far.

        Args:
            n_bytes: written so far.
        """
        self._done += 1
        while self._next < N_MARKS and self._places[self._next] <= self._done:
            self.marks[self._next] = n_bytes
            if self._pace is not None and n_bytes > self._pace[self._next]:
                self.is_behind = True
            self._next += 1
        return not self.is_behind


def spread(n_bytes: int) -> Marks:
    """Marks of bytes that grow evenly to so many."""
    return _SHARES * n_bytes >> 5


def even_pace(most: int) -> Marks:
    """The pace of a code that is to stay within ``most`` bytes, and may learn for a quarter.

    Example:
        >>> even_pace(1000)[3:].tolist()
        [360, 485, 610, 735, 860, 985]
    """
    pace = np.full(N_MARKS, _ANY, np.int64)
    pace[3:] = (25 * np.arange(2, 8) + _SLACK) * most // 200 + _LEARNING_BYTES
    return pace
