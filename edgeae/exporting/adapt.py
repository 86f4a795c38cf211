"""Adapt a bundle to one device's own signal: tables, priors and decoder, in minutes on a CPU.

::

    NEW ── first 80 % ──► fit        a tenth ──► stop in time        the last tenth ──► keep or not

Every part is fitted by itself and measured on the last tenth, in frames of 1,024 samples, with the
integer coder that devices run; a part that does not become smaller there (a decoder: closer) stays
the parent's. So adapting never makes a part worse where it was measured.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from edgeae.bitstream.header import StreamHeader
from edgeae.errors import ModelError, SignalError
from edgeae.exporting.bundle import GOLDEN_ITEMS, prior_graphs
from edgeae.exporting.card import model_card
from edgeae.exporting.certificate import certify
from edgeae.exporting.graphs import analysis_graph, causal_graph, synthesis_graph
from edgeae.exporting.restore import Restored, restore_model
from edgeae.metrics import rmse
from edgeae.models.integer import runtime_latent_prior, runtime_sample_prior
from edgeae.quantize.adapt import AdaptSettings, adapt_sample_prior, adapt_window_code
from edgeae.quantize.adaptive import fit_adaptive
from edgeae.quantize.tables import count_latent_shape, count_sample_shape
from edgeae.runtime.bundle import Bundle, pack_coder, seal, write_bundle
from edgeae.runtime.golden import make_golden
from edgeae.runtime.latent_prior import LatentPrior, encode_latents, step_condition
from edgeae.runtime.sample_prior import SamplePrior, encode_samples
from edgeae.runtime.transform import analyse, symbolize, synthesise
from edgeae.signal.lattice import Lattice
from edgeae.tasks.plan import StreamOptions, choose_grid
from edgeae.tasks.stream import decode, encode
from edgeae.train.datasets import Dataset
from edgeae.train.phases import BASE_STEP, Signal, WindowCode
from edgeae.train.recipe import TrainRecipe
from edgeae.train.run import Progress
from edgeae.train.setup import Setup, signal_of
from edgeae.train.training import silent

__all__ = ["Adaptation", "Gain", "Part", "adapt_bundle"]

MIN_CROPS, MIN_IMAGES = 8, 100
FRAME_ITEMS = 1024
RATE_TOLERANCE = 0.01

Samples = npt.NDArray[Any]
Frames = list[npt.NDArray[np.int32]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the model: its score on the held-out tail, lower is better, and what was kept.

    ``score`` is bits per sample (of a decoder: RMSE in grid steps), averaged as logarithms over the
    quantizer steps that the part was trained for.
    """

    name: str
    before: float
    after: float
    kept: str

    @property
    def better(self) -> bool:
        """Whether something new was kept."""
        return self.after < self.before


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Bits per sample of the held-out tail under one promise, by the parent and by the new bundle.

    Streams of frames of 1,024 samples (one image), without the stream's header; RMSE in the
    signal's units.
    """

    promise: str
    before: float
    after: float
    rmse_before: float
    rmse_after: float

    @property
    def percent(self) -> float:
        """Change of the rate; negative is smaller."""
        return 100 * (self.after / self.before - 1) if self.before else 0.0


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What came of adapting a bundle."""

    bundle: Bundle
    parts: tuple[Part, ...]
    gains: tuple[Gain, ...]
    seconds: float


