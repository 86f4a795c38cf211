"""The result of a bench: figures as plain JSON, with their units in their names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeae.errors import ConfigError, EdgeAEError

__all__ = ["BENCH_FORMAT", "BENCH_VERSION", "Profile", "now"]

BENCH_FORMAT = "edgeae-bench"
BENCH_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What was measured.

    ``data`` is what the JSON file holds:

    ===========  ==============================================================================
    format       ``edgeae-bench``; ``version`` counts changes that older readers misread
    measured     date and time, UTC
    machine      CPU, clocks, governor, load, system, versions
    subject      kind (``bundle`` or ``onnx``), name, fingerprint, engine
    options      what was asked for, where it changes the figures
    input        the signal
    latency      per promise and direction: the whole call, blocks, stages, throughput
    ===========  ==============================================================================

    and, of a bundle, ``file``, ``batch``, ``start``, ``memory``, ``growth``, ``artefacts`` and
    ``nets``.
    """

    data: Mapping[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> Profile:
        """Read a file that ``write`` made.

        Raises:
            ConfigError: no such file, no such format, or a newer version of it.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: not JSON: {error}") from error
        if not isinstance(data, dict) or data.get("format") != BENCH_FORMAT:
            raise ConfigError(
                f"{path}: not a result of 'edgeae bench': make one with "
                "edgeae bench BUNDLE --json FILE"
            )
        if data.get("version") != BENCH_VERSION:
            raise ConfigError(
                f"{path}: version {data.get('version')!r} of the format, this edgeae has "
                f"{BENCH_VERSION}: measure it anew"
            )
        return cls(data=data)

    def write(self, path: str | Path) -> None:
        """Write the JSON.

        Raises:
            EdgeAEError: the file cannot be written.
        """
        try:
            Path(path).write_text(self.to_text(), encoding="utf-8")
        except OSError as error:
            raise EdgeAEError(f"cannot write {path}: {error.strerror or error}") from error

    def to_text(self) -> str:
        """The JSON as text."""
        return json.dumps(self.data, indent=1, allow_nan=False) + "\n"


def now() -> str:
    """Date and time, UTC, to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0).isoformat()
