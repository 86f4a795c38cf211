"""Recipes: everything that decides a model, in one TOML file.

A recipe names its data, the nets, the loss, the seeds and the budgets. Fields left out take the
defaults below; unknown fields are errors, with the nearest known name.

Example:
    >>> recipe = parse_recipe('name = "demo"\\n[data]\\nsource = "sensor"\\n')
    >>> recipe.model.family, recipe.seed
    ('conv1d', 1)
    >>> with_overrides(recipe, ["train.steps=10"]).train.steps
    10
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from edgeae.errors import ConfigError
from edgeae.footprint.budget import Budget
from edgeae.footprint.devices import load_device
from edgeae.train.denoise_recipe import DenoiseRecipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "BudgetRecipe",
    "DataRecipe",
    "LatentPriorRecipe",
    "ModelRecipe",
    "QuantizeRecipe",
    "Recipe",
    "SamplePriorRecipe",
    "TrainRecipe",
    "load_recipe",
    "parse_recipe",
    "recipe_from_dict",
    "recipe_names",
    "recipe_to_dict",
    "with_overrides",
]


# what the runtime's integer nets and manifests hold at most
MAX_CHANNELS = 1024
MAX_PRIOR_WIDTH = 256
MAX_PRIOR_LAYERS = 8
MAX_OFFSET = 4096
MAX_WINDOW = 1 << 16
MAX_STEP = 1 << 14
TASKS = ("codec", "denoise")
TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Where the signal comes from.

    Attributes:
        source: a data set's name or a path; empty: ``--data`` must give it.
        columns: columns of a CSV to use, by name; empty for all.
        normalize: ``l2`` scales every row or image to unit length (the classic tutorial).
        test: a file or folder to test on, instead of the last tenth of every recording.
        key: array of a .npz; a pattern such as ``*_x`` takes many, each a recording.
        dtype: of raw samples; channels: of raw samples; rate_hz: where the file does not say it.
        turns: each three channels are axes in space, and a device may sit anyhow: what is learnt
            from is turned at random.
    """

    source: str = ""
    columns: tuple[str, ...] = ()
    normalize: str = ""
    test: str = ""
    key: str = ""
    dtype: str = ""
    channels: int | None = None
    rate_hz: float | None = None
    turns: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """The window code: analysis and synthesis net.

    Attributes:
        family: ``conv1d``, ``conv2d``, ``dense`` (dyadic), ``tutorial`` (float dense, sigmoid) or
            ``none`` (no window code: the sample prior alone).
        latent: latent channels L.
        widths: channels after each strided layer.
        strides: step of each strided layer.
        kernels: taps of each strided layer.
        window: items of a dense window.
        bits: bits of hidden activations, 8 to 12.
    """

    family: str = "conv1d"
    latent: int = 8
    widths: tuple[int, ...] = (24, 48, 48)
    strides: tuple[int, ...] = (4, 4, 2)
    kernels: tuple[int, ...] = (16, 8, 5)
    window: int = 64
    bits: int = 10


@dataclass(frozen=True, kw_only=True)
class LatentPriorRecipe:
    """Entropy model of the symbols.

    Attributes:
        width: channels of the causal net; 0: one static table per latent channel.
        offsets: steps back that it sees (images: raster order, rows are added by the trainer).
        depth: hidden layers.
        kind: ``shape`` (tables of one family) or ``cells`` (a counted table for each mean and
            scale, which also knows symbols that are all but sure: for images).
    """

    kind: str = "shape"

    width: int = 32
    offsets: tuple[int, ...] = (1, 2, 3, 4)
    depth: int = 2


