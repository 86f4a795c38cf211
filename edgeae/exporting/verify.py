"""Check a bundle's promises on this machine: the same bits from every engine.

::

    golden vectors → certificate from the graphs, input ranges → int64 engine = onnxruntime at every
    optimisation level, 1 and 2 threads, batch 1/7/64 = native kernels = torch → prior graphs =
    integer nets → C coder = Python coder → round trips in every promise
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import edgeae.native as native
from edgeae.errors import EdgeAEError, ModelError
from edgeae.exporting.certificate import NotDyadicError, certify
from edgeae.exporting.integers import run_integers
from edgeae.runtime.bundle import Bundle, read_arrays
from edgeae.runtime.causal import CausalNet
from edgeae.runtime.native_net import clones, open_native
from edgeae.runtime.pixel_prior import PixelPrior
from edgeae.runtime.sample_prior import SamplePrior
from edgeae.runtime.session import OPTIMIZATION_LEVELS, GraphSession, open_session
from edgeae.runtime.transform import MAX_INPUT
from edgeae.runtime.views import UnsupportedGraphError
from edgeae.tasks.stream import decode, encode

__all__ = ["Check", "golden_check", "guarded", "probe_windows", "verify_bundle"]

BATCHES = (1, 7, 64)
THREADS = (1, 2)

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: what was checked.
        passed: whether it holds; None where it does not apply here.
        detail: counts, or what broke.
    """

    name: str
    passed: bool | None
    detail: str


def verify_bundle(
    bundle: Bundle, *, windows: int = 64, seed: int = 0, signal: Array | None = None
) -> Iterator[Check]:
    """Run every check that applies to a bundle.

    Args:
        bundle: the bundle.
        windows: random windows per graph; half of them span the whole input range.
        seed: of the windows.
        signal: real grid indices, int32 [T, C] or [N, H, W, C], checked beside the random ones.

    Yields:
        One :class:`Check` each; ``passed`` is False on a breach.
    """
    if bundle.task == "denoise":
        from edgeae.exporting.verify_denoise import verify_denoiser

        yield from verify_denoiser(bundle, windows=windows, seed=seed)
        return
    yield guarded("golden vectors", lambda: golden_check(bundle))
    try:
        graphs = _graphs(bundle)
    except ModelError as error:
        yield Check(name="graphs", passed=False, detail=str(error))
        return
    exact = bool(bundle.manifest.exact)
    certificates: list[dict[str, Any]] = []
    for name, model in graphs.items():
        if exact:
            yield guarded(f"{name}: certificate", partial(_certificate, name, model, certificates))
            yield guarded(f"{name}: input range", partial(_input_range, bundle, name, model))
    if exact:
        stated = bundle.manifest.raw.get("certificate", [])
        yield Check(
            name="manifest: certificate",
            passed=stated == certificates,
            detail=f"{len(certificates)} sums stated"
            if stated == certificates
            else "the manifest states another certificate than the graphs give",
        )
    rng = np.random.default_rng(seed)
    for name, model in graphs.items():
        try:
            x = probe_windows(bundle, name, model, windows, rng, signal)
        except ValueError as error:
            yield Check(name=f"{name}: input shape", passed=False, detail=str(error))
            continue
        yield guarded(
            f"{name}: onnxruntime, levels, threads, batches",
            partial(_engines, model, x, exact),
        )
        if exact:
            yield guarded(f"{name}: int64 engine = onnxruntime", partial(_integers, model, x))
            yield guarded(f"{name}: native = onnxruntime", partial(_native, model, x))
            yield guarded(f"{name}: torch = onnxruntime", partial(_torch, model, x))
        plain = graphs.get(_plain(name), model)
        if plain is not model:
            yield guarded(f"{name}: = {_plain(name)}", partial(_spellings, model, plain, x))
        net = _causal_net(bundle, name)
        if net is not None:
            yield guarded(f"{name}: graph = integer net", partial(_causal, model, net, x))
    yield from _coder_checks(bundle, rng)
    yield guarded("round trips of the golden signal", partial(_round_trips, bundle))


def guarded(name: str, check: Callable[[], tuple[bool | None, str]]) -> Check:
    """The outcome of a check that may fail in any way."""
    try:
        passed, detail = check()
    except EdgeAEError as error:
        return Check(name=name, passed=False, detail=str(error))
    except Exception as error:  # a damaged model can fail in any way, and each is a breach
        return Check(name=name, passed=False, detail=f"{type(error).__name__}: {error}")
    return Check(name=name, passed=passed, detail=detail)


