"""Export a user's own torch encoder/decoder pair, of any architecture.

The pair goes to ONNX through torch's exporter, then through onnxruntime's static QDQ quantization
(or stays in float). Such a graph is exact only if the certificate says so; otherwise the bundle
states ``exact: false``, and its streams are lossy or classical.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from edgeae.bitstream.cdf import N_SCALES, SHAPE_POINTS
from edgeae.errors import ConfigError, ModelError, SignalError
from edgeae.exporting.card import model_card
from edgeae.exporting.certificate import NotDyadicError, certify
from edgeae.models.transforms import LATENT_PEAK
from edgeae.quantize.tables import shape_from_bins
from edgeae.runtime.bundle import Bundle, pack_coder, write_bundle
from edgeae.runtime.latent_prior import LatentPrior
from edgeae.runtime.transform import MAX_INPUT
from edgeae.signal.grid import Grid, detect_grid, fallback_grid

__all__ = ["Layout", "export_module", "export_pair"]

BASE_STEP = 16
SYMBOLS_PER_RMS = 8.0
CALIBRATION_ROWS = 256
LAYOUTS = ("windows", "rows")

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How example items map to a signal.

    Attributes:
        kind: ``series`` or ``image``.
        channels: signal channels C.
        window: items per window (series).
        side: height and width (images).
        item: shape of one example as the user's module wants it.
    """

    kind: str
    channels: int
    window: int
    side: tuple[int, ...]
    item: tuple[int, ...]


def _layout(example: Array, rows: bool) -> Layout:
    shape = example.shape
    if example.ndim == 2 and rows:
        return Layout(kind="series", channels=shape[1], window=1, side=(), item=shape[1:])
    if example.ndim == 2:
        return Layout(kind="series", channels=1, window=shape[1], side=(), item=shape[1:])
    if example.ndim == 3:
        return Layout(kind="series", channels=shape[1], window=shape[2], side=(), item=shape[1:])
    if example.ndim == 4:
        return Layout(
            kind="image", channels=shape[1], window=0, side=(shape[2], shape[3]), item=shape[1:]
        )
    raise SignalError(
        f"the example has shape {shape}; expected [N, W] windows of one channel, [N, C, W] windows, "
        "or [N, C, H, W] images"
    )


class _Encoder(nn.Module):
    """Grid indices in, scaled latents out, around the user's encoder."""

    def __init__(self, inner: nn.Module, item: tuple[int, ...], step: float, scale: float) -> None:
        super().__init__()
        self.inner, self.item, self.step, self.scale = inner, item, step, scale

    def forward(self, signal: Tensor) -> Tensor:
        latent = self.inner((signal * self.step).reshape(-1, *self.item))
        latent = latent.unsqueeze(-1) if latent.dim() == 2 else latent
        return latent * self.scale


class _Decoder(nn.Module):
    """Scaled latents in, grid indices out, around the user's decoder."""

    def __init__(
        self, inner: nn.Module, out: tuple[int, ...], flat: bool, step: float, scale: float
    ) -> None:
        super().__init__()
        self.inner, self.out, self.flat, self.step, self.scale = inner, out, flat, step, scale

    def forward(self, latent: Tensor) -> Tensor:
        latent = latent * (1 / self.scale)
        signal = self.inner(latent.squeeze(-1) if self.flat else latent)
        return signal.reshape(-1, *self.out) * (1 / self.step)