@dataclass(frozen=True, kw_only=True)
class SamplePriorRecipe:
    """One sample prior, for ``--max-error`` and ``--lossless``.

    Attributes:
        steps: quantizer steps (2 * E + 1, index units) it is trained for.
        width: channels of the hidden layers.
        taps: samples back that the first layer and the linear taps see.
        dilations: per further hidden layer, the distance between its two taps (0: one tap); of a
            pixel prior, how many pixels it looks around.
        kind: ``delta`` (signals), ``level`` (images) or ``pixel`` (images of up to 256 levels,
            each level's likelihood by itself).
        code: it also sees the synthesis net's output.
        lookahead: samples of that output it sees ahead.
        bits: bits of hidden activations.
        train_steps: optimizer steps in float.
        batch: crops per step.
        crop: items per crop.
        learning_rate: peak learning rate.
        augment: how unlike the training device others may be: octaves of random gain of a crop, and
            as strong a random filter; one in ten is turned upside down.
        feature_shift: the net counts in 2^this grid steps and sees changes of up to 2,047 of these;
            left out: so that the data's largest change fits.
        adaptive: let each frame correct the net, where that saves bytes on the validation part.
        adaptive_gains: per step, ascending, how freely a frame moves the net's mean (0: not at all,
            0.003 is usual); empty: chosen on the validation part, which is of known devices.
        mixture: width of the net that gives an adaptive prior's mixture more parts, where that
            saves bytes on the validation part; 0: none.
        mixture_parts: how many, 1 to 8.
        mixture_history: past errors that it reads, and as many changes.
    """

    steps: tuple[int, ...] = (1, 3, 11, 21, 41)
    width: int = 24
    taps: int = 32
    dilations: tuple[int, ...] = (1, 1)
    kind: str = "delta"
    code: bool = False
    lookahead: int = 0
    bits: int = 10
    train_steps: int = 4000
    batch: int = 32
    crop: int = 1024
    learning_rate: float = 3e-3
    augment: float = 0.0
    feature_shift: int | None = None
    adaptive: bool = True
    adaptive_gains: tuple[float, ...] = ()
    mixture: int = 24
    mixture_parts: int = 6
    mixture_history: int = 8


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Float training of the window code.

    Attributes:
        steps: optimizer steps.
        batch: crops (or images) per step.
        crop: items per crop.
        learning_rate: peak learning rate of Adam, cosine to 2 %.
        distortion_weight: bits per sample that one squared index unit is worth at step 16.
        hard_after: fraction of the steps after which symbols are rounded instead of noisy.
        step_range: smallest and largest stream step (sixteenths) the nets learn.
        validate_every: optimizer steps between validations.
        patience: validations without progress before stopping early.
        augment: octaves of random gain, and standard deviations of random offset, of a crop.
        optimizer: ``adam``, or ``muon`` for convolutions, of which a running mean is kept.
        focus: share of a batch at step 16; below a half, all steps weigh alike in the loss.
    """

    steps: int = 6000
    batch: int = 16
    crop: int = 2048
    learning_rate: float = 2e-3
    distortion_weight: float = 0.01
    hard_after: float = 0.6
    step_range: tuple[int, int] = (8, 45)
    validate_every: int = 250
    patience: int = 12
    augment: float = 0.0
    optimizer: str = "adam"
    focus: float = 0.6


@dataclass(frozen=True, kw_only=True)
class QuantizeRecipe:
    """Dyadic quantization-aware fine-tuning.

    Attributes:
        steps: optimizer steps for the window code.
        prior_steps: optimizer steps for each sample prior, in each round.
        rounds: times the training signal is coded in closed loop and learned from.
        learning_rate: peak learning rate.
    """

    steps: int = 1500
    prior_steps: int = 1200
    rounds: int = 2
    learning_rate: float = 5e-4


@dataclass(frozen=True, kw_only=True)
class BudgetRecipe:
    """What the device has room for; ``None`` is no limit.

    The first three are checked at export. The others hold per window for the lossy encoder, or the
    bounded one where there is no window code: ``edgeae report`` checks them before and after
    training, and export too.

    Attributes:
        max_parameters: parameters of the encoder and the priors.
        max_macs_per_sample: multiply-accumulates per sample, encoder and priors.
        max_bundle_bytes: size of the bundle's files.
        device: a device profile's name; see ``edgeae report --list``.
        max_flash: weights, tables and code on it: ``"256K"``.
        max_ram: arena, coder state and buffers: ``"64K"``.
        max_ms: typical milliseconds per window.
        max_uj: typical microjoules per window.
    """

    max_parameters: int | None = None
    max_macs_per_sample: float | None = None
    max_bundle_bytes: int | None = None
    device: str | None = None
    max_flash: str | None = None
    max_ram: str | None = None
    max_ms: float | None = None
    max_uj: float | None = None

    def __post_init__(self) -> None:
        """Check that they can be read."""
        limits = self.device_budget()
        if self.device is not None:
            load_device(self.device)
        elif limits.limits:
            raise ConfigError(
                f"budgets.max_{next(iter(limits.limits))} needs budgets.device, the name of a "
                "device: edgeae report --list"
            )

    def device_budget(self) -> Budget:
        """The limits that hold on ``device``."""
        return Budget.parse(
            flash=self.max_flash,
            ram=self.max_ram,
            ms=None if self.max_ms is None else str(self.max_ms),
            uj=None if self.max_uj is None else str(self.max_uj),
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model, before it is trained."""

    name: str
    description: str = ""
    task: str = "codec"
    seed: int = 1
    training_minutes: float | None = None
    data: DataRecipe = field(default_factory=DataRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    latent_prior: LatentPriorRecipe = field(default_factory=LatentPriorRecipe)
    sample_prior: tuple[SamplePriorRecipe, ...] = ()
    train: TrainRecipe = field(default_factory=TrainRecipe)
    quantize: QuantizeRecipe = field(default_factory=QuantizeRecipe)
    budgets: BudgetRecipe = field(default_factory=BudgetRecipe)
    denoise: DenoiseRecipe | None = None

    def __post_init__(self) -> None:
        """Check what no single field can tell."""
        if self.task not in TASKS:
            raise ConfigError(f"task is {self.task!r}; this version trains {' and '.join(TASKS)}")
        if (self.task == "denoise") != (self.denoise is not None):
            raise ConfigError(
                "task = 'denoise' and the table [denoise] belong together: one is there alone"
            )
        if self.denoise is not None:
            return
        families = ("conv1d", "conv2d", "dense", "tutorial", "none")
        if self.model.family not in families:
            raise ConfigError(f"model.family is {self.model.family!r}, expected one of {families}")
        m = self.model
        if m.family in ("conv1d", "conv2d") and not (
            len(m.widths) == len(m.strides) == len(m.kernels) > 0
        ):
            raise ConfigError(
                f"model.widths, .strides and .kernels need one entry per layer, found "
                f"{len(m.widths)}, {len(m.strides)} and {len(m.kernels)}"
            )
        if m.family in ("conv1d", "conv2d") and any(
            k < s for k, s in zip(m.kernels, m.strides, strict=True)
        ):
            raise ConfigError("model.kernels must not be smaller than model.strides")
        if self.train.optimizer not in ("adam", "muon"):
            raise ConfigError(f"train.optimizer is {self.train.optimizer!r}, expected adam or muon")
        if not 6 <= m.bits <= 12:
            raise ConfigError(f"model.bits is {m.bits}, expected 6 to 12")
        self._check_ranges()
        if self.latent_prior.kind not in ("shape", "cells") or (
            self.latent_prior.kind == "cells" and not self.latent_prior.width
        ):
            raise ConfigError(
                f"latent_prior.kind is {self.latent_prior.kind!r}, expected shape or cells; "
                "cells need a width"
            )
        for prior in self.sample_prior:
            if any(s < 1 or s % 2 == 0 for s in prior.steps) or not prior.steps:
                raise ConfigError(
                    f"sample_prior.steps are {list(prior.steps)}; a quantizer step is 2 * E + 1: "
                    "an odd integer"
                )
            if prior.kind not in ("delta", "level", "pixel"):
                raise ConfigError(
                    f"sample_prior.kind is {prior.kind!r}, expected delta, level or pixel"
                )
            if prior.kind == "pixel" and prior.code:
                raise ConfigError("a sample_prior of kind 'pixel' reads no code: leave code out")
            if prior.code and m.family in ("none", "tutorial"):
                raise ConfigError(f"sample_prior.code needs a dyadic model, not {m.family!r}")
        if m.family == "none" and not self.sample_prior:
            raise ConfigError("model.family is 'none' and there is no [[sample_prior]]: no model")

    @property
    def stride(self) -> int:
        """Items of a series per latent step (images: per side); 1 without a window code."""
        if self.model.family == "dense":
            return self.model.window
        return math.prod(self.model.strides) if self.model.family in ("conv1d", "conv2d") else 1

    def _check_ranges(self) -> None:
        """Check that numbers can be trained with, and that the runtime can code with the result."""
        m, t, prior = self.model, self.train, self.latent_prior
        net = m.family not in ("none", "tutorial")
        inputs = MAX_PRIOR_WIDTH // 2 if net and prior.width else MAX_CHANNELS
        limits: list[tuple[str, Sequence[float], float, float]] = [
            ("model.latent", [m.latent], 1, inputs),
            ("model.widths", m.widths, 1, math.inf),
            ("model.strides", m.strides, 1, MAX_WINDOW),
            ("model.kernels", m.kernels, 1, MAX_WINDOW),
            ("model.window", [m.window], 1, MAX_WINDOW),
            ("latent_prior.width", [prior.width], 0, MAX_PRIOR_WIDTH),
            ("latent_prior.depth", [prior.depth], 1, MAX_PRIOR_LAYERS),
            ("latent_prior.offsets", prior.offsets, 1, MAX_OFFSET),
            ("train.steps", [t.steps], 1, math.inf),
            ("train.batch", [t.batch], 1, math.inf),
            ("train.crop", [t.crop], self.stride if m.family != "conv2d" else 1, math.inf),
            ("train.learning_rate", [t.learning_rate], TINY, math.inf),
            ("train.hard_after", [t.hard_after], 0, 1),
            ("train.focus", [t.focus], 0, 1),
            ("train.step_range", t.step_range, 1, MAX_STEP),
            ("train.validate_every", [t.validate_every], 1, math.inf),
            ("train.patience", [t.patience], 1, math.inf),
            ("quantize.learning_rate", [self.quantize.learning_rate], TINY, math.inf),
        ]
        for i, p in enumerate(self.sample_prior):
            name = f"sample_prior.{i}"
            limits += [
                (f"{name}.width", [p.width], 1, MAX_PRIOR_WIDTH),
                (f"{name}.taps", [p.taps], 1, MAX_OFFSET),
                (f"{name}.dilations", p.dilations, 0, MAX_OFFSET),
                (f"{name}.bits", [p.bits], 6, 12),
                (f"{name}.train_steps", [p.train_steps], 1, math.inf),
                (f"{name}.batch", [p.batch], 1, math.inf),
                (f"{name}.crop", [p.crop], self.stride if p.code else 2, math.inf),
                (f"{name}.learning_rate", [p.learning_rate], TINY, math.inf),
                (f"{name}.adaptive_gains", p.adaptive_gains, 0, 1),
                (f"{name}.mixture", [p.mixture], 0, MAX_PRIOR_WIDTH),
                (f"{name}.mixture_parts", [p.mixture_parts], 1, 8),
                (f"{name}.mixture_history", [p.mixture_history], 0, 24),
            ]
            if p.adaptive_gains and len(p.adaptive_gains) != len(p.steps):
                raise ConfigError(
                    f"{name}.adaptive_gains has {len(p.adaptive_gains)} entries: one for each of "
                    f"the {len(p.steps)} steps, or none"
                )
            if len(p.dilations) >= MAX_PRIOR_LAYERS:
                raise ConfigError(
                    f"{name}.dilations has {len(p.dilations)} entries: at most "
                    f"{MAX_PRIOR_LAYERS - 1} hidden layers can follow the first"
                )
        for name, values, low, high in limits:
            for value in values:
                if not low <= value <= high:
                    top = "or more" if high == math.inf else f"to {high:g}"
                    raise ConfigError(f"{name} is {value:g}, expected {low:g} {top}")
        if t.step_range[0] > t.step_range[1]:
            raise ConfigError(f"train.step_range is {list(t.step_range)}: low, then high")
        if list(prior.offsets) != sorted(set(prior.offsets)) or not prior.offsets:
            raise ConfigError(f"latent_prior.offsets are {list(prior.offsets)}: they must ascend")


def _coerce(kind: Any, value: Any, where: str) -> Any:
    """Check a TOML value against a field's type; tuples come as arrays."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        kind = next(a for a in typing.get_args(kind) if a is not type(None))
        return _coerce(kind, value, where)
    if origin is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(f"{where} is {value!r}, expected an array")
        inner = typing.get_args(kind)
        if inner[-1] is not Ellipsis and len(inner) != len(value):
            raise ConfigError(f"{where} has {len(value)} entries, expected {len(inner)}")
        return tuple(_coerce(inner[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where} is {value!r}, expected {kind.__name__}")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{where} is {value!r}, expected a finite number")
    if kind in (int, float) and value < 0 and "snr_db" not in where:
        raise ConfigError(f"{where} is {value!r}, expected a number that is not negative")
    return value


def _build(kind: Any, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'recipe'} is {values!r}, expected a table")
    hints = typing.get_type_hints(kind)
    known = {}
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(hints)}"
            raise ConfigError(f"unknown recipe field {where + '.' if where else ''}{key}{hint}")
        known[key] = _coerce(hints[key], value, f"{where}.{key}" if where else key)
    try:
        return kind(**known)
    except TypeError as error:
        raise ConfigError(f"recipe {where}: {error}") from error


def parse_recipe(text: str) -> Recipe:
    """Parse the TOML text of a recipe.

    Raises:
        ConfigError: not TOML, an unknown field, or a value that makes no sense.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the recipe is not TOML: {error}") from error
    if "name" not in values:
        raise ConfigError('the recipe has no name; add: name = "…"')
    recipe: Recipe = _build(Recipe, values, "")
    return recipe


def recipe_names() -> list[str]:
    """Names of the recipes that come with edgeae."""
    folder = resources.files("edgeae.recipes")
    return sorted(f.name[: -len(".toml")] for f in folder.iterdir() if f.name.endswith(".toml"))


def load_recipe(name_or_path: str) -> Recipe:
    """Load a recipe by name (see :func:`recipe_names`) or from a TOML file.

    Raises:
        ConfigError: no such recipe, or one that cannot be parsed.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        try:
            return parse_recipe(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the recipe {path}: {error}") from error
    names = recipe_names()
    if name_or_path not in names:
        near = difflib.get_close_matches(name_or_path, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"no recipe {name_or_path!r}; known: {', '.join(names)}, or give a .toml file.{hint}"
        )
    file = resources.files("edgeae.recipes").joinpath(f"{name_or_path}.toml")
    return parse_recipe(file.read_text(encoding="utf-8"))


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON-able values; ``_build`` reads them back."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {
                f.name: plain(getattr(value, f.name))
                for f in dataclasses.fields(value)
                if getattr(value, f.name) is not None
            }
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        return value

    result: dict[str, Any] = plain(recipe)
    return result


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """Inverse of :func:`recipe_to_dict`."""
    recipe: Recipe = _build(Recipe, values, "")
    return recipe


def with_overrides(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Apply ``key=value`` settings, as ``--set`` takes them: ``train.steps=100``.

    A value is TOML; ``sample_prior.0.width=16`` reaches into an array of tables. A value that is
    not TOML is taken as text.

    Raises:
        ConfigError: a setting without ``=``, or a field that does not exist.
    """
    values = recipe_to_dict(recipe)
    for setting in settings:
        key, found, text = setting.partition("=")
        if not found:
            raise ConfigError(f"--set {setting!r}: expected key=value")
        try:
            value = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            value = text
        *parents, last = key.strip().split(".")
        node: Any = values
        for name in parents:
            try:
                node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
            except (ValueError, IndexError, AttributeError) as error:
                raise ConfigError(f"--set {key}: there is no {name!r}") from error
        if not isinstance(node, dict):
            raise ConfigError(f"--set {key}: {parents[-1]} is not a table")
        node[last] = value
    return recipe_from_dict(values)
