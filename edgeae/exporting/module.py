"""Export a user's own torch encoder/decoder pair, of any architecture.

::

    example ─ layout, grid ─► wrapped pair: grid indices ─ encoder ─► latents ─ decoder ─► indices
    wrapped pair ─ torch.onnx ─ static QDQ (or float) ─► graphs ─► latents counted, error measured

The graphs are measured as they will run, in onnxruntime. They are exact only if the certificate
says so; otherwise the bundle states ``exact: false``, and its streams are lossy or classical.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from edgeae.bitstream.cdf import N_SCALES
from edgeae.errors import ConfigError, ModelError, SignalError
from edgeae.exporting.card import model_card
from edgeae.exporting.certificate import NotDyadicError, certify
from edgeae.exporting.freeze import frozen
from edgeae.exporting.onnx_export import to_onnx
from edgeae.models.transforms import LATENT_PEAK
from edgeae.quantize.tables import shape_from_bins
from edgeae.runtime.bundle import Bundle, pack_coder, write_bundle
from edgeae.runtime.latent_prior import LatentPrior, encode_latents, step_condition
from edgeae.runtime.session import GraphSession, open_session
from edgeae.runtime.transform import MAX_INPUT, dequantize, symbolize
from edgeae.signal.grid import Grid, detect_grid, fallback_grid

__all__ = ["Layout", "export_module", "export_pair", "write_pair"]

BASE_STEP = 16
SYMBOLS_PER_RMS = 8.0
CALIBRATION_ITEMS = 256
EXAMPLE_ITEMS = 4096
RMSE_GUARD = 4.0
MAX_CHANNELS = 1024
PRECISIONS = ("int8", "float")

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How example items and latents map to a signal and its code.

    Attributes:
        kind: ``series`` or ``image``.
        item: shape of one example as the user's module wants it.
        signal: the same item as the runtime has it: [C, W] or [C, H, W].
        latent: shape of one latent as the user's module gives it.
        code: the same latent as the runtime has it: [L, S] or [L, h, w].
    """

    kind: str
    item: tuple[int, ...]
    signal: tuple[int, ...]
    latent: tuple[int, ...]
    code: tuple[int, ...]

    @property
    def window(self) -> int:
        """Items of a window (series)."""
        return self.signal[1]


def _layout(example: Array, latent: tuple[int, ...], rows: bool) -> Layout:
    item = example.shape[1:]
    if example.ndim not in (2, 3, 4) or (rows and example.ndim != 2):
        expected = "[N, C] rows" if rows else "[N, W], [N, C, W] windows or [N, C, H, W] images"
        raise SignalError(f"the example has shape {list(example.shape)}, expected {expected}")
    signal = item
    if example.ndim == 2:
        signal = (item[0], 1) if rows else (1, item[0])
    image = example.ndim == 4
    if len(latent) not in (1, 2, 3) or 0 in latent:
        raise ModelError(
            f"the encoder gives {list(latent)} per item, expected [L], [L, S] or [L, h, w]"
        )
    code: tuple[int, ...]
    if image:
        code = (*latent, 1, 1)[:3]
    else:
        code = (latent[0], math.prod(latent[1:]))
        if signal[1] % code[1]:  # steps that do not divide the window: channels of one step
            code = (math.prod(latent), 1)
    for what, count in (("signal", signal[0]), ("latent", code[0])):
        if count > MAX_CHANNELS:
            raise ModelError(
                f"the {what} has {count} channels; at most {MAX_CHANNELS} can be coded"
            )
    return Layout(
        kind="image" if image else "series", item=item, signal=signal, latent=latent, code=code
    )


