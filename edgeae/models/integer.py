"""Quantized priors as the integer objects that the runtime codes with."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch

from edgeae.bitstream.cdf import logistic_shape
from edgeae.models.latent_prior import LatentPriorNet
from edgeae.models.sample_prior import SamplePriorNet
from edgeae.runtime.latent_prior import LatentPrior
from edgeae.runtime.sample_prior import SamplePrior

__all__ = ["runtime_latent_prior", "runtime_sample_prior"]

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


def runtime_latent_prior(net: LatentPriorNet, shape: Shape | None = None) -> LatentPrior:
    """The runtime's twin of a quantized latent prior; ``shape`` defaults to the logistic."""
    table = logistic_shape() if shape is None else shape
    if net.width:
        return LatentPrior(shape=table, net=net.net.integer_net())
    with torch.no_grad():
        mean, scale = net.constant[: net.latent], net.constant[net.latent :]
        statics: Any = torch.stack([torch.round(mean * 16), torch.round(scale * 8).clamp(0, 63)])
    return LatentPrior(shape=table, statics=statics.to(torch.int32).numpy())
