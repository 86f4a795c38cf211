"""Quantizer steps: one per channel, or one for all."""

from __future__ import annotations

from collections.abc import Sequence

from edgeae.bitstream.cdf import MAX_DELTA
from edgeae.errors import SignalError

__all__ = ["channel_steps"]


def channel_steps(delta: int | Sequence[int], channels: int) -> tuple[int, ...]:
    """Return a quantizer step per channel; an integer stands for all of them.

    Raises:
        SignalError: a step is even or out of range, or there is another number of them.

    Example:
        >>> channel_steps(3, 2)
        (3, 3)
    """
    steps = tuple(delta) if isinstance(delta, Sequence) else (int(delta),) * channels
    if len(steps) != channels:
        raise SignalError(f"delta: expected one step or {channels}, found {len(steps)}")
    for step in steps:
        if not 1 <= step <= MAX_DELTA or step % 2 == 0:
            raise SignalError(f"delta must be odd, 1 to {MAX_DELTA}, found {step}")
    return steps