class _Encoder(nn.Module):
    """Grid indices in, integer latents out, around the user's encoder."""

    def __init__(self, inner: nn.Module, layout: Layout, step: float, scale: float) -> None:
        super().__init__()
        self.inner, self.layout, self.step, self.scale = inner, layout, step, scale

    def forward(self, signal: Tensor) -> Tensor:
        """Map [N, C, W] or [N, C, H, W] to [N, L, S] or [N, L, h, w]."""
        x = signal if self.step == 1 else signal * self.step
        x = _reshaped(x, self.layout.signal, self.layout.item)
        latent = _reshaped(self.inner(x), self.layout.latent, self.layout.code)
        return torch.round(latent * self.scale).clamp(-LATENT_PEAK, LATENT_PEAK)


class _Decoder(nn.Module):
    """Integer latents in, grid indices out, around the user's decoder."""

    def __init__(self, inner: nn.Module, layout: Layout, step: float, scale: float) -> None:
        super().__init__()
        self.inner, self.layout, self.step, self.scale = inner, layout, step, scale

    def forward(self, latent: Tensor) -> Tensor:
        """Map [N, L, S] or [N, L, h, w] to [N, C, W] or [N, C, H, W]."""
        x = _reshaped(latent * (1 / self.scale), self.layout.code, self.layout.latent)
        signal = _reshaped(self.inner(x), self.layout.item, self.layout.signal)
        return torch.round(signal if self.step == 1 else signal * (1 / self.step))


def _reshaped(x: Tensor, now: tuple[int, ...], wanted: tuple[int, ...]) -> Tensor:
    return x if now == wanted else x.reshape(-1, *wanted)


def export_module(
    module: str,
    example: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    precision: str = "int8",
    rows: bool = False,
) -> Bundle:
    """Export the pair that ``pkg.mod:factory`` returns.

    Args:
        module: where the factory is; it returns (encoder, decoder), torch modules.
        example: .npy with input for the encoder, user units, [N, W], [N, C, W] or [N, C, H, W].
        out: the bundle to write.
        precision: ``int8`` (static QDQ, calibrated on the example) or ``float``.
        rows: a [N, C] example holds N items of C channels, not windows of one channel.

    Raises:
        ConfigError: no such factory, or it does not return a pair.
        SignalError: the example cannot be used.
        ModelError: the pair does not reproduce the example's shape, or cannot be exported.
    """
    pair = _made_pair(module)
    try:
        data = np.load(example, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SignalError(f"cannot read the example {example}: {error}") from error
    if not isinstance(data, np.ndarray):
        raise SignalError(f"the example {example} is an archive; expected one array, a .npy")
    name = module.partition(":")[0].rpartition(".")[2]
    return export_pair(*pair, data, out, name=name, precision=precision, rows=rows)


def _made_pair(module: str) -> tuple[nn.Module, nn.Module]:
    name, found, attribute = module.partition(":")
    if not (name and found and attribute):
        raise ConfigError(f"--module {module!r}: expected pkg.mod:factory")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(name), attribute)
        pair = factory()
    except Exception as error:  # the user's own code: any failure of it is theirs to read
        raise ConfigError(f"--module {module!r}: {type(error).__name__}: {error}") from error
    if (
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and all(isinstance(m, nn.Module) for m in pair)
    ):
        return pair[0], pair[1]
    raise ConfigError(
        f"{module} returned {type(pair).__name__}, expected (encoder, decoder), two torch modules"
    )


