"""Device profiles: clocks, memories, and what a multiply-accumulate costs on each.

A profile is a TOML file in ``export/devices``. Every figure that an estimate rests on has a source:
measured by somebody, with the place where it stands, or estimated, with the reasoning.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from edgeae.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Anchor", "Device", "HostMemory", "Range", "device_names", "load_device", "parse_device"]

ARITHMETICS = ("int8", "int16", "float32")


@dataclass(frozen=True, kw_only=True)
class Range:
    """A figure that is known within bounds."""

    low: float
    typical: float
    high: float

    def __post_init__(self) -> None:
        values = (self.low, self.typical, self.high)
        if not all(math.isfinite(v) and v >= 0 for v in values):
            raise ConfigError(f"a range holds finite numbers >= 0, found {values}")
        if not self.low <= self.typical <= self.high:
            raise ConfigError(f"a range is low <= typical <= high, found {values}")

    def __mul__(self, factor: float) -> Range:
        return Range(low=self.low * factor, typical=self.typical * factor, high=self.high * factor)

    def __add__(self, other: Range) -> Range:
        return Range(
            low=self.low + other.low,
            typical=self.typical + other.typical,
            high=self.high + other.high,
        )

    def times(self, other: Range) -> Range:
        """The product of two ranges."""
        return Range(
            low=self.low * other.low,
            typical=self.typical * other.typical,
            high=self.high * other.high,
        )


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A figure with its source.

    Attributes:
        value: the figure.
        basis: ``measured`` or ``estimated``.
        source: where it stands, or how it was reasoned.
    """

    value: Range
    basis: str
    source: str


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """Resident memory of a Python program that codes, in MiB.

    Attributes:
        base_mib: interpreter, numpy and edgeae.
        onnxruntime_mib: what onnxruntime adds where a net runs on it.
        session_mib: what each net's session adds, besides its weights.
        source: how it was measured.
    """

    base_mib: float
    onnxruntime_mib: float
    session_mib: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device that a model may run on.

    Attributes:
        name: the file's.
        board: what one buys.
        core: the processor.
        kind: ``mcu`` (a C program without an operating system) or ``linux`` (Python).
        clock_hz: of the core.
        flash_bytes: where weights and code lie; 0 where that is a disk.
        ram_bytes: of the board.
        cycles_per_mac: by arithmetic, see ``ARITHMETICS``; on Linux of the priors in C, and in
            float32 of nets on onnxruntime.
        symbol_cycles: to code one symbol, its table included.
        run_us: to start a net once.
        active_mw: power while it computes.
        code_bytes: of the program: coder and kernels; 0 on Linux.
        code_source: where that comes from.
        host: memory of a Python program; None for a microcontroller.
        native: cycles per MAC of exact nets on edgeae's own engine; None for a microcontroller.
        frame_us: what Python adds to a frame; likewise.
        block_us: what Python adds to a block of a denoiser; likewise.
        classical_cycles: the classical mode's search, per sample; likewise.
    """

    name: str
    board: str
    core: str
    kind: str
    clock_hz: float
    flash_bytes: int
    ram_bytes: int
    cycles_per_mac: Mapping[str, Anchor]
    symbol_cycles: Anchor
    run_us: Anchor
    active_mw: Anchor
    code_bytes: int = 0
    code_source: str = ""
    host: HostMemory | None = None
    native: Anchor | None = None
    frame_us: Anchor | None = None
    block_us: Anchor | None = None
    classical_cycles: Anchor | None = None

    @property
    def is_mcu(self) -> bool:
        """Whether it runs a C program from flash."""
        return self.kind == "mcu"


def device_names() -> list[str]:
    """Names of the devices that come with edgeae.

    Example:
        >>> "stm32l4r5" in device_names()
        True
    """
    folder = resources.files("edgeae.devices")
    return sorted(f.name[: -len(".toml")] for f in folder.iterdir() if f.name.endswith(".toml"))


def load_device(name: str) -> Device:
    """Load a profile by name.

    Raises:
        ConfigError: there is none of that name; the message lists the near ones.

    Example:
        >>> load_device("stm32l4r5").core
        'Cortex-M4'
        >>> load_device("stm32l4")
        Traceback (most recent call last):
            ...
        edgeae.errors.ConfigError: no device 'stm32l4'; did you mean stm32l4r5 or ... All: ...
    """
    names = device_names()
    wanted = name.strip().lower()
    if wanted not in names:
        near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
        near += [n for n in names if wanted and wanted in n and n not in near]
        hint = f"did you mean {' or '.join(near)}? All: " if near else "known: "
        raise ConfigError(f"no device {name!r}; {hint}{', '.join(names)}")
    file = resources.files("edgeae.devices").joinpath(f"{wanted}.toml")
    return parse_device(file.read_text(encoding="utf-8"), name=wanted)


def parse_device(text: str, *, name: str) -> Device:
    """Read a profile from the text of its file.

    Raises:
        ConfigError: not TOML, or a field is missing, unknown or makes no sense.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"device {name}: not TOML: {error}") from error
    table = _Table(f"device {name}", values)
    macs = table.table("cycles_per_mac")
    unknown = sorted(set(macs.values) - set(ARITHMETICS))
    if unknown:
        raise macs.wrong(unknown[0], f"one of {', '.join(ARITHMETICS)}")
    kind = table.text("kind")
    if kind not in ("mcu", "linux"):
        raise table.wrong("kind", "'mcu' or 'linux'")
    code = table.table("code") if kind == "mcu" else None
    host = table.table("host") if kind == "linux" else None
    device = Device(
        name=name,
        board=table.text("board"),
        core=table.text("core"),
        kind=kind,
        clock_hz=table.number("clock_hz"),
        flash_bytes=int(table.number("flash_bytes")),
        ram_bytes=int(table.number("ram_bytes")),
        cycles_per_mac={key: macs.anchor(key) for key in ARITHMETICS},
        symbol_cycles=table.anchor("symbol_cycles"),
        run_us=table.anchor("run_us"),
        active_mw=table.anchor("active_mw"),
        code_bytes=0 if code is None else int(code.number("bytes")),
        code_source="" if code is None else code.text("source"),
        host=None
        if host is None
        else HostMemory(
            base_mib=host.number("base_mib"),
            onnxruntime_mib=host.number("onnxruntime_mib"),
            session_mib=host.number("session_mib"),
            source=host.text("source"),
        ),
        native=None if host is None else table.anchor("native_cycles_per_mac"),
        frame_us=None if host is None else table.anchor("frame_us"),
        block_us=None if host is None else table.anchor("block_us"),
        classical_cycles=None if host is None else table.anchor("classical_cycles"),
    )
    if device.clock_hz <= 0 or device.ram_bytes <= 0:
        raise ConfigError(f"device {name}: clock_hz and ram_bytes must be positive")
    return device


class _Table:
    """Typed access to a TOML table, with messages that name the field."""

    def __init__(self, where: str, values: Mapping[str, Any]) -> None:
        self.where, self.values = where, values

    def wrong(self, key: str, expected: str) -> ConfigError:
        found = repr(self.values.get(key))[:60]
        return ConfigError(f"{self.where}: {key} is {found}, expected {expected}")

    def table(self, key: str) -> _Table:
        value = self.values.get(key)
        if not isinstance(value, Mapping):
            raise self.wrong(key, "a table")
        return _Table(f"{self.where}.{key}", value)

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, "a text")
        return " ".join(value.split())

    def number(self, key: str) -> float:
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise self.wrong(key, "a number >= 0")
        return float(value)

    def anchor(self, key: str) -> Anchor:
        part = self.table(key)
        basis = part.text("basis")
        if basis not in ("measured", "estimated"):
            raise part.wrong("basis", "'measured' or 'estimated'")
        try:
            value = Range(
                low=part.number("low"), typical=part.number("typical"), high=part.number("high")
            )
        except ConfigError as error:
            raise ConfigError(f"{part.where}: {error}") from error
        return Anchor(value=value, basis=basis, source=part.text("source"))
