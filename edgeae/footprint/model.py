"""What a model costs for each of its uses: which parts run, what they compute and need.

================  ==================================================================================
encode-lossy      analysis net, latent prior, and the synthesis net, by which a frame is checked
encode-bound      every sample prior that serves one step, and what those that read a code need;
                  with ``--max-error`` and ``--lossless`` the smallest result is kept
decode-lossy      latent prior and synthesis net
decode-bound      the costliest of the codings that a frame may have
denoise           a denoiser's net, with what stands beside it
run               a graph that is no bundle: one run
================  ==================================================================================

The classical mode, which a bounded encoder may try too, has no net: its operations are not counted.
On Linux, where the encoder always tries it, its time is estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from edgeae.errors import ConfigError
from edgeae.footprint.parts import Part, graph_part, prior_part
from edgeae.runtime.any_prior import AnyPrior
from edgeae.runtime.bundle import Bundle
from edgeae.runtime.latent_prior import AnyLatentPrior
from edgeae.runtime.manifest import NetSpec, PriorRange, SignalSpec

__all__ = [
    "ModelFootprint",
    "Use",
    "UseFootprint",
    "bundle_footprint",
    "footprint_of",
    "onnx_footprint",
    "sample_bytes",
]

SERIES_WINDOW = 1024
"""Items of a window where nobody says: a radio frame."""
_PAYLOAD_MARGIN = 64  # a frame never grows beyond its samples by more
_SYMBOL_BYTES = 2


class Use(str, Enum):
    """What a device does with a model; see the module."""

    ENCODE_LOSSY = "encode-lossy"
    ENCODE_BOUND = "encode-bound"
    DECODE_LOSSY = "decode-lossy"
    DECODE_BOUND = "decode-bound"
    DENOISE = "denoise"
    RUN = "run"


@dataclass(frozen=True, kw_only=True)
class UseFootprint:
    """One use of a model, for one window.

    Attributes:
        use: which.
        parts: what runs.
        buffer_bytes: samples, decoded samples, symbols and payload of a frame; of a denoiser, what
            comes in and what goes out.
    """

    use: Use
    parts: tuple[Part, ...]
    buffer_bytes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates per window."""
        return sum(part.macs for part in self.parts)

    @property
    def weight_bytes(self) -> int:
        """Read-only numbers."""
        return sum(part.weight_bytes for part in self.parts)

    @property
    def table_bytes(self) -> int:
        """Read-only tables."""
        return sum(part.table_bytes for part in self.parts)

    @property
    def arena_bytes(self) -> int:
        """Working memory: the parts run one after the other."""
        return max((part.arena_bytes for part in self.parts), default=0)

    @property
    def state_bytes(self) -> int:
        """Memory of the coders."""
        return sum(part.state_bytes for part in self.parts)

    @property
    def ram_bytes(self) -> int:
        """All memory that is written to; weights stay in flash."""
        return self.arena_bytes + self.state_bytes + self.buffer_bytes


@dataclass(frozen=True, kw_only=True)
class ModelFootprint:
    """A model's costs.

    Attributes:
        name: the model's.
        kind: ``bundle``, ``recipe`` or ``onnx``.
        window_items: time steps or images in a window.
        window_samples: samples in a window, all channels.
        parts: everything the model has.
        uses: what it can be used for.
        window_s: what a window lasts; None where the signal has no rate.
        file_bytes: of the files that a device's runtime reads; None before there are any.
        exact: its nets are dyadic: edgeae's own engine runs them.
    """

    name: str
    kind: str
    window_items: int
    window_samples: int
    parts: tuple[Part, ...]
    uses: tuple[UseFootprint, ...]
    window_s: float | None = None
    file_bytes: int | None = None
    exact: bool = False

    def use(self, use: Use | None = None) -> UseFootprint:
        """One use; the first one where none is named.

        Raises:
            ConfigError: the model has no such use.
        """
        for found in self.uses:
            if use is None or found.use is use:
                return found
        known = ", ".join(found.use.value for found in self.uses)
        raise ConfigError(f"{self.name} has no use {use.value if use else ''!r}: choose {known}")


