"""The window code: samples to symbols and back, through the bundle's two nets.

::

    segments int32 [G, T, C] --analyse--> latents int32 [G, S, L] --symbolize--> symbols int32
    symbols --dequantize--> latents --synthesise--> samples int32 [G, T, C]

A series frame is one segment (G = 1) of T time steps; a frame of images has one segment per image,
its pixels in raster order. All of it works on grid indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ModelError
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.engines import Net
from edgeae.runtime.manifest import NetSpec

__all__ = ["MAX_INPUT", "analyse", "dequantize", "n_steps", "symbolize", "synthesise"]

_MAX_INDEX = (1 << 30) - 1
MAX_INPUT = 1 << 23
"""The largest |index| that a net is fed; an analysis net is certified for it."""
_RUN_ELEMENTS = 1 << 12  # of a batch: more is no faster, and costs memory
_PIECE_ITEMS = 1 << 13


def n_steps(bundle: Bundle, n_samples: int) -> int:
    """Number S of latent vectors per segment of ``n_samples`` samples."""
    net = _net(bundle)
    if net.latent_shape is not None:
        height, width = net.latent_shape
        return height * width
    return _padded(net, n_samples) // net.stride


def analyse(bundle: Bundle, segments: Sequence[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
    """Latents of each frame, before they are rounded to symbols.

    Args:
        bundle: a bundle with a net.
        segments: per frame int32 [G, T, C].

    Returns:
        Per frame int32 [G, S, L].
    """
    net = _net(bundle)
    spec = bundle.signal
    inputs = []
    for x in segments:
        if spec.is_image:
            images = x.reshape(x.shape[0], spec.height or 0, spec.width or 0, spec.channels)
            inputs.append(images.transpose(0, 3, 1, 2))
        else:
            inputs.append(_series_windows(net, x))
    outputs = _run(bundle, "encoder", inputs, stride=net.stride, growth=Fraction(1, net.stride))
    latents = []
    for x, output in zip(segments, outputs, strict=True):
        flat = output.reshape(output.shape[0], net.latent_channels, -1).transpose(0, 2, 1)
        flat = flat.reshape(x.shape[0], -1, net.latent_channels)
        latents.append(_whole(flat, net.latent_max))
    return latents


def symbolize(latents: NDArray[np.int32], step: int) -> NDArray[np.int32]:
    """Round latents to multiples of ``step``, half away from zero: y = sign(l) (2|l| + m) // 2m."""
    wide = latents.astype(np.int64)
    whole: NDArray[np.int64] = np.sign(wide) * ((2 * np.abs(wide) + step) // (2 * step))
    return whole.astype(np.int32)


def dequantize(symbols: NDArray[np.int32], step: int, latent_max: int) -> NDArray[np.int32]:
    """The latents that symbols stand for: clip(y m, -latent_max, latent_max)."""
    wide = symbols.astype(np.int64) * step
    return _limited(wide, latent_max).astype(np.int32)


def synthesise(
    bundle: Bundle, symbols: Sequence[NDArray[np.int32]], step: int, n_samples: Sequence[int]
) -> list[NDArray[np.int32]]:
    """Samples that symbols stand for.

    Args:
        bundle: a bundle with a net.
        symbols: per frame int32 [G, S, L].
        step: the quantizer step m of the latents.
        n_samples: per frame the segment length T.

    Returns:
        Per frame int32 [G, T, C] of grid indices.
    """
    net = _net(bundle)
    spec = bundle.signal
    inputs: list[NDArray[np.int32]] = []
    for y in symbols:
        latents = dequantize(y, step, net.latent_max)
        if spec.is_image:
            height, width = net.latent_shape or (1, y.shape[1])
            shaped = latents.reshape(-1, height, width, net.latent_channels)
            inputs.append(shaped.transpose(0, 3, 1, 2))
        else:
            per_window = (net.fixed_window or y.shape[1] * net.stride) // net.stride
            inputs.append(latents.reshape(-1, per_window, net.latent_channels).transpose(0, 2, 1))
    outputs = _run(bundle, "decoder", inputs, stride=1, growth=Fraction(net.stride))
    results = []
    for y, length, output in zip(symbols, n_samples, outputs, strict=True):
        channels = output.transpose(0, *range(2, output.ndim), 1)
        flat = channels.reshape(y.shape[0], -1, spec.channels)[:, :length]
        if flat.shape[1] != length:
            raise ModelError(
                f"decoder.onnx gave {flat.shape[1]} samples, expected at least {length}"
            )
        results.append(_whole(flat, _MAX_INDEX))
    return results


def _limited(values: NDArray[Any], peak: int) -> NDArray[Any]:
    """Clip to +-peak; np.clip does the same, and takes several times as long for one frame."""
    found: NDArray[Any] = np.maximum(np.minimum(values, peak), -peak)
    return found


def _whole(values: NDArray[np.float32], peak: int) -> NDArray[np.int32]:
    """The nearest integers within +-peak; NaN, which no exact net gives, becomes 0."""
    whole = np.rint(values)
    if np.isnan(whole.min(initial=0)):
        whole = np.nan_to_num(whole, nan=0.0)
    return _limited(whole, peak).astype(np.int32)


def _net(bundle: Bundle) -> NetSpec:
    if bundle.net is None:
        raise ModelError(f"bundle {bundle.name!r} has no net")
    return bundle.net


def _padded(net: NetSpec, n_samples: int) -> int:
    unit = net.fixed_window or net.stride
    return -(-n_samples // unit) * unit


def _series_windows(net: NetSpec, x: NDArray[np.int32]) -> NDArray[np.int32]:
    """[1, T, C] to [N, C, W], padded by repeating the last item; one window unless W is fixed."""
    padding = _padded(net, x.shape[1]) - x.shape[1]
    whole = np.concatenate([x, np.repeat(x[:, -1:], padding, axis=1)], axis=1) if padding else x
    window = net.fixed_window or whole.shape[1]
    return whole.reshape(-1, window, x.shape[2]).transpose(0, 2, 1)


def _run(
    bundle: Bundle,
    which: str,
    inputs: list[NDArray[np.int32]],
    *,
    stride: int,
    growth: Fraction,
) -> list[NDArray[np.float32]]:
    """Run a net over every input [N, C, ...], a bounded number of elements at a time.

    Long series are cut into pieces that overlap by what the net looks at, and what only a cut end
    could see is dropped: the result is that of one run, in less memory and from a warm cache.

    Args:
        bundle: the model.
        which: encoder or decoder.
        inputs: batches.
        stride: places where an input may be cut are multiples of it.
        growth: length of an output over that of its input.
    """
    net = _net(bundle)
    if net.context is None or bundle.signal.is_image or net.fixed_window is not None:
        return _run_batches(bundle, which, inputs)
    context = net.context[0] if which == "encoder" else net.context[1]
    context = -(-context // stride) * stride
    items = 1 if which == "encoder" else net.stride
    length = max(_PIECE_ITEMS // items, 4 * context)
    length = -(-length // stride) * stride
    if all(values.shape[2] <= length for values in inputs):
        return _run_batches(bundle, which, inputs)
    pieces: list[NDArray[np.int32]] = []
    cuts: list[list[slice]] = []
    for values in inputs:
        total = values.shape[2]
        cuts.append([])
        for begin in range(0, total, length):
            end = min(begin + length, total)
            low, high = max(begin - context, 0), min(end + context, total)
            pieces.append(values[:, :, low:high])
            kept = slice(int((begin - low) * growth), int((end - low) * growth))
            cuts[-1].append(kept)
    outputs = iter(_run_batches(bundle, which, pieces))
    results = []
    for kept_parts in cuts:
        parts = [next(outputs)[:, :, kept] for kept in kept_parts]
        results.append(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2))
    return results


def _run_batches(
    bundle: Bundle, which: str, inputs: list[NDArray[np.int32]]
) -> list[NDArray[np.float32]]:
    """Run a net over every input, equal shapes together."""
    session = bundle.encoder() if which == "encoder" else bundle.decoder()
    if len(inputs) == 1:
        return [_run_rows(session, inputs[0])]
    outputs: list[NDArray[np.float32] | None] = [None] * len(inputs)
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for number, values in enumerate(inputs):
        by_shape.setdefault(values.shape[1:], []).append(number)
    for numbers in by_shape.values():
        whole = _run_rows(session, np.concatenate([inputs[number] for number in numbers]))
        begin = 0
        for number in numbers:
            outputs[number] = whole[begin : begin + len(inputs[number])]
            begin += len(inputs[number])
    return [output for output in outputs if output is not None]


def _run_rows(session: Net, rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """Run a net over rows of one shape, a bounded number of elements at a time."""
    at_once = max(1, _RUN_ELEMENTS // prod(rows.shape[1:]))
    parts = []
    for begin in range(0, max(len(rows), 1), at_once):
        part = rows[begin : begin + at_once]
        fed = np.empty(part.shape, np.float32)
        fed[...] = _limited(part, MAX_INPUT)
        parts.append(session.run(fed))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
