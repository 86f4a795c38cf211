"""Analysis and synthesis nets: a signal's frames to latents and back, dyadic end to end.

Shapes: N frames or images, C channels, T samples, L latent channels, S = T / stride.

::

    signal [N, C, T] ─ center, clip to 12 bit ─ conv ↓ ─ conv ↓ ─ … ─► latent [N, L, S], 12 bit
    latent [N, L, S] ─ conv ─ pixel shuffle ↑ ─ … ─ conv ─► signal [N, C, T]

The same two classes serve series (``dims`` 1) and images (``dims`` 2). The dense pair is the case
of one stride over a whole window: a fully connected layer per window, no padding. Upsampling is
pixel shuffle after a convolution, never a transposed convolution, which has no int8 kernel in
onnxruntime (#8988).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeae.models.dyadic import DyadicConv, DyadicGrid, fake_round, stacked

__all__ = [
    "LATENT_EXPONENT",
    "LATENT_PEAK",
    "AnalysisNet",
    "SynthesisNet",
    "TransformSpec",
    "shuffle_1d",
]

LATENT_EXPONENT = 4  # a latent integer is a sixteenth of a symbol at step 16
LATENT_PEAK = 2047
INPUT_PEAK = 2047
OUT_BITS = 14  # of a reconstructed sample: twice the input's range, to be clipped never


@dataclass(frozen=True, kw_only=True)
class TransformSpec:
    """Shape of an analysis/synthesis pair, as a recipe states it.

    Attributes:
        family: ``dense``, ``conv1d`` or ``conv2d``.
        channels: signal channels C.
        latent: latent channels L.
        widths: channels after each strided layer (dense: units of the hidden layers).
        strides: step of each strided layer.
        kernels: taps of each strided layer.
        window: items of a dense window; 0 for the others.
        center: per channel, index units subtracted first.
        shift: per channel, right shift to 12 bits.
        exponent: the nets see centered integers times ``2**-exponent``.
        bits: bits of hidden activations.
    """

    family: str = "conv1d"
    channels: int = 1
    latent: int = 8
    widths: tuple[int, ...] = (24, 48, 48)
    strides: tuple[int, ...] = (4, 4, 2)
    kernels: tuple[int, ...] = (16, 8, 5)
    window: int = 0
    center: tuple[int, ...] = (0,)
    shift: tuple[int, ...] = (0,)
    exponent: int = 5
    bits: int = 10

    @property
    def dims(self) -> int:
        """Dimensions the layers convolve over: 1 series, 2 images."""
        return 2 if self.family == "conv2d" else 1

    @property
    def stride(self) -> int:
        """Items of the signal per latent step (per side, for images)."""
        if self.family == "dense":
            return self.window
        total = 1
        for step in self.strides:
            total *= step
        return total

    @property
    def out_bits(self) -> int:
        """Bits of the last layer: as many as leave every output sample below 2^24."""
        for bits in range(OUT_BITS, 1, -1):
            peak = 2 ** (bits - 1) - 1
            if all(
                peak * 2**s + abs(c) < 2**24 for s, c in zip(self.shift, self.center, strict=True)
            ):
                return bits
        return 0

    @property
    def down_layers(self) -> list[tuple[int, int, int]]:
        """Analysis layers before the last: (channels, stride, kernel)."""
        if self.family == "dense":
            first, *rest = self.widths
            return [(first, self.window, self.window), *((units, 1, 1) for units in rest)]
        return list(zip(self.widths, self.strides, self.kernels, strict=True))

    @property
    def up_layers(self) -> list[tuple[int, int, int, bool]]:
        """Synthesis layers: (channels before the shuffle, kernel, shuffle factor, is last)."""
        if self.family == "dense":
            hidden = [(units, 1, 1, False) for units in reversed(self.widths)]
            return [*hidden, (self.channels * self.window, 1, self.window, True)]
        layers = []
        for i in reversed(range(len(self.widths))):
            stride, kernel = self.strides[i], max(3, -(-self.kernels[i] // self.strides[i]) | 1)
            growth = stride**self.dims
            layers.append((self.widths[i], 3, 1, False))
            if i:
                layers.append((self.widths[i - 1] * growth, kernel, stride, False))
            else:
                layers.append((self.channels * growth, kernel + 2, stride, True))
        return layers


def _column(values: Sequence[int], dims: int) -> Tensor:
    return torch.tensor([float(v) for v in values]).view(1, -1, *([1] * dims))


class _TransformNet(nn.Module):
    """What both halves share: the signal's unit, and layers whose grids follow one another."""

    center: Tensor
    unit: Tensor
    input_grid: DyadicGrid

    def __init__(
        self, spec: TransformSpec, layers: Sequence[DyadicConv], input_grid: DyadicGrid
    ) -> None:
        super().__init__()
        self.spec, self.input_grid = spec, input_grid
        self.register_buffer("center", _column(spec.center, spec.dims))
        self.register_buffer("unit", _column([2**s for s in spec.shift], spec.dims))
        self.layers = stacked(layers)

    def connect(self) -> None:
        """Fix every grid from the calibrated peaks."""
        grid = self.input_grid
        for layer in self.layers:
            grid = layer.connect(grid)


