"""Golden vectors: what a model gives for one signal, to the bit, and the self-test against them.

golden.npz holds

=================  ========================  =====================================================
signal             int32 [G, T, C]           grid indices that go in
latent             int32 [G, S, L]           what the analysis net gives (bundles with a net)
decoded            int32 [G, T, C]           the synthesis net's output at the default step
latent_payload     uint8                     the symbols, entropy coded
sample_payload<i>  uint8                     the signal, coded with sample prior i at its delta_min
=================  ========================  =====================================================

Those of a denoiser are in :mod:`edgeae.runtime.denoise_golden`.
A bundle that is not exact promises nothing about its nets' bits, so there only the payloads count.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import EdgeAEError, ModelError
from edgeae.runtime.any_prior import decode_samples, encode_samples
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.bundle_files import pack_arrays, read_arrays
from edgeae.runtime.latent_prior import decode_latents, encode_latents, step_condition
from edgeae.runtime.native_net import clones
from edgeae.runtime.transform import analyse, symbolize, synthesise

__all__ = ["cache_folder", "cached_self_test", "make_golden", "self_test"]

GOLDEN = "golden.npz"


def make_golden(bundle: Bundle, signal: NDArray[np.int32]) -> bytes:
    """The bytes of golden.npz for a bundle.

    Args:
        bundle: the model.
        signal: grid indices, int32: [T, C] of a series, [N, H, W, C] of images; of a denoiser,
            what its net is given.

    Raises:
        ModelError: the signal does not fit, or a sample prior cannot code it.
    """
    if bundle.task == "denoise":
        from edgeae.runtime.denoise_golden import make_denoiser_golden

        return make_denoiser_golden(bundle, signal)
    spec = bundle.signal
    x = np.ascontiguousarray(signal, dtype=np.int32)
    if spec.is_image:
        if x.ndim != 4 or x.shape[1:] != (spec.height, spec.width, spec.channels):
            raise ModelError(f"golden signal: shape {list(x.shape)} does not fit the bundle")
        x = x.reshape(x.shape[0], -1, spec.channels)
    else:
        if x.ndim != 2 or x.shape[1] != spec.channels:
            raise ModelError(f"golden signal: shape {list(x.shape)} does not fit the bundle")
        x = x[None]
    return pack_arrays({"signal": x} | _run_model(bundle, x))


def self_test(bundle: Bundle) -> tuple[str, ...]:
    """Run the golden vectors and name what differs; empty when all is well.

    A bundle without golden vectors fails: nothing says that this machine agrees.
    """
    if GOLDEN not in bundle.files:
        return (f"{GOLDEN} is missing",)
    if bundle.task == "denoise":
        from edgeae.runtime.denoise_golden import differences_of_denoiser

        try:
            return differences_of_denoiser(bundle)
        except EdgeAEError as error:
            return (str(error),)
    golden = read_arrays(bundle.files[GOLDEN], GOLDEN)
    signal = golden.get("signal")
    if signal is None or signal.dtype != np.int32 or signal.ndim != 3 or signal.size == 0:
        return (f"{GOLDEN}: no usable signal",)
    try:
        found = _run_model(bundle, signal, golden.get("latent"))
        differences = _compare(bundle, golden, found)
        if not differences:
            differences = _decode_again(bundle, golden)
    except EdgeAEError as error:
        return (str(error),)
    return tuple(differences)


def cached_self_test(bundle: Bundle, *, force: bool = False) -> tuple[str, ...]:
    """Like ``self_test``, but once per model, engine, machine and package versions."""
    mark = cache_folder() / "selftest" / _machine_key(bundle)
    if mark.is_file() and not force:
        return ()
    differences = self_test(bundle)
    if not differences:
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_bytes(b"")
        except OSError:
            pass  # a device may have no place to write; the test then runs each time
    return differences


def cache_folder() -> Path:
    """The folder for what may be forgotten: ``EDGEAE_CACHE``, or the platform's usual place."""
    chosen = os.environ.get("EDGEAE_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "edgeae"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgeae"


def _run_model(
    bundle: Bundle, x: NDArray[np.int32], latent: NDArray[Any] | None = None
) -> dict[str, NDArray[Any]]:
    """Everything the model computes for one signal; priors work on ``latent`` where it is given."""
    results: dict[str, NDArray[Any]] = {}
    decoded = None
    if bundle.net is not None and bundle.latent_prior is not None:
        (results["latent"],) = analyse(bundle, [x])
        step = bundle.net.default_step
        symbols = symbolize(results["latent"] if latent is None else latent, step)
        (decoded,) = synthesise(bundle, [symbols], step, [x.shape[1]])
        results["decoded"] = decoded
        (payload,) = encode_latents(bundle.latent_prior, [symbols], step_condition(step))
        results["latent_payload"] = np.frombuffer(payload, np.uint8)
    for number, (prior, spec) in enumerate(
        zip(bundle.sample_priors, bundle.sample_prior_ranges, strict=True)
    ):
        code = [decoded] if spec.has_code and decoded is not None else None
        (coded,) = encode_samples(prior, [x], spec.delta_min, code)
        if coded is None:
            raise ModelError("golden signal: an index is out of range")
        payload, _ = coded
        results[f"sample_payload{number}"] = np.frombuffer(payload, np.uint8)
    return results


def _compare(
    bundle: Bundle, golden: dict[str, NDArray[Any]], found: dict[str, NDArray[Any]]
) -> list[str]:
    nets = {"latent", "decoded"} if bundle.manifest.exact else set()
    names = sorted(nets | {name for name in found if "payload" in name})
    return [
        f"{name} differs from the golden vector"
        for name in names
        if name in found and not np.array_equal(golden.get(name, np.zeros(0)), found[name])
    ]


def _decode_again(bundle: Bundle, golden: dict[str, NDArray[Any]]) -> list[str]:
    """Decode the golden payloads: the decoder's half of the promise."""
    x = golden["signal"]
    differences = []
    if bundle.net is not None and bundle.latent_prior is not None:
        step = bundle.net.default_step
        symbols = symbolize(golden["latent"], step)
        (again,) = decode_latents(
            bundle.latent_prior,
            [golden["latent_payload"].tobytes()],
            [symbols.shape[:2]],
            step_condition(step),
        )
        if not np.array_equal(again, symbols):
            differences.append("latent_payload decodes to other symbols")
    for number, (prior, spec) in enumerate(
        zip(bundle.sample_priors, bundle.sample_prior_ranges, strict=True)
    ):
        code = [golden["decoded"]] if spec.has_code else None
        payload = golden[f"sample_payload{number}"].tobytes()
        (recon,) = decode_samples(prior, [payload], [x.shape[:2]], spec.delta_min, code)
        if np.max(np.abs(recon.astype(np.int64) - x)) > spec.delta_min // 2:
            differences.append(f"sample_payload{number} decodes to other samples")
    return differences


def _machine_key(bundle: Bundle) -> str:
    parts = [bundle.fingerprint.hex(), str(bundle.manifest.raw["sha256"])]
    parts += [platform.node(), platform.machine(), platform.processor(), platform.python_version()]
    parts += [bundle.engine, str(bundle.threads), *clones()]
    for package in ("edgeae", "numpy", "onnxruntime"):
        try:
            parts.append(metadata.version(package))
        except metadata.PackageNotFoundError:
            parts.append("none")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
