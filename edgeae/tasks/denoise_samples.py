"""A user's samples as the numbers that a denoiser's net or front end takes, and back.

::

    block ─ take ─ grid indices (sound: full scale 1) ─ scale ─ around the net's center, held, cut,
    rounded ─► net ─► unscale ─ give ─► block
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import SignalError
from edgeae.runtime.bundle import Bundle

__all__ = ["DenoiserSamples", "Form"]

_LOUDEST = 8.0  # samples of sound beyond this many times full scale are cut there

Samples = NDArray[Any]
Form = tuple[int, np.dtype[Any]]
"""How many axes a block had, and its dtype."""


class DenoiserSamples:
    """Converts blocks of N streams, and holds the last sample where one is no number.

    Series become grid indices, rounded and cut to what the net is certified for. Sound becomes
    float64 with full scale at 1: integers are divided by their dtype's full scale, floats are taken
    as they are.

    Attributes:
        n_held: samples that were no number, so that the one before was taken.
        last: float64 [N, C], the last sample of each channel, as scaled.
        gain: float64 [N], by which each stream is multiplied.
        zero: float64 [N, C], the index that becomes the net's center.
        rest: float64 [N, C], the index that the net's center becomes on the way out.
    """

    def __init__(self, bundle: Bundle, streams: int) -> None:
        self._bundle, self._streams = bundle, streams
        spec = bundle.signal
        self.channels = spec.channels
        self.is_sound = bundle.denoise.front_end is not None
        pairs = np.array(spec.grids, np.float64)
        self._num, self._den = pairs[:, 0], pairs[:, 1]
        self._peak = _LOUDEST if self.is_sound else float(bundle.denoise.input_peak)
        center = np.broadcast_to(np.array(bundle.denoise.center, np.float64), self.channels)
        self.center = np.tile(center, (streams, 1))
        self.gain, self.zero = np.ones(streams), self.center.copy()
        self.rest = self.center.copy()
        self.reset()

    def reset(self) -> None:
        """Forget the past."""
        self.n_held = 0
        self.last = self.center.copy()

    def start(self, length: int) -> Samples:
        """What comes out before anything can: the center, float64 [N, C, T]."""
        return np.repeat(self.center[:, :, None], length, axis=2)

    def index_of(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        """Samples [..., C] as grid indices, not rounded."""
        return samples * self._den / self._num

    def samples_of(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Grid indices [..., C] as samples."""
        return indices * self._num / self._den

    def form_of(self, block: Samples) -> Form:
        """Check a block.

        Raises:
            SignalError: it does not fit the bundle.
        """
        spec = self._bundle.signal
        if block.dtype.kind not in "iuf":
            raise SignalError(f"a block of {block.dtype}: samples are integers or floats")
        axes = block.ndim - (self._streams > 1)
        wanted = "[T, C]" if self._streams == 1 else f"[{self._streams}, T, C]"
        if axes not in (1, 2):
            raise SignalError(f"a block has shape {list(block.shape)}, expected {wanted}")
        channels = block.shape[-1] if axes == 2 else 1
        if channels != spec.channels:
            hint = (
                "; for each channel as a stream of its own, open the denoiser with "
                f"streams={channels} (edgeae denoise --each-channel)"
                if spec.channels == 1
                else ""
            )
            raise SignalError(
                f"the signal has {channels} channel(s), bundle {self._bundle.name!r} is made for "
                f"{spec.channels}{hint}"
            )
        if self._streams > 1 and block.shape[0] != self._streams:
            raise SignalError(f"a block has {block.shape[0]} streams, expected {self._streams}")
        return block.ndim, block.dtype

    def take(self, block: Samples) -> NDArray[np.float64]:
        """A block that ``form_of`` accepted, as indices that are not rounded: [N, C, T]."""
        channels = self.channels
        rows = block.reshape(self._streams, -1, channels) if block.size else block
        rows = rows.reshape(self._streams, rows.size // (self._streams * channels), channels)
        if self.is_sound:
            values = _full_scale(rows)
        else:
            values = rows.astype(np.float64)
            if np.any(self._den != 1) or np.any(self._num != 1):
                values = self.index_of(values)
        return np.ascontiguousarray(values.transpose(0, 2, 1))

    def scale(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the net is given [N, C, T]: a fresh array, or the one that was given."""
        x = values
        if np.any(self.gain != 1) or np.any(self.zero != self.center):
            x = (x - self.zero[:, :, None]) * self.gain[:, None, None] + self.center[:, :, None]
        missing = np.isnan(x)
        if missing.any():
            self._hold(x, missing)
        np.clip(x, -self._peak, self._peak, out=x)
        if not self.is_sound:
            np.rint(x, out=x)
        if x.shape[2]:
            self.last = x[:, :, -1].copy()
        return x

    def unscale(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the net gives [N, C, T] as indices."""
        if np.any(self.gain != 1) or np.any(self.rest != self.center):
            around = (values - self.center[:, :, None]) / self.gain[:, None, None]
            return around + self.rest[:, :, None]
        return values

    def give(self, values: NDArray[np.float64], form: Form) -> Samples:
        """Indices [N, C, T] in a block's form: integers are rounded and saturated."""
        axes, dtype = form
        rows = np.asarray(values, np.float64).transpose(0, 2, 1)
        if not self.is_sound:
            if np.any(self._den != 1) or np.any(self._num != 1):
                rows = self.samples_of(rows)
        elif dtype.kind in "iu":
            half = 2.0 ** (8 * dtype.itemsize - 1)
            rows = rows * half + (half if dtype.kind == "u" else 0.0)
        if dtype.kind in "iu":
            ends = np.iinfo(dtype)
            rows = np.clip(np.rint(rows), ends.min, _below(ends.max))
        elif dtype.itemsize < 8:
            ends_f = np.finfo(dtype)
            rows = np.clip(rows, ends_f.min, ends_f.max)
        out = np.ascontiguousarray(rows, dtype=dtype)
        if self._streams == 1:
            out = out[0]
        return out[..., 0] if out.ndim > axes else out

    def _hold(self, x: NDArray[np.float64], missing: NDArray[np.bool_]) -> None:
        """Put the sample before in place of each that is no number."""
        self.n_held += int(missing.sum())
        steps = np.arange(x.shape[2])
        source = np.maximum.accumulate(np.where(missing, -1, steps), axis=2)
        held = np.take_along_axis(x, np.maximum(source, 0), axis=2)
        np.copyto(x, np.where(source < 0, self.last[:, :, None], held))


def _full_scale(rows: Samples) -> NDArray[np.float64]:
    values = rows.astype(np.float64)
    if rows.dtype.kind == "f":
        return values
    half = 2.0 ** (8 * rows.dtype.itemsize - 1)
    return (values - half if rows.dtype.kind == "u" else values) / half


def _below(top: int) -> float:
    """The largest float64 that is not above an integer."""
    value = float(top)
    return value if int(value) <= top else float(np.nextafter(value, 0))
