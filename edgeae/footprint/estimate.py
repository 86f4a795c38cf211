"""Estimates for one use of a model on one device: memory, time and energy, as ranges.

Time is cycles over clock: multiply-accumulates times what one costs in the arithmetic of its layer,
symbols times what coding one costs, and the start of each net. Energy is time times active power.
On Linux, priors run in C, and nets on an engine: exact ones on edgeae's own where nobody says
otherwise, others on onnxruntime in float32, whatever the width of their integers. Python adds its
own time, and its bounded encoder the classical mode's search, which a C program may leave out.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeae.errors import ConfigError
from edgeae.footprint.devices import Anchor, Device, Range
from edgeae.footprint.model import ModelFootprint, Use, UseFootprint
from edgeae.footprint.parts import Part

__all__ = ["Estimate", "engine_of", "estimate", "part_time_ms", "rss_bytes"]

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One use on one device, per window.

    Attributes:
        device: the device.
        use: the use.
        engine: what runs the nets: ``c`` on a microcontroller, ``native`` or ``onnxruntime``.
        flash_bytes: weights, tables and code; on Linux the files that are read.
        ram_bytes: arena, coder state and buffers; on Linux the resident memory.
        time_ms: per window.
        energy_uj: per window.
        sources: what time and energy rest on, by figure.
    """

    device: Device
    use: UseFootprint
    engine: str
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


def engine_of(model: ModelFootprint, device: Device, engine: str = "auto") -> str:
    """What runs a model's nets on a device.

    Args:
        model: the model.
        device: the device.
        engine: ``auto``, ``native`` or ``onnxruntime``; a microcontroller has none of them.

    Raises:
        ConfigError: no such engine.
    """
    if engine not in ("auto", "native", "onnxruntime"):
        raise ConfigError(f"engine {engine!r}: expected one of auto, native, onnxruntime")
    if device.is_mcu:
        return "c"
    if engine == "auto":
        return "native" if model.exact else "onnxruntime"
    return engine


def estimate(
    model: ModelFootprint, use: UseFootprint, device: Device, *, engine: str = "auto"
) -> Estimate:
    """Estimate one use on one device.

    Args:
        model: the model.
        use: one of its uses.
        device: where it runs.
        engine: see `engine_of`.
    """
    runs_on = engine_of(model, device, engine)
    time_ms = Range(low=0, typical=0, high=0)
    sources: dict[str, Anchor] = {}
    for part in use.parts:
        time_ms += part_time_ms(part, device, runs_on)
        for layer in part.layers:
            if layer.macs:
                name, anchor = _anchor(part, layer.arithmetic, device, runs_on)
                sources[f"cycles per MAC, {name}"] = anchor
        if part.symbols:
            sources["cycles per symbol"] = device.symbol_cycles
    extra, more = _python_ms(model, use, device)
    time_ms += extra
    sources |= more
    sources["active power, mW"] = device.active_mw
    if device.is_mcu:
        flash = use.weight_bytes + use.table_bytes + device.code_bytes
        ram = use.ram_bytes
    else:
        flash = model.file_bytes or use.weight_bytes + use.table_bytes
        ram = rss_bytes(model, device, engine=runs_on)
    return Estimate(
        device=device,
        use=use,
        engine=runs_on,
        flash_bytes=flash,
        ram_bytes=ram,
        time_ms=time_ms,
        energy_uj=time_ms.times(device.active_mw.value),
        sources=dict(sorted(sources.items())),
    )


def part_time_ms(part: Part, device: Device, engine: str) -> Range:
    """Time of a part for one window on an engine, see `engine_of`."""
    cycles = device.symbol_cycles.value * part.symbols
    for layer in part.layers:
        cycles += _anchor(part, layer.arithmetic, device, engine)[1].value * layer.macs
    time_ms = cycles * (1e3 / device.clock_hz)
    if part.host is None or engine == "native":  # a native net starts like a C function
        return time_ms
    return time_ms + device.run_us.value * (part.runs * 1e-3)


def _python_ms(
    model: ModelFootprint, use: UseFootprint, device: Device
) -> tuple[Range, dict[str, Anchor]]:
    """What Python adds: its own time around a frame or block, and the classical mode's search."""
    time_ms = Range(low=0, typical=0, high=0)
    sources: dict[str, Anchor] = {}
    if device.block_us is not None and use.use is Use.DENOISE:
        time_ms += device.block_us.value * 1e-3
        sources["Python per block, us"] = device.block_us
    elif device.frame_us is not None and use.use is not Use.RUN:
        time_ms += device.frame_us.value * 1e-3
        sources["Python per frame, us"] = device.frame_us
    if device.classical_cycles is not None and use.use is Use.ENCODE_BOUND:
        cycles = device.classical_cycles.value * model.window_samples
        time_ms += cycles * (1e3 / device.clock_hz)
        sources["classical mode, cycles per sample"] = device.classical_cycles
    return time_ms, sources


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


def _anchor(part: Part, arithmetic: str, device: Device, engine: str) -> tuple[str, Anchor]:
    """What a multiply-accumulate costs in a layer, and what to call that."""
    if part.host is not None and engine == "onnxruntime":
        return "float32", device.cycles_per_mac["float32"]
    if part.host is not None and engine == "native" and device.native is not None:
        return "native nets", device.native
    return arithmetic, device.cycles_per_mac[arithmetic]
