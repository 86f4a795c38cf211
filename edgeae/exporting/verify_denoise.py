"""Check a denoiser's promises on this machine.

::

    golden vectors → certificate from the graph, ranges of inputs and states → int64 engine =
    onnxruntime at every optimisation level, 1 and 2 threads, batch 1/7 = native kernels = torch →
    a stream cut at random, saved and restored = the whole, on every engine
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeae.errors import ModelError
from edgeae.exporting.certificate import certify, input_peaks, output_peaks
from edgeae.exporting.integers import run_integers_of
from edgeae.exporting.verify import Check, golden_check, guarded
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.native_graph import NativeGraph
from edgeae.runtime.native_net import clones
from edgeae.runtime.session import OPTIMIZATION_LEVELS, open_graph
from edgeae.runtime.views import UnsupportedGraphError
from edgeae.tasks.denoise import Denoiser, denoise

__all__ = ["probe_feed", "verify_denoiser"]

_BATCHES = (1, 7)
_THREADS = (1, 2)
_STEPS = 24
_SIDE = 32
_CUTS = 40

Array = npt.NDArray[Any]
Feed = dict[str, Array]
Outcome = tuple[bool | None, str]


def verify_denoiser(bundle: Bundle, *, windows: int = 64, seed: int = 0) -> Iterator[Check]:
    """Run every check that applies to a denoiser.

    Args:
        bundle: the bundle.
        windows: random windows, with random states, to run every engine on; half of them span the
            whole range.
        seed: of the windows.

    Yields:
        One :class:`~edgeae.exporting.verify.Check` each.
    """
    yield guarded("golden vectors", lambda: golden_check(bundle))
    graphs = {}
    for name in sorted(n for n in bundle.files if n.endswith(".onnx")):
        try:
            graphs[name] = onnx.load_model_from_string(bundle.files[name])
        except Exception as error:
            yield Check(name="graphs", passed=False, detail=f"{name} is not an ONNX graph: {error}")
            return
    yield guarded("manifest: certificate", lambda: _certificate(bundle, graphs))
    model = graphs["denoiser.onnx"]
    rng = np.random.default_rng(seed)
    try:
        feed = probe_feed(bundle, model, max(windows, 2 * max(_BATCHES)), rng)
    except (ModelError, ValueError) as error:
        yield Check(name="denoiser.onnx: inputs", passed=False, detail=str(error))
        return
    for name, graph in graphs.items():
        yield guarded(f"{name}: ranges of inputs and states", partial(_ranges, bundle, graph))
        yield guarded(
            f"{name}: onnxruntime, levels, threads, batches", partial(_engines, graph, feed)
        )
        yield guarded(f"{name}: int64 engine = onnxruntime", partial(_integers, graph, feed))
        yield guarded(f"{name}: native = onnxruntime", partial(_native, graph, feed))
        yield guarded(f"{name}: torch = onnxruntime", partial(_torch, graph, feed))
        if graph is not model:
            yield guarded(f"{name}: = denoiser.onnx", partial(_spellings, graph, model, feed))
    for engine in ("onnxruntime", "native"):
        if bundle.signal.is_image:
            yield guarded(f"images of odd sizes, {engine}", partial(_images, bundle, engine, rng))
        else:
            yield guarded(
                f"cut at random, saved and restored = whole, {engine}",
                partial(_cuts, bundle, engine, rng),
            )


def probe_feed(
    bundle: Bundle,
    model: onnx.ModelProto,
    count: int,
    rng: np.random.Generator,
    *,
    steps: int = _STEPS,
    side: int = _SIDE,
) -> Feed:
    """Random inputs and states of a graph: half over the whole range, half small.

    Args:
        bundle: the denoiser.
        model: its graph.
        count: windows.
        rng: decides them.
        steps: hops of a stream in a window.
        side: of an image.

    Returns:
        float32, integer valued, per input [count, ...].
    """
    spec, peaks = bundle.denoise, input_peaks(model)
    feed: Feed = {}
    for source in model.graph.input:
        name = source.name
        shape = [d.dim_value for d in source.type.tensor_type.shape.dim][1:]
        if bundle.signal.is_image:
            length = side // spec.hop if name == "sigma" else side
            shape = [shape[0], length, length]
        elif name == "signal":
            shape[1] = steps * spec.hop
        peak = int(peaks[name])
        low = 0 if name == "sigma" else -peak
        wide = rng.integers(low, peak + 1, (count // 2, *shape))
        small = np.rint(rng.normal(0, min(peak, 300) / 2, (count - count // 2, *shape)))
        feed[name] = np.clip(np.concatenate([wide, small]), low, peak).astype(np.float32)
    return feed


def _certificate(bundle: Bundle, graphs: Mapping[str, onnx.ModelProto]) -> Outcome:
    found = [
        {"graph": name, **layer.to_json()}
        for name, model in graphs.items()
        for layer in certify(model)
    ]
    if found != bundle.manifest.raw.get("certificate"):
        return False, "the manifest states another certificate than the graphs give"
    headroom = min(layer["headroom_bits"] for layer in found)
    return True, f"{len(found)} sums below 2^24, {headroom:.2f} bits of headroom"


def _ranges(bundle: Bundle, model: onnx.ModelProto) -> Outcome:
    """What the runtime feeds is certified, and a state that comes out may go in again."""
    spec, fed, given = bundle.denoise, input_peaks(model), output_peaks(model)
    first = model.graph.input[0].name
    if spec.input_peak > fed[first]:
        return False, f"the runtime feeds up to {spec.input_peak}, certified to {fed[first]:.0f}"
    for state in spec.state:
        leaves = given.get(f"next_{state.name}", np.inf)
        if leaves > fed.get(state.name, 0) or state.peak > fed.get(state.name, 0):
            return False, (
                f"{state.name} may come out as {leaves:.0f} and is stated as {state.peak}, but "
                f"certified to {fed.get(state.name, 0):.0f}"
            )
    return True, f"{first} up to {spec.input_peak}, {len(spec.state)} states"


def _run(model: onnx.ModelProto, feed: Feed, **options: Any) -> list[Array]:
    return open_graph(model.SerializeToString(), name="denoiser.onnx", **options).run(feed)


def _part(feed: Feed, begin: int, end: int) -> Feed:
    return {name: values[begin:end] for name, values in feed.items()}


def _same(found: list[Array], wanted: list[Array]) -> bool:
    return len(found) == len(wanted) and all(map(np.array_equal, found, wanted))


def _engines(model: onnx.ModelProto, feed: Feed) -> Outcome:
    graph, count = model.SerializeToString(), len(next(iter(feed.values())))
    wanted, runs = _run(model, feed), 0
    for level in OPTIMIZATION_LEVELS:
        for threads in _THREADS:
            session = open_graph(graph, name="denoiser.onnx", threads=threads, optimization=level)
            for batch in _BATCHES:
                end = min(count, 2 * batch)
                parts = [session.run(_part(feed, i, i + batch)) for i in range(0, end, batch)]
                found = [np.concatenate(column)[:end] for column in zip(*parts, strict=True)]
                runs += 1
                if not _same(found, [values[: len(found[0])] for values in wanted]):
                    return False, f"level {level}, {threads} thread(s), batch {batch} differs"
    return True, f"{runs} settings on {count} windows: equal bits"


def _integers(model: onnx.ModelProto, feed: Feed) -> Outcome:
    some = _part(feed, 0, 16)
    some = {n: np.concatenate([v, feed[n][-16:]]) for n, v in some.items()}
    equal = _same(
        [values.astype(np.float32) for values in run_integers_of(model, some)], _run(model, some)
    )
    return equal, "equal" if equal else "the engines differ"


def _native(model: onnx.ModelProto, feed: Feed) -> Outcome:
    names, graph = clones(), model.SerializeToString()
    if not names:
        return None, "the C extension is not built"
    wanted, count = _run(model, feed), len(next(iter(feed.values())))
    flat = np.concatenate([values.reshape(count, -1) for values in wanted], axis=1)
    for clone in names:
        try:
            net = NativeGraph(graph, name="denoiser.onnx", clone=clone)
            bound = net.bind(count, [values.shape[1:] for values in feed.values()])
        except UnsupportedGraphError as error:
            return None, str(error)
        bound.source[:] = np.concatenate([v.reshape(count, -1) for v in feed.values()], axis=1)
        bound.run()
        if not np.array_equal(bound.target, flat):
            return False, f"{clone} differs"
    return True, f"{count} windows on {', '.join(names)}: equal bits"


def _torch(model: onnx.ModelProto, feed: Feed) -> Outcome:
    try:
        from edgeae.exporting.torch_graph import run_torch_of
    except ImportError:
        return None, "torch is not installed"
    equal = _same(run_torch_of(model, feed), _run(model, feed))
    return equal, "equal bits" if equal else "the engines differ"


def _spellings(model: onnx.ModelProto, plain: onnx.ModelProto, feed: Feed) -> Outcome:
    equal = _same(_run(model, feed), _run(plain, feed))
    return equal, "equal bits" if equal else "the spellings differ"


def _on(bundle: Bundle, engine: str) -> Bundle:
    return Bundle.from_files(bundle.files, engine=engine)


def _cuts(bundle: Bundle, engine: str, rng: np.random.Generator) -> Outcome:
    try:
        denoiser = Denoiser(_on(bundle, engine))
    except UnsupportedGraphError as error:
        return None, str(error)
    length = 4 * denoiser.delay_samples + 3000
    walk = np.cumsum(rng.normal(0, 40, (length, bundle.signal.channels)), axis=0)
    x = np.clip(np.rint(walk), -(2**15), 2**15 - 1).astype(np.int16)
    whole = np.concatenate([denoiser.process(x), denoiser.flush()])
    cuts = np.sort(rng.integers(0, length + 1, _CUTS))
    parts = []
    for piece in np.split(x, cuts):
        parts.append(denoiser.process(piece))
        state = denoiser.state()
        denoiser.reset()
        denoiser.restore(state)
    parts.append(denoiser.flush())
    equal = np.array_equal(np.concatenate(parts), whole)
    return equal, f"{length} samples in {_CUTS + 1} blocks: " + (
        "equal bits" if equal else "differ"
    )


def _images(bundle: Bundle, engine: str, rng: np.random.Generator) -> Outcome:
    model = _on(bundle, engine)
    channels, sizes = model.signal.channels, ((1, 1), (7, 10), (33, 48))
    try:
        for height, width in sizes:
            x = rng.integers(0, 256, (2, height, width, channels)).astype(model.signal.dtype)
            both = denoise(model, x)
            apart = np.concatenate([denoise(model, x[i : i + 1]) for i in range(2)])
            if both.shape != x.shape or not np.array_equal(both, apart):
                return False, f"{height} x {width}: two at once differ from each alone"
    except UnsupportedGraphError as error:
        return None, str(error)
    return True, ", ".join(f"{h} x {w}" for h, w in sizes) + ": two at once = each alone"
