"""Small questions about samples that the encoder asks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeae.tasks.setup import Indices, Samples

__all__ = ["all_differ", "bridged", "looks_easy", "may_recur", "samples_within"]

_FEW_BITS = 3.5
_OFTEN = 0.9


def bridged(x: Indices, held: NDArray[np.bool_], near: NDArray[np.bool_]) -> Indices:
    """Give each sample that is not held an index that costs little: it may be any.

    Where the sample has an index of its own, as -0.0 has, it is this one, if it lies between those
    of the held samples before and after it; else one in the middle, or for more than one sample in
    a row that of the held one before.

    Args:
        x: indices [G, T, C].
        held: where the index stands for the sample.
        near: where the index is at least near the sample.
    """
    length = x.shape[1]
    steps = np.arange(length)[None, :, None]
    last = np.maximum.accumulate(np.where(held, steps, -1), axis=1)
    after = np.where(held, steps, length)[:, ::-1]
    following = np.minimum.accumulate(after, axis=1)[:, ::-1]
    last = np.where(last < 0, np.minimum(following, length - 1), last)
    following = np.where(following == length, last, following)
    before, behind = (np.take_along_axis(x, at, axis=1) for at in (last, following))
    own = near & (np.minimum(before, behind) <= x) & (x <= np.maximum(before, behind))
    alone = (last == steps - 1) & (following == steps + 1)
    middle = before + ((behind.astype(np.int64) - before) >> 1).astype(x.dtype)
    bridged: Indices = np.where(held | own, x, np.where(alone, middle, before))
    return bridged


def samples_within(samples: Samples, values: Samples, max_error: float) -> NDArray[np.bool_]:
    """Where |samples - values| <= max_error, without a rounding or an overflow in between."""
    if samples.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(samples.astype(np.float64) - values.astype(np.float64))
            return np.asarray(error <= max_error)
    high, low = np.maximum(samples, values), np.minimum(samples, values)
    gap = high.astype(np.uint64) - low.astype(np.uint64)  # modulo 2^64, which is the difference
    return np.asarray(gap <= np.uint64(min(math.floor(max_error), 2**64 - 1)))


def looks_easy(x: Indices, deltas: NDArray[np.int64], n_bytes: int) -> bool:
    """Whether the classical mode may need fewer than ``n_bytes``: a cheap guess, to save time.

    Compares with a third of what the second differences would cost at these steps, [C].
    """
    bends = np.abs(np.diff(x.reshape(-1, x.shape[2]).astype(np.float64), 2, axis=0)) / deltas
    return float(np.sum(np.log2(1.0 + bends))) / 24.0 < n_bytes


def may_recur(rows: Indices, deltas: NDArray[np.int64], n_bytes: int) -> bool:
    """Whether the recalling mode may need fewer than ``n_bytes`` for [T, C]: a cheap guess.

    So where a sample takes few bits as it is, or where the values in steps are seldom new.
    """
    if 8 * n_bytes < _FEW_BITS * rows.size:
        return n_bytes > 0
    steps = np.rint(rows / deltas)
    n_values = sum(np.unique(column).size for column in steps.T)
    return n_values < _OFTEN * rows.size


def all_differ(samples: Samples) -> bool:
    """Whether no neighbouring samples are equal, so that a list of them cannot be run-length."""
    bits = samples.view(f"u{samples.dtype.itemsize}") if samples.dtype.kind == "f" else samples
    return not bool((bits[1:] == bits[:-1]).any())
