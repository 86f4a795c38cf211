"""Folders of PNG images as one signal [N, H, W] or [N, H, W, C]."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgeae.errors import DependencyError, SignalError
from edgeae.signal.base import Array, SignalFile, checked
from edgeae.signal.files import atomic_output

__all__ = ["read_images", "write_images"]

_MODES = {"L": np.uint8, "RGB": np.uint8, "RGBA": np.uint8, "LA": np.uint8, "I;16": np.uint16}
_MAX_NAMES_BYTES = 32768


def read_images(path: str | Path) -> SignalFile:
    """All PNG files of a folder, sorted by name; or one PNG file as [1, H, W].

    Raises:
        SignalError: no images, or not all of one size and mode.
        DependencyError: pillow is not installed.
    """
    image_module = _pillow()
    folder = Path(path)
    files = sorted(folder.glob("*.png")) if folder.is_dir() else [folder]
    if not files:
        raise SignalError(f"{path} has no .png files")
    arrays: list[Array] = []
    notes = set()
    for file in files:
        try:
            head = file.read_bytes()[:32]
            with image_module.open(file) as image:
                if head[24:25] == b"\x10" and head[25:26] not in (b"\0",):
                    raise SignalError(f"{file} has 16-bit colour, which is not supported")
                if image.mode in ("I", "I;16B", "I;16L"):
                    pixels = np.asarray(image).astype(np.uint16)
                elif image.mode in _MODES:
                    pixels = np.asarray(image, _MODES[image.mode])
                else:
                    target = "L" if image.mode == "1" else "RGB"
                    notes.add(f"images of mode {image.mode} were read as {target}")
                    pixels = np.asarray(image.convert(target))
        except (OSError, ValueError, SyntaxError) as error:
            raise SignalError(f"cannot read {file}: {error}") from error
        if arrays and (pixels.shape, pixels.dtype) != (arrays[0].shape, arrays[0].dtype):
            raise SignalError(
                f"{file.name} is {list(pixels.shape)} {pixels.dtype}, but {files[0].name} is "
                f"{list(arrays[0].shape)} {arrays[0].dtype}; all images must be of one kind"
            )
        arrays.append(pixels)
    meta: dict[str, Any] = {"container": "png"}
    names = [file.stem for file in files]
    if names != _default_names(len(names)):
        if len(json.dumps(names)) <= _MAX_NAMES_BYTES:
            meta["names"] = names
        else:
            notes.add("the file names are too many to keep; images will be numbered")
    return SignalFile(data=checked(np.stack(arrays), str(path)), meta=meta, notes=tuple(notes))


def write_images(path: str | Path, data: Array, meta: dict[str, Any]) -> None:
    """One PNG an image, under the names the images came with; a path ending in .png takes one."""
    image_module = _pillow()
    channels = data.shape[3] if data.ndim == 4 else 1
    if (
        data.ndim < 3
        or channels > 4
        or data.dtype not in (np.uint8, np.uint16)
        or (channels > 1 and data.dtype != np.uint8)
    ):
        raise SignalError(
            f"PNG cannot hold shape {list(data.shape)} of {data.dtype}; write .npy instead"
        )
    target = Path(path)
    names = meta.get("names")
    if not isinstance(names, list) or len(names) != len(data):
        names = _default_names(len(data))
    single = target.suffix.lower() == ".png"
    if single and len(data) != 1:
        raise SignalError(f"{len(data)} images do not fit into one file; name a folder")
    if not single:
        target.mkdir(parents=True, exist_ok=True)
    for name, pixels in zip(names, data, strict=True):
        plain = (
            Path(str(name)).name.replace("\0", "") or "image"
        )  # a name from a stream: no folders
        plane = pixels[..., 0] if channels == 1 and data.ndim == 4 else pixels
        with atomic_output(target if single else target / f"{plain}.png", durable=False) as file:
            image_module.fromarray(np.ascontiguousarray(plane)).save(file, format="PNG")


def _default_names(n: int) -> list[str]:
    return [f"{i:05d}" for i in range(n)]


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise DependencyError("pillow", "images") from error
    return Image
