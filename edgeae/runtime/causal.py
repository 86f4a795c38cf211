"""The causal integer net of both priors: its numbers, and all steps at once in numpy.

`causal_lockstep` runs it step by step, as a decoder must. Per step the net reads *features* of the
steps before (and a few of the step itself) and gives a row of integers. Weights, activations and
sums are integers; the sums stay below 2^24, so that float32 matrix products are exact and every
engine gives the same numbers::

    features ──► hidden 0 ──► hidden 1 ──► ... ──► head ──►(+)──► out, int32 [O] per step
        └──────────────────── skip ─────────────────────────┘

    hidden   y[o] = clip(rhe(acc[o] · 2^-shift[o]), 0, 2^bits - 1)       rhe: round half to even
    out      rhe(head[o] · 2^-head.shift[o] + skip[o] · 2^-skip_shift[o])

Each layer reads its input at given *offsets* into the past; everything before the first step is 0.
A feature is either a *side* feature, known before its step is coded, or a *past* feature, known
after. When step t is evaluated, its past features still read as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError, SignalError

__all__ = ["FEATURE_PEAK", "CausalLayer", "CausalNet"]

FEATURE_PEAK = 2047
"""The largest |feature|, unless a net says otherwise."""
_SUM_LIMIT = 1 << 24
_MAX_OFFSET = 4096
_MAX_LAYERS = 8
_MAX_WIDTH = 256
_MAX_TAPS = 4096
_MIN_SHIFT, _MAX_SHIFT = -4, 23

FloatArray = npt.NDArray[np.float32]
AnyArray = npt.NDArray[Any]


def _offsets(value: Sequence[int] | AnyArray, name: str) -> tuple[int, ...]:
    offsets = tuple(int(v) for v in value)
    if len(offsets) > _MAX_TAPS or any(not 0 <= v <= _MAX_OFFSET for v in offsets):
        raise ModelError(f"{name}: offsets must be 0 to {_MAX_OFFSET}, found {offsets[:8]}...")
    if any(a >= b for a, b in pairwise(offsets)):
        raise ModelError(f"{name}: offsets must ascend, found {offsets}")
    return offsets


def _ints(
    value: npt.ArrayLike, dtype: Sequence[str], shape: tuple[int, ...], name: str
) -> AnyArray:
    a = np.asarray(value)
    if a.shape != shape or a.dtype.name not in dtype:
        found = f"{a.dtype} {list(a.shape)}"
        raise ModelError(f"{name}: must be {' or '.join(dtype)} {list(shape)}, found {found}")
    return np.ascontiguousarray(a)


def _check_shift(shift: AnyArray, name: str) -> None:
    if np.any((shift < _MIN_SHIFT) | (shift > _MAX_SHIFT)):
        raise ModelError(f"{name}: shifts must be {_MIN_SHIFT} to {_MAX_SHIFT}, found {shift}")


def _check_sums(weight: AnyArray, bias: AnyArray | int, peak: int, name: str) -> None:
    sums = np.abs(weight.astype(np.int64)).sum(axis=(1, 2)) * peak + np.abs(np.int64(bias))
    if np.any(sums >= _SUM_LIMIT):
        raise ModelError(
            f"{name}: a sum could reach {int(sums.max())}; below {_SUM_LIMIT} it is exact"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class CausalLayer:
    """One layer: a causal convolution with integer weights.

    Attributes:
        offsets: steps into the past that it reads, ascending: K of them.
        weight: int8 or int16 [O, K, I].
        bias: int32 [O].
        shift: int32 [O], -4 to 23; the sums are scaled by 2^-shift.
        bits: outputs are clipped to 0..2^bits - 1 (1 to 15); 0 for a head, which does not clip.
    """

    offsets: tuple[int, ...]
    weight: npt.NDArray[np.int8] | npt.NDArray[np.int16]
    bias: npt.NDArray[np.int32]
    shift: npt.NDArray[np.int32]
    bits: int

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "offsets", _offsets(self.offsets, "a layer"))
        w = np.asarray(self.weight)
        if w.ndim != 3 or not 1 <= w.shape[0] <= _MAX_WIDTH or not self.offsets:
            raise ModelError(f"a layer: weights must be [O, K, I], found {list(w.shape)}")
        shape = (w.shape[0], len(self.offsets), w.shape[2])
        set_(self, "weight", _ints(w, ("int8", "int16"), shape, "a layer's weights"))
        set_(self, "bias", _ints(self.bias, ("int32",), shape[:1], "a layer's bias"))
        set_(self, "shift", _ints(self.shift, ("int32",), shape[:1], "a layer's shift"))
        set_(self, "bits", int(self.bits))
        _check_shift(self.shift, "a layer")
        if not 0 <= self.bits <= 15:
            raise ModelError(f"a layer: bits must be 1 to 15, or 0 for a head, found {self.bits}")

    @property
    def n_in(self) -> int:
        """Channels read."""
        return int(self.weight.shape[2])

    @property
    def n_out(self) -> int:
        """Channels given."""
        return int(self.weight.shape[0])

    @property
    def peak(self) -> int:
        """The largest output."""
        return (1 << self.bits) - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class CausalNet:
    """The whole net; see the module for what it computes.

    Attributes:
        n_inputs: feature channels I.
        past: bool [I], True for the features that are known only after their step was coded.
        layers: hidden layers, each reading the one before; the first reads the features.
        head: reads the last hidden layer (or the features, without one).
        skip_offsets: offsets at which linear taps read the features; may be empty.
        skip_weight: int16 [O, K, I].
        skip_shift: int32 [O], -4 to 23.
        feature_peak: largest |feature|, which the bound on the sums relies on.

    Raises:
        ModelError: shapes do not fit, or a sum could reach 2^24.

    Example:
        >>> one = np.ones
        >>> net = CausalNet(
        ...     n_inputs=1,
        ...     past=np.array([True]),
        ...     layers=(),
        ...     head=CausalLayer(
        ...         offsets=(1, 2),
        ...         weight=np.array([[[2], [-1]]], np.int8),
        ...         bias=np.zeros(1, np.int32),
        ...         shift=np.zeros(1, np.int32),
        ...         bits=0,
        ...     ),
        ... )
        >>> net.run(np.array([[[1, 3, 6, 10]]]))
        array([[[0, 2, 5, 9]]], dtype=int32)
    """

    n_inputs: int
    past: npt.NDArray[np.bool_]
    layers: tuple[CausalLayer, ...]
    head: CausalLayer
    skip_offsets: tuple[int, ...] = ()
    skip_weight: npt.NDArray[np.int16] | None = None
    skip_shift: npt.NDArray[np.int32] | None = None
    feature_peak: int = FEATURE_PEAK

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "n_inputs", int(self.n_inputs))
        set_(self, "layers", tuple(self.layers))
        set_(self, "feature_peak", int(self.feature_peak))
        if not 1 <= self.n_inputs <= _MAX_WIDTH or len(self.layers) > _MAX_LAYERS:
            raise ModelError(
                f"a causal net has 1 to {_MAX_WIDTH} inputs and up to {_MAX_LAYERS} hidden layers, "
                f"found {self.n_inputs} and {len(self.layers)}"
            )
        if not 1 <= self.feature_peak <= 32767:
            raise ModelError(f"feature_peak must be 1 to 32767, found {self.feature_peak}")
        set_(self, "past", _ints(self.past, ("bool",), (self.n_inputs,), "past"))
        width, peak = self.n_inputs, self.feature_peak
        for i, layer in enumerate((*self.layers, self.head)):
            is_head = i == len(self.layers)
            name = "the head" if is_head else f"hidden layer {i}"
            if layer.n_in != width:
                raise ModelError(f"{name}: reads {layer.n_in} channels, but {width} are there")
            if (layer.bits == 0) != is_head:
                raise ModelError(f"{name}: bits are {layer.bits}; hidden 1 to 15, the head 0")
            _check_sums(layer.weight, layer.bias, peak, name)
            width, peak = layer.n_out, layer.peak
        o = self.head.n_out
        set_(self, "skip_offsets", _offsets(self.skip_offsets, "skip"))
        shape = (o, len(self.skip_offsets), self.n_inputs)
        weight = np.zeros(shape, np.int16) if self.skip_weight is None else self.skip_weight
        shift = np.zeros(o, np.int32) if self.skip_shift is None else self.skip_shift
        set_(self, "skip_weight", _ints(weight, ("int16",), shape, "the skip's weights"))
        set_(self, "skip_shift", _ints(shift, ("int32",), (o,), "the skip's shift"))
        weight, shift = self.skip
        _check_shift(shift, "skip")
        _check_sums(weight, 0, self.feature_peak, "skip")

    @property
    def n_outputs(self) -> int:
        """Outputs per step O."""
        return self.head.n_out

    @property
    def skip(self) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int32]]:
        """Weight and shift of the linear taps."""
        assert self.skip_weight is not None
        assert self.skip_shift is not None
        return self.skip_weight, self.skip_shift

    def to_arrays(self) -> dict[str, AnyArray]:
        """Return the net as named arrays, fit for an npz file; `from_arrays` reads them back."""
        skip_weight, skip_shift = self.skip
        arrays: dict[str, AnyArray] = {
            "past": self.past,
            "n_layers": np.array(len(self.layers), np.int32),
            "feature_peak": np.array(self.feature_peak, np.int32),
            "skip.offsets": np.array(self.skip_offsets, np.int32),
            "skip.weight": skip_weight,
            "skip.shift": skip_shift,
        }
        for name, layer in self._named_layers(self.layers, self.head):
            arrays[f"{name}.offsets"] = np.array(layer.offsets, np.int32)
            arrays[f"{name}.weight"] = layer.weight
            arrays[f"{name}.bias"] = layer.bias
            arrays[f"{name}.shift"] = layer.shift
            arrays[f"{name}.bits"] = np.array(layer.bits, np.int32)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, AnyArray]) -> CausalNet:
        """Rebuild a net from `to_arrays`.

        Raises:
            ModelError: an array is missing or does not fit the others.
        """

        def get(name: str) -> AnyArray:
            try:
                return np.asarray(arrays[name])
            except KeyError as error:
                raise ModelError(f"the prior's array {name!r} is missing") from error

        def number(name: str) -> int:
            a = get(name)
            if a.shape != () or a.dtype.kind not in "iu":
                raise ModelError(f"{name}: must be one integer, found {a.dtype} {list(a.shape)}")
            return int(a)

        def offsets(name: str) -> tuple[int, ...]:
            a = get(name)
            if a.ndim != 1 or a.dtype.kind not in "iu":
                raise ModelError(f"{name}: must be a row of integers, found {a.dtype} [{a.shape}]")
            return tuple(a.tolist())

        def layer(name: str) -> CausalLayer:
            return CausalLayer(
                offsets=offsets(f"{name}.offsets"),
                weight=get(f"{name}.weight"),
                bias=get(f"{name}.bias"),
                shift=get(f"{name}.shift"),
                bits=number(f"{name}.bits"),
            )

        past, n_layers = get("past"), number("n_layers")
        if not 0 <= n_layers <= _MAX_LAYERS:
            raise ModelError(f"a causal net has 0 to {_MAX_LAYERS} hidden layers, found {n_layers}")
        return cls(
            n_inputs=past.size,
            past=past,
            layers=tuple(layer(f"layer{i}") for i in range(n_layers)),
            head=layer("head"),
            skip_offsets=offsets("skip.offsets"),
            skip_weight=get("skip.weight"),
            skip_shift=get("skip.shift"),
            feature_peak=number("feature_peak"),
        )

    def words(self, n_constant: int = 0) -> npt.NDArray[np.int32]:
        """Return the net as one row of int32, the form that the C engine reads (`causal.h`).

        Args:
            n_constant: how many of the features, the last, are the same at every step.
        """
        past = self.past.astype(np.int32)
        past[self.n_inputs - n_constant :] = 2
        parts: list[npt.ArrayLike] = [
            (1, self.n_inputs, self.feature_peak, len(self.layers)),
            past,
        ]
        for _, layer in self._named_layers(self.layers, self.head):
            parts.append((len(layer.offsets), layer.n_in, layer.n_out, layer.bits))
            parts += [layer.offsets, layer.shift, layer.bias, layer.weight]
        parts.append((len(self.skip_offsets),))
        weight, shift = self.skip
        parts += [self.skip_offsets, shift, weight]
        return np.concatenate([np.asarray(p, dtype=np.int32).ravel() for p in parts])

    def run(self, features: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Evaluate all steps at once, where all features are known.

        Args:
            features: integers [B, I, T]; a past feature of step t is not seen at step t.

        Returns:
            int32 [B, O, T], equal to what `causal_lockstep.LockstepState` gives step by step.
        """
        f = np.asarray(features)
        if f.ndim != 3 or f.shape[1] != self.n_inputs:
            raise SignalError(f"features must be [B, {self.n_inputs}, T], found {list(f.shape)}")
        if f.size and max(int(f.max()), -int(f.min())) > self.feature_peak:
            raise SignalError(f"a feature lies outside ±{self.feature_peak}")
        out = np.empty((f.shape[0], self.n_outputs, f.shape[2]), np.int32)
        for b in range(f.shape[0]):
            out[b] = self._run_one(f[b].astype(np.float32))
        return out

    def _run_one(self, features: FloatArray) -> AnyArray:
        x, unseen = features, self.past
        for layer in self.layers:
            acc = _convolve(x, layer.offsets, layer.weight, unseen) + layer.bias[:, None]
            x = np.clip(np.rint(np.ldexp(acc, -layer.shift[:, None])), 0, layer.peak)
            x = x.astype(np.float32)
            unseen = np.zeros(layer.n_out, np.bool_)
        head = _convolve(x, self.head.offsets, self.head.weight, unseen) + self.head.bias[:, None]
        out = np.ldexp(head.astype(np.float64), -self.head.shift[:, None])
        if self.skip_offsets:
            weight, shift = self.skip
            skip = _convolve(features, self.skip_offsets, weight, self.past)
            out += np.ldexp(skip.astype(np.float64), -shift[:, None])
        return np.rint(out)

    @staticmethod
    def _named_layers(
        layers: Sequence[CausalLayer], head: CausalLayer
    ) -> Iterator[tuple[str, CausalLayer]]:
        for i, layer in enumerate(layers):
            yield f"layer{i}", layer
        yield "head", head


def _convolve(
    x: FloatArray, offsets: tuple[int, ...], weight: AnyArray, unseen: npt.NDArray[np.bool_]
) -> FloatArray:
    """Causal convolution: x [I, T] at ``offsets`` by weight [O, K, I], exact; float32 [O, T]."""
    n_in, n = x.shape
    w = weight.astype(np.float32)
    if offsets[0] == 0:
        w[:, 0, unseen] = 0
    w = w.reshape(w.shape[0], -1)
    deepest = offsets[-1]
    padded = np.zeros((n_in, deepest + n), np.float32)
    padded[:, deepest:] = x
    out = np.empty((w.shape[0], n), np.float32)
    chunk = max(1, (1 << 20) // w.shape[1])  # bounds the memory of the stacked windows
    for start in range(0, n, chunk):
        stop = min(n, start + chunk)
        at = [deepest - o for o in offsets]
        out[:, start:stop] = w @ np.concatenate([padded[:, a + start : a + stop] for a in at])
    return out
