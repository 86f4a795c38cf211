"""The grids of a whole signal: one for all channels, or one for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.signal.grid import Grid, GridSpec

__all__ = ["Lattice"]


@dataclass(frozen=True)
class Lattice:
    """Grids of the channels of [..., C] arrays; a single one serves all channels.

    Example:
        >>> import numpy as np
        >>> lattice = Lattice((Grid(1, 2), Grid(1, 10)))
        >>> n, exact = lattice.to_index(np.array([[0.5, 0.3], [1.0, 0.25]]))
        >>> n.tolist(), exact.tolist()
        ([[1, 3], [2, 2]], [[True, True], [True, False]])
    """

    grids: tuple[Grid, ...] = (Grid(),)

    @classmethod
    def of(cls, specs: Sequence[GridSpec]) -> Lattice:
        """The lattice of grids as plain numbers, one for all channels or one for each."""
        grids = tuple(Grid(*spec) for spec in specs)
        return cls(grids[:1] if len(set(grids)) == 1 else grids)

    @property
    def specs(self) -> tuple[GridSpec, ...]:
        """Each grid as plain numbers."""
        return tuple(grid.spec for grid in self.grids)

    @property
    def steps(self) -> NDArray[np.float64]:
        """Distance of two neighbours, [1] or [C]."""
        return np.array([grid.step for grid in self.grids])

    def to_index(self, x: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Nearest index of every sample of [..., C], and where the index is the sample exactly."""
        if len(self.grids) == 1:
            return self.grids[0].to_index(x)
        index, same = np.empty(x.shape, np.int32), np.empty(x.shape, np.bool_)
        for c, grid in enumerate(self.grids):
            index[..., c], same[..., c] = grid.to_index(x[..., c])
        return index, same

    def to_values(self, index: NDArray[np.int32], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Samples at indices [..., C]."""
        if len(self.grids) == 1:
            return self.grids[0].to_values(index, dtype)
        values = np.empty(index.shape, dtype)
        for c, grid in enumerate(self.grids):
            values[..., c] = grid.to_values(index[..., c], dtype)
        return values
