"""Learned codecs for sensor streams on small devices.

    >>> import numpy as np
    >>> import edgeae
    >>> x = np.arange(2000, dtype=np.int16) % 100
    >>> data = edgeae.encode(None, x, lossless=True)
    >>> bool(np.array_equal(edgeae.decode(None, data), x))
    True

``None`` stands for "no model"; ``edgeae.load(path)`` gives one. What each name does is said in its
own docstring; they are looked up on first use, so that this import costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgeae import errors
from edgeae.errors import (
    ConfigError,
    CorruptError,
    DependencyError,
    EdgeAEError,
    ModelError,
    NotAStreamError,
    SignalError,
    StreamError,
    TruncatedError,
    VersionError,
    WrongModelError,
)

if TYPE_CHECKING:
    from edgeae.bitstream.header import Profile, Promise, StreamHeader
    from edgeae.runtime.bundle import Bundle, load
    from edgeae.signal.grid import Grid
    from edgeae.tasks.decoder import StreamDecoder
    from edgeae.tasks.denoise import Denoiser, denoise
    from edgeae.tasks.encoder import StreamEncoder
    from edgeae.tasks.stream import decode, encode

    __version__: str

__all__ = [
    "Bundle",
    "ConfigError",
    "CorruptError",
    "Denoiser",
    "DependencyError",
    "EdgeAEError",
    "Grid",
    "ModelError",
    "NotAStreamError",
    "Profile",
    "Promise",
    "SignalError",
    "StreamDecoder",
    "StreamEncoder",
    "StreamError",
    "StreamHeader",
    "TruncatedError",
    "VersionError",
    "WrongModelError",
    "__version__",
    "decode",
    "denoise",
    "encode",
    "errors",
    "load",
]

_HOMES = {
    "Bundle": "edgeae.runtime.bundle",
    "Denoiser": "edgeae.tasks.denoise",
    "Grid": "edgeae.signal.grid",
    "Profile": "edgeae.bitstream.header",
    "Promise": "edgeae.bitstream.header",
    "StreamDecoder": "edgeae.tasks.decoder",
    "StreamEncoder": "edgeae.tasks.encoder",
    "StreamHeader": "edgeae.bitstream.header",
    "decode": "edgeae.tasks.stream",
    "denoise": "edgeae.tasks.denoise",
    "encode": "edgeae.tasks.stream",
    "load": "edgeae.runtime.bundle",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("edgeae")
        except PackageNotFoundError:  # run from a source tree
            value = "0+unknown"
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'edgeae' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
