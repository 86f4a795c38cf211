"""A dyadic autoencoder of windows as a bundle: its halves code streams of such windows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError
from edgeae.exporting.dense_graph import window_graphs
from edgeae.exporting.module import Layout, write_pair
from edgeae.models.dense import DenseLayer, narrowest, run_dense
from edgeae.quantize.static import IntegerDense
from edgeae.runtime.bundle import Bundle
from edgeae.signal.grid import Grid

__all__ = ["write_window_bundle"]

INDEX_SHIFT = 3  # the bundle's grid is this many bits finer than the net's input


def write_window_bundle(
    layers: Sequence[DenseLayer],
    dyadic: IntegerDense,
    rows: npt.NDArray[np.float32],
    out: str | os.PathLike[str],
    *,
    name: str,
    channels: int = 1,
    about: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    notes: str = "",
) -> Bundle:
    """Write the halves of an autoencoder as a bundle for a series of C channels.

    Args:
        layers: the float chain.
        dyadic: the same, quantized with powers of two.
        rows: windows [N, W * C] in the net's units, time steps first; tables are counted on them.
        out: the bundle to write.
        name: the bundle's name.
        channels: C.
        about: parts of the manifest to add.
        extra_files: files to carry along.
        notes: Markdown to end the card with.

    Raises:
        ModelError: the net does not map windows of C channels to themselves.
    """
    split = narrowest(layers)
    peak = dyadic.layers[split - 1].hi
    assert peak is not None
    index_step = dyadic.step / 2**INDEX_SHIFT
    graphs = window_graphs(dyadic, split, channels, index_step, {"bundle": name})
    width = rows.shape[1]
    latents = dyadic.layers[split - 1].weight.shape[0]
    if latents > width:
        raise ModelError(f"the narrowest layer has {latents} outputs for {width} inputs")
    layout = Layout(
        kind="series",
        item=(width,),
        signal=(channels, width // channels),
        latent=(latents,),
        code=(latents, 1),
    )
    windows = rows.reshape(len(rows), -1, channels).transpose(0, 2, 1)
    error = run_dense(layers, rows)[-1] - rows
    numerator, denominator = float(index_step).as_integer_ratio()
    return write_pair(
        graphs,
        np.ascontiguousarray(np.rint(windows / index_step).astype(np.int32)),
        layout,
        out,
        name=name,
        dtype="float32",
        grid=Grid(numerator, denominator),
        rmse_in_torch=float(np.sqrt(np.mean(error**2))) / index_step,
        latent_max=peak,
        about={
            "recipe": {"description": f"The autoencoder {name}, imported and quantized."},
            "metrics": {"precision": "dyadic int8"},
            **(about or {}),
        },
        extra_files=extra_files,
        notes=notes,
    )
