"""Reading priors from named arrays, with every error a `ModelError`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeae.errors import ModelError
from edgeae.runtime.causal import CausalNet

__all__ = ["get_array", "pack_net", "unpack_net", "whole_number", "whole_numbers"]

Arrays = Mapping[str, npt.NDArray[Any]]
_PREFIX = "net."


def pack_net(net: CausalNet) -> dict[str, npt.NDArray[Any]]:
    """Return the net's arrays, named ``net.*``."""
    return {_PREFIX + name: a for name, a in net.to_arrays().items()}


def unpack_net(arrays: Arrays) -> CausalNet:
    """Rebuild the net from the arrays named ``net.*``."""
    n = len(_PREFIX)
    return CausalNet.from_arrays({k[n:]: a for k, a in arrays.items() if k.startswith(_PREFIX)})


def get_array(arrays: Arrays, name: str) -> npt.NDArray[Any]:
    """Return the array of that name."""
    try:
        return np.asarray(arrays[name])
    except KeyError as error:
        raise ModelError(f"the prior's array {name!r} is missing") from error


def whole_number(arrays: Arrays, name: str, highest: int | None = None) -> int:
    """Return the array of that name as an integer, 0 to ``highest`` where that is given."""
    a = get_array(arrays, name)
    if a.shape != () or a.dtype.kind not in "iu":
        raise ModelError(f"{name}: must be one integer, found {a.dtype} {list(a.shape)}")
    value = int(a)
    if highest is not None and not 0 <= value <= highest:
        raise ModelError(f"{name}: must be 0 to {highest}, found {value}")
    return value


def whole_numbers(arrays: Arrays, name: str) -> tuple[int, ...]:
    """Return the array of that name, of one dimension, as integers."""
    a = get_array(arrays, name)
    if a.ndim != 1 or a.dtype.kind not in "iu":
        raise ModelError(f"{name}: must be integers, found {a.dtype} {list(a.shape)}")
    return tuple(int(v) for v in a)
