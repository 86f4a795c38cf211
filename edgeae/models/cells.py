"""Tables of a cell prior: logistic to begin with, then counted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeae.models.sample_prior import SCALE_OFFSET, SCALE_STEPS
from edgeae.runtime.cell_prior import LOWEST_SCALE, N_CELLS, N_FRACTIONS, REACH

__all__ = ["cell_tables"]

TRUST = 40.0  # observations' worth of the logistic in each cell
_ONE = 65536


def cell_tables(counts: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.uint16]:
    """Frequencies of each cell, uint16 [cells, 2 R + 3], out of 65536.

    Args:
        counts: how often each symbol was seen in each cell, int64 like the result; each cell is
            estimated as if the logistic had been seen some times before.

    Example:
        >>> int(cell_tables().sum(axis=1, dtype=int).max())
        65536
    """
    index, fraction = np.divmod(np.arange(N_CELLS), N_FRACTIONS)
    scale = np.exp2((index + LOWEST_SCALE - SCALE_OFFSET) / SCALE_STEPS)[:, None]
    edges = np.arange(-REACH - 1, REACH + 1) + 0.5 - fraction[:, None] / 16
    inner = 1 / (1 + np.exp(-np.clip(edges / scale, -60, 60)))
    share = np.diff(np.pad(inner, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1))))
    if counts is not None:
        share = counts + TRUST * share
    share = share / share.sum(axis=1, keepdims=True)
    n = share.shape[1]
    freq = 1 + np.floor(share * (_ONE - n)).astype(np.int64)
    freq[np.arange(N_CELLS), share.argmax(axis=1)] += _ONE - freq.sum(axis=1)
    found: npt.NDArray[np.uint16] = freq.astype(np.uint16)
    return found
