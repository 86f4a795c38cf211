"""Closed loop: training signal as the integer coder reconstructs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeae.models.integer import runtime_sample_prior
from edgeae.models.sample_prior import SamplePriorNet
from edgeae.runtime.sample_prior import encode_samples
from edgeae.train.phases import BASE_STEP, Signal, WindowCode, code_of, elsewhere

__all__ = ["closed_loop"]

LOOP_PIECE = 4096


def closed_loop(
    net: SamplePriorNet,
    signal: Signal,
    step: int,
    code: WindowCode | None,
    items: int,
    *,
    seed: int,
    augment: float = 0.0,
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Code pieces of a signal with the integer engine; gives (signal, reconstruction, code).

    Every piece is [C, T]. The engine is the runtime's, so these are the reconstructions that a
    device will see.
    """
    prior = runtime_sample_prior(net)
    generator = torch.Generator().manual_seed(seed)
    if signal.is_image:
        pixels = signal.segments[0].shape[-1] * signal.segments[0].shape[-2]
        x = signal.crops(max(1, items // pixels), 0, generator)
    else:
        longest = max(s.shape[-1] for s in signal.segments)
        length = min(LOOP_PIECE, longest)
        if code is not None:
            unit = code.analysis.spec.stride
            length = length // unit * unit
        x = signal.crops(max(1, items // length), length, generator)
        if augment > 0:  # half as they are, half as another device would give them
            half = len(x) // 2
            x = torch.cat([x[:half], elsewhere(x[half:], augment, generator)])
    u = None if code is None else code_of(code, x, torch.full((len(x),), BASE_STEP)).flatten(2)
    x = x.flatten(2)
    frames = _frames(x)
    coded = encode_samples(prior, frames, step, None if u is None else _frames(u))
    found = []
    for i, result in enumerate(coded):
        if result is not None:
            recon = torch.from_numpy(result[1][0].T.astype(np.float32))
            found.append((x[i], recon, None if u is None else u[i]))
    return found


def _frames(x: Tensor) -> Sequence[np.ndarray[Any, np.dtype[np.int32]]]:
    array = x.permute(0, 2, 1).numpy().astype(np.int32)
    return [np.ascontiguousarray(a[None]) for a in array]
