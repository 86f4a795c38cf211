"""The pixel prior: the distribution of a pixel's level from the pixels already decoded.

::

    levels above and to the left ─ table, F values each ─┐
    place in the image, quantizer step ──────────────────┴─ causal net ─► one logit per level

The logits are in sixteenths of an octave. The one of the commonest level, the *ground*, says how
likely that level is; the others say how likely each other level is where it is not the ground.
Images are read in raster order, channels of a pixel one after the other, and each row ends with a
margin that holds nothing. Here they are planes [H, (W + margin) * C]; what lies left of a row is
the end of the row before, and right of it the start of the next one, as in raster order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeae.models.dyadic import DyadicConv, DyadicGrid, fake_round, stacked
from edgeae.runtime.causal import CausalLayer, CausalNet
from edgeae.runtime.pixel_rules import FEATURE_PEAK, LOGIT_EXPONENT, PixelRaster, level_bins
from edgeae.runtime.prior_rules import step_condition

__all__ = ["PixelPriorNet", "PixelPriorSpec"]

EMBED_EXPONENT = 4
N_EMBED = 6
GAIN = 3  # a logit is 2^3 octaves per unit of the net's output, so that it learns fast
LOG2_E = 1 / math.log(2)


@dataclass(frozen=True, kw_only=True)
class PixelPriorSpec:
    """Shape of a pixel prior.

    Attributes:
        raster: the order in which the levels of an image are coded.
        low: smallest level.
        levels: how many there are, 2 to 256.
        ground: the commonest level, counted from ``low``.
        hidden: channels of a hidden layer.
        radii: how far each hidden layer looks, in pixels.
        bits: bits of a hidden activation.
    """

    raster: PixelRaster
    low: int = 0
    levels: int = 256
    ground: int = 0
    hidden: int = 32
    radii: tuple[int, ...] = field(default=(3, 1, 1))
    bits: int = 10


class PixelConv(DyadicConv):
    """A causal convolution over planes, whose exported form reads raster offsets.

    Args:
        n_in: input channels I.
        n_out: output channels O.
        raster: order of the steps.
        radius: pixels that it looks to each side, and up.
        keep: which inputs count at the step itself, and which at its neighbours: bool [2, I].
        bits: bits of the output's integers.
    """

    keep: Tensor

    def __init__(
        self, n_in: int, n_out: int, raster: PixelRaster, radius: int, keep: Tensor, bits: int
    ) -> None:
        super().__init__(2, n_in, n_out, bits=bits)
        reach = radius * raster.channels
        mask = keep[1].float().view(1, n_in, 1, 1).repeat(1, 1, radius + 1, 2 * reach + 1)
        mask[:, :, -1, reach] = keep[0].float()
        mask[:, :, -1, reach + 1 :] = 0
        self.raster, self.radius, self.reach_columns = raster, radius, reach
        self.register_buffer("keep", mask)
        scale = (2.0 / float(mask.sum())) ** 0.5
        self.weight = nn.Parameter(torch.randn(n_out, *mask.shape[1:]) * scale * mask)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        up, reach = self.radius, self.reach_columns
        if up:
            x = F.pad(x, (0, 0, up, 0))
            before = F.pad(x[:, :, :-1, x.shape[-1] - reach :], (0, 0, 1, 0))
            after = F.pad(x[:, :, 1:, :reach], (0, 0, 0, 1))
            x = torch.cat([before, x, after], 3)
        return F.conv2d(x, weight * self.keep, bias)

    def layer(self) -> CausalLayer:
        """The layer for the integer engines."""
        ints = self.integers()
        n_out, n_in = ints.weight.shape[:2]
        offsets = self.raster.offsets(self.radius)
        # taps from the nearest step back: the last row leftwards from the center, then rows above
        kernel = (ints.weight * self.keep.numpy().astype("int32"))[..., ::-1, ::-1]
        flat = kernel.reshape(n_out, n_in, -1)[..., self.reach_columns :]
        return CausalLayer(
            offsets=offsets,
            weight=flat.transpose(0, 2, 1).astype("int8"),
            bias=ints.bias.astype("int32"),
            shift=(ints.exponent + int(self.in_exponent) - int(self.out_exponent)).astype("int32"),
            bits=self.bits,
        )


class PixelPriorNet(nn.Module):
    """Training twin of :class:`edgeae.runtime.pixel_prior.PixelPrior`."""

    place: Tensor

    def __init__(self, spec: PixelPriorSpec) -> None:
        super().__init__()
        self.spec = spec
        raster = spec.raster
        place = torch.from_numpy(raster.place()).float()
        self.register_buffer("place", place.view(1, len(place), raster.height, raster.stride))
        self.past = [True] * N_EMBED + [False] * (len(place) + 1)
        is_past = torch.tensor(self.past)
        keep = torch.stack([~is_past, is_past])
        layers = []
        n_in = len(self.past)
        for radius in spec.radii:
            layers.append(PixelConv(n_in, spec.hidden, raster, radius, keep, spec.bits))
            n_in = spec.hidden
            keep = torch.ones(2, n_in, dtype=torch.bool)
        self.hidden = stacked(layers)
        self.head = DyadicConv(1, n_in, spec.levels, relu=False, bits=24)
        with torch.no_grad():
            self.head.weight.mul_(0.02)
        at = torch.linspace(0, 1, spec.levels)
        table = torch.randn(spec.levels, N_EMBED) * 0.1
        is_ground = (torch.arange(spec.levels) == spec.ground).float()
        peaks = [at, is_ground, (at > 0.98).float(), 1 - (2 * at - 1).abs()]
        table[:, :4] = torch.stack(peaks, 1)
        self.table = nn.Parameter(table)

    @property
    def feature_grid(self) -> DyadicGrid:
        """Grid of what the net reads."""
        return DyadicGrid(exponent=EMBED_EXPONENT, lo=-FEATURE_PEAK, hi=FEATURE_PEAK)

    def connect(self) -> None:
        """Fix every grid from the calibrated peaks; call before switching to dyadic arithmetic."""
        grid = self.feature_grid
        for layer in self.hidden:
            grid = layer.connect(grid)
        self.head.fixed_exponent = LOGIT_EXPONENT + GAIN
        self.head.connect(grid)

    def embedding(self) -> Tensor:
        """What the net reads in place of each level: float32 [levels, F], on the feature grid."""
        scaled = fake_round(self.table * 2.0**EMBED_EXPONENT)
        return scaled.clamp(-FEATURE_PEAK, FEATURE_PEAK) * 2.0**-EMBED_EXPONENT

    def context(self, levels: Tensor, step: Tensor) -> Tensor:
        """What the last hidden layer makes of the levels before each.

        Args:
            levels: decoded levels, int64 [B, C, H, W].
            step: quantizer steps, [B].

        Returns:
            float32 [B, H * W * C, hidden], in raster order.
        """
        r = self.spec.raster
        n = len(levels)
        embedded = self.embedding()[levels.permute(0, 2, 3, 1)]  # [B, H, W, C, F]
        past = F.pad(embedded.flatten(2, 3), (0, 0, 0, r.margin * r.channels)).permute(0, 3, 1, 2)
        conds = torch.tensor([float(step_condition(int(d))) for d in step.tolist()])
        cond = conds.view(n, 1, 1, 1).expand(-1, -1, r.height, r.stride)
        side = torch.cat([self.place.expand(n, -1, -1, -1), cond], 1) * 2.0**-EMBED_EXPONENT
        x = torch.cat([past, side], 1)
        for layer in self.hidden:
            x = layer(x)
        return x[..., : r.width * r.channels].permute(0, 2, 3, 1).flatten(1, 2)

    def logits(self, hidden: Tensor, which: slice | None = None) -> Tensor:
        """Logits in octaves, [n, levels] or some of them, from [n, hidden]."""
        rows = slice(None) if which is None else which
        weight, bias = (
            self.head.quantized_parameters()[:2]
            if self.head.quantized
            else (self.head.weight, self.head.bias)
        )
        out = F.linear(hidden, weight[rows, :, 0], bias[rows])
        if self.head.quantized:
            finest = 2.0 ** (LOGIT_EXPONENT + GAIN)
            out = fake_round(out * finest) / finest
        return out * 2.0**GAIN

    def bits(self, levels: Tensor, step: Tensor) -> Tensor:
        """Bits of each image, [B], coded with its quantizer step.

        Args:
            levels: true levels, int64 [B, C, H, W].
            step: quantizer steps, [B].
        """
        s = self.spec
        found = [level_bins(int(d), s.levels, s.ground) for d in step.tolist()]
        index = torch.stack([torch.from_numpy(bins) for bins, _ in found])  # [B, levels]
        recon = torch.stack([torch.from_numpy(back) for _, back in found])
        item = torch.arange(len(levels))
        hidden = self.context(recon[item.view(-1, 1, 1, 1), levels], step)
        own = index.gather(1, levels.permute(0, 2, 3, 1).flatten(1))
        is_ground = own == index[:, s.ground, None]
        flag = self.logits(hidden.flatten(0, 1), slice(s.ground, s.ground + 1)).float()
        flag = flag.view(is_ground.shape) / LOG2_E
        total = F.softplus(torch.where(is_ground, -flag, flag)).sum(1) * LOG2_E
        total = total * (index[:, -1] > 0)  # a single bin is not coded
        for at in _runs(step):
            item, pixel = torch.nonzero(~is_ground[at], as_tuple=True)
            logits = self.logits(hidden[at][item, pixel]).float() / LOG2_E
            bins = index[at][0]
            mass = torch.softmax(logits.masked_fill(bins == bins[s.ground], -math.inf), 1)
            mass = mass.new_zeros(len(mass), int(bins[-1]) + 1).index_add(1, bins, mass)
            picked = own[at][item, pixel]
            cost = -torch.log2(mass.gather(1, picked[:, None])[:, 0].clamp_min(2.0**-24))
            total = total.index_add(0, item + (at.start or 0), cost)
        return total

    def integer_net(self) -> CausalNet:
        """The net for the runtime's integer engines."""
        head = self.head.integers()
        finest = LOGIT_EXPONENT + GAIN
        return CausalNet(
            n_inputs=len(self.past),
            past=torch.tensor(self.past).numpy(),
            layers=tuple(layer.layer() for layer in self.hidden),
            head=CausalLayer(
                offsets=(0,),
                weight=head.weight.transpose(0, 2, 1).astype("int8"),
                bias=head.bias.astype("int32"),
                shift=(head.exponent + int(self.head.in_exponent) - finest).astype("int32"),
                bits=0,
            ),
            feature_peak=FEATURE_PEAK,
        )


def _runs(step: Tensor) -> Sequence[slice]:
    """Slices of neighbours with one step."""
    values = step.tolist()
    cuts = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1]), len(values)]
    return [slice(a, b) for a, b in pairwise(cuts) if b > a]
