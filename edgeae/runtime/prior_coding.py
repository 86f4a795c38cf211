"""Coding integers with a prior, closed loop, in C where the extension is there, else in numpy.

Both write the same bytes. What is computed stands in `edgeae.runtime.prior_rules`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import edgeae.native as native
from edgeae.bitstream.pace import Marks
from edgeae.bitstream.steps import channel_steps
from edgeae.errors import CorruptError, SignalError
from edgeae.runtime.prior_lockstep import decode_lockstep, encode_lockstep
from edgeae.runtime.prior_rules import PriorRules, step_condition

__all__ = ["decode_frames", "encode_frames"]

IntArray = npt.NDArray[np.int32]
Shape = tuple[int, int]


def encode_frames(
    rules: PriorRules,
    x: Sequence[IntArray],
    delta: int | Sequence[int] = 1,
    cond: Sequence[int] = (),
    code: Sequence[IntArray] | None = None,
    limits: Sequence[int | None] | None = None,
    paces: Sequence[Marks | None] | None = None,
    marks: Marks | None = None,
) -> list[tuple[bytes, IntArray] | None]:
    """Code frames.

    Args:
        rules: the prior.
        x: grid indices, int32 [G, T, C] each.
        delta: quantizer step, odd: one per channel, or one for all.
        cond: the constant features, 0 to 127.
        code: int32 like ``x``, where the prior reads a code.
        limits: per frame the most bytes of its payload, or None: the C kernel gives up beyond.
        paces: per frame the most bytes at each mark, its steps being counted, or None: likewise.
        marks: int64 [frames, 9], gets the bytes at each mark of the frames that were coded.

    Returns:
        Per frame its payload and what the decoder will see; None where an index lies, or
        would be decoded, outside ±`LARGEST_INDEX`, beyond the limit and behind the pace.
    """
    for f in x:
        _check_frame(rules, f, f.shape[:2])
    codes = _check_code(rules, code, [f.shape[:2] for f in x])
    steps = channel_steps(delta, rules.n_channels)
    _check_cond(rules, cond)
    most = [None] * len(x) if limits is None else limits
    pace = [None] * len(x) if paces is None else paces
    core = native.core
    if core is None:
        coded = encode_lockstep(rules, x, steps, cond, codes, pace, marks)
        return [
            None if found is None or (limit is not None and len(found[0]) > limit) else found
            for found, limit in zip(coded, most, strict=True)
        ]
    result: list[tuple[bytes, IntArray] | None] = []
    options, deltas = _options(rules, cond, steps), np.array(steps, np.int32)
    for i, (f, u, limit) in enumerate(zip(x, codes, most, strict=True)):
        recon = np.empty(f.shape, np.int32)
        frame = np.ascontiguousarray(f)
        bound = -1 if limit is None else limit
        noted = None if marks is None else marks[i]
        payload = core.prior_encode(
            options, deltas, frame, u, *f.shape[:2], recon, bound, pace[i], noted
        )
        result.append(None if payload is None else (payload, recon))
    return result


def decode_frames(
    rules: PriorRules,
    payloads: Sequence[bytes],
    shapes: Sequence[Shape],
    delta: int | Sequence[int] = 1,
    cond: Sequence[int] = (),
    code: Sequence[IntArray] | None = None,
) -> list[IntArray]:
    """Read frames that `encode_frames` wrote.

    Args:
        rules: the prior.
        payloads: the frames' bytes.
        shapes: G and T of each frame; the caller has bounded them.
        delta: as for `encode_frames`.
        cond: as for `encode_frames`.
        code: as for `encode_frames`.

    Returns:
        int32 [G, T, C] each.

    Raises:
        CorruptError: a payload is damaged.
    """
    if len(payloads) != len(shapes):
        raise SignalError(f"{len(payloads)} payloads, but {len(shapes)} shapes")
    codes = _check_code(rules, code, shapes)
    steps = channel_steps(delta, rules.n_channels)
    _check_cond(rules, cond)
    core = native.core
    if core is None:
        return decode_lockstep(rules, payloads, shapes, steps, cond, codes)
    result = []
    options, deltas = _options(rules, cond, steps), np.array(steps, np.int32)
    for i, (payload, shape, u) in enumerate(zip(payloads, shapes, codes, strict=True)):
        recon = np.zeros((*shape, rules.n_channels), np.int32)
        if not core.prior_decode(options, deltas, payload, u, *shape, recon):
            raise CorruptError(f"payload {i} of {len(payloads)}: damaged prior-coded bytes")
        result.append(recon)
    return result


def _check_frame(rules: PriorRules, f: npt.NDArray[Any], shape: Sequence[int]) -> None:
    if f.ndim != 3 or f.shape != (*shape, rules.n_channels) or f.dtype != np.int32:
        raise SignalError(
            f"a frame must be int32 [G, T, {rules.n_channels}], found {f.dtype} {list(f.shape)}"
        )


def _check_code(
    rules: PriorRules, code: Sequence[IntArray] | None, shapes: Sequence[Sequence[int]]
) -> list[IntArray | None]:
    if (code is not None) != rules.has_code:
        raise SignalError(
            "this prior reads a code" if rules.has_code else "this prior reads no code"
        )
    if code is None:
        return [None] * len(shapes)
    if len(code) != len(shapes):
        raise SignalError(f"{len(shapes)} frames, but {len(code)} codes")
    for u, shape in zip(code, shapes, strict=True):
        _check_frame(rules, u, shape)
    return [np.ascontiguousarray(u) for u in code]


def _check_cond(rules: PriorRules, cond: Sequence[int]) -> None:
    if len(cond) != rules.n_cond or not all(0 <= value <= 127 for value in cond):
        raise SignalError(
            f"the constant features must be {rules.n_cond} integers, 0 to 127, found {list(cond)}"
        )


def _options(rules: PriorRules, cond: Sequence[int], steps: Sequence[int]) -> tuple[Any, ...]:
    adaptive = None
    if rules.adaptive is not None:
        a = rules.adaptive
        gains = np.array([a.gain(step) for step in steps])
        weights = np.array([a.weights_at(step) for step in steps], np.int32)
        levels = [step_condition(d, p) for d, p in zip(steps, rules.shift, strict=True)]
        trust = np.array([a.trust_at(step) for step in steps], np.int32)
        learnt = None
        if a.learnt is not None:
            learnt = (a.learnt.words, a.learnt.history, np.array(levels, np.int32), trust)
        adaptive = (a.taps, a.cross, a.forget, gains, weights, learnt)
    return (
        *(rules.words, rules.statics if rules.net is None else None, rules.shape, rules.n_channels),
        *(int(rules.by_delta), rules.centers, rules.shifts, rules.lookahead),
        *(np.array(cond, np.int32), adaptive),
    )
