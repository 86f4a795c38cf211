"""The report of a model on devices: what ``edgeae report`` prints, as text and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from edgeae.footprint.budget import Budget
from edgeae.footprint.devices import Device, Range
from edgeae.footprint.estimate import Estimate, engine_of, estimate, rss_bytes
from edgeae.footprint.model import ModelFootprint, Use, UseFootprint
from edgeae.footprint.parts import Part

__all__ = ["report_json", "report_lines"]

_WIDTH = 100


def report_json(
    model: ModelFootprint,
    devices: Sequence[Device],
    use: UseFootprint,
    budget: Budget,
    *,
    engine: str = "auto",
) -> dict[str, Any]:
    """A model's costs and estimates as JSON-able values.

    Args:
        model: what is reported.
        devices: where it may run.
        use: what the budget holds for.
        budget: limits per window.
        engine: on Linux, see `edgeae.footprint.estimate.engine_of`.
    """
    found = [estimate(model, use, device, engine=engine) for device in devices]
    return {
        "model": {
            "name": model.name,
            "kind": model.kind,
            "window_items": model.window_items,
            "window_samples": model.window_samples,
            "window_s": model.window_s,
            "file_bytes": model.file_bytes,
        },
        "parts": [_part_json(part, model) for part in model.parts],
        "uses": [_use_json(other, model) for other in model.uses],
        "devices": [
            {
                "device": device.name,
                "board": device.board,
                "core": device.core,
                "clock_hz": device.clock_hz,
                "flash_bytes": device.flash_bytes,
                "ram_bytes": device.ram_bytes,
                "code_bytes": device.code_bytes,
                "engine": engine_of(model, device, engine),
                "uses": [
                    _estimate_json(estimate(model, u, device, engine=engine), model)
                    for u in model.uses
                ],
                "rss_bytes": _rss(model, device),
                "sources": _sources(model, device, engine),
            }
            for device in devices
        ],
        "budget": {
            "use": use.use.value,
            "limits": budget.limits,
            "breaches": [vars(breach) for e in found for breach in budget.breaches(e)],
        },
    }


def report_lines(
    model: ModelFootprint,
    devices: Sequence[Device],
    use: UseFootprint,
    *,
    engine: str = "auto",
    sources: bool = True,
) -> Iterator[str]:
    """The report as text, line by line.

    Args:
        model: what is reported.
        devices: where it may run.
        use: whose layers are listed.
        engine: on Linux, see `edgeae.footprint.estimate.engine_of`.
        sources: whether to say what the estimates rest on.
    """
    window = "one run" if model.kind == "onnx" else f"windows of {model.window_items:,} items"
    lasts = f", {model.window_s:.4g} s" if model.window_s else ""
    yield f"{model.name} ({model.kind}): {window}, {model.window_samples:,} samples{lasts}"
    yield ""
    yield from _parts_table(model)
    yield ""
    yield from _uses_table(model)
    for device in devices:
        yield ""
        yield from _device_table(model, device, engine)
    for line in _notes(model, devices):
        yield ""
        yield line
    yield ""
    yield from _layers_table(use)
    if sources and devices:
        yield ""
        yield from _sources_text(model, devices, engine)


# -- tables ----------------------------------------------------------------------------------------


def _parts_table(model: ModelFootprint) -> Iterator[str]:
    yield (
        f"{'part':<16} {'parameters':>10} {'MACs':>12} {'/sample':>9} "
        f"{'weights':>9} {'tables':>7} {'arena':>8} {'state':>8}  bytes"
    )
    for part in model.parts:
        yield (
            f"{part.name:<16} {part.n_parameters:10,} {part.macs:12,} "
            f"{part.macs / model.window_samples:9,.1f} {part.weight_bytes:9,} "
            f"{part.table_bytes:7,} {part.arena_bytes:8,} {part.state_bytes:8,}"
        )


def _uses_table(model: ModelFootprint) -> Iterator[str]:
    yield (
        f"{'use':<16} {'MACs':>12} {'/sample':>9} {'weights':>9} {'tables':>7} "
        f"{'arena':>8} {'state':>8} {'buffers':>8}  parts"
    )
    for use in model.uses:
        names = ", ".join(part.name.removesuffix(" net") for part in use.parts)
        yield (
            f"{use.use.value:<16} {use.macs:12,} {use.macs / model.window_samples:9,.1f} "
            f"{use.weight_bytes:9,} {use.table_bytes:7,} {use.arena_bytes:8,} "
            f"{use.state_bytes:8,} {use.buffer_bytes:8,}  {names}"
        )


def _device_table(model: ModelFootprint, device: Device, engine: str) -> Iterator[str]:
    memory = f"{_size(device.flash_bytes)} flash, " if device.flash_bytes else ""
    yield (
        f"{device.name}: {device.board}, {device.core}, {device.clock_hz / 1e6:,.0f} MHz, "
        f"{memory}{_size(device.ram_bytes)} RAM"
        + ("" if device.is_mcu else f", Python, engine {engine_of(model, device, engine)}")
    )
    flash = "flash" if device.is_mcu else "files"
    ram = "RAM" if device.is_mcu else "RSS"
    load = "load" if model.window_s else ""
    yield (
        f"  {'use':<14} {flash:>8} {ram:>8}   {'ms: low, typical, high':<24} "
        f"{'µJ: low, typical, high':<26} {load:>5}"
    ).rstrip()
    for use in model.uses:
        found = estimate(model, use, device, engine=engine)
        share = f"{100 * _load(found, model):5.2g} %" if model.window_s else ""
        yield (
            f"  {use.use.value:<14} {_size(found.flash_bytes):>8} {_size(found.ram_bytes):>8}   "
            f"{_range(found.time_ms):<24} {_range(found.energy_uj):<26} {share:>7}"
            + ("" if found.fits else "  does not fit")
        ).rstrip()


def _notes(model: ModelFootprint, devices: Sequence[Device]) -> Iterator[str]:
    """What the tables leave out."""
    bounded = any(use.use is Use.ENCODE_BOUND for use in model.uses)
    if bounded and any(device.is_mcu for device in devices):
        yield (
            "encode-bound on a microcontroller is without the classical mode, whose search takes "
            "thousands of cycles per sample"
        )
    uncounted = sorted({op for p in model.parts if p.host is not None for op in p.host.uncounted})
    if uncounted:
        yield f"not counted: the multiplications of {', '.join(uncounted)}"


def _layers_table(use: UseFootprint) -> Iterator[str]:
    yield (
        f"layers of {use.use.value:<24} {'output':<16} {'MACs':>11} {'weights':>8} "
        f"{'output bytes':>12}  arithmetic"
    )
    for part in use.parts:
        for layer in part.layers:
            name = f"{part.name.removesuffix(' net')}/{layer.name}"
            shape = "x".join(map(str, layer.output_shape))
            kind = layer.arithmetic if layer.macs else ""
            yield (
                f"  {name[:24]:<24} {layer.op:<7.7} {shape:<16} {layer.macs:11,} "
                f"{layer.weight_bytes:8,} {layer.activation_bytes:12,}  {kind}"
            ).rstrip()


def _sources_text(model: ModelFootprint, devices: Sequence[Device], engine: str) -> Iterator[str]:
    for device in devices:
        yield f"what the estimates for {device.name} rest on"
        for name, source in _sources(model, device, engine).items():
            value = source.get("typical")
            span = "" if value is None else f" {source['low']:g}, {value:g}, {source['high']:g}"
            text = f"{name}{span} ({source['basis']}): {source['source']}"
            yield from textwrap.wrap(text, _WIDTH, initial_indent="  - ", subsequent_indent="    ")


# -- values ----------------------------------------------------------------------------------------


def _part_json(part: Part, model: ModelFootprint) -> dict[str, Any]:
    row = {
        "part": part.name,
        "parameters": part.n_parameters,
        "macs": part.macs,
        "macs_per_sample": part.macs / model.window_samples,
        "symbols": part.symbols,
        "weight_bytes": part.weight_bytes,
        "table_bytes": part.table_bytes,
        "arena_bytes": part.arena_bytes,
        "state_bytes": part.state_bytes,
        "layers": [
            {
                "layer": layer.name,
                "op": layer.op,
                "output_shape": list(layer.output_shape),
                "macs": layer.macs,
                "parameters": layer.n_parameters,
                "weight_bytes": layer.weight_bytes,
                "output_bytes": layer.activation_bytes,
                "arithmetic": layer.arithmetic,
            }
            for layer in part.layers
        ],
    }
    if part.host is not None:
        row["graph"] = {
            "weight_bytes": part.host.weight_bytes,
            "arena_bytes": part.host.arena_bytes,
            "peak_live_bytes": part.host.peak_live_bytes,
            "uncounted": list(part.host.uncounted),
        }
    return row


def _use_json(use: UseFootprint, model: ModelFootprint) -> dict[str, Any]:
    return {
        "use": use.use.value,
        "parts": [part.name for part in use.parts],
        "macs": use.macs,
        "macs_per_sample": use.macs / model.window_samples,
        "weight_bytes": use.weight_bytes,
        "table_bytes": use.table_bytes,
        "arena_bytes": use.arena_bytes,
        "state_bytes": use.state_bytes,
        "buffer_bytes": use.buffer_bytes,
        "ram_bytes": use.ram_bytes,
    }


def _estimate_json(found: Estimate, model: ModelFootprint) -> dict[str, Any]:
    return {
        "use": found.use.use.value,
        "flash_bytes": found.flash_bytes,
        "ram_bytes": found.ram_bytes,
        "ms": vars(found.time_ms),
        "uj": vars(found.energy_uj),
        "load": None if model.window_s is None else _load(found, model),
        "fits": found.fits,
    }


def _sources(model: ModelFootprint, device: Device, engine: str) -> dict[str, dict[str, Any]]:
    """What the estimates of all uses rest on."""
    found: dict[str, dict[str, Any]] = {}
    for use in model.uses:
        for name, anchor in estimate(model, use, device, engine=engine).sources.items():
            found[name] = {**vars(anchor.value), "basis": anchor.basis, "source": anchor.source}
    if device.is_mcu:
        found[f"{device.code_bytes:,} bytes of code"] = {
            "basis": "estimated",
            "source": device.code_source,
        }
    elif device.host is not None:
        basis = device.host.source.partition(":")[0].lower()
        found["resident memory, MiB"] = {"basis": basis, "source": device.host.source}
    return found


def _rss(model: ModelFootprint, device: Device) -> dict[str, int] | None:
    """Resident memory on each engine; None for microcontrollers."""
    if device.host is None:
        return None
    engines = ("onnxruntime", "native")
    return {engine: rss_bytes(model, device, engine=engine) for engine in engines}


def _load(found: Estimate, model: ModelFootprint) -> float:
    """Share of the window's duration that the device computes, typically."""
    return found.time_ms.typical / (1e3 * (model.window_s or 1.0))


def _range(value: Range) -> str:
    return ", ".join(_figure(v) for v in (value.low, value.typical, value.high))


def _figure(value: float) -> str:
    """Three digits, in plain words.

    Example:
        >>> _figure(0.012345), _figure(61.72), _figure(3676.9)
        ('0.0123', '61.7', '3,680')
    """
    if value < 100:
        return f"{value:.3g}"
    digits = len(f"{value:.0f}")
    return f"{round(value, 3 - digits):,.0f}"


def _size(n_bytes: int) -> str:
    """Bytes for people, in the units that budgets take.

    Example:
        >>> _size(900), _size(65536), _size(18_000_000)
        ('900', '64.0K', '17.2M')
    """
    for unit, power in (("G", 30), ("M", 20), ("K", 10)):
        if n_bytes >= 1 << power:
            return f"{n_bytes / (1 << power):.1f}{unit}"
    return str(n_bytes)
