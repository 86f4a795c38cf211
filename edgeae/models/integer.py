"""Quantized priors as the integer objects that the runtime codes with."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch

from edgeae.bitstream.cdf import logistic_shape
from edgeae.models.cells import cell_tables
from edgeae.models.latent_prior import LatentPriorNet
from edgeae.models.pixel_prior import PixelPriorNet
from edgeae.models.sample_prior import SamplePriorNet
from edgeae.runtime.any_prior import AnyPrior
from edgeae.runtime.cell_prior import CellPrior
from edgeae.runtime.latent_prior import AnyLatentPrior, LatentPrior
from edgeae.runtime.pixel_prior import PixelPrior
from edgeae.runtime.pixel_rules import default_tables
from edgeae.runtime.sample_prior import SamplePrior

__all__ = ["runtime_latent_prior", "runtime_pixel_prior", "runtime_prior", "runtime_sample_prior"]

Shape = npt.NDArray[np.uint16]


def runtime_sample_prior(net: SamplePriorNet, shape: Shape | None = None) -> SamplePrior:
    """The runtime's twin of a quantized sample prior; ``shape`` defaults to the logistic."""
    spec = net.spec
    return SamplePrior(
        net=net.net.integer_net(),
        shape=logistic_shape() if shape is None else shape,
        kind=cast(Literal["delta", "level"], spec.kind),
        center=spec.center,
        shift=spec.feature_shift,
        has_code=spec.has_code,
        lookahead=spec.lookahead,
        has_cond=True,
    )


def runtime_pixel_prior(net: PixelPriorNet) -> PixelPrior:
    """The runtime's twin of a quantized pixel prior."""
    spec = net.spec
    with torch.no_grad():
        table = net.embedding() * 2.0**net.feature_grid.exponent
    flag, weight = default_tables()
    return PixelPrior(
        net=net.integer_net(),
        table=table.round().numpy().astype(np.int8),
        raster=spec.raster,
        low=spec.low,
        ground=spec.ground,
        flag=flag,
        weight=weight,
    )


def runtime_prior(net: SamplePriorNet | PixelPriorNet, shape: Shape | None = None) -> AnyPrior:
    """The runtime's twin of either; ``shape`` is a sample prior's."""
    if isinstance(net, PixelPriorNet):
        return runtime_pixel_prior(net)
    return runtime_sample_prior(net, shape)


def runtime_latent_prior(
    net: LatentPriorNet, shape: Shape | None = None, freq: Shape | None = None
) -> AnyLatentPrior:
    """The runtime's twin of a quantized latent prior.

    Args:
        net: the prior.
        shape: of its one family of tables; the logistic by default.
        freq: the tables of its cells, where it has cells; logistic ones by default.
    """
    if net.has_cells:
        return CellPrior(net=net.net.integer_net(), freq=cell_tables() if freq is None else freq)
    table = logistic_shape() if shape is None else shape
    if net.width:
        return LatentPrior(shape=table, net=net.net.integer_net())
    with torch.no_grad():
        mean, scale = net.constant[: net.latent], net.constant[net.latent :]
        statics: Any = torch.stack([torch.round(mean * 16), torch.round(scale * 8).clamp(0, 63)])
    return LatentPrior(shape=table, statics=statics.to(torch.int32).numpy())
