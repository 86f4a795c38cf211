"""Read example input for an imported net: rows as they are, or windows that slide over frames."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeae.errors import SignalError

__all__ = ["probe_rows", "read_windows", "sliding_windows"]

_PROBES = 64

Rows = npt.NDArray[np.float32]


def read_windows(path: str | os.PathLike[str], width: int, frame: int | None = None) -> Rows:
    """Read a .npy, or raw little-endian float32, as inputs of a net.

    Args:
        path: the file. A .npy holds [N, width] inputs, or [T, frame] frames.
        width: values of one input.
        frame: values of one frame. The file is then a run of frames, and an input is
            ``width / frame`` of them; the next input starts one frame later. Raw files need it,
            since they do not tell their shape; ``frame=width`` takes rows as they are.

    Returns:
        float32 [N, width].

    Raises:
        SignalError: the file cannot be read, or its size or values do not fit.
    """
    where = Path(path)
    try:
        if where.suffix == ".npy":
            values = np.load(where, allow_pickle=False)
        elif frame is None:
            raise SignalError(
                f"{where}: raw float32 does not tell its shape; give --frame F, the values of one "
                f"frame (an input of {width} values is then {width}/F frames), or --frame {width} "
                "where the file holds whole inputs"
            )
        else:
            values = np.frombuffer(where.read_bytes(), "<f4")
    except (OSError, ValueError, EOFError) as error:
        raise SignalError(f"cannot read the example {where}: {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        raise SignalError(f"the example {where} holds no array of numbers")
    rows = values.astype(np.float32)
    if frame is not None:
        if frame < 1 or rows.size % frame:
            raise SignalError(
                f"{where} has {rows.size:,} values, which is no whole number of frames of {frame}"
            )
        rows = rows.reshape(-1, frame)
    if rows.ndim == 2 and rows.shape[1] != width and width % max(rows.shape[1], 1) == 0:
        rows = sliding_windows(rows, width // rows.shape[1])
    if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        raise SignalError(
            f"the example {where} has shape {list(rows.shape)}, the net takes [N, {width}], or "
            f"frames [T, F] with F a divisor of {width} and at least {width}/F of them"
        )
    if not np.isfinite(rows).all():
        raise SignalError(f"the example {where} holds NaN or Inf")
    return rows


def probe_rows(width: int) -> Rows:
    """Standard normal inputs, always the same, for nets without an example: [64, width]."""
    return np.random.default_rng(0).normal(0, 1, (_PROBES, width)).astype(np.float32)


def sliding_windows(frames: Rows, count: int) -> Rows:
    """All runs of ``count`` frames [T, F], one frame apart: [T - count + 1, count * F].

    Example:
        >>> sliding_windows(np.array([[1, 2], [3, 4], [5, 6]], np.float32), 2)
        array([[1., 2., 3., 4.],
               [3., 4., 5., 6.]], dtype=float32)
    """
    last = len(frames) - count + 1
    return np.concatenate(
        [frames[first : first + max(last, 0)] for first in range(count)], axis=1
    ).astype(np.float32)
