"""A bundle made ready to be measured: its promises, its frames, and what runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ModelError
from edgeae.profiling.blocks import MIN_ROUNDS
from edgeae.profiling.frames import Frames, frames_of
from edgeae.profiling.options import BenchOptions
from edgeae.profiling.packets import PacketLoop, PromiseSpec, promises_of
from edgeae.profiling.recorder import Recorder
from edgeae.runtime.bundle import Bundle, load
from edgeae.signal.lattice import Lattice
from edgeae.tasks.plan import GridChoice, StreamOptions, choose_grid

__all__ = ["BundleSubject"]

_FRAMES_AT_MOST = 16

Samples = NDArray[Any]


class BundleSubject:
    """What is measured of a bundle.

    Attributes:
        path: where it lies.
        options: what was asked for.
        bundle: open on the engine asked for.
        frames: the signal.
        pieces: the frames of a block.
        promises: what the bundle promises.
        engine: what runs its nets; ``none`` where it has none.
    """

    def __init__(self, path: str, options: BenchOptions) -> None:
        self.path, self.options = path, options
        self.bundle = self.open()
        self.promises = promises_of(self.bundle, options.max_error)
        if not self.promises:
            raise ModelError(f"bundle {self.bundle.name!r} makes no promise that could be measured")
        self.frames: Frames = frames_of(
            self.bundle, path=options.input, frame_items=options.frame_items
        )
        self.engine = "none"
        if self.bundle.net is not None:
            engines = {self.bundle.encoder().engine, self.bundle.decoder().engine}
            self.engine = " and ".join(sorted(engines))
        self.pieces = self.frames.pieces(_FRAMES_AT_MOST)
        self._grids: dict[str, GridChoice] = {}

    def open(self) -> Bundle:
        """The bundle, loaded anew."""
        return load(self.path, engine=self.options.engine, threads=self.options.threads)

    def grid(self, promise: PromiseSpec) -> GridChoice:
        """What a stream of the whole signal would be coded on."""
        if promise.name not in self._grids:
            options = StreamOptions(**promise.keywords)
            whole = self.frames.whole
            self._grids[promise.name] = choose_grid(whole, self.bundle, options, whole=True)
        return self._grids[promise.name]

    def loop(self, promise: PromiseSpec, pieces: Sequence[Samples]) -> PacketLoop:
        """A radio stream of these pieces."""
        return PacketLoop(self.bundle, pieces, promise, grid=self.grid(promise))

    def fit_frames(self, budget_s: float) -> float:
        """Keep as many frames per block as a budget permits; tell how long one takes.

        The first frame of a stream opens nets and finds no warm cache, so it does not count.

        Returns:
            Seconds to code and decode one frame, in the slowest promise.
        """
        seconds = []
        for promise in self.promises:
            recorder = Recorder()
            loop = self.loop(promise, self.pieces[:1])
            loop.run(recorder)
            recorder.taken.clear()
            loop.run(recorder)
            seconds.append(sum(sum(taken) for taken in recorder.taken.values()) / 1e9)
        rounds = 1.5 * MIN_ROUNDS + 2
        count = max(2, min(_FRAMES_AT_MOST, int(budget_s / (rounds * sum(seconds)))))
        self.pieces = self.pieces[:: max(1, len(self.pieces) // count)][:count]
        return max(seconds)

    def net_inputs(self) -> dict[str, NDArray[np.float32]]:
        """What the nets are given for the first frame, by file."""
        bundle, net = self.bundle, self.bundle.net
        if net is None:
            return {}
        spec, piece = bundle.signal, np.ascontiguousarray(self.pieces[0])
        index, _ = Lattice.of(spec.grids).to_index(piece.reshape(-1, spec.channels))
        if spec.is_image:
            shape = (len(piece), spec.height or 1, spec.width or 1, spec.channels)
            signal: NDArray[np.int32] = np.moveaxis(index.reshape(shape), 3, 1)
        else:
            unit = net.fixed_window or net.stride
            padding = -len(index) % unit
            index = np.concatenate([index, np.repeat(index[-1:], padding, axis=0)])
            window = net.fixed_window or len(index)
            signal = index.reshape(-1, window, spec.channels).transpose(0, 2, 1)
        values = np.ascontiguousarray(signal, dtype=np.float32)
        latent = np.clip(np.rint(bundle.encoder().run(values)), -net.latent_max, net.latent_max)
        return {"encoder.onnx": values, "decoder.onnx": np.ascontiguousarray(latent)}