def export_pair(
    encoder: nn.Module,
    decoder: nn.Module,
    example: Array,
    out: str | os.PathLike[str],
    *,
    name: str,
    precision: str = "int8",
    rows: bool = False,
    about: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    notes: str = "",
) -> Bundle:
    """Export torch modules; see :func:`export_module`.

    Args:
        encoder: maps [N, ...] of the example's shape to [N, L], [N, L, S] or [N, L, h, w].
        decoder: maps that back to the example's shape.
        example: numbers [N, W], [N, C, W] or [N, C, H, W], user units; calibrates and counts.
        out: the bundle to write.
        name: the bundle's name.
        precision: ``int8`` (static QDQ, calibrated on the example) or ``float``.
        rows: a [N, C] example holds N items of C channels, not windows of one channel.
        about: parts of the manifest to add; ``metrics`` are merged.
        extra_files: files to carry along, such as pictures of the card.
        notes: Markdown to end the card with.

    Raises:
        ConfigError: no such precision.
        SignalError: the example cannot be used.
        ModelError: the pair does not reproduce the example's shape, or cannot be exported.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    example = _checked_example(example)
    encoder, decoder = frozen(encoder), frozen(decoder)
    latent = _checked_latent(encoder, decoder, torch.from_numpy(example.astype(np.float32)))
    layout = _layout(example, tuple(latent.shape[1:]), rows)
    grid = _grid_of(example)
    scale = _latent_scale(latent)
    wrapped = (
        _Encoder(encoder, layout, grid.step, scale),
        _Decoder(decoder, layout, grid.step, scale),
    )
    index, _ = grid.to_index(np.ascontiguousarray(example.reshape(-1, *layout.signal)))
    graphs = _graphs(wrapped, index, name, precision)
    about = dict(about or {})
    metrics = {"precision": precision, **about.pop("metrics", {})}
    return write_pair(
        graphs,
        index,
        layout,
        out,
        name=name,
        dtype=example.dtype.name,
        grid=grid,
        rmse_in_torch=_torch_rmse(wrapped, index),
        about={**about, "metrics": metrics},
        extra_files=extra_files,
        notes=notes,
    )


def write_pair(
    graphs: Mapping[str, onnx.ModelProto],
    index: Array,
    layout: Layout,
    out: str | os.PathLike[str],
    *,
    name: str,
    dtype: str,
    grid: Grid,
    rmse_in_torch: float,
    latent_max: int = LATENT_PEAK,
    about: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    notes: str = "",
) -> Bundle:
    """Write a pair of graphs as a bundle: certified if they can be, counted, measured.

    Args:
        graphs: ``encoder.onnx`` (``signal`` to ``latent``) and ``decoder.onnx`` (back); indices and
            integer latents.
        index: grid indices [N, C, W] or [N, C, H, W] to count and measure with.
        layout: how they lie.
        out: the bundle to write.
        name: the bundle's name.
        dtype: of the signal's samples.
        grid: of the signal.
        rmse_in_torch: of the module that was exported, in grid steps, to compare with.
        latent_max: largest latent that the decoder takes.
        about: parts of the manifest to add; ``metrics`` are merged.
        extra_files: files to carry along, such as pictures of the card.
        notes: Markdown to end the card with.
    """
    exact, certificate, reason = _try_certificate(graphs)
    coded = _Coded.measure(graphs, index, latent_max)
    prior = _static_prior(coded.symbols)
    rmse = coded.rmse(index)
    n_bytes = len(encode_latents(prior, [_raster(coded.symbols)], step_condition(BASE_STEP))[0])
    about = dict(about or {})
    manifest: dict[str, Any] = {
        "name": name,
        "task": "codec",
        "exact": exact,
        "codec": _codec_part(layout, dtype, grid, rmse, latent_max),
        "certificate": certificate,
        "metrics": {
            "example": {
                "bits_per_sample": round(8 * n_bytes / index.size, 5),
                "rmse": round(float(np.sqrt(np.mean(rmse**2))), 4),
                "rmse_in_torch": round(rmse_in_torch, 4),
            },
            "not_exact_because": reason,
            **about.pop("metrics", {}),
        },
        "recipe": {"description": "A torch encoder/decoder pair exported with edgeae."},
        **about,
    }
    files = {key: graph.SerializeToString() for key, graph in graphs.items()}
    files["coder.npz"] = pack_coder(prior, [])
    files |= extra_files or {}
    files["README.md"] = (model_card(manifest, files) + notes).encode()
    return write_bundle(
        out, manifest, files, golden_signal=_golden(index, layout) if exact else None
    )


def _checked_example(example: Array) -> Array:
    if example.dtype.kind not in "iuf" or example.size == 0 or example.ndim < 2:
        raise SignalError(
            f"the example is {example.dtype} {list(example.shape)}, expected numbers [N, ...]"
        )
    if not np.isfinite(example).all():
        raise SignalError("the example holds NaN or Inf")
    picks = np.unique(
        np.linspace(0, len(example) - 1, min(len(example), EXAMPLE_ITEMS)).astype(int)
    )
    return np.ascontiguousarray(example[picks])


def _checked_latent(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            latent, back = [], []
            for part in torch.split(x, 256):
                latent.append(encoder(part))
                back.append(decoder(latent[-1]).shape[1:])
            found: Tensor = torch.cat(latent)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(f"the pair cannot run on the example: {error}") from error
    if any(shape != x.shape[1:] for shape in back):
        raise ModelError(
            f"the decoder gives items of {list(back[0])} for an example of {list(x.shape[1:])}; "
            "it must give the example's shape back"
        )
    if len(found) != len(x):
        raise ModelError(f"the encoder gives {len(found)} latents for {len(x)} items")
    if not torch.isfinite(found).all():
        raise ModelError("the encoder gives NaN or Inf on the example")
    return found


def _latent_scale(latent: Tensor) -> float:
    """Power of two that puts about eight symbols into the latents' RMS."""
    rms = float(latent.square().mean().sqrt())
    if rms == 0:
        raise ModelError("the encoder gives zeros on the whole example")
    exponent = round(math.log2(BASE_STEP * SYMBOLS_PER_RMS / rms))
    top = math.floor(math.log2(LATENT_PEAK / float(latent.abs().max())))
    return 2.0 ** min(exponent, top)


