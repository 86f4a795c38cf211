"""The parts of a model, each with its operations and its memory: nets as graphs, and priors.

A prior runs step by step. What it keeps from step to step is its *state*: the rows of features and
activations that its offsets reach back to, and the tables of its coder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.footprint.graph import GraphFootprint, LayerFootprint, View, describe_graph
from edgeae.runtime.adaptive import AdaptiveRules
from edgeae.runtime.causal import CausalNet
from edgeae.runtime.cell_prior import CellPrior
from edgeae.runtime.pixel_rules import PixelRules
from edgeae.runtime.prior_rules import PriorRules

__all__ = ["Part", "graph_part", "prior_part"]

FAMILY_BYTES = 2272  # eae_family of cdf.h: 94 rows, built once for a step and a shift
RANGE_CODER_BYTES = 40  # eae_encoder of range_coder.h
_ROW_BYTES = 2  # of a feature or an activation, int16 as in causal.c
_SUM_BYTES = 4
_MIXER_BYTES = 56  # of a channel in eae_mixer of mixture.h, without its history


@dataclass(frozen=True, kw_only=True)
class Part:
    """A net or a prior, for one window.

    Attributes:
        name: what it is.
        n_parameters: elements of weights and biases.
        layers: its steps; their operations are those of the whole window.
        weight_bytes: read-only numbers on a device.
        table_bytes: read-only tables of the coder.
        arena_bytes: working memory while it runs, shared with other parts.
        state_bytes: memory that it keeps from step to step.
        symbols: integers that are entropy-coded.
        runs: times that it is started.
        host: the same graph as onnxruntime holds it; None for a prior.
    """

    name: str
    n_parameters: int
    layers: tuple[LayerFootprint, ...]
    weight_bytes: int
    table_bytes: int = 0
    arena_bytes: int = 0
    state_bytes: int = 0
    symbols: int = 0
    runs: int = 1
    host: GraphFootprint | None = field(default=None, repr=False)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one window."""
        return sum(layer.macs for layer in self.layers)


def graph_part(
    name: str,
    data: bytes,
    shape: Sequence[int] | Mapping[str, Sequence[int]] | None,
    *,
    input_bytes: int | None = None,
    held: Mapping[str, str] | None = None,
    file: str = "model.onnx",
) -> Part:
    """A net.

    Args:
        name: what to call it.
        data: the ONNX file's bytes.
        shape: of its input, or one by name.
        input_bytes: bytes per element of its input on a device; None leaves it to the graph.
        held: a stream's state, see `edgeae.footprint.graph.describe_graph`.
        file: what to call the file in messages.

    Raises:
        ModelError, ConfigError: as `edgeae.footprint.graph.describe_graph`.
    """
    device = describe_graph(
        data, shape, view=View.DEVICE, input_bytes=input_bytes, held=held, name=file
    )
    return Part(
        name=name,
        n_parameters=device.n_parameters,
        layers=device.layers,
        weight_bytes=device.weight_bytes,
        arena_bytes=device.arena_bytes,
        state_bytes=device.state_bytes,
        host=describe_graph(data, shape, view=View.GRAPH, name=file),
    )


def prior_part(name: str, rules: PriorRules | PixelRules | CellPrior, steps: int) -> Part:
    """A prior that codes so many steps.

    Args:
        name: what to call it.
        rules: the prior's.
        steps: of one window.
    """
    if isinstance(rules, PixelRules):
        return _pixel_part(name, rules, steps)
    if isinstance(rules, CellPrior):
        state, symbols = RANGE_CODER_BYTES + 4 * rules.n_channels, steps * rules.n_channels
        return _causal_part(name, rules.net, steps, int(rules.freq.nbytes), state, symbols)
    families = len(set(rules.shift)) * FAMILY_BYTES
    state = RANGE_CODER_BYTES + families + 4 * rules.n_channels
    symbols = steps * rules.n_channels
    tables = int(rules.shape.nbytes)
    if rules.net is None:
        statics = 0 if rules.statics is None else int(rules.statics.size)
        return Part(
            name=name, n_parameters=statics, layers=(), weight_bytes=4 * statics,
            table_bytes=tables, state_bytes=state, symbols=symbols,
        )  # fmt: skip
    part = _causal_part(name, rules.net, steps, tables, state, symbols, rules.n_cond)
    return part if rules.adaptive is None else _adapting(part, rules.adaptive, rules, steps)


