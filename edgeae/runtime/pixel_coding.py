"""Coding images with a pixel prior, in C where the extension is there, else in numpy.

Both write the same bytes. What is computed stands in `edgeae.runtime.pixel_rules`. A *frame* is an
array uint8 [G, H * W, C] of levels: its G images share one range coder, the net starts afresh for
each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import edgeae.native as native
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.errors import CorruptError
from edgeae.runtime.causal_lockstep import LockstepState
from edgeae.runtime.pixel_rules import PixelRules
from edgeae.runtime.prior_rules import step_condition

__all__ = ["decode_images", "encode_images"]

_ONE = 65536
_BATCH_STEPS = 1 << 18  # whose features and logits are held at once

Levels = npt.NDArray[np.uint8]
LongArray = npt.NDArray[np.int64]


def encode_images(
    rules: PixelRules, x: Sequence[Levels], step: int, limits: Sequence[int | None]
) -> list[tuple[bytes, Levels] | None]:
    """Code frames of levels.

    Args:
        rules: the prior.
        x: uint8 [G, H * W, C] each, below ``rules.levels``.
        step: quantizer step, odd.
        limits: per frame the most bytes of its payload, or None.

    Returns:
        Per frame its payload and what the decoder will see; None beyond the limit.
    """
    core = native.core
    result: list[tuple[bytes, Levels] | None] = []
    if core is None:
        for frame, limit in zip(x, limits, strict=True):
            payload, recon = _encode_frame(rules, frame, step)
            found = limit is None or len(payload) <= limit
            result.append((payload, recon) if found else None)
        return result
    options = _options(rules, step)
    for frame, limit in zip(x, limits, strict=True):
        recon = np.empty(frame.shape, np.uint8)
        levels = np.ascontiguousarray(frame)
        coded = core.pixel_encode(
            options, levels, len(frame), recon, -1 if limit is None else limit
        )
        result.append(None if coded is None else (coded, recon))
    return result


def decode_images(
    rules: PixelRules, payloads: Sequence[bytes], groups: Sequence[int], step: int
) -> list[Levels]:
    """Read frames that `encode_images` wrote.

    Args:
        rules: the prior.
        payloads: the frames' bytes.
        groups: images of each frame; the caller has bounded them.
        step: as for `encode_images`.

    Returns:
        uint8 [G, H * W, C] each.

    Raises:
        CorruptError: a payload is damaged.
    """
    r = rules.raster
    recons = [np.zeros((g, r.height * r.width, r.channels), np.uint8) for g in groups]
    core = native.core
    if core is None:
        _decode_lockstep(rules, payloads, recons, step)
        return recons
    options = _options(rules, step)
    for i, (payload, recon) in enumerate(zip(payloads, recons, strict=True)):
        if not core.pixel_decode(options, payload, len(recon), recon):
            raise CorruptError(f"payload {i} of {len(payloads)}: damaged pixel-coded bytes")
    return recons


def _options(rules: PixelRules, step: int) -> tuple[Any, ...]:
    bins, back = rules.bins(step)
    return (
        *(rules.words, rules.table, rules.place, rules.inside, rules.flag, rules.weight),
        *(bins, back, rules.levels, rules.ground, rules.table.shape[1], rules.place.shape[1]),
        step_condition(step),
    )


def _encode_frame(rules: PixelRules, frame: Levels, step: int) -> tuple[bytes, Levels]:
    """Code one frame; what the decoder sees is known ahead, so the net runs over whole images."""
    bins, back = rules.bins(step)
    own = int(bins[rules.ground])
    recon = back[bins[frame]]
    encoder = RangeEncoder()
    at_once = max(1, _BATCH_STEPS // rules.raster.n_steps)
    for begin in range(0, len(frame) if len(back) > 1 else 0, at_once):
        part = slice(begin, begin + at_once)
        coded = bins[frame[part]].reshape(-1)
        logits = _logits(rules, recon[part], step)
        flags = rules.flags(logits[:, rules.ground])
        beside = np.flatnonzero(coded != own)
        cum = rules.cumulative(logits[beside], bins)
        pick = np.arange(len(beside)), coded[beside].astype(np.int64)
        low, high = cum[pick], cum[pick[0], pick[1] + 1]
        rows = iter(zip(low.tolist(), (high - low).tolist(), strict=True))
        for flag, is_ground in zip(flags.tolist(), (coded == own).tolist(), strict=True):
            if is_ground:
                encoder.encode(0, flag)
            else:
                encoder.encode(flag, _ONE - flag)
                encoder.encode(*next(rows))
    return encoder.finish(), recon


def _logits(rules: PixelRules, recon: Levels, step: int) -> LongArray:
    """Logits of every level of some images, int64 [G * H * W * C, levels]."""
    r = rules.raster
    n, n_embed = len(recon), rules.table.shape[1]
    features = np.zeros((n, r.n_steps, rules.net.n_inputs), np.int64)
    rows = recon.reshape(n, r.height, r.width * r.channels)
    planes = features[..., :n_embed].reshape(n, r.height, r.stride, n_embed)
    planes[:, :, : r.width * r.channels] = rules.table[rows]
    features[..., :n_embed] = planes.reshape(n, r.n_steps, n_embed)
    features[..., n_embed:-1] = rules.place
    features[..., -1] = step_condition(step)
    out = rules.net.run(features.transpose(0, 2, 1))[:, :, rules.inside]
    return out.transpose(0, 2, 1).reshape(-1, rules.levels).astype(np.int64)


def _decode_lockstep(
    rules: PixelRules, payloads: Sequence[bytes], recons: Sequence[Levels], step: int
) -> None:
    """Read frames together: one step of one image of each at a time."""
    bins, back = rules.bins(step)
    own = int(bins[rules.ground])
    decoders = [RangeDecoder(payload) for payload in payloads]
    for recon in recons:
        recon[...] = back[own]
    inside = rules.inside.tolist()
    for items, group in _batches([len(recon) for recon in recons], rules.raster.n_steps):
        flat = [recons[i][group].reshape(-1) for i in items]
        state = LockstepState(rules.net, len(items))
        nothing = np.zeros((len(items), rules.table.shape[1]), np.int64)
        at = 0
        for t, holds in enumerate(inside):
            out = state.step(np.broadcast_to(rules.side(t, step), (len(items), _n_side(rules))))
            past = nothing
            if holds:
                if len(back) > 1:
                    now = [decoders[i] for i in items]
                    found = _decode_step(rules, now, out.astype(np.int64), bins)
                    for row, bin_ in zip(flat, found, strict=True):
                        row[at] = back[bin_]
                past = rules.table[[row[at] for row in flat]].astype(np.int64)
                at += 1
            state.fill(past)
    for decoder in decoders:
        decoder.finish()


def _n_side(rules: PixelRules) -> int:
    return int(rules.place.shape[1]) + 1


def _decode_step(
    rules: PixelRules, decoders: list[RangeDecoder], logits: LongArray, bins: Levels
) -> list[int]:
    """The bin that each decoder reads next."""
    own = int(bins[rules.ground])
    found = [own] * len(decoders)
    beside = []
    for b, flag in enumerate(rules.flags(logits[:, rules.ground]).tolist()):
        if decoders[b].target() < flag:
            decoders[b].consume(0, flag)
        else:
            decoders[b].consume(flag, _ONE - flag)
            beside.append(b)
    if beside:
        tables = rules.cumulative(logits[beside], bins)
        for b, cum in zip(beside, tables, strict=True):
            picked = int(np.searchsorted(cum, decoders[b].target(), side="right")) - 1
            decoders[b].consume(int(cum[picked]), int(cum[picked + 1] - cum[picked]))
            found[b] = picked
    return found


def _batches(groups: list[int], n_steps: int) -> Iterator[tuple[list[int], int]]:
    """Yield (frames, group): the images of each frame in order, some frames at a time."""
    size = max(1, _BATCH_STEPS * 8 // n_steps)
    for begin in range(0, len(groups), size):
        batch = range(begin, min(begin + size, len(groups)))
        for group in range(max(groups[i] for i in batch)):
            yield [i for i in batch if groups[i] > group], group
