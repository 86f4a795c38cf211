"""What the processor is and can, as the operating system tells it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

__all__ = ["processor_features", "processor_fields", "processor_name"]

_CPUINFO = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")


def processor_fields() -> Mapping[str, str]:
    """The fields of the first processor in /proc/cpuinfo now, names in lower case; or none."""
    found: dict[str, str] = {}
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return found
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip():
            found.setdefault(name.strip().lower(), value.strip())
    return found


@cache
def processor_features() -> frozenset[str]:
    """Names of its instruction sets, as Linux writes them; none where that is not known.

    Example:
        >>> processor_features() >= {"no such set"}
        False
    """
    fields = processor_fields()
    return frozenset((fields.get("flags") or fields.get("features") or "").split())


def processor_name() -> str:
    """The processor's name; on Arm the board's and the core's numbers, for there it has no name."""
    fields = processor_fields()
    if "model name" in fields:
        return fields["model name"]
    try:
        board = _BOARD.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        board = ""
    core = " ".join(fields[key] for key in ("cpu implementer", "cpu part") if key in fields)
    words = [part for part in (board, core) if part]
    return ", ".join(words) or platform.processor() or platform.machine()
