"""Layers whose quantized forward is exact in float32: dyadic grids, and sums below 2^24.

Every layer computes, once ``quantized`` is on::

    acc = sum(w_q * a) + b_q          w_q: int8 * 2^-s[o],  a: integers * 2^-f_in
    out = clip(round(acc * 2^f_out), lo, hi) * 2^-f_out     round half to even

All of these are integers times a power of two below 2^24, so float32 holds them exactly and any
order of summation gives the same bits: torch's forward is the exported graph's forward. The
straight-through estimator carries gradients past the roundings.

This is our own code rather than Brevitas: the grids, the bound on the sums and the exported
spelling must be one piece of logic, and that piece is this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ACCUMULATOR_LIMIT",
    "DyadicConv",
    "DyadicGrid",
    "IntegerWeights",
    "calibrating",
    "dyadic_layers",
    "fake_round",
    "set_quantized",
    "stacked",
]

ACCUMULATOR_LIMIT = 2.0**24
WEIGHT_BITS = 8
MAX_SHIFT = 16  # an output is its accumulator shifted right by 0 to 16 bits

Layer = TypeVar("Layer", bound=nn.Module)


def fake_round(x: Tensor) -> Tensor:
    """Round half to even with a straight-through gradient."""
    return x + (torch.round(x) - x).detach()


@dataclass(frozen=True, kw_only=True)
class DyadicGrid:
    """The integers ``lo..hi`` times ``2**-exponent``.

    Attributes:
        exponent: negative base-2 logarithm of the step.
        lo: smallest integer.
        hi: largest integer.
    """

    exponent: int
    lo: int
    hi: int

    @property
    def peak(self) -> int:
        """Largest magnitude in integers."""
        return max(-self.lo, self.hi)


@dataclass(frozen=True, kw_only=True)
class IntegerWeights:
    """A layer as the integers that an integer program needs.

    Attributes:
        weight: int32, output channel first.
        bias: int32 [O], on the accumulator's grid.
        exponent: int32 [O]; a weight integer is worth ``2**-exponent``.
    """

    weight: npt.NDArray[np.int32]
    bias: npt.NDArray[np.int32]
    exponent: npt.NDArray[np.int32]


class DyadicConv(nn.Module):
    """A convolution with dyadic weights and a dyadic output.

    Args:
        dims: 1 for ``[N, I, T]``, 2 for ``[N, I, H, W]``.
        n_in: input channels I.
        n_out: output channels O.
        kernel: taps per dimension.
        stride: step per dimension.
        dilation: distance between taps, per dimension.
        padding: zeros added left and right of each dimension (``None``: same size at stride 1).
        bits: bits of the output's integers.
        relu: clip at zero; the output's integers are then unsigned.
        weight_bits: bits of a weight integer, sign included.
    """

    in_exponent: Tensor
    in_peak: Tensor
    out_exponent: Tensor
    seen_peak: Tensor

    def __init__(
        self,
        dims: int,
        n_in: int,
        n_out: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        padding: tuple[int, int] | None = None,
        bits: int = 10,
        relu: bool = True,
        weight_bits: int = WEIGHT_BITS,
    ) -> None:
        super().__init__()
        self.dims, self.kernel, self.stride, self.dilation = dims, kernel, stride, dilation
        reach = (kernel - 1) * dilation
        left = (reach - stride + 2) // 2 if stride > 1 else reach // 2
        right = reach + 1 - stride - left if stride > 1 else reach - left
        self.padding = (max(left, 0), max(right, 0)) if padding is None else padding
        self.bits, self.relu, self.weight_bits = bits, relu, weight_bits
        shape = (n_out, n_in, *([kernel] * dims))
        fan_in = n_in * kernel**dims
        self.weight = nn.Parameter(torch.randn(shape) * (2.0 / fan_in) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.quantized = False
        self.fixed_exponent: int | None = None
        self.register_buffer("in_exponent", torch.zeros((), dtype=torch.int64))
        self.register_buffer("in_peak", torch.full((), 2047, dtype=torch.int64))
        self.register_buffer("out_exponent", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen_peak", torch.zeros(()))
        self.calibrate = False

    # -- grids -----------------------------------------------------------------------------
    @property
    def out_grid(self) -> DyadicGrid:
        """Grid of the output; meaningful once calibrated."""
        hi = 2**self.bits - 1 if self.relu else 2 ** (self.bits - 1) - 1
        return DyadicGrid(exponent=int(self.out_exponent), lo=0 if self.relu else -hi, hi=hi)

    def connect(self, grid: DyadicGrid) -> DyadicGrid:
        """Set the input's grid, choose the output's from the peak seen; return the latter."""
        self.in_exponent.fill_(grid.exponent)
        self.in_peak.fill_(grid.peak)
        if self.fixed_exponent is not None:
            exponent = self.fixed_exponent
        else:
            hi = 2**self.bits - 1 if self.relu else 2 ** (self.bits - 1) - 1
            peak = max(float(self.seen_peak) * 1.1, 1e-6)
            # outputs that hardly stir ask for a grid so fine that sums would leave 2^24
            reach = max(float(self.reach().max()), 2.0**-24)
            exponent = int(np.floor(np.log2(min(hi / peak, ACCUMULATOR_LIMIT / 2 / reach))))
        self.out_exponent.fill_(exponent)
        return self.out_grid

    # -- forward ---------------------------------------------------------------------------
    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        left, right = self.padding
        conv = F.conv1d if self.dims == 1 else F.conv2d
        if left != right:
            x, left = F.pad(x, (left, right) * self.dims), 0
        return conv(x, weight, bias, stride=self.stride, padding=left, dilation=self.dilation)

    def reach(self) -> Tensor:
        """Largest magnitude that each output's sum can take, [O], in output units."""
        total = self.weight.detach().flatten(1).abs().sum(1)
        step = float(2.0 ** -float(self.in_exponent))
        return total * float(self.in_peak) * step + self.bias.detach().abs()

    def _weight_exponent(self, beside: Tensor | None = None) -> Tensor:
        """Power of two per output channel: the finest grid that fits int8 and the 2^24 bound."""
        flat = self.weight.detach().flatten(1)
        top = 2 ** (self.weight_bits - 1) - 1
        peak = flat.abs().amax(1).clamp_min(2.0**-24)
        by_width = torch.floor(torch.log2((top + 0.49) / peak))
        in_exp = float(self.in_exponent)
        reach = self.reach() * 2.0**in_exp
        if beside is not None:
            reach = reach + beside * 2.0**in_exp
        # roundings add at most half a step per weight: keep 2 % of headroom for them
        by_sum = torch.floor(torch.log2(0.98 * ACCUMULATOR_LIMIT / reach.clamp_min(2.0**-24)))
        low = float(self.out_exponent) - in_exp
        return torch.minimum(by_width, by_sum).clamp(low, low + MAX_SHIFT)

    def quantized_parameters(self, beside: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Weight and bias on their grids (straight-through), and the weight's exponents [O].

        Args:
            beside: reach of what will be added to the sums, where something is.
        """
        exponent = self._weight_exponent(beside)
        scale = torch.exp2(exponent)
        top = 2 ** (self.weight_bits - 1) - 1
        column = scale.view(-1, *([1] * (self.weight.dim() - 1)))
        weight = fake_round(self.weight * column).clamp(-top, top) / column
        bias_scale = scale * 2.0 ** float(self.in_exponent)
        return weight, fake_round(self.bias * bias_scale) / bias_scale, exponent

    def activate(self, acc: Tensor) -> Tensor:
        """Round and clip an accumulator onto the output's grid; in float, only the ReLU."""
        if not self.quantized:
            out = F.relu(acc) if self.relu else acc
            if self.calibrate:
                self.seen_peak.copy_(torch.maximum(self.seen_peak, out.detach().abs().max()))
            return out
        grid = self.out_grid
        step = 2.0**grid.exponent
        return fake_round(acc * step).clamp(grid.lo, grid.hi) / step

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, I, ...] to [N, O, ...]."""
        if self.quantized:
            weight, bias, _ = self.quantized_parameters()
        else:
            weight, bias = self.weight, self.bias
        return self.activate(self._linear(x, weight, bias))

    def integers(self, beside: Tensor | None = None) -> IntegerWeights:
        """The layer's integers, for the exporter and the integer engines."""
        with torch.no_grad():
            weight, bias, exponent = self.quantized_parameters(beside)
            column = torch.exp2(exponent).view(-1, *([1] * (self.weight.dim() - 1)))
            bias_scale = torch.exp2(exponent + float(self.in_exponent))
            return IntegerWeights(
                weight=(weight * column).round().to(torch.int32).numpy(),
                bias=(bias * bias_scale).round().to(torch.int32).numpy(),
                exponent=exponent.to(torch.int32).numpy(),
            )

    def restore(
        self,
        grid: DyadicGrid,
        weight: npt.NDArray[np.float64],
        bias: npt.NDArray[np.float64],
    ) -> DyadicGrid:
        """Take weights from an exported layer, to be trained again; switches to dyadic arithmetic.

        Where the output's grid is free, it is the one on which the weights are as large as those of
        a fresh layer: a net's outputs do not depend on it, but its training does.

        Args:
            grid: of the input.
            weight: [O, I, ...], worth steps of the output per step of the input.
            bias: [O], in steps of the output.

        Returns:
            The output's grid.
        """
        exponent = self.fixed_exponent
        if exponent is None:
            heard = np.abs(weight[weight != 0])
            size = float(np.sqrt(np.mean(heard**2))) if heard.size else 1.0
            fresh = (2.0 / float(np.prod(weight.shape[1:]))) ** 0.5
            exponent = grid.exponent + round(np.log2(size / fresh))
        self.in_exponent.fill_(grid.exponent)
        self.in_peak.fill_(grid.peak)
        self.out_exponent.fill_(exponent)
        shape = self.weight.shape
        with torch.no_grad():
            scaled = np.ldexp(weight, grid.exponent - exponent).reshape(shape)
            self.weight.copy_(torch.from_numpy(scaled))
            self.bias.copy_(torch.from_numpy(np.ldexp(bias, -exponent)))
        self.quantized = True
        return self.out_grid

    def get_extra_state(self) -> Any:
        """Flags that belong to a checkpoint."""
        return {"quantized": self.quantized, "fixed_exponent": self.fixed_exponent}

    def set_extra_state(self, state: Any) -> None:
        """Restore the flags of :meth:`get_extra_state`."""
        self.quantized = bool(state["quantized"])
        self.fixed_exponent = state["fixed_exponent"]


def stacked(layers: Sequence[Layer]) -> Sequence[Layer]:
    """Layers as a module list, which registers their parameters; their type is kept."""
    return cast(Sequence[Layer], nn.ModuleList(layers))


def dyadic_layers(net: nn.Module) -> Iterator[DyadicConv]:
    """Every dyadic layer of a net."""
    for module in net.modules():
        if isinstance(module, DyadicConv):
            yield module


def set_quantized(net: nn.Module, on: bool) -> None:
    """Switch all layers of a net between float and dyadic arithmetic."""
    for layer in dyadic_layers(net):
        layer.quantized = on


class calibrating:
    """Context in which the layers of ``net`` record the peaks of their outputs."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __enter__(self) -> None:
        """Start recording."""
        for layer in dyadic_layers(self.net):
            layer.seen_peak.zero_()
            layer.calibrate = True

    def __exit__(self, *_: object) -> None:
        """Stop recording."""
        for layer in dyadic_layers(self.net):
            layer.calibrate = False
