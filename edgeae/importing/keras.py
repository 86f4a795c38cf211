"""Read a Keras model's .h5 file: its layers in order, each with its settings and weights.

Understood are chains: a Sequential model, or a functional one in which every layer has one input.
The file says what it is in the attribute ``model_config`` (JSON) and holds the weights below
``model_weights``; nothing of it is executed, so TensorFlow is not needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.errors import DependencyError, ModelError

__all__ = ["KerasLayer", "read_keras"]

_MAX_CONFIG_BYTES = 1 << 26

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class KerasLayer:
    """One layer as the file has it.

    Attributes:
        name: unique in the model.
        kind: its class, e.g. ``Dense``.
        config: its settings.
        weights: float64 arrays by their Keras name, e.g. ``kernel``.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    weights: Mapping[str, Floats] = field(default_factory=dict)


def read_keras(path: str | os.PathLike[str]) -> tuple[KerasLayer, ...]:
    """Read the layers of a chain.

    Args:
        path: an .h5 file that ``model.save("model.h5")`` wrote.

    Returns:
        The layers from input to output.

    Raises:
        DependencyError: h5py is not installed.
        ModelError: not such a file, weights are missing, or the model is not a chain.
    """
    try:
        import h5py
    except ImportError as error:
        raise DependencyError("h5py", "train") from error
    where = Path(path)
    if not where.is_file():
        raise ModelError(f"{where}: there is no such file")
    with where.open("rb") as raw:
        if raw.read(4) == b"PK\x03\x04":
            raise ModelError(
                f'{where}: a .keras archive; save the model as HDF5: model.save("model.h5")'
            )
    try:
        with h5py.File(where, "r") as file:
            return _layers(file, where)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ModelError(f"{where}: not a Keras .h5 file, or damaged: {error}") from error


def _layers(file: Any, where: Path) -> tuple[KerasLayer, ...]:
    text = file.attrs.get("model_config")
    if text is None:
        raise ModelError(
            f"{where}: it has no model_config, so it holds weights at most; save the whole "
            'model: model.save("model.h5")'
        )
    if len(text) > _MAX_CONFIG_BYTES:
        raise ModelError(f"{where}: model_config has {len(text):,} bytes")
    model = json.loads(text)
    config = model["config"]
    entries = config if isinstance(config, list) else config["layers"]
    if model["class_name"] != "Sequential":
        entries = _in_order(entries)
    groups = file.get("model_weights", file)
    return tuple(
        KerasLayer(
            name=_name(entry),
            kind=str(entry["class_name"]),
            config=dict(entry["config"]),
            weights=_weights(groups.get(_name(entry))),
        )
        for entry in entries
    )


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["config"].get("name", entry.get("name", entry["class_name"])))


def _in_order(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The entries of a functional model from its input on.

    Raises:
        ModelError: a layer has several inputs or is used twice: not a chain.
    """
    after: dict[str, Mapping[str, Any]] = {}
    first = None
    for entry in entries:
        sources = sorted(set(_sources(entry.get("inbound_nodes", []))))
        if not sources and first is None:
            first = entry
            continue
        if len(sources) != 1 or sources[0] in after:
            raise ModelError(
                f"layer {_name(entry)!r} ({entry['class_name']}) takes {sources or 'no input'}: "
                "only chains are understood, each layer fed by the one before it"
            )
        after[sources[0]] = entry
    ordered: list[Mapping[str, Any]] = [] if first is None else [first]
    while ordered and _name(ordered[-1]) in after and len(ordered) <= len(entries):
        ordered.append(after[_name(ordered[-1])])
    if len(ordered) != len(entries):
        left = sorted({_name(e) for e in entries} - {_name(e) for e in ordered})
        raise ModelError(f"layers {', '.join(left)} are not on the way from the input: no chain")
    return ordered


def _sources(node: Any) -> Iterator[str]:
    """Names of the layers that feed a node: ``["dense", 0, 0, {}]``, or Keras 3's history."""
    if isinstance(node, Mapping):
        history = node.get("keras_history")
        if isinstance(history, list) and history:
            yield str(history[0])
            return
        for value in node.values():
            yield from _sources(value)
    elif isinstance(node, list):
        if len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int):
            yield node[0]
            return
        for value in node:
            yield from _sources(value)


def _weights(group: Any) -> dict[str, Floats]:
    """A layer's arrays by the last part of their names, without TensorFlow's ``:0``."""
    if group is None:
        return {}
    found = {}
    for name in group.attrs.get("weight_names", []):
        path = name.decode() if isinstance(name, bytes) else str(name)
        key = path.rpartition("/")[2].partition(":")[0]
        found[key] = np.asarray(group[path][()], np.float64)
    return found