def adapt_bundle(
    bundle: Bundle,
    samples: Samples,
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    rate_hz: float | None = None,
    hashes: Mapping[str, str] | None = None,
    settings: AdaptSettings | None = None,
    progress: Progress = silent,
    threads: int | None = None,
) -> Adaptation:
    """Fit a bundle to a device's own signal.

    Args:
        bundle: exact, exported from a recipe's run, with as many channels as the signal.
        samples: [T] or [T, C], or images [N, H, W] or [N, H, W, C], in the device's units.
        out: the new bundle's folder, or a file ending in ``.zip``.
        name: of the new bundle; None takes the parent's.
        rate_hz: of the samples, where known.
        hashes: SHA-256 of the data's files, for the lineage.
        settings: how long and how fast.
        progress: called with a part's name, the fraction done, and metrics.
        threads: of torch; None leaves them as they are.

    Raises:
        SignalError: too few samples, constant ones, no finite ones, or another kind of signal.
        ModelError: the bundle cannot be trained on.
    """
    began = time.monotonic()
    torch.set_num_threads(threads or torch.get_num_threads())
    settings = settings or AdaptSettings()
    model = restore_model(bundle)
    if model.code is None and not any(model.priors):
        raise ModelError(f"bundle {bundle.name!r} has no part that can be fitted")
    x = _checked(bundle, model, samples, rate_hz)
    lattice = choose_grid(x, bundle, StreamOptions(), whole=True).lattice
    pairs = [spec[:2] for spec in lattice.specs]
    setup = dataclasses.replace(
        model.setup,
        grids=tuple((pairs * model.setup.channels)[: model.setup.channels]),
        dtype=x.dtype.name,
        rate_hz=rate_hz or model.setup.rate_hz,
        hashes=dict(hashes or {}),
    )
    workshop = _Workshop(bundle, setup, x, settings, progress)
    with tempfile.TemporaryDirectory() as folder:
        files, parts = workshop.fitted(Path(folder))
    manifest = workshop.manifest(files, name)
    files["golden.npz"] = make_golden(Bundle.from_files(seal(manifest, files)), workshop.golden())
    made = Bundle.from_files(seal(manifest, files), engine=bundle.engine)
    gains = tuple(_gains(bundle, made, workshop.tail_samples, lattice, model))
    manifest["metrics"] = _metrics(bundle, gains, lattice)
    manifest["lineage"] = [
        *bundle.manifest.raw.get("lineage", []),
        {
            "parent": bundle.fingerprint.hex(),
            "name": bundle.name,
            "data": dict(hashes or {}),
            "items": len(x),
            "settings": dataclasses.asdict(settings),
            "parts": [dataclasses.asdict(part) for part in parts],
            "gains": [dataclasses.asdict(gain) for gain in gains],
        },
    ]
    files["README.md"] = model_card(manifest, files).encode()
    made = write_bundle(out, manifest, files)
    seconds = time.monotonic() - began
    return Adaptation(bundle=made, parts=tuple(parts), gains=gains, seconds=seconds)


def _checked(bundle: Bundle, model: Restored, samples: Samples, rate_hz: float | None) -> Samples:
    """The samples as [T, C] or [N, H, W, C], if they can be learned from."""
    spec = bundle.signal
    channels = samples.shape[-1] if samples.ndim in (2, 4) else 1
    size = samples.shape[1:3] if samples.ndim >= 3 else None
    wanted = (spec.height, spec.width) if spec.is_image else None
    if (channels, size) != (spec.channels, wanted):
        raise SignalError(
            f"the data have shape {list(samples.shape)}; bundle {bundle.name!r} is made for "
            f"{spec.channels} channel(s)" + (f" of {wanted} pixels" if wanted else "")
        )
    if rate_hz and spec.rate_hz and abs(rate_hz / spec.rate_hz - 1) > RATE_TOLERANCE:
        raise SignalError(
            f"the data have {rate_hz:g} Hz, bundle {bundle.name!r} is made for {spec.rate_hz:g} Hz:"
            " resample them, or train a recipe for this rate"
        )
    x = samples.reshape(len(samples), *(size or ()), channels)
    least, held = _least_items(model, spec.is_image), ""
    if spec.rate_hz:
        held = f" ({least / spec.rate_hz:.0f} s)"
    if len(x) < least:
        raise SignalError(
            f"too little data: {len(x):,} items, and this bundle takes at least {least:,}{held} to "
            "learn from and to check what was learned: record more"
        )
    finite = x[np.isfinite(x)] if x.dtype.kind == "f" else x
    if finite.size < x.size // 2 or not finite.size:
        raise SignalError(
            f"{x.size - finite.size:,} of {x.size:,} samples are NaN or infinite: there is too "
            "little to learn from"
        )
    if finite.min() == finite.max():
        raise SignalError(
            f"the data are constant, {finite.flat[0]} throughout: there is nothing to learn"
        )
    return np.ascontiguousarray(x)


def _least_items(model: Restored, is_image: bool) -> int:
    if is_image:
        return MIN_IMAGES
    crops = [prior.crop for prior in model.recipe.sample_prior]
    if model.code is not None:
        crops.append(model.recipe.train.crop)
    return MIN_CROPS * max(crops)


