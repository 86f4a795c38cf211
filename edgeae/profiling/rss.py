"""Memory of this process, without any package: also for a program that has imported nothing yet."""

from __future__ import annotations

import sys

__all__ = ["peak_kib", "rss_kib"]


def rss_kib() -> int | None:
    """Resident memory now, in KiB; None where the platform cannot tell (only Linux can)."""
    return _status("VmRSS:")


def peak_kib() -> int | None:
    """The most that was ever resident, in KiB; None where the platform cannot tell."""
    found = _status("VmHWM:")  # of this program alone; getrusage would count the parent's pages too
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def _status(field: str) -> int | None:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith(field):
                    return int(line.split()[1])
    except OSError:
        pass
    return None
