"""A training run's folder, and the loop that any phase of training goes through.

::

    RUN/
      recipe.json        the recipe as it was resolved
      setup.json         what was read off the data: grid, center, ranges, hashes
      metrics.jsonl      one line per validation
      phases/NAME.pt     a finished phase's best weights
      phases/NAME.part   the phase under way: weights, optimizer, generator; resumed after a kill
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edgeae.errors import ConfigError, ModelError
from edgeae.train.optim import Muon
from edgeae.train.recipe import Recipe, recipe_from_dict, recipe_to_dict

__all__ = ["Phase", "Progress", "RunFolder", "Schedule", "run_phase"]

Progress = Callable[[str, float, Mapping[str, float]], None]
"""Called with a phase's name, the fraction done, and its newest metrics."""

SAVE_EVERY_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length and learning rate of a phase."""

    steps: int
    learning_rate: float
    validate_every: int = 250
    patience: int = 12
    settle: float = 0.0
    """Fraction of the steps before which nothing counts as the best."""
    hold: float = 0.0
    """Fraction of the steps at the peak learning rate, before it falls."""
    muon: bool = False
    """Orthogonalised updates for convolutions, instead of Adam's."""
    average: float = 0.0
    """What is validated and kept is a running mean of the weights, with this decay per step."""


