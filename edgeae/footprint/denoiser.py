"""What a denoiser costs: its net with the state it keeps, and the transform beside a mask net.

A stream's window is what a live device computes at once: one hop, or as much as is asked for. Its
net runs once per window. The transform is counted as real radix-2 transforms would cost in a C
program, a multiply-accumulate for each real multiplication, with float32 frames and tables.
"""

from __future__ import annotations

import math

from edgeae.errors import ConfigError
from edgeae.footprint.graph import LayerFootprint
from edgeae.footprint.model import ModelFootprint, Use, UseFootprint, sample_bytes
from edgeae.footprint.parts import Part, graph_part
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.stft import StftSpec

__all__ = ["IMAGE_SIZE", "denoiser_footprint"]

IMAGE_SIZE = (256, 256)
"""Height and width where nobody says and the bundle takes any."""
_FEATURE_BYTES = 2
_REAL_BYTES = 4


def denoiser_footprint(
    bundle: Bundle, *, window: int | None = None, size: tuple[int, int] | None = None
) -> ModelFootprint:
    """Costs of a bundle that denoises.

    Args:
        bundle: the model.
        window: samples per window, rounded up to whole hops, or images; None takes one hop, or one
            image.
        size: height and width of an image; None takes the bundle's, or `IMAGE_SIZE`.

    Raises:
        ConfigError: a window of no items, or a size for a stream.
        ModelError: the bundle is no denoiser, or has a graph that cannot be followed.
    """
    spec = bundle.denoise
    if window is not None and window < 1:
        raise ConfigError(f"window is {window}: expected at least 1")
    if size is not None and spec.family != "image":
        raise ConfigError(
            f"bundle {bundle.name!r} denoises streams, which have no height and width"
        )
    if spec.family == "image":
        parts, items, samples = _image_parts(bundle, window or 1, size)
    else:
        parts, items, samples = _stream_parts(bundle, window)
    frame = samples * sample_bytes(bundle.signal)
    use = UseFootprint(use=Use.DENOISE, parts=parts, buffer_bytes=2 * frame)
    rate_hz = bundle.signal.rate_hz
    return ModelFootprint(
        name=bundle.name,
        kind="bundle",
        window_items=items,
        window_samples=samples,
        parts=parts,
        uses=(use,),
        window_s=items / rate_hz if rate_hz and spec.family != "image" else None,
        file_bytes=sum(len(bundle.files[name]) for name in ("manifest.json", "denoiser.onnx")),
        exact=bundle.manifest.exact,
    )


def _image_parts(
    bundle: Bundle, count: int, size: tuple[int, int] | None
) -> tuple[tuple[Part, ...], int, int]:
    spec, signal = bundle.denoise, bundle.signal
    own = (signal.height or IMAGE_SIZE[0], signal.width or IMAGE_SIZE[1])
    height, width = (-(-side // spec.hop) * spec.hop for side in size or own)
    shapes = {"image": (count, signal.channels, height, width)}
    if spec.sigma:
        shapes["sigma"] = (count, 1, height // spec.hop, width // spec.hop)
    net = graph_part("net", bundle.files["denoiser.onnx"], shapes, file="denoiser.onnx")
    return (net,), count, count * height * width * signal.channels


def _stream_parts(bundle: Bundle, window: int | None) -> tuple[tuple[Part, ...], int, int]:
    spec, channels = bundle.denoise, bundle.signal.channels
    stft = None if spec.front_end is None else StftSpec.from_json(spec.front_end)
    hop = spec.hop * (1 if stft is None else stft.hop)
    n_hops = -(-(window or hop) // hop)
    n_in = channels if stft is None else stft.n_bands
    shapes = {"signal": (1, n_in, n_hops * spec.hop)}
    shapes |= {state.name: (1, *state.shape) for state in spec.state}
    net = graph_part(
        "net",
        bundle.files["denoiser.onnx"],
        shapes,
        input_bytes=sample_bytes(bundle.signal) if stft is None else _FEATURE_BYTES,
        held={state.name: f"next_{state.name}" for state in spec.state},
        file="denoiser.onnx",
    )
    front = () if stft is None else (_transform_part(stft, n_hops * spec.hop),)
    return (*front, net), n_hops * hop, n_hops * hop * channels


def _transform_part(stft: StftSpec, frames: int) -> Part:
    """Fourier transforms there and back, with their tapers, for so many frames of one stream."""
    n, bins = stft.window, stft.n_bins
    real_fft = n * max(1, round(math.log2(n)) - 1) + 2 * n  # of half the length, and its untangling
    tables = {"analysis": n + n, "synthesis": 0}  # taper and roots of unity, shared
    macs = {"analysis": real_fft + n + 2 * bins, "synthesis": real_fft + n + 2 * bins}
    return Part(
        name="transform",
        n_parameters=0,
        layers=tuple(
            LayerFootprint(
                name=name,
                op="STFT",
                output_shape=(frames, bins if name == "analysis" else stft.hop),
                macs=frames * macs[name],
                n_parameters=0,
                weight_bytes=_REAL_BYTES * tables[name],
                activation_bytes=_REAL_BYTES * (2 * bins if name == "analysis" else n),
            )
            for name in tables
        ),
        weight_bytes=_REAL_BYTES * sum(tables.values()),
        arena_bytes=_REAL_BYTES * (n + 2 * bins),
        # the samples before, the sums after, the spectrum that waits for its mask, the level
        state_bytes=_REAL_BYTES * (2 * (n - stft.hop) + 2 * bins + 1),
    )