def bundle_footprint(
    bundle: Bundle, *, window: int | None = None, size: tuple[int, int] | None = None
) -> ModelFootprint:
    """Costs of a bundle.

    Args:
        bundle: the model.
        window: time steps or images per window; None takes a radio frame, a dense net's own
            window, a hop of a stream's denoiser, or one image.
        size: height and width of the images of a denoiser that takes any.

    Raises:
        ConfigError: a window of no items, or a size where there is none to choose.
        ModelError: a graph that cannot be followed.
    """
    if bundle.task == "denoise":
        from edgeae.footprint.denoiser import denoiser_footprint

        return denoiser_footprint(bundle, window=window, size=size)
    if size is not None:
        raise ConfigError(
            f"bundle {bundle.name!r} is a codec: its manifest says how large it codes"
        )
    needed = ("manifest.json", "encoder.onnx", "decoder.onnx", "coder.npz")
    return footprint_of(
        name=bundle.name,
        kind="bundle",
        spec=bundle.signal,
        net=bundle.net,
        encoder=bundle.files.get("encoder.onnx"),
        decoder=bundle.files.get("decoder.onnx"),
        latent_prior=bundle.latent_prior,
        priors=bundle.sample_priors,
        ranges=bundle.sample_prior_ranges,
        window=window,
        file_bytes=sum(len(bundle.files.get(name, b"")) for name in needed),
        exact=bundle.manifest.exact,
    )


def onnx_footprint(
    data: bytes, shape: Sequence[int] | None = None, *, name: str = "model.onnx"
) -> ModelFootprint:
    """Costs of any ONNX graph.

    Args:
        data: the file's bytes.
        shape: of its input; None stands for a batch of one.
        name: of the file.

    Raises:
        ConfigError: an input shape that the graph does not take, or that is missing.
        ModelError: not an ONNX file, or a graph that cannot be followed.
    """
    part = graph_part("net", data, shape, file=name)
    assert part.host is not None
    n_samples = sum(int(np.prod(s)) for s in part.host.inputs.values())
    batch = next((s[0] for s in part.host.inputs.values() if s), 1)
    use = UseFootprint(use=Use.RUN, parts=(part,), buffer_bytes=0)
    return ModelFootprint(
        name=name,
        kind="onnx",
        window_items=batch,
        window_samples=n_samples,
        parts=(part,),
        uses=(use,),
        file_bytes=len(data),
    )


def footprint_of(
    *,
    name: str,
    kind: str,
    spec: SignalSpec,
    net: NetSpec | None,
    encoder: bytes | None,
    decoder: bytes | None,
    latent_prior: AnyLatentPrior | None,
    priors: Sequence[AnyPrior],
    ranges: Sequence[PriorRange],
    window: int | None = None,
    file_bytes: int | None = None,
    exact: bool = False,
) -> ModelFootprint:
    """Costs of a model from its pieces; see `bundle_footprint`."""
    items = _window(spec, net, window)
    pixels = (spec.height or 1) * (spec.width or 1)
    steps = items * pixels
    width = sample_bytes(spec)
    parts: dict[str, Part] = {}
    n_symbols = 0
    if net is not None and encoder is not None and decoder is not None:
        shape_in, shape_out, latent_steps = _net_shapes(spec, net, items)
        parts["analysis"] = graph_part(
            "analysis net", encoder, shape_in, input_bytes=width, file="encoder.onnx"
        )
        parts["synthesis"] = graph_part("synthesis net", decoder, shape_out, file="decoder.onnx")
        n_symbols = latent_steps * net.latent_channels
        if latent_prior is not None:
            parts["latent"] = prior_part("latent prior", latent_prior.rules, latent_steps)
    for i, prior in enumerate(priors):
        parts[f"sample{i}"] = prior_part(f"sample prior {i}", prior.rules, steps)
    frame = steps * spec.channels * width
    uses = [
        UseFootprint(
            use=use,
            parts=tuple(parts[key] for key in keys if key in parts),
            buffer_bytes=_buffers(use, frame, n_symbols if "latent" in keys else 0),
        )
        for use, keys in _uses(parts, ranges)
    ]
    return ModelFootprint(
        name=name,
        kind=kind,
        window_items=items,
        window_samples=steps * spec.channels,
        parts=tuple(parts.values()),
        uses=tuple(uses),
        window_s=None if spec.is_image or not spec.rate_hz else items / spec.rate_hz,
        file_bytes=file_bytes,
        exact=exact,
    )


