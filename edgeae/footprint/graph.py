"""What a graph costs: operations, parameters, weights, and the memory its tensors need.

There are two views of the same file:

``graph``
    Every operator is a step and every tensor has the type that the file gives it, as in
    onnxruntime. Weights are the file's constants. Nothing is fused and nothing is computed in
    place; reshapes share their input's bytes.
``device``
    What a C program makes of it: rounding, clipping, scaling and moving elements happen while an
    operator writes its output, so that only that is stored, in the narrowest integers that hold it
    (four bytes where the graph does not confine it). Weights are integers with a shift per channel,
    biases 32 bits.

In both, the graph's inputs and outputs lie in the arena too, and constants do not.

A stream's state is an input and an output of its graph. On a device it is *held*: it stays in one
place from run to run, new steps are put behind it, and the arena is without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError
from edgeae.footprint.arena import Lifetime, arena_bytes, peak_live_bytes, place
from edgeae.footprint.costs import UNCOUNTED, macs_of, operands, stored_weight_bytes, weight_axis
from edgeae.footprint.shapes import Shape, TensorTypes, input_shapes, propagate
from edgeae.footprint.widths import stored_widths
from edgeae.runtime.onnx_file import OnnxGraph, OnnxNode, read_onnx

__all__ = ["GraphFootprint", "LayerFootprint", "View", "describe_graph"]

Array = npt.NDArray[Any]

_RESHAPES = frozenset(["Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"])
_FUSED = _RESHAPES | frozenset(
    [
        "Add",
        "BatchNormalization",
        "Cast",
        "Clip",
        "DepthToSpace",
        "DequantizeLinear",
        "Div",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mul",
        "PRelu",
        "QuantizeLinear",
        "Relu",
        "Round",
        "Sigmoid",
        "SpaceToDepth",
        "Sub",
        "Tanh",
        "Transpose",
    ]
)


class View(str, Enum):
    """Whose memory is counted; see the module."""

    GRAPH = "graph"
    DEVICE = "device"


@dataclass(frozen=True, kw_only=True)
class LayerFootprint:
    """One step of a graph.

    Attributes:
        name: of the tensor it makes.
        op: the ONNX operator that does the work.
        output_shape: of that tensor.
        macs: multiply-accumulates.
        n_parameters: weights and biases that no earlier step had.
        weight_bytes: what they take.
        activation_bytes: what its output takes.
        weight_bits: of the weights it multiplies by; 0 where it has none, 32 for float.
        activation_bits: of what it multiplies; 32 for float.
    """

    name: str
    op: str
    output_shape: Shape
    macs: int
    n_parameters: int
    weight_bytes: int
    activation_bytes: int
    weight_bits: int = 0
    activation_bits: int = 32

    @property
    def arithmetic(self) -> str:
        """The widest of what is multiplied: ``int8``, ``int16`` or ``float32``."""
        bits = max(self.weight_bits, self.activation_bits)
        return {8: "int8", 16: "int16"}.get(bits, "float32")


@dataclass(frozen=True, kw_only=True)
class GraphFootprint:
    """A graph's costs for one input shape.

    Attributes:
        view: whose memory is counted.
        inputs: shape by input.
        layers: the steps, in the file's order.
        macs: multiply-accumulates of one run.
        n_parameters: elements of weights and biases.
        weight_bytes: bytes of all constants.
        arena_bytes: one block that holds all tensors, laid out greedily.
        peak_live_bytes: most bytes alive at once; no layout needs less.
        input_bytes: of the inputs, part of the arena.
        output_bytes: of the outputs, likewise.
        state_bytes: of the held state on a device, beside the arena.
        uncounted: operators whose multiplications are not counted.
    """

    view: View
    inputs: Mapping[str, Shape]
    layers: tuple[LayerFootprint, ...]
    macs: int
    n_parameters: int
    weight_bytes: int
    arena_bytes: int
    peak_live_bytes: int
    input_bytes: int
    output_bytes: int
    state_bytes: int = 0
    uncounted: tuple[str, ...] = ()


def describe_graph(
    data: bytes,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    *,
    view: View | str = View.GRAPH,
    input_bytes: int | None = None,
    held: Mapping[str, str] | None = None,
    name: str = "model.onnx",
) -> GraphFootprint:
    """Count what an ONNX graph costs.

    Args:
        data: the file's bytes.
        input_shape: shape of its input, or one by name; None stands for batches of one.
        view: whose memory is counted, see the module.
        input_bytes: bytes per element of the inputs on a device, but for a state; None leaves it
            to the graph.
        held: of a stream: the inputs that are its state, and for each the output that is the next
            run's.
        name: what to call it in messages.

    Raises:
        ModelError: not an ONNX file, or a graph that cannot be followed.
        ConfigError: an input shape that the graph does not take, or one that is missing.
    """
    from edgeae.runtime.graph_shapes import run_for_shapes

    graph = read_onnx(data, name=name)
    shapes = input_shapes(graph, input_shape)
    types = propagate(graph, shapes, lambda: run_for_shapes(data, graph, shapes, name=name))
    try:
        describer = _Describer(graph, types, View(view), input_bytes, dict(held or {}))
        return describer.footprint(shapes)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ModelError(f"{name}: the graph contradicts itself: {error!r}") from error


class _Describer:
    """One graph under one view."""

    def __init__(
        self,
        graph: OnnxGraph,
        types: TensorTypes,
        view: View,
        input_bytes: int | None,
        held: Mapping[str, str],
    ) -> None:
        self.graph, self.types, self.view = graph, types, view
        self.constants = _constants(graph)
        self.makers = {name: node for node in graph.nodes for name in node.outputs if name}
        if view is View.DEVICE:
            self.widths = stored_widths(graph, types)
            if input_bytes is not None:
                own = [value.name for value in graph.inputs if value.name not in held]
                self.widths |= dict.fromkeys(own, input_bytes)
            self.states = self._states(held)
        else:
            self.widths = {name: dtype.itemsize for name, (_, dtype) in types.items()}
            self.states = {}
        self.counted: set[str] = set()

    def footprint(self, inputs: Mapping[str, Shape]) -> GraphFootprint:
        groups = self._groups()
        layers = tuple(self._layer(group) for group in groups)
        tensors = self._lifetimes(groups)
        values = (*self.graph.constants.values(), *_constant_nodes(self.graph).values())
        weight_bytes = sum(layer.weight_bytes for layer in layers)
        if self.view is View.GRAPH:  # the constants of bounds, scales and shapes too
            weight_bytes = sum(int(value.nbytes) for value in values)
        return GraphFootprint(
            view=self.view,
            inputs=dict(inputs),
            layers=layers,
            macs=sum(layer.macs for layer in layers),
            n_parameters=sum(layer.n_parameters for layer in layers),
            weight_bytes=weight_bytes,
            arena_bytes=arena_bytes(place(tensors)),
            peak_live_bytes=peak_live_bytes(tensors),
            input_bytes=sum(self._bytes(value.name) for value in self.graph.inputs),
            output_bytes=sum(self._bytes(value.name) for value in self.graph.outputs),
            state_bytes=sum(
                max(self._bytes(name) for name in self.states if self.states[name] == state)
                for state in set(self.states.values())
            ),
            uncounted=tuple(sorted({n.op for n in self.graph.nodes if n.op in UNCOUNTED})),
        )

    def _bytes(self, name: str) -> int:
        return math.prod(self.types[name][0]) * self.widths.get(name, 4)

    def _states(self, held: Mapping[str, str]) -> dict[str, str]:
        """Tensors that lie where a held state lies: it, it with what follows, and what is left."""
        found = {name: name for name in held}
        ends = {after: name for name, after in held.items()}
        for node in self.graph.nodes:
            if node.op == "Concat" and node.inputs[0] in held:
                found[node.outputs[0]] = node.inputs[0]
            elif node.op == "Slice" and found.get(node.inputs[0]) == ends.get(node.outputs[0], ""):
                found[node.outputs[0]] = found[node.inputs[0]]
        return found

    # -- which operators make a step ---------------------------------------------------------------

    def _groups(self) -> list[list[OnnxNode]]:
        """The graph's operators in steps: one each, or fused into what made their input."""
        readers: dict[str, int] = {value.name: 1 for value in self.graph.outputs}
        nodes = [n for n in self.graph.nodes if not set(filter(None, n.outputs)) <= self.constants]
        for node in nodes:
            for name in node.inputs:
                readers[name] = readers.get(name, 0) + 1
        groups: list[list[OnnxNode]] = []
        ends: dict[str, list[OnnxNode]] = {}  # the group that makes a tensor last
        for node in nodes:
            data = [name for name in node.inputs if name and name not in self.constants]
            group = ends.get(data[0]) if len(data) == 1 and readers[data[0]] == 1 else None
            if self.view is View.DEVICE and node.op in _FUSED and group is not None:
                group.append(node)
            else:
                group = [node]
                groups.append(group)
            ends[node.outputs[0]] = group
        return groups

    def _layer(self, group: Sequence[OnnxNode]) -> LayerFootprint:
        macs = [macs_of(node, self.types) for node in group]
        main = group[macs.index(max(macs))]
        n_parameters, weight_bytes, weight_bits = 0, 0, 0
        for node in group:
            for name in operands(node):
                if name in self.constants:
                    bits = self._weight_bits(node, name)
                    weight_bits = max(weight_bits, bits if node is main and max(macs) else 0)
                    n_elements, n_bytes = self._parameters(node, name)
                    n_parameters += n_elements
                    weight_bytes += n_bytes
        last = group[-1].outputs[0]
        data = [name for name in main.inputs if name and name not in self.constants]
        widths = [self._read_width(name) for name in data] or [4]
        return LayerFootprint(
            name=last,
            op=main.op,
            output_shape=self.types[last][0],
            macs=sum(macs),
            n_parameters=n_parameters,
            weight_bytes=weight_bytes,
            activation_bytes=0
            if self._is_view(group) or last in self.states
            else self._bytes(last),
            weight_bits=weight_bits,
            activation_bits=8 * max(widths),
        )

    def _is_view(self, group: Sequence[OnnxNode]) -> bool:
        """Whether a step makes nothing new, only another shape of its input's bytes."""
        ops = _RESHAPES | ({"DequantizeLinear"} if self.view is View.DEVICE else set())
        return len(group) == 1 and group[0].op in ops

    # -- weights -----------------------------------------------------------------------------------

    def _parameters(self, node: OnnxNode, name: str) -> tuple[int, int]:
        """Elements and bytes of a parameter; none where an earlier operator had it."""
        source = self._source(name)
        if source in self.counted:
            return 0, 0
        self.counted.add(source)
        shape, dtype = self.types[source]
        size = math.prod(shape)
        if self.view is View.GRAPH:
            return size, size * dtype.itemsize
        values, scale = self._values(name)
        axis = weight_axis(node, name, len(shape))
        if values is None:
            return size, 4 * size
        return size, stored_weight_bytes(values, axis, scale)

    def _weight_bits(self, node: OnnxNode, name: str) -> int:
        values, scale = self._values(name)
        axis = weight_axis(node, name, len(self.types[name][0]))
        if axis is None or values is None or not values.size:
            return 0
        channels = values.shape[axis] if values.ndim else 1
        return 8 * ((stored_weight_bytes(values, axis, scale) - channels) // values.size or 1)

    def _source(self, name: str) -> str:
        """The tensor of the file that a constant is made of."""
        maker = self.makers.get(name)
        while maker is not None and maker.inputs and name not in self.graph.constants:
            name = maker.inputs[0]
            maker = self.makers.get(name)
        return name

    def _values(self, name: str) -> tuple[Array | None, Array | None]:
        """A constant as it is stored: values, or integers and their scale."""
        values = {**self.graph.constants, **_constant_nodes(self.graph)}
        if name in values:
            return values[name], None
        maker = self.makers[name]
        if maker.op == "DequantizeLinear" and maker.inputs[0] in values:
            return values[maker.inputs[0]], values.get(maker.inputs[1])
        return values.get(self._source(name)), None

    # -- tensors -----------------------------------------------------------------------------------

    def _read_width(self, name: str) -> int:
        """Bytes per element of what is multiplied: that of the integers behind a dequantization."""
        maker = self.makers.get(name)
        while maker is not None and maker.op in _RESHAPES | {"DequantizeLinear", "Transpose"}:
            name = maker.inputs[0]
            if maker.op == "DequantizeLinear":
                return self.types[name][1].itemsize
            maker = self.makers.get(name)
        return self.widths.get(name, 4)

    def _lifetimes(self, groups: Sequence[Sequence[OnnxNode]]) -> list[Lifetime]:
        first: dict[str, int] = {value.name: -1 for value in self.graph.inputs}
        last: dict[str, int] = dict(first)
        root: dict[str, str] = {name: name for name in first}
        for step, group in enumerate(groups):
            inside = {node.outputs[0] for node in group[:-1]}
            for node in group:
                for name in node.inputs:
                    if name in root and name not in inside:
                        last[root[name]] = step
            for name in filter(None, group[-1].outputs):
                if self._is_view(group):
                    root[name] = root[group[0].inputs[0]]
                elif name in self.types:
                    root[name] = name
                    first[name] = last[name] = step
        for value in self.graph.outputs:
            if value.name in root:
                last[root[value.name]] = len(groups)
        return [
            Lifetime(name=name, n_bytes=self._bytes(name), first=begin, last=last[name])
            for name, begin in first.items()
            if name not in self.states
        ]


def _constant_nodes(graph: OnnxGraph) -> dict[str, Array]:
    """Values of Constant operators."""
    found = {}
    for node in graph.nodes:
        if node.op == "Constant" and node.attributes:
            found[node.outputs[0]] = np.asarray(next(iter(node.attributes.values())))
    return found


def _constants(graph: OnnxGraph) -> set[str]:
    """Names of all tensors that do not depend on the inputs' values."""
    found = set(graph.constants)
    for node in graph.nodes:
        if node.op in ("Constant", "Shape") or (
            node.inputs and all(name in found for name in node.inputs if name)
        ):
            found |= set(filter(None, node.outputs))
    return found
