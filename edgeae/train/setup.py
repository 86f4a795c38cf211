"""What training reads off the data before it starts: grids, centers, ranges, features.

The result is JSON-able and travels from the run's folder into the bundle's manifest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgeae.errors import SignalError
from edgeae.signal.grid import Grid, detect_grid, fallback_grid
from edgeae.train.datasets import Dataset
from edgeae.train.phases import Signal

__all__ = ["Setup", "signal_of", "study"]

FEATURE_LIMIT = 2047
RARE = 0.9999  # peaks rarer than this may saturate a feature


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a model must know of its signal.

    Attributes:
        kind: ``series`` or ``image``.
        channels: C.
        shape: height and width of an image, else empty.
        dtype: numpy name of the source's samples.
        rate_hz: samples per second, where known.
        grids: per channel (num, den): sample = index * num / den.
        low: per channel smallest index in the training part.
        high: per channel largest.
        center: per channel median index.
        spread: per channel standard deviation of the index.
        shift: per channel right shift that fits the centered index into 12 bits.
        exponent: the nets see those times ``2**-exponent``.
        feature_shift: per channel right shift that fits a difference into 12 bits.
        feature_exponent: the sample prior sees those times ``2**-feature_exponent``.
        ground: of images, the commonest index of all channels.
        names: channel names.
        unit: unit of the samples, where known.
        hashes: SHA-256 of the data's files.
    """

    kind: str
    channels: int
    shape: tuple[int, ...]
    dtype: str
    rate_hz: float | None
    grids: tuple[tuple[int, int], ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    center: tuple[int, ...]
    spread: tuple[float, ...]
    shift: tuple[int, ...]
    exponent: int
    feature_shift: tuple[int, ...]
    feature_exponent: int
    ground: int = 0
    names: tuple[str, ...] = ()
    unit: str = ""
    hashes: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def grid(self) -> tuple[Grid, ...]:
        """The grids as objects."""
        return tuple(Grid(*pair) for pair in self.grids)

    def to_json(self) -> dict[str, Any]:
        """JSON-able values; :meth:`from_json` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Setup:
        """Inverse of :meth:`to_json`."""

        def tuples(value: Any) -> Any:
            return tuple(tuples(v) for v in value) if isinstance(value, list) else value

        return cls(**{k: tuples(v) for k, v in values.items()})


def _items(segment: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Any segment as [items, C]."""
    if segment.ndim == 1:
        return segment[:, None]
    return (
        segment.reshape(-1, segment.shape[-1]) if segment.ndim in (2, 4) else segment.reshape(-1, 1)
    )


def _indices(segment: npt.NDArray[Any], grids: Sequence[Grid]) -> npt.NDArray[np.int32]:
    flat = _items(segment)
    columns = []
    for c, grid in enumerate(grids):
        n, _ = grid.to_index(flat[:, c])
        finite = np.isfinite(flat[:, c]) if flat.dtype.kind == "f" else np.ones(len(flat), bool)
        if not finite.all():  # a hole holds the sample before it
            last = np.maximum.accumulate(np.where(finite, np.arange(len(n)), 0))
            n = n[last]
        columns.append(n)
    return np.stack(columns, 1)


def _bits_over(values: npt.NDArray[Any], limit: int) -> int:
    peak = float(np.quantile(np.abs(values), RARE)) if values.size else 0.0
    return max(0, int(np.ceil(np.log2(max(peak, 1.0) / limit))))


def study(data: Dataset) -> Setup:
    """Read a model's setup off its training data.

    Raises:
        SignalError: nothing to learn from: too short, or constant.
    """
    if not data.segments or sum(len(s) for s in data.segments) == 0:
        raise SignalError("the training data are empty")
    first = data.segments[0]
    is_image = data.is_image
    flat = np.concatenate([_items(s) for s in data.segments])
    channels = flat.shape[1]
    grids = []
    for c in range(channels):
        column = np.ascontiguousarray(flat[:, c])
        grid = detect_grid(column)
        if grid is None:
            finite = column[np.isfinite(column)] if column.dtype.kind == "f" else column
            grid = fallback_grid(None, (float(finite.min()), float(finite.max())))
        grids.append(grid)
    index = _indices(flat, grids)
    if np.all(index.min(0) == index.max(0)):
        raise SignalError("the training data are constant: there is nothing to learn")
    center = np.median(index, 0).astype(np.int64)
    if is_image:
        center = np.zeros_like(center)
    centered = index - center
    shift = [_bits_over(centered[:, c], FEATURE_LIMIT) for c in range(channels)]
    spread = centered.std(0)
    scaled = [spread[c] / 2.0 ** shift[c] for c in range(channels)]
    steps = (
        index.astype(np.int64)
        if is_image
        else np.concatenate([np.diff(_indices(s, grids), axis=0) for s in data.segments])
    )
    feature_shift = [_bits_over(steps[:, c], FEATURE_LIMIT) for c in range(channels)]
    feature_std = [steps[:, c].std() / 2.0 ** feature_shift[c] for c in range(channels)]

    def exponent(stds: Sequence[float]) -> int:
        return int(np.clip(np.round(np.log2(max(float(np.mean(stds)), 1.0))), 0, 10))

    return Setup(
        kind="image" if is_image else "series",
        channels=channels,
        shape=tuple(int(v) for v in first.shape[1:3]) if is_image else (),
        dtype=first.dtype.name,
        rate_hz=data.rate_hz,
        grids=tuple((g.num, g.den) for g in grids),
        low=tuple(int(v) for v in index.min(0)),
        high=tuple(int(v) for v in index.max(0)),
        center=tuple(int(v) for v in center),
        spread=tuple(round(float(v), 4) for v in np.maximum(spread, 1e-3)),
        shift=tuple(shift),
        exponent=exponent(scaled),
        feature_shift=tuple(feature_shift),
        feature_exponent=exponent(feature_std),
        ground=_commonest(index) if is_image else 0,
        names=tuple(data.meta.get("names", ())),
        unit=str(data.meta.get("unit", "")),
        hashes=dict(data.sha256),
    )


def _commonest(index: npt.NDArray[np.int32]) -> int:
    values, counts = np.unique(index, return_counts=True)
    return int(values[counts.argmax()])


def signal_of(data: Dataset, setup: Setup) -> Signal:
    """A data set's samples as grid indices in torch."""
    spread = torch.tensor(setup.spread)
    if setup.kind == "image":
        images = np.concatenate(data.segments)
        index = _indices(images, setup.grid).reshape(len(images), *setup.shape, setup.channels)
        tensor = torch.from_numpy(index.transpose(0, 3, 1, 2).astype(np.float32))
        return Signal(segments=(tensor.contiguous(),), spread=spread)
    segments = tuple(
        torch.from_numpy(np.ascontiguousarray(_indices(s, setup.grid).T.astype(np.float32)))
        for s in data.segments
        if len(s)
    )
    return Signal(segments=segments, spread=spread)
