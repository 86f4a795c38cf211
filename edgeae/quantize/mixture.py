"""Training the net of a mixture, on what the coder really meets.

The net is the last to learn: the causal net, its filters and the closed loop stand, and none of
them depends on it. So its features are gathered once, from frames that are really coded, and
training is plain supervised learning on them, first in float, then on dyadic grids.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeae.bitstream.cdf import SCALE16
from edgeae.bitstream.steps import channel_steps
from edgeae.models.dyadic import calibrating, set_quantized
from edgeae.models.mixture import MixtureTorchNet, part_bits
from edgeae.runtime.adaptive import Filters
from edgeae.runtime.mixture import Mixers, MixtureNet
from edgeae.runtime.prior_rules import PriorRules, step_condition
from edgeae.runtime.sample_prior import SamplePrior, encode_samples

__all__ = ["Gathered", "fit_mixture", "gather"]

BATCH = 1024
LEARNING_RATE = 5e-3
MOST_BITS = 40.0  # of one symbol, in the loss
AT_ONCE = 64  # frames

Ints = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
_SCALES = np.array(SCALE16, np.int64)


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """Symbols as the mixture met them, of one quantizer step.

    Attributes:
        features: what the net reads, int16 [N, F].
        ls: scale index of the causal net, [N].
        shift: feature shift, [N].
        missed: how far the sample lay from the moved mean, in scales, [N].
        half: half a bin, in scales, [N].
    """

    features: Tensor
    ls: Tensor
    shift: Tensor
    missed: Tensor
    half: Tensor


def gather(
    prior: SamplePrior, history: int, frames: Sequence[Ints], codes: Sequence[Ints] | None,
    step: int,
) -> Gathered:  # fmt: skip
    """Code frames of one length, and note what the mixture is told of every symbol.

    Args:
        prior: an adaptive prior, with or without learnt parts.
        history: past errors that the net is to read.
        frames: grid indices, int32 [G, T, C] each.
        codes: of the window code, likewise, where the prior reads them.
        step: quantizer step.
    """
    coded = encode_samples(prior, frames, step, codes)
    kept = [i for i, found in enumerate(coded) if found is not None]
    parts: list[tuple[LongArray, ...]] = []
    for begin in range(0, len(kept), AT_ONCE):
        some = kept[begin : begin + AT_ONCE]
        recons = [found[1] for found in (coded[i] for i in some) if found is not None]
        x = np.concatenate(recons).astype(np.int64)
        u = None if codes is None else np.concatenate([codes[i] for i in some]).astype(np.int64)
        parts += _walk(prior.rules, history, x, u, prior.cond(step), step)
    features, ls, shift, missed, scale16, width = (
        np.concatenate([part[i] for part in parts]) for i in range(6)
    )
    scale = torch.from_numpy(scale16.astype(np.float32))
    return Gathered(
        features=torch.from_numpy(features.astype(np.int16)),
        ls=torch.from_numpy(ls),
        shift=torch.from_numpy(shift),
        missed=torch.from_numpy(missed.astype(np.float32)) / scale,
        half=8 * torch.from_numpy(width.astype(np.float32)) / scale,
    )


def _walk(
    rules: PriorRules, history: int, r: LongArray, code: LongArray | None, cond: Sequence[int],
    step: int,
) -> Iterator[tuple[LongArray, ...]]:  # fmt: skip
    """Per step and channel: features, ls, shift, missed, scale16 and delta of segments [B, T, C].

    Each segment as if it began a frame: what the first of its samples is coded from differs.
    """
    assert rules.adaptive is not None
    n, length, channels = r.shape
    delta = channel_steps(step, channels)
    levels = [step_condition(d, p) for d, p in zip(delta, rules.shift, strict=True)]
    out = np.stack([_outputs(rules, r[b], None if code is None else code[b], cond)
                    for b in range(n)])  # fmt: skip
    filters = Filters(rules.adaptive, delta, n)
    mixers = Mixers(_Reads(history), levels, rules.shift, n)
    for t in range(length):
        mean, index = rules.means(out[:, t])
        before = r[:, max(t - 1, 0)]
        for c in range(channels):
            ls = index[:, c]
            scale16 = _SCALES[ls] << rules.shift[c]
            moved = filters.predict(c, scale16)
            rows = mixers.rows(c, scale16)
            features = mixers.features(c, ls, scale16, moved, rows)
            error16 = 16 * (r[:, t, c] - rules.anchor(before[:, c], c)) - mean[:, c]
            change = r[:, t, c] - before[:, c]
            missed = error16 - moved
            same = np.ones_like(ls)
            yield features, ls, rules.shift[c] * same, missed, scale16, delta[c] * same
            mixers.meet(c, scale16, missed, change)
            filters.learn(c, scale16, error16, change)
        filters.advance()
        mixers.advance()


class _Reads(MixtureNet):
    """Stands for a net that is not there yet: how far back it will read."""

    def __init__(self, history: int) -> None:
        object.__setattr__(self, "history", history)


def _outputs(
    rules: PriorRules, r: LongArray, code: LongArray | None, cond: Sequence[int]
) -> LongArray:
    assert rules.net is not None
    before = np.concatenate([r[:1], r[:-1]])
    rows = np.empty((len(r), rules.net.n_inputs), np.int64)
    rows[:, ~rules.net.past] = rules.side_features(code, cond, len(r))
    rows[:, rules.net.past] = rules.past_features(r, before, code)
    out: LongArray = rules.net.run(rows.T[None])[0].T.astype(np.int64)
    return out


def fit_mixture(
    prior: SamplePrior,
    gathered: Sequence[Gathered],
    *,
    history: int,
    width: int,
    parts: int,
    steps: int,
) -> MixtureNet:
    """Train a net for the mixture of a prior.

    Args:
        prior: what the symbols were gathered with.
        gathered: symbols, for each quantizer step; all steps weigh alike.
        history, width, parts: see `edgeae.models.mixture.MixtureTorchNet`.
        steps: optimizer steps on dyadic grids; twice as many come before, in float.
    """
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = MixtureTorchNet(channels=prior.n_channels, history=history, width=width, parts=parts)
    shape = torch.from_numpy(prior.shape.astype(np.float32) / 65535)
    share = max(BATCH // len(gathered), 1)
    usual = torch.ones(len(gathered))  # bits per symbol of each step, as they fall

    def loss() -> Tensor:
        batch = _drawn(gathered, share, generator)
        parts = net(batch.features.float(), batch.ls, batch.shift)
        low, high = batch.missed - batch.half, batch.missed + batch.half
        bits = part_bits(low, high, parts, shape).clamp_max(MOST_BITS).view(len(gathered), -1)
        usual.add_(0.02 * (bits.detach().mean(1) - usual))
        return (bits.mean(1) / (usual + 0.02)).mean()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for a net as small as this, more only wait for each other
    for n_steps, rate in ((2 * steps, LEARNING_RATE), (steps, LEARNING_RATE / 4)):
        if rate < LEARNING_RATE:
            _to_grids(net, gathered, generator, share)
        optimizer = torch.optim.Adam(
            [p for p in net.parameters() if p.requires_grad], rate, betas=(0.9, 0.99)
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_share, n=n_steps))
        for _ in range(n_steps):
            optimizer.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    torch.set_num_threads(threads)
    return net.runtime()


def _share(step: int, n: int) -> float:
    """Of the learning rate at a step of n: up over the first tenth, then down along a cosine."""
    return min(1.0, (step + 1) / max(n // 10, 1)) * 0.5 * (1 + math.cos(math.pi * step / n))


def _drawn(gathered: Sequence[Gathered], share: int, generator: torch.Generator) -> Gathered:
    """As many symbols of each quantizer step, picked at random."""
    picks = [torch.randint(len(each.ls), (share,), generator=generator) for each in gathered]
    return Gathered(
        **{
            name: torch.cat([getattr(g, name)[p] for g, p in zip(gathered, picks, strict=True)])
            for name in ("features", "ls", "shift", "missed", "half")
        }
    )


def _to_grids(
    net: MixtureTorchNet, gathered: Sequence[Gathered], generator: torch.Generator, share: int
) -> None:
    """Calibrate, fix every grid, switch to dyadic arithmetic."""
    with torch.no_grad(), calibrating(net):
        for _ in range(16):
            batch = _drawn(gathered, share, generator)
            net(batch.features.float(), batch.ls, batch.shift)
    net.connect()
    set_quantized(net, True)
