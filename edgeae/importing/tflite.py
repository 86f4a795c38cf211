"""Read a .tflite file without TensorFlow: its tensors, operators and constants.

The file is one FlatBuffer: tables that point at a list of field offsets (the vtable) and at other
tables. This reads the dozen fields that a comparison needs; every offset is checked.

References:
    https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
    for the order of the fields, https://flatbuffers.dev/internals for the encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError

__all__ = ["OPERATORS", "TfliteGraph", "TfliteOperator", "TfliteTensor", "read_tflite"]

OPERATORS: Mapping[int, str] = {
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    6: "DEQUANTIZE",
    9: "FULLY_CONNECTED",
    14: "LOGISTIC",
    19: "RELU",
    22: "RESHAPE",
    25: "SOFTMAX",
    28: "TANH",
    114: "QUANTIZE",
}
"""Names of the operators a message may have to tell; others go by their number."""

ACTIVATIONS: Mapping[int, str] = {0: "linear", 1: "relu", 4: "tanh"}
_DTYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 7: "<i2", 9: "i1"}
_IDENTIFIER = b"TFL3"

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class TfliteTensor:
    """One tensor.

    Attributes:
        name: as the file has it.
        shape: its axes.
        dtype: of its elements; None for one this reader does not know.
        value: its elements where the file holds them, else None.
        scale: float64, real value of a step, empty if not quantized; several for one per channel.
        zero_point: int64, likewise.
        axis: the axis of several scales.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    value: Array | None
    scale: npt.NDArray[np.float64]
    zero_point: npt.NDArray[np.int64]
    axis: int

    @property
    def quantized(self) -> bool:
        """Whether its elements are integers that stand for real values."""
        return self.scale.size > 0

    def real(self, value: Array) -> npt.NDArray[np.float64]:
        """Real values of elements of this tensor."""
        wide = value.astype(np.float64)
        if not self.quantized:
            return wide
        zero = self.zero_point if self.zero_point.size else np.zeros(1, np.int64)
        shape = [1] * wide.ndim
        if self.scale.size > 1:
            shape[self.axis] = self.scale.size
        zeros = zero.reshape(shape) if zero.size == self.scale.size else zero[0]
        found: npt.NDArray[np.float64] = (wide - zeros) * self.scale.reshape(shape)
        return found