def _import_factory(module: str) -> Any:
    name, found, attribute = module.partition(":")
    if not found:
        raise ConfigError(f"--module {module!r}: expected pkg.mod:factory")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"--module {module!r}: {error}") from error


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
        rows: a [N, W] example holds N items of W channels, not windows of one channel.

    Raises:
        ConfigError: no such factory, or it does not return a pair.
        SignalError: the example cannot be used.
        ModelError: the pair does not reproduce the example's shape, or cannot be exported.
    """
    pair = _import_factory(module)()
    if not (
        isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(m, nn.Module) for m in pair)
    ):
        raise ConfigError(f"{module} returned {type(pair).__name__}, expected (encoder, decoder)")
    try:
        data = np.load(example, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise SignalError(f"cannot read the example {example}: {error}") from error
    name = module.partition(":")[0].rpartition(".")[2]
    return export_pair(*pair, data, out, name=name, precision=precision, rows=rows)


def export_pair(
    encoder: nn.Module,
    decoder: nn.Module,
    example: Array,
    out: str | os.PathLike[str],
    *,
    name: str,
    precision: str = "int8",
    rows: bool = False,
    about: dict[str, Any] | None = None,
) -> Bundle:
    """Export torch modules; see :func:`export_module`."""
    if precision not in ("int8", "float"):
        raise ConfigError(f"precision is {precision!r}, expected int8 or float")
    if example.dtype.kind not in "iuf" or len(example) == 0:
        raise SignalError(
            f"the example is {example.dtype} {example.shape}, expected numbers [N, …]"
        )
    if example.dtype.kind == "f" and not np.isfinite(example).all():
        raise SignalError("the example holds NaN or Inf")
    layout = _layout(example, rows)
    encoder.eval()
    decoder.eval()
    x = torch.from_numpy(np.ascontiguousarray(example[:4096]).astype(np.float32))
    latent = _checked_latent(encoder, decoder, x)
    scale = _latent_scale(latent)
    grid = _grid_of(example)
    flat = latent.dim() == 2
    wide = latent.unsqueeze(-1) if flat else latent
    signal_item = _signal_item(layout)
    indices, _ = grid.to_index(example[:4096].reshape(-1, *signal_item))
    wrapped_in = _Encoder(encoder, layout.item, grid.step, scale)
    wrapped_out = _Decoder(decoder, signal_item, flat, grid.step, scale)
    rows_in = indices[:CALIBRATION_ROWS].astype(np.float32)
    with torch.no_grad():
        rows_out = torch.round(wrapped_in(torch.from_numpy(rows_in))).numpy()
    role = {"bundle": name}
    graphs = {
        "encoder.onnx": _to_onnx(
            wrapped_in, rows_in, "signal", "latent", precision, {**role, "input_peak": MAX_INPUT}
        ),
        "decoder.onnx": _to_onnx(
            wrapped_out,
            rows_out,
            "latent",
            "signal",
            precision,
            {**role, "input_peak": LATENT_PEAK},
        ),
    }
    exact, certificate, reason = _try_certificate(graphs)
    prior = _static_prior(wide * scale)
    steps = int(np.prod(wide.shape[2:]))
    stride = layout.window // wide.shape[2] if layout.kind == "series" else 0
    if layout.kind == "series" and layout.window % wide.shape[2]:
        raise ModelError(
            f"the encoder gives {wide.shape[2]} latent steps per window of {layout.window}, "
            "which does not divide it"
        )
    rmse = _rmse(wrapped_in, wrapped_out, indices)
    manifest: dict[str, Any] = {
        "name": name,
        "task": "codec",
        "exact": exact,
        "codec": {
            "signal": {
                "kind": layout.kind,
                "channels": layout.channels,
                "dtype": example.dtype.name,
                "rate_hz": None,
                "unit": "",
                "grid": [grid.num, grid.den],
                "channel_names": [],
                **({"height": layout.side[0], "width": layout.side[1]} if layout.side else {}),
            },
            "net": {
                "stride": stride or layout.side[0] // wide.shape[2],
                "latent_channels": int(wide.shape[1]),
                "latent_shape": list(wide.shape[2:]) if layout.side else None,
                "fixed_window": layout.window or None,
                "latent_max": LATENT_PEAK,
                "steps": {"min": 1, "max": 256, "default": BASE_STEP},
                "max_rmse": round(4 * max(rmse, 0.5), 3),
            },
            "sample_priors": [],
        },
        "certificate": certificate,
        "metrics": {
            "precision": precision,
            "rmse_grid_steps": round(rmse, 4),
            "latent_steps": steps,
            "not_exact_because": reason,
        },
        "recipe": {"description": "A torch encoder/decoder pair exported with edgeae."},
        **(about or {}),
    }
    files = {key: graph.SerializeToString() for key, graph in graphs.items()}
    files["coder.npz"] = pack_coder(prior, [])
    files["README.md"] = model_card(manifest, files).encode()
    golden = None
    if exact:
        golden = np.moveaxis(indices[:4], 1, -1)
        golden = golden if layout.side else golden.reshape(-1, layout.channels)
    return write_bundle(out, manifest, files, golden_signal=golden)


def _signal_item(layout: Layout) -> tuple[int, ...]:
    if layout.side:
        return (layout.channels, *layout.side)
    return (layout.channels, layout.window)


def _checked_latent(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            latent = encoder(x)
            back = decoder(latent)
    except RuntimeError as error:
        raise ModelError(f"the pair cannot run on the example: {error}") from error
    if back.shape != x.shape:
        raise ModelError(
            f"the decoder gives {tuple(back.shape)} for an example of {tuple(x.shape)}; "
            "it must give the example's shape back"
        )
    if latent.dim() not in (2, 3, 4) or len(latent) != len(x):
        raise ModelError(
            f"the encoder gives {tuple(latent.shape)}, expected [N, L], [N, L, S] or [N, L, h, w]"
        )
    if not torch.isfinite(latent).all():
        raise ModelError("the encoder gives NaN or Inf on the example")
    result: Tensor = latent
    return result


def _latent_scale(latent: Tensor) -> float:
    """Power of two that puts about eight symbols into the latents' RMS."""
    rms = float(latent.square().mean().sqrt())
    if rms == 0:
        raise ModelError("the encoder gives zeros on the whole example")
    exponent = np.round(np.log2(BASE_STEP * SYMBOLS_PER_RMS / rms))
    top = np.floor(np.log2(LATENT_PEAK / float(latent.abs().max())))
    return float(2.0 ** min(exponent, top))


