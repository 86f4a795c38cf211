"""Bundles made by hand: small, exact, and just good enough that every frame mode is chosen.

The window code of ``series_bundle`` is the mean of every pair of samples, in sixteenths; its nets
are convolutions with integer weights, so they are exact on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeae.bitstream.cdf import logistic_shape
from edgeae.runtime.bundle import Bundle, pack_coder, write_bundle
from edgeae.runtime.causal import CausalLayer, CausalNet
from edgeae.runtime.latent_prior import LatentPrior
from edgeae.runtime.sample_prior import SamplePrior

STRIDE = 4
LATENTS = 2


def series_bundle(
    path: Path,
    *,
    channels: int = 1,
    max_rmse: Sequence[float] = (8.0,),
    grids: Sequence[Sequence[int]] = ((1, 1),),
    **changes: Any,
) -> Bundle:
    """A bundle for series with a window code and two sample priors."""
    analysis = np.zeros((LATENTS * channels, channels, STRIDE), np.float32)
    synthesis = np.zeros((channels * STRIDE, LATENTS * channels, 1), np.float32)
    for c in range(channels):
        for half in range(LATENTS):
            latent = c * LATENTS + half
            analysis[latent, c, 2 * half : 2 * half + 2] = 8
            synthesis[c * STRIDE + 2 * half : c * STRIDE + 2 * half + 2, latent] = 1
    files = {
        "encoder.onnx": _graph(
            "signal",
            "latent",
            [("Conv", {"strides": [STRIDE]}, [analysis])],
            [None, channels, None],
            [None, LATENTS * channels, None],
        ),
        "decoder.onnx": _graph(
            "latent",
            "signal",
            [
                ("Conv", {}, [synthesis]),
                ("Mul", {}, [np.float32(1 / 16)]),
                ("Round", {}, []),
                ("Reshape", {}, [np.array([0, channels, STRIDE, -1])]),
                ("Transpose", {"perm": [0, 1, 3, 2]}, []),
                ("Reshape", {}, [np.array([0, channels, -1])]),
            ],
            [None, LATENTS * channels, None],
            [None, channels, None],
        ),
    }
    priors = [sample_prior(channels), sample_prior(channels, has_code=True)]
    manifest = _manifest(
        signal={
            "kind": "series",
            "channels": channels,
            "dtype": "int16",
            "rate_hz": 360.0,
            "unit": "count",
            "grids": [list(grid) for grid in grids],
        },
        net=_net(stride=STRIDE, latent_channels=LATENTS * channels)
        | {"context": [0, 0], "max_rmse": list(max_rmse)},
        has_code=[False, True],
    )
    return _write(path, manifest, files, LATENTS * channels, priors, _wave(96, channels), changes)


def wide_bundle(path: Path, context: list[int] | None) -> Bundle:
    """Random nets whose kernels reach over many latents; good for nothing but equality."""
    rng = np.random.default_rng(7)

    def weight(*shape: int) -> np.ndarray[Any, Any]:
        return rng.integers(-3, 4, shape).astype(np.float32)

    down: list[tuple[str, dict[str, Any], list[Any]]] = [
        ("Conv", {"strides": [2], "pads": [3, 2]}, [weight(3, 1, 7)]),
        ("Mul", {}, [np.float32(1 / 16)]),
        ("Round", {}, []),
        ("Relu", {}, []),
        ("Conv", {"strides": [2], "pads": [1, 2]}, [weight(2, 3, 5)]),
    ]
    up: list[tuple[str, dict[str, Any], list[Any]]] = [
        ("Conv", {"pads": [1, 1]}, [weight(6, 2, 3)]),
        ("Mul", {}, [np.float32(1 / 128)]),
        ("Round", {}, []),
        ("Reshape", {}, [np.array([0, 3, 2, -1])]),
        ("Transpose", {"perm": [0, 1, 3, 2]}, []),
        ("Reshape", {}, [np.array([0, 3, -1])]),
        ("Conv", {"pads": [2, 2]}, [weight(2, 3, 5)]),
        ("Reshape", {}, [np.array([0, 1, 2, -1])]),
        ("Transpose", {"perm": [0, 1, 3, 2]}, []),
        ("Reshape", {}, [np.array([0, 1, -1])]),
    ]
    files = {
        "encoder.onnx": _graph("signal", "latent", down, [None, 1, None], [None, 2, None]),
        "decoder.onnx": _graph("latent", "signal", up, [None, 2, None], [None, 1, None]),
    }
    manifest = _manifest(
        signal={"kind": "series", "channels": 1, "dtype": "int16", "grids": [[1, 1]]},
        net=_net(stride=4, latent_channels=2) | {"context": context},
        has_code=[],
    )
    return _write(path, manifest, files, 2, [], _wave(40, 1), {})


def image_bundle(path: Path, *, size: int = 8, **changes: Any) -> Bundle:
    """A bundle for images of one channel: the mean of every 2 x 2 pixels, and a sample prior."""
    half = size // 2
    analysis = np.full((1, 1, 2, 2), 4, np.float32)
    synthesis = np.ones((4, 1, 1, 1), np.float32)
    files = {
        "encoder.onnx": _graph(
            "signal",
            "latent",
            [("Conv", {"strides": [2, 2]}, [analysis])],
            [None, 1, size, size],
            [None, 1, half, half],
        ),
        "decoder.onnx": _graph(
            "latent",
            "signal",
            [
                ("Conv", {}, [synthesis]),
                ("Mul", {}, [np.float32(1 / 16)]),
                ("Round", {}, []),
                ("DepthToSpace", {"blocksize": 2}, []),
            ],
            [None, 1, half, half],
            [None, 1, size, size],
        ),
    }
    manifest = _manifest(
        signal={
            "kind": "image",
            "channels": 1,
            "height": size,
            "width": size,
            "dtype": "uint8",
            "grids": [[1, 1]],
        },
        net=_net(stride=1, latent_channels=1) | {"latent_shape": [half, half]},
        has_code=[False],
    )
    golden = np.arange(2 * size * size, dtype=np.int32).reshape(2, size, size, 1) % 100
    return _write(path, manifest, files, 1, [sample_prior(1)], golden, changes)


def dense_bundle(path: Path, *, window: int = 8, **changes: Any) -> Bundle:
    """A bundle whose nets take windows of a fixed length, as dense ones do."""
    half = window // 2
    weight = np.kron(np.eye(half, dtype=np.float32), np.full((2, 1), 8, np.float32))
    files = {
        "encoder.onnx": _graph(
            "signal",
            "latent",
            [
                ("Flatten", {}, []),
                ("Gemm", {}, [weight]),
                ("Reshape", {}, [np.array([0, half, 1])]),
            ],
            [None, 1, window],
            [None, half, 1],
        ),
        "decoder.onnx": _graph(
            "latent",
            "signal",
            [
                ("Flatten", {}, []),
                ("Gemm", {}, [np.ascontiguousarray(weight.T / 8)]),
                ("Mul", {}, [np.float32(1 / 16)]),
                ("Round", {}, []),
                ("Reshape", {}, [np.array([0, 1, window])]),
            ],
            [None, half, 1],
            [None, 1, window],
        ),
    }
    manifest = _manifest(
        signal={"kind": "series", "channels": 1, "dtype": "int16", "grids": [[1, 1]]},
        net=_net(stride=window, latent_channels=half) | {"fixed_window": window},
        has_code=[],
    )
    return _write(path, manifest, files, half, [], _wave(40, 1), changes)


def prior_only_bundle(path: Path, **changes: Any) -> Bundle:
    """A bundle without nets: a sample prior alone, which needs no onnxruntime."""
    manifest = _manifest(
        signal={"kind": "series", "channels": 1, "dtype": "int16", "grids": [[1, 1]]},
        net=None,
        has_code=[False],
    )
    return _write(path, manifest, {}, 0, [sample_prior(1)], _wave(96, 1), changes)


def sample_prior(channels: int, *, has_code: bool = False, scale_index: int = 27) -> SamplePrior:
    """Predicts the last sample, or with a code the code; the scale is a constant."""
    past = [True] * channels
    if has_code:
        past += [False] * channels + [True] * channels
    past += [False] * channels  # the quantizer steps
    weight = np.zeros((2 * channels, 2, len(past)), np.int8)
    if has_code:
        for c in range(channels):
            weight[c, 0, channels + c] = 16
            weight[c, 1, 2 * channels + c] = -16
    bias = np.zeros(2 * channels, np.int32)
    bias[channels:] = scale_index
    return SamplePrior(
        net=_constant_net(weight, bias, past, peak=2047),
        shape=logistic_shape(),
        has_code=has_code,
    )


def latent_prior(channels: int) -> LatentPrior:
    """Predicts the symbol before, with a wide scale."""
    past = [True] * channels + [False]
    weight = np.zeros((2 * channels, 2, channels + 1), np.int8)
    for c in range(channels):
        weight[c, 1, c] = 16
    bias = np.zeros(2 * channels, np.int32)
    bias[channels:] = 36
    return LatentPrior(net=_constant_net(weight, bias, past, peak=127), shape=logistic_shape())


def _constant_net(
    weight: np.ndarray[Any, Any], bias: np.ndarray[Any, Any], past: list[bool], *, peak: int
) -> CausalNet:
    n_outputs = len(bias)
    head = CausalLayer(
        offsets=(0, 1), weight=weight, bias=bias, shift=np.zeros(n_outputs, np.int32), bits=0
    )
    return CausalNet(
        n_inputs=len(past),
        past=np.array(past),
        layers=(),
        head=head,
        skip_offsets=(),
        skip_weight=np.zeros((n_outputs, 0, len(past)), np.int16),
        skip_shift=np.zeros(n_outputs, np.int32),
        feature_peak=peak,
    )


def _wave(n_items: int, channels: int) -> np.ndarray[Any, Any]:
    t = np.arange(n_items)[:, None] + 5 * np.arange(channels)
    return np.rint(200 * np.sin(t / 9) + 20 * np.sin(t)).astype(np.int32)


def _net(**fields: Any) -> dict[str, Any]:
    return {
        "fixed_window": None,
        "latent_shape": None,
        "latent_max": 1 << 18,
        "steps": {"min": 1, "max": 256, "default": 16},
        "max_rmse": [8.0],
    } | fields


def _manifest(
    *, signal: dict[str, Any], net: dict[str, Any] | None, has_code: Sequence[bool]
) -> dict[str, Any]:
    ranges = [{"delta_min": 1, "delta_max": 255, "has_code": code} for code in has_code]
    return {
        "name": "tiny",
        "task": "codec",
        "exact": True,
        "codec": {"signal": signal, "net": net, "sample_priors": ranges},
    }


def _write(
    path: Path,
    manifest: dict[str, Any],
    files: dict[str, bytes],
    latent_channels: int,
    priors: list[SamplePrior],
    golden: np.ndarray[Any, Any],
    changes: dict[str, Any],
) -> Bundle:
    latent = latent_prior(latent_channels) if latent_channels else None
    files["coder.npz"] = pack_coder(latent, priors)
    files["README.md"] = b"A model for tests.\n"
    return write_bundle(path, manifest | changes, files, golden_signal=golden)


def _graph(
    source: str,
    target: str,
    nodes: list[tuple[str, dict[str, Any], list[Any]]],
    source_shape: list[int | None],
    target_shape: list[int | None],
) -> bytes:
    """A chain of nodes; each is (operator, attributes, constants after the first input)."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    made, constants, last = [], [], source
    for number, (operator, attributes, values) in enumerate(nodes):
        names = [f"c{number}_{k}" for k in range(len(values))]
        constants += [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in zip(names, values, strict=True)
        ]
        result = target if number == len(nodes) - 1 else f"t{number}"
        made.append(helper.make_node(operator, [last, *names], [result], **attributes))
        last = result
    float32 = onnx.TensorProto.FLOAT

    def axes(shape: list[int | None], prefix: str) -> list[int | str]:
        return [f"{prefix}{k}" if size is None else size for k, size in enumerate(shape)]

    graph = helper.make_graph(
        made,
        "tiny",
        [helper.make_tensor_value_info(source, float32, axes(source_shape, "i"))],
        [helper.make_tensor_value_info(target, float32, axes(target_shape, "o"))],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
