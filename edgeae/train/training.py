"""Train a recipe: read the data, build the nets, run the phases.

Example::

    run = train(load_recipe("ecg-own"), out="runs/ecg-own")
    quantize(run)            # edgeae.quantize
    export(run, "ecg-own")   # edgeae.exporting
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import torch

from edgeae.errors import ConfigError
from edgeae.train.build import build_pixel_prior, build_sample_prior, build_window_code
from edgeae.train.datasets import Dataset, load_dataset
from edgeae.train.phases import SamplePriorPhase, Signal, TransformPhase, WindowCode
from edgeae.train.pixels import PixelPriorPhase
from edgeae.train.recipe import Recipe
from edgeae.train.run import Progress, RunFolder, Schedule, run_phase
from edgeae.train.setup import Setup, signal_of, study

__all__ = ["TrainingData", "load_training_data", "read_part", "setup_of", "silent", "train"]


def silent(name: str, done: float, metrics: Mapping[str, float]) -> None:
    """A progress callback that shows nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The parts of a data set that training may see."""

    setup: Setup
    train: Signal
    validation: Signal


def load_training_data(run: RunFolder) -> TrainingData:
    """Read the run's data; the setup is made on first use and kept."""
    recipe = run.recipe()
    part = read_part(recipe, "train")
    setup = setup_of(run, part)
    if recipe.data.turns and (setup.kind == "image" or setup.channels % 3):
        raise ConfigError(
            f"data.turns is for series of three axes a sensor, found {setup.channels} channel(s) "
            f"of kind {setup.kind!r}: leave it out"
        )
    return TrainingData(
        setup=setup,
        train=dataclasses.replace(signal_of(part, setup), turns=recipe.data.turns),
        validation=_validatable(signal_of(read_part(recipe, "val"), setup), recipe.stride),
    )


def setup_of(run: RunFolder, part: Dataset) -> Setup:
    """What was read off a run's training data, made on first use and kept.

    Raises:
        ConfigError: the data changed since the run began.
    """
    if (run.path / "setup.json").exists():
        setup = Setup.from_json(run.read_json("setup.json"))
        changed = [k for k, v in part.sha256.items() if setup.hashes.get(k, v) != v]
        if changed:
            raise ConfigError(
                f"{', '.join(changed)} changed since the run in {run.path} began; bring back the "
                "older data, or start a new run"
            )
    else:
        setup = study(part)
        run.write_json("setup.json", setup.to_json())
    return setup


def read_part(recipe: Recipe, split: str) -> Dataset:
    """One split of a recipe's data."""
    data = recipe.data
    return load_dataset(
        data.source,
        split,
        test=data.test or None,
        columns=data.columns,
        normalize=data.normalize,
        key=data.key or None,
        dtype=data.dtype or None,
        channels=data.channels,
        rate_hz=data.rate_hz,
    )


def train(
    recipe: Recipe,
    *,
    out: str | os.PathLike[str],
    data: str | None = None,
    progress: Progress = silent,
    threads: int = 2,
) -> RunFolder:
    """Train a recipe in float; a run that was killed goes on where it stopped.

    Args:
        recipe: what to train.
        out: the run's folder.
        data: path or data set name instead of the recipe's ``data.source``.
        progress: called with the phase's name, the fraction done, and metrics.
        threads: torch threads.

    Raises:
        ConfigError: no data named, or the folder belongs to another recipe.
        SignalError: the data cannot be used.
    """
    if data is not None:
        source = str(data) if not os.path.exists(data) else os.path.abspath(data)
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, source=source))
    if not recipe.data.source:
        raise ConfigError(f"recipe {recipe.name!r} names no data; give --data PATH")
    torch.set_num_threads(threads)
    run = RunFolder(out)
    run.create(recipe)
    if recipe.denoise is not None:
        from edgeae.train.denoising import train_denoiser

        train_denoiser(run, progress=progress)
        return run
    if recipe.model.family == "tutorial":
        from edgeae.train.tutorial import train_tutorial

        train_tutorial(run, progress=progress)
        return run
    parts = load_training_data(run)
    code = _train_window_code(run, recipe, parts, progress)
    for i, prior in enumerate(recipe.sample_prior):
        torch.manual_seed(recipe.seed)
        schedule = Schedule(steps=prior.train_steps, learning_rate=prior.learning_rate)
        if prior.kind == "pixel":
            net = build_pixel_prior(prior, parts.setup)
            schedule = dataclasses.replace(schedule, muon=True, average=0.995)
            pixels = PixelPriorPhase(
                f"prior{i}", net, prior, schedule, parts.train, parts.validation
            )
            run_phase(pixels, run, seed=recipe.seed, progress=progress)
            continue
        phase = SamplePriorPhase(
            f"prior{i}",
            build_sample_prior(prior, parts.setup),
            prior,
            schedule,
            _long_enough(parts.train, prior.crop),
            parts.validation,
            code=code if prior.code else None,
        )
        run_phase(phase, run, seed=recipe.seed, progress=progress)
    return run


def _train_window_code(
    run: RunFolder, recipe: Recipe, parts: TrainingData, progress: Progress
) -> WindowCode | None:
    torch.manual_seed(recipe.seed)
    code = build_window_code(recipe, parts.setup)
    if code is None:
        return None
    r = recipe.train
    schedule = Schedule(
        steps=r.steps,
        learning_rate=r.learning_rate,
        validate_every=r.validate_every,
        patience=r.patience,
        settle=r.hard_after,
        muon=r.optimizer == "muon",
        average=0.995 if r.optimizer == "muon" else 0.0,
    )
    signal = _long_enough(parts.train, r.crop)
    phase = TransformPhase("transform", code, r, schedule, signal, parts.validation)
    run_phase(phase, run, seed=recipe.seed, progress=progress)
    return code


def _validatable(signal: Signal, unit: int) -> Signal:
    if signal.is_image or any(s.shape[-1] >= unit for s in signal.segments):
        return signal
    longest = max(s.shape[-1] for s in signal.segments)
    raise ConfigError(
        f"the longest validation segment has {longest} samples and the nets take {unit} at a time; "
        "lower the product of model.strides (or model.window), or bring more data"
    )


def _long_enough(signal: Signal, crop: int) -> Signal:
    """The segments a crop fits in; short ones are left aside, and at least one must remain."""
    if signal.is_image:
        return signal
    kept = tuple(s for s in signal.segments if s.shape[-1] >= crop)
    if not kept:
        longest = max(s.shape[-1] for s in signal.segments)
        raise ConfigError(
            f"the longest training segment has {longest} samples and a crop needs {crop}; "
            f"set train.crop and sample_prior.crop to at most {longest}, or bring more data"
        )
    return dataclasses.replace(signal, segments=kept)
