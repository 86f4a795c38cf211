"""Estimates for one use of a model on one device: memory, time and energy, as ranges.

Time is cycles over clock: multiply-accumulates times what one costs in the arithmetic of its layer,
symbols times what coding one costs, and the start of each net. Energy is time times active power.
On Linux, nets run in float32 on onnxruntime, whatever the width of their integers; priors run in C.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeae.footprint.devices import Anchor, Device, Range
from edgeae.footprint.model import ModelFootprint, UseFootprint
from edgeae.footprint.parts import Part

__all__ = ["Estimate", "estimate", "part_time_ms", "rss_bytes"]

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One use on one device, per window.

    Attributes:
        device: the device.
        use: the use.
        flash_bytes: weights, tables and code; on Linux the files that are read.
        ram_bytes: arena, coder state and buffers; on Linux the resident memory.
        time_ms: per window.
        energy_uj: per window.
        sources: what time and energy rest on, by figure.
    """

    device: Device
    use: UseFootprint
    flash_bytes: int
    ram_bytes: int
    time_ms: Range
    energy_uj: Range
    sources: dict[str, Anchor]

    @property
    def fits(self) -> bool:
        """Whether the device has so much flash and RAM."""
        flash = not self.device.flash_bytes or self.flash_bytes <= self.device.flash_bytes
        return flash and self.ram_bytes <= self.device.ram_bytes


def estimate(model: ModelFootprint, use: UseFootprint, device: Device) -> Estimate:
    """Estimate one use on one device."""
    time_ms = Range(low=0, typical=0, high=0)
    sources: dict[str, Anchor] = {}
    for part in use.parts:
        time_ms += part_time_ms(part, device)
        for layer in part.layers:
            if layer.macs:
                kind = _arithmetic(part, layer.arithmetic, device)
                sources[f"cycles per MAC, {kind}"] = device.cycles_per_mac[kind]
        if part.symbols:
            sources["cycles per symbol"] = device.symbol_cycles
    sources["active power, mW"] = device.active_mw
    if device.is_mcu:
        flash = use.weight_bytes + use.table_bytes + device.code_bytes
        ram = use.ram_bytes
    else:
        flash = model.file_bytes or use.weight_bytes + use.table_bytes
        ram = rss_bytes(model, device)
    return Estimate(
        device=device,
        use=use,
        flash_bytes=flash,
        ram_bytes=ram,
        time_ms=time_ms,
        energy_uj=time_ms.times(device.active_mw.value),
        sources=dict(sorted(sources.items())),
    )


def part_time_ms(part: Part, device: Device) -> Range:
    """Time of a part for one window."""
    cycles = device.symbol_cycles.value * part.symbols
    for layer in part.layers:
        anchor = device.cycles_per_mac[_arithmetic(part, layer.arithmetic, device)]
        cycles += anchor.value * layer.macs
    start = Range(low=0, typical=0, high=0)
    if part.host is not None:
        start = device.run_us.value * (part.runs * 1e-3)
    return cycles * (1e3 / device.clock_hz) + start


def rss_bytes(model: ModelFootprint, device: Device, *, engine: str = "onnxruntime") -> int:
    """Resident memory of a Python program that encodes and decodes windows with a model.

    Args:
        model: what it loads.
        device: a device that runs Linux.
        engine: ``onnxruntime``, or ``native``, which leaves that out.
    """
    host = device.host
    if host is None:
        return 0
    nets = [part.host for part in model.parts if part.host is not None]
    total = host.base_mib * _MIB + (model.file_bytes or 0)
    if engine == "onnxruntime" and nets:
        total += host.onnxruntime_mib * _MIB
    for net in nets:
        total += host.session_mib * _MIB + 4 * net.n_parameters + net.arena_bytes
    priors = [part for part in model.parts if part.host is None]
    total += sum(4 * part.n_parameters + part.state_bytes + part.arena_bytes for part in priors)
    return round(total + 16 * model.window_samples)


def _arithmetic(part: Part, layer: str, device: Device) -> str:
    return "float32" if part.host is not None and not device.is_mcu else layer
