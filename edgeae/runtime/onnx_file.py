"""Read an ONNX file without the onnx package: its nodes, constants, inputs and outputs.

A device has no onnx package, yet counting a model's operations, laying out its memory and running
it on the native engine all need the graph. ONNX files are protobuf messages; this reads the dozen
fields that matter and skips the others.

References:
    The field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto and the
    wire format that of https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError

__all__ = ["DTYPES", "OnnxGraph", "OnnxNode", "OnnxValue", "read_onnx", "with_outputs"]

DTYPES: Mapping[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    12: np.dtype("<u4"),
    13: np.dtype("<u8"),
}
"""NumPy's name of each ONNX element type that a tensor may have here."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 8  # of graphs inside attributes

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class OnnxNode:
    """One operation.

    Attributes:
        op: its type, e.g. ``Conv``.
        domain: whose operation it is; empty for ONNX's own.
        name: may be empty.
        inputs: tensor names; an empty one is an input left out.
        outputs: tensor names.
        attributes: int, float, bytes, array, graph, or a list of one of the first three.
    """

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OnnxValue:
    """A graph's input or output.

    Attributes:
        name: of the tensor.
        dtype: element type; None where the file does not say.
        shape: a number or a symbol per axis, None where neither is given; None as a whole where
            the file does not say.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, kw_only=True)
class OnnxGraph:
    """A graph as the file has it.

    Attributes:
        name: of the graph.
        nodes: in the file's order, which is an order of execution.
        constants: the initializers by name.
        inputs: what must be fed; initializers are not among them.
        outputs: what comes out.
        opset: version of ONNX's own operators; 0 where the file does not say.
        metadata: free text of the model.
    """

    name: str
    nodes: tuple[OnnxNode, ...]
    constants: Mapping[str, Array]
    inputs: tuple[OnnxValue, ...]
    outputs: tuple[OnnxValue, ...]
    opset: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_onnx(data: bytes, *, name: str = "model.onnx") -> OnnxGraph:
    """Read the bytes of an ONNX file.

    Args:
        data: the file.
        name: what to call it in messages.

    Raises:
        ModelError: not an ONNX file, cut short, or its tensors lie in other files.

    Example:
        >>> read_onnx(b"not an ONNX file")
        Traceback (most recent call last):
            ...
        edgeae.errors.ModelError: model.onnx: not an ONNX file, or damaged: ...
    """
    try:
        return _model(memoryview(data))
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    except (ValueError, IndexError, struct.error, RecursionError, OverflowError) as error:
        raise ModelError(f"{name}: not an ONNX file, or damaged: {error}") from error


def with_outputs(data: bytes, names: tuple[str, ...]) -> bytes:
    """The same ONNX file with more of its tensors as outputs, after its own.

    A second ``graph`` field is merged into the first by every protobuf parser, so these bytes are
    simply appended.
    """
    graph = b"".join(_field(12, _field(1, name.encode())) for name in names)
    return data + _field(7, graph) if names else data


# -- messages --------------------------------------------------------------------------------------


def _model(data: memoryview) -> OnnxGraph:
    graphs, opset, metadata = [], 0, {}
    for number, value in _fields(data):
        if number == 7:
            graphs.append(_message(value))
        elif number == 8:
            parts = dict(_fields(_message(value)))
            if _text(parts.get(1, b"")) in ("", "ai.onnx"):
                opset = _integer(parts.get(2, 0))
        elif number == 14:
            parts = dict(_fields(_message(value)))
            metadata[_text(parts.get(1, b""))] = _text(parts.get(2, b""))
    if not graphs:
        raise ValueError("it holds no graph")
    return _graph(memoryview(b"".join(graphs)), opset, metadata, 0)


def _graph(data: memoryview, opset: int, metadata: Mapping[str, str], depth: int) -> OnnxGraph:
    if depth > _MAX_DEPTH:
        raise ValueError(f"graphs nested more than {_MAX_DEPTH} deep")
    name, nodes, inputs, outputs = "", [], [], []
    constants: dict[str, Array] = {}
    for number, value in _fields(data):
        if number == 1:
            nodes.append(_node(_message(value), depth))
        elif number == 2:
            name = _text(value)
        elif number == 5:
            key, array = _tensor(_message(value))
            constants[key] = array
        elif number == 11:
            inputs.append(_value(_message(value)))
        elif number == 12:
            outputs.append(_value(_message(value)))
    return OnnxGraph(
        name=name,
        nodes=tuple(nodes),
        constants=constants,
        inputs=tuple(value for value in inputs if value.name not in constants),
        outputs=tuple(outputs),
        opset=opset,
        metadata=metadata,
    )


def _node(data: memoryview, depth: int) -> OnnxNode:
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: [], 7: []}
    attributes = {}
    for number, value in _fields(data):
        if number in texts:
            texts[number].append(_text(value))
        elif number == 5:
            key, content = _attribute(_message(value), depth)
            attributes[key] = content
    return OnnxNode(
        op="".join(texts[4][-1:]),
        domain="".join(texts[7][-1:]),
        name="".join(texts[3][-1:]),
        inputs=tuple(texts[1]),
        outputs=tuple(texts[2]),
        attributes=attributes,
    )


def _attribute(data: memoryview, depth: int) -> tuple[str, Any]:
    name, kind, single = "", 0, None
    floats: list[float] = []
    integers: list[int] = []
    strings: list[bytes] = []
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 20:
            kind = _integer(value)
        elif number == 2:
            single = struct.unpack("<f", _message(value))[0]
        elif number == 3:
            single = _integer(value)
        elif number == 4:
            single = bytes(_message(value))
        elif number == 5:
            single = _tensor(_message(value))[1]
        elif number == 6:
            single = _graph(_message(value), 0, {}, depth + 1)
        elif number == 7:
            floats += _numbers(value, "f")
        elif number == 8:
            integers += _varints(value)
        elif number == 9:
            strings.append(bytes(_message(value)))
    lists: dict[int, list[Any]] = {6: floats, 7: integers, 8: strings}
    if kind in lists:
        return name, lists[kind]
    return name, single if single is not None else floats or integers or strings or None


def _tensor(data: memoryview) -> tuple[str, Array]:
    name, kind, raw, outside = "", 0, None, False
    dims: list[int] = []
    typed: dict[int, list[Any]] = {4: [], 5: [], 7: [], 10: [], 11: []}
    for number, value in _fields(data):
        if number == 1:
            dims += _varints(value)
        elif number == 2:
            kind = _integer(value)
        elif number == 4:
            typed[4] += _numbers(value, "f")
        elif number == 10:
            typed[10] += _numbers(value, "d")
        elif number in (5, 7, 11):
            typed[number] += _varints(value)
        elif number == 8:
            name = _text(value)
        elif number == 9:
            raw = _message(value)
        elif number == 14:
            outside = _integer(value) == 1
    if outside:
        raise ModelError(f"tensor {name!r} lies in another file: save the model as one file")
    if any(axis < 0 for axis in dims):
        raise ValueError(f"tensor {name!r} has shape {dims}")
    if kind not in DTYPES:
        return name, np.zeros(0, np.uint8)  # strings and the like: nothing here computes with them
    dtype = DTYPES[kind]
    if raw is not None:
        return name, np.frombuffer(raw, dtype).reshape(dims)
    values = next((found for found in typed.values() if found), [])
    if kind == 10:  # float16 comes as its bits
        return name, np.array(values, np.uint16).view(np.float16).reshape(dims)
    wide = np.array(values, np.uint64 if kind == 13 else None)
    return name, wide.astype(dtype).reshape(dims)


def _value(data: memoryview) -> OnnxValue:
    name, dtype, shape = "", None, None
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            kind = dict(_fields(_message(value))).get(1)
            for part, content in _fields(_message(kind)) if kind is not None else ():
                if part == 1:
                    dtype = DTYPES.get(_integer(content))
                elif part == 2:
                    dims = _fields(_message(content))
                    shape = tuple(_axis(_message(axis)) for k, axis in dims if k == 1)
    return OnnxValue(name=name, dtype=dtype, shape=shape)


def _axis(data: memoryview) -> int | str | None:
    for number, value in _fields(data):
        if number == 1:
            return _integer(value)
        if number == 2:
            return _text(value)
    return None


# -- the wire --------------------------------------------------------------------------------------


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: an int, or the bytes of what has a length."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"a field has wire type {wire}")
        if number == 0 or at + size > len(data):
            raise ValueError("it ends inside a field")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value & ((1 << 64) - 1), at
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _integer(value: int | memoryview | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("a number was expected where bytes are")
    return _signed(value)


def _message(value: int | memoryview | bytes) -> memoryview:
    if isinstance(value, int):
        raise ValueError("bytes were expected where a number is")
    return memoryview(value)


def _text(value: int | memoryview | bytes) -> str:
    return bytes(_message(value)).decode("utf-8")


def _varints(value: int | memoryview) -> list[int]:
    """One number, or several packed into one field."""
    if isinstance(value, int):
        return [_signed(value)]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(_signed(number))
    return found


def _numbers(value: int | memoryview, kind: str) -> list[float]:
    data = _message(value)
    return list(struct.unpack(f"<{len(data) // struct.calcsize(kind)}{kind}", data))


def _field(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | _BYTES]) + length + bytes([size]) + content
