"""Quantize a trained chain of dense layers after training, to int8, in seconds.

Every hidden activation is an integer, 0..255 after a ReLU, else -128..127; every weight an int8::

    acc = sum(w_q n) + b_q          out = clip(round(acc * scale[o]), lo, hi)

A ReLU net does not care about a positive factor per channel, for it moves through the ReLU into the
next layer's weights. So each hidden channel is scaled until its own range fills the integers (one
that was quiet in calibration no more than twice as far as the loudest), and one step, 1, serves all
of them: nothing is lost by powers of two there. What is left is the rounding of the weights, layer
by layer on calibration data: each weight's error is made up for by the weights not yet rounded, and
the mean of what remains goes into the bias.

``dyadic`` makes every scale a power of two: the result is exact in float32 on every machine.
Otherwise each output channel has a scale of its own that lets its largest weight fill the integers.

Weights are kept to ``|w| <= 64`` unless asked otherwise. Then a pair of products with an unsigned
activation stays below 2^15, and processors that add such pairs in 16 bits with saturation (AVX2
without VNNI) give the same sums as all others.

References:
    Equalisation: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
    Correction", ICCV 2019, eq. 5. Rounding: Frantar et al., "GPTQ", ICLR 2023, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError, SignalError
from edgeae.models.dense import DenseLayer, run_dense

__all__ = ["IntegerDense", "IntegerLayer", "quantize_dense"]

WEIGHT_PEAK = 64
RANGE_MARGIN = 1.5  # what an activation may exceed of all that calibration showed
DAMPING = 0.3  # of the mean of the Hessian's diagonal
LEAST_SHARE = 0.5  # of the layer's peak: a channel that calibration left quieter may yet be louder
SUM_LIMIT = 2.0**24

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class IntegerLayer:
    """A layer in integers.

    Attributes:
        name: as in the chain it comes from.
        weight: int8 [O, I].
        bias: int32 [O].
        scale: float64 [O]: what one step of the sum is worth in steps of the output; of the last
            layer, in the chain's own units.
        lo: smallest output; None in the last layer, which is not rounded.
        hi: largest output; None in the last layer.
    """

    name: str
    weight: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    scale: Floats
    lo: int | None
    hi: int | None

    def sums(self, n: Integers) -> Integers:
        """The sums for integers [N, I]."""
        found: Integers = n @ self.weight.astype(np.int64).T + self.bias
        return found

    def output(self, n: Integers) -> Integers:
        """Outputs of a hidden layer for integers [N, I]."""
        found: Integers = np.clip(np.rint(self.sums(n) * self.scale), self.lo, self.hi).astype(
            np.int64
        )
        return found


@dataclass(frozen=True, kw_only=True)
class IntegerDense:
    """A chain in integers.

    Attributes:
        step: of the input's integers, in the input's units.
        zero: the integer that stands for 0 among 0..255; the sums use ``n - zero``.
        layers: the layers.
        dyadic: whether every scale is a power of two.
    """

    step: float
    zero: int
    layers: tuple[IntegerLayer, ...]
    dyadic: bool

    def integers(self, x: npt.NDArray[np.floating]) -> Integers:
        """The input's integers around 0, in ``-zero..255 - zero``."""
        n: Integers = np.clip(
            np.rint(x.astype(np.float64) / self.step), -self.zero, 255 - self.zero
        ).astype(np.int64)
        return n

    def run(self, x: npt.NDArray[np.floating]) -> Floats:
        """Run it in integers.

        Args:
            x: [N, I] in the input's units.

        Returns:
            float64 [N, O] in the output's units.
        """
        n = self.integers(x)
        for layer in self.layers[:-1]:
            n = layer.output(n)
        found: Floats = self.layers[-1].sums(n) * self.layers[-1].scale
        return found