def _grid_of(example: Array) -> Grid:
    found = detect_grid(example)
    if found is not None:
        return found
    return fallback_grid(None, (float(example.min()), float(example.max())))


def _to_onnx(
    module: nn.Module,
    rows: Array,
    source: str,
    target: str,
    precision: str,
    metadata: dict[str, Any],
) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        plain, ready = Path(folder) / "float.onnx", Path(folder) / "ready.onnx"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    module,
                    (torch.from_numpy(rows),),
                    str(plain),
                    input_names=[source],
                    output_names=[target],
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                    dynamic_shapes=({0: torch.export.Dim("N")},),
                )
        except Exception as error:
            raise ModelError(f"torch cannot export the {target} graph: {error}") from error
        if precision == "int8":
            _quantize_static(plain, ready, rows, source)
        else:
            ready = plain
        model = onnx.load(str(ready))
    onnx.helper.set_model_props(model, {f"edgeae.{k}": str(v) for k, v in metadata.items()})
    return model


def _quantize_static(plain: Path, ready: Path, rows: Array, source: str) -> None:
    import logging

    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Array] = iter(rows)

        def get_next(self) -> dict[str, Array] | None:
            row = next(self.left, None)
            return None if row is None else {source: row[None]}

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        quantize_static(
            str(plain),
            str(ready),
            Rows(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    except Exception as error:
        raise ModelError(f"onnxruntime cannot quantize the {source} graph: {error}") from error
    finally:
        logging.root.setLevel(level)


def _try_certificate(
    graphs: dict[str, onnx.ModelProto],
) -> tuple[bool, list[dict[str, Any]], str]:
    certificate = []
    try:
        for name, graph in sorted(graphs.items()):
            certificate += [{"graph": name, **layer.to_json()} for layer in certify(graph)]
    except (NotDyadicError, KeyError, StopIteration) as error:
        return False, [], str(error)
    return True, certificate, ""


def _static_prior(latent: Tensor) -> LatentPrior:
    """Tables counted on the example: mean and scale per latent channel, one shape for all."""
    symbols = np.rint(latent.flatten(2).double().numpy() / BASE_STEP)
    values = symbols.transpose(1, 0, 2).reshape(symbols.shape[1], -1)
    mean = np.round(values.mean(1) * 16).astype(np.int32)
    gap = np.abs(values - mean[:, None] / 16).mean(1)
    # a logistic's mean absolute deviation is 2 ln 2 times its scale
    scale = np.maximum(gap / (2 * np.log(2)), 0.04)
    index = np.clip(np.round(6 * np.log2(scale)) + 18, 0, N_SCALES - 1).astype(np.int32)
    wide = np.exp2((index[:, None] - 18) / 6)
    z = (values - mean[:, None] / 16) / wide
    half = 0.5 / np.broadcast_to(wide, z.shape)
    shape = shape_from_bins((z - half).ravel(), (z + half).ravel())
    assert shape.shape == (SHAPE_POINTS,)
    return LatentPrior(shape=shape, statics=np.stack([mean, index]))


def _rmse(encoder: nn.Module, decoder: nn.Module, indices: Array) -> float:
    x = torch.from_numpy(indices[:1024].astype(np.float32))
    with torch.no_grad():
        latent = torch.round(encoder(x) / BASE_STEP) * BASE_STEP
        return float((torch.round(decoder(latent)) - x).square().mean().sqrt())