def _graphs(bundle: Bundle) -> dict[str, onnx.ModelProto]:
    names = sorted(n for n in bundle.files if n.endswith(".onnx"))
    found = {}
    for name in names:
        try:
            found[name] = onnx.load_model_from_string(bundle.files[name])
        except Exception as error:
            raise ModelError(f"{name} is not an ONNX graph: {error}") from error
        ends = len(found[name].graph.input), len(found[name].graph.output)
        if ends != (1, 1):
            raise ModelError(f"{name} has {ends[0]} inputs and {ends[1]} outputs, expected 1 and 1")
    return found


def golden_check(bundle: Bundle) -> tuple[bool | None, str]:
    """Whether the golden vectors come out as they should."""
    if "golden.npz" not in bundle.files:
        return None, "the bundle has none"
    differing = bundle.self_test(force=True)
    return not differing, "equal" if not differing else f"differ: {', '.join(differing)}"


def _certificate(name: str, model: onnx.ModelProto, into: list[dict[str, Any]]) -> tuple[bool, str]:
    try:
        layers = certify(model)
    except NotDyadicError as error:
        return False, str(error)
    into.extend({"graph": name, **layer.to_json()} for layer in layers)
    headroom = min(layer.headroom_bits for layer in layers)
    return True, f"{len(layers)} sums below 2^24, {headroom:.2f} bits of headroom"


def _input_range(bundle: Bundle, name: str, model: onnx.ModelProto) -> tuple[bool, str]:
    """The certificate holds for inputs up to a peak: what the runtime feeds must not exceed it."""
    peak, net, causal = _input_peak(model), bundle.net, _causal_net(bundle, name)
    name = _plain(name)
    if name == "encoder.onnx":
        fed = MAX_INPUT
    elif name == "decoder.onnx" and net is not None:
        fed = net.latent_max
    elif causal is not None:
        fed = causal.feature_peak
    else:
        return True, "not run by the runtime"
    return fed <= peak, f"the runtime feeds up to {fed}, certified to {peak}"


def _plain(name: str) -> str:
    """The graph that a file spells: ``encoder.int8.onnx`` is an ``encoder.onnx``."""
    return name.replace(".int8.onnx", ".onnx")


def _causal_net(bundle: Bundle, name: str) -> CausalNet | None:
    """The integer net that a prior's graph stands for."""
    if name == "prior.onnx":
        return None if bundle.latent_prior is None else bundle.latent_prior.net
    for number, prior in enumerate(bundle.sample_priors):
        if name == f"sample_prior_{number}.onnx":
            return prior.net
        rules = prior.adaptive if isinstance(prior, SamplePrior) else None
        if name == f"sample_prior_{number}_mixture.onnx" and rules is not None and rules.learnt:
            return rules.learnt.net
    return None


def _input_peak(model: onnx.ModelProto) -> int:
    for prop in model.metadata_props:
        if prop.key == "edgeae.input_peak":
            return int(prop.value)
    return 1 << 11