def _window(spec: SignalSpec, net: NetSpec | None, window: int | None) -> int:
    if window is not None and window < 1:
        raise ConfigError(f"window is {window}: expected at least 1")
    if spec.is_image:
        return window or 1
    unit = 1 if net is None else net.fixed_window or net.stride
    fixed = None if net is None else net.fixed_window
    return -(-(window or fixed or SERIES_WINDOW) // unit) * unit


def _net_shapes(
    spec: SignalSpec, net: NetSpec, items: int
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Input shapes of both nets, and the latent steps of a window."""
    if spec.is_image:
        rows, columns = net.latent_shape or (1, 1)
        size = (spec.height or 1, spec.width or 1)
        latent = (items, net.latent_channels, rows, columns)
        return (items, spec.channels, *size), latent, items * rows * columns
    length = net.fixed_window or items
    n, steps = items // length, length // net.stride
    return (n, spec.channels, length), (n, net.latent_channels, steps), n * steps


def sample_bytes(spec: SignalSpec) -> int:
    """Bytes of a sample in a device's frame: its own integer, or the index of a float."""
    dtype = np.dtype(spec.dtype)
    return min(dtype.itemsize, 4) if dtype.kind in "iu" else 4


def _buffers(use: Use, frame: int, n_symbols: int) -> int:
    """Bytes of the frame's samples (twice in an encoder, which checks itself) and of its code."""
    frames = 2 if use in (Use.ENCODE_LOSSY, Use.ENCODE_BOUND) else 1
    return frames * frame + frame + _PAYLOAD_MARGIN + _SYMBOL_BYTES * n_symbols


def _uses(
    parts: dict[str, Part], ranges: Sequence[PriorRange]
) -> list[tuple[Use, tuple[str, ...]]]:
    """Each use and the names of its parts."""
    code = ("analysis", "latent", "synthesis")
    found: list[tuple[Use, tuple[str, ...]]] = []
    if "analysis" in parts:
        found.append((Use.ENCODE_LOSSY, code))
        found.append((Use.DECODE_LOSSY, ("latent", "synthesis")))
    if ranges:
        tried = max(
            (_serving(ranges, delta) for delta in sorted({r.delta_min for r in ranges})),
            key=lambda serving: sum(parts[f"sample{i}"].macs for i in serving),
        )
        needs_code = any(ranges[i].has_code for i in tried)
        names = tuple(f"sample{i}" for i in tried)
        found.append((Use.ENCODE_BOUND, (*code, *names) if needs_code else names))
        codings = [
            ("latent", "synthesis", f"sample{i}") if ranges[i].has_code else (f"sample{i}",)
            for i in range(len(ranges))
        ]
        worst = max(codings, key=lambda keys: sum(parts[k].macs for k in keys if k in parts))
        found.append((Use.DECODE_BOUND, worst))
    return sorted(found, key=lambda row: list(Use).index(row[0]))


def _serving(ranges: Sequence[PriorRange], delta: int) -> tuple[int, ...]:
    """The sample priors that serve a quantizer step."""
    return tuple(i for i, r in enumerate(ranges) if r.delta_min <= delta <= r.delta_max)
