"""Files of a bundle on disk: a folder or a zip, read with caps, written whole or not at all."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ModelError

__all__ = ["MANIFEST", "pack_arrays", "read_arrays", "read_files", "write_files"]

MANIFEST = "manifest.json"
_MAX_FILE_BYTES = 1 << 28
_MAX_BUNDLE_BYTES = 1 << 30
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def read_files(path: Path) -> dict[str, bytes]:
    """The files of a bundle by name.

    Raises:
        ModelError: there is no folder and no zip, or it is too large.
    """
    try:
        if path.is_dir():
            return _read_folder(path)
        if path.is_file():
            return _read_zip(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot read the bundle: {error}") from error
    raise ModelError(f"{path}: there is no bundle (a folder or a zip with {MANIFEST})")


def write_files(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder, or a zip where the name says so; an older bundle there is replaced.

    Raises:
        ModelError: something else is there, or the path cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".zip":
            _write_zip(path, files)
        else:
            _write_folder(path, files)
    except OSError as error:
        raise ModelError(f"{path}: cannot write the bundle: {error}") from error


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of an npz, equal for equal arrays."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for key in sorted(arrays):
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(arrays[key]), allow_pickle=False)
            info = zipfile.ZipInfo(f"{key}.npy", _ZIP_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content.getvalue())
    return buffer.getvalue()


def read_arrays(content: bytes, name: str) -> dict[str, NDArray[Any]]:
    """Read an npz from memory, sizes checked before anything is unpacked.

    Raises:
        ModelError: not an npz, or too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(info.file_size for info in archive.infolist()) > _MAX_FILE_BYTES:
                raise ModelError(f"{name}: more than {_MAX_FILE_BYTES} bytes unpacked")
        with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
            return {key: loaded[key] for key in loaded.files}
    except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError) as error:
        raise ModelError(f"{name}: cannot be read: {error}") from error


def _read_folder(folder: Path) -> dict[str, bytes]:
    files = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_file() and not entry.name.startswith("."):
            if entry.stat().st_size > _MAX_FILE_BYTES:
                raise ModelError(f"{entry}: larger than {_MAX_FILE_BYTES} bytes")
            files[entry.name] = entry.read_bytes()
    return files


def _read_zip(path: Path) -> dict[str, bytes]:
    """Read the files beside manifest.json, which may lie in one top folder of the archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            roots = sorted(
                (
                    info.filename[: -len(MANIFEST)]
                    for info in infos
                    if info.filename.rsplit("/", 1)[-1] == MANIFEST
                ),
                key=len,
            )
            root = roots[0] if roots else ""
            chosen = {
                info.filename[len(root) :]: info
                for info in infos
                if info.filename.startswith(root) and "/" not in info.filename[len(root) :]
            }
            sizes = [info.file_size for info in chosen.values()]
            if max(sizes, default=0) > _MAX_FILE_BYTES or sum(sizes) > _MAX_BUNDLE_BYTES:
                raise ModelError(f"{path}: the bundle is too large to be one")
            return {name: archive.read(info) for name, info in chosen.items()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ModelError(f"{path}: not a zip of a bundle: {error}") from error


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    if folder.exists() and not (folder.is_dir() and _is_replaceable(folder)):
        raise ModelError(f"{folder} exists and is not a bundle: choose another path")
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        fresh.chmod(0o755)
        if folder.exists():
            old = fresh.with_name(fresh.name + "-old")
            folder.rename(old)
            fresh.rename(folder)
            shutil.rmtree(old)
        else:
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _is_replaceable(folder: Path) -> bool:
    """An empty folder or an older bundle."""
    return (folder / MANIFEST).is_file() or not any(folder.iterdir())


def _write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    handle, fresh = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name in sorted(files):
                info = zipfile.ZipInfo(name, _ZIP_TIME)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = 0o644 << 16
                archive.writestr(info, files[name])
        Path(fresh).chmod(0o644)
        os.replace(fresh, path)
    finally:
        Path(fresh).unlink(missing_ok=True)