class Phase(Protocol):
    """One stretch of training: a module, a loss on the next batch, and a validation."""

    @property
    def name(self) -> str:
        """Name of the phase, and of its files."""
        ...

    @property
    def module(self) -> nn.Module:
        """What is trained."""
        ...

    @property
    def schedule(self) -> Schedule:
        """Length and learning rate."""
        ...

    def loss(self, done: float, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Loss of the next batch; ``done`` is the fraction of the phase behind us."""
        ...

    def validate(self) -> dict[str, float]:
        """Metrics on validation data; ``objective`` is minimised."""
        ...


class RunFolder:
    """The files of one training run.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def phases(self) -> Path:
        """Folder of the phases' weights."""
        return self.path / "phases"

    def create(self, recipe: Recipe) -> None:
        """Make the folder, or check that it belongs to the same recipe.

        Raises:
            ConfigError: the folder holds a run of another recipe, or cannot be made.
        """
        file = self.path / "recipe.json"
        if file.exists():
            found = self.recipe()
            if found != recipe:
                raise ConfigError(
                    f"{self.path} holds a run of another recipe ({found.name!r}); "
                    "give another --out, or delete the folder"
                )
            return
        try:
            self.phases.mkdir(parents=True, exist_ok=True)
            self.write_json("recipe.json", recipe_to_dict(recipe))
        except OSError as error:
            raise ConfigError(f"cannot make the run folder {self.path}: {error}") from error

    def recipe(self) -> Recipe:
        """The run's recipe.

        Raises:
            ModelError: the folder is not a run.
        """
        return recipe_from_dict(self.read_json("recipe.json"))

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of the run's JSON files."""
        try:
            values: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ModelError(
                f"{self.path} is not a finished training run: it has no {name}. "
                "Train first: edgeae train RECIPE --out RUN"
            ) from error
        except ValueError as error:
            raise ModelError(f"{self.path / name} is damaged: {error}") from error
        return values

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write one of the run's JSON files, whole or not at all."""
        part = self.path / f".{name}.part"
        part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path / name)

    def log(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line of metrics."""
        line = {"phase": phase, "step": step, **{k: round(v, 6) for k, v in metrics.items()}}
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Every logged line."""
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

    def seconds(self) -> float:
        """Seconds of training that the finished phases took."""
        finished = {m["phase"]: m["seconds"] for m in self.metrics() if "seconds" in m}
        return float(sum(finished.values()))

    def done(self, phase: str) -> bool:
        """Whether a phase is finished."""
        return (self.phases / f"{phase}.pt").exists()

    def load_phase(self, phase: str, module: nn.Module) -> None:
        """Load a finished phase's weights into its module."""
        _load(module, _read(self.phases / f"{phase}.pt")["module"], self.path, phase)


def _read(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"{path} is damaged: {error}; delete it to train the phase anew"
        ) from error
    return values


def _load(module: nn.Module, state: Mapping[str, Any], path: Path, phase: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"{path}: the weights of phase {phase} do not fit the recipe: {error}"
        ) from error


def _write(path: Path, values: Mapping[str, Any]) -> None:
    part = path.with_suffix(path.suffix + ".tmp")
    torch.save(dict(values), part)
    part.replace(path)


def _rate(schedule: Schedule, step: int) -> float:
    done = step / max(schedule.steps, 1)
    done = max(0.0, done - schedule.hold) / (1 - schedule.hold)
    warm = min(1.0, (step + 1) / min(100, max(schedule.steps // 10, 1)))
    return schedule.learning_rate * warm * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * done)))


def run_phase(phase: Phase, run: RunFolder, *, seed: int, progress: Progress) -> None:
    """Train a phase to its end, or go on from where a killed run stopped.

    The best validated weights are kept in ``phases/NAME.pt`` and loaded into the module.
    """
    if run.done(phase.name):
        run.load_phase(phase.name, phase.module)
        return
    schedule = phase.schedule
    part = run.phases / f"{phase.name}.part"
    parameters = [p for p in phase.module.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if schedule.muon:
        optimizer = Muon(parameters, lr=schedule.learning_rate)
    else:
        optimizer = torch.optim.Adam(parameters, lr=schedule.learning_rate)
    mean = [p.detach().clone() for p in parameters]
    generator = torch.Generator().manual_seed(seed)
    step, best, stale, spent = 0, math.inf, 0, 0.0
    best_state: dict[str, Any] | None = None
    if part.exists():
        saved = _read(part)
        _load(phase.module, saved["module"], run.path, phase.name)
        optimizer.load_state_dict(saved["optimizer"])
        generator.set_state(saved["generator"])
        step, best, stale, spent = saved["step"], saved["best"], saved["stale"], saved["spent"]
        best_state = saved["best_state"]
        mean = saved.get("mean", mean)
    started = saved_at = time.monotonic()
    metrics: dict[str, float] = {}
    phase.module.train()
    while step < schedule.steps:
        for group in optimizer.param_groups:
            group["lr"] = _rate(schedule, step)
        loss, metrics_now = phase.loss(step / schedule.steps, generator)
        if not torch.isfinite(loss):
            raise ModelError(
                f"training of {phase.name} diverged at step {step}: the loss is {loss.item()}. "
                "Lower the learning rate, or look at the data's range"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if schedule.average:
            _average(mean, parameters, min(schedule.average, step / (step + 9)))
        if step % 20 == 0:
            progress(phase.name, step / schedule.steps, metrics or metrics_now)
        if step % schedule.validate_every == 0 or step == schedule.steps:
            phase.module.eval()
            if schedule.average:
                _swap(mean, parameters)
            with torch.no_grad():
                metrics = phase.validate()
            phase.module.train()
            run.log(phase.name, step, metrics)
            if step >= schedule.settle * schedule.steps:
                if metrics["objective"] < best or best_state is None:
                    best, stale = metrics["objective"], 0
                    best_state = {k: _copied(v) for k, v in phase.module.state_dict().items()}
                else:
                    stale += 1
            if schedule.average:
                _swap(mean, parameters)
            if stale >= schedule.patience:
                break
        if time.monotonic() - saved_at > SAVE_EVERY_S:
            saved_at = time.monotonic()
            _write(
                part,
                {
                    "module": phase.module.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "generator": generator.get_state(),
                    "step": step,
                    "best": best,
                    "stale": stale,
                    "spent": spent + saved_at - started,
                    "best_state": best_state,
                    "mean": mean,
                },
            )
    if best_state is None:
        best_state = dict(phase.module.state_dict())
    phase.module.load_state_dict(best_state)
    phase.module.eval()
    _write(run.phases / f"{phase.name}.pt", {"module": best_state})
    spent += time.monotonic() - started
    run.log(phase.name, step, {"best": best, "seconds": spent})
    progress(phase.name, 1.0, {"objective": best})
    part.unlink(missing_ok=True)


@torch.no_grad()
def _average(mean: list[Tensor], parameters: list[nn.Parameter], decay: float) -> None:
    for m, p in zip(mean, parameters, strict=True):
        m.lerp_(p, 1 - decay)


@torch.no_grad()
def _swap(mean: list[Tensor], parameters: list[nn.Parameter]) -> None:
    for m, p in zip(mean, parameters, strict=True):
        held = m.clone()
        m.copy_(p)
        p.copy_(held)


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
