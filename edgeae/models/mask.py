"""A mask net: a causal trunk over time whose guide a small net over time and frequency reads.

Shapes: N streams, B bands, K frames, G guides, P planes.

::

    features [N, B, K] ─┬─ conv ─ residual conv, dilated (repeated) ─ conv ─► guides [N, G B, K]
                        └─ beside the guides, as planes [N, 1 + G, B, K] ─ conv over band and frame
                           (repeated) ─► mask [N, B, K]

The trunk hears seconds but is too narrow to say of every band what it says of its neighbours; the
planes see each band and its neighbours as they are, with the same weights from the lowest to the
highest, and hear from the trunk what to make of it. All is dyadic, and looks back only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeae.models.denoise import StreamNet, StreamSpec
from edgeae.models.dyadic import DyadicConv, DyadicGrid, stacked

__all__ = ["TAPS", "MaskNet", "MaskSpec"]

TAPS = 3  # of the planes' convolutions, in bands and in frames
_GUIDE_BITS = 11


@dataclass(frozen=True, kw_only=True)
class MaskSpec(StreamSpec):
    """Shape of a mask net; ``n_in`` bands in, as many out.

    Attributes:
        guides: numbers G that the trunk says of each band.
        planes: planes P of the hidden layers.
        plane_layers: convolutions over band and frame, the last one's mask included.
    """

    guides: int = 2
    planes: int = 16
    plane_layers: int = 3

    @property
    def plane_widths(self) -> tuple[int, ...]:
        """Planes that each convolution over band and frame reads, and the one it ends in."""
        return (1 + self.guides, *([self.planes] * (self.plane_layers - 1)), 1)

    @property
    def state_shapes(self) -> tuple[tuple[int, int], ...]:
        """Of the trunk, then of each convolution over band and frame: [planes B, frames]."""
        past = tuple((width * self.n_in, TAPS - 1) for width in self.plane_widths[:-1])
        return (*super().state_shapes, *past)


class MaskNet(StreamNet):
    """A causal mask estimator with its state in the open.

    Example:
        >>> net = MaskNet(MaskSpec(n_in=9, n_out=9, hop=1, first=2, dilations=(1,), planes=4,
        ...                        out_relu=True, out_bits=9, out_exponent=8))
        >>> mask, state = net(torch.zeros(1, 9, 5), net.initial_state(1))
        >>> mask.shape, [tuple(s.shape) for s in state]
        (torch.Size([1, 9, 5]), [(1, 9, 1), (1, 40, 2), (1, 27, 2), (1, 36, 2), (1, 36, 2)])
    """

    spec: MaskSpec

    def __init__(self, spec: MaskSpec) -> None:
        super().__init__(spec)
        self.guide = DyadicConv(
            1, spec.width, spec.guides * spec.n_in, relu=False, bits=_GUIDE_BITS
        )
        self.guide.fixed_exponent = spec.exponent
        *widths, _ = spec.plane_widths
        self.planes = stacked(
            [
                DyadicConv(2, a, b, kernel=TAPS, padding=(0, 0), bits=spec.bits)
                for a, b in pairwise(widths)
            ]
        )
        exponent = self.last.fixed_exponent
        self.last = DyadicConv(
            2, widths[-1], 1, kernel=TAPS, padding=(0, 0), relu=spec.out_relu, bits=spec.out_bits
        )
        self.last.fixed_exponent = exponent
        with torch.no_grad():
            self.guide.weight.mul_(0.3)
            self.last.weight.mul_(0.1)

    @property
    def plane_layers(self) -> tuple[DyadicConv, ...]:
        """The convolutions over band and frame."""
        return (*self.planes, self.last)

    def forward(self, x: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The next frames' mask, and the state after them.

        Args:
            x: features [N, B, K].
            state: of ``initial_state`` or of the call before.
        """
        spec = self.spec
        x = torch.round(x).clamp(-spec.input_peak, spec.input_peak) * 2.0**-spec.exponent
        old, *olds = state
        seen = torch.cat([old, x], 2)
        after = [seen[:, :, seen.shape[2] - old.shape[2] :]]
        h = self.trunk.first(seen)
        for layer, old in zip(self.trunk.layers, olds[: len(spec.dilations)], strict=True):
            seen = torch.cat([old, h], 2)
            after.append(seen[:, :, seen.shape[2] - old.shape[2] :])
            h = self.trunk.add(h, layer(seen))
        n, bands, frames = x.shape
        guides = self.guide(h)
        peak = (2 ** (_GUIDE_BITS - 1) - 1) * 2.0**-spec.exponent
        guides = guides.clamp(-peak, peak).view(n, spec.guides, bands, frames)
        # channels last is what these convolutions are fast in
        p = torch.cat([x[:, None], guides], 1).contiguous(memory_format=torch.channels_last)
        for layer, old in zip(self.plane_layers, olds[len(spec.dilations) :], strict=True):
            seen = torch.cat([old.view(n, -1, bands, TAPS - 1).to(p.dtype), p], 3)
            after.append(seen[..., seen.shape[3] - TAPS + 1 :].reshape(old.shape))
            p = layer(F.pad(seen, (0, 0, 1, 1)))
        return p[:, 0], after

    def connect(self) -> None:
        """Fix every grid from the calibrated peaks."""
        peak = self.spec.input_peak
        grid = DyadicGrid(exponent=self.spec.exponent, lo=-peak, hi=peak)
        grid = self.guide.connect(self.trunk.connect(grid))
        for layer in self.plane_layers:
            grid = layer.connect(grid)
