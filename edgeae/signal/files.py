"""Writing files so that a crash, a full disk or Ctrl-C never leaves a broken one in place."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from edgeae.errors import EdgeAEError, SignalError

__all__ = ["atomic_output", "open_input", "partial_path", "read_exactly"]


@contextmanager
def open_input(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file, or stdin for ``-``, for reading bytes; a missing file is a SignalError."""
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below, errors translated here only
    except OSError as error:
        raise SignalError(f"cannot read {path}: {error.strerror or error}") from error
    with file:
        yield file


def read_exactly(file: BinaryIO, size: int) -> bytes:
    """Up to ``size`` bytes, fewer only at the end: pipes hand out what they have at the moment."""
    parts = []
    while size > 0:
        part = file.read(size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def partial_path(path: str | Path) -> Path:
    """Where ``atomic_output`` writes until all is well.

    Example:
        >>> partial_path("out/ecg.eae").name
        'ecg.eae.partial'
    """
    return Path(path).with_name(f"{Path(path).name}.partial")


@contextmanager
def atomic_output(
    path: str | Path, *, keep_partial: bool = False, durable: bool = True
) -> Iterator[BinaryIO]:
    """A binary file that appears under its name only when everything was written.

    ``-`` is stdout. The bytes go to ``NAME.partial`` beside the target, which replaces the target
    in one step at the end. If the block is left by an exception, the target stays as it was, and
    the partial file is deleted, or kept with ``keep_partial`` (a stream decodes frame by frame, so
    what was written stays useful). ``durable`` waits until the disk has the bytes.

    Raises:
        EdgeAEError: the file could not be written (a full disk, no permission), saying what was
            kept.
    """
    if str(path) == "-":
        try:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        except BrokenPipeError as error:
            with suppress(OSError):  # so that the interpreter's own flush at exit stays quiet
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise EdgeAEError("the reader of stdout went away") from error
        except OSError as error:
            if error.errno not in _DISK_ERRORS:
                raise
            raise EdgeAEError(f"cannot write to stdout: {error.strerror}") from error
        return
    target = Path(path)
    partial = partial_path(target)
    try:
        file = open(partial, "wb")  # noqa: SIM115
    except OSError as error:
        raise EdgeAEError(f"cannot write {target}: {error.strerror or error}") from error
    finished = False
    try:
        try:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        finally:
            with suppress(OSError):  # the error that brought us here says more
                file.close()
        os.replace(partial, target)
        finished = True
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        kept = keep_partial and partial.exists() and partial.stat().st_size > 0
        raise EdgeAEError(
            f"cannot write {target}: {error.strerror}. "
            + (f"What was written is kept in {partial}" if kept else "Nothing was kept")
            + (f"; {target} is as it was" if target.exists() else "")
        ) from error
    finally:
        if not finished and (not keep_partial or _is_empty(partial)):
            with suppress(OSError):
                partial.unlink(missing_ok=True)


_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS}


def _is_empty(path: Path) -> bool:
    return not path.exists() or path.stat().st_size == 0
