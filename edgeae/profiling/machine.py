"""The machine a number was measured on: without it, the number is not a result."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from edgeae import native
from edgeae.runtime.processor import processor_features, processor_fields, processor_name

__all__ = ["limit_threads", "machine"]

_PACKAGES = ("edgeae", "numpy", "onnxruntime")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
_CPU = Path("/sys/devices/system/cpu")


def machine() -> dict[str, Any]:
    """CPU, clocks, governor, load, system and versions; None for what cannot be found out.

    Example:
        >>> {"cpu", "cores", "load_average", "versions"} <= set(machine())
        True
    """
    features = processor_features()
    return {
        "cpu": processor_name(),
        "cpu_features": [name for name in _FEATURES if name in features],
        "cores": os.cpu_count(),
        "cores_allowed": _allowed_cores(),
        "clock_now_mhz": _khz("cpufreq/scaling_cur_freq")
        or _number(processor_fields().get("cpu mhz")),
        "clock_max_mhz": _khz("cpufreq/cpuinfo_max_freq"),
        "governor": _line(_CPU / "cpu0/cpufreq/scaling_governor"),
        "load_average": _load(),
        "memory_mib": _memory_mib(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: _version(name) for name in _PACKAGES},
        "extension_built": native.core is not None,
        "thread_variables": {
            name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ
        },
    }


def limit_threads(threads: int) -> bool:
    """Ask NumPy's libraries for so many threads, here and in programs started from here.

    They read this when NumPy is imported, so afterwards it only holds for new programs. What the
    user has set stays.

    Returns:
        Whether it holds here too.
    """
    for name in _THREAD_VARIABLES:
        os.environ.setdefault(name, str(threads))
    return "numpy" not in sys.modules


def _allowed_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _load() -> list[float] | None:
    if not hasattr(os, "getloadavg"):
        return None
    return [round(value, 2) for value in os.getloadavg()]


def _memory_mib() -> int | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return pages * size >> 20


def _khz(name: str) -> float | None:
    value = _number(_line(_CPU / "cpu0" / name))
    return None if value is None else value / 1e3


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