class AnalysisNet(_TransformNet):
    """Signal to latent; the last layer's integers are the latents."""

    def __init__(self, spec: TransformSpec) -> None:
        layers: list[DyadicConv] = []
        width = spec.channels
        for units, stride, kernel in spec.down_layers:
            layers.append(
                DyadicConv(spec.dims, width, units, kernel=kernel, stride=stride, bits=spec.bits)
            )
            width = units
        last = 1 if spec.family == "dense" else 3
        layers.append(DyadicConv(spec.dims, width, spec.latent, kernel=last, relu=False, bits=12))
        layers[-1].fixed_exponent = LATENT_EXPONENT
        super().__init__(
            spec, layers, DyadicGrid(exponent=spec.exponent, lo=-INPUT_PEAK, hi=INPUT_PEAK)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: index units [N, C, T] or [N, C, H, W]; returns latents [N, L, ...], symbols at 16."""
        x = torch.round((x - self.center) / self.unit).clamp(-INPUT_PEAK, INPUT_PEAK)
        x = x * 2.0**-self.spec.exponent
        for layer in self.layers:
            x = layer(x)
        return x


def shuffle_1d(x: Tensor, factor: int) -> Tensor:
    """[N, F * C, T] to [N, C, T * F]; channel c of phase f comes from row c * F + f."""
    n, c, t = x.shape
    return x.view(n, c // factor, factor, t).permute(0, 1, 3, 2).reshape(n, c // factor, t * factor)


class SynthesisNet(_TransformNet):
    """Latent to signal, the mirror of :class:`AnalysisNet`."""

    def __init__(self, spec: TransformSpec) -> None:
        layers: list[DyadicConv] = []
        factors: list[int] = []
        width = spec.latent
        for n_out, kernel, factor, last in spec.up_layers:
            layers.append(
                DyadicConv(
                    spec.dims,
                    width,
                    n_out,
                    kernel=kernel,
                    relu=not last,
                    bits=spec.out_bits if last else spec.bits,
                )
            )
            factors.append(factor)
            width = n_out // factor**spec.dims
        layers[-1].fixed_exponent = spec.exponent
        super().__init__(
            spec, layers, DyadicGrid(exponent=LATENT_EXPONENT, lo=-LATENT_PEAK, hi=LATENT_PEAK)
        )
        self.factors = tuple(factors)

    def forward(self, latent: Tensor) -> Tensor:
        """latent: [N, L, S] or [N, L, h, w]; returns [N, C, ...], index units, whole if dyadic."""
        spec, x = self.spec, latent
        for layer, factor in zip(self.layers, self.factors, strict=True):
            x = layer(x)
            if factor > 1:
                x = shuffle_1d(x, factor) if spec.dims == 1 else F.pixel_shuffle(x, factor)
        x = x * 2.0**spec.exponent
        if self.layers[-1].quantized:
            x = fake_round(x)
        return x * self.unit + self.center