class _Workshop:
    """The parent, the data in three parts, and one candidate after the other."""

    def __init__(
        self,
        bundle: Bundle,
        setup: Setup,
        x: Samples,
        settings: AdaptSettings,
        progress: Progress,
    ) -> None:
        self.parent, self.setup = bundle, setup
        left_out = {"format", "version", "fingerprint", "files", "sha256", "run", "tuning"}
        self.raw = {k: v for k, v in bundle.manifest.raw.items() if k not in left_out}
        self.settings, self.progress = settings, progress
        first, second = len(x) * 8 // 10, len(x) * 9 // 10
        self.fit = _signal(x[:first], setup)
        self.choose = _signal(x[first:second], setup)
        self.tail_samples = x[second:]
        self.tail = _frames(_signal(self.tail_samples, setup))

    def fitted(self, folder: Path) -> tuple[dict[str, bytes], list[Part]]:
        """Fit part after part; each is judged together with what was kept before it."""
        dropped = {"manifest.json", "README.md", "golden.npz"}
        dropped |= {n for n in self.parent.files if n.endswith((".int8.onnx", ".ort", ".config"))}
        files = {n: data for n, data in self.parent.files.items() if n not in dropped}
        parts: list[Part] = []
        parts += self._fit_window_code(files, folder)
        for number in range(len(self.parent.sample_prior_ranges)):
            parts += self._fit_sample_prior(files, number, folder)
        return files, parts

    def manifest(self, files: Mapping[str, bytes], name: str | None) -> dict[str, Any]:
        """The parent's, with what changed."""
        signal = self.raw["codec"]["signal"] | {
            "grids": [list(pair) for pair in self.setup.grids],
            "dtype": self.setup.dtype,
            "rate_hz": self.setup.rate_hz,
        }
        return self.raw | {
            "name": name or self.parent.name,
            "codec": self.raw["codec"] | {"signal": signal},
            "setup": self.setup.to_json(),
            "data": self.setup.hashes,
            "certificate": [
                {"graph": graph, **layer.to_json()}
                for graph in sorted(files)
                if graph.endswith(".onnx")
                for layer in certify(onnx.load_model_from_string(files[graph]))
            ],
        }

    def golden(self) -> npt.NDArray[np.int32]:
        """A signal for the golden vectors."""
        if self.choose.is_image:
            images = self.choose.segments[0][:2].permute(0, 2, 3, 1)
            return np.ascontiguousarray(images.numpy().astype(np.int32))
        segment = self.choose.segments[0][:, :GOLDEN_ITEMS]
        return np.ascontiguousarray(segment.T.numpy().astype(np.int32))

    # ---- the window code ----

    def _fit_window_code(self, files: dict[str, bytes], folder: Path) -> list[Part]:
        old = self._bundle(files)
        model, before = restore_model(old), old.latent_prior
        if model.code is None or not isinstance(before, LatentPrior):
            return []
        tables = dataclasses.replace(before, shape=count_latent_shape(model.code, self.fit))
        nets, prior = self._trained_code(model.recipe.train, model.code, before, folder)
        new = self._bundle(files | nets)
        steps = _code_steps(old, model.recipe.train.step_range)
        if self.settings.encoder:  # its symbols are others: all of the code is kept, or none
            weight = model.recipe.train.distortion_weight

            def cost(bundle: Bundle, latent: LatentPrior) -> float:
                return _mean_over(
                    steps,
                    lambda s: (
                        self._latent_bits(bundle, latent, s)
                        + weight * (BASE_STEP / s) ** 2 * self._distortion(bundle, s)
                    ),
                )

            part = _part("window code", cost(old, before), cost(new, prior))
            if part.better:
                files |= nets | self._latent_files(old, prior)
            return [part]

        def bits(latent: LatentPrior) -> float:
            return _mean_over(steps, lambda s: self._latent_bits(old, latent, s))

        def error(bundle: Bundle) -> float:
            return math.sqrt(_mean_over(steps, lambda s: self._distortion(bundle, s)))

        best = min((tables, prior), key=bits)
        parts = [
            _part("latent prior", bits(before), bits(best), only_tables=best is tables),
            _part("decoder", error(old), error(new)),
        ]
        if parts[0].better:
            files |= self._latent_files(old, best)
        if parts[1].better:
            files |= nets
        return parts

    def _trained_code(
        self, recipe: TrainRecipe, code: WindowCode, before: LatentPrior, folder: Path
    ) -> tuple[dict[str, bytes], LatentPrior]:
        """Graphs and prior after training; the parent's where it went astray."""
        about = {"bundle": self.parent.name}
        try:
            adapt_window_code(
                code, recipe, self.settings, self.fit, self.choose, folder, self.progress
            )
            nets = {"decoder.onnx": synthesis_graph(code.synthesis, about).SerializeToString()}
            if self.settings.encoder:
                nets["encoder.onnx"] = analysis_graph(code.analysis, about).SerializeToString()
            found = runtime_latent_prior(code.prior, count_latent_shape(code, self.fit))
        except ModelError:
            return {}, before
        assert isinstance(found, LatentPrior)
        prior = dataclasses.replace(before, net=found.net, statics=found.statics, shape=found.shape)
        return nets, prior

    def _latent_files(self, old: Bundle, prior: LatentPrior) -> dict[str, bytes]:
        files = {"coder.npz": _with_latent(old, prior)}
        if prior.net is not None:
            about = {"bundle": self.parent.name, "role": "prior"}
            files["prior.onnx"] = causal_graph(prior.net, about).SerializeToString()
        return files

    def _latent_bits(self, bundle: Bundle, prior: LatentPrior, step: int) -> float:
        """Bits per sample of the tail's symbols."""
        symbols = [symbolize(y, step) for y in analyse(bundle, self.tail)]
        payloads = encode_latents(prior, symbols, step_condition(step))
        return 8 * sum(map(len, payloads)) / sum(x.size for x in self.tail)

    def _distortion(self, bundle: Bundle, step: int) -> float:
        """Mean squared error of the tail by the window code, grid steps, plus a rounding's."""
        symbols = [symbolize(y, step) for y in analyse(bundle, self.tail)]
        recon = synthesise(bundle, symbols, step, [x.shape[1] for x in self.tail])
        errors = [(x - y.astype(np.float64)) for x, y in zip(self.tail, recon, strict=True)]
        return float(np.mean(np.concatenate([e.ravel() for e in errors]) ** 2)) + 1 / 12

    # ---- a sample prior ----

    def _fit_sample_prior(self, files: dict[str, bytes], number: int, folder: Path) -> list[Part]:
        old = self._bundle(files)
        model = restore_model(old)
        net, spec, parent = (
            model.priors[number],
            model.recipe.sample_prior[number],
            old.sample_priors[number],
        )
        if net is None or not isinstance(parent, SamplePrior):
            return []
        code = model.code if spec.code else None
        tables = dataclasses.replace(parent, shape=count_sample_shape(net, self.fit, spec, code))
        candidates = [tables]
        try:
            adapt_sample_prior(
                *(net, spec, self.settings, self.fit, self.choose, code, folder, self.progress),
                name=f"sample-prior-{number}",
            )
            found = runtime_sample_prior(net, count_sample_shape(net, self.fit, spec, code))
            candidates.append(dataclasses.replace(parent, net=found.net, shape=found.shape))
        except ModelError:
            pass  # training went astray: the tables alone may still help
        codes: Frames | None = None
        if spec.code and old.net is not None:
            step = old.sample_prior_ranges[number].step or old.net.default_step
            symbols = [symbolize(y, step) for y in analyse(old, self.tail)]
            codes = synthesise(old, symbols, step, [x.shape[1] for x in self.tail])

        def bits(prior: SamplePrior) -> float:
            return _mean_over(spec.steps, lambda s: self._sample_bits(prior, s, codes))

        own = dataclasses.replace(spec, adaptive_gains=(), augment=0.0)  # this device, no other
        fitted = partial(fit_adaptive, train=self.fit)
        tried = [(c, fitted(c, (self.choose,), own, code)) for c in candidates]
        trained, best = min(tried, key=lambda pair: bits(pair[1]))
        only_tables = trained is tables
        part = _part(f"sample prior {number}", bits(parent), bits(best), only_tables=only_tables)
        if part.better:
            priors = [*old.sample_priors]
            priors[number] = best
            files["coder.npz"] = pack_coder(old.latent_prior, priors)
            files.pop(f"sample_prior_{number}_mixture.onnx", None)
            graphs = prior_graphs(best, number, {"bundle": self.parent.name})
            files |= {name: graph.SerializeToString() for name, graph in graphs.items()}
        return [part]

    def _sample_bits(self, prior: SamplePrior, step: int, codes: Frames | None) -> float:
        coded = encode_samples(prior, self.tail, step, codes)
        n_bytes = sum(
            4 * x.size if result is None else len(result[0])
            for x, result in zip(self.tail, coded, strict=True)
        )
        return 8 * n_bytes / sum(x.size for x in self.tail)

    # ---- candidates ----

    def _bundle(self, files: Mapping[str, bytes]) -> Bundle:
        return Bundle.from_files(seal(self.raw, files), engine=self.parent.engine)


