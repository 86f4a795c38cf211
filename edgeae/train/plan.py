"""The numbers of a first recipe, from what ``probe`` sees of a signal.

The rules are few and rough on purpose: they start from what worked on ECG, IMU, power meters and
small images, and scale with the signal's deviation, noise, smoothness and length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeae.signal.grid import Grid, fallback_grid
from edgeae.signal.probe import ChannelProbe, Probe

__all__ = ["Plan", "active_channels", "plan_recipe", "training_grids"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The numbers of a recipe.

    Attributes:
        target: RMSE that lossy coding aims at, in index units.
        bounds: quantizer steps 2 E + 1 of the sample prior, in index units.
        All others: as in ``train.recipe``.
    """

    family: str
    latent: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    kernels: tuple[int, ...]
    prior_width: int
    crop: int
    batch: int
    steps: int
    distortion_weight: float
    target: float
    kind: str
    bounds: tuple[int, ...]
    taps: int
    dilations: tuple[int, ...]
    sample_width: int
    sample_batch: int
    augment: float


def plan_recipe(seen: Probe) -> Plan:
    """Choose every number of a recipe that depends on the signal."""
    return _plan_images(seen) if seen.is_image else _plan_series(seen, training_grids(seen))


def training_grids(seen: Probe) -> list[Grid]:
    """Per channel the grid that training will use, as ``train.setup`` finds it."""
    return [
        channel.grid or seen.grid or fallback_grid(None, (channel.low, channel.high))
        for channel in seen.per_channel
    ]


def active_channels(seen: Probe) -> list[tuple[int, ChannelProbe]]:
    """The channels that change, with their numbers."""
    return [(i, c) for i, c in enumerate(seen.per_channel) if not c.constant]


def _plan_series(seen: Probe, grids: list[Grid]) -> Plan:
    channels, active = seen.channels, active_channels(seen)
    smooth = float(np.median([c.smoothness for _, c in active]))
    strides = (4, 4, 2) if smooth > 0.9 and channels < 4 else (4, 4) if smooth > 0.5 else (4, 2)
    widths = {3: (24, 48, 48), 2: (24, 48)}[len(strides)]
    if channels > 1:
        wide = min(96, 32 + 4 * channels)
        widths = tuple(max(w, wide) for w in widths)
    stride = math.prod(strides)
    trained = int(0.81 * seen.n_items)
    crop = min(2048, 1 << int(math.log2(trained / 4))) // stride * stride
    target = _target([(c, grids[i]) for i, c in active], share=0.08)
    return Plan(
        family="conv1d",
        latent=max(8, min(48, 8 * math.ceil(stride * channels / 48))),
        widths=widths,
        strides=strides,
        kernels={3: (16, 8, 5), 2: (12, 8)}[len(strides)],
        prior_width=32 if channels < 4 else 48,
        crop=max(crop, stride),
        batch=16 if channels < 8 else 8,
        steps=_steps_for(seen.n_items * channels, most=7000),
        distortion_weight=_two_digits(0.25 / target**2),
        target=target,
        kind="delta",
        bounds=_bounds(seen, [(c, grids[i]) for i, c in active], target),
        taps=32 if channels == 1 else 16 if channels <= 8 else 8,
        dilations=(1, 1),
        sample_width=24 if channels < 4 else 32,
        sample_batch=32 if channels < 8 else 16,
        augment=0.3 if seen.n_items > 20_000 else 0.5,
    )


def _plan_images(seen: Probe) -> Plan:
    height, width = seen.height or 1, seen.width or 1
    halvings = 0
    while halvings < 3 and height % 2 ** (halvings + 1) == 0 == width % 2 ** (halvings + 1):
        if min(height, width) >> (halvings + 1) < 4:
            break
        halvings += 1
    grid = seen.grid or Grid(1, 1)
    target = _target([(seen.per_channel[0], grid)], share=0.18)
    pixels = height * width * seen.channels
    batch = max(1, min(64, 32_000 // pixels))
    return Plan(
        family="conv2d" if halvings else "none",
        latent=8 if pixels <= 1024 else 16,
        widths=(24, 32, 48)[:halvings],
        strides=(2,) * halvings,
        kernels=(4,) * halvings,
        prior_width=32,
        crop=1024,
        batch=batch,
        steps=_steps_for(seen.n_items * pixels, most=5000),
        distortion_weight=_two_digits(0.25 / target**2),
        target=target,
        kind="level",
        bounds=_bounds(seen, [(seen.per_channel[0], grid)], target),
        taps=24 if pixels > 256 else 12,
        dilations=(0,),
        sample_width=32 if pixels > 256 else 24,
        sample_batch=max(1, batch // 2),
        augment=0.0,
    )


def _target(channels: list[tuple[ChannelProbe, Grid]], share: float) -> float:
    """RMSE to aim at, in index units: a share of the deviation, but not far below the noise."""
    squares = [max(share * c.std, 0.8 * c.noise, 0.3 * g.step) / g.step for c, g in channels]
    return float(np.sqrt(np.mean(np.square(squares))))


def _bounds(
    seen: Probe, channels: list[tuple[ChannelProbe, Grid]], target: float
) -> tuple[int, ...]:
    """Quantizer steps 2E+1 in index units: lossless where there is a grid, up to a coarse one."""
    exact = all(c.grid is not None for c, _ in channels) or seen.grid is not None
    noise = float(np.median([c.noise / g.step for c, g in channels]))
    last = max(20.0, 4 * target, noise)
    bounds = {2 * round(b) + 1 for b in np.geomspace(max(1.0, noise / 8), last, 5 - exact)}
    return tuple(sorted(bounds | ({1} if exact else set())))


def _steps_for(samples: int, most: int) -> int:
    """Small data are learnt by heart after few steps."""
    return max(1500, min(most, int(most * (samples / 300_000) ** 0.5) // 500 * 500))


def _two_digits(value: float) -> float:
    return float(f"{value:.1e}")
