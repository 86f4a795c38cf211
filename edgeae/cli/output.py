"""Where a command's bytes go, and how it says how far it is."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from edgeae.errors import ConfigError, EdgeAEError

__all__ = ["LazyOutput", "Progress", "refuse_same_file"]


class LazyOutput:
    """A binary output that is created by its first byte, so a failed start leaves nothing behind.

    ``-`` is stdout. Bytes are written in place rather than beside the target: a stream can be
    decoded up to its last whole frame at any moment, also after a crash.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self.n_bytes = 0

    def write(self, data: bytes) -> int:
        """Write all of the bytes, or raise an EdgeAEError that says what remains."""
        try:
            if self._file is None:
                self._file = sys.stdout.buffer if self._path == "-" else open(self._path, "wb")  # noqa: SIM115
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            kept = (
                f"; the whole frames among its first {self.n_bytes} bytes can be decoded"
                if self.n_bytes
                else ""
            )
            raise EdgeAEError(
                f"cannot write {self._path}: {error.strerror or error}{kept}"
            ) from error
        self.n_bytes += len(data)
        return len(data)

    def __enter__(self) -> LazyOutput:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is None or self._path == "-":
            return
        try:
            self._file.close()
        except OSError as late:
            if error is None:
                raise EdgeAEError(f"cannot write {self._path}: {late.strerror}") from late


class Progress:
    """A line on a terminal's stderr, rewritten at most ten times a second."""

    def __init__(self, total: int | None, unit: str) -> None:
        self._total = total
        self._unit = unit
        self._shown = 0.0
        self._active = sys.stderr.isatty()
        self._width = 0

    def show(self, done: int) -> None:
        """Tell how much is done."""
        now = time.monotonic()
        if not self._active or now - self._shown < 0.1:
            return
        self._shown = now
        text = f"{done:,} {self._unit}"
        if self._total:
            text += f" of {self._total:,} ({100 * done // self._total} %)"
        self._width = max(self._width, len(text))
        print("\r" + text.ljust(self._width), end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self._active and self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)
            self._width = 0


def refuse_same_file(source: str, target: str) -> None:
    """Raise a ConfigError where the output would overwrite the input."""
    if "-" in (source, target):
        return
    one, other = Path(source), Path(target)
    if one.exists() and other.exists() and one.samefile(other):
        raise ConfigError(f"{target} is the input itself: choose another output")
