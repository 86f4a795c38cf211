"""Measure both spellings of a bundle's nets on this machine, and keep the faster for onnxruntime.

The int8 spelling is kept beside the graph it stands for, in a file of its own that the manifest
tells onnxruntime to open instead. The graph itself stays, and with it the fingerprint: bundles that
were tuned on different machines, or not at all, decode each other's streams.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeae.errors import ModelError
from edgeae.exporting.spelling import int8_spelling
from edgeae.exporting.verify import probe_windows
from edgeae.exporting.verify_denoise import probe_feed
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.session import BoundGraph, open_graph

__all__ = ["Tuning", "nets_of", "tune_nets"]

GAIN = 0.97
"""A ratio of times below this keeps the int8 spelling: what is no faster is not worth a file."""
PACKET_ITEMS = 1024
BLOCK_HOPS = 16
IMAGE_SIDE = 64
BLOCKS = 41
BLOCK_SECONDS = 0.01
PROBES = 32

Feed = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What was measured for one graph.

    Attributes:
        graph: its file.
        spelling: ``int8`` or ``integers``, whichever onnxruntime is to run.
        ratio: time of int8 over that of integers, median of alternating blocks; None where no
            layer can be int8.
        integers_us: microseconds per run in the spelling integers; None likewise.
        shape: of the first input that was run.
    """

    graph: str
    spelling: str
    ratio: float | None
    integers_us: float | None
    shape: tuple[int, ...]

    def told(self) -> str:
        """The outcome in a line.

        Example:
            >>> Tuning(
            ...     graph="encoder.onnx", spelling="int8", ratio=0.5, integers_us=30, shape=(1, 64)
            ... ).told()
            'encoder.onnx: int8 takes 0.50 of the time of integers (30.0 us for [1, 64]), kept'
        """
        if self.ratio is None or self.integers_us is None:
            return f"{self.graph}: no layer can be int8, so there is one spelling"
        kept = "kept" if self.spelling == "int8" else "not kept"
        return (
            f"{self.graph}: int8 takes {self.ratio:.2f} of the time of integers "
            f"({self.integers_us:.1f} us for {list(self.shape)}), {kept}"
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-able values."""
        return {
            "graph": self.graph,
            "spelling": self.spelling,
            "int8_over_integers": None if self.ratio is None else round(self.ratio, 3),
            "integers_us": None if self.integers_us is None else round(self.integers_us, 2),
            "shape": list(self.shape),
        }


def nets_of(bundle: Bundle) -> tuple[str, ...]:
    """The graphs of a bundle that onnxruntime may run: a codec's two nets, a denoiser's one."""
    if bundle.task == "denoise":
        return ("denoiser.onnx",)
    return () if bundle.net is None else ("encoder.onnx", "decoder.onnx")


def tune_nets(
    bundle: Bundle, *, clock: Callable[[], float] = time.perf_counter
) -> tuple[dict[str, bytes], list[Tuning]]:
    """Measure the nets of an exact bundle with onnxruntime, one thread, one window.

    Args:
        bundle: the bundle.
        clock: seconds.

    Returns:
        The files to add, ``encoder.int8.onnx`` and the like, those that are faster; and what was
        measured.

    Raises:
        ModelError: the bundle has no net, or is not exact and so has one spelling.
    """
    names = nets_of(bundle)
    if not names:
        raise ModelError(f"bundle {bundle.name!r} has no net to tune")
    if not bundle.manifest.exact:
        raise ModelError(
            f"bundle {bundle.name!r} is not exact: only exact graphs have another spelling"
        )
    files, found = {}, []
    for name in names:
        model = onnx.load_model_from_string(bundle.files[name])
        feed = _window(bundle, name, model)
        shape = next(iter(feed.values())).shape
        spelled = int8_spelling(model)
        if spelled is None:
            found.append(
                Tuning(graph=name, spelling="integers", ratio=None, integers_us=None, shape=shape)
            )
            continue
        _check_equal(bundle, name, model, spelled)
        ratio, seconds = _ratio(_bound(model, feed), _bound(spelled, feed), clock)
        keep = ratio < GAIN
        if keep:
            files[name.replace(".onnx", ".int8.onnx")] = spelled.SerializeToString()
        found.append(
            Tuning(
                graph=name,
                spelling="int8" if keep else "integers",
                ratio=ratio,
                integers_us=seconds * 1e6,
                shape=shape,
            )
        )
    return files, found


def _window(bundle: Bundle, name: str, model: onnx.ModelProto) -> Feed:
    """What is run, zeros: of a codec a radio packet or an image, of a denoiser a block or one."""
    if bundle.task == "denoise":
        rng = np.random.default_rng(0)
        some = probe_feed(bundle, model, 2, rng, steps=BLOCK_HOPS, side=IMAGE_SIDE)
        return {key: np.zeros_like(values[:1]) for key, values in some.items()}
    spec, net = bundle.signal, bundle.net
    assert net is not None
    encoder = name == "encoder.onnx"
    channels = spec.channels if encoder else net.latent_channels
    if spec.is_image:
        sides = (spec.height or 1, spec.width or 1)
        size: tuple[int, ...] = sides if encoder else net.latent_shape or (1, 1)
    else:
        items = net.fixed_window or -(-PACKET_ITEMS // net.stride) * net.stride
        size = (items if encoder else items // net.stride,)
    return {model.graph.input[0].name: np.zeros((1, channels, *size), np.float32)}


def _bound(model: onnx.ModelProto, feed: Feed) -> BoundGraph:
    return open_graph(model.SerializeToString(), name=model.graph.name).bind(feed)


def _check_equal(
    bundle: Bundle, name: str, model: onnx.ModelProto, spelled: onnx.ModelProto
) -> None:
    rng = np.random.default_rng(0)
    if bundle.task == "denoise":
        feed = probe_feed(bundle, model, PROBES, rng)
    else:
        feed = {model.graph.input[0].name: probe_windows(bundle, name, model, PROBES, rng)}
    first, second = (
        open_graph(m.SerializeToString(), name=name).run(feed) for m in (model, spelled)
    )
    if not all(map(np.array_equal, first, second)):
        raise ModelError(
            f"{name}: onnxruntime gives other bits in the int8 spelling on this machine: "
            "do not tune here, and please report it"
        )


def _ratio(
    first: BoundGraph, second: BoundGraph, clock: Callable[[], float]
) -> tuple[float, float]:
    """Median over blocks of the second's time over the first's, and the first's median seconds."""
    times: tuple[list[float], list[float]] = ([], [])
    n_runs = [1, 1]
    for block in range(-1, BLOCKS):  # the first block warms up, and tells how many runs fill one
        for which, graph in enumerate((first, second)):
            start = clock()
            for _ in range(n_runs[which]):
                graph.run()
            each = max(clock() - start, 1e-9) / n_runs[which]
            if block < 0:
                n_runs[which] = int(np.clip(BLOCK_SECONDS / each, 1, 2000))
            else:
                times[which].append(each)
    a, b = np.array(times[0]), np.array(times[1])
    return float(np.median(b / a)), float(np.median(a))