def _adapting(part: Part, rules: AdaptiveRules, prior: PriorRules, steps: int) -> Part:
    """The same with what a frame's own past corrects: its filters, and its mixtures' net."""
    channels = prior.n_channels
    symbols = steps * channels
    n = -(-rules.n_inputs(channels) // 8) * 8
    layers, state = list(part.layers), part.state_bytes + _MIXER_BYTES * channels
    parameters, weight_bytes = part.n_parameters, part.weight_bytes
    if n and any(rules.gains):
        history = channels * (2 * rules.taps + rules.cross + 1)
        state += 8 * (channels * (n + n * n) + 2 * n + history)
        layers.append(
            LayerFootprint(
                name="filter",
                op="RecursiveLeastSquares",
                output_shape=(steps, channels),
                macs=symbols * (2 * n * n + 3 * n),
                n_parameters=0,
                weight_bytes=0,
                activation_bytes=8 * n,
                weight_bits=32,  # binary64 in truth: no device here says what that costs
            )
        )
    if rules.learnt is not None:
        mixing = [
            replace(layer, name=f"mixture.{layer.name}")
            for layer in _causal_layers(rules.learnt.net, symbols)
        ]
        layers += mixing
        state += 16 * rules.learnt.history * channels + _ring_bytes(rules.learnt.net)
        parameters += sum(layer.n_parameters for layer in mixing)
        weight_bytes += sum(layer.weight_bytes for layer in mixing)
    return replace(
        part,
        layers=tuple(layers),
        n_parameters=parameters,
        weight_bytes=weight_bytes,
        state_bytes=state,
    )


def _pixel_part(name: str, rules: PixelRules, steps: int) -> Part:
    """A pixel prior: its steps are single levels, margins included."""
    r = rules.raster
    images = steps // (r.height * r.width)
    tables = rules.table.size + rules.flag.nbytes + rules.weight.nbytes + 2 * rules.levels
    state = RANGE_CODER_BYTES + 2 * _SUM_BYTES * rules.levels
    symbols = steps * r.channels
    return _causal_part(name, rules.net, images * r.n_steps, tables, state, symbols)


def _causal_part(
    name: str,
    net: CausalNet,
    steps: int,
    tables: int,
    state: int,
    symbols: int,
    n_constant: int = 0,
) -> Part:
    """A causal net with the tables and the state of its coder.

    The last ``n_constant`` features are the same at every step: what they add to a sum is added up
    once, while the first steps come in.
    """
    layers = _causal_layers(net, steps, n_constant)
    widest = max(layer.n_out for layer in (*net.layers, net.head))
    window = max(
        (*(layer.weight[0].size for layer in (*net.layers, net.head)), net.skip[0][0].size)
    )
    return Part(
        name=name,
        n_parameters=sum(layer.n_parameters for layer in layers),
        layers=layers,
        weight_bytes=sum(layer.weight_bytes for layer in layers),
        table_bytes=tables,
        arena_bytes=_ROW_BYTES * int(window) + 2 * _SUM_BYTES * widest,
        state_bytes=state + _ring_bytes(net, n_constant),
        symbols=symbols,
    )


def _multiplied(
    net: CausalNet,
    weight: npt.NDArray[np.integer[Any]],
    offsets: Sequence[int],
    n_constant: int,
) -> int:
    """Weights [O, K, I] on the features that are multiplied at each step, as `causal.c` does it."""
    n_inputs = net.n_inputs - n_constant
    unseen = n_constant and len(offsets) > 1 and offsets[0] == 0 and net.past[:n_inputs].all()
    return int(weight[:, int(unseen) :, :n_inputs].size)


def _causal_layers(net: CausalNet, steps: int, n_constant: int = 0) -> tuple[LayerFootprint, ...]:
    found = []
    bits_in = net.feature_peak.bit_length() + 1
    for i, layer in enumerate((*net.layers, net.head)):
        name = "head" if i == len(net.layers) else f"layer{i}"
        n_weights = int(layer.weight.size)
        work = _multiplied(net, layer.weight, layer.offsets, n_constant) if i == 0 else n_weights
        found.append(
            LayerFootprint(
                name=name,
                op="CausalConv",
                output_shape=(steps, layer.n_out),
                macs=work * steps,
                n_parameters=n_weights + layer.n_out,
                weight_bytes=_stored(layer.weight.dtype, n_weights, layer.n_out, layer.offsets, 5),
                activation_bytes=layer.n_out * (_SUM_BYTES if layer.bits == 0 else _ROW_BYTES),
                weight_bits=8 * layer.weight.dtype.itemsize,
                activation_bits=8 if bits_in <= 8 else 16,
            )
        )
        bits_in = layer.bits
    if net.skip_offsets:
        weight, _ = net.skip
        found.append(
            LayerFootprint(
                name="skip",
                op="CausalConv",
                output_shape=(steps, net.n_outputs),
                macs=_multiplied(net, weight, net.skip_offsets, n_constant) * steps,
                n_parameters=int(weight.size),
                weight_bytes=_stored(
                    weight.dtype, int(weight.size), net.n_outputs, net.skip_offsets, 1
                ),
                activation_bytes=net.n_outputs * _SUM_BYTES,
                weight_bits=8 * weight.dtype.itemsize,
                activation_bits=16,
            )
        )
    return tuple(found)


def _stored(
    dtype: np.dtype[np.int8] | np.dtype[np.int16] | np.dtype[np.generic],
    n_weights: int,
    n_out: int,
    offsets: Sequence[int],
    per_output: int,
) -> int:
    """Weights, then shift (1 byte) and bias (4) per output, then offsets (2 bytes each)."""
    return n_weights * dtype.itemsize + n_out * per_output + 2 * len(offsets)


def _ring_bytes(net: CausalNet, n_constant: int = 0) -> int:
    """Rows that the layers reach back to, the present one included, and what constants added."""
    layers = (*net.layers, net.head)
    total = 0
    for i, layer in enumerate(layers):
        deepest, width = layer.offsets[-1], layer.n_in
        if i == 0:
            deepest, width = max(deepest, *net.skip_offsets, 0), width - n_constant
        total += (deepest + 1) * width * _ROW_BYTES
    if n_constant:
        total += _SUM_BYTES * (layers[0].n_out + net.n_outputs)
    return total
