"""The small causal net behind both priors, as torch sees it.

The runtime's twin is :class:`edgeae.runtime.causal.CausalNet`; both compute the same integers.

::

    features [B, I, T] ──┬─ conv ─ relu ─ conv ─ relu ─ … ─ head ──┐
                         └─ skip: wide linear taps ────────────────┴─ round ─ out [B, O, T]

A *past* feature of step t is known only once t has been coded, so taps at offset 0 see it as zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeae.errors import ModelError
from edgeae.models.dyadic import DyadicConv, DyadicGrid, fake_round, stacked
from edgeae.runtime.causal import CausalLayer, CausalNet

__all__ = ["CausalConv", "CausalTorchNet", "shifted"]


def shifted(x: Tensor, offsets: Sequence[int]) -> Tensor:
    """Stack ``x[t - offset]`` for each offset: [B, I, T] to [B, len(offsets) * I, T]."""
    length = x.shape[-1]
    deepest = max(offsets)
    padded = F.pad(x, (deepest, 0))
    return torch.cat([padded[..., deepest - o : deepest - o + length] for o in offsets], dim=1)


class CausalConv(DyadicConv):
    """A dyadic convolution over the steps at given causal offsets.

    Args:
        n_in: input channels I.
        n_out: output channels O.
        offsets: steps back, ascending, each at least 0.
        mask: bool [K, I]; False forces a weight to zero.
        bits: bits of the output's integers.
        relu: clip at zero.
        weight_bits: bits of a weight integer.
    """

    keep: Tensor

    def __init__(
        self,
        n_in: int,
        n_out: int,
        offsets: Sequence[int],
        *,
        mask: Tensor | None = None,
        bits: int = 10,
        relu: bool = True,
        weight_bits: int = 8,
    ) -> None:
        super().__init__(
            1, n_in * len(offsets), n_out, bits=bits, relu=relu, weight_bits=weight_bits
        )
        self.offsets = tuple(offsets)
        self.n_features = n_in
        keep = torch.ones(len(offsets), n_in) if mask is None else mask.float()
        self.register_buffer("keep", keep.flatten().view(1, -1, 1))
        with torch.no_grad():
            self.weight.mul_(self.keep)
        first = self.offsets[0]
        self._contiguous = self.offsets == tuple(range(first, first + len(self.offsets)))

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight = weight * self.keep
        if not self._contiguous:
            return F.conv1d(shifted(x, self.offsets), weight, bias)
        k, first = len(self.offsets), self.offsets[0]
        kernel = weight.view(weight.shape[0], k, self.n_features).permute(0, 2, 1).flip(-1)
        x = F.pad(x, (first + k - 1, 0))
        return F.conv1d(x[..., : x.shape[-1] - first] if first else x, kernel, bias)

    def layer(self, *, shift_to: int) -> CausalLayer:
        """The layer for the integer engines; outputs land on ``2**-shift_to``."""
        ints = self.integers()
        n_out, k = ints.weight.shape[0], len(self.offsets)
        keep = self.keep.view(1, k, self.n_features).numpy() > 0
        weight = ints.weight.reshape(n_out, k, self.n_features) * keep
        return CausalLayer(
            offsets=self.offsets,
            weight=weight.astype("int8" if self.weight_bits <= 8 else "int16"),
            bias=ints.bias.astype("int32"),
            shift=(ints.exponent + int(self.in_exponent) - shift_to).astype("int32"),
            bits=self.bits if self.relu else 0,
        )


def _steps_per_step(weight: npt.NDArray[Any], shift: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Integers [O, ...] of an exported layer in steps of its output per step of its input."""
    column = shift.astype(np.int64).reshape(-1, *([1] * (weight.ndim - 1)))
    return np.ldexp(weight.astype(np.float64), -column)


