"""Denoising nets, dyadic end to end: causal over time, or over an image.

Shapes: N streams or images, C channels, T samples, S samples per hop, W width.

::

    StreamNet   signal [N, C, T] ─ center, clip ─ conv ↓S ─ residual conv, dilated (repeated)
                ─ conv ─ shuffle ↑S ─► [N, C, T]
    ImageNet    image [N, C, H, W] ─ unshuffle ↓2, σ plane ─ conv ─ residual conv (repeated, few
                weights in turns) ─ conv ─ shuffle ↑2 ─ taken off the image ─► [N, C, H, W]

A stream's every convolution looks back only. What it looks back on is its *state*, an input and an
output of the graph, so that a stream cut anywhere gives the bits of the whole. Sample t of the
output is the estimate of sample t - ``delay`` of the input. The residual sums live on one grid,
the *trunk*, which makes them plain sums of integers. It is never negative.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeae.models.dyadic import DyadicConv, DyadicGrid, fake_round, stacked
from edgeae.models.transforms import shuffle_1d

__all__ = ["ImageNet", "ImageSpec", "StreamNet", "StreamSpec"]


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """Shape of a causal denoiser, as a recipe states it.

    Attributes:
        n_in: channels of the input.
        n_out: channels of the output.
        hop: samples S that go in and come out at a time.
        first: taps of the first layer, at least S.
        width: channels W of the trunk.
        kernel: taps of the dilated layers.
        dilations: distance between their taps, in hops; one residual layer each.
        delay: samples by which the output lags, all of them look-ahead.
        center: per input channel, index units subtracted first.
        shift: per input channel, right shift to ``input_bits``.
        exponent: the net sees centered integers times ``2**-exponent``.
        input_bits: bits of the input's integers.
        bits: bits of hidden activations.
        out_bits: bits of the output's integers.
        out_relu: the output is clipped at zero (a mask), and has no center.
        out_exponent: the output's integers are worth ``2**-out_exponent``; None: the input's unit.
    """

    n_in: int = 1
    n_out: int = 1
    hop: int = 4
    first: int = 16
    width: int = 40
    kernel: int = 3
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    delay: int = 33
    center: tuple[int, ...] = (0,)
    shift: tuple[int, ...] = (0,)
    exponent: int = 5
    input_bits: int = 12
    bits: int = 11
    out_bits: int = 14
    out_relu: bool = False
    out_exponent: int | None = None

    @property
    def input_peak(self) -> int:
        """Largest magnitude of the input's integers."""
        return int(2 ** (self.input_bits - 1)) - 1

    @property
    def state_shapes(self) -> tuple[tuple[int, int], ...]:
        """Channels and length of each state tensor: the first layer's, then the dilated layers'."""
        first = (self.n_in, self.first - self.hop)
        rest = ((self.width, (self.kernel - 1) * d) for d in self.dilations)
        return (first, *rest)


def _column(values: Sequence[int], dims: int) -> Tensor:
    return torch.tensor([float(v) for v in values]).view(1, -1, *([1] * dims))


class _Trunk(nn.Module):
    """A first layer and residual layers whose outputs share one grid.

    Args:
        first: with a ReLU.
        layers: with a ReLU, or with one bit more for the sign.
        scale: of the layers' first weights.
    """

    seen_peak: Tensor

    def __init__(self, first: DyadicConv, layers: Sequence[DyadicConv], scale: float = 0.5) -> None:
        super().__init__()
        self.first = first
        self.layers = stacked(layers)
        self.register_buffer("seen_peak", torch.zeros(()))
        with torch.no_grad():
            for weight in {id(layer.weight): layer.weight for layer in layers}.values():
                weight.mul_(scale)

    def add(self, trunk: Tensor, more: Tensor) -> Tensor:
        """The next sum, saturated where the grid ends."""
        total = trunk + more
        if self.first.quantized:
            grid = self.first.out_grid
            return total.clamp(0, grid.hi * 2.0**-grid.exponent)
        total = F.relu(total)
        if self.first.calibrate:
            self.seen_peak.copy_(torch.maximum(self.seen_peak, total.detach().abs().max()))
        return total

    def connect(self, grid: DyadicGrid) -> DyadicGrid:
        """Fix the trunk's one grid from the largest sum that was seen."""
        hi = 2**self.first.bits - 1
        peak = max(float(self.seen_peak), float(self.first.seen_peak), 1e-6) * 1.05
        exponent = int(np.floor(np.log2(hi / peak)))
        for layer in (self.first, *self.layers):
            layer.fixed_exponent = exponent
            out = layer.connect(grid if layer is self.first else self.first.out_grid)
        return out


