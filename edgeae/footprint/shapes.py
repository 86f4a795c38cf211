"""Shapes of a graph's tensors, worked out from its input's without running it.

The operators that edgeae exports and the usual ones of small nets are followed here; for others
the graph is run once, see `edgeae.runtime.graph_shapes`. Small integer tensors (shapes that a graph
computes of shapes) are followed by value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.errors import ConfigError, ModelError
from edgeae.runtime.onnx_file import DTYPES, OnnxGraph, OnnxNode

__all__ = ["Shape", "TensorTypes", "input_shapes", "propagate"]

Shape = tuple[int, ...]
Array = npt.NDArray[Any]
TensorTypes = dict[str, tuple[Shape, np.dtype[Any]]]
"""Shape and element type by tensor."""

_FLOAT = np.dtype("<f4")
_INT64 = np.dtype("<i8")
_SMALL = 256  # elements of an integer tensor that is followed by value


class _UnknownError(Exception):
    """An operator that is not followed here."""


def input_shapes(
    graph: OnnxGraph, given: Sequence[int] | Mapping[str, Sequence[int]] | None
) -> dict[str, Shape]:
    """The shape of each of a graph's inputs, free axes filled in.

    Args:
        graph: the graph.
        given: shape of the only input, or one by name; None stands for batches of one where no
            other axis is free.

    Raises:
        ConfigError: a shape that the graph does not take, or a free axis that nothing fills.
    """
    by_name: Mapping[str, Sequence[int]]
    if given is None:
        by_name = {}
    elif isinstance(given, Mapping):
        by_name = given
    elif len(graph.inputs) == 1:
        by_name = {graph.inputs[0].name: given}
    else:
        names = ", ".join(value.name for value in graph.inputs)
        raise ConfigError(f"the graph has the inputs {names}: give a shape for each, by name")
    unknown = set(by_name) - {value.name for value in graph.inputs}
    if unknown:
        raise ConfigError(f"the graph has no input {sorted(unknown)[0]!r}")
    shapes = {}
    for value in graph.inputs:
        declared = value.shape
        wanted = by_name.get(value.name)
        if wanted is None:
            if declared is None:
                raise ConfigError(f"input {value.name!r} has no shape in the file: give one")
            wanted = [1 if i == 0 and not isinstance(n, int) else n for i, n in enumerate(declared)]  # type: ignore[misc]
            free = [n for n in wanted if not isinstance(n, int)]
            if free:
                example = ",".join(str(n if isinstance(n, int) else 1024) for n in wanted)
                raise ConfigError(
                    f"input {value.name!r} is {_text(declared)}: its axis {free[0] or '?'} is "
                    f"free, so give the input's shape, such as {example}"
                )
        fits = declared is None or (
            len(declared) == len(wanted)
            and all(not isinstance(n, int) or n == m for n, m in zip(declared, wanted, strict=True))
        )
        if not fits or any(n < 1 for n in wanted):
            raise ConfigError(
                f"input {value.name!r} cannot have the shape {_text(wanted)}; the graph takes "
                f"{_text(declared or ())}"
            )
        shapes[value.name] = tuple(int(n) for n in wanted)
    return shapes


def propagate(
    graph: OnnxGraph,
    inputs: Mapping[str, Shape],
    fallback: Callable[[], TensorTypes] | None = None,
) -> TensorTypes:
    """Shape and element type of every tensor.

    Args:
        graph: the graph.
        inputs: see `input_shapes`.
        fallback: gives the tensors that cannot be worked out here, by running the graph; called
            once at most.

    Raises:
        ModelError: shapes that do not fit each other, or an operator that is not known where there
            is no fallback.
    """
    walk = _Walk(graph, inputs)
    ran: TensorTypes | None = None
    for node in graph.nodes:
        try:
            walk.node(node)
        except (_UnknownError, KeyError, IndexError, ValueError, TypeError) as error:
            if fallback is None:
                raise ModelError(
                    f"node {node.name or node.outputs[0]} ({node.op}): its output's shape is not "
                    f"known: {error}"
                ) from error
            if ran is None:
                ran = fallback()
            for name in node.outputs:
                if name:
                    walk.types[name] = ran.get(name, ((), _FLOAT))
    return walk.types


def _text(shape: Sequence[object]) -> str:
    return "[" + ", ".join("?" if n is None else str(n) for n in shape) + "]"


class _Walk:
    """What is known of the tensors so far."""

    def __init__(self, graph: OnnxGraph, inputs: Mapping[str, Shape]) -> None:
        self.values: dict[str, Array] = dict(graph.constants)
        self.types: TensorTypes = {
            name: (tuple(value.shape), value.dtype) for name, value in graph.constants.items()
        }
        for value in graph.inputs:
            self.types[value.name] = (inputs[value.name], value.dtype or _FLOAT)

    def node(self, node: OnnxNode) -> None:
        """Add a node's outputs."""
        outputs = self._infer(node)
        for name, (shape, dtype) in zip(node.outputs, outputs, strict=False):
            if name:
                self.types[name] = (tuple(int(n) for n in shape), dtype)
        if len(node.outputs) == 1:
            value = self._value(node)
            if value is not None:
                self.values[node.outputs[0]] = value
                self.types[node.outputs[0]] = (tuple(value.shape), value.dtype)

    def shape(self, name: str) -> Shape:
        return self.types[name][0]

    def _integers(self, node: OnnxNode, position: int, attribute: str = "") -> list[int] | None:
        """Integers that come as an input, or as an attribute in older files; None for neither."""
        if len(node.inputs) > position and node.inputs[position]:
            return [int(v) for v in self.values[node.inputs[position]].reshape(-1)]
        values = node.attributes.get(attribute)
        return None if values is None else [int(v) for v in np.atleast_1d(values)]

    def _infer(self, node: OnnxNode) -> list[tuple[Shape, np.dtype[Any]]]:
        op, a = node.op, node.attributes
        if op == "Constant":
            value = np.asarray(next(iter(a.values())))
            return [(value.shape, value.dtype)]
        if node.domain not in ("", "ai.onnx"):
            raise _UnknownError(f"its domain is {node.domain}")
        first = next((name for name in node.inputs if name), "")
        x, dtype = self.types[first]
        if op in _SAME:
            return [(x, dtype)]
        if op in _BROADCAST:
            shapes = [self.shape(name) for name in node.inputs if name]
            kind = np.dtype("?") if op in _LOGICAL else self.types[node.inputs[-1]][1]
            return [(np.broadcast_shapes(*shapes), kind)]
        if op == "Cast":
            return [(x, DTYPES[a["to"]])]
        if op == "QuantizeLinear":
            has_zero = len(node.inputs) > 2 and node.inputs[2]
            return [(x, self.types[node.inputs[2]][1] if has_zero else np.dtype("u1"))]
        if op == "DequantizeLinear":
            return [(x, self.types[node.inputs[1]][1])]
        if op in ("Conv", "ConvInteger", "QLinearConv", "ConvTranspose"):
            return [(self._conv(node, x), self._product_type(node))]
        if op == "Gemm":
            y = self.shape(node.inputs[1])
            rows = x[1] if a.get("transA") else x[0]
            return [((rows, y[0] if a.get("transB") else y[1]), dtype)]
        if op in ("MatMul", "MatMulInteger", "QLinearMatMul"):
            y = self.shape(node.inputs[3 if op == "QLinearMatMul" else 1])
            return [(_matmul(x, y), self._product_type(node))]
        if op in ("MaxPool", "AveragePool", "LpPool"):
            return [(x[:2] + self._window(node, x[2:], a["kernel_shape"]), dtype)]
        if op.startswith("Global"):
            return [(x[:2] + (1,) * (len(x) - 2), dtype)]
        if op == "BatchNormalization" or op in ("LayerNormalization", "Dropout"):
            return [(x, dtype)]
        if op.startswith("Reduce"):
            return [(self._reduced(node, x), dtype)]
        if op in ("ArgMax", "ArgMin"):
            return [(_reduce(x, [a.get("axis", 0)], bool(a.get("keepdims", 1))), _INT64)]
        if op == "Shape":
            return [((len(x),), _INT64)]
        if op in ("LSTM", "GRU", "RNN"):
            return self._recurrent(node, x, dtype)
        move = _MOVES.get(op)
        if move is None:
            raise _UnknownError("this operator is not followed")
        return [(move(self, node, x), dtype)]

    def _product_type(self, node: OnnxNode) -> np.dtype[Any]:
        if node.op.endswith("Integer"):
            return np.dtype("<i4")
        if node.op.startswith("QLinear"):
            return self.types[node.inputs[7]][1]
        return self.types[node.inputs[0]][1]

    def _conv(self, node: OnnxNode, x: Shape) -> Shape:
        w = self.shape(node.inputs[3 if node.op == "QLinearConv" else 1])
        a = node.attributes
        kernel = a.get("kernel_shape") or list(w[2:])
        if node.op != "ConvTranspose":
            return (x[0], w[0], *self._window(node, x[2:], kernel))
        n = len(kernel)
        strides, dilations = a.get("strides") or [1] * n, a.get("dilations") or [1] * n
        pads, more = a.get("pads") or [0] * 2 * n, a.get("output_padding") or [0] * n
        if a.get("output_shape") or a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise _UnknownError("ConvTranspose with a given output shape is not followed")
        space = [
            s * (t - 1) + m + d * (k - 1) + 1 - p - q
            for t, s, k, d, m, p, q in zip(
                x[2:], strides, kernel, dilations, more, pads[:n], pads[n:], strict=True
            )
        ]
        return (x[0], w[1] * int(a.get("group", 1)), *space)

    def _window(self, node: OnnxNode, space: Shape, kernel: Sequence[int]) -> Shape:
        """Places of a sliding window."""
        a, n = node.attributes, len(space)
        strides, dilations = a.get("strides") or [1] * n, a.get("dilations") or [1] * n
        pads = a.get("pads") or [0] * 2 * n
        mode = a.get("auto_pad", b"NOTSET")
        if mode in (b"SAME_UPPER", b"SAME_LOWER"):
            return tuple(-(-t // s) for t, s in zip(space, strides, strict=True))
        whole: Callable[[float], int] = math.ceil if a.get("ceil_mode") else math.floor
        found = tuple(
            whole((t + p + q - d * (k - 1) - 1) / s) + 1
            for t, k, s, d, p, q in zip(
                space, kernel, strides, dilations, pads[:n], pads[n:], strict=True
            )
        )
        if any(v < 1 for v in found):
            raise ValueError(f"a window of {list(kernel)} does not fit into {list(space)}")
        return found

    def _reduced(self, node: OnnxNode, x: Shape) -> Shape:
        axes = self._integers(node, 1, "axes")
        return _reduce(x, axes, bool(node.attributes.get("keepdims", 1)))

    def _recurrent(
        self, node: OnnxNode, x: Shape, dtype: np.dtype[Any]
    ) -> list[tuple[Shape, np.dtype[Any]]]:
        directions, _, hidden = self.shape(node.inputs[2])
        state = (directions, x[1], hidden)
        return [((x[0], *state[:1], x[1], hidden), dtype), (state, dtype), (state, dtype)]

    # -- operators that move elements --------------------------------------------------------------

    def _reshape(self, node: OnnxNode, x: Shape) -> Shape:
        wanted = self._integers(node, 1, "shape") or []
        if not node.attributes.get("allowzero"):
            wanted = [x[i] if n == 0 else n for i, n in enumerate(wanted)]
        known = math.prod(n for n in wanted if n != -1)
        shape = tuple(math.prod(x) // max(known, 1) if n == -1 else n for n in wanted)
        if math.prod(shape) != math.prod(x):
            raise ValueError(f"{list(x)} cannot become {wanted}")
        return shape

    def _flatten(self, node: OnnxNode, x: Shape) -> Shape:
        axis = int(node.attributes.get("axis", 1)) % (len(x) + 1)
        return (math.prod(x[:axis]), math.prod(x[axis:]))

    def _transpose(self, node: OnnxNode, x: Shape) -> Shape:
        return tuple(x[i] for i in node.attributes.get("perm") or range(len(x))[::-1])

    def _squeeze(self, node: OnnxNode, x: Shape) -> Shape:
        axes = self._integers(node, 1, "axes")
        gone = (
            {i for i, n in enumerate(x) if n == 1}
            if axes is None
            else {axis % len(x) for axis in axes}
        )
        return tuple(n for i, n in enumerate(x) if i not in gone)

    def _unsqueeze(self, node: OnnxNode, x: Shape) -> Shape:
        axes = self._integers(node, 1, "axes") or []
        rank = len(x) + len(axes)
        rest = iter(x)
        new = {axis % rank for axis in axes}
        return tuple(1 if i in new else next(rest) for i in range(rank))

    def _pad(self, node: OnnxNode, x: Shape) -> Shape:
        pads = self._integers(node, 1, "pads") or []
        axes = self._integers(node, 3)
        where = range(len(x)) if axes is None else [axis % len(x) for axis in axes]
        shape, n = list(x), len(pads) // 2
        for i, axis in enumerate(where):
            shape[axis] += pads[i] + pads[n + i]
        return tuple(shape)

    def _slice(self, node: OnnxNode, x: Shape) -> Shape:
        starts, ends = (
            self._integers(node, 1, "starts") or [],
            self._integers(node, 2, "ends") or [],
        )
        axes = self._integers(node, 3, "axes") or list(range(len(starts)))
        steps = self._integers(node, 4) or [1] * len(starts)
        shape = list(x)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            shape[axis] = len(range(*slice(start, end, step).indices(x[axis])))
        return tuple(shape)

    def _concat(self, node: OnnxNode, x: Shape) -> Shape:
        axis = int(node.attributes["axis"]) % len(x)
        total = sum(self.shape(name)[axis] for name in node.inputs)
        return (*x[:axis], total, *x[axis + 1 :])

    def _depth_to_space(self, node: OnnxNode, x: Shape) -> Shape:
        b = int(node.attributes["blocksize"])
        return (x[0], x[1] // (b * b), x[2] * b, x[3] * b)

    def _space_to_depth(self, node: OnnxNode, x: Shape) -> Shape:
        b = int(node.attributes["blocksize"])
        return (x[0], x[1] * b * b, x[2] // b, x[3] // b)

    def _resize(self, node: OnnxNode, x: Shape) -> Shape:
        sizes = self._integers(node, 3)
        if sizes:
            return tuple(sizes)
        position = 1 if node.op == "Upsample" else 2
        scales = self.values[node.inputs[position]].reshape(-1).tolist()
        return tuple(math.floor(n * s) for n, s in zip(x, scales, strict=True))

    def _expand(self, node: OnnxNode, x: Shape) -> Shape:
        return np.broadcast_shapes(x, tuple(self._integers(node, 1) or ()))

    def _tile(self, node: OnnxNode, x: Shape) -> Shape:
        return tuple(n * m for n, m in zip(x, self._integers(node, 1) or (), strict=True))

    def _gather(self, node: OnnxNode, x: Shape) -> Shape:
        axis = int(node.attributes.get("axis", 0)) % len(x)
        return (*x[:axis], *self.shape(node.inputs[1]), *x[axis + 1 :])

    # -- small integers, by value ------------------------------------------------------------------

    def _value(self, node: OnnxNode) -> Array | None:
        """The output's value where it is a constant or a computed shape."""
        op, a = node.op, node.attributes
        if op == "Constant":
            return np.asarray(next(iter(a.values())))
        if op == "Shape":
            part = slice(a.get("start"), a.get("end"))
            return np.array(self.shape(node.inputs[0])[part], np.int64)
        inputs = [self.values.get(name) for name in node.inputs if name]
        small = [v for v in inputs if v is not None and v.dtype.kind in "iu" and v.size <= _SMALL]
        if op not in _FOLDED or not inputs or len(small) != len(inputs):
            return None
        x = small[0]
        if op in _ARITHMETIC:
            return np.asarray(_ARITHMETIC[op](*small))
        if op == "Concat":
            return np.concatenate(small, axis=a["axis"])
        if op == "Gather":
            return np.asarray(np.take(x, small[1], axis=a.get("axis", 0)))
        if op == "Cast":
            return x.astype(DTYPES[a["to"]])
        if op == "Slice":
            starts, ends = small[1].reshape(-1), small[2].reshape(-1)
            step = int(small[4].item()) if len(small) > 4 else 1
            return x[int(starts[0]) : int(ends[0]) : step] if x.ndim == 1 else None
        return x.reshape(self.shape(node.outputs[0]))


def _matmul(x: Shape, y: Shape) -> Shape:
    if len(x) == 1 or len(y) == 1:
        raise _UnknownError("a product with a vector is not followed")
    if x[-1] != y[-2]:
        raise ValueError(f"{list(x)} and {list(y)} cannot be multiplied")
    return (*np.broadcast_shapes(x[:-2], y[:-2]), x[-2], y[-1])


def _reduce(x: Shape, axes: Sequence[int] | None, keep: bool) -> Shape:
    gone = set(range(len(x))) if not axes else {axis % len(x) for axis in axes}
    if keep:
        return tuple(1 if i in gone else n for i, n in enumerate(x))
    return tuple(n for i, n in enumerate(x) if i not in gone)


_SAME = frozenset(
    [
        "Abs",
        "Ceil",
        "Clip",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "InstanceNormalization",
        "LeakyRelu",
        "Log",
        "LogSoftmax",
        "Mish",
        "Neg",
        "Not",
        "PRelu",
        "QuickGelu",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sign",
        "Sin",
        "Softmax",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Swish",
        "Tanh",
        "ThresholdedRelu",
    ]
)
_LOGICAL = frozenset(["And", "Or", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
_BROADCAST = (
    frozenset(["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mod", "Where", "Sum", "Mean"])
    | _LOGICAL
)
_MOVES: Mapping[str, Callable[[_Walk, OnnxNode, Shape], Shape]] = {
    "Concat": _Walk._concat,
    "DepthToSpace": _Walk._depth_to_space,
    "Expand": _Walk._expand,
    "Flatten": _Walk._flatten,
    "Gather": _Walk._gather,
    "Pad": _Walk._pad,
    "Reshape": _Walk._reshape,
    "Resize": _Walk._resize,
    "Slice": _Walk._slice,
    "SpaceToDepth": _Walk._space_to_depth,
    "Squeeze": _Walk._squeeze,
    "Tile": _Walk._tile,
    "Transpose": _Walk._transpose,
    "Unsqueeze": _Walk._unsqueeze,
    "Upsample": _Walk._resize,
}
_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.floor_divide,
    "Min": np.minimum,
    "Max": np.maximum,
}
_FOLDED = frozenset(_ARITHMETIC) | {
    "Concat",
    "Gather",
    "Cast",
    "Slice",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Identity",
}
