"""The sample prior: mean and scale of the next sample from the samples already decoded.

::

    r[t-1], r[t-2], …  ─ differences, 12 bit ─┐
    u (code), shifted   ─ differences ────────┤ causal net ─► mean offset (1/16), log2-scale (1/6)
    r - u, past         ─ residual ───────────┤               of a logistic over the next sample
    quantizer steps     ─ log2, constant ─────┘

One net serves a range of quantizer steps, a channel's own: they are among its inputs. Everything is
in *index units*, the integers of the channel's own grid.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeae.models.causal import CausalTorchNet
from edgeae.models.dyadic import DyadicGrid

__all__ = ["SamplePriorNet", "SamplePriorSpec", "logistic_bits", "step_code"]

FEATURE_PEAK = 2047
SCALE_STEPS = 6  # log2-scale in sixths of an octave
SCALE_OFFSET = 18  # scale index of one feature unit
FLOOR = 2.0**-16


def _per_channel(step: Tensor) -> Tensor:
    """A step per signal, [B], or per channel, [B, C], as [B, 1 or C, 1]."""
    return step.reshape(len(step), -1, 1)


def step_code(step: Tensor) -> Tensor:
    """``round(6 * log2(step))``, the integer that tells a net its quantizer step."""
    return torch.round(SCALE_STEPS * torch.log2(step.double())).to(step.dtype)


def logistic_bits(low: Tensor, high: Tensor, scale: Tensor) -> Tensor:
    """Bits for a bin ``[low, high]``, relative to the mean, under a floored logistic."""
    flip = torch.where(low + high > 0, -1.0, 1.0)
    a, b = low * flip / scale, high * flip / scale
    mass = (torch.sigmoid(torch.maximum(a, b)) - torch.sigmoid(torch.minimum(a, b))).clamp_min(0)
    return -torch.log2(mass * (1 - 64 * FLOOR) + FLOOR)


_PARTS = (-4, 0, 4, 16)
"""Of the runtime's mixture, see `edgeae.runtime.adaptive`, the parts that every frame begins with:
sixths of an octave from the net's scale."""
_SHARES = (0.2, 0.5, 0.2, 0.1)
_OCTAVES = 24  # of quantizer steps


def mixture_bits(low: Tensor, high: Tensor, scale: Tensor, share: Tensor) -> Tensor:
    """Bits for a bin ``[low, high]``, relative to the mean, under logistics of four scales.

    Args:
        low: lower end [B, C, T].
        high: upper end.
        scale: the net's scale.
        share: of the four, [B, 1 or C, 1, 4].
    """
    flip = torch.where(low + high > 0, -1.0, 1.0)
    a, b = low * flip, high * flip
    a, b = torch.minimum(a, b), torch.maximum(a, b)
    mass = torch.zeros(())
    for i, step in enumerate(_PARTS):
        s = scale * 2.0 ** (step / SCALE_STEPS)
        mass = mass + share[..., i] * (torch.sigmoid(b / s) - torch.sigmoid(a / s)).clamp_min(0)
    return -torch.log2(mass * (1 - 64 * FLOOR) + FLOOR)


@dataclass(frozen=True, kw_only=True)
class SamplePriorSpec:
    """Shape of a sample prior, as a recipe states it.

    Attributes:
        channels: signal channels C.
        kind: ``delta`` predicts from the previous sample, ``level`` from ``center``.
        feature_shift: per channel, features are index units shifted right by this many bits.
        feature_exponent: the net sees features times ``2**-feature_exponent``.
        center: per channel, level subtracted where ``kind`` is ``level``.
        width: channels of a hidden layer.
        offsets: offsets of each hidden layer.
        taps: offsets of the linear taps.
        has_code: the net also sees the synthesis net's output.
        lookahead: samples of that output it sees ahead.
        bits: bits of a hidden activation.
    """

    channels: int = 1
    kind: str = "delta"
    feature_shift: tuple[int, ...] = (0,)
    feature_exponent: int = 3
    center: tuple[int, ...] = (0,)
    width: int = 24
    offsets: tuple[tuple[int, ...], ...] = field(default=((1,),))
    taps: tuple[int, ...] = (1,)
    has_code: bool = False
    lookahead: int = 0
    bits: int = 10


