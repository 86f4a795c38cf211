"""The layers of a compiled net: what :mod:`edgeae.runtime.program` makes and the layout places.

Every block computes a [C, H, W] of its own from views of earlier ones. In an exact net its numbers
are int16 (int32 where ``wide``), in a float net float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.runtime.views import View

__all__ = [
    "AddBlock",
    "Block",
    "ConcatBlock",
    "ConvBlock",
    "InputBlock",
    "NetProgram",
    "OutputSpec",
]

Array = npt.NDArray[Any]
Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class InputBlock:
    """An input: y = clip(round((x - sub) * mul)), per channel or one for all.

    Attributes:
        shape: (C, H, W).
        place: of its first number among all that a sample gives.
        sub: float32 [C] or [1].
        mul: float32 [C] or [1].
        low: of the clip.
        high: of the clip.
        strict: x must be integers within the clip already.
    """

    shape: Shape
    place: int
    sub: Array
    mul: Array
    low: float
    high: float
    strict: bool


@dataclass(frozen=True, kw_only=True)
class ConvBlock:
    """A convolution or, with one position, a matrix product: y = clip(round(sum * 2^-shift)).

    Attributes:
        key: names the layer in caches.
        shape: (C, H, W).
        source: the view it reads, [C] or [C, W] or [C, H, W].
        weight: int16 or float64 [O, I, kh, kw].
        bias: int64 or float64 [O].
        stride: of rows and columns.
        dilation: of rows and columns.
        pads: zeros above, below, left and right.
        shift: int64 [O].
        low: of the clip.
        high: of the clip.
        wide: whether its numbers are int32.
    """

    key: str
    shape: Shape
    source: View
    weight: Array
    bias: Array
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int]
    shift: Array = field(default_factory=lambda: np.zeros(1, np.int64))
    low: float = -np.inf
    high: float = np.inf
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class AddBlock:
    """A sum: y = clip(round((a * 2^left[0] + b * 2^left[1]) * 2^-shift)).

    Attributes:
        shape: (C, H, W).
        sources: two views of that shape.
        left: see above.
        shift: see above.
        low: of the clip.
        high: of the clip.
    """

    shape: Shape
    sources: tuple[View, View]
    left: tuple[int, int]
    shift: int
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ConcatBlock:
    """Views one after the other.

    Attributes:
        shape: (C, H, W).
        sources: the views.
        axis: of the block, 0 for channels, 2 for columns.
    """

    shape: Shape
    sources: tuple[View, ...]
    axis: int = 0


Block = InputBlock | ConvBlock | AddBlock | ConcatBlock


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """An output: y = number * scale + offset, per channel or one for all.

    Attributes:
        view: where the numbers are.
        wide: whether they are int32.
        scale: float32 [C] or [1].
        offset: of the scale's shape.
    """

    view: View
    wide: bool
    scale: Array
    offset: Array


@dataclass(frozen=True, kw_only=True)
class NetProgram:
    """A compiled net for one shape of each input.

    Attributes:
        is_float: float32 throughout, else integers.
        input_shapes: of one sample, per input; a sample's inputs follow each other in memory.
        blocks: in order of execution.
        outputs: what leaves, likewise one after the other.
    """

    is_float: bool
    input_shapes: tuple[tuple[int, ...], ...]
    blocks: tuple[Block, ...]
    outputs: tuple[OutputSpec, ...]

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each output of one sample."""
        return tuple(output.view.shape for output in self.outputs)