@dataclass(frozen=True, kw_only=True)
class TfliteOperator:
    """One operation: its name, the numbers of its tensors (-1: left out), its fused activation."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    activation: str


@dataclass(frozen=True, kw_only=True)
class TfliteGraph:
    """The first graph of a file."""

    tensors: tuple[TfliteTensor, ...]
    operators: tuple[TfliteOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_tflite(data: bytes, *, name: str = "model.tflite") -> TfliteGraph:
    """Read the bytes of a .tflite file.

    Raises:
        ModelError: not a .tflite file, or cut short.

    Example:
        >>> read_tflite(b"not a model")
        Traceback (most recent call last):
            ...
        edgeae.errors.ModelError: model.tflite: not a .tflite file (it lacks the mark TFL3)
    """
    if data[4:8] != _IDENTIFIER:
        raise ModelError(f"{name}: not a .tflite file (it lacks the mark TFL3)")
    try:
        return _graph(_Table(data, _unsigned(data, 0)))
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise ModelError(f"{name}: a damaged .tflite file: {error}") from error


def _graph(model: _Table) -> TfliteGraph:
    codes = [max(code.integer(0, "b"), code.integer(3, "i")) for code in model.tables(1)]
    buffers = model.tables(4)
    graph = model.tables(2)[0]
    tensors = tuple(_tensor(table, buffers) for table in graph.tables(0))
    operators = tuple(_operator(table, codes) for table in graph.tables(3))
    found = TfliteGraph(
        tensors=tensors,
        operators=operators,
        inputs=_numbers(graph, 1),
        outputs=_numbers(graph, 2),
    )
    used = [found.inputs, found.outputs, *(op.inputs + op.outputs for op in operators)]
    if any(not -1 <= number < len(tensors) for numbers in used for number in numbers):
        raise ValueError("an operator names a tensor that is not there")
    return found


def _tensor(table: _Table, buffers: list[_Table]) -> TfliteTensor:
    shape = _numbers(table, 0)
    kind = _DTYPES.get(table.integer(1, "b"))
    dtype = None if kind is None else np.dtype(kind)
    content = buffers[table.integer(2, "I")].vector(0, "u1")
    value = None
    if content.size and dtype is not None:
        value = np.frombuffer(content.tobytes(), dtype).reshape(shape)
    scale, zero, axis = np.zeros(0), np.zeros(0, np.int64), 0
    quantization = table.table(4)
    if quantization is not None:
        scale = quantization.vector(2, "<f4").astype(np.float64)
        zero = quantization.vector(3, "<i8").astype(np.int64)
        axis = quantization.integer(6, "i")
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError("a scale that is not positive")
        if scale.size > 1 and not (0 <= axis < len(shape) and shape[axis] == scale.size):
            raise ValueError(f"{scale.size} scales for a tensor of shape {list(shape)}")
    return TfliteTensor(
        name=table.text(3),
        shape=shape,
        dtype=dtype,
        value=value,
        scale=scale,
        zero_point=zero,
        axis=axis,
    )


def _operator(table: _Table, codes: list[int]) -> TfliteOperator:
    code = codes[table.integer(0, "I")]
    op = OPERATORS.get(code, f"operator {code}")
    activation = "linear"
    options = table.table(4)
    if op == "FULLY_CONNECTED" and options is not None:
        number = options.integer(0, "b")
        activation = ACTIVATIONS.get(number, f"activation {number}")
    return TfliteOperator(
        op=op, inputs=_numbers(table, 1), outputs=_numbers(table, 2), activation=activation
    )


def _numbers(table: _Table, field: int) -> tuple[int, ...]:
    return tuple(int(v) for v in table.vector(field, "<i4"))


def _unsigned(data: bytes, at: int) -> int:
    if at < 0:
        raise ValueError("an offset points before the file")
    return int(struct.unpack_from("<I", data, at)[0])


class _Table:
    """A table at a place in the file; a field that is absent reads as 0, empty or None."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        if at < 0:
            raise ValueError("an offset points before the file")
        self._fields = at - int(struct.unpack_from("<i", data, at)[0])
        if self._fields < 0:
            raise ValueError("an offset points before the file")
        self._size = int(struct.unpack_from("<H", data, self._fields)[0])

    def _place(self, field: int) -> int | None:
        if 4 + 2 * field >= self._size:
            return None
        offset = int(struct.unpack_from("<H", self._data, self._fields + 4 + 2 * field)[0])
        return self._at + offset if offset else None

    def _target(self, field: int) -> int | None:
        place = self._place(field)
        return None if place is None else place + _unsigned(self._data, place)

    def integer(self, field: int, kind: str) -> int:
        """A scalar."""
        place = self._place(field)
        return 0 if place is None else int(struct.unpack_from(f"<{kind}", self._data, place)[0])

    def table(self, field: int) -> _Table | None:
        """A table."""
        target = self._target(field)
        return None if target is None else _Table(self._data, target)

    def vector(self, field: int, dtype: str) -> Array:
        """A vector of scalars."""
        target = self._target(field)
        if target is None:
            return np.zeros(0, dtype)
        count, kind = _unsigned(self._data, target), np.dtype(dtype)
        if target + 4 + count * kind.itemsize > len(self._data):
            raise ValueError("a vector reaches past the end of the file")
        return np.frombuffer(self._data, kind, count, target + 4)

    def tables(self, field: int) -> list[_Table]:
        """A vector of tables."""
        target = self._target(field)
        offsets = self.vector(field, "<u4")
        return [
            _Table(self._data, (target or 0) + 4 + 4 * number + int(offset))
            for number, offset in enumerate(offsets)
        ]

    def text(self, field: int) -> str:
        """A string."""
        return bytes(self.vector(field, "u1")).decode("utf-8", "replace")
