"""Workloads beside packets: nets alone, batches of frames, whole files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.profiling.packets import PromiseSpec
from edgeae.profiling.recorder import Recorder
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.engines import Net
from edgeae.runtime.session import GraphSession
from edgeae.tasks.plan import GridChoice
from edgeae.tasks.stream import StreamDecoder, StreamEncoder, decode, encode

__all__ = ["BatchLoop", "CallLoop", "FileLoop", "net_loop"]

_BLOCK_NS = 5_000_000
_MIN_CALLS, _MAX_CALLS = 4, 500

Samples = NDArray[Any]


class CallLoop:
    """Functions of one argument, each called some times in a row; their names are directions.

    The number of calls makes a block of some milliseconds.
    """

    def __init__(
        self, name: str, calls: dict[str, Callable[[Any], Any]], argument: Any = None
    ) -> None:
        self.name = name
        self._calls, self._argument = calls, argument
        self._n_calls: dict[str, int] = {}

    def run(self, recorder: Recorder) -> None:
        """One block."""
        for direction, function in self._calls.items():
            if direction not in self._n_calls:
                recorder.time(direction, function, self._argument)
                recorder.time(direction, function, self._argument)
                fits = _BLOCK_NS // max(1, recorder.taken[direction][-1])
                self._n_calls[direction] = max(_MIN_CALLS, min(_MAX_CALLS, fits))
            for _ in range(self._n_calls[direction]):
                recorder.time(direction, function, self._argument)


def net_loop(name: str, net: Net, values: NDArray[np.float32]) -> CallLoop:
    """A net alone: ``run`` as the package calls it, and ``bare``, the same without our wrapper.

    Bare is onnxruntime with its inputs and outputs bound, nothing copied; only where that runs it.
    """
    calls: dict[str, Callable[[Any], Any]] = {"run": net.run}
    if isinstance(net, GraphSession):
        bound = net.bind(values.shape)
        bound.sources[0][...] = values
        calls["bare"] = lambda _: bound.run()
    return CallLoop(name, calls, values)


class BatchLoop:
    """Several frames in one call, as where a gateway decodes many sensors or a file.

    Attributes:
        name: the promise's.
        n_frames: per call.
    """

    def __init__(
        self,
        bundle: Bundle,
        pieces: Sequence[Samples],
        promise: PromiseSpec,
        *,
        n_frames: int,
        grid: GridChoice | None,
    ) -> None:
        self.name, self.n_frames = promise.name, n_frames
        items = len(pieces[0])
        self._whole = np.concatenate([pieces[k % len(pieces)] for k in range(n_frames)])
        self._encoder = StreamEncoder(bundle, frame_length=items, grid=grid, **promise.keywords)
        self._decoder = StreamDecoder(bundle)

    def run(self, recorder: Recorder) -> None:
        """One block: one call each way."""
        data = recorder.time("encode", self._encoder.write, self._whole)
        recorder.time("decode", self._decoder.write, data)


class FileLoop:
    """A whole signal to a file's bytes and back, in frames of the usual length for files.

    Attributes:
        name: the promise's.
        n_items: of the signal.
        n_bytes: of the file.
    """

    def __init__(self, bundle: Bundle, whole: Samples, promise: PromiseSpec) -> None:
        self.name, self.n_items, self.n_bytes = promise.name, len(whole), 0
        self._bundle, self._whole, self._keywords = bundle, whole, promise.keywords

    def run(self, recorder: Recorder) -> None:
        """One block: one call each way."""
        data = recorder.time("encode", self._encode)
        recorder.time("decode", decode, self._bundle, data)
        self.n_bytes = len(data)

    def _encode(self) -> bytes:
        return encode(self._bundle, self._whole, **self._keywords)