class SamplePriorNet(nn.Module):
    """Training twin of :class:`edgeae.runtime.sample_prior.SamplePrior`."""

    unit: Tensor
    center: Tensor

    def __init__(self, spec: SamplePriorSpec) -> None:
        super().__init__()
        self.spec = spec
        c = spec.channels
        past = [True] * c + ([False] * c + [True] * c if spec.has_code else []) + [False] * c
        # the net's inputs are features * 2^-feature_exponent: a mean in sixteenths of a feature
        mean_exponent = 4 + spec.feature_exponent
        first = spec.offsets[0]
        if 0 not in first:
            first = (0, *first)
        self.net = CausalTorchNet(
            past=past,
            n_out=2 * c,
            hidden=[(spec.width, first), *((spec.width, o) for o in spec.offsets[1:])],
            skip_offsets=spec.taps,
            out_exponents=[mean_exponent] * c + [3] * c,
            feature_grid=DyadicGrid(
                exponent=spec.feature_exponent, lo=-FEATURE_PEAK, hi=FEATURE_PEAK
            ),
            bits=spec.bits,
        )
        with torch.no_grad():
            self.net.head.bias[c:] = SCALE_OFFSET / 8
        # in training alone: at run time the weights follow the frame
        self.share = nn.Parameter(torch.log(torch.tensor([_SHARES] * _OCTAVES)))
        shifts = torch.tensor([2.0**p for p in spec.feature_shift])
        self.register_buffer("unit", shifts.view(1, -1, 1))
        self.register_buffer("center", torch.tensor([float(v) for v in spec.center]).view(1, -1, 1))

    def features(self, r: Tensor, step: Tensor, code: Tensor | None = None) -> Tensor:
        """Return the net's inputs, float32 [B, I, T] on the grid.

        Args:
            r: reconstruction [B, C, T].
            step: quantizer step, [B] or [B, C].
            code: the synthesis net's output [B, C, T], where the net reads it.
        """
        s = self.spec
        unit = self.unit

        def clip(v: Tensor) -> Tensor:
            return torch.round(v / unit).clamp(-FEATURE_PEAK, FEATURE_PEAK)

        parts = []
        if s.kind == "delta":
            parts.append(clip(F.pad(r[..., 1:] - r[..., :-1], (1, 0))))
        else:
            parts.append(clip(r - self.center))
        if s.has_code:
            assert code is not None
            ahead = torch.cat([code, code[..., -1:].expand(-1, -1, s.lookahead)], -1)
            u = ahead[..., s.lookahead :]
            first = ahead[..., max(s.lookahead - 1, 0)].unsqueeze(-1)
            if s.lookahead == 0:
                first = code[..., :1]
            parts.append(clip(u - torch.cat([first, u[..., :-1]], -1)))
            parts.append(clip(r - code))
        relative = _per_channel(step_code(step)) - SCALE_STEPS * torch.log2(unit)
        parts.append(relative.clamp(0, 127).expand(-1, -1, r.shape[-1]))
        return torch.cat(parts, 1) * 2.0**-s.feature_exponent

    def connect(self) -> None:
        """Fix every grid from the calibrated peaks; call before switching to dyadic arithmetic."""
        self.net.connect()

    def forward(self, r: Tensor, step: Tensor, code: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and logistic scale of each sample, index units: two tensors [B, C, T]."""
        s = self.spec
        out = self.net(self.features(r, step, code))
        c = s.channels
        if s.kind == "delta":
            anchor = torch.cat([r[..., :1], r[..., :-1]], -1)
        else:
            anchor = self.center.expand_as(r)
        unit = self.unit
        mean = anchor + out[:, :c] * 2.0**s.feature_exponent * unit
        index = (out[:, c:] * 8).clamp(0, 63)
        return mean, torch.exp2((index - SCALE_OFFSET) / SCALE_STEPS) * unit

    def bits(self, x: Tensor, r: Tensor, step: Tensor, code: Tensor | None = None) -> Tensor:
        """Bits per sample, bins centred where the coder will centre them; [B, C, T].

        The mean learns from a bin around the sample, the scale from the bin that will be coded.
        """
        mean, scale = self(r, step, code)
        width = _per_channel(step).to(x.dtype)
        around = x - mean
        octave = torch.round(torch.log2(width)).long().clamp(0, _OCTAVES - 1)
        share = torch.softmax(self.share[octave], -1)

        def bits(at: Tensor, scale: Tensor) -> Tensor:
            return mixture_bits(at - width / 2, at + width / 2, scale, share)

        soft = bits(around, scale)
        center = torch.floor(mean.detach() + 0.5)
        k = torch.sign(x - center) * torch.floor(((x - center).abs() + (width - 1) / 2) / width)
        hard = bits(center + k * width - mean.detach(), scale)
        soft_mean = bits(around, scale.detach())
        # value: the hard cost; gradients: the hard cost for the scale, the soft one for the mean
        return torch.where(width > 1, hard + (soft_mean - soft_mean.detach()), soft)
