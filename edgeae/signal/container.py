"""Which container a file name stands for."""

from __future__ import annotations

import re
from pathlib import Path

from edgeae.errors import SignalError

__all__ = ["container_of"]

_SUFFIXES = {
    ".npy": "npy", ".npz": "npz", ".wav": "wav", ".wave": "wav", ".idx": "idx", ".png": "png",
    ".csv": "csv", ".tsv": "csv", ".txt": "csv",
    ".raw": "raw", ".pcm": "raw", ".bin": "raw", ".dat": "raw",
}  # fmt: skip
_IDX_NAME = re.compile(r"idx\d?-ubyte$|\.idx(\d-\w+)?$")


def container_of(path: str | Path) -> str:
    """The container that a name stands for: npy, npz, csv, wav, idx, png or raw.

    Example:
        >>> container_of("a.CSV"), container_of("-"), container_of("train-images-idx3-ubyte.gz")
        ('csv', 'raw', 'idx')
    """
    name = str(path)
    if name == "-":
        return "raw"
    plain = name[:-3] if name.endswith(".gz") else name
    if _IDX_NAME.search(plain):
        return "idx"
    suffix = Path(name).suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if Path(name).is_dir() or name.endswith(("/", "\\")):
        return "png"
    if not suffix:
        raise SignalError(f"{name} has no suffix to tell what it is; use one of {_known()}")
    raise SignalError(f"{name}: {suffix} is not a known kind of file; use one of {_known()}")


def _known() -> str:
    return ", ".join(sorted(_SUFFIXES)) + ", a folder of .png"
