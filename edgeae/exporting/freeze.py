"""Dyadic layers with their weights fixed, so that torch's exporter sees constants."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeae.models.dyadic import DyadicConv

__all__ = ["frozen"]

Net = TypeVar("Net", bound=nn.Module)


class _FrozenConv(nn.Module):
    """What a quantized :class:`DyadicConv` computes, its grids as plain numbers."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: DyadicConv) -> None:
        super().__init__()
        with torch.no_grad():
            weight, bias, _ = layer.quantized_parameters()
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())
        self.dims, self.stride, self.padding = layer.dims, layer.stride, layer.padding
        self.grid, self.quantized = layer.out_grid, True

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, I, ...] to [N, O, ...]."""
        left, right = self.padding
        if left or right:
            x = F.pad(x, (left, right) * self.dims)
        conv = F.conv1d if self.dims == 1 else F.conv2d
        step = 2.0**self.grid.exponent
        acc = conv(x, self.weight, self.bias, stride=self.stride)
        return torch.round(acc * step).clamp(self.grid.lo, self.grid.hi) * (1 / step)


def frozen(net: Net) -> Net:
    """A copy of a net for export: no gradients, quantized dyadic layers fixed."""
    fixed = copy.deepcopy(net).eval().requires_grad_(False)
    if isinstance(fixed, DyadicConv) and type(fixed) is DyadicConv and fixed.quantized:
        return _FrozenConv(fixed)  # type: ignore[return-value]  # same call, other class
    for parent in list(fixed.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is DyadicConv and child.quantized:
                setattr(parent, name, _FrozenConv(child))
    return fixed
