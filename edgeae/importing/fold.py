"""Keras layers to a chain of dense layers: batch normalisation becomes weights and biases.

With g = gamma / sqrt(variance + epsilon), a normalisation after a dense layer W x + b is

    (W x + b - mean) g + beta  =  (g W) x + (b - mean) g + beta

so the dense layer's own bias is scaled as well and stays in the sum. (Folding it as
``beta - mean g`` loses ``b g``; a converter that does so ships another model.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError
from edgeae.importing.keras import KerasLayer
from edgeae.models.dense import ACTIVATIONS, DenseLayer

__all__ = ["fold_layers"]

Floats = npt.NDArray[np.float64]

_NOTHING_AT_INFERENCE = frozenset(("InputLayer", "Dropout", "Flatten", "GaussianNoise"))


def fold_layers(layers: Sequence[KerasLayer]) -> tuple[DenseLayer, ...]:
    """Fold a chain of Keras layers to dense layers with activations.

    A normalisation goes into the dense layer before it, or, where an activation lies between, into
    the one after it.

    Args:
        layers: from input to output; see :func:`~edgeae.importing.keras.read_keras`.

    Raises:
        ModelError: a layer or a setting that is not understood, weights that are missing or of the
            wrong shape; the message names the layer.
    """
    chain: list[DenseLayer] = []
    pending: tuple[Floats, Floats] | None = None  # of a normalisation that waits for a dense layer
    for layer in layers:
        if layer.kind in _NOTHING_AT_INFERENCE:
            continue
        if layer.kind == "Dense":
            chain.append(_dense(layer, chain, pending))
            pending = None
        elif layer.kind == "BatchNormalization":
            width = chain[-1].weight.shape[0] if chain else None
            factor, offset = _normalisation(layer, width)
            if pending is not None:
                factor, offset = factor * pending[0], factor * pending[1] + offset
            if chain and chain[-1].activation == "linear" and pending is None:
                chain[-1] = replace(
                    chain[-1],
                    weight=chain[-1].weight * factor[:, None],
                    bias=chain[-1].bias * factor + offset,
                )
            else:
                pending = factor, offset
        elif layer.kind in ("Activation", "ReLU"):
            activation = _activation(layer)
            if activation == "linear":
                continue
            if not chain or chain[-1].activation != "linear" or pending is not None:
                raise ModelError(
                    f"layer {layer.name!r} ({layer.kind}) does not follow a Dense layer"
                )
            chain[-1] = replace(chain[-1], activation=activation)
        else:
            raise ModelError(
                f"layer {layer.name!r} is a {layer.kind}; understood are Dense, "
                "BatchNormalization, Activation, ReLU, Flatten, Dropout and InputLayer"
            )
    if not chain:
        raise ModelError("the model has no Dense layer")
    if pending is not None:
        name = next(a.name for a in reversed(layers) if a.kind == "BatchNormalization")
        raise ModelError(f"layer {name!r} has no Dense layer beside it that it could go into")
    return tuple(chain)


def _dense(
    layer: KerasLayer, chain: Sequence[DenseLayer], pending: tuple[Floats, Floats] | None
) -> DenseLayer:
    kernel = _weight(layer, "kernel", (None, None))
    n_in, n_out = kernel.shape
    if chain and chain[-1].weight.shape[0] != n_in:
        raise ModelError(
            f"layer {layer.name!r} takes {n_in} values, {chain[-1].name!r} gives "
            f"{chain[-1].weight.shape[0]}"
        )
    bias = np.zeros(n_out)
    if layer.config.get("use_bias", True):
        bias = _weight(layer, "bias", (n_out,))
    weight = kernel.T
    if pending is not None:
        factor, offset = (np.broadcast_to(part, (n_in,)) for part in pending)
        weight, bias = weight * factor, bias + weight @ offset
    return DenseLayer(name=layer.name, weight=weight, bias=bias, activation=_activation(layer))


def _normalisation(layer: KerasLayer, width: int | None) -> tuple[Floats, Floats]:
    """Factor and offset of a BatchNormalization at inference."""
    axis = layer.config.get("axis", -1)
    if axis not in (-1, 1, [1], [-1]):
        raise ModelError(f"layer {layer.name!r} normalises axis {axis}, expected the last")
    mean = _weight(layer, "moving_mean", (width,))
    shape = mean.shape
    variance = _weight(layer, "moving_variance", shape)
    gamma = _weight(layer, "gamma", shape) if layer.config.get("scale", True) else np.ones(shape)
    beta = _weight(layer, "beta", shape) if layer.config.get("center", True) else np.zeros(shape)
    factor = gamma / np.sqrt(variance + float(layer.config.get("epsilon", 1e-3)))
    if not np.isfinite(factor).all():
        raise ModelError(f"layer {layer.name!r}: variance + epsilon is not positive")
    return factor, beta - mean * factor


def _activation(layer: KerasLayer) -> str:
    if layer.kind == "ReLU":
        for key in ("max_value", "negative_slope", "threshold"):
            if layer.config.get(key):
                raise ModelError(f"layer {layer.name!r}: ReLU with {key}={layer.config[key]}")
        return "relu"
    name = layer.config.get("activation", "linear")
    if name not in ACTIVATIONS:
        raise ModelError(
            f"layer {layer.name!r}: activation {name!r}; understood are {', '.join(ACTIVATIONS)}"
        )
    return str(name)


def _weight(layer: KerasLayer, key: str, shape: tuple[int | None, ...]) -> Floats:
    if key not in layer.weights:
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) has no weight {key!r} in the file")
    value = layer.weights[key]
    if value.ndim != len(shape) or any(
        wanted is not None and wanted != found
        for found, wanted in zip(value.shape, shape, strict=True)
    ):
        raise ModelError(
            f"layer {layer.name!r}: {key} has shape {list(value.shape)}, expected "
            f"{['any' if axis is None else axis for axis in shape]}"
        )
    if value.size == 0 or not np.isfinite(value).all():
        raise ModelError(f"layer {layer.name!r}: {key} is empty or holds NaN or Inf")
    return value