def _part(name: str, before: float, after: float, *, only_tables: bool = False) -> Part:
    kept = "the parent's"
    if after < before:
        kept = "the parent's net, new tables" if only_tables else "adapted"
    return Part(name=name, before=before, after=after, kept=kept)


def _with_latent(bundle: Bundle, prior: LatentPrior) -> bytes:
    return pack_coder(prior, bundle.sample_priors)


def _code_steps(bundle: Bundle, trained: Sequence[int]) -> list[int]:
    net = bundle.net
    assert net is not None
    return sorted({trained[0], net.default_step, trained[1]})


def _mean_over(steps: Sequence[int], score: Callable[[int], float]) -> float:
    """Geometric mean of a score over quantizer steps."""
    return math.exp(float(np.mean([math.log(max(score(step), 1e-6)) for step in steps])))


def _signal(x: Samples, setup: Setup) -> Signal:
    return signal_of(Dataset(name="new", split="train", segments=(x,), names=("new",)), setup)


def _frames(signal: Signal) -> Frames:
    """A signal as the runtime codes it: int32 [G, T, C] each, images one by one."""
    segment = signal.segments[0]
    if signal.is_image:
        images = segment.flatten(2).permute(0, 2, 1).numpy().astype(np.int32)
        return [np.ascontiguousarray(images[i : i + 1]) for i in range(len(images))]
    rows = segment.T.numpy().astype(np.int32)
    pieces = [rows[i : i + FRAME_ITEMS] for i in range(0, len(rows), FRAME_ITEMS)]
    return [np.ascontiguousarray(piece[None]) for piece in pieces]


