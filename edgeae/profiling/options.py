"""What a bench is asked for, checked on creation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeae.errors import ConfigError

__all__ = ["BenchOptions", "parse_shape"]

_MAX_ELEMENTS = 1 << 28


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Options of a bench.

    Attributes:
        engine: ``auto``, ``native`` or ``onnxruntime``.
        threads: threads inside one operator of a net.
        frame_items: time steps or images per frame; None takes 1,024 steps or one image.
        batch: frames handed over at once where batches are measured; for an ONNX file, the length
            of a free leading axis.
        duration_s: seconds to measure for, about.
        input: a signal file; None takes the bundle's golden vector.
        max_error: the bound to measure with; None takes five steps of the signal's grid.
        growth_frames: frames to watch the memory over; None takes what ``duration_s`` permits.
        shapes: per input of an ONNX file its shape.

    Raises:
        ConfigError: an option is out of range.
    """

    engine: str = "auto"
    threads: int = 1
    frame_items: int | None = None
    batch: int = 64
    duration_s: float = 30.0
    input: str | None = None
    max_error: float | None = None
    growth_frames: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("threads", self.threads, 1, 1024),
            ("frame", self.frame_items, 1, 1 << 24),
            ("batch", self.batch, 1, 1 << 16),
            ("growth", self.growth_frames, 400, 1 << 32),
        ):
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{name} is {value}: give {low} to {high}")
        if not 0 < self.duration_s <= 86_400:
            raise ConfigError(f"duration is {self.duration_s} s: give more than 0, up to a day")

    def to_json(self) -> dict[str, Any]:
        """Those that change the figures."""
        return {
            "threads": self.threads,
            "frame_items": self.frame_items,
            "batch": self.batch,
            "duration_s": self.duration_s,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
        }


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """The name and shape of ``name=1,640``; an empty name stands for the only input.

    Raises:
        ConfigError: not of that form.

    Example:
        >>> parse_shape("input=1,640"), parse_shape("196,640")
        (('input', (1, 640)), ('', (196, 640)))
    """
    name, found, numbers = text.rpartition("=")
    try:
        shape = tuple(int(number) for number in numbers.split(",")) if numbers.strip() else ()
    except ValueError:
        shape = (0,)
    elements = 1
    for axis in shape:
        elements *= max(axis, 0)
    if not 0 < elements <= _MAX_ELEMENTS or (found and not name):
        raise ConfigError(f"{text!r} is no shape: give NAME=1,640 with numbers above 0")
    return name, shape