def probe_windows(
    bundle: Bundle,
    name: str,
    model: onnx.ModelProto,
    count: int,
    rng: np.random.Generator,
    signal: Array | None = None,
) -> Array:
    """Windows to feed a graph: full-range noise, small noise, walks, and real signal if given.

    Returns:
        float32, integer valued, [count, ...] in the graph's input shape.
    """
    name = _plain(name)
    shape = _input_shape(bundle, name, model)
    peak = min(_input_peak(model), MAX_INPUT)
    full = rng.integers(-peak, peak + 1, (count // 4, *shape))
    small = np.rint(rng.normal(0, 20, (count // 4, *shape)))
    walk = np.cumsum(np.rint(rng.normal(0, 8, (count // 4, *shape))), axis=-1)
    ramp = np.rint(rng.normal(0, min(peak, 2000), (count - 3 * (count // 4), *shape)))
    x = np.concatenate([full, small, walk, ramp])
    if name == "encoder.onnx":
        x[count // 4 :] += _center(bundle)
        if signal is not None:
            x = np.concatenate([x, _real_windows(bundle, signal, shape)])
    clipped: Array = np.clip(x, -peak, peak).astype(np.float32)
    return clipped


def _input_shape(bundle: Bundle, name: str, model: onnx.ModelProto) -> list[int]:
    """Shape of one window: what the graph fixes, and a few steps where it is free."""
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    spec, net = bundle.signal, bundle.net
    free = [8] * len(dims)
    if name == "encoder.onnx" and net is not None:
        free[1:] = [spec.height or 0, spec.width or 0] if spec.is_image else [8 * net.stride]
        if net.fixed_window:
            free[1:] = [net.fixed_window]
    elif name == "decoder.onnx" and net is not None and net.latent_shape is not None:
        free[1:] = list(net.latent_shape)
    elif name != "decoder.onnx":
        free[1:] = [8 * (net.stride if net else 16)]
    return [fixed or open_ for fixed, open_ in zip(dims, free, strict=True)]


def _center(bundle: Bundle) -> Array:
    centers = bundle.manifest.raw.get("setup", {}).get("center", [0])
    column = (-1, *([1] * (2 if bundle.signal.is_image else 1)))
    found: Array = np.asarray(centers, np.float64).reshape(column)
    return found


def _real_windows(bundle: Bundle, signal: Array, shape: list[int]) -> Array:
    if bundle.signal.is_image:
        return np.moveaxis(signal, 3, 1).astype(np.float64)
    count = signal.shape[0] // shape[-1]
    whole = signal[: count * shape[-1]].reshape(count, shape[-1], -1)
    windows: Array = whole.transpose(0, 2, 1).astype(np.float64)
    return windows


def _open(model: onnx.ModelProto, *, threads: int = 1, optimization: str = "all") -> GraphSession:
    return open_session(
        model.SerializeToString(),
        name=model.graph.name,
        input_name=model.graph.input[0].name,
        output_name=model.graph.output[0].name,
        threads=threads,
        optimization=optimization,
    )


def _engines(model: onnx.ModelProto, x: Array, exact: bool) -> tuple[bool, str]:
    reference = _open(model).run(x)
    worst, runs = 0.0, 0
    for level in OPTIMIZATION_LEVELS:
        for threads in THREADS:
            session = _open(model, threads=threads, optimization=level)
            for batch in BATCHES:
                part = x[: max(batch, min(len(x), 4 * batch))]
                got = np.concatenate(
                    [session.run(part[i : i + batch]) for i in range(0, len(part), batch)]
                )
                gap = float(np.abs(got - reference[: len(part)]).max())
                worst = gap if not gap <= worst else worst  # NaN stays
                runs += 1
    if exact:
        return worst == 0.0, f"{runs} settings on {len(x)} windows: " + (
            "equal bits" if worst == 0.0 else f"differ by up to {worst:g}"
        )
    scale = float(np.abs(reference).max()) or 1.0
    return worst <= 1e-3 * scale, f"{runs} settings agree within {worst / scale:.1e} of the range"


def _integers(model: onnx.ModelProto, x: Array) -> tuple[bool, str]:
    reference = _open(model).run(x)
    got = run_integers(model, x)
    equal = np.array_equal(got, reference.astype(np.int64)) and np.array_equal(
        reference, np.rint(reference)
    )
    return equal, f"{len(x)} windows: " + ("equal" if equal else "the engines differ")


def _native(model: onnx.ModelProto, x: Array) -> tuple[bool | None, str]:
    """Our own kernels, in every instruction set of this machine."""
    names, graph = clones(), model.SerializeToString()
    if not names:
        return None, "the C extension is not built"
    try:
        nets = [open_native(graph, name=model.graph.name, exact=True, clone=n) for n in names]
    except UnsupportedGraphError as error:
        return None, str(error)
    reference, differing = _open(model).run(x), []
    for net in nets:
        for batch in BATCHES:
            got = np.concatenate([net.run(x[i : i + batch]) for i in range(0, len(x), batch)])
            if not np.array_equal(got, reference):
                differing.append(f"{net.clone} in batches of {batch}")
    detail = f"{len(x)} windows on {', '.join(names)}: "
    return not differing, detail + (", ".join(differing) + " differ" if differing else "equal bits")


def _torch(model: onnx.ModelProto, x: Array) -> tuple[bool | None, str]:
    try:
        from edgeae.exporting.torch_graph import run_torch
    except ImportError:
        return None, "torch is not installed"
    reference = _open(model).run(x)
    equal = np.array_equal(run_torch(model, x), reference)
    return equal, f"{len(x)} windows: " + ("equal bits" if equal else "the engines differ")


def _spellings(model: onnx.ModelProto, plain: onnx.ModelProto, x: Array) -> tuple[bool, str]:
    equal = np.array_equal(_open(model).run(x), _open(plain).run(x))
    return equal, f"{len(x)} windows: " + ("equal bits" if equal else "the spellings differ")


def _causal(model: onnx.ModelProto, net: CausalNet, x: Array) -> tuple[bool, str]:
    equal = np.array_equal(_open(model).run(x), net.run(x.astype(np.int32)))
    return equal, f"{len(x)} windows: " + ("equal" if equal else "the engines differ")


def _round_trips(bundle: Bundle) -> tuple[bool | None, str]:
    """Code the golden signal's indices in each promise that the bundle gives."""
    if "golden.npz" not in bundle.files:
        return None, "the bundle has no golden signal"
    x = read_arrays(bundle.files["golden.npz"], "golden.npz")["signal"]
    spec = bundle.signal
    size = (spec.height or 0, spec.width or 0)
    x = x.reshape(-1, *size, spec.channels) if spec.is_image else x[0]
    done = []
    for error in (0, 1, 5) if bundle.exact else ():
        back = decode(bundle, encode(bundle, x, lossless=error == 0, max_error=error or None))
        if np.abs(back.reshape(x.shape).astype(np.int64) - x).max() > error:
            return False, f"max error {error} does not hold"
        done.append("lossless" if error == 0 else f"max error {error}")
    if bundle.net is not None:
        back = decode(bundle, encode(bundle, x)).reshape(x.shape)
        error = (back.astype(np.float64) - x).reshape(-1, spec.channels)
        rmse = np.sqrt(np.mean(error**2, axis=0))
        if (rmse > bundle.net.max_rmse).any():
            return False, f"lossy: RMSE {rmse.round(3).tolist()}, promised {bundle.net.max_rmse}"
        done.append(f"lossy at RMSE {rmse.max():.3g}")
    return True, ", ".join(done)


def _coder_checks(bundle: Bundle, rng: np.random.Generator) -> Iterator[Check]:
    for number, prior in enumerate(bundle.sample_priors):
        yield guarded(
            f"sample prior {number}: C coder = Python coder, round trip",
            partial(_sample_prior, bundle, prior, number, rng),
        )
    if bundle.latent_prior is not None:
        yield guarded(
            "latent prior: C coder = Python coder, round trip", partial(_latent_prior, bundle, rng)
        )


def _both_coders(code: Callable[[], Any]) -> tuple[Any, Any | None]:
    """A coder's result with and without the extension."""
    core = native.core
    first = code()
    if core is None:
        return first, None
    native.core = None
    try:
        return first, code()
    finally:
        native.core = core


def _sample_prior(
    bundle: Bundle, prior: Any, number: int, rng: np.random.Generator
) -> tuple[bool, str]:
    from edgeae.runtime.any_prior import decode_samples, encode_samples

    channels = bundle.signal.channels
    spec = bundle.sample_prior_ranges[number]
    total = 0
    for delta in sorted({spec.delta_min, min(spec.delta_max, 2 * spec.delta_min + 9)}):
        x = _walks(prior, channels, rng)
        u = [v + np.rint(rng.normal(0, 4, v.shape)).astype(np.int32) for v in x]
        code = u if prior.has_code else None
        fast, slow = _both_coders(partial(encode_samples, prior, x, delta, code))
        coded = [r for r in fast if r is not None]
        if len(coded) != len(x):
            return False, "a walk was refused"
        if slow is not None and [r[0] for r in fast] != [r[0] for r in slow]:
            return False, f"the bytes differ at step {delta}"
        payloads = [r[0] for r in coded]
        shapes = [v.shape[:2] for v in x]
        decoded = decode_samples(prior, payloads, shapes, delta, code)
        for v, r, d in zip(x, coded, decoded, strict=True):
            if not np.array_equal(r[1], d) or np.abs(v - d).max() > delta // 2:
                return False, f"the bound does not hold at step {delta}"
        total += sum(v.size for v in x)
    return True, f"{total} samples" + ("" if native.core else "; the C extension is not built")


def _walks(prior: Any, channels: int, rng: np.random.Generator) -> list[npt.NDArray[np.int32]]:
    """Signals that the prior can code: random walks; of levels, for a pixel prior."""
    if isinstance(prior, PixelPrior):
        levels, size = prior.net.n_outputs, prior.raster.height * prior.raster.width
        walks = np.cumsum(rng.integers(-2, 3, (2, 2, size, channels)), axis=2)
        return [w.astype(np.int32) for w in np.abs(walks) % levels + prior.low]
    steps = rng.normal(0, 12, (6, 1, 256, channels))
    return [np.cumsum(np.rint(s), axis=1).astype(np.int32) for s in steps]


def _latent_prior(bundle: Bundle, rng: np.random.Generator) -> tuple[bool, str]:
    from edgeae.runtime.latent_prior import decode_latents, encode_latents, step_condition

    net = bundle.net
    assert net is not None
    y = [
        np.rint(rng.laplace(0, 2, (1, 32, net.latent_channels))).astype(np.int32) for _ in range(8)
    ]
    cond = step_condition(net.default_step)
    prior = bundle.latent_prior
    assert prior is not None
    fast, slow = _both_coders(partial(encode_latents, prior, y, cond))
    if slow is not None and list(fast) != list(slow):
        return False, "the bytes differ"
    decoded = decode_latents(prior, fast, [v.shape[:2] for v in y], cond)
    equal = all(np.array_equal(a, b) for a, b in zip(y, decoded, strict=True))
    return equal, f"{sum(v.size for v in y)} symbols"
