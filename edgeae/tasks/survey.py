"""A look at a whole signal before it is coded to a target: the step that comes to a ratio.

A constant step loses the least for a given rate, so where all of the signal is there, the coarsest
step is searched whose stream is good enough. Where the next coarser one misses by little and this
one is far better, frames take the two in turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.bitstream.header import StreamHeader
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.manifest import NetSpec
from edgeae.tasks.codec import FrameCodec, frames_at_once
from edgeae.tasks.plan import GridChoice, StreamOptions, default_ndim, lossy_deltas, make_header
from edgeae.tasks.steer import Outlook, check_target, finest_step, finite_part, planned_step

__all__ = ["survey"]

_MARGIN_DB, _WINDOW_DB = 0.02, 0.4

Samples = NDArray[Any]


def survey(
    x: Samples, bundle: Bundle | None, options: StreamOptions, choice: GridChoice
) -> Outlook | None:
    """What there is to know of a whole signal; None for a stream without a target.

    Args:
        x: [T], [T, C], [N, H, W] or [N, H, W, C], in the stream's dtype.
        bundle: the model.
        options: of the stream to come.
        choice: its grids.

    Raises:
        ConfigError: no step of the bundle comes near the target.
        ModelError: the bundle does not fit the signal.
    """
    if not options.steered or bundle is None or bundle.net is None or not len(x):
        return None
    target = options.target_snr
    if target is None:
        return Outlook(n_samples=x.size)
    check_target(bundle, snr=target)
    channels = x.shape[-1] if x.ndim in (2, 4) else 1
    size = (x.shape[1], x.shape[2]) if x.ndim >= 3 else None
    header = make_header(
        *(x, bundle, options),
        channels=channels,
        image_size=size,
        ndim=default_ndim(channels, size),
        choice=choice,
    )
    length, rows = header.frame_length, x.reshape(len(x), *(size or ()), channels)
    blocks = [rows[begin : begin + length] for begin in range(0, len(rows), length)]
    search = _Search(header, bundle, bundle.net, blocks)
    return search.outlook(target, finest_step(bundle), bundle.net.max_step)


class _Search:
    """Streams of the signal at one step or another, and how good they are."""

    def __init__(
        self, header: StreamHeader, bundle: Bundle, net: NetSpec, blocks: list[Samples]
    ) -> None:
        self._header, self._bundle, self._net, self._blocks = header, bundle, net, blocks
        finite = [finite_part(block) for block in blocks]
        n = sum(len(block) for block in blocks)
        mean = sum(block.sum(axis=0) for block in finite) / n
        self._power = sum(float(np.sum((block - mean) ** 2)) for block in finite)
        self._known: dict[tuple[int, int], Sequence[float]] = {}

    def outlook(self, target: float, low: int, high: int) -> Outlook:
        """The steps that come to ``target`` dB, or as near to it as they can."""
        n_samples = sum(block.size for block in self._blocks)
        target += _MARGIN_DB
        while low < high:
            middle = math.isqrt(low * high) if high > low + 1 else high
            middle = min(max(middle, low + 1), high)
            if self._db(self._noise(middle)) >= target:
                low = middle
            else:
                high = middle - 1
        plan = Outlook(n_samples=n_samples, step=low, snr_db=self._db(self._noise(low)))
        if plan.snr_db > target + _WINDOW_DB and low < self._net.max_step:
            fine, coarse = sum(self._noise(low)), sum(self._noise(low + 1, low))
            aim = self._power * 10 ** (-(target + _WINDOW_DB / 4) / 10)
            share = min(max((aim - fine) / max(coarse - fine, 1e-300), 0.0), 1.0)
            while True:
                mixed = replace(plan, share=share)
                mixed = replace(mixed, snr_db=self._db(self._mixed(mixed)))
                if mixed.snr_db >= target or share < 1 / 64:
                    break
                share *= 0.9
            if mixed.snr_db >= target:
                return mixed
        return plan

    def _db(self, noise: Sequence[float]) -> float:
        total = sum(noise)
        return 10 * math.log10(self._power / total) if total and self._power else math.inf

    def _mixed(self, plan: Outlook) -> list[float]:
        steps = [planned_step(plan, number) for number in range(len(self._blocks))]
        assert plan.step is not None
        return [self._noise(step, plan.step)[number] for number, step in enumerate(steps)]

    def _noise(self, step: int, base: int | None = None) -> Sequence[float]:
        """Squared error of every frame at a step, in a stream whose header has another one."""
        base = step if base is None else base
        if (step, base) not in self._known:
            deltas = lossy_deltas(self._bundle, base)
            codec = FrameCodec(replace(self._header, step=base, deltas=deltas), self._bundle)
            found = []
            at_once = frames_at_once(self._blocks[0].size)
            for begin in range(0, len(self._blocks), at_once):
                blocks = self._blocks[begin : begin + at_once]
                decoded = codec.decode(codec.encode(blocks, step))
                found += [
                    float(np.sum((finite_part(x) - finite_part(y)) ** 2))
                    for x, y in zip(blocks, decoded, strict=True)
                ]
            self._known[step, base] = found
        return self._known[step, base]
