"""A chain of dense layers as plain numbers: what import, quantization and export share.

::

    x [N, I] ─ weight, bias, activation ─► ... ─► y [N, O]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgeae.errors import ModelError

__all__ = ["ACTIVATIONS", "DenseLayer", "narrowest", "run_dense", "to_torch"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-np.clip(x, -700.0, 700.0))),
    "tanh": np.tanh,
}
_MODULES: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True, kw_only=True)
class DenseLayer:
    """One layer: ``activation(x @ weight.T + bias)``.

    Attributes:
        name: as the model it comes from has it.
        weight: float64 [O, I].
        bias: float64 [O].
        activation: one of ``ACTIVATIONS``.
    """

    name: str
    weight: Floats
    bias: Floats
    activation: str

    @property
    def relu(self) -> bool:
        """Whether the output is clipped at zero."""
        return self.activation == "relu"


def run_dense(layers: Sequence[DenseLayer], x: Array) -> list[Floats]:
    """Run a chain in float64.

    Args:
        layers: the chain.
        x: [N, I].

    Returns:
        The output of every layer, [N, O] each; the last one is the chain's.

    Raises:
        ModelError: ``x`` does not fit the first layer.
    """
    if x.ndim != 2 or x.shape[1] != layers[0].weight.shape[1]:
        raise ModelError(
            f"the input has shape {list(x.shape)}, layer {layers[0].name!r} takes "
            f"[N, {layers[0].weight.shape[1]}]"
        )
    values: Floats = x.astype(np.float64)
    found = []
    for layer in layers:
        values = ACTIVATIONS[layer.activation](values @ layer.weight.T + layer.bias)
        found.append(values)
    return found


def to_torch(layers: Sequence[DenseLayer]) -> nn.Sequential:
    """The chain as a torch module, float32, in eval mode."""
    modules: list[nn.Module] = []
    for layer in layers:
        n_out, n_in = layer.weight.shape
        linear = nn.Linear(n_in, n_out)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(layer.weight))
            linear.bias.copy_(torch.from_numpy(layer.bias))
        modules.append(linear)
        if layer.activation in _MODULES:
            modules.append(_MODULES[layer.activation]())
    return nn.Sequential(*modules).eval()


def narrowest(layers: Sequence[DenseLayer]) -> int:
    """How many layers lie before the bottleneck: the encoder's part of an autoencoder.

    Raises:
        ModelError: a chain of one layer has no inside.
    """
    widths = [layer.weight.shape[0] for layer in layers[:-1]]
    if not widths:
        raise ModelError("a chain of one layer has no bottleneck to split it at")
    return widths.index(min(widths)) + 1
