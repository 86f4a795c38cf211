"""Write the part of a mask net that is over band and frame.

::

    features, trunk ─► guides ─► planes, each convolution behind its state ─► denoised, next states

A state of the planes is [N, planes x bands, frames], like a stream's other states; inside the graph
it takes its planes' shape to stand before them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeae.exporting.graphs import GraphWriter, write_layer
from edgeae.models.mask import TAPS, MaskNet

__all__ = ["write_planes"]


def write_planes(
    g: GraphWriter, net: MaskNet, features: str, trunk: str, states: Sequence[str]
) -> None:
    """Write ``denoised`` [N, B, K] and the states after it.

    Args:
        g: where to write.
        net: quantized.
        features: integers [N, B, K].
        trunk: the trunk's last sum [N, W, K].
        states: names of the states of the convolutions over band and frame.
    """
    spec = net.spec
    bands = spec.n_in
    guides = write_layer(g, net.guide, trunk, "guides")
    x = g.node("Concat", [features, guides], "planes0", axis=1)
    begin = g.constant("planes_begin", np.array([1 - TAPS], np.int64))
    end = g.constant("planes_end", np.array([np.iinfo(np.int64).max], np.int64))
    axis = g.constant("planes_axis", np.array([2], np.int64))
    for i, (layer, width, state) in enumerate(
        zip(net.plane_layers, spec.plane_widths[:-1], states, strict=True)
    ):
        seen = g.node("Concat", [state, x], f"planes{i}_seen", axis=2)
        g.node("Slice", [seen, begin, end, axis], f"next_{state}")
        seen = g.reshape(seen, f"planes{i}_apart", [0, width, bands, -1])
        name = "mask" if layer is net.last else f"planes{i + 1}"
        x = write_layer(g, layer, seen, name, pads=(1, 0, 1, 0))
        if layer is not net.last:
            x = g.reshape(x, f"{name}_flat", [0, spec.planes * bands, -1])
    g.reshape(x, "denoised", [0, bands, -1])
