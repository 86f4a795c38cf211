"""Small denoisers with random weights, calibrated and exported: enough for every law."""

from __future__ import annotations

import numpy as np
import torch

from edgeae.exporting.denoise import export_denoiser
from edgeae.models.denoise import ImageNet, ImageSpec, StreamNet, StreamSpec
from edgeae.models.dyadic import calibrating, set_quantized
from edgeae.models.mask import MaskNet, MaskSpec
from edgeae.runtime.stft import StftFrontEnd, StftSpec

STFT = StftSpec(window=32, hop=16, fine=5, double=2)


def quantized(net, *inputs):
    with torch.no_grad(), calibrating(net):
        net(*inputs)
    net.connect()
    set_quantized(net, True)
    return net


def stream_net(seed=1, peak=900, **fields):
    torch.manual_seed(seed)
    shape = {"width": 12, "dilations": (1, 2, 4), "delay": 5, **fields}
    net = StreamNet(StreamSpec(**shape))
    x = torch.randint(-peak, peak, (3, net.spec.n_in, 64 * net.spec.hop)).float()
    return quantized(net, x, net.initial_state(3))


def mask_fields(**more):
    bands = STFT.n_bands
    return {
        "n_in": bands, "n_out": bands, "hop": 1, "first": 1, "width": 8, "dilations": (1, 2),
        "delay": 0, "exponent": 6, "input_bits": 10, "out_bits": 9, "out_relu": True,
        "out_exponent": STFT.mask_exponent, **more,
    }  # fmt: skip


def plain_mask_net():
    return quantized_mask(lambda: StreamNet(StreamSpec(**mask_fields())))


def speech_net():
    return quantized_mask(lambda: MaskNet(MaskSpec(**mask_fields(guides=2, planes=5))))


def quantized_mask(build, seed=2):
    torch.manual_seed(seed)
    net = build()
    x = np.random.default_rng(seed).normal(0, 0.1, (1, 40 * STFT.hop))
    features = torch.from_numpy(StftFrontEnd(STFT).analyse(x))
    return quantized(net, features, net.initial_state(1))


def image_net(seed=3, **fields):
    torch.manual_seed(seed)
    net = ImageNet(ImageSpec(width=8, depth=2, **fields))
    x = torch.randint(0, 256, (2, net.spec.channels, 16, 16)).float()
    return quantized(net, x, torch.tensor([15.0, 50.0]))


def stream_bundle(path, **fields):
    net = stream_net(center=(30,), shift=(0,), **fields)
    return export_denoiser(net, path, name="stream", signal={"rate_hz": 360.0})


def three_axes_bundle(path):
    net = stream_net(n_in=3, n_out=3, hop=2, first=6, center=(3, -5, 0), shift=(0, 1, 0))
    grids = [[1, 100], [1, 100], [1, 50]]
    signal = {"rate_hz": 100.0, "dtype": "float32", "grids": grids, "unit": "g"}
    return export_denoiser(net, path, name="axes", signal=signal)


def speech_bundle(path):
    signal = {"rate_hz": 16000.0}
    return export_denoiser(
        speech_net(), path, name="speech", signal=signal, front_end=STFT.to_json()
    )


def image_bundle(path, **fields):
    return export_denoiser(image_net(**fields), path, name="image", signal={})
