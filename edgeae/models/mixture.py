"""The net that gives a mixture more parts, as torch sees it.

The runtime's twin is :class:`edgeae.runtime.mixture.MixtureNet`. It is a mixture density network
(C. M. Bishop, "Mixture Density Networks", 1994) on features that know no gain: everything is told
in units of the scale that the causal net gives. Its outputs, for each of K parts: log2 of a weight
(1/16), a mean past the moved one (1/16 scale), and how many sixths of an octave its scale lies
from the causal net's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeae.bitstream.cdf import MAX_SHIFT, N_SCALES, ROW16, SHAPE_POINTS
from edgeae.models.causal import CausalTorchNet
from edgeae.models.dyadic import DyadicGrid
from edgeae.runtime.mixture import MAX_LEARNT, PEAK, MixtureNet

__all__ = ["MixtureTorchNet", "part_bits"]

_WEIGHT_EXPONENT = _MEAN_EXPONENT = _FEATURE_EXPONENT = 4
_ROW_EXPONENT = 3  # the net counts rows in eighths: about octaves
_FIRST_ROWS = (-1.0, 3.5)  # of the first part and the last, at the start
_TAILS = 2.0**-10


class MixtureTorchNet(nn.Module):
    """Features of a symbol to the parts of its mixture.

    Args:
        channels: of the signal.
        history: past errors that it reads, and as many changes.
        width: of the two hidden layers.
        parts: K, up to 8.
        bits: of hidden activations.
    """

    rows16: Tensor

    def __init__(
        self, *, channels: int, history: int, width: int, parts: int = MAX_LEARNT, bits: int = 10
    ) -> None:
        super().__init__()
        self.channels, self.history, self.parts = channels, history, parts
        n = MixtureNet.n_features(history, channels)
        self.net = CausalTorchNet(
            past=[False] * n,
            n_out=3 * parts,
            hidden=[(width, (0,)), (width, (0,))],
            skip_offsets=(0,),
            out_exponents=[_WEIGHT_EXPONENT] * parts
            + [_MEAN_EXPONENT] * parts
            + [_ROW_EXPONENT] * parts,
            feature_grid=DyadicGrid(exponent=_FEATURE_EXPONENT, lo=-PEAK, hi=PEAK),
            bits=bits,
        )
        with torch.no_grad():
            self.net.head.bias[2 * parts :] = torch.linspace(*_FIRST_ROWS, parts)
        self.register_buffer("rows16", torch.tensor(ROW16, dtype=torch.float32))

    def forward(self, features: Tensor, ls: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and scales of the parts, in units of the causal net's scale: [N, K] each.

        Args:
            features: the integers that the net reads, float32 [N, F].
            ls: the scale index that the causal net gives, int64 [N].
            shift: the feature shift, int64 [N].
        """
        k = self.parts
        out = self.net((features * 2.0**-_FEATURE_EXPONENT).T[None])[0].T
        logit = out[:, :k]
        best = logit.detach().amax(1, keepdim=True)
        weight = torch.softmax(torch.maximum(logit, best - 255 / 16) * 0.6931471805599453, 1)
        row = out[:, 2 * k :] * 2.0**_ROW_EXPONENT
        top = N_SCALES - 1 + 6 * (MAX_SHIFT - shift).clamp(max=5)
        at = torch.minimum((ls[:, None] + row).clamp(min=0), top[:, None])
        smooth = torch.exp2((at - ls[:, None]) / 6)
        exact = self.rows16[at.detach().round().long()] / self.rows16[ls][:, None]
        return weight, out[:, k : 2 * k], smooth * (exact / smooth.detach())

    def connect(self) -> None:
        """Fix every grid from the calibrated peaks; call before switching to dyadic arithmetic."""
        self.net.connect()

    def runtime(self) -> MixtureNet:
        """The same net for the runtime."""
        return MixtureNet(net=self.net.integer_net(), history=self.history)


def part_bits(
    low: Tensor, high: Tensor, parts: tuple[Tensor, Tensor, Tensor], shape: Tensor
) -> Tensor:
    """Bits of a bin under a mixture, [N].

    What lies beyond every part is escaped, in about twice the logarithm of how far it is: as if a
    little of each part had Cauchy's tails, which also tells a part where to go.

    Args:
        low, high: the bin's ends past the moved mean, in units of the causal net's scale, [N].
        parts: weights, means and scales in these units, [N, K].
        shape: the distribution function on 385 points, 0 to 1.
    """
    weight, mean, scale = parts

    def below(at: Tensor) -> Tensor:
        z = (((at[:, None] - mean) / scale).clamp(-11.999, 11.999) + 12) * 16
        i = z.detach().floor().long().clamp(0, SHAPE_POINTS - 2)
        f = z - i
        return shape[i] * (1 - f) + shape[i + 1] * f

    mass = (weight * (below(high) - below(low)).clamp_min(0)).sum(1)
    far = ((low + high)[:, None] / 2 - mean) / scale
    tails = weight * (high - low)[:, None] / (torch.pi * scale * (1 + far * far))
    return -torch.log2(mass * (1 - _TAILS) + _TAILS * tails.sum(1).clamp(1e-9, 1))
