"""Views: how the axes of a tensor look into the [C, H, W] block that a layer computed.

Reshape, Transpose, Slice, pixel shuffle and nearest upsampling move numbers and change none. A view
keeps the movement as arithmetic on coordinates, so that the layout can let the layer write its
numbers where the next one wants them, and most movements cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from edgeae.errors import ModelError

__all__ = ["Factor", "UnsupportedGraphError", "View", "whole_view"]


class UnsupportedGraphError(ModelError):
    """The native engine cannot run this graph; onnxruntime may."""


@dataclass(frozen=True)
class Factor:
    """One loop over an axis: ``size`` steps of ``step`` along axis ``axis`` (0 C, 1 H, 2 W)."""

    size: int
    axis: int
    step: int


@dataclass(frozen=True, kw_only=True)
class View:
    """A tensor of one sample, without its batch axis.

    Attributes:
        block: number of the layer's block it looks into.
        axes: per axis its loops, outermost first; none where the axis has length 1.
        start: coordinates (c, h, w) of its first element.
    """

    block: int
    axes: tuple[tuple[Factor, ...], ...]
    start: tuple[int, int, int] = (0, 0, 0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(prod(f.size for f in axis) for axis in self.axes)

    def reshape(self, shape: Sequence[int]) -> View:
        """The same numbers in row-major order under another shape.

        Raises:
            UnsupportedGraphError: the shapes do not split into common loops.
        """
        rest = [f for axis in self.axes for f in axis]
        axes = []
        for length in shape:
            axis: list[Factor] = []
            left = length
            while left > 1:
                if not rest:
                    raise UnsupportedGraphError(f"a Reshape of {self.shape} to {tuple(shape)}")
                f = rest.pop(0)
                if left % f.size == 0:
                    axis.append(f)
                    left //= f.size
                elif f.size % left == 0:
                    inner = f.size // left
                    axis.append(Factor(left, f.axis, f.step * inner))
                    rest.insert(0, Factor(inner, f.axis, f.step))
                    left = 1
                else:
                    raise UnsupportedGraphError(f"a Reshape of {self.shape} to {tuple(shape)}")
            axes.append(_merged(axis))
        if rest:
            raise UnsupportedGraphError(f"a Reshape of {self.shape} to {tuple(shape)}")
        return replace(self, axes=tuple(axes))

    def transpose(self, order: Sequence[int]) -> View:
        """The axes in another order."""
        return replace(self, axes=tuple(self.axes[i] for i in order))

    def slice(self, axis: int, begin: int, end: int, step: int) -> View:
        """Every ``step``-th element of an axis from ``begin`` to before ``end``.

        Raises:
            UnsupportedGraphError: the axis has more than one loop, or nothing is left.
        """
        size = len(range(begin, end, step))
        loops = self.axes[axis]
        if (begin, size, step) == (0, self.shape[axis], 1):
            return self
        if len(loops) > 1 or size == 0:
            raise UnsupportedGraphError(f"a Slice of axis {axis} of {self.shape}")
        axes, start = list(self.axes), list(self.start)
        if loops:
            (f,) = loops
            start[f.axis] += begin * f.step
            axes[axis] = _merged([Factor(size, f.axis, f.step * step)])
        return replace(self, axes=tuple(axes), start=(start[0], start[1], start[2]))

    def repeat(self, axis: int, times: int) -> View:
        """Each element of an axis ``times`` times in a row: nearest upsampling."""
        axes = list(self.axes)
        axes[axis] = (*axes[axis], Factor(times, 0, 0)) if times > 1 else axes[axis]
        return replace(self, axes=tuple(axes))

    def depth_to_space(self, size: int, *, columns_first: bool) -> View:
        """Pixel shuffle [C b b, H, W] to [C, H b, W b]; ``columns_first`` is ONNX's mode CRD."""
        c, h, w = self.shape
        few = c // size**2
        if columns_first:
            moved = self.reshape([few, size, size, h, w]).transpose([0, 3, 1, 4, 2])
        else:
            moved = self.reshape([size, size, few, h, w]).transpose([2, 3, 0, 4, 1])
        return moved.reshape([few, h * size, w * size])

    def space_to_depth(self, size: int) -> View:
        """[C, H b, W b] to [b b C, H, W]."""
        c, h, w = self.shape
        split = self.reshape([c, h // size, size, w // size, size])
        return split.transpose([2, 4, 0, 1, 3]).reshape([c * size**2, h // size, w // size])


def whole_view(block: int, shape: tuple[int, int, int], rank: int) -> View:
    """A whole block as [C], [C, W] or [C, H, W], by ``rank``."""
    names = {1: (0,), 2: (0, 2), 3: (0, 1, 2)}[rank]
    axes = tuple(_merged([Factor(shape[axis], axis, 1)]) for axis in names)
    return View(block=block, axes=axes)


def _merged(loops: Sequence[Factor]) -> tuple[Factor, ...]:
    """Loops of length 1 gone, and neighbours that make one loop together joined."""
    found: list[Factor] = []
    for f in loops:
        if f.size == 1:
            continue
        if found and found[-1].axis == f.axis and found[-1].step == f.step * f.size != 0:
            found[-1] = Factor(found[-1].size * f.size, f.axis, f.step)
        else:
            found.append(f)
    return tuple(found)
