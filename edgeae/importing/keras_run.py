"""Evaluate Keras layers as they are defined, nothing folded: what an import is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError
from edgeae.importing.keras import KerasLayer
from edgeae.models.dense import ACTIVATIONS

__all__ = ["run_keras"]

Floats = npt.NDArray[np.float64]


def run_keras(layers: Sequence[KerasLayer], x: npt.NDArray[Any]) -> Floats:
    """Run a chain in float64, layer by layer, at inference.

    Args:
        layers: a chain whose layers :func:`~edgeae.importing.fold.fold_layers` understands.
        x: [N, I].
    """
    values: Floats = x.astype(np.float64)
    for layer in layers:
        weights, config = layer.weights, layer.config
        if layer.kind == "Dense":
            values = values @ weights["kernel"] + weights.get("bias", 0.0)
            values = ACTIVATIONS[config.get("activation", "linear")](values)
        elif layer.kind == "BatchNormalization":
            spread = np.sqrt(weights["moving_variance"] + float(config.get("epsilon", 1e-3)))
            values = (values - weights["moving_mean"]) / spread * weights.get("gamma", 1.0)
            values = values + weights.get("beta", 0.0)
        elif layer.kind == "Activation":
            values = ACTIVATIONS[config.get("activation", "linear")](values)
        elif layer.kind == "ReLU":
            values = np.maximum(values, 0.0)
        elif layer.kind not in ("InputLayer", "Dropout", "Flatten", "GaussianNoise"):
            raise ModelError(f"layer {layer.name!r} is a {layer.kind}, which is not understood")
    return values
