"""Lay a compiled net out in memory and write it as the words that ``native/net.c`` runs.

Activations lie channel last with a border of zeros where a convolution wants one. Where the next
layer reads a block through a view (a pixel shuffle, say), the block's layer writes its numbers in
that view's order if it can, and a copy is made only if it cannot. A layer with few outputs works on
several neighbouring positions at once, as if they were channels of one: vectors have 16 lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
from edgeae.runtime.net_words import (
    Constants,
    ConvWords,
    Words,
    pack_float,
    pack_integers,
)
from edgeae.runtime.placement import (
    Buffer,
    best_merge,
    lanes_of,
    placement,
    plain_strides,
    rank_of,
    three_axes,
)
from edgeae.runtime.views import Factor, UnsupportedGraphError, View, whole_view

__all__ = ["ROWS", "NetLayout", "has_positions", "lay_out"]

ROWS = 64
"""Samples that a net without positions, of matrix products alone, works on at once."""
_ALIGN = 64

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class NetLayout:
    """What the C engine is given.

    Attributes:
        words: int32, the program.
        constants: uint8, aligned to 64 bytes.
        arena_bytes: memory that a run works in.
        held: per held input, where in the arena its numbers lie from run to run, in bytes.
    """

    words: npt.NDArray[np.int32]
    constants: npt.NDArray[np.uint8]
    arena_bytes: int
    held: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """A view resolved to memory: the place of its first number, and the stride of each loop."""

    start: int
    loops: tuple[tuple[tuple[int, int], ...], ...]

    def simple(self) -> tuple[list[int], list[int]] | None:
        """Length and stride per axis, or None where an axis has more than one loop."""
        if any(len(axis) > 1 for axis in self.loops):
            return None
        pairs = [axis[0] if axis else (1, 0) for axis in self.loops]
        return [n for n, _ in pairs], [s for _, s in pairs]


def lay_out(
    program: NetProgram, *, rows: int = 1, cache: dict[Any, Any] | None = None, held: int = 0
) -> NetLayout:
    """Words, constants and arena of a program.

    Args:
        program: the compiled net.
        rows: samples per run, for nets without positions; else 1.
        cache: packed weights, shared by the layouts of one net.
        held: how many of the last inputs stay in the arena from run to run, each [W, C], and become
            what the same number of last outputs give: the state of a stream. They lie at the
            arena's start, in the same places whatever the other inputs' shapes.

    Raises:
        UnsupportedGraphError: the net is too large for the engine.
    """
    return _Layout(program, rows, {} if cache is None else cache, held).result()


def has_positions(program: NetProgram) -> bool:
    """Whether samples have more than channels, so that they run one at a time."""
    ranks = [len(shape) for shape in (*program.input_shapes, *program.output_shapes)]
    return (
        len(ranks) > 2
        or max(ranks) > 2
        or any(b.shape[1:] != (1, 1) or isinstance(b, ConcatBlock) for b in program.blocks)
    )


@dataclass(kw_only=True)
class _Step:
    """One step of the program, its words made once the buffers are placed."""

    make: Any
    reads: list[Buffer] = field(default_factory=list)
    writes: Buffer | None = None


class _Layout:
    """One layout being made."""

    def __init__(
        self, program: NetProgram, rows: int, cache: dict[Any, Any], held: int = 0
    ) -> None:
        self.program, self.cache = program, cache
        self.n_fed = len(program.input_shapes) - held
        self.n_given = len(program.outputs) - held
        self.held: list[Buffer] = []
        self.in_rows = not has_positions(program)
        self.n_rows = rows if self.in_rows else 1
        self.item = 4 if program.is_float else 2
        self.constants = Constants()
        self.steps: list[_Step] = []
        self.buffers: list[Buffer] = []
        self.readers: list[list[tuple[View, tuple[int, int, int, int], str]]] = [
            [] for _ in program.blocks
        ]
        for block in program.blocks:
            if isinstance(block, ConvBlock):
                kind = "all" if _is_whole_product(block) else "conv"
                self.readers[block.source.block].append((block.source, block.pads, kind))
            elif isinstance(block, AddBlock | ConcatBlock):
                for view in block.sources:
                    self.readers[view.block].append((view, (0, 0, 0, 0), "any"))
        for output in program.outputs:
            self.readers[output.view.block].append((output.view, (0, 0, 0, 0), "any"))

    def result(self) -> NetLayout:
        for number, block in enumerate(self.program.blocks):
            buffer = self._buffer(number, block)
            self.buffers.append(buffer)
            if isinstance(block, InputBlock) and self._is_held(block):
                self.held.append(buffer)
            elif isinstance(block, InputBlock):
                self._input(block, buffer)
            elif isinstance(block, ConvBlock):
                self._conv(block, buffer)
            elif isinstance(block, AddBlock):
                self._add(block, buffer)
            else:
                self._concat(block, buffer)
            self._border(buffer)
        place = 0
        for output in self.program.outputs[: self.n_given]:
            self._output(output, place)
            place += prod(output.view.shape)
        for output, buffer in zip(self.program.outputs[self.n_given :], self.held, strict=True):
            self._hold(output, buffer)
        arena = self._place()
        if arena > np.iinfo(np.int32).max - _ALIGN:
            raise UnsupportedGraphError(f"its activations take {arena} bytes")
        words = Words(
            is_float=self.program.is_float,
            arena_bytes=arena,
            n_in=sum(map(prod, self.program.input_shapes[: self.n_fed])),
            n_out=place,
            rows=self.n_rows if self.in_rows else 0,
        )
        for step in self.steps:
            words.add(step.make())
        return NetLayout(
            words=words.array(),
            constants=self.constants.array(),
            arena_bytes=arena,
            held=tuple(buffer.offset for buffer in self.held),
        )

    # -- held inputs -------------------------------------------------------------------------------

    def _is_held(self, block: InputBlock) -> bool:
        return block.place >= sum(map(prod, self.program.input_shapes[: self.n_fed]))

    def _hold(self, output: OutputSpec, buffer: Buffer) -> None:
        """The next run's input is this run's output: a copy within the arena."""
        source = self.buffers[output.view.block]
        natural = whole_view(buffer.view.block, buffer.shape, len(buffer.view.axes))
        if (
            output.wide
            or np.any(output.scale != 1)
            or np.any(output.offset)
            or buffer.view != natural
            or any(buffer.pads)
        ):
            raise UnsupportedGraphError("a state that is not held as it is computed")
        strides = plain_strides(buffer, len(output.view.shape))
        self._copy(self._split_reading(output.view), strides, source, buffer, buffer.base)
        self.steps[-1].writes = buffer

    # -- buffers -----------------------------------------------------------------------------------

    def _buffer(self, number: int, block: Block) -> Buffer:
        """Where a block's numbers go: in its first reader's order where that can be written."""
        wide = isinstance(block, ConvBlock) and block.wide
        item = 4 if wide else self.item
        natural = whole_view(number, block.shape, rank_of(block.shape))
        readers = self.readers[number]
        wanted = next((view for view, _, kind in readers if kind != "all"), natural)
        free = not self.in_rows and isinstance(block, InputBlock | ConvBlock)
        found = placement(wanted, block.shape, item) if free else None
        if found is None:
            found = placement(natural, block.shape, item)
        if found is None:
            raise UnsupportedGraphError(f"a block of shape {block.shape}")
        pads = [0, 0, 0, 0]
        for view, needed, kind in readers:
            if kind == "conv" and view == found.view:
                pads = [max(a, b) for a, b in zip(pads, needed, strict=True)]
        found.pads = (pads[0], pads[1], pads[2], pads[3])
        found.n_rows = self.n_rows
        return found

    def _step(self, make: Any, reads: Sequence[Buffer], writes: Buffer | None) -> None:
        number = len(self.steps)
        for buffer in reads:
            buffer.last = number
        if writes is not None:
            writes.last = number
            if not any(step.writes is writes for step in self.steps):
                writes.first = number
        self.steps.append(_Step(make=make, reads=list(reads), writes=writes))

    def _border(self, buffer: Buffer) -> None:
        """Zeros around a block, after whatever else was written there."""
        top, bottom, left, right = buffer.pads
        row, width = buffer.row, buffer.grid[0]
        height = buffer.grid[1]
        strips = [
            (0, 1, 0, top * row),
            ((top + height) * row, 1, 0, bottom * row),
            (top * row, height, row, left * width),
            (top * row + (left + buffer.grid[2]) * width, height, row, right * width),
        ]
        for start, count, stride, length in strips:
            if length:
                self._step(
                    lambda b=buffer, s=start, n=count, d=stride, m=length: [4, b.at + s, n, d, m],
                    [],
                    buffer,
                )

    def _place(self) -> int:
        """Offsets by first fit, largest first, from the steps' lifetimes."""
        placed: list[Buffer] = []
        at = 0
        for buffer in self.held:
            buffer.offset, buffer.first, buffer.last = at, 0, len(self.steps)
            at += _aligned(buffer.size)
            placed.append(buffer)
        known = {id(b): b for step in self.steps for b in (*step.reads, step.writes) if b}
        free = [b for b in known.values() if not any(b is held for held in self.held)]
        for buffer in sorted(free, key=lambda b: -b.size):
            others = [p for p in placed if p.first <= buffer.last and buffer.first <= p.last]
            at = 0
            for other in sorted(others, key=lambda p: p.offset):
                if at + buffer.size <= other.offset:
                    break
                at = max(at, _aligned(other.offset + other.size))
            buffer.offset = at
            placed.append(buffer)
        return max((_aligned(b.offset + b.size) for b in placed), default=_ALIGN)

    # -- reading -----------------------------------------------------------------------------------

    def _reading(self, view: View) -> _Reading | None:
        """Where a view's numbers lie, or None where its loops have no constant stride."""
        buffer = self.buffers[view.block]
        places, (high, wide) = buffer.places(), buffer.strides()
        c, h, w = view.start
        loops = []
        for axis in view.axes:
            own: list[tuple[int, int]] = []
            for f in axis:
                if f.axis == 1:
                    stride = f.step * high
                elif f.axis == 2:
                    stride = f.step * wide
                else:
                    found = _linear(places, view, f)
                    if found is None:
                        return None
                    stride = found
                if own and own[-1][1] == stride * f.size:  # the two make one loop in memory
                    own[-1] = (own[-1][0] * f.size, stride)
                else:
                    own.append((f.size, stride))
            loops.append(tuple(own))
        return _Reading(start=int(places[c]) + h * high + w * wide, loops=tuple(loops))

    def _canonical(self, view: View) -> tuple[Buffer, _Reading]:
        """A copy of a view in its own plain order."""
        source = self.buffers[view.block]
        shape = three_axes(view.shape)
        target = placement(whole_view(-1, shape, rank_of(shape)), shape, source.item)
        reading = self._split_reading(view)
        if target is None:
            raise UnsupportedGraphError(f"a view of shape {view.shape}")
        target.n_rows = self.n_rows
        self._copy(reading, plain_strides(target, len(view.shape)), source, target, target.base)
        number = len(self.buffers)
        self.buffers.append(target)  # numbered after the blocks' own until the next block is made
        moved = self._reading(replace(whole_view(number, shape, len(view.shape)), block=number))
        self.buffers.pop()
        if moved is None:
            raise UnsupportedGraphError(f"a view of shape {view.shape}")
        return target, moved

    def _split_reading(self, view: View) -> _Reading:
        """Like ``_reading``, but splitting loops over channels until each has a stride."""
        reading = self._reading(view)
        if reading is not None:
            return reading
        raise UnsupportedGraphError(f"a view of shape {view.shape} onto scattered channels")

    def _copy(
        self,
        reading: _Reading,
        strides: Sequence[int],
        source: Buffer,
        target: Buffer,
        start: int,
    ) -> None:
        """A copy step: each axis of the reading goes along one stride of the target."""
        loops: list[tuple[int, int, int]] = []
        for axis, stride in zip(reading.loops, strides, strict=True):
            inner = stride
            own = []
            for size, step in reversed(axis):
                own.append((size, step, inner))
                inner *= size
            loops += reversed(own)
        loops = _joined(sorted(loops, key=lambda loop: -loop[2]))
        rows = [(self.n_rows, source.sample, target.sample)] if self.in_rows else []
        loops = rows + [(1, 0, 0)] * (6 - len(rows) - len(loops)) + loops
        if len(loops) > 6:
            raise UnsupportedGraphError("a copy of more than six loops")

        def make() -> list[int]:
            n, s, d = zip(*loops, strict=True)
            return [3, source.at + reading.start, target.at + start, *n, *s, *d]

        self._step(make, [source], target)

    # -- steps -------------------------------------------------------------------------------------

    def _input(self, block: InputBlock, buffer: Buffer) -> None:
        c, h, w = block.shape
        places = buffer.places()
        stride = _even_stride(places)
        high, wide = buffer.strides()
        if stride is None:
            raise UnsupportedGraphError("an input whose channels are scattered")
        sub, mul = np.broadcast_arrays(block.sub, block.mul)
        affine = self.constants.put(np.concatenate([sub, mul]).astype(np.float32))
        per_channel = int(sub.size > 1)
        n, s, d = [c, h, w], [h * w, w, 1], [stride, high, wide]
        if self.in_rows:
            n[1], s[1], d[1] = self.n_rows, c, buffer.sample
        low, high_end = max(block.low, -(2.0**15)), min(block.high, 2.0**15 - 1)
        if self.program.is_float:
            low, high_end = block.low, block.high
        ends = [_bits(low), _bits(high_end)]

        def make() -> list[int]:
            to = buffer.at + int(places[0])
            return [1, block.place, to, *n, *s, *d, affine, per_channel, int(block.strict), *ends]

        self._step(make, [], buffer)

    def _output(self, spec: OutputSpec, to: int) -> None:
        buffer = self.buffers[spec.view.block]
        reading = self._reading(spec.view)
        simple = None if reading is None else reading.simple()
        if simple is None or reading is None:
            buffer, reading = self._canonical(spec.view)
            simple = reading.simple()
        if simple is None:
            raise UnsupportedGraphError("an output that is scattered")
        shape = spec.view.shape
        lengths, strides = simple
        n, s, d = [1, 1, 1], [0, 0, 0], [0, 0, 0]
        for axis, place in enumerate({1: (0,), 2: (0, 2), 3: (0, 1, 2)}[len(shape)]):
            n[place], s[place], d[place] = lengths[axis], strides[axis], prod(shape[axis + 1 :])
        if self.in_rows:
            n[1], s[1], d[1] = self.n_rows, buffer.sample, prod(shape)
        affine = self.constants.put(np.concatenate([spec.scale, spec.offset]).astype(np.float32))
        tail = [affine, int(spec.scale.size > 1), int(spec.wide)]
        start = reading.start
        self._step(lambda: [2, buffer.at + start, to, *n, *s, *d, *tail], [buffer], None)

    def _add(self, block: AddBlock, buffer: Buffer) -> None:
        sources, readings = [], []
        for view in block.sources:
            reading, source = self._reading(view), self.buffers[view.block]
            if reading is None or reading.simple() is None:
                source, reading = self._canonical(view)
            sources.append(source)
            readings.append(reading)
        target = plain_strides(buffer, len(block.sources[0].shape))
        loops = []
        for lengths, a, b, d in zip(
            (readings[0].simple() or ([], []))[0],
            (readings[0].simple() or ([], []))[1],
            (readings[1].simple() or ([], []))[1],
            target,
            strict=True,
        ):
            loops.append((lengths, a, b, d))
        loops = loops[1:] + loops[:1]  # channels innermost
        loops = [(1, 0, 0, 0)] * (3 - len(loops)) + loops
        if self.in_rows:
            loops[0] = (self.n_rows, sources[0].sample, sources[1].sample, buffer.sample)
        n, a_strides, b_strides, d_strides = zip(*loops, strict=True)
        first, second = readings[0].start, readings[1].start
        ends = self._ends(block.low, block.high)

        def make() -> list[int]:
            return [
                6,
                sources[0].at + first,
                sources[1].at + second,
                buffer.at + buffer.base,
                *n,
                *a_strides,
                *b_strides,
                *d_strides,
                *block.left,
                block.shift,
                *ends,
            ]

        self._step(make, sources, buffer)

    def _concat(self, block: ConcatBlock, buffer: Buffer) -> None:
        at = buffer.base
        for view in block.sources:
            strides = plain_strides(buffer, len(view.shape))
            reading = self._split_reading(view)
            self._copy(reading, strides, self.buffers[view.block], buffer, at)
            at += view.shape[1] * strides[1] if block.axis else view.shape[0]

    def _ends(self, low: float, high: float) -> list[int]:
        if self.program.is_float:
            return [_bits(low), _bits(high)]
        return [int(low), int(high)]

    def _conv(self, block: ConvBlock, buffer: Buffer) -> None:
        source, start, row, column = self._window(block)
        weight = block.weight
        n_out, n_in, kh, kw = weight.shape
        if _is_whole_product(block) and column == -1:
            order = np.argsort(self._places_of(block.source), kind="stable")
            weight = weight.reshape(n_out, -1)[:, order].reshape(n_out, -1, 1, 1)
            n_in, row, column = weight.shape[1], 0, 0
        contiguous = (column == n_in and block.dilation[1] == 1) or kw == 1
        runs = weight.transpose(0, 2, 3, 1)  # [O, kh, kw, I]
        if contiguous:
            offsets = [i * block.dilation[0] * row for i in range(kh)]
            runs = runs.reshape(n_out, kh, kw * n_in)
        else:
            offsets = [
                i * block.dilation[0] * row + j * block.dilation[1] * column
                for i in range(kh)
                for j in range(kw)
            ]
            runs = runs.reshape(n_out, kh * kw, n_in)
        stride = block.stride[1] * column
        merge = 1  # in a float net, idle lanes would multiply what is not set, maybe NaN, by zero
        exact = not self.program.is_float
        if exact and contiguous and block.shape[2] > 1 and not self.in_rows and stride > 0:
            merge = best_merge(buffer, runs.shape[2], stride, block.shape[2])
        steps = -(-block.shape[2] // merge)
        if merge > 1:
            idle = (steps * merge - block.shape[2]) * buffer.column_step
            buffer.right = max(buffer.right, -(-idle // buffer.grid[0]))
        lanes = lanes_of(buffer, merge)
        key = (block.key, merge, runs.shape, tuple(lanes.channel.tolist()), weight is block.weight)
        packed = self.cache.get(key)
        if packed is None:
            pack = pack_float if self.program.is_float else pack_integers
            packed = pack(runs, block.bias, block.shift, lanes.channel, lanes.position * stride)
            self.cache[key] = packed
        high, wide = buffer.strides()
        # the last window may reach past what is there: such numbers meet weights or outputs of none
        reach = start + (block.shape[1] - 1) * block.stride[0] * row + offsets[-1] + packed.reach
        reach += (steps - 1) * stride * merge
        if self.in_rows:
            reach = start + packed.reach + (self.n_rows - 1) * source.sample
        over = reach - source.sample * source.n_rows
        source.extra = max(source.extra, over, 0)
        words = ConvWords(
            n_h=1 if self.in_rows else block.shape[1],
            n_w=self.n_rows if self.in_rows else steps,
            src_h=block.stride[0] * row,
            src_w=source.sample if self.in_rows else stride * merge,
            dst_h=high,
            dst_w=buffer.sample if self.in_rows else wide * merge,
            segments=offsets,
            packed=packed,
            low=self._ends(block.low, block.high)[0],
            high=self._ends(block.low, block.high)[1],
            wide=block.wide,
        )

        def make() -> list[int]:
            blocks = lanes.table(buffer)
            return words.words(self.constants, source.at + start, buffer.at, blocks)

        self._step(make, [source], buffer)

    def _window(self, block: ConvBlock) -> tuple[Buffer, int, int, int]:
        """Buffer, first number of the first window, and strides of rows and columns.

        A column stride of -1 says that the whole sample is one run of numbers in some order.
        """
        view = block.source
        source = self.buffers[view.block]
        if _is_whole_product(block) and not self.in_rows:
            places = self._places_of(view)
            if int(places.max()) - int(places.min()) + 1 == places.size:
                return source, int(places.min()), 0, -1
        reading = self._reading(view)
        padded = any(block.pads)
        direct = reading is not None and reading.simple() is not None
        if reading is not None and direct and padded:
            direct = view == source.view
        if reading is not None and direct:
            lengths, strides = reading.simple() or ([], [])
            direct = lengths[0] == 1 or strides[0] == 1
        if reading is None or not direct:
            if padded:
                source, reading = self._padded_copy(view, block.pads)
            else:
                source, reading = self._canonical(view)
        _, strides = reading.simple() or ([], [])
        row = strides[1] if len(strides) == 3 else 0
        column = strides[-1] if len(strides) > 1 else 0
        if padded:  # also where an axis has length 1, and so no stride of its own
            row, column = source.row, source.grid[0]
        top, _, left, _ = block.pads
        return source, reading.start - top * row - left * column, row, column

    def _padded_copy(self, view: View, pads: tuple[int, int, int, int]) -> tuple[Buffer, _Reading]:
        """A copy of a view with its own border of zeros."""
        source = self.buffers[view.block]
        shape = three_axes(view.shape)
        number = len(self.buffers)
        target = placement(whole_view(number, shape, len(view.shape)), shape, source.item)
        if target is None:
            raise UnsupportedGraphError(f"a view of shape {view.shape}")
        target.pads = pads
        reading = self._split_reading(view)
        self._copy(reading, plain_strides(target, len(view.shape)), source, target, target.base)
        self._border(target)
        self.buffers.append(target)
        found = self._reading(target.view)
        self.buffers.pop()
        if found is None:
            raise UnsupportedGraphError(f"a view of shape {view.shape}")
        return target, found

    def _places_of(self, view: View) -> npt.NDArray[np.int64]:
        """Place of every number of a view of one axis, in its order."""
        buffer = self.buffers[view.block]
        coordinates = [np.full(1, start, np.int64) for start in view.start]
        for f in (f for axis in view.axes for f in axis):
            steps = np.arange(f.size, dtype=np.int64) * f.step
            for axis in range(3):
                more = steps if axis == f.axis else np.zeros(f.size, np.int64)
                coordinates[axis] = (coordinates[axis][:, None] + more).reshape(-1)
        high, wide = buffer.strides()
        found: npt.NDArray[np.int64] = (
            buffer.places()[coordinates[0]] + coordinates[1] * high + coordinates[2] * wide
        )
        return found


def _linear(places: npt.NDArray[np.int64], view: View, factor: Factor) -> int | None:
    """The stride of a loop over channels, if it is the same wherever the other loops stand."""
    if factor.step == 0:
        return 0
    first = np.full(1, view.start[0], np.int64)
    for f in (f for axis in view.axes for f in axis):
        if f.axis == 0 and f != factor and f.step:
            first = (first[:, None] + np.arange(f.size) * f.step).reshape(-1)
    along = places[first[:, None] + np.arange(factor.size) * factor.step]
    steps = np.diff(along, axis=1)
    return int(steps[0, 0]) if np.all(steps == steps[0, 0]) else None


def _even_stride(places: npt.NDArray[np.int64]) -> int | None:
    steps = np.diff(places)
    if steps.size == 0:
        return 1
    return int(steps[0]) if steps[0] >= 0 and np.all(steps == steps[0]) else None


def _is_whole_product(block: ConvBlock) -> bool:
    """Whether a layer reads its source once, as one vector."""
    return len(block.source.shape) == 1


def _joined(loops: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Loops (length, strides) without those of length 1, neighbours that make one run joined."""
    found: list[tuple[int, int, int]] = []
    for n, s, d in loops:
        if n == 1:
            continue
        if found and found[-1][1:] == (n * s, n * d):
            found[-1] = (found[-1][0] * n, s, d)
        else:
            found.append((n, s, d))
    return found or [(1, 1, 1)]


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _bits(value: float) -> int:
    """A float32's bits as an int32."""
    return int(np.array(value, np.float32).view(np.int32))