def quantize_dense(
    layers: Sequence[DenseLayer],
    x: npt.NDArray[np.floating],
    *,
    dyadic: bool,
    weight_peak: int = WEIGHT_PEAK,
    range_margin: float = RANGE_MARGIN,
) -> IntegerDense:
    """Quantize a chain.

    Args:
        layers: the chain; hidden layers are linear or ReLU, the last one is linear.
        x: [N, I], input to calibrate with.
        dyadic: make every scale a power of two.
        weight_peak: largest |weight| in integers, 1..127.
        range_margin: room for activations beyond the peaks seen, as a factor >= 1.

    Raises:
        ModelError: an activation that is neither ReLU nor linear, or a sum that can reach 2^24.
        SignalError: the input is empty, constant at 0, or not finite.
    """
    for layer in layers:
        allowed = ("linear", "relu") if layer is not layers[-1] else ("linear",)
        if layer.activation not in allowed:
            raise ModelError(
                f"layer {layer.name!r} has activation {layer.activation!r}; int8 chains need "
                "ReLU or linear layers, the last one linear"
            )
    if x.size == 0 or not np.isfinite(x).all() or not np.any(x):
        raise SignalError("calibration needs input that is finite and not all zeros")
    values: Floats = x.astype(np.float64)  # of the float chain, before each layer
    step, zero = _input_grid(values, dyadic, range_margin)
    found = IntegerDense(step=step, zero=zero, layers=(), dyadic=dyadic)
    n, reach = found.integers(values), max(zero, 255 - zero)
    units: Floats = np.full(values.shape[1], 1 / step)  # integers per unit of the float chain
    made = []
    for layer, output in zip(layers, run_dense(layers, values), strict=True):
        last = layer is layers[-1]
        top = 255 if layer.relu else 127
        out_units = np.ones(len(layer.bias)) if last else _units(output, top / range_margin)
        integer = _rounded(
            layer.name,
            layer.weight * out_units[:, None] / units,
            (values @ layer.weight.T + layer.bias) * out_units,
            n,
            reach,
            dyadic,
            weight_peak,
        )
        if not last:
            integer = replace(integer, lo=0 if layer.relu else -top - 1, hi=top)
            reach = 255 if layer.relu else 128
            n, units, values = integer.output(n), out_units, output
        made.append(integer)
    return replace(found, layers=tuple(made))


def _input_grid(x: Floats, dyadic: bool, margin: float) -> tuple[float, int]:
    """Step and zero point that put the input's range, widened, into 0..255."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    if x.min() * x.max() > 0:
        low, high = float(x.min()), float(x.max())
    middle, width = (low + high) / 2, max(high - low, 1e-6 * max(-low, high)) * margin
    step = width / 255
    if dyadic:
        step = 2.0 ** math.ceil(math.log2(step))
    return step, int(np.clip(round(127.5 - middle / step), 0, 255))


def _units(output: Floats, top: float) -> Floats:
    """Integers per unit for each channel: its peak becomes ``top``."""
    peaks = np.abs(output).max(axis=0)
    found: Floats = top / np.maximum(peaks, max(LEAST_SHARE * float(peaks.max()), 1e-12))
    return found


def _rounded(
    name: str,
    rows: Floats,
    target: Floats,
    n: Integers,
    reach: int,
    dyadic: bool,
    weight_peak: int,
) -> IntegerLayer:
    """Round a layer's weights so that its sums on ``n`` stay close to ``target``.

    Args:
        name: of the layer.
        rows: [O, I], the weights in output steps per input step.
        target: [N, O], the sums wanted, in output steps.
        n: [N, I], the layer's input.
        reach: largest |n| there can be.
        dyadic: whether the scales are powers of two.
        weight_peak: largest |weight| in integers.
    """
    centred = n - n.mean(axis=0)
    hessian = centred.T @ centred
    damping = DAMPING * max(float(np.mean(np.diag(hessian))), 1.0)
    hessian += damping * np.eye(len(hessian))
    scale = np.maximum(np.abs(rows).max(axis=1), 2.0**-40) / weight_peak
    if dyadic:
        scale = np.exp2(np.ceil(np.log2(scale)))
    limit = SUM_LIMIT if dyadic else 2.0**31
    for _ in range(24):
        weight = _compensated(rows, scale, hessian, weight_peak)
        bias = np.rint((target - n @ (weight * scale[:, None]).T).mean(axis=0) / scale)
        over = np.abs(weight).sum(axis=1) * reach + np.abs(bias) >= limit
        if not over.any():
            return IntegerLayer(
                name=name,
                weight=weight.astype(np.int8),
                bias=bias.astype(np.int32),
                scale=scale,
                lo=None,
                hi=None,
            )
        scale = np.where(over, 2 * scale, scale)
    raise ModelError(f"layer {name!r}: no weights keep its sums below {limit:g}")


def _compensated(rows: Floats, scale: Floats, hessian: Floats, peak: int) -> Floats:
    """Integers [O, I] whose errors, as ``hessian`` weighs them, make up for one another."""
    order = np.argsort(-np.diag(hessian), kind="stable")
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    spread = np.linalg.cholesky(inverse).T
    left, found = rows[:, order], np.zeros_like(rows)
    for column, place in enumerate(order):
        whole = np.clip(np.rint(left[:, column] / scale), -peak, peak)
        found[:, place] = whole
        error = (left[:, column] - whole * scale) / spread[column, column]
        left[:, column:] -= np.outer(error, spread[column, column:])
    return found
