"""The C kernels, where they are built.

``core`` is the extension module, or None: then everything runs in Python and writes the same bytes.
The environment variable ``EDGEAE_PURE=1`` switches the extension off.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

__all__ = ["core"]


def _load() -> ModuleType | None:
    if os.environ.get("EDGEAE_PURE", "") not in ("", "0"):
        return None
    try:
        return importlib.import_module("edgeae.native._core")
    except ImportError:
        return None


core: ModuleType | None = _load()
"""The extension module `edgeae.native._core`, or None."""
