"""The latent prior: codes symbols, the rounded latents, from the symbols of the steps before.

Symbols are coded without loss. A prior has a net, whose features are the clipped symbols and one
constant that tells the quantizer step, or only a mean and a scale per latent channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.bitstream.cdf import N_SCALES, CdfFamily
from edgeae.errors import CorruptError, ModelError, SignalError
from edgeae.runtime.causal import CausalNet
from edgeae.runtime.cell_prior import CellPrior
from edgeae.runtime.prior_arrays import get_array, pack_net, unpack_net
from edgeae.runtime.prior_coding import decode_frames, encode_frames
from edgeae.runtime.prior_rules import PriorRules, step_condition

__all__ = [
    "SYMBOL_PEAK",
    "AnyLatentPrior",
    "LatentPrior",
    "decode_latents",
    "encode_latents",
    "latent_bits",
    "step_condition",
    "unpack_latent_prior",
]

SYMBOL_PEAK = 127
"""Symbols are clipped to ± this where a net reads them."""
_LARGEST_SYMBOL = 1 << 20

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentPrior:
    """A causal net over symbols, or constants.

    Attributes:
        shape: uint16 [385], see `edgeae.bitstream.cdf`.
        net: reads L past symbols and the constant; gives L means in sixteenths of a symbol and L
            scale indices. Its ``feature_peak`` is 127. None where ``statics`` stands for it.
        statics: int32 [2, L]: means and scale indices.

    Raises:
        ModelError: neither net nor constants, both, or their shapes are wrong.
    """

    shape: npt.NDArray[np.uint16]
    net: CausalNet | None = None
    statics: IntArray | None = None

    def __post_init__(self) -> None:
        if (self.net is None) == (self.statics is None):
            raise ModelError("a latent prior has a net or constants, one of them")
        if self.net is not None and self.net.feature_peak != SYMBOL_PEAK:
            raise ModelError(
                f"a latent prior's net must have feature_peak {SYMBOL_PEAK}, "
                f"found {self.net.feature_peak}"
            )
        if self.statics is not None:
            s = np.asarray(self.statics)
            if s.ndim != 2 or s.shape[0] != 2 or s.dtype != np.int32:
                raise ModelError(
                    f"a latent prior's constants must be int32 [2, L], found {s.dtype} "
                    f"{list(s.shape)}"
                )
        _ = self.rules

    @property
    def n_channels(self) -> int:
        """Latent channels L."""
        if self.net is not None:
            return self.net.n_outputs // 2
        assert self.statics is not None
        return int(self.statics.shape[1])

    @cached_property
    def rules(self) -> PriorRules:
        """What is coded, and how."""
        return PriorRules(
            net=self.net,
            statics=None if self.statics is None else np.ascontiguousarray(self.statics.ravel()),
            shape=self.shape,
            n_channels=self.n_channels,
            n_cond=int(self.net is not None),
        )

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the prior as named arrays; `from_arrays` reads them back."""
        arrays: dict[str, npt.NDArray[Any]] = {"shape": self.shape}
        if self.statics is not None:
            arrays["statics"] = self.statics
        return arrays if self.net is None else {**arrays, **pack_net(self.net)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> LatentPrior:
        """Rebuild a prior from `to_arrays`.

        Raises:
            ModelError: an array is missing or does not fit the others.
        """
        shape = get_array(arrays, "shape")
        if "statics" in arrays:
            return cls(shape=shape, statics=np.asarray(arrays["statics"]))
        return cls(shape=shape, net=unpack_net(arrays))


AnyLatentPrior = LatentPrior | CellPrior
"""What codes a bundle's latents: with tables of one family, or with counted ones."""


def unpack_latent_prior(arrays: Mapping[str, npt.NDArray[Any]]) -> AnyLatentPrior:
    """Rebuild a prior of either kind from its ``to_arrays``.

    Raises:
        ModelError: an array is missing or does not fit the others.
    """
    kind = CellPrior if "cells.freq" in arrays else LatentPrior
    return kind.from_arrays(arrays)


def latent_bits(prior: AnyLatentPrior, y: IntArray, cond: int = 0) -> npt.NDArray[np.float64]:
    """Return about how many bits each symbol takes: float64 [G, S, L].

    Args:
        prior: the prior.
        y: int32 [G, S, L].
        cond: as for `encode_latents`.
    """
    if isinstance(prior, CellPrior):
        return prior.cost(*prior.outputs(y, cond), y.astype(np.int64))
    n = prior.n_channels
    if prior.net is None:
        assert prior.statics is not None
        mean, scale = (np.broadcast_to(v.astype(np.int64), y.shape) for v in prior.statics)
    else:
        features = np.full((len(y), n + 1, y.shape[1]), cond, np.int64)
        features[:, :n] = np.clip(y, -SYMBOL_PEAK, SYMBOL_PEAK).transpose(0, 2, 1)
        out = prior.net.run(features).astype(np.int64).transpose(0, 2, 1)
        mean, scale = out[..., :n], out[..., n:]
    scale = np.clip(scale, 0, N_SCALES - 1)
    centre = (mean + 8) >> 4
    family = CdfFamily(prior.shape, 1, 0)
    reach = np.array(family.reach)[scale]
    low_bits = np.array(family.low_bits)[scale]
    k = (y - centre) >> low_bits
    beyond = np.maximum(np.abs(k) - reach, 0)
    symbol = np.clip(k, -reach - 1, reach + 1) + reach + 1
    fraction = mean - 16 * centre
    freq = family.cum(scale, fraction, symbol + 1) - family.cum(scale, fraction, symbol)
    escape = (beyond > 0) * (2 * np.log2(beyond + 1) + 1)
    bits: npt.NDArray[np.float64] = 16 - np.log2(freq) + low_bits + escape
    return bits


def encode_latents(prior: AnyLatentPrior, y: Sequence[IntArray], cond: int = 0) -> list[bytes]:
    """Code frames of symbols.

    Args:
        prior: the prior.
        y: int32 [G, S, L] each, |y| <= 2^20: one group for a series, for images a group per image,
            S steps in raster order.
        cond: what the net is told about the quantizer step, see `step_condition`.

    Returns:
        One payload per frame.

    Raises:
        SignalError: a symbol is out of range.
    """
    for frame in y:
        if frame.size and max(int(frame.max()), -int(frame.min())) > _LARGEST_SYMBOL:
            raise SignalError(f"a symbol lies outside ±{_LARGEST_SYMBOL}")
    if isinstance(prior, CellPrior):
        return prior.encode(y, cond)
    coded = encode_frames(prior.rules, y, 1, (cond,) * prior.rules.n_cond)
    return [item[0] for item in coded if item is not None]


def decode_latents(
    prior: AnyLatentPrior,
    payloads: Sequence[bytes],
    shapes: Sequence[tuple[int, int]],
    cond: int = 0,
) -> list[IntArray]:
    """Read frames that `encode_latents` wrote.

    Args:
        prior: the prior.
        payloads: the frames' bytes.
        shapes: G and S of each frame, bounded by the caller.
        cond: as for `encode_latents`.

    Returns:
        int32 [G, S, L] each.

    Raises:
        CorruptError: a payload is damaged.
    """
    if isinstance(prior, CellPrior):
        frames = prior.decode(payloads, shapes, cond)
    else:
        frames = decode_frames(prior.rules, payloads, shapes, 1, (cond,) * prior.rules.n_cond)
    for i, frame in enumerate(frames):
        if frame.size and max(int(frame.max()), -int(frame.min())) > _LARGEST_SYMBOL:
            raise CorruptError(f"payload {i} of {len(frames)}: a symbol is out of range")
    return frames
