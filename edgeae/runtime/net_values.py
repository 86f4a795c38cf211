"""What a tensor is while a graph is compiled: a sum still being read, or numbers already held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.runtime.blocks import Block
from edgeae.runtime.onnx_file import OnnxNode
from edgeae.runtime.views import UnsupportedGraphError, View

__all__ = [
    "Held",
    "Pending",
    "Tail",
    "Value",
    "block_shape",
    "called",
    "clipped",
    "rounded",
    "text",
]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A sum whose tail is still being read: y = clip(round(sum)), in the graph's own units.

    Attributes:
        make: builds the block, given shift per channel, range in steps of the target grid, and
            whether its numbers need 32 bits.
        shape: (C, H, W) of the block.
        rank: of the tensor without the batch axis.
        exponents: grid of the sums, [C] or [1]; ignored in float nets and for the input.
        peaks: bound on the sums in steps of that grid, likewise.
        low: Clip's lower end.
        high: upper end.
        target: exponent of the grid that sums are rounded to; None before a rounding.
        affine: takes a sum or product with a constant in, where the sum can.
        stated: of an input, the range that the graph states for its integers.
    """

    make: Callable[[Tail], Block]
    shape: tuple[int, int, int]
    rank: int
    exponents: Ints
    peaks: Floats
    low: float = -np.inf
    high: float = np.inf
    target: int | None = None
    affine: Callable[[str, Array], Pending] | None = None
    stated: float = np.inf


@dataclass(frozen=True, kw_only=True)
class Tail:
    """How a block ends: see ``ConvBlock``."""

    shift: Ints
    low: float
    high: float
    wide: bool


@dataclass(frozen=True, kw_only=True)
class Held:
    """Numbers that a block has computed, seen through a view.

    Attributes:
        view: where they lie.
        exponents: they are integers times ``2**-exponent``; one, or one per channel of the block.
        peak: bound on the integers.
        wide: whether they are int32.
        scale: factor per channel that only the output may still have, with ``offset``.
        offset: see ``scale``.
        pads: zeros above, below, left and right, which only a convolution may read.
    """

    view: View
    exponents: Ints
    peak: float
    wide: bool = False
    scale: Array | None = None
    offset: Array | None = None
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def plain(self) -> bool:
        """Whether a layer may read them."""
        return self.scale is None and not self.wide and self.exponents.size == 1


Value = Pending | Held


def rounded(value: Pending, exponent: int, node: OnnxNode) -> Pending:
    """Round to multiples of ``2**-exponent``."""
    if value.target is not None:
        if value.target > exponent:
            raise UnsupportedGraphError(f"{called(node)}: a second, coarser rounding")
        return value
    low, high = (
        float(np.rint(end * 2.0**exponent)) * 2.0**-exponent for end in (value.low, value.high)
    )
    return replace(value, target=exponent, low=low, high=high)


def clipped(value: Pending, low: float, high: float) -> Pending:
    """Clip to a range."""
    if value.target is not None:  # ends between the steps of the grid
        for end in (low, high):
            if np.isfinite(end) and end * 2.0**value.target != int(end * 2.0**value.target):
                raise UnsupportedGraphError(f"Clip at {end} of numbers on a coarser grid")
    return replace(
        value,
        low=min(max(value.low, low), high),
        high=min(max(value.high, low), high),
    )


def block_shape(shape: Sequence[int]) -> tuple[tuple[int, int, int], int]:
    """(C, H, W) of a tensor [C], [C, W] or [C, H, W], and its rank."""
    if len(shape) == 1:
        return (shape[0], 1, 1), 1
    if len(shape) == 2:
        return (shape[0], 1, shape[1]), 2
    if len(shape) == 3:
        return (shape[0], shape[1], shape[2]), 3
    raise UnsupportedGraphError(f"a tensor of shape {tuple(shape)}: expected 1 to 3 axes")


def text(value: Any) -> str:
    """A text attribute, decoded."""
    return value.decode() if isinstance(value, bytes) else str(value)


def called(node: OnnxNode) -> str:
    """What to call a node in a message."""
    return f"node {node.name or node.outputs[0]} ({node.op})"