def _grid_of(example: Array) -> Grid:
    found = detect_grid(example)
    if found is not None:
        return found
    return fallback_grid(None, (float(example.min()), float(example.max())))


def _graphs(
    wrapped: tuple[nn.Module, nn.Module], index: Array, name: str, precision: str
) -> dict[str, onnx.ModelProto]:
    picks = np.unique(
        np.linspace(0, len(index) - 1, min(len(index), CALIBRATION_ITEMS)).astype(int)
    )
    signal = index[picks].astype(np.float32)
    with torch.no_grad():
        latent = wrapped[0](torch.from_numpy(signal)).numpy()
    latent = dequantize(symbolize(latent, BASE_STEP), BASE_STEP, LATENT_PEAK).astype(np.float32)
    encoder, decoder = (
        to_onnx(
            net,
            rows,
            source,
            target,
            int8=precision == "int8",
            metadata={"bundle": name, "role": role, "input_peak": str(peak)},
        )
        for net, rows, source, target, role, peak in (
            (wrapped[0], signal, "signal", "latent", "encoder", MAX_INPUT),
            (wrapped[1], latent, "latent", "signal", "decoder", LATENT_PEAK),
        )
    )
    return {"encoder.onnx": encoder, "decoder.onnx": decoder}


def _try_certificate(
    graphs: Mapping[str, onnx.ModelProto],
) -> tuple[bool, list[dict[str, Any]], str]:
    certificate = []
    try:
        for name, graph in sorted(graphs.items()):
            certificate += [{"graph": name, **layer.to_json()} for layer in certify(graph)]
    except NotDyadicError as error:
        return False, [], str(error)
    return True, certificate, ""


