"""The latent prior: mean and scale of each symbol from the symbols of the steps before.

::

    symbols y[s-1], y[s-2], … [L] ─┐
    step m of the stream, log2 ────┴─ causal net ─► mean (1/16), log2-scale (1/6): [L] each

Images are read in raster order; the offsets then reach one row up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeae.models.causal import CausalTorchNet
from edgeae.models.dyadic import DyadicGrid
from edgeae.models.sample_prior import SCALE_OFFSET, SCALE_STEPS, logistic_bits, step_code
from edgeae.runtime.cell_prior import LOWEST_SCALE

__all__ = ["LatentPriorNet"]

SYMBOL_PEAK = 127
EXPONENT = 1


class LatentPriorNet(nn.Module):
    """Training twin of :class:`edgeae.runtime.latent_prior.LatentPrior`.

    Args:
        latent: latent channels L.
        width: channels of the hidden layers; 0 gives the static prior, a constant per channel.
        offsets: steps back that the first layer sees.
        depth: hidden layers.
        has_cells: the runtime's twin is :class:`edgeae.runtime.cell_prior.CellPrior`, whose scales
            may be smaller.
    """

    def __init__(
        self,
        latent: int,
        *,
        width: int = 32,
        offsets: Sequence[int] = (1, 2, 3, 4),
        depth: int = 2,
        has_cells: bool = False,
    ) -> None:
        super().__init__()
        self.latent, self.width, self.has_cells = latent, width, has_cells
        self.lowest = LOWEST_SCALE if has_cells else 0
        if width == 0:
            self.constant = nn.Parameter(torch.zeros(2 * latent))
            with torch.no_grad():
                self.constant[latent:] = SCALE_OFFSET / 8
            return
        self.net = CausalTorchNet(
            past=[True] * latent + [False],
            n_out=2 * latent,
            hidden=[(width, (0, *offsets)), *((width, (0,)) for _ in range(depth - 1))],
            skip_offsets=tuple(offsets)[:2],
            out_exponents=[4] * latent + [3] * latent,
            feature_grid=DyadicGrid(exponent=EXPONENT, lo=-SYMBOL_PEAK, hi=SYMBOL_PEAK),
        )
        with torch.no_grad():
            self.net.head.bias[latent:] = SCALE_OFFSET / 8

    def connect(self) -> None:
        """Fix every grid from the calibrated peaks; call before switching to dyadic arithmetic."""
        if self.width:
            self.net.connect()

    def indices(self, symbols: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Means in sixteenths of a symbol and scale indices [B, L, S]: whole numbers if dyadic.

        Args:
            symbols: [B, L, S].
            step: [B], sixteenths.
        """
        if self.width == 0:
            out = self.constant.view(1, -1, 1).expand(symbols.shape[0], -1, symbols.shape[-1])
        else:
            cond = step_code(step).clamp(0, 127).view(-1, 1, 1).expand(-1, 1, symbols.shape[-1])
            context = symbols.clamp(-SYMBOL_PEAK, SYMBOL_PEAK)
            out = self.net(torch.cat([context, cond], 1) * 2.0**-EXPONENT)
        return out[:, : self.latent] * 16, (out[:, self.latent :] * 8).clamp(self.lowest, 63)

    def forward(self, symbols: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """symbols: [B, L, S], step: [B] (sixteenths); mean and scale [B, L, S], symbol units."""
        mean, index = self.indices(symbols, step)
        return mean / 16, torch.exp2((index - SCALE_OFFSET) / SCALE_STEPS)

    def bits(self, values: Tensor, symbols: Tensor, step: Tensor) -> Tensor:
        """Bits of ``values`` (noisy or rounded) given the rounded ``symbols`` before; [B, L, S]."""
        mean, scale = self(symbols, step)
        return logistic_bits(values - mean - 0.5, values - mean + 0.5, scale)
