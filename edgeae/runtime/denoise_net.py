"""The net of a denoiser, open on an engine: streams with their state, or images.

A stream's net is run on pieces of whole hops. Buffers are bound once per length of a piece, and the
state goes from one run to the next in place: onnxruntime reads one set of state buffers and writes
the other, in turns; the native engine keeps it where it works. Lengths that come rarely are made of
powers of two, so that a caller who never asks for the same length twice binds few of them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ModelError
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.denoise_spec import DenoiseSpec
from edgeae.runtime.engines import check_engine
from edgeae.runtime.graph_reach import graph_reach
from edgeae.runtime.native_graph import BoundNativeGraph, HeldPlan, NativeGraph, native_graph
from edgeae.runtime.net_words import aligned
from edgeae.runtime.onnx_file import read_onnx
from edgeae.runtime.session import BoundGraph, GraphValue, OpenGraph, open_graph
from edgeae.runtime.views import UnsupportedGraphError

__all__ = [
    "ImageDenoiseNet",
    "StreamDenoiseNet",
    "image_net",
    "open_image_net",
    "open_stream_net",
    "stream_net",
]

SIGNAL, IMAGE, SIGMA, DENOISED = "signal", "image", "sigma", "denoised"
_GRAPH = "denoiser.onnx"
_KEPT_LENGTHS = 16
_KEPT_SHAPES = 4
_TILE = 512  # pixels a side, even
_MOST_STEPS = 256
_RECENT, _OFTEN = 24, 6  # a length that makes a quarter of the recent ones has its own buffers

Floats = NDArray[np.float32]


class _Ends(Protocol):
    name: str
    inputs: tuple[GraphValue, ...]
    outputs: tuple[GraphValue, ...]


class _Engine(Protocol):
    """Runs N streams; holds their state."""

    engine: str

    def bind(self, length: int) -> Any:
        """Buffers for ``length`` samples."""

    def run(self, bound: Any, x: Floats) -> Floats:
        """The next samples [N, C, T]; what comes back is overwritten by the next run."""

    def state(self) -> list[Floats]:
        """The state tensors, [N, C, L] each."""

    def restore(self, state: Sequence[Floats]) -> None:
        """Go on from a state."""


class StreamDenoiseNet:
    """The net of N streams that run in step.

    Attributes:
        engine: ``native`` or ``onnxruntime``.
        n_in: channels that go in.
        n_out: channels that come out.
        step: samples (or frames of a front end) that go through at a time.
    """

    def __init__(self, engine: _Engine, *, n_in: int, n_out: int, step: int, cut: bool) -> None:
        self._engine = engine
        self.engine = engine.engine
        self.n_in, self.n_out, self.step = n_in, n_out, step
        self._most = _MOST_STEPS if cut else 1
        self._bound: OrderedDict[int, Any] = OrderedDict()
        self._recent: deque[int] = deque(maxlen=_RECENT)

    def run(self, x: Floats) -> Floats:
        """The next samples.

        Args:
            x: float32 [N, C, T], whole numbers; T a multiple of the step.

        Returns:
            float32 [N, C_out, T], a fresh array of whole numbers.

        Raises:
            ModelError: the engine fails.
        """
        out = np.empty((x.shape[0], self.n_out, x.shape[2]), np.float32)
        at = 0
        for steps in self._pieces(x.shape[2] // self.step):
            length = steps * self.step
            bound = self._bound.get(steps)
            if bound is None:
                bound = self._bound[steps] = self._engine.bind(length)
                while len(self._bound) > _KEPT_LENGTHS:
                    self._bound.popitem(last=False)
            else:
                self._bound.move_to_end(steps)
            out[:, :, at : at + length] = self._engine.run(bound, x[:, :, at : at + length])
            at += length
        return out

    def reset(self) -> None:
        """Forget the past."""
        self.restore([np.zeros_like(tensor) for tensor in self._engine.state()])

    def state(self) -> list[Floats]:
        """Copies of the state tensors, float32 [N, C, L] of whole numbers."""
        return [tensor.copy() for tensor in self._engine.state()]

    def restore(self, state: Sequence[Floats]) -> None:
        """Go on from a state of :meth:`state`, which is not checked."""
        self._engine.restore(state)

    def _pieces(self, steps: int) -> Iterator[int]:
        while steps > self._most:
            yield self._most
            steps -= self._most
        if not steps:
            return
        self._recent.append(steps)
        if steps in self._bound or self._recent.count(steps) >= _OFTEN:
            yield steps
            return
        while steps:
            piece = 1 << (steps.bit_length() - 1)
            yield piece
            steps -= piece


class _OrtStream:
    """onnxruntime: two bindings per length, which read and write the two sets of states in turn."""

    engine = "onnxruntime"

    def __init__(self, graph: OpenGraph, streams: int, spec: DenoiseSpec) -> None:
        self._graph, self._streams = graph, streams
        self._sets = [
            [np.zeros((streams, *state.shape), np.float32) for state in spec.state]
            for _ in range(2)
        ]
        self._turn = 0

    def bind(self, length: int) -> tuple[BoundGraph, BoundGraph]:
        graph = self._graph
        n_in, n_out = graph.inputs[0].shape[1] or 1, graph.outputs[0].shape[1] or 1
        x = np.zeros((self._streams, n_in, length), np.float32)
        y = np.zeros((self._streams, n_out, length), np.float32)
        one, other = self._sets
        return (
            BoundGraph(graph, [x, *one], [y, *other]),
            BoundGraph(graph, [x, *other], [y, *one]),
        )

    def run(self, bound: tuple[BoundGraph, BoundGraph], x: Floats) -> Floats:
        chosen = bound[self._turn]
        np.copyto(chosen.sources[0], x)
        chosen.run()
        self._turn ^= 1
        found: Floats = chosen.targets[0]
        return found

    def state(self) -> list[Floats]:
        return self._sets[self._turn]

    def restore(self, state: Sequence[Floats]) -> None:
        for mine, given in zip(self._sets[self._turn], state, strict=True):
            np.copyto(mine, given)


class _NativeStream:
    """The C kernels: each stream works in an arena of its own, at whose start its state lies."""

    engine = "native"

    def __init__(self, graph: NativeGraph, streams: int, spec: DenoiseSpec) -> None:
        self._graph, self._streams, self._spec = graph, streams, spec
        first = self.bind(spec.hop)
        self._places = first.places
        self._arenas = [aligned(first.arena_bytes) for _ in range(streams)]

    def bind(self, length: int) -> HeldPlan:
        signal = (self._graph.inputs[0].shape[1] or 1, length)
        return self._graph.held([signal, *(state.shape for state in self._spec.state)])

    def run(self, bound: HeldPlan, x: Floats) -> Floats:
        if bound.arena_bytes > self._arenas[0].size:
            larger = [aligned(bound.arena_bytes) for _ in range(self._streams)]
            for new, old in zip(larger, self._arenas, strict=True):
                new[: old.size] = old
            self._arenas = larger
        out = np.empty((self._streams, *bound.output_shape), np.float32)
        bound.run(self._arenas, np.ascontiguousarray(x, np.float32), out)
        return out

    def state(self) -> list[Floats]:
        return [
            np.stack([self._tensor(arena, i).T for arena in self._arenas]).astype(np.float32)
            for i in range(len(self._spec.state))
        ]

    def restore(self, state: Sequence[Floats]) -> None:
        for i, given in enumerate(state):
            for arena, values in zip(self._arenas, given, strict=True):
                self._tensor(arena, i)[...] = values.T

    def _tensor(self, arena: NDArray[np.uint8], number: int) -> NDArray[np.int16]:
        """A state within an arena, [L, C]."""
        channels, length = self._spec.state[number].shape
        first = self._places[number]
        part = arena[first : first + 2 * channels * length].view(np.int16)
        return part.reshape(length, channels)


def open_stream_net(
    graph: bytes,
    spec: DenoiseSpec,
    *,
    streams: int,
    step: int,
    exact: bool = True,
    name: str = "denoiser.onnx",
    engine: str = "auto",
    threads: int = 1,
    tuned: bytes | None = None,
) -> StreamDenoiseNet:
    """Open a stream's net.

    Args:
        graph: the file's bytes.
        spec: what the manifest says of it, held against the graph.
        streams: how many streams run in step, N.
        step: samples that go through at a time.
        exact: whether any cut gives the same bits; else the net runs step by step.
        name: what to call it in messages.
        engine: ``auto``, ``native`` or ``onnxruntime``.
        threads: threads inside one operator; the native engine has one.
        tuned: the same graph as onnxruntime runs it fastest; None for the graph itself.

    Raises:
        ConfigError: no such engine.
        ModelError: the graph cannot be opened, or has other inputs and outputs than the manifest
            says.
    """
    opened: _Engine | None = None
    ends: _Ends | None = None
    check_engine(engine)
    if engine != "onnxruntime":
        try:
            if threads != 1:
                raise UnsupportedGraphError(f"{name}: the native engine runs on one thread")
            found = native_graph(graph, name)
            _check_stream(found, spec)
            ends, opened = found, _NativeStream(found, streams, spec)
        except UnsupportedGraphError:
            opened = None
            if engine == "native":
                raise
    if opened is None or ends is None:
        session = open_graph(tuned or graph, name=name, threads=threads)
        _check_stream(session, spec)
        ends, opened = session, _OrtStream(session, streams, spec)
    return StreamDenoiseNet(
        opened,
        n_in=ends.inputs[0].shape[1] or 1,
        n_out=ends.outputs[0].shape[1] or 1,
        step=step,
        cut=exact,
    )


def _check_stream(graph: _Ends, spec: DenoiseSpec) -> None:
    """The state must be what the manifest says, or a stream would go on from nonsense."""
    inputs = [SIGNAL, *(state.name for state in spec.state)]
    outputs = [DENOISED, *(f"next_{state.name}" for state in spec.state)]
    _check_names(graph, inputs, outputs)
    for values, first in ((graph.inputs, SIGNAL), (graph.outputs, DENOISED)):
        if len(values[0].shape) != 3 or values[0].shape[1] is None or values[0].shape[2]:
            raise ModelError(
                f"{graph.name}: {first!r} has shape {list(values[0].shape)}, expected "
                "[N, channels, T] with any N and T"
            )
        for value, state in zip(values[1:], spec.state, strict=True):
            if value.shape[1:] != state.shape or value.shape[0] is not None:
                raise ModelError(
                    f"{graph.name}: {value.name!r} has shape {list(value.shape)}, the manifest "
                    f"says [N, {state.shape[0]}, {state.shape[1]}]"
                )


def _check_names(graph: _Ends, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    for values, wanted, what in (
        (graph.inputs, list(inputs), "inputs"),
        (graph.outputs, list(outputs), "outputs"),
    ):
        names = [value.name for value in values]
        if names != wanted:
            raise ModelError(f"{graph.name}: its {what} are {names}, the manifest says {wanted}")
        others = sorted({value.kind for value in values} - {"tensor(float)"})
        if others:
            raise ModelError(f"{graph.name}: {what} of {', '.join(others)}, expected float32")


class ImageDenoiseNet:
    """The net of images; a large one goes through it in tiles, to the same bits in less memory.

    Args:
        graph: the net.
        sigma: it is told the noise's level.
        reach: pixels that it looks beyond an output's place; None: nobody knows, so no tiles.

    Attributes:
        engine: ``native`` or ``onnxruntime``.
        channels: of an image.
    """

    def __init__(
        self, graph: OpenGraph | NativeGraph, *, sigma: bool, reach: int | None = None
    ) -> None:
        self._graph, self._sigma = graph, sigma
        self._margin = None if reach is None else reach + reach % 2
        self.engine = "native" if isinstance(graph, NativeGraph) else "onnxruntime"
        self.channels = graph.inputs[0].shape[1] or 1
        self._bound: OrderedDict[tuple[int, ...], BoundGraph | BoundNativeGraph] = OrderedDict()

    def run(self, image: Floats, sigma: Floats | None) -> Floats:
        """Denoise images.

        Args:
            image: float32 [N, C, H, W], whole grey levels; H and W even.
            sigma: float32 [N], grey levels, where the net is told it.

        Returns:
            float32 [N, C, H, W], a fresh array of whole numbers.

        Raises:
            ModelError: the engine fails.
        """
        h, w = image.shape[2:]
        margin = self._margin
        if margin is None or margin * 4 > _TILE or max(h, w) <= _TILE:
            return self._whole(image, sigma)
        out = np.empty_like(image)
        for y, y_from, y_to in _tiles(h, margin):
            for x, x_from, x_to in _tiles(w, margin):
                tile = self._whole(image[:, :, y : y + _TILE, x : x + _TILE], sigma)
                part = tile[:, :, y_from - y : y_to - y, x_from - x : x_to - x]
                out[:, :, y_from:y_to, x_from:x_to] = part
        return out

    def _whole(self, image: Floats, sigma: Floats | None) -> Floats:
        n, c, h, w = image.shape
        feed = [image]
        if self._sigma:
            level = np.zeros(n, np.float32) if sigma is None else sigma
            feed.append(np.broadcast_to(level[:, None, None, None], (n, 1, h // 2, w // 2)))
        bound = self._bound.get(image.shape)
        if bound is None:
            bound = self._bind(feed)
            self._bound[image.shape] = bound
            while len(self._bound) > _KEPT_SHAPES:
                self._bound.popitem(last=False)
        if isinstance(bound, BoundGraph):
            for source, values in zip(bound.sources, feed, strict=True):
                np.copyto(source, values)
            bound.run()
            return bound.targets[0].copy()
        for start, values in zip(bound.starts[:-1], feed, strict=True):
            size = values[0].size
            bound.source[:, start : start + size] = values.reshape(n, size)
        bound.run()
        return bound.target.reshape(n, c, h, w).copy()

    def _bind(self, feed: Sequence[Floats]) -> BoundGraph | BoundNativeGraph:
        if isinstance(self._graph, NativeGraph):
            return self._graph.bind(len(feed[0]), [values.shape[1:] for values in feed])
        names = [value.name for value in self._graph.inputs]
        return self._graph.bind(dict(zip(names, feed, strict=True)))


def _tiles(length: int, margin: int) -> Iterator[tuple[int, int, int]]:
    """Along one axis: where each tile begins, and from where to where its result counts."""
    at, done = 0, 0
    while done < length:
        at = min(at, max(0, length - _TILE))
        end = length if at + _TILE >= length else at + _TILE - margin
        yield at, done, end
        at, done = end - margin, end


def open_image_net(
    graph: bytes,
    spec: DenoiseSpec,
    *,
    name: str = "denoiser.onnx",
    engine: str = "auto",
    threads: int = 1,
    tuned: bytes | None = None,
) -> ImageDenoiseNet:
    """Open a net of images; arguments and errors as of [open_stream_net][]."""
    inputs = [IMAGE, SIGMA] if spec.sigma else [IMAGE]
    check_engine(engine)
    reach = graph_reach(read_onnx(graph, name=name))
    if engine != "onnxruntime":
        try:
            if threads != 1:
                raise UnsupportedGraphError(f"{name}: the native engine runs on one thread")
            found = native_graph(graph, name)
            _check_names(found, inputs, [DENOISED])
            channels = found.inputs[0].shape[1] or 1
            found.bind(1, [(channels, 16, 16), (1, 8, 8)][: len(inputs)])
            return ImageDenoiseNet(found, sigma=spec.sigma, reach=reach)
        except UnsupportedGraphError:
            if engine == "native":
                raise
    session = open_graph(tuned or graph, name=name, threads=threads)
    _check_names(session, inputs, [DENOISED])
    return ImageDenoiseNet(session, sigma=spec.sigma, reach=reach)


def stream_net(bundle: Bundle, *, streams: int) -> StreamDenoiseNet:
    """The net of a bundle's streams, on the bundle's engine.

    Raises:
        ModelError: not a bundle that denoises streams, or its graph does not fit its manifest.
    """
    spec = bundle.denoise
    return open_stream_net(
        bundle.files[_GRAPH],
        spec,
        streams=streams,
        step=spec.hop,
        exact=bundle.manifest.exact,
        engine=bundle.engine,
        threads=bundle.threads,
        tuned=_tuned(bundle),
    )


def image_net(bundle: Bundle) -> ImageDenoiseNet:
    """The net of a bundle that denoises images, on the bundle's engine.

    Raises:
        ModelError: not such a bundle, or its graph does not fit its manifest.
    """
    return open_image_net(
        bundle.files[_GRAPH],
        bundle.denoise,
        engine=bundle.engine,
        threads=bundle.threads,
        tuned=_tuned(bundle),
    )


def _tuned(bundle: Bundle) -> bytes:
    return bundle.files[bundle.manifest.run.get(_GRAPH, _GRAPH)]
