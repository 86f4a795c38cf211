"""Compile an ONNX graph to layers that the native engine runs.

::

    graph ──constants──▶ walk the nodes ──▶ blocks: input, conv, add, concat ──▶ layout ──▶ words

A *block* is one pass over memory: a sum followed by everything that works on each number alone
(scaling by powers of two, ReLU, Clip, Round, quantize and dequantize), which in an exact net comes
down to y = clip(round_half_even(sum * 2^-shift)). What only moves numbers becomes a view. The walk
proves for every sum, from the constants themselves, that it stays below 2^24 steps of its grid:
then int32 sums equal float32 sums in any order, and the engine gives onnxruntime's bits. A graph
for which that does not hold can be compiled in float32 instead, which is not exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.runtime.blocks import (
    AddBlock,
    Block,
    ConcatBlock,
    ConvBlock,
    InputBlock,
    NetProgram,
    OutputSpec,
)
from edgeae.runtime.graph_constants import constants_of, quantized_range
from edgeae.runtime.grids import COARSEST, grid_exponents, is_power_of_two
from edgeae.runtime.net_moves import MOVES, moved
from edgeae.runtime.net_values import (
    Held,
    Pending,
    Tail,
    Value,
    block_shape,
    called,
    clipped,
    rounded,
    text,
)
from edgeae.runtime.onnx_file import OnnxGraph, OnnxNode
from edgeae.runtime.views import UnsupportedGraphError, View, whole_view

__all__ = ["Compiler", "UnsupportedGraphError"]

LIMIT = 1 << 24
INT16_MAX = (1 << 15) - 1
INPUT_PEAK = "edgeae.input_peak"

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Compiler:
    """Compiles one graph, for any input shape.

    Args:
        graph: the graph, its inputs and outputs float32.
        exact: integers, for certified graphs; else float32.
        name: what to call it in messages.

    Raises:
        UnsupportedGraphError: the graph has constants or ends that the engine does not run.
    """

    def __init__(self, graph: OnnxGraph, *, exact: bool, name: str = "model.onnx") -> None:
        for value in (*graph.inputs, *graph.outputs):
            if value.dtype != np.float32 or value.shape is None:
                raise UnsupportedGraphError(f"{name}: {value.name} is no float32 tensor of a shape")
        self.graph, self.exact, self.name = graph, exact, name
        self.constants = constants_of(graph, exact=exact)
        self._integers: dict[tuple[str, int], tuple[Array, Ints, Ints]] = {}

    def compile(self, *shapes: Sequence[int]) -> NetProgram:
        """The program for one sample.

        Args:
            shapes: of each input, without the batch axis.

        Raises:
            UnsupportedGraphError: an operator, a shape, or a sum that the engine does not run; the
                message names the node.
        """
        return _Walk(self, [tuple(shape) for shape in shapes]).program()

    def integers(self, node: OnnxNode, exponent: int) -> tuple[Array, Ints, Ints]:
        """Integer weights, bias and grid of the sums of a Conv or Gemm whose input has a grid.

        Returns:
            Weights int16 [O, I, ...] (a Gemm's are turned to [O, I]), bias int64 [O], exponents
            int64 [O].
        """
        key = (node.outputs[0], exponent)
        if key not in self._integers:
            weight, bias = self.reals(node)
            flat = weight.reshape(len(weight), -1)
            own = grid_exponents(flat)
            own = np.where(np.any(flat != 0, axis=1), own, -exponent)
            common = np.maximum(own + exponent, np.where(bias == 0, COARSEST, _grids(bias)))
            column = (common - exponent).reshape(-1, *([1] * (weight.ndim - 1)))
            scaled = np.ldexp(weight, column)
            if np.abs(scaled).max(initial=0) > INT16_MAX:
                raise UnsupportedGraphError(f"{called(node)}: weights of more than 16 bits")
            ints = np.ldexp(bias, common).astype(np.int64)
            self._integers[key] = scaled.astype(np.int16), ints, common.astype(np.int64)
        return self._integers[key]

    def reals(self, node: OnnxNode) -> tuple[Floats, Floats]:
        """Weights float64 [O, I, ...] and bias [O] of a Conv or Gemm.

        Raises:
            UnsupportedGraphError: attributes that the engine does not run.
        """
        given = node.attributes
        weight = self.constant(node, 1).astype(np.float64)
        if node.op == "Gemm":
            if (
                given.get("alpha", 1.0) != 1.0
                or given.get("beta", 1.0) != 1.0
                or given.get("transA")
            ):
                raise UnsupportedGraphError(f"{called(node)}: alpha, beta or transA")
            weight = weight if given.get("transB") else weight.T
        elif node.op == "MatMul":
            weight = weight.T
        elif given.get("group", 1) != 1 or text(given.get("auto_pad", "NOTSET")) != "NOTSET":
            raise UnsupportedGraphError(f"{called(node)}: groups or auto_pad")
        bias = np.zeros(len(weight))
        if len(node.inputs) > 2 and node.inputs[2]:
            found = self.constant(node, 2).astype(np.float64)
            if found.size not in (1, len(weight)):
                raise UnsupportedGraphError(f"{called(node)}: a bias of shape {found.shape}")
            bias = np.broadcast_to(found.reshape(-1), (len(weight),))
        return weight, bias

    def constant(self, node: OnnxNode, position: int) -> Array:
        """An input that must be a constant."""
        found = self.constants.get(node.inputs[position]) if position < len(node.inputs) else None
        if found is None:
            raise UnsupportedGraphError(f"{called(node)}: input {position} is no constant")
        return found


class _Walk:
    """One compilation."""

    def __init__(self, compiler: Compiler, shapes: Sequence[tuple[int, ...]]) -> None:
        self.compiler, self.graph, self.exact = compiler, compiler.graph, compiler.exact
        self.shapes = tuple(shapes)
        self.blocks: list[Block] = []
        self.values: dict[str, Value] = {}
        self.quantized: dict[str, tuple[float, int]] = {}
        self.uses = Counter(name for node in self.graph.nodes for name in node.inputs)
        self.uses.update(value.name for value in self.graph.outputs)

    def program(self) -> NetProgram:
        place = 0
        for number, (source, shape) in enumerate(zip(self.graph.inputs, self.shapes, strict=True)):
            self._keep(source.name, self._input(shape, place, self._stated(number)))
            place += prod(shape)
        for node in self.graph.nodes:
            if node.outputs[0] in self.compiler.constants:
                continue
            if node.domain not in ("", "ai.onnx") or len([n for n in node.outputs if n]) != 1:
                raise UnsupportedGraphError(f"{called(node)}: {node.domain or 'several outputs'}")
            try:
                self._keep(node.outputs[0], self._node(node))
            except (KeyError, IndexError, ValueError, TypeError) as error:
                raise UnsupportedGraphError(
                    f"{called(node)}: cannot be followed: {error!r}"
                ) from error
        return NetProgram(
            is_float=not self.exact,
            input_shapes=self.shapes,
            outputs=tuple(self._output(target.name) for target in self.graph.outputs),
            blocks=tuple(self.blocks),
        )

    def _output(self, name: str) -> OutputSpec:
        if name in self.quantized or name not in self.values:
            raise UnsupportedGraphError(f"the output {name!r} is no plain number")
        held = self._hold(self.values[name], last=True)
        return OutputSpec(view=held.view, wide=held.wide, **self._ending(held))

    def _stated(self, number: int) -> float:
        """The range that the graph states for the integers of an input."""
        metadata = self.graph.metadata
        shared = metadata.get(INPUT_PEAK, "inf") if number == 0 else "inf"
        return float(metadata.get(f"{INPUT_PEAK}.{self.graph.inputs[number].name}", shared))

    def _ending(self, held: Held) -> dict[str, Array]:
        """Scale and offset of the output, per channel or one for all."""
        exponents = held.exponents
        if exponents.size > 1:
            own = held.view.axes[0]
            if len(own) != 1 or own[0].axis != 0 or own[0].size != exponents.size:
                raise UnsupportedGraphError("channels of different grids are moved at the output")
        scale = np.exp2(-exponents.astype(np.float64)) if self.exact else np.ones(1)
        if held.scale is not None:
            scale = scale * held.scale
        offset = np.zeros(1) if held.offset is None else held.offset
        scale, offset = np.broadcast_arrays(scale, offset)
        if self.exact and not is_power_of_two(scale):
            raise UnsupportedGraphError("the output is multiplied by no power of two")
        return {"scale": scale.astype(np.float32), "offset": offset.astype(np.float32)}

    def _keep(self, name: str, value: Value) -> None:
        """Remember a tensor; one that is read twice is computed once."""
        self.values[name] = self._hold(value) if self.uses[name] > 1 else value

    # -- blocks ------------------------------------------------------------------------------------

    def _input(
        self,
        whole: tuple[int, ...],
        place: int,
        stated: float,
        sub: Array | None = None,
        mul: Array | None = None,
    ) -> Pending:
        shape, rank = block_shape(whole)
        sub = np.zeros(1, np.float32) if sub is None else sub
        times = np.ones(1, np.float32) if mul is None else mul

        def make(tail: Tail) -> Block:
            exact_scale = np.ldexp(times, -tail.shift) if self.exact else times
            return InputBlock(
                shape=shape,
                place=place,
                sub=sub,
                mul=exact_scale.astype(np.float32),
                low=tail.low,
                high=tail.high,
                strict=False,
            )

        def affine(op: str, constant: Array) -> Pending:
            values = constant.astype(np.float32)
            if op in ("Sub", "Add") and mul is None and not np.any(sub):
                return self._input(whole, place, stated, values if op == "Sub" else -values)
            if op == "Div" and is_power_of_two(values):
                op, values = "Mul", (1 / values).astype(np.float32)
            if op == "Mul" and mul is None:
                return self._input(whole, place, stated, sub, values)
            raise UnsupportedGraphError(f"{op} after the input was scaled")

        return Pending(
            make=make,
            shape=shape,
            rank=rank,
            exponents=np.zeros(1, np.int64),
            peaks=np.full(1, np.inf),
            affine=affine,
            stated=stated,
        )

    def _hold(self, value: Value, *, last: bool = False) -> Held:
        """End a sum here."""
        if isinstance(value, Held):
            return value
        number = len(self.blocks)
        view = whole_view(number, value.shape, value.rank)
        if not self.exact:
            tail = Tail(shift=np.zeros(1, np.int64), low=value.low, high=value.high, wide=False)
            self.blocks.append(value.make(tail))
            return Held(view=view, exponents=np.zeros(1, np.int64), peak=np.inf)
        if value.target is None:
            return self._unrounded(value, view, last)
        low, high = (np.ldexp(end, value.target) for end in (value.low, value.high))
        shift = value.exponents - value.target
        reach = float(np.ceil(np.max(np.ldexp(value.peaks, -shift))))
        low, high = max(low, -reach), min(high, reach)
        if low > high:
            raise UnsupportedGraphError("a Clip that leaves nothing")
        peak = max(abs(low), abs(high))
        wide = peak > INT16_MAX
        if wide and not (last and peak < 2**30):
            raise UnsupportedGraphError(f"activations of up to {peak:.0f}, more than 16 bits")
        tail = Tail(shift=shift, low=low, high=high, wide=wide)
        self.blocks.append(value.make(tail))
        return Held(view=view, exponents=np.array([value.target]), peak=peak, wide=wide)

    def _unrounded(self, value: Pending, view: View, last: bool) -> Held:
        """Sums as they are: fine as the output, or where they are integers of the input's range."""
        clipped = np.isfinite(value.low) or np.isfinite(value.high)
        if value.affine is not None and not np.isfinite(value.peaks).all():
            block = value.make(Tail(shift=value.exponents, low=0, high=0, wide=False))
            if not isinstance(block, InputBlock) or np.any(block.sub) or np.any(block.mul != 1):
                raise UnsupportedGraphError("an input that is scaled and not rounded")
            peak = value.stated
            if clipped or not peak <= INT16_MAX:
                raise UnsupportedGraphError(
                    f"the input is not rounded, and the graph states no range ({INPUT_PEAK}) below "
                    "2^15"
                )
            self.blocks.append(replace(block, low=-peak, high=peak, strict=True))
            return Held(view=view, exponents=np.zeros(1, np.int64), peak=peak)
        integers = bool(np.all(value.exponents <= 0))
        if integers and not last:  # a rounding would change nothing
            return self._hold(replace(value, target=0))
        if clipped or not last:
            raise UnsupportedGraphError("a sum that is not rounded")
        tail = Tail(shift=np.zeros_like(value.exponents), low=-LIMIT, high=LIMIT, wide=True)
        self.blocks.append(value.make(tail))
        return Held(view=view, exponents=value.exponents, peak=float(LIMIT), wide=True)

    def _layer(self, name: str, *, padded: bool = False) -> Held:
        """A tensor that a layer reads."""
        if name in self.quantized:
            raise UnsupportedGraphError(f"{name} is quantized and not dequantized")
        held = self._hold(self.values[name])
        self.values[name] = held
        if not held.plain:
            raise UnsupportedGraphError(f"{name} is scaled by channel before a layer reads it")
        if any(held.pads) and not padded:
            raise UnsupportedGraphError(f"{name} is padded, and no convolution reads it")
        return held

    # -- nodes -------------------------------------------------------------------------------------

    def _node(self, node: OnnxNode) -> Value:
        op = node.op
        if op == "DequantizeLinear":
            mark = quantized_range(node, self.compiler.constants)[:2]
            if self.quantized.get(node.inputs[0]) != mark:
                raise UnsupportedGraphError(f"{called(node)}: not what QuantizeLinear made")
            return self.values[node.inputs[0]]
        if op in MOVES:
            if node.inputs[0] in self.quantized:
                self.quantized[node.outputs[0]] = self.quantized[node.inputs[0]]
            held = self._hold(self.values[node.inputs[0]])
            self.values[node.inputs[0]] = held
            if any(held.pads):
                raise UnsupportedGraphError(f"{called(node)}: after a Pad")
            if held.scale is not None or held.exponents.size > 1:
                raise UnsupportedGraphError(f"{called(node)}: after a scaling by channel")
            first = (self.graph.inputs[0].shape or (None,))[0]
            free = not isinstance(first, int)
            view = moved(node, held.view, self.compiler.constant, free_batch=free)
            return replace(held, view=view)
        if any(name in self.quantized for name in node.inputs):
            raise UnsupportedGraphError(f"{called(node)}: works on quantized numbers")
        if op in ("Conv", "Gemm", "MatMul"):
            return self._product(node)
        if op in ("Add", "Sub", "Mul", "Div"):
            names = [n for n in node.inputs if n not in self.compiler.constants]
            if len(names) == 1:
                return self._affine(node, names[0])
            if op == "Add":
                return self._sum(self._layer(names[0]), self._layer(names[1]))
        if op == "Concat":
            return self._concat(node)
        if op == "Pad":
            return self._padded(node)
        if op == "Identity":
            return self.values[node.inputs[0]]
        if op in ("Relu", "Clip", "Round", "QuantizeLinear"):
            return self._tail(node)
        raise UnsupportedGraphError(f"{called(node)}: the native engine has no {op}")

    def _tail(self, node: OnnxNode) -> Value:
        """ReLU, Clip, Round and QuantizeLinear: they join the sum before them where they can."""
        value = self.values[node.inputs[0]]
        if isinstance(value, Held):
            if not value.plain or any(value.pads):
                raise UnsupportedGraphError(f"{called(node)}: after a scaling by channel, or Pad")
            value = self._sum(value, None)
        if node.op == "Relu":
            return clipped(value, 0.0, np.inf)
        if node.op == "Clip":
            ends = [-np.inf, np.inf]
            for i in (1, 2):
                if len(node.inputs) > i and node.inputs[i]:
                    ends[i - 1] = float(self.compiler.constant(node, i).item())
            return clipped(value, ends[0], ends[1])
        if not self.exact:
            raise UnsupportedGraphError(f"{called(node)}: rounding in a float net")
        if node.op == "Round":
            return rounded(value, 0, node)
        scale, zero, low, high = quantized_range(node, self.compiler.constants)
        exponent = -int(np.round(np.log2(scale)))
        self.quantized[node.outputs[0]] = scale, zero
        steps = rounded(value, exponent, node)
        return clipped(steps, (low - zero) * scale, (high - zero) * scale)

    def _affine(self, node: OnnxNode, name: str) -> Value:
        """A sum, difference or product with a constant."""
        value, op = self.values[name], node.op
        constant = self.compiler.constants[node.inputs[1 if name == node.inputs[0] else 0]]
        if op in ("Sub", "Div") and name != node.inputs[0]:
            raise UnsupportedGraphError(f"{called(node)}: the constant comes first")
        if isinstance(value, Held) and any(value.pads):
            raise UnsupportedGraphError(f"{called(node)}: after a Pad")
        rank = value.rank if isinstance(value, Pending) else len(value.view.axes)
        if isinstance(value, Pending):
            changed = self._pending_affine(value, op, constant)
            if changed is not None:
                return changed
            value = self._hold(value, last=True)
        numbers = self._per_channel(constant, rank).astype(np.float64)
        scale = np.ones(1) if value.scale is None else value.scale
        offset = np.zeros(1) if value.offset is None else value.offset
        if op in ("Mul", "Div"):
            times = numbers if op == "Mul" else 1 / numbers
            if value.offset is not None or (self.exact and not is_power_of_two(times)):
                raise UnsupportedGraphError(f"{called(node)}: no power of two, or after a sum")
            if times.size == 1 and value.scale is None and self.exact and times[0] > 0:
                return replace(value, exponents=value.exponents - int(np.log2(times[0])))
            return replace(value, scale=scale * times, offset=None)
        if value.offset is not None:
            raise UnsupportedGraphError(f"{called(node)}: a second sum with a constant")
        return replace(value, scale=scale, offset=offset + (numbers if op == "Add" else -numbers))

    def _pending_affine(self, value: Pending, op: str, constant: Array) -> Pending | None:
        """The constant taken into the sum, or None where it cannot be."""
        free = value.target is None and np.isinf(value.low) and np.isinf(value.high)
        if value.affine is not None and free:
            return value.affine(op, self._per_channel(constant, value.rank))
        if not self.exact or op not in ("Mul", "Div") or constant.size != 1:
            return None
        times = float(constant.item()) if op == "Mul" else 1 / float(constant.item())
        if times <= 0 or not is_power_of_two(np.array([times])):
            return None
        power = int(np.log2(times))
        return replace(
            value,
            exponents=value.exponents - power,
            low=value.low * times,
            high=value.high * times,
            target=None if value.target is None else value.target - power,
        )

    def _per_channel(self, constant: Array, rank: int) -> Array:
        """A constant as one value, or one per channel, of a tensor of that rank (no batch axis)."""
        if constant.size == 1:
            return constant.reshape(-1)
        shape = (1,) * (rank + 1 - constant.ndim) + constant.shape
        if len(shape) != rank + 1 or shape[1] != constant.size:
            raise UnsupportedGraphError(f"a constant of shape {constant.shape} meets a tensor")
        return constant.reshape(-1)

    def _product(self, node: OnnxNode) -> Pending:
        """Conv, Gemm or MatMul with constant weights."""
        x = self._layer(node.inputs[0], padded=node.op == "Conv")
        shape = x.view.shape
        weight: Array
        bias: Array
        if self.exact:
            weight, bias, exponents = self.compiler.integers(node, int(x.exponents[0]))
            totals = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).sum(axis=1)
            peaks = totals * x.peak + np.abs(bias)
            if not peaks.max(initial=0) < LIMIT:
                raise UnsupportedGraphError(
                    f"{called(node)}: a sum can reach {peaks.max():.0f}, not below 2^24"
                )
        else:
            weight, bias = self.compiler.reals(node)
            exponents, peaks = np.zeros(1, np.int64), np.full(1, np.inf)
        dims = weight.ndim - 2
        if len(shape) != dims + 1 or shape[0] != weight.shape[1]:
            raise UnsupportedGraphError(f"{called(node)}: weights {weight.shape} meet {shape}")
        given = node.attributes
        strides = [1] * (2 - dims) + list(given.get("strides", [1] * dims))
        dilations = [1] * (2 - dims) + list(given.get("dilations", [1] * dims))
        pads = list(given.get("pads", [0] * 2 * dims))
        pads = [0] * (2 - dims) + pads[:dims] + [0] * (2 - dims) + pads[dims:]
        pads = [a + x.pads[i] for a, i in zip(pads, (0, 2, 1, 3), strict=True)]
        kernel = (*([1] * (2 - dims)), *weight.shape[2:])
        size = (*([1] * (2 - dims)), *shape[1:])
        if min(*strides, *dilations) < 1 or min(pads) < 0:
            raise UnsupportedGraphError(f"{called(node)}: strides, dilations or pads")
        spatial = [
            (size[i] + pads[i] + pads[i + 2] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1
            for i in range(2)
        ]
        if min(spatial) < 1:
            raise UnsupportedGraphError(f"{called(node)}: nothing comes out of {shape}")
        block = ConvBlock(
            key=node.outputs[0],
            shape=(len(weight), spatial[0], spatial[1]),
            source=x.view,
            weight=weight.reshape(len(weight), weight.shape[1], *kernel),
            bias=bias,
            stride=(strides[0], strides[1]),
            dilation=(dilations[0], dilations[1]),
            pads=(pads[0], pads[2], pads[1], pads[3]),
        )

        def make(tail: Tail) -> Block:
            up = np.maximum(-tail.shift, 0)  # a coarser grid than the target's
            if np.any(up):
                column = up.reshape(-1, 1, 1, 1)
                more = np.ldexp(block.weight.astype(np.float64), column)
                if np.abs(more).max() > INT16_MAX or not np.ldexp(peaks, up).max() < 2**30:
                    raise UnsupportedGraphError(f"{called(node)}: weights of more than 16 bits")
                scaled = replace(block, weight=more.astype(np.int16), bias=bias << up)
                return replace(
                    scaled, shift=tail.shift + up, low=tail.low, high=tail.high, wide=tail.wide
                )
            return replace(
                block,
                shift=np.broadcast_to(tail.shift, (len(weight),)),
                low=tail.low,
                high=tail.high,
                wide=tail.wide,
            )

        def affine(op: str, constant: Array) -> Pending:
            other = _folded(weight, bias, op, constant)
            again = replace(block, weight=other[0].reshape(block.weight.shape), bias=other[1])
            return Pending(
                make=lambda tail: replace(again, low=tail.low, high=tail.high),
                shape=again.shape,
                rank=len(shape),
                exponents=exponents,
                peaks=peaks,
            )

        return Pending(
            make=make,
            shape=block.shape,
            rank=len(shape),
            exponents=exponents,
            peaks=peaks,
            affine=None if self.exact else affine,
        )

    def _sum(self, a: Held, b: Held | None) -> Pending:
        """Two tensors added, or one to be rounded again (as half of twice itself)."""
        other = a if b is None else b
        if a.view.shape != other.view.shape:
            raise UnsupportedGraphError(f"Add of {a.view.shape} and {other.view.shape}")
        shape, rank = block_shape(a.view.shape)
        common = int(max(a.exponents[0], other.exponents[0]))
        left = (common - int(a.exponents[0]), common - int(other.exponents[0]))
        peak = np.ldexp(a.peak, left[0]) + np.ldexp(other.peak, left[1])
        twice = 1 if b is None else 0
        if self.exact and (max(left) > 15 or not peak < LIMIT):
            raise UnsupportedGraphError(f"Add: a sum can reach {peak:.0f}, not below 2^24")

        def make(tail: Tail) -> Block:
            if np.any(tail.shift < -15) or tail.wide:
                raise UnsupportedGraphError("Add: its result does not fit 16 bits")
            more = max(0, -int(tail.shift.min()))
            return AddBlock(
                shape=shape,
                sources=(a.view, other.view),
                left=(left[0] + more, left[1] + more),
                shift=int(tail.shift.max()) + more,
                low=tail.low,
                high=tail.high,
            )

        return Pending(
            make=make,
            shape=shape,
            rank=rank,
            exponents=np.array([common + twice]),
            peaks=np.array([peak]),
        )

    def _concat(self, node: OnnxNode) -> Held:
        parts = [self._layer(name) for name in node.inputs]
        rank = len(parts[0].view.axes)
        axis = int(node.attributes["axis"])
        axis = (axis + rank + 1 if axis < 0 else axis) - 1  # without the batch's
        if axis != 0 and (axis, rank) != (1, 2):
            raise UnsupportedGraphError(f"{called(node)}: along an axis of rows")
        finest = int(max(p.exponents[0] for p in parts))
        even = [p if int(p.exponents[0]) == finest else self._finer(p, finest) for p in parts]
        whole = list(even[0].view.shape)
        for part in even[1:]:
            shape = list(part.view.shape)
            if shape[:axis] + shape[axis + 1 :] != whole[:axis] + whole[axis + 1 :]:
                raise UnsupportedGraphError(f"{called(node)}: parts of different lengths")
            whole[axis] += shape[axis]
        block, rank = block_shape(whole)
        view = whole_view(len(self.blocks), block, rank)
        sources = tuple(p.view for p in even)
        self.blocks.append(ConcatBlock(shape=block, sources=sources, axis=2 if axis else 0))
        return Held(view=view, exponents=np.array([finest]), peak=max(float(p.peak) for p in even))

    def _padded(self, node: OnnxNode) -> Held:
        """Zeros around a tensor, for the convolution that reads it."""
        held = self._layer(node.inputs[0], padded=True)
        rank = len(held.view.axes) + 1
        pads = self.compiler.constant(node, 1).reshape(-1).tolist()
        value = self.compiler.constant(node, 2) if len(node.inputs) > 2 and node.inputs[2] else 0
        mode = text(node.attributes.get("mode", "constant"))
        if mode != "constant" or np.any(value) or len(node.inputs) > 3 or len(pads) != 2 * rank:
            raise UnsupportedGraphError(f"{called(node)}: other than zeros around all axes")
        before, after = pads[:rank], pads[rank:]
        if any(before[:2]) or any(after[:2]) or min(pads) < 0 or rank < 3:
            raise UnsupportedGraphError(f"{called(node)}: of the batch or of channels, or a cut")
        top, bottom = (before[2], after[2]) if rank == 4 else (0, 0)
        a, b, c, d = held.pads
        return replace(held, pads=(a + top, b + bottom, c + before[rank - 1], d + after[rank - 1]))

    def _finer(self, held: Held, exponent: int) -> Held:
        return self._hold(replace(self._sum(held, None), target=exponent))


def _folded(weight: Array, bias: Array, op: str, constant: Array) -> tuple[Array, Array]:
    """Weights and bias with a factor or a summand of the output taken in, in float."""
    column = constant.astype(np.float64).reshape(-1, *([1] * (weight.ndim - 1)))
    if op == "Mul":
        return weight * column, bias * column.reshape(-1)
    if op == "Div":
        return weight / column, bias / column.reshape(-1)
    return weight, bias + (constant if op == "Add" else -constant).astype(np.float64)


def _grids(bias: Floats) -> Ints:
    return grid_exponents(bias.reshape(-1, 1))
