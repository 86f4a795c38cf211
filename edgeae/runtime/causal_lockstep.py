"""The causal net step by step, over a batch of signals at once: what a decoder runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeae.runtime.causal import AnyArray, CausalNet, FloatArray

__all__ = ["LockstepState"]


class _History:
    """The last rows of one level for every item of a batch: float32 [B, rows, channels]."""

    def __init__(self, batch: int, depth: int, channels: int) -> None:
        self.depth = depth
        self.rows = np.zeros((batch, depth + max(64, depth), channels), np.float32)
        self.at = depth

    @property
    def row(self) -> FloatArray:
        return self.rows[:, self.at]

    def advance(self) -> None:
        self.at += 1
        if self.at == self.rows.shape[1]:
            self.rows[:, : self.depth] = self.rows[:, self.at - self.depth :]
            self.at = self.depth


class _Taps:
    """One layer's weights as a matrix, and where its window lies."""

    def __init__(self, offsets: tuple[int, ...], weight: AnyArray) -> None:
        # rows of a window run forward in time, offsets backward
        self.matrix = np.ascontiguousarray(
            weight[:, ::-1].reshape(weight.shape[0], -1).T.astype(np.float32)
        )
        self.deepest, self.nearest = offsets[-1], offsets[0]
        whole = self.deepest - self.nearest + 1 == len(offsets)
        self.index = None if whole else np.array([-o for o in reversed(offsets)])

    def __call__(self, history: _History) -> FloatArray:
        at = history.at
        if self.index is None:
            window = history.rows[:, at - self.deepest : at - self.nearest + 1]
        else:
            window = history.rows[:, at + self.index]
        acc: FloatArray = window.reshape(len(window), len(self.matrix)) @ self.matrix
        return acc


class LockstepState:
    """A net that walks over a batch of equally timed signals, one step of all of them at once.

    Each step is ``out = state.step(side)``, then ``state.fill(past)``.

    Args:
        net: the net.
        batch: number of signals B.
    """

    def __init__(self, net: CausalNet, batch: int) -> None:
        self.net = net
        self._side = np.flatnonzero(~net.past)
        self._past = np.flatnonzero(net.past)
        layers = (*net.layers, net.head)
        depths = [layer.offsets[-1] for layer in layers]
        depths[0] = max(depths[0], *net.skip_offsets, 0)
        self._levels = [
            _History(batch, depth, layer.n_in) for depth, layer in zip(depths, layers, strict=True)
        ]
        self._taps = [_Taps(layer.offsets, layer.weight) for layer in layers]
        skip_weight, skip_shift = net.skip
        self._skip = _Taps(net.skip_offsets, skip_weight) if net.skip_offsets else None
        self._bias = [layer.bias.astype(np.float32) for layer in layers]
        self._scale = [np.ldexp(np.float32(1), -layer.shift) for layer in layers]
        self._skip_scale = np.ldexp(1.0, -skip_shift)

    def step(self, side: npt.ArrayLike | None = None) -> npt.NDArray[np.int32]:
        """Evaluate the next step.

        Args:
            side: integers [B, number of side features], or None where the net has none.

        Returns:
            int32 [B, O].
        """
        if side is not None:
            self._levels[0].row[:, self._side] = side
        last = len(self._taps) - 1
        acc = np.empty(0, np.float32)
        for i, taps in enumerate(self._taps):
            acc = taps(self._levels[i])
            acc += self._bias[i]
            if i < last:
                acc *= self._scale[i]
                np.rint(acc, out=acc)
                np.clip(acc, 0, self.net.layers[i].peak, out=self._levels[i + 1].row)
        out = acc.astype(np.float64) * self._scale[last]
        if self._skip is not None:
            out += self._skip(self._levels[0]).astype(np.float64) * self._skip_scale
        result: npt.NDArray[np.int32] = np.rint(out).astype(np.int32)
        return result

    def fill(self, past: npt.ArrayLike) -> None:
        """Tell the step's past features, integers [B, number of past features], and go on."""
        self._levels[0].row[:, self._past] = past
        for level in self._levels:
            level.advance()
        row = self._levels[0].row
        row[:, self._past] = 0

    def keep(self, batch: int) -> None:
        """Go on with the first ``batch`` signals only."""
        for level in self._levels:
            level.rows = level.rows[:batch]