@dataclass(frozen=True, kw_only=True)
class _Coded:
    """The example through the exported graphs: symbols, and the indices they decode to."""

    symbols: npt.NDArray[np.int32]
    decoded: Array

    @classmethod
    def measure(
        cls, graphs: Mapping[str, onnx.ModelProto], index: Array, latent_max: int
    ) -> _Coded:
        encoder = _session(graphs["encoder.onnx"], "encoder.onnx", "signal", "latent")
        decoder = _session(graphs["decoder.onnx"], "decoder.onnx", "latent", "signal")
        symbols, decoded = [], []
        for begin in range(0, len(index), CALIBRATION_ITEMS):
            latent = encoder.run(index[begin : begin + CALIBRATION_ITEMS].astype(np.float32))
            symbols.append(symbolize(np.rint(latent), BASE_STEP))
            back = dequantize(symbols[-1], BASE_STEP, latent_max)
            decoded.append(decoder.run(back.astype(np.float32)))
        return cls(symbols=np.concatenate(symbols), decoded=np.concatenate(decoded))

    def rmse(self, index: Array) -> npt.NDArray[np.float64]:
        """Error of the decoded indices, per channel."""
        error = np.moveaxis(self.decoded - index.astype(np.float64), 1, 0)
        squared = np.square(error).reshape(len(error), -1)
        found: npt.NDArray[np.float64] = np.sqrt(squared.mean(axis=1))
        return found


def _session(model: onnx.ModelProto, name: str, source: str, target: str) -> GraphSession:
    content = model.SerializeToString()
    return open_session(content, name=name, input_name=source, output_name=target)


def _raster(symbols: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """[N, L, ...] to [N, S, L]."""
    flat = symbols.reshape(*symbols.shape[:2], -1)
    return np.ascontiguousarray(flat.transpose(0, 2, 1))


def _static_prior(symbols: npt.NDArray[np.int32]) -> LatentPrior:
    """Tables counted on the example: mean and scale per latent channel, one shape for all."""
    values = _raster(symbols).reshape(-1, symbols.shape[1]).T.astype(np.float64)
    mean = np.round(values.mean(1) * 16).astype(np.int32)
    gap = np.abs(values - mean[:, None] / 16).mean(1)
    # a logistic's mean absolute deviation is 2 ln 2 times its scale
    scale = np.maximum(gap / (2 * np.log(2)), 0.04)
    ls = np.clip(np.round(6 * np.log2(scale)) + 18, 0, N_SCALES - 1).astype(np.int32)
    wide = np.exp2((ls[:, None] - 18) / 6)
    z = (values - mean[:, None] / 16) / wide
    half = 0.5 / np.broadcast_to(wide, z.shape)
    shape = shape_from_bins((z - half).ravel(), (z + half).ravel())
    return LatentPrior(shape=shape, statics=np.stack([mean, ls]))


def _torch_rmse(wrapped: tuple[nn.Module, nn.Module], index: Array) -> float:
    x = torch.from_numpy(index[:1024].astype(np.float32))
    with torch.no_grad():
        latent = torch.round(wrapped[0](x) / BASE_STEP) * BASE_STEP
        return float((wrapped[1](latent) - x).square().mean().sqrt())


def _codec_part(
    layout: Layout, dtype: str, grid: Grid, rmse: npt.NDArray[np.float64], latent_max: int
) -> dict[str, Any]:
    signal: dict[str, Any] = {
        "kind": layout.kind,
        "channels": layout.signal[0],
        "dtype": dtype,
        "rate_hz": None,
        "unit": "",
        "grids": [[grid.num, grid.den]],
        "channel_names": [],
    }
    image = layout.kind == "image"
    if image:
        signal |= {"height": layout.signal[1], "width": layout.signal[2]}
    return {
        "signal": signal,
        "net": {
            "stride": max(1, layout.signal[1] // layout.code[1]),
            "latent_channels": layout.code[0],
            "latent_shape": list(layout.code[1:]) if image else None,
            "fixed_window": None if image else layout.window,
            "latent_max": latent_max,
            "steps": {"min": 1, "max": 256, "default": BASE_STEP},
            "max_rmse": [round(RMSE_GUARD * max(float(rmse.max()), 0.5), 3)],
        },
        "sample_priors": [],
    }


def _golden(index: Array, layout: Layout) -> npt.NDArray[np.int32]:
    items = np.moveaxis(index[:4], 1, -1)
    whole = items if layout.kind == "image" else items.reshape(-1, layout.signal[0])
    return np.ascontiguousarray(whole.astype(np.int32))
