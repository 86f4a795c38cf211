"""Budgets: what a device has to spare, as a user writes it, and which of them a model breaks."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from edgeae.errors import ConfigError
from edgeae.footprint.estimate import Estimate

__all__ = ["Breach", "Budget", "parse_bytes", "parse_number"]

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)


def parse_bytes(text: str, name: str) -> int:
    """Bytes from ``65536``, ``64K``, ``64 KiB`` or ``1.5M``; K is 1024.

    Raises:
        ConfigError: none of these.

    Example:
        >>> parse_bytes("64K", "ram"), parse_bytes("1.5 MB", "flash"), parse_bytes("200", "ram")
        (65536, 1572864, 200)
        >>> parse_bytes("a lot", "max-ram")
        Traceback (most recent call last):
            ...
        edgeae.errors.ConfigError: max-ram is 'a lot': expected bytes such as 65536, 64K or 1.5M
    """
    match = _BYTES.fullmatch(text.strip())
    value = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    if value < 1:
        raise ConfigError(f"{name} is {text!r}: expected bytes such as 65536, 64K or 1.5M")
    return int(value)


def parse_number(text: str, name: str, unit: str) -> float:
    """A positive number, the unit may follow.

    Raises:
        ConfigError: not a number, or not positive.

    Example:
        >>> parse_number("5", "max-ms", "ms"), parse_number("2.5ms", "max-ms", "ms")
        (5.0, 2.5)
    """
    plain = text.strip().lower().removesuffix(unit.lower()).strip()
    try:
        value = float(plain)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} is {text!r}: expected a number of {unit} such as 5 or 2.5")
    return value


@dataclass(frozen=True, kw_only=True)
class Breach:
    """A budget that is broken."""

    device: str
    name: str
    limit: float
    found: float

    def __str__(self) -> str:
        if self.name in ("flash", "ram"):
            return f"{self.device}: {self.name} {self.found:,.0f} bytes > {self.limit:,.0f}"
        unit = {"ms": "ms", "uj": "µJ"}[self.name]
        return f"{self.device}: {self.found:.3g} {unit} per window > {self.limit:g}"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a window may take at most; None is no limit.

    Time and energy are held against the typical estimate.

    Attributes:
        flash_bytes: weights, tables and code.
        ram_bytes: everything that is written to.
        time_ms: per window.
        energy_uj: per window.
    """

    flash_bytes: int | None = None
    ram_bytes: int | None = None
    time_ms: float | None = None
    energy_uj: float | None = None

    @classmethod
    def parse(
        cls,
        *,
        flash: str | None = None,
        ram: str | None = None,
        ms: str | None = None,
        uj: str | None = None,
    ) -> Budget:
        """Budgets as a command line or a recipe has them.

        Raises:
            ConfigError: one that cannot be read; the message says what can.
        """
        return cls(
            flash_bytes=None if flash is None else parse_bytes(flash, "max-flash"),
            ram_bytes=None if ram is None else parse_bytes(ram, "max-ram"),
            time_ms=None if ms is None else parse_number(ms, "max-ms", "ms"),
            energy_uj=None if uj is None else parse_number(uj, "max-uj", "uJ"),
        )

    def over(self, other: Budget) -> Budget:
        """These limits, and the other's where this has none."""
        return Budget(
            flash_bytes=other.flash_bytes if self.flash_bytes is None else self.flash_bytes,
            ram_bytes=other.ram_bytes if self.ram_bytes is None else self.ram_bytes,
            time_ms=other.time_ms if self.time_ms is None else self.time_ms,
            energy_uj=other.energy_uj if self.energy_uj is None else self.energy_uj,
        )

    @property
    def limits(self) -> dict[str, float]:
        """The limits there are, by name."""
        named = {
            "flash": self.flash_bytes,
            "ram": self.ram_bytes,
            "ms": self.time_ms,
            "uj": self.energy_uj,
        }
        return {name: float(limit) for name, limit in named.items() if limit is not None}

    def breaches(self, estimate: Estimate) -> list[Breach]:
        """Which limits an estimate breaks."""
        found = {
            "flash": float(estimate.flash_bytes),
            "ram": float(estimate.ram_bytes),
            "ms": estimate.time_ms.typical,
            "uj": estimate.energy_uj.typical,
        }
        return [
            Breach(device=estimate.device.name, name=name, limit=limit, found=found[name])
            for name, limit in self.limits.items()
            if found[name] > limit
        ]
