"""``edgeae report``: what a model takes on a device, before it is there."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeae.cli.base import ExitCode, command, fail, note, print_json
from edgeae.errors import ConfigError, VersionError

if TYPE_CHECKING:
    from edgeae.footprint.budget import Budget
    from edgeae.footprint.devices import Device
    from edgeae.footprint.model import ModelFootprint, Use

__all__: list[str] = []

_USES = "encode-lossy, encode-bound, decode-lossy, decode-bound, denoise, run"


@command("report")
def report(
    target: str | None = typer.Argument(
        None, metavar="TARGET", help="A bundle, a recipe (name or .toml), or an .onnx file."
    ),
    device: list[str] | None = typer.Option(None, "--device", help="Device; repeat for more."),
    use: str | None = typer.Option(None, help=f"What budgets and layers are for: {_USES}."),
    window: int | None = typer.Option(None, help="Time steps or images per window."),
    shape: str | None = typer.Option(
        None, help="Input shape of an .onnx file: 1,640; of a denoiser of images: HEIGHT,WIDTH."
    ),
    data: str | None = typer.Option(None, "--data", help="Data of a recipe: name or path."),
    settings: list[str] | None = typer.Option(
        None, "--set", metavar="KEY=VALUE", help="Override a field of a recipe."
    ),
    engine: str = typer.Option("auto", help="On Linux: auto, native or onnxruntime."),
    max_flash: str | None = typer.Option(None, help="Budget: bytes such as 256K."),
    max_ram: str | None = typer.Option(None, help="Budget: bytes such as 64K."),
    max_ms: str | None = typer.Option(None, help="Budget: typical milliseconds per window."),
    max_uj: str | None = typer.Option(None, help="Budget: typical microjoules per window."),
    as_json: bool = typer.Option(False, "--json", help="Print as JSON."),
    as_list: bool = typer.Option(False, "--list", help="List the devices."),
) -> None:
    """Estimate flash, RAM, time and energy of a bundle, a recipe or an ONNX file on devices."""
    from edgeae.footprint.budget import Budget
    from edgeae.footprint.devices import device_names, load_device
    from edgeae.footprint.estimate import estimate
    from edgeae.footprint.report import report_json, report_lines

    if as_list:
        _list_devices(as_json)
        return
    if target is None:
        raise ConfigError("report takes a bundle, a recipe or an .onnx file; --list lists devices")
    budget = Budget.parse(flash=max_flash, ram=max_ram, ms=max_ms, uj=max_uj)
    devices = [load_device(name) for name in device or []]
    wanted = _use(use)
    model, own, own_device = _model(target, window, shape, data, settings or [])
    if not devices and own_device is not None:
        devices = [load_device(own_device)]
    if own_device in [d.name for d in devices]:
        budget = budget.over(own)
    if budget.limits and not devices:
        raise ConfigError("a budget needs --device, or budgets.device in the recipe")
    shown = devices or [load_device(name) for name in device_names()]
    chosen = model.use(wanted)
    if as_json:
        print_json(report_json(model, shown, chosen, budget, engine=engine))
    else:
        for line in report_lines(model, shown, chosen, engine=engine, sources=bool(devices)):
            print(line)
    found = [estimate(model, chosen, d, engine=engine) for d in devices]
    breaches = [breach for e in found for breach in budget.breaches(e)]
    for breach in breaches:
        note(f"BREACH: {breach}")
    if breaches:
        fail(
            f"{len(breaches)} of {len(devices) * len(budget.limits)} budgets broken", ExitCode.GATE
        )
    if budget.limits:
        note(f"within budget: {chosen.use.value} on {', '.join(d.name for d in devices)}")


def _use(name: str | None) -> Use | None:
    from edgeae.footprint.model import Use

    if name is None:
        return None
    try:
        return Use(name)
    except ValueError:
        raise ConfigError(f"--use is {name!r}: expected one of {_USES}") from None


def _model(
    target: str, window: int | None, shape: str | None, data: str | None, settings: list[str]
) -> tuple[ModelFootprint, Budget, str | None]:
    """The model, and the budgets and device that its recipe names."""
    from edgeae.footprint.budget import Budget
    from edgeae.footprint.model import onnx_footprint

    path = Path(target)
    if path.suffix.lower() == ".onnx":
        return onnx_footprint(path.read_bytes(), _shape(shape), name=path.name), Budget(), None
    if path.is_dir() or (path.is_file() and zipfile.is_zipfile(path)):
        if data is not None or settings:
            raise ConfigError(f"--data and --set go with a recipe, and {target} is a bundle")
        return _bundle(target, window, _shape(shape))
    if shape is not None:
        raise ConfigError("--shape goes with an .onnx file or a denoiser of images, not a recipe")
    from edgeae.exporting.untrained import recipe_footprint
    from edgeae.train.recipe import load_recipe, with_overrides

    if path.suffix != ".toml" and not path.exists() and ("/" in target or path.suffix):
        raise ConfigError(f"{target}: there is no such bundle, .onnx file or recipe")
    recipe = with_overrides(load_recipe(target), settings)
    note(f"{recipe.name}: untrained; shapes and grids are those the trained model will have")
    budgets = recipe.budgets
    found = recipe_footprint(recipe, data=data, window=window)
    return found, budgets.device_budget(), budgets.device


def _bundle(
    target: str, window: int | None, shape: tuple[int, ...] | None
) -> tuple[ModelFootprint, Budget, str | None]:
    from edgeae.footprint.budget import Budget
    from edgeae.footprint.model import bundle_footprint
    from edgeae.runtime.bundle import Bundle

    try:
        bundle = Bundle.load(target)
    except VersionError as error:
        raise ConfigError(f"{target}: {error}") from error
    size = None
    if shape is not None:
        if bundle.task != "denoise" or bundle.denoise.family != "image" or len(shape) != 2:
            raise ConfigError(
                "--shape goes with an .onnx file, or is HEIGHT,WIDTH for a denoiser of images; "
                "other bundles take --window"
            )
        size = (shape[0], shape[1])
    recipe = bundle.manifest.raw.get("recipe")
    budgets = recipe.get("budgets", {}) if isinstance(recipe, dict) else {}

    def text(key: str) -> str | None:
        return None if budgets.get(key) is None else str(budgets[key])

    own = Budget.parse(
        flash=text("max_flash"), ram=text("max_ram"), ms=text("max_ms"), uj=text("max_uj")
    )
    return bundle_footprint(bundle, window=window, size=size), own, text("device")


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise ConfigError(f"--shape is {text!r}: expected numbers such as 1,640") from None


def _list_devices(as_json: bool) -> None:
    from edgeae.footprint.devices import device_names, load_device

    devices = [load_device(name) for name in device_names()]
    if as_json:
        print_json([_device_json(device) for device in devices])
        return
    for device in devices:
        flash = f"{device.flash_bytes / 1024:,.0f} KiB" if device.flash_bytes else "disk"
        print(
            f"{device.name:<17} {device.core:<12} {device.clock_hz / 1e6:6,.0f} MHz "
            f"{flash:>10} {device.ram_bytes / 1024:12,.0f} KiB  {device.board}"
        )


def _device_json(device: Device) -> dict[str, object]:
    return {
        "name": device.name,
        "board": device.board,
        "core": device.core,
        "kind": device.kind,
        "clock_hz": device.clock_hz,
        "flash_bytes": device.flash_bytes,
        "ram_bytes": device.ram_bytes,
    }
