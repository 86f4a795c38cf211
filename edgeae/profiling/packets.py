"""One promise of a bundle at work: frames into packets, packets into frames, as on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ConfigError
from edgeae.profiling.recorder import Recorder
from edgeae.runtime.bundle import Bundle
from edgeae.tasks.decoder import StreamDecoder
from edgeae.tasks.encoder import StreamEncoder
from edgeae.tasks.plan import GridChoice, GridLike

__all__ = ["PacketLoop", "PromiseSpec", "promises_of"]

DEFAULT_BOUND_STEPS = 5

Samples = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class PromiseSpec:
    """A promise to code under.

    Attributes:
        name: for tables.
        keywords: the arguments of ``edgeae.encode``.
    """

    name: str
    keywords: Mapping[str, Any] = field(default_factory=dict)


def promises_of(bundle: Bundle, max_error: float | None = None) -> tuple[PromiseSpec, ...]:
    """The promises that a bundle makes.

    Args:
        bundle: the model.
        max_error: the bound to measure with, in the signal's units; None takes five steps of the
            signal's grid.

    Raises:
        ConfigError: the bound is not positive.
    """
    if max_error is not None and not 0 < max_error < float("inf"):
        raise ConfigError(f"max_error is {max_error}: give a bound above 0")
    found = []
    if bundle.net is not None:
        found.append(PromiseSpec(name="lossy"))
    if bundle.exact:
        if max_error is None:
            steps = DEFAULT_BOUND_STEPS * max(num / den for num, den in bundle.signal.grids)
            # A hair more in floats, where 5 steps of 0.001 may come out as 0.005000000000000001.
            exact = np.dtype(bundle.signal.dtype).kind in "iu"
            max_error = steps if exact else float(f"{steps * 1.001:.6g}")
        found += [
            PromiseSpec(name=f"max error {max_error:g}", keywords={"max_error": max_error}),
            PromiseSpec(name="lossless", keywords={"lossless": True}),
        ]
    return tuple(found)


class PacketLoop:
    """Codes the same pieces again and again in one stream, and decodes what came of them.

    Args:
        bundle: the model.
        pieces: arrays of as many items each as a frame has.
        promise: what to keep.
        profile: ``radio`` or ``file``.
        grid: see `edgeae.tasks.encoder.StreamEncoder`.

    Attributes:
        name: the promise's.
        sizes: bytes of the packets of the last block.
    """

    def __init__(
        self,
        bundle: Bundle,
        pieces: Sequence[Samples],
        promise: PromiseSpec,
        *,
        profile: str = "radio",
        grid: GridLike | GridChoice | None = None,
    ) -> None:
        self.name = promise.name
        self.sizes: list[int] = []
        self._pieces = pieces
        self._encoder = StreamEncoder(
            bundle,
            profile=profile,
            frame_length=len(pieces[0]),
            grid=grid,
            **promise.keywords,
        )
        self._decoder = StreamDecoder(bundle)
        self._write = self._encoder.write
        self._read = self._read_packet if profile == "radio" else self._decoder.write

    def run(self, recorder: Recorder) -> None:
        """One block: encode every piece, then decode every packet."""
        packets = [recorder.time("encode", self._write, piece) for piece in self._pieces]
        self.sizes = [len(packet) for packet in packets]
        for packet in packets:
            recorder.time("decode", self._read, packet)

    def packets(self) -> list[bytes]:
        """The packets of one block."""
        return [self._write(piece) for piece in self._pieces]

    def encode_first(self) -> bytes:
        """The packet of the first piece."""
        return self._write(self._pieces[0])

    def finish(self, rest: Samples) -> int:
        """Bytes that end the stream, after a last short piece."""
        return len(self._encoder.write(rest)) + len(self._encoder.close())

    def _read_packet(self, packet: bytes) -> None:
        self._decoder.write(packet)
        self._decoder.end_packet()