def _gains(
    old: Bundle, new: Bundle, x: Samples, lattice: Lattice, model: Restored
) -> Sequence[Gain]:
    """Streams of the tail under every promise, by both bundles."""
    errors = {(step - 1) // 2 for prior in model.recipe.sample_prior for step in prior.steps}
    unit = float(np.max(lattice.steps))
    promises: list[tuple[str, dict[str, Any]]] = [("lossy", {})] if new.net is not None else []
    promises += [(f"max error {e * unit:g}", {"max_error": e * unit}) for e in sorted(errors) if e]
    promises.append(("lossless", {"lossless": True}))
    grids, finite = list(lattice.grids), np.isfinite(x)
    found = []
    for told, options in promises:
        pairs = []
        for bundle in (old, new):
            data = encode(bundle, x, profile="radio", grid=grids, **options)
            rate = 8 * (len(data) - StreamHeader.unpack(data)[1]) / x.size
            back = decode(bundle, data).reshape(x.shape)
            pairs.append((rate, rmse(x[finite], back[finite])))
        (before, error), (after, error_after) = pairs
        found.append(
            Gain(
                promise=told,
                before=round(before, 5),
                after=round(after, 5),
                rmse_before=round(error, 5),
                rmse_after=round(error_after, 5),
            )
        )
    return found


def _metrics(bundle: Bundle, gains: Sequence[Gain], lattice: Lattice) -> dict[str, Any]:
    """The parent's metrics, those of the window code as they are on the new signal."""
    metrics = dict(bundle.manifest.raw.get("metrics", {}))
    lossy = next((gain for gain in gains if gain.promise == "lossy"), None)
    if lossy is not None:
        metrics["window_code"] = {
            "bits_per_sample": lossy.after,
            "rmse": round(lossy.rmse_after / float(np.max(lattice.steps)), 4),
        }
    return metrics
