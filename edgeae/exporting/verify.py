"""Check a bundle's promises on this machine: the same bits from every engine.

::

    hashes, golden vectors → certificate from the graphs → int64 engine = onnxruntime at every
    optimisation level, 1 and 2 threads, batch 1/7/64 = torch → prior graphs = integer nets →
    C coder = Python coder → a lossless and a bounded round trip
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import edgeae.native as native
from edgeae.errors import EdgeAEError
from edgeae.exporting.certificate import NotDyadicError, certify, run_integers
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.session import OPTIMIZATION_LEVELS, GraphSession, open_session

__all__ = ["Check", "test_windows", "verify_bundle"]

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
    yield _guarded("golden vectors", lambda: _golden(bundle))
    graphs = _graphs(bundle)
    exact = bool(bundle.manifest.exact)
    certificates: list[dict[str, Any]] = []
    for name, model in graphs.items():
        if exact:
            yield _guarded(
                f"{name}: certificate", lambda n=name, m=model: _certificate(n, m, certificates)
            )
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
        x = test_windows(bundle, name, model, windows, rng, signal)
        yield _guarded(
            f"{name}: onnxruntime, levels, threads, batches",
            lambda m=model, v=x: _engines(m, v, exact),
        )
        if exact:
            yield _guarded(
                f"{name}: int64 engine = onnxruntime", lambda m=model, v=x: _integers(m, v)
            )
            yield _guarded(f"{name}: torch = onnxruntime", lambda m=model, v=x: _torch(m, v))
    yield from _coder_checks(bundle, rng)


def _guarded(name: str, check: Callable[[], tuple[bool | None, str]]) -> Check:
    try:
        passed, detail = check()
    except EdgeAEError as error:
        return Check(name=name, passed=False, detail=str(error))
    return Check(name=name, passed=passed, detail=detail)


def _graphs(bundle: Bundle) -> dict[str, onnx.ModelProto]:
    names = sorted(n for n in bundle.files if n.endswith(".onnx"))
    return {n: onnx.load_model_from_string(bundle.files[n]) for n in names}


def _golden(bundle: Bundle) -> tuple[bool | None, str]:
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


def _input_peak(model: onnx.ModelProto) -> int:
    for prop in model.metadata_props:
        if prop.key == "edgeae.input_peak":
            return int(prop.value)
    return 1 << 11


def test_windows(
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
    net = bundle.manifest.net
    shape = [d.dim_value or 0 for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    length = 8 * (net.stride if net else 16)
    if name == "encoder.onnx" and bundle.signal.is_image:
        shape = [shape[0], bundle.signal.height or 0, bundle.signal.width or 0]
    elif name == "decoder.onnx" and net is not None and net.latent_shape is not None:
        shape = [shape[0], *net.latent_shape]
    else:
        if name == "decoder.onnx":
            length = 8
        if net is not None and net.fixed_window and name == "encoder.onnx":
            length = net.fixed_window
        shape = [shape[0], max(length, 8) if name != "decoder.onnx" else length]
    peak = min(_input_peak(model), 1 << 23)
    full = rng.integers(-peak, peak + 1, (count // 4, *shape))
    small = np.rint(rng.normal(0, 20, (count // 4, *shape)))
    walk = np.cumsum(np.rint(rng.normal(0, 8, (count // 4, *shape))), axis=-1)
    ramp = np.rint(rng.normal(0, min(peak, 2000), (count - 3 * (count // 4), *shape)))
    x = np.concatenate([full, small, walk, ramp])
    if name == "encoder.onnx":
        x[count // 4 :] += _center(bundle)
        if signal is not None:
            x = np.concatenate([x, _real_windows(bundle, signal, shape)])
    return np.clip(x, -peak, peak).astype(np.float32)


def _center(bundle: Bundle) -> Array:
    centers = bundle.manifest.raw.get("setup", {}).get("center", [0])
    return np.asarray(centers, np.float64).reshape(
        -1, *([1] * (2 if bundle.signal.is_image else 1))
    )


def _real_windows(bundle: Bundle, signal: Array, shape: list[int]) -> Array:
    if bundle.signal.is_image:
        return np.moveaxis(signal, 3, 1).astype(np.float64)
    count = signal.shape[0] // shape[-1]
    whole = signal[: count * shape[-1]].reshape(count, shape[-1], -1)
    return whole.transpose(0, 2, 1).astype(np.float64)


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
                worst = max(worst, float(np.abs(got - reference[: len(part)]).max()))
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


def _torch(model: onnx.ModelProto, x: Array) -> tuple[bool | None, str]:
    try:
        from edgeae.exporting.torch_graph import run_torch
    except ImportError:
        return None, "torch is not installed"
    reference = _open(model).run(x)
    equal = np.array_equal(run_torch(model, x), reference)
    return equal, f"{len(x)} windows: " + ("equal bits" if equal else "the engines differ")


def _coder_checks(bundle: Bundle, rng: np.random.Generator) -> Iterator[Check]:
    for number, prior in enumerate(bundle.sample_priors):
        yield _guarded(
            f"sample prior {number}: C coder = Python coder, round trip",
            lambda p=prior, n=number: _sample_prior(bundle, p, n, rng),
        )
    if bundle.latent_prior is not None:
        yield _guarded(
            "latent prior: C coder = Python coder, round trip", lambda: _latent_prior(bundle, rng)
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
    from edgeae.runtime.sample_prior import decode_samples, encode_samples

    channels = bundle.signal.channels
    spec = bundle.sample_prior_ranges[number]
    total = 0
    for delta in sorted({spec.delta_min, min(spec.delta_max, 2 * spec.delta_min + 9)}):
        steps = rng.normal(0, 12, (6, 1, 256, channels))
        x = [np.cumsum(np.rint(s), axis=1).astype(np.int32) for s in steps]
        u = [v + np.rint(rng.normal(0, 4, v.shape)).astype(np.int32) for v in x]
        code = u if prior.has_code else None
        fast, slow = _both_coders(lambda d=delta, v=x, c=code: encode_samples(prior, v, d, c))
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


def _latent_prior(bundle: Bundle, rng: np.random.Generator) -> tuple[bool, str]:
    from edgeae.runtime.latent_prior import decode_latents, encode_latents, step_condition

    net = bundle.manifest.net
    assert net is not None
    y = [
        np.rint(rng.laplace(0, 2, (1, 32, net.latent_channels))).astype(np.int32) for _ in range(8)
    ]
    cond = step_condition(net.default_step)
    prior = bundle.latent_prior
    assert prior is not None
    fast, slow = _both_coders(lambda: encode_latents(prior, y, cond))
    if slow is not None and list(fast) != list(slow):
        return False, "the bytes differ"
    decoded = decode_latents(prior, fast, [v.shape[:2] for v in y], cond)
    equal = all(np.array_equal(a, b) for a, b in zip(y, decoded, strict=True))
    return equal, f"{sum(v.size for v in y)} symbols"
