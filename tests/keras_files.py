"""Keras .h5 files made by hand: h5py writes what ``model.save`` would, and TensorFlow stays out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

Entry = tuple[str, dict[str, Any], dict[str, np.ndarray]]


def dense(rng: np.random.Generator, n_in: int, n_out: int, **config: Any) -> Entry:
    weights = {"kernel": rng.normal(0, n_in**-0.5, (n_in, n_out))}
    if config.get("use_bias", True):
        weights["bias"] = rng.normal(0, 0.5, n_out)
    return "Dense", {"units": n_out, "activation": "linear", "use_bias": True, **config}, weights


def norm(rng: np.random.Generator, width: int, **config: Any) -> Entry:
    weights = {
        "moving_mean": rng.normal(0, 1, width),
        "moving_variance": rng.uniform(0.05, 3, width),
    }
    if config.get("scale", True):
        weights["gamma"] = rng.normal(1, 0.5, width)
    if config.get("center", True):
        weights["beta"] = rng.normal(0, 1, width)
    settings = {"axis": [1], "epsilon": 1e-3, "scale": True, "center": True, **config}
    return "BatchNormalization", settings, weights


def activation(name: str) -> Entry:
    return "Activation", {"activation": name}, {}


def autoencoder(rng: np.random.Generator, widths: Sequence[int]) -> list[Entry]:
    """Dense, norm, ReLU for each width but the last, which is dense alone."""
    entries: list[Entry] = [("InputLayer", {"batch_input_shape": [None, widths[0]]}, {})]
    for n_in, n_out in pairwise(widths[:-1]):
        entries += [dense(rng, n_in, n_out), norm(rng, n_out), activation("relu")]
    return [*entries, dense(rng, *widths[-2:])]


def write_keras(
    path: Path, entries: Sequence[Entry], *, sequential: bool = True, keras: int = 2
) -> Path:
    import h5py

    layers, before = [], None
    with h5py.File(path, "w") as file:
        groups = file.create_group("model_weights")
        for number, (kind, config, weights) in enumerate(entries):
            name = config.get("name", f"{kind.lower()}_{number}")
            layer = {"class_name": kind, "config": {"name": name, **config}, "name": name}
            if not sequential:
                layer["inbound_nodes"] = [] if before is None else _inbound(before, keras)
            layers.append(layer)
            before = name
            group = groups.create_group(name)
            names = [f"{name}/{key}:0" if keras == 2 else f"{name}/{key}" for key in weights]
            group.attrs["weight_names"] = [n.encode() for n in names]
            for full, value in zip(names, weights.values(), strict=True):
                group[full] = value.astype(np.float32)
        kind = "Sequential" if sequential else "Functional"
        file.attrs["model_config"] = json.dumps(
            {"class_name": kind, "config": {"name": "net", "layers": layers}}
        )
    return path


def _inbound(before: str, keras: int) -> list[Any]:
    if keras == 2:
        return [[[before, 0, 0, {}]]]
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [before, 0, 0]}}
    return [{"args": [tensor], "kwargs": {}}]


def evaluate(entries: Sequence[Entry], x: np.ndarray) -> np.ndarray:
    """What the layers are defined to compute, written down once more, in float64."""
    y = x.astype(np.float64)
    for kind, config, given in entries:
        w = {key: value.astype(np.float32).astype(np.float64) for key, value in given.items()}
        if kind == "Dense":
            y = y @ w["kernel"]
            if "bias" in w:
                y = y + w["bias"]
        if kind == "BatchNormalization":
            y = (y - w["moving_mean"]) / np.sqrt(w["moving_variance"] + config["epsilon"])
            y = y * w.get("gamma", 1) + w.get("beta", 0)
        name = "relu" if kind == "ReLU" else config.get("activation", "linear")
        if name == "relu":
            y = np.maximum(y, 0)
        elif name == "tanh":
            y = np.tanh(y)
        elif name == "sigmoid":
            y = 1 / (1 + np.exp(-y))
    return y
