"""Nodes that move numbers and change none, as views."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy.typing as npt

from edgeae.runtime.net_values import called, text
from edgeae.runtime.onnx_file import OnnxNode
from edgeae.runtime.views import UnsupportedGraphError, View

__all__ = ["MOVES", "moved"]

Constant = Callable[[OnnxNode, int], npt.NDArray[Any]]

MOVES = frozenset(
    (
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "DepthToSpace",
        "SpaceToDepth",
        "Slice",
        "Resize",
    )
)


def moved(node: OnnxNode, view: View, constant: Constant, *, free_batch: bool) -> View:
    """What a node of ``MOVES`` makes of a view; the batch axis stays in front.

    Args:
        node: the node.
        view: of its first input.
        constant: gives the constant at a position of the node's inputs.
        free_batch: whether samples come in batches of any size.

    Raises:
        UnsupportedGraphError: it moves the batch axis, or does what views cannot.
    """
    op, given = node.op, node.attributes
    if op == "Reshape":
        return view.reshape(_target(node, view, constant, free_batch))
    if op == "Flatten":
        if given.get("axis", 1) != 1:
            raise UnsupportedGraphError(f"{called(node)}: axis {given['axis']}")
        return view.reshape([prod(view.shape)])
    if op in ("Squeeze", "Unsqueeze"):
        return _squeezed(node, view, constant)
    if op == "Transpose":
        order = given["perm"]
        if order[0] != 0:
            raise UnsupportedGraphError(f"{called(node)}: moves the batch axis")
        return view.transpose([i - 1 for i in order[1:]])
    if op == "DepthToSpace":
        first = text(given.get("mode", "DCR")) == "CRD"
        return view.depth_to_space(int(given["blocksize"]), columns_first=first)
    if op == "SpaceToDepth":
        return view.space_to_depth(int(given["blocksize"]))
    if op == "Slice":
        return _sliced(node, view, constant)
    return _resized(node, view, constant)


def _target(node: OnnxNode, view: View, constant: Constant, free_batch: bool) -> list[int]:
    """The shape that a Reshape gives one sample."""
    wanted = [int(v) for v in constant(node, 1).reshape(-1)]
    allow_zero = node.attributes.get("allowzero", 0)
    whole = [1, *view.shape]
    shape = [whole[i] if v == 0 and not allow_zero else v for i, v in enumerate(wanted)]
    if not shape or (wanted[0] > 0 and free_batch):
        raise UnsupportedGraphError(f"{called(node)}: to {wanted} in a batch of any size")
    if -1 in shape:
        rest = prod(v for v in shape if v != -1)
        shape[shape.index(-1)] = prod(whole) // max(rest, 1)
    if shape[0] != 1 or prod(shape) != prod(whole):
        raise UnsupportedGraphError(f"{called(node)}: {tuple(whole)} to {wanted}")
    return shape[1:]


def _squeezed(node: OnnxNode, view: View, constant: Constant) -> View:
    given = node.attributes.get("axes")
    axes = given if given is not None else constant(node, 1).reshape(-1).tolist()
    shape = [1, *view.shape]
    if node.op == "Squeeze":
        gone = {int(a) % len(shape) for a in axes}
        if 0 in gone or any(shape[a] != 1 for a in gone):
            raise UnsupportedGraphError(f"{called(node)}: axes {sorted(gone)} of {shape}")
        return view.reshape([v for i, v in enumerate(shape) if i not in gone][1:])
    rank = len(shape) + len(axes)
    for axis in sorted(int(a) % rank for a in axes):
        shape.insert(axis, 1)
    if 0 in {int(a) % rank for a in axes}:
        raise UnsupportedGraphError(f"{called(node)}: a new axis before the batch's")
    return view.reshape(shape[1:])


def _sliced(node: OnnxNode, view: View, constant: Constant) -> View:
    given = [constant(node, i).reshape(-1).tolist() for i in range(1, len(node.inputs))]
    starts, ends = given[0], given[1]
    axes = given[2] if len(given) > 2 else list(range(len(starts)))
    steps = given[3] if len(given) > 3 else [1] * len(starts)
    rank = len(view.axes) + 1
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = int(axis) % rank
        if axis == 0 or step < 1:
            raise UnsupportedGraphError(f"{called(node)}: of the batch, or backwards")
        begin, stop, pace = slice(start, end, step).indices(view.shape[axis - 1])
        view = view.slice(axis - 1, begin, stop, pace)
    return view


def _resized(node: OnnxNode, view: View, constant: Constant) -> View:
    """Nearest upsampling by whole factors."""
    given = {k: text(v) if isinstance(v, bytes) else v for k, v in node.attributes.items()}
    whole = [1, *view.shape]
    if given.get("mode", "nearest") != "nearest":
        raise UnsupportedGraphError(f"{called(node)}: interpolates")
    if (
        given.get("coordinate_transformation_mode", "half_pixel"),
        given.get("nearest_mode"),
    ) not in (
        ("asymmetric", "floor"),
        ("half_pixel", None),
        ("half_pixel", "round_prefer_floor"),
    ):
        raise UnsupportedGraphError(f"{called(node)}: this way of finding the nearest")
    if len(node.inputs) > 3 and node.inputs[3]:
        sizes = constant(node, 3).reshape(-1).tolist()
        factors = [size / old for size, old in zip(sizes, whole, strict=True)]
    else:
        factors = constant(node, 2).reshape(-1).tolist()
    if factors[0] != 1 or any(f < 1 or f != int(f) for f in factors):
        raise UnsupportedGraphError(f"{called(node)}: by {factors}")
    for axis, factor in enumerate(factors[1:]):
        view = view.repeat(axis, int(factor))
    return view
