"""numpy's .npy and .npz, and the IDX files of MNIST (plain or gzipped)."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from edgeae.errors import SignalError
from edgeae.signal.base import Array, SignalFile, checked
from edgeae.signal.files import open_input

__all__ = ["npy_header", "read_idx", "read_npy", "read_npz", "write_idx", "write_npy", "write_npz"]

_RATE_KEYS = ("rate_hz", "fs", "sample_rate", "sampling_rate", "rate")
_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_npy(path: str | Path | BinaryIO) -> SignalFile:
    """A .npy array, memory-mapped when it is a file."""
    where = str(path) if isinstance(path, (str, Path)) else "stdin"
    try:
        if isinstance(path, (str, Path)):
            with open_input(path):
                pass  # a missing file gets the same message everywhere
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            array = np.lib.format.read_array(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise SignalError(f"{where} is not a good .npy file: {error}") from error
    return _packed(cast(Array, array), "npy", where, {})


def read_npz(path: str | Path, *, key: str | None, rate_hz: float | None) -> SignalFile:
    """One array of a .npz file: the one called ``key``, or the only one that looks like a signal.

    Raises:
        SignalError: no such key, or several arrays could be meant; the message lists them.
    """
    with open_input(path):
        pass
    try:
        with np.load(path, allow_pickle=False) as archive:
            return _from_archive(archive, str(path), key, rate_hz)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SignalError(f"{path} is not a good .npz file: {error}") from error


def _from_archive(archive: Any, path: str, key: str | None, rate_hz: float | None) -> SignalFile:
    names = list(archive.files)
    notes = []
    if key is not None and key not in names:
        raise SignalError(f"{path} has no array {key!r}; it has: {_few(names)}")
    if key is None:
        arrays = {name: archive[name] for name in names}
        sizes = {n: a.size for n, a in arrays.items() if a.ndim >= 1 and a.dtype.kind in "iufb"}
        ranked = sorted(sizes, key=lambda name: sizes[name], reverse=True)
        if not ranked:
            raise SignalError(f"{path} has no array of numbers; it has: {_few(names)}")
        if len(ranked) > 1 and sizes[ranked[0]] < 10 * sizes[ranked[1]]:
            shapes = [f"{n} {list(arrays[n].shape)} {arrays[n].dtype}" for n in ranked]
            raise SignalError(f"{path} has several arrays, choose one with --key: {_few(shapes)}")
        key = ranked[0]
    others = [name for name in names if name != key]
    if others:
        notes.append(f"took the array {key!r}; not kept: {_few(others)}")
    for name in _RATE_KEYS:
        if rate_hz is None and name in names and archive[name].size == 1:
            rate_hz = float(archive[name].reshape(-1)[0])
    signal = _packed(archive[key], "npz", f"{path}:{key}", {"key": key})
    return SignalFile(
        data=signal.data, rate_hz=rate_hz, meta=signal.meta, notes=(*signal.notes, *notes)
    )


def write_npy(file: BinaryIO, data: Array, meta: dict[str, Any]) -> None:
    """Write .npy with the dtype, byte order and memory order of the source."""
    np.lib.format.write_array(file, restored(data, meta), allow_pickle=False)


def write_npz(file: BinaryIO, data: Array, meta: dict[str, Any], rate_hz: float | None) -> None:
    """Write a .npz with the one array, and its rate."""
    arrays = {str(meta.get("key", "x")): restored(data, meta)}
    if rate_hz is not None:
        arrays["rate_hz"] = np.float64(rate_hz)  # type: ignore[assignment]
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...], meta: dict[str, Any]) -> bytes:
    """The first 256 bytes of a .npy file whose length is not known yet: rewritten at the end."""
    big = str(meta.get("dtype", "")).startswith(">")
    descr = dtype.newbyteorder(">" if big else "<").str
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).ljust(245) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("ascii")


def restored(data: Array, meta: dict[str, Any]) -> Array:
    """The array in the dtype and order that ``meta`` remembers, where that changes no value."""
    dtype = np.dtype(meta.get("dtype", data.dtype))
    if dtype == np.bool_ and data.dtype == np.uint8:
        data = data != 0
    elif dtype.newbyteorder("=") == data.dtype:
        data = data.astype(dtype, copy=False)
    return np.asfortranarray(data) if meta.get("order") == "F" else data


def read_idx(path: str | Path) -> SignalFile:
    """An IDX file (MNIST's format), gzipped or not: big-endian, self-describing."""
    with open_input(path) as file:
        try:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            source = gzip.GzipFile(fileobj=file) if zipped else file
            head = source.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or not head[3]:
                raise SignalError(f"{path} is not an IDX file: it starts with {head.hex() or '-'}")
            shape = struct.unpack(f">{head[3]}I", source.read(4 * head[3]))
            dtype = np.dtype(_IDX_TYPES[head[2]])
            size = math.prod(shape) * dtype.itemsize
            content = source.read(size + 1) if size < 1 << 40 else b""
        except (OSError, EOFError, zlib.error, struct.error) as error:
            raise SignalError(f"{path} is not a good IDX file: {error}") from error
    if len(content) != size:
        found = "more" if len(content) > size else len(content)
        raise SignalError(f"{path} announces {size} bytes of shape {list(shape)}, has {found}")
    data = np.frombuffer(content, dtype).reshape(shape)
    return _packed(data, "idx", str(path), {})


def write_idx(file: BinaryIO, data: Array, *, zipped: bool) -> None:
    """Write an IDX file; gzipped without a time stamp, so equal data give equal bytes."""
    code = next(
        (c for c, t in _IDX_TYPES.items() if np.dtype(t).newbyteorder("=") == data.dtype), 0
    )
    if not code:
        raise SignalError(f"IDX cannot hold {data.dtype}; write .npy instead")
    content = struct.pack(f">HBB{data.ndim}I", 0, code, data.ndim, *data.shape)
    content += data.astype(_IDX_TYPES[code], copy=False).tobytes()
    file.write(gzip.compress(content, mtime=0) if zipped else content)


def _packed(array: Array, container: str, where: str, extra: dict[str, Any]) -> SignalFile:
    array = np.atleast_1d(array) if array.ndim else array
    if array.ndim == 0:
        raise SignalError(f"{where} is a single number, expected [T] or [T, C]")
    meta = {"container": container, "dtype": array.dtype.str, **extra}
    if array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous:
        meta["order"] = "F"
    notes: tuple[str, ...] = ()
    if array.ndim == 2 and array.shape[0] < array.shape[1] and array.shape[0] <= 64:
        notes = (
            f"{where} has shape {list(array.shape)}, read as {array.shape[0]} time steps of "
            f"{array.shape[1]} channels; transpose it if the channels come first",
        )
    return SignalFile(data=checked(array, where), meta=meta, notes=notes)


def _few(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
