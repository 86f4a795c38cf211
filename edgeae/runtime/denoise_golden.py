"""Golden vectors of a denoiser: what its net gives for one signal, to the bit.

golden.npz holds, at the graph's own ends,

=========  ======================================  =================================================
signal     int32 [C, T] or [N, C, H, W]            what the net is given, from a state of zeros
sigma      int32 [N]                               what an image's net is told
denoised   int32, likewise                         what it gives
=========  ======================================  =================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ModelError
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.bundle_files import pack_arrays, read_arrays
from edgeae.runtime.denoise_net import image_net, stream_net

__all__ = ["differences_of_denoiser", "make_denoiser_golden"]

_SIGMA = 25


def make_denoiser_golden(bundle: Bundle, signal: NDArray[np.int32]) -> bytes:
    """The bytes of golden.npz.

    Args:
        bundle: a denoiser.
        signal: what its net is given: int32 [C, T], T a multiple of the hop, or [N, C, H, W].

    Raises:
        ModelError: the signal does not fit.
    """
    x = np.ascontiguousarray(signal, dtype=np.int32)
    arrays: dict[str, NDArray[Any]] = {"signal": x}
    if bundle.signal.is_image:
        arrays["sigma"] = np.full(len(x), _SIGMA, np.int32)
    return pack_arrays(arrays | {"denoised": _run(bundle, arrays)})


def differences_of_denoiser(bundle: Bundle) -> tuple[str, ...]:
    """What differs on this machine; empty when all is well."""
    golden = read_arrays(bundle.files["golden.npz"], "golden.npz")
    found = _run(bundle, golden)
    if np.array_equal(found, golden.get("denoised", np.zeros(0))):
        return ()
    return ("denoised differs from the golden vector",)


def _run(bundle: Bundle, arrays: dict[str, NDArray[Any]]) -> NDArray[np.int32]:
    x = arrays.get("signal", np.zeros(0))
    spec = bundle.denoise
    wanted = 4 if bundle.signal.is_image else 2
    sides = x.shape[2:] if bundle.signal.is_image else x.shape[1:]
    if x.ndim != wanted or x.size == 0 or any(side % spec.hop for side in sides):
        raise ModelError(f"golden signal: shape {list(x.shape)} does not fit the bundle")
    values = x.astype(np.float32)
    if bundle.signal.is_image:
        sigma = arrays.get("sigma", np.zeros(len(x))).astype(np.float32)
        images = image_net(bundle)
        if x.shape[1] != images.channels or sigma.shape != (len(x),):
            raise ModelError(f"golden signal: shape {list(x.shape)} does not fit the bundle")
        return _whole(images.run(values, sigma))
    net = stream_net(bundle, streams=1)
    if x.shape[0] != net.n_in:
        raise ModelError(f"golden signal: shape {list(x.shape)} does not fit the bundle")
    return _whole(net.run(values[None])[0])


def _whole(values: NDArray[np.float32]) -> NDArray[np.int32]:
    return values.astype(np.int32)