class StreamNet(nn.Module):
    """A causal denoiser (or mask estimator) with its state in the open.

    Example:
        >>> net = StreamNet(StreamSpec(dilations=(1, 2)))
        >>> out, state = net(torch.zeros(1, 1, 64), net.initial_state(1))
        >>> out.shape, [tuple(s.shape) for s in state]
        (torch.Size([1, 1, 64]), [(1, 1, 12), (1, 40, 2), (1, 40, 4)])
    """

    center: Tensor
    unit: Tensor

    def __init__(self, spec: StreamSpec) -> None:
        super().__init__()
        self.spec = spec
        none = (0, 0)
        first = DyadicConv(
            1, spec.n_in, spec.width, kernel=spec.first, stride=spec.hop, padding=none,
            bits=spec.bits,
        )  # fmt: skip
        layers = [
            DyadicConv(
                1, spec.width, spec.width, kernel=spec.kernel, dilation=d, padding=none,
                bits=spec.bits,
            )
            for d in spec.dilations
        ]  # fmt: skip
        self.trunk = _Trunk(first, layers)
        self.last = DyadicConv(
            1, spec.width, spec.n_out * spec.hop, relu=spec.out_relu, bits=spec.out_bits
        )
        self.last.fixed_exponent = spec.exponent if spec.out_exponent is None else spec.out_exponent
        self.register_buffer("center", _column(spec.center, 1))
        self.register_buffer("unit", _column([2**s for s in spec.shift], 1))

    def initial_state(self, n: int) -> list[Tensor]:
        """The state of N streams before their first sample: zeros, as of a signal at its center."""
        return [torch.zeros(n, c, length) for c, length in self.spec.state_shapes]

    def forward(self, x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The next samples, and the state after them.

        Args:
            x: index units [N, C, T], T a multiple of the hop.
            state: of ``initial_state`` or of the call before; the first is in scaled units
                (integers times ``2**-exponent``), the others on the trunk's grid.
        """
        spec = self.spec
        x = torch.round((x - self.center) / self.unit).clamp(-spec.input_peak, spec.input_peak)
        x = x * 2.0**-spec.exponent
        old, *olds = state
        seen = torch.cat([old, x], 2)
        after = [seen[:, :, seen.shape[2] - old.shape[2] :]]
        h = self.trunk.first(seen)
        for layer, old in zip(self.trunk.layers, olds, strict=True):
            seen = torch.cat([old, h], 2)
            after.append(seen[:, :, seen.shape[2] - old.shape[2] :])
            h = self.trunk.add(h, layer(seen))
        out = shuffle_1d(self.last(h), spec.hop) if spec.hop > 1 else self.last(h)
        if spec.out_exponent is not None:
            return out, after
        out = out * 2.0**spec.exponent
        if self.last.quantized:
            out = fake_round(out)
        return out * self.unit + self.center, after

    def connect(self) -> None:
        """Fix every grid from the calibrated peaks."""
        peak = self.spec.input_peak
        grid = DyadicGrid(exponent=self.spec.exponent, lo=-peak, hi=peak)
        self.last.connect(self.trunk.connect(grid))


class _Pass(DyadicConv):
    """A residual layer that may have its weights from another; its bias is its own.

    Layers of the same weights also have the same grid of weights, so that a file holds them once.
    """

    together: list[DyadicConv]

    def share(self, together: list[DyadicConv]) -> None:
        """Join layers: the first one's weights are everybody's."""
        self.together = together
        together.append(self)
        self.weight = together[0].weight

    def reach(self) -> Tensor:
        """Largest magnitude that a sum can take in any of the layers, [O], in output units."""
        biases = torch.stack([layer.bias.detach().abs() for layer in self.together])
        return super().reach() - self.bias.detach().abs() + biases.amax(0)


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """Shape of an image denoiser.

    Attributes:
        channels: of the image, C.
        width: channels W of the hidden layers.
        depth: hidden layers between the first and the last.
        weights: sets of weights that these layers take in turns; 0: each its own.
        sigma: the net is told the noise's standard deviation, in grey levels.
        peak: the largest grey level.
        bits: bits of hidden activations.
    """

    channels: int = 1
    width: int = 64
    depth: int = 6
    weights: int = 1
    sigma: bool = True
    peak: int = 255
    bits: int = 10


FINE = 4  # fractional bits of a grey level in the estimated noise
SCALE = 8  # the net sees grey levels times 2**-8
PASS_SCALE = 0.4  # of the trunk's first weights: passes through the same ones add up
ROOM = 2  # noise may carry a pixel that far, in peaks


class ImageNet(nn.Module):
    """Noise estimate at half resolution, taken off the image.

    Few weights are passed through often: parameters cost flash, and passes bring more than
    parameters do.

    Example:
        >>> net = ImageNet(ImageSpec(width=16, depth=2))
        >>> net(torch.zeros(2, 1, 32, 48), torch.full((2,), 25.0)).shape
        torch.Size([2, 1, 32, 48])

    References:
        Zhang, Zuo, Zhang: FFDNet: Toward a Fast and Flexible Solution for CNN based Image
        Denoising, https://arxiv.org/abs/1710.04026: half resolution and the plane of sigma.
    """

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.spec = spec
        c, w = 4 * spec.channels, spec.width
        first = DyadicConv(2, c + spec.sigma, w, kernel=3, bits=spec.bits)
        layers = [
            _Pass(2, w, w, kernel=3, relu=False, bits=spec.bits + 1) for _ in range(spec.depth)
        ]
        sets: list[list[DyadicConv]] = [[] for _ in range(spec.weights or max(spec.depth, 1))]
        for i, layer in enumerate(layers):
            layer.share(sets[i % len(sets)])
        self.trunk = _Trunk(first, layers, PASS_SCALE)
        self.last = DyadicConv(2, w, c, kernel=3, relu=False, bits=9 + FINE)
        self.last.fixed_exponent = SCALE + FINE
        with torch.no_grad():
            first.weight.mul_(PASS_SCALE)
            self.last.weight.mul_(0.1)

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """x: grey levels [N, C, H, W], H and W even; sigma: grey levels [N]; returns x's shape."""
        if self.last.quantized:
            peak = ROOM * self.spec.peak + 1
            x = torch.round(x).clamp(-peak, peak)
        for seen in self._trunk_values(x, sigma):
            h = seen
        noise = F.pixel_shuffle(self.last(h), 2) * 2.0**SCALE
        out = x - noise
        if not self.last.quantized:
            return out
        return fake_round(out).clamp(0, self.spec.peak)

    def _trunk_values(self, x: Tensor, sigma: Tensor | None) -> Iterator[Tensor]:
        """The trunk [N, W, H/2, W/2] after the first layer and after each pass."""
        h = F.pixel_unshuffle(x, 2) * 2.0**-SCALE
        if self.spec.sigma:
            if sigma is None:
                raise ValueError("this net must be told sigma")
            plane = torch.round(sigma).view(-1, 1, 1, 1) * 2.0**-SCALE
            h = torch.cat([h, plane.expand(-1, 1, *h.shape[2:])], 1)
        h = self.trunk.first(h)
        yield h
        for layer in self.trunk.layers:
            h = self.trunk.add(h, layer(h))
            yield h

    def trunk_peaks(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The largest number of each of the trunk's channels, [W]; arguments as of ``forward``."""
        seen = [h.detach().amax((0, 2, 3)) for h in self._trunk_values(x, sigma)]
        return torch.stack(seen).amax(0)

    def connect(self) -> None:
        """Fix every grid from the calibrated peaks."""
        peak = ROOM * self.spec.peak + 1
        grid = DyadicGrid(exponent=SCALE, lo=-peak, hi=peak)
        self.last.connect(self.trunk.connect(grid))