class CausalTorchNet(nn.Module):
    """Features to per-step outputs: hidden causal convolutions, a head, and wide linear taps.

    Args:
        past: per feature channel, whether it is known only after its step was coded.
        n_out: outputs per step O.
        hidden: width and offsets of each hidden layer.
        skip_offsets: offsets of the linear taps; empty for none.
        out_exponents: per output, the exponent of the integers' grid.
        feature_grid: grid of the features.
        bits: bits of the hidden activations.
    """

    is_past: Tensor
    out_exponent: Tensor

    def __init__(
        self,
        *,
        past: Sequence[bool],
        n_out: int,
        hidden: Sequence[tuple[int, Sequence[int]]],
        skip_offsets: Sequence[int],
        out_exponents: Sequence[int],
        feature_grid: DyadicGrid,
        bits: int = 10,
    ) -> None:
        super().__init__()
        self.past = tuple(past)
        self.n_out, self.feature_grid = n_out, feature_grid
        is_past = torch.tensor(self.past)
        width = len(self.past)
        layers: list[CausalConv] = []
        for index, (n_hidden, offsets) in enumerate(hidden):
            mask = None
            if index == 0:
                mask = torch.tensor([[o > 0 or not p for p in self.past] for o in offsets])
            layers.append(CausalConv(width, n_hidden, offsets, mask=mask, bits=bits))
            width = n_hidden
        self.hidden = stacked(layers)
        unseen = None if layers else torch.tensor([[not p for p in self.past]])
        self.head = CausalConv(width, n_out, (0,), mask=unseen, relu=False, bits=24)
        mask = torch.tensor([[o > 0 or not p for p in self.past] for o in skip_offsets])
        self.skip = (
            CausalConv(
                len(self.past), n_out, skip_offsets, mask=mask, relu=False, bits=24, weight_bits=12
            )
            if len(skip_offsets)
            else None
        )
        if self.skip is not None:
            nn.init.zeros_(self.skip.weight)
            self.skip.bias.requires_grad_(False)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
        self.register_buffer("is_past", is_past)
        self.register_buffer("out_exponent", torch.tensor(list(out_exponents)))

    def connect(self) -> None:
        """Fix every grid from the calibrated peaks; call before switching to dyadic arithmetic."""
        grid = self.feature_grid
        for layer in self.hidden:
            grid = layer.connect(grid)
        finest = int(self.out_exponent.max())
        self.head.fixed_exponent = finest
        self.head.connect(grid)
        if self.skip is not None:
            self.skip.fixed_exponent = finest
            self.skip.connect(self.feature_grid)

    @property
    def quantized(self) -> bool:
        """Whether the net runs in dyadic arithmetic."""
        return self.head.quantized

    def forward(self, features: Tensor) -> Tensor:
        """features: float32 [B, I, T] on the feature grid; returns [B, O, T], output units."""
        x = features
        for layer in self.hidden:
            x = layer(x)
        if not self.quantized:
            out = self.head._linear(x, self.head.weight, self.head.bias)
            if self.skip is not None:
                out = out + self.skip._linear(features, self.skip.weight, None)
            return out
        weight, bias, _ = self.head.quantized_parameters(self._skip_reach())
        out = self.head._linear(x, weight, bias)
        if self.skip is not None:
            skip_weight, _, _ = self.skip.quantized_parameters(self.head.reach())
            out = out + self.skip._linear(features, skip_weight, None)
        scale = torch.exp2(self.out_exponent.to(out.dtype)).view(1, -1, 1)
        return fake_round(out * scale) / scale

    def _skip_reach(self) -> Tensor | None:
        """What the linear taps add to the head: the 2^24 bound holds for the sum of both."""
        return None if self.skip is None else self.skip.reach()

    def restore(self, net: CausalNet) -> None:
        """Take the weights of a runtime net of the same shape, to be trained again.

        Raises:
            ModelError: the nets differ in shape.
        """
        shapes = [(x.offsets, x.n_features, x.weight.shape[0], x.bits) for x in self.hidden]
        found = [(x.offsets, x.n_in, x.n_out, x.bits) for x in net.layers]
        skip = () if self.skip is None else self.skip.offsets
        if (
            shapes != found
            or tuple(net.past.tolist()) != self.past
            or (net.head.offsets, net.head.n_out) != ((0,), self.n_out)
            or net.skip_offsets != skip
            or net.feature_peak != self.feature_grid.hi
        ):
            raise ModelError(
                f"a prior has layers {found} and taps {net.skip_offsets}, its recipe {shapes} and "
                f"{skip}: it was not made from it, and cannot be trained on"
            )
        grid, finest = self.feature_grid, int(self.out_exponent.max())
        for layer, exported in zip(self.hidden, net.layers, strict=True):
            flat = exported.weight.reshape(exported.n_out, -1, 1)
            grid = layer.restore(
                grid,
                _steps_per_step(flat, exported.shift),
                _steps_per_step(exported.bias, exported.shift),
            )
        # head and taps land on a grid per output; in torch they share the finest
        finer = finest - self.out_exponent.numpy()
        self.head.fixed_exponent = finest
        shift = net.head.shift - finer
        self.head.restore(
            grid,
            _steps_per_step(net.head.weight.reshape(self.n_out, -1, 1), shift),
            _steps_per_step(net.head.bias, shift),
        )
        if self.skip is not None and net.skip_weight is not None and net.skip_shift is not None:
            self.skip.fixed_exponent = finest
            flat = net.skip_weight.reshape(self.n_out, -1, 1)
            taps = _steps_per_step(flat, net.skip_shift - finer)
            self.skip.restore(self.feature_grid, taps, np.zeros(self.n_out))

    def integer_net(self) -> CausalNet:
        """The same net for the runtime's integer engines."""
        exps = self.out_exponent.numpy()
        head = self.head.integers(self._skip_reach())
        skip_offsets: tuple[int, ...] = ()
        skip_weight = np.zeros((self.n_out, 0, len(self.past)), np.int16)
        skip_shift = np.zeros_like(exps)
        if self.skip is not None:
            ints = self.skip.integers(self.head.reach())
            keep = self.skip.keep.numpy().reshape(1, -1)
            skip_offsets = self.skip.offsets
            flat = (ints.weight[..., 0] * keep).astype(np.int16)
            skip_weight = flat.reshape(self.n_out, len(skip_offsets), len(self.past))
            skip_shift = ints.exponent + int(self.skip.in_exponent) - exps
        return CausalNet(
            n_inputs=len(self.past),
            past=self.is_past.numpy(),
            layers=tuple(x.layer(shift_to=int(x.out_exponent)) for x in self.hidden),
            head=CausalLayer(
                offsets=(0,),
                weight=(head.weight[:, None, :, 0] * (self.head.keep[..., 0].numpy() > 0)).astype(
                    "int8"
                ),
                bias=head.bias.astype("int32"),
                shift=(head.exponent + int(self.head.in_exponent) - exps).astype("int32"),
                bits=0,
            ),
            skip_offsets=skip_offsets,
            skip_weight=skip_weight,
            skip_shift=skip_shift.astype("int32"),
            feature_peak=self.feature_grid.hi,
        )
