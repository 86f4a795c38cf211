"""Tables are counted: the distribution of what the quantized nets leave over, on training data.

The runtime computes every table from one *shape*, a cumulative distribution over the normalised
residual z = (value - mean) / scale. The default is the logistic; here it is estimated from data the
nets really met, so that its tails and its peak fit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from edgeae.bitstream.cdf import SHAPE_POINTS, logistic_shape
from edgeae.models.cells import cell_tables
from edgeae.models.sample_prior import SamplePriorNet
from edgeae.quantize.loops import closed_loop
from edgeae.runtime.cell_prior import N_CELLS, REACH, cells_of
from edgeae.train.phases import BASE_STEP, Signal, WindowCode
from edgeae.train.recipe import SamplePriorRecipe

__all__ = ["count_latent_cells", "count_latent_shape", "count_sample_shape", "shape_from_bins"]

Shape = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float64]

PER_UNIT = 16
SPAN = 12
PRIOR_WEIGHT = 400.0  # observations' worth of the logistic mixed in
ITEMS = 1 << 16
CELL_TURNS, CELL_BATCH = 120, 128


def shape_from_bins(low: Floats, high: Floats, *, rounds: int = 6) -> Shape:
    """Estimate a shape from observations known up to an interval of z.

    Expectation maximisation from the logistic: an interval's mass is shared out over the cells of
    1/16 that it covers, in proportion to the present estimate.

    Args:
        low: lower ends, float64 [n].
        high: upper ends.

    Returns:
        uint16 [385], monotone, symmetric.
    """
    edges = np.linspace(-SPAN, SPAN, SHAPE_POINTS)
    logistic = 1 / (1 + np.exp(-edges))
    base = np.diff(logistic)
    density = base / base.sum()
    low = np.clip(low, -SPAN, SPAN - 1e-9)
    high = np.clip(np.maximum(high, low + 1e-9), -SPAN + 1e-9, SPAN)
    a, b = (low + SPAN) * PER_UNIT, (high + SPAN) * PER_UNIT
    first = np.minimum(a.astype(np.int64), SHAPE_POINTS - 2)
    last = np.clip(np.ceil(b).astype(np.int64) - 1, first, SHAPE_POINTS - 2)
    for _ in range(rounds):
        total = np.concatenate([[0.0], np.cumsum(density)])
        mass = np.interp(b, np.arange(SHAPE_POINTS), total) - np.interp(
            a, np.arange(SHAPE_POINTS), total
        )
        rate = 1 / np.maximum(mass, 1e-9)
        # whole cells first..last get rate * density; the two ends are trimmed to what they cover
        steps = np.zeros(SHAPE_POINTS)
        np.add.at(steps, first, rate)
        np.add.at(steps, last + 1, -rate)
        weight = np.cumsum(steps)[:-1]
        np.add.at(weight, first, -rate * (a - first))
        np.add.at(weight, last, -rate * (last + 1 - b))
        counts = np.maximum(weight, 0) * density
        counts = (counts + counts[::-1]) / 2 + PRIOR_WEIGHT * base / base.sum()
        density = counts / counts.sum()
    total = np.concatenate([[0.0], np.cumsum(density)])
    tail = logistic[0]
    shape = np.round(65535 * (tail + (1 - 2 * tail) * total))
    return np.maximum.accumulate(shape).astype(np.uint16)


def _shorter(estimated: Shape, low: Floats, high: Floats) -> Shape:
    """The estimate if it codes the observations in fewer bits than the logistic, else that."""

    def bits(shape: Shape) -> float:
        x = np.linspace(-SPAN, SPAN, SHAPE_POINTS)
        cdf = shape.astype(np.float64) / 65535
        mass = np.interp(high, x, cdf, 0, 1) - np.interp(low, x, cdf, 0, 1)
        return float(-np.log2(mass * 0.999 + 2.0**-16).sum())

    plain = logistic_shape()
    return estimated if bits(estimated) < bits(plain) else plain


def count_latent_shape(code: WindowCode, signal: Signal) -> Shape:
    """Shape of the symbols around the latent prior's means."""
    generator = torch.Generator().manual_seed(3)
    low, high = [], []
    with torch.no_grad():
        crop = 64 * code.analysis.spec.stride
        if not signal.is_image:
            crop = min(crop, max(s.shape[-1] for s in signal.segments))
            crop -= crop % code.analysis.spec.stride
        for _ in range(16):
            x = signal.crops(16, crop, generator)
            step = torch.full((len(x),), BASE_STEP)
            symbols = torch.round(code.analysis(x)).flatten(2)
            mean, scale = code.prior(symbols, step)
            low.append(((symbols - mean - 0.5) / scale).flatten().double().numpy())
            high.append(((symbols - mean + 0.5) / scale).flatten().double().numpy())
    a, b = np.concatenate(low), np.concatenate(high)
    return _shorter(shape_from_bins(a, b), a, b)


def count_latent_cells(
    code: WindowCode, signal: Signal, step_range: tuple[int, int]
) -> npt.NDArray[np.uint16]:
    """Tables of the latent prior's cells, counted at steps all over the range and an octave on."""
    generator = torch.Generator().manual_seed(3)
    counts = np.zeros((N_CELLS, 2 * REACH + 3), np.int64)
    low, high = max(step_range[0] / 2, 1.0), 2.0 * step_range[1]
    with torch.no_grad():
        for turn in range(CELL_TURNS):
            x = signal.crops(CELL_BATCH, 64 * code.analysis.spec.stride, generator)
            step = torch.full((len(x),), round(low * (high / low) ** (turn / (CELL_TURNS - 1))))
            scaled = code.analysis(x).flatten(2) * (BASE_STEP / step).view(-1, 1, 1)
            symbols = torch.round(scaled)
            mean, index = code.prior.indices(symbols, step.float())
            cell, centre, turned = cells_of(*(a.round().long().numpy() for a in (mean, index)))
            k = (symbols.long().numpy() - centre) * turned
            np.add.at(counts, (cell, np.clip(k, -REACH - 1, REACH + 1) + REACH + 1), 1)
    return cell_tables(counts)


def count_sample_shape(
    net: SamplePriorNet, signal: Signal, recipe: SamplePriorRecipe, code: WindowCode | None
) -> Shape:
    """Shape of the samples around the sample prior's means, over closed-loop reconstructions."""
    low, high = [], []
    with torch.no_grad():
        for step in recipe.steps:
            pieces = closed_loop(net, signal, step, code if recipe.code else None, ITEMS, seed=99)
            for x, recon, u in pieces:
                s = torch.full((1,), float(step))
                mean, scale = net(recon[None], s, None if u is None else u[None])
                center = torch.floor(mean + 0.5)
                gap = x[None] - center
                k = torch.sign(gap) * torch.floor((gap.abs() + (step - 1) / 2) / step)
                at = center + k * step - mean
                low.append(((at - step / 2) / scale).flatten().double().numpy())
                high.append(((at + step / 2) / scale).flatten().double().numpy())
    a, b = np.concatenate(low), np.concatenate(high)
    return _shorter(shape_from_bins(a, b), a, b)
