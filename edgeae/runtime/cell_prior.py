"""The cell prior: codes latent symbols with tables that were counted, one for each cell.

Per step a causal net gives, for each of L channels, a mean ``m`` in sixteenths of a symbol and a
scale index ``ls``; unlike those of `edgeae.bitstream.cdf` it may be as low as -8, where a symbol
is all but sure. Together they pick a cell, whose table says how likely each distance is::

    c = (m + 8) >> 4     f = m - 16 c     k = y - c, turned over where f < 0
    cell = (clip(ls, -8, 63) + 8) * 9 + |f|
    |k| <= R             symbol k + R + 1 of the cell's table
    else                 symbol 0 or 2 R + 2, then |k| - R - 1 as an Exp-Golomb code of order 2

Past features are the symbols, clipped to ±127; the one side feature is what the net is told about
the quantizer step. Both engines write the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

import edgeae.native as native
from edgeae.bitstream.range_coder import RangeDecoder, RangeEncoder
from edgeae.errors import CorruptError, ModelError
from edgeae.runtime.causal import CausalNet
from edgeae.runtime.causal_lockstep import LockstepState
from edgeae.runtime.prior_arrays import get_array, pack_net, unpack_net

__all__ = [
    "LOWEST_SCALE",
    "N_CELLS",
    "N_FRACTIONS",
    "REACH",
    "SYMBOL_PEAK",
    "CellPrior",
    "cells_of",
]

SYMBOL_PEAK = 127
LOWEST_SCALE = -8
HIGHEST_SCALE = 63
N_FRACTIONS = 9
N_CELLS = (HIGHEST_SCALE - LOWEST_SCALE + 1) * N_FRACTIONS
REACH = 12
_N_SYMBOLS = 2 * REACH + 3
_ESCAPE_ORDER = 2
_LARGEST_SYMBOL = 1 << 20
_ONE = 65536

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]


def cells_of(mean: LongArray, scale: LongArray) -> tuple[LongArray, LongArray, LongArray]:
    """Cell, centre and direction (1 or -1) of means and scale indices, all of one shape."""
    centre = (mean + 8) >> 4
    fraction = mean - 16 * centre
    index = np.clip(scale, LOWEST_SCALE, HIGHEST_SCALE) - LOWEST_SCALE
    cell = index * N_FRACTIONS + np.abs(fraction)
    return cell, centre, np.where(fraction < 0, -1, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class CellPrior:
    """A causal net over symbols already decoded, and the tables of its cells.

    Attributes:
        net: reads L symbols and one constant; gives L means, then L scale indices.
        freq: uint16 [cells, 2 R + 3], each row adds up to 65536; no entry is 0.

    Raises:
        ModelError: the parts do not fit.
    """

    net: CausalNet
    freq: npt.NDArray[np.uint16]

    def __post_init__(self) -> None:
        n = self.net.n_inputs - 1
        if self.net.past.tolist() != [True] * n + [False] or self.net.n_outputs != 2 * n:
            raise ModelError(
                f"a cell prior's net must read L symbols and one constant and give 2 L outputs, "
                f"found {self.net.past.tolist()} and {self.net.n_outputs}"
            )
        if self.net.feature_peak != SYMBOL_PEAK:
            raise ModelError(
                f"a cell prior's net must have feature_peak {SYMBOL_PEAK}, "
                f"found {self.net.feature_peak}"
            )
        freq = np.asarray(self.freq)
        if freq.shape != (N_CELLS, _N_SYMBOLS) or freq.dtype != np.uint16:
            raise ModelError(
                f"a cell prior's freq must be uint16 [{N_CELLS}, {_N_SYMBOLS}], found "
                f"{freq.dtype} {list(freq.shape)}"
            )
        if freq.min() < 1 or np.any(freq.sum(axis=1, dtype=np.int64) != _ONE):
            raise ModelError("a cell prior's tables must add up to 65536 and hold no zeros")

    @property
    def n_channels(self) -> int:
        """Latent channels L."""
        return self.net.n_inputs - 1

    @property
    def rules(self) -> CellPrior:
        """What is coded, and how: the prior says it itself."""
        return self

    @cached_property
    def words(self) -> IntArray:
        """The net in the form that the C engine reads."""
        return self.net.words()

    @cached_property
    def cum(self) -> IntArray:
        """Cumulative frequencies, int32 [cells, 2 R + 4]."""
        return np.pad(np.cumsum(self.freq, axis=1, dtype=np.int32), ((0, 0), (1, 0)))

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the prior as named arrays; `from_arrays` reads them back."""
        return {"cells.freq": self.freq, **pack_net(self.net)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> CellPrior:
        """Rebuild a prior from `to_arrays`.

        Raises:
            ModelError: an array is missing or does not fit the others.
        """
        return cls(net=unpack_net(arrays), freq=get_array(arrays, "cells.freq"))

    def outputs(self, y: IntArray, cond: int) -> tuple[LongArray, LongArray]:
        """Means and scale indices of groups of known symbols, int64 like y.

        Args:
            y: int32 [G, S, L].
            cond: what the net is told about the quantizer step.
        """
        groups, steps, n = y.shape
        features = np.full((groups, n + 1, steps), cond, np.int64)
        features[:, :n] = np.clip(y, -SYMBOL_PEAK, SYMBOL_PEAK).transpose(0, 2, 1)
        out = self.net.run(features).astype(np.int64).transpose(0, 2, 1)
        return out[..., :n], out[..., n:]

    def cost(self, mean: LongArray, scale: LongArray, y: LongArray) -> npt.NDArray[np.float64]:
        """Bits of symbols at means and scale indices of the same shape."""
        cell, centre, turn = cells_of(mean, scale)
        k = (y - centre) * turn
        beyond = np.maximum(np.abs(k) - REACH, 0)
        bits = 16 - np.log2(self.freq[cell, np.clip(k, -REACH - 1, REACH + 1) + REACH + 1])
        length = np.floor(np.log2(beyond + (1 << _ESCAPE_ORDER) - 1.0))
        found: npt.NDArray[np.float64] = bits + np.where(
            beyond > 0, 2 * length - _ESCAPE_ORDER + 1, 0
        )
        return found

    def encode(self, y: Sequence[IntArray], cond: int) -> list[bytes]:
        """Code frames of symbols, int32 [G, S, L] each, |y| <= 2^20."""
        core = native.core
        if core is None:
            return [self._encode_frame(frame, cond) for frame in y]
        frames = map(np.ascontiguousarray, y)
        return [
            core.cells_encode(self.words, self.cum, cond, frame, *frame.shape[:2])
            for frame in frames
        ]

    def decode(
        self, payloads: Sequence[bytes], shapes: Sequence[tuple[int, int]], cond: int
    ) -> list[IntArray]:
        """Read frames of G groups and S steps that `encode` wrote.

        Raises:
            CorruptError: a payload is damaged.
        """
        frames = [np.zeros((*shape, self.n_channels), np.int32) for shape in shapes]
        core = native.core
        if core is None:
            self._decode_lockstep(payloads, frames, cond)
            return frames
        for i, (payload, frame) in enumerate(zip(payloads, frames, strict=True)):
            if not core.cells_decode(self.words, self.cum, cond, payload, *frame.shape[:2], frame):
                raise CorruptError(f"payload {i} of {len(payloads)}: damaged latent bytes")
        return frames

    def _encode_frame(self, y: IntArray, cond: int) -> bytes:
        encoder = RangeEncoder()
        if not y.size:
            return encoder.finish()
        cell, centre, turn = cells_of(*self.outputs(y, cond))
        distance = ((y - centre) * turn).reshape(-1)
        symbol = np.clip(distance, -REACH - 1, REACH + 1) + REACH + 1
        low = self.cum[cell.reshape(-1), symbol]
        freq = self.freq[cell.reshape(-1), symbol]
        for a, n, k in zip(low.tolist(), freq.tolist(), distance.tolist(), strict=True):
            encoder.encode(a, n)
            if abs(k) > REACH:
                encoder.golomb(abs(k) - REACH - 1, _ESCAPE_ORDER)
        return encoder.finish()

    def _decode_lockstep(
        self, payloads: Sequence[bytes], frames: Sequence[IntArray], cond: int
    ) -> None:
        """Read frames together: one step of one group of each at a time."""
        n = self.n_channels
        decoders = [RangeDecoder(payload) for payload in payloads]
        order = sorted(range(len(frames)), key=lambda i: -frames[i].shape[1])
        for group in range(max((len(frame) for frame in frames), default=0)):
            items = [i for i in order if len(frames[i]) > group and frames[i].shape[1]]
            if not items:
                continue
            state = LockstepState(self.net, len(items))
            for t in range(frames[items[0]].shape[1]):
                while frames[items[-1]].shape[1] <= t:
                    items.pop()
                    state.keep(len(items))
                out = state.step(np.full((len(items), 1), cond)).astype(np.int64)
                cell, centre, turn = cells_of(out[:, :n], out[:, n:])
                tables = self.cum[cell]
                distance = [
                    [_read(decoders[i], table) for table in rows]
                    for i, rows in zip(items, tables, strict=True)
                ]
                now = centre + np.array(distance, np.int64) * turn
                if np.abs(now).max(initial=0) > _LARGEST_SYMBOL:
                    raise CorruptError("damaged latent bytes: a symbol is out of range")
                for i, row in zip(items, now, strict=True):
                    frames[i][group, t] = row
                state.fill(np.clip(now, -SYMBOL_PEAK, SYMBOL_PEAK))
        for decoder in decoders:
            decoder.finish()


def _read(decoder: RangeDecoder, table: IntArray) -> int:
    """One distance from its centre."""
    symbol = int(np.searchsorted(table, decoder.target(), side="right")) - 1
    decoder.consume(int(table[symbol]), int(table[symbol + 1] - table[symbol]))
    k = symbol - REACH - 1
    if abs(k) <= REACH:
        return k
    beyond = decoder.golomb(_ESCAPE_ORDER)
    return k + beyond if k > 0 else k - beyond
