"""Run a net and keep what each of its layers gives: Keras, .tflite, ONNX and bundles alike.

A layer is a matrix product or convolution with what follows it element by element: bias,
activation, rounding. Its output is what the next layer reads.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError
from edgeae.importing.keras import KerasLayer

__all__ = ["Model", "Trace", "TracedLayer", "read_model"]

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TracedLayer:
    """One layer as it ran.

    Attributes:
        name: as the model has it.
        output: float64 [N, O].
        weight: float64 [O, I] where it is a dense layer, else None.
        bias: float64 [O], likewise.
        activation: likewise.
        own_bias: float64 [O], a Keras dense layer's own bias as the folded one contains it.
    """

    name: str
    output: Floats
    weight: Floats | None = None
    bias: Floats | None = None
    activation: str | None = None
    own_bias: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A net as it ran: its layers, and its output float64 [N, O]."""

    layers: tuple[TracedLayer, ...]
    output: Floats


class Model:
    """A net that can be traced; :func:`read_model` opens one.

    Attributes:
        name: of its file.
        width: values of one input.
    """

    name: str
    width: int

    def trace(self, rows: Rows) -> Trace:
        """Run it on inputs [N, width]."""
        raise NotImplementedError


def read_model(path: str | os.PathLike[str]) -> Model:
    """Open a model to trace, by what its file says it is.

    Args:
        path: a Keras .h5, a .tflite, an .onnx, or a bundle (folder or zip).

    Raises:
        ModelError: there is no such file, or it is none of these.
    """
    where = Path(path)
    if where.is_dir():
        return _BundleModel(where)
    try:
        data = where.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {where}: {error.strerror or error}") from error
    if data[:4] == b"PK\x03\x04" and where.suffix != ".keras":
        return _BundleModel(where)
    if data[:8] == b"\x89HDF\r\n\x1a\n" or where.suffix in (".h5", ".hdf5", ".keras"):
        return _KerasModel(where)
    if data[4:8] == b"TFL3" or where.suffix == ".tflite":
        from edgeae.importing.trace_tflite import TfliteModel

        return TfliteModel(data, where.name)
    from edgeae.importing.trace_onnx import OnnxModel

    return OnnxModel(data, where.name)


class _KerasModel(Model):
    def __init__(self, path: Path) -> None:
        from edgeae.importing.fold import fold_layers
        from edgeae.importing.keras import read_keras

        self.name = path.name
        layers = read_keras(path)
        self._layers = fold_layers(layers)
        self._own = [
            own.bias
            for own in fold_layers([replace(layer, weights=_bias_only(layer)) for layer in layers])
        ]
        self.width = self._layers[0].weight.shape[1]

    def trace(self, rows: Rows) -> Trace:
        from edgeae.models.dense import run_dense

        outputs = run_dense(self._layers, rows)
        layers = tuple(
            TracedLayer(
                name=layer.name,
                output=output,
                weight=layer.weight,
                bias=layer.bias,
                activation=layer.activation,
                own_bias=own,
            )
            for layer, output, own in zip(self._layers, outputs, self._own, strict=True)
        )
        return Trace(layers=layers, output=outputs[-1])


def _bias_only(layer: KerasLayer) -> dict[str, Floats]:
    """A layer's weights with nothing left that adds to a dense layer's own bias."""
    without = {"beta": 0.0, "moving_mean": 0.0}
    return {key: value * without.get(key, 1.0) for key, value in layer.weights.items()}


class _BundleModel(Model):
    """The halves of a bundle of windows, one behind the other, in the signal's own units."""

    def __init__(self, path: Path) -> None:
        from edgeae.importing.trace_onnx import OnnxModel
        from edgeae.runtime.bundle import load

        bundle = load(path)
        spec, net = bundle.signal, bundle.net
        if net is None or net.fixed_window is None or spec.is_image:
            raise ModelError(
                f"{path}: only bundles of fixed windows of a series can be compared; take one of "
                "its .onnx files"
            )
        self.name = path.name
        self._shape = (net.fixed_window, spec.channels)
        self.width = math.prod(self._shape)
        self._steps = np.array([num / den for num, den in spec.grids])
        self._halves = [
            OnnxModel(bundle.files[name], name) for name in ("encoder.onnx", "decoder.onnx")
        ]

    def trace(self, rows: Rows) -> Trace:
        windows = rows.reshape(len(rows), *self._shape).astype(np.float64)
        index = np.rint(windows / self._steps).transpose(0, 2, 1).astype(np.float32)
        encoded = self._halves[0].trace(index)
        latent = encoded.output.astype(np.float32).reshape(len(rows), -1, 1)
        decoded = self._halves[1].trace(latent)
        back = decoded.output.reshape(len(rows), *self._shape[::-1]).transpose(0, 2, 1)
        output = (back * self._steps).reshape(len(rows), -1)
        layers = [replace(a, weight=None) for a in encoded.layers + decoded.layers]
        layers[-1] = replace(layers[-1], output=output)
        return Trace(layers=tuple(layers), output=output)
