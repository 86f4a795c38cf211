"""Code a group's test part with everything, check every bound, time it.

Peers code channel by channel and their sums are compared; edgeae codes channels together.
"""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from libraries import LIBRARIES, Library, Unfit, Variant
from numpy.typing import NDArray
from suites import Bound, Group

import edgeae
from edgeae.bitstream.reader import FrameReader

__all__ = ["FRAME", "MISSING", "SETTINGS", "Row", "everything", "model_bytes"]

FRAME = 1024
SETTINGS = ("frames", "whole")
OURS, NO_MODEL, TWIN = "edgeae", "edgeae, no model", "twin"

MISSING = {library.name: library.missing for library in LIBRARIES if library.missing}
"""Coders that are not installed, and how to get them."""
if importlib.util.find_spec("numba") is None:
    MISSING[TWIN] = "not installed: pip install numba"

Array = NDArray[Any]


@dataclass
class Row:
    """What one coder took for one group under one bound.

    Attributes:
        n_bytes: that count; n_framed: with lengths and checksums, where we add them.
        worst: largest error, in the signal's units.
        ok: every sample was within its bound.
        model_bytes: of what the decoder must have beforehand.
    """

    group: str
    setting: str
    coder: str
    bound: Bound
    n_samples: int
    raw_bytes: int
    n_bytes: int = 0
    n_framed: int = 0
    worst: float = 0.0
    ok: bool = True
    encode_s: float = 0.0
    decode_s: float = 0.0
    model_bytes: int = 0
    note: str = ""


def everything(
    group: Group, bundle: Any, setting: str, bundle_bytes: int, coders: set[str]
) -> Iterator[Row]:
    """Every coder's row for every bound."""
    length = FRAME if setting == "frames" else None
    signals = [x[: len(x) // FRAME * FRAME] if length else x for x in group.test]
    signals = [x for x in signals if len(x)]
    if not signals:  # not one whole frame
        return
    for bound in group.bounds:
        n = sum(x.size for x in signals)
        raw = sum(x.nbytes for x in signals)

        def row(coder: str, bound: Bound = bound, n: int = n, raw: int = raw) -> Row:
            return Row(group=group.name, setting=setting, coder=coder, bound=bound, n_samples=n,
                       raw_bytes=raw)  # fmt: skip

        if bundle is not None and OURS in coders:
            found = _ours(row(OURS), bundle, signals, bound, length)
            found.model_bytes = bundle_bytes
            yield found
        if NO_MODEL in coders:
            yield _ours(row(NO_MODEL), None, signals, bound, length)
        if TWIN in coders and TWIN not in MISSING:
            yield _twin(row(TWIN), group, signals, bound, length)
        for library in LIBRARIES:
            if library.name in coders and library.name not in MISSING:
                yield from _library(row(library.name), library, group, signals, bound, length)


def model_bytes(path: Path) -> int:
    """Of a bundle's files that a decoder or an encoder reads."""
    return sum(f.stat().st_size for f in path.iterdir() if f.suffix in (".onnx", ".npz", ".json"))


# -- ours ----------------------------------------------------------------------------------------


def _ours(
    row: Row, bundle: Any, signals: list[Array], bound: Bound, length: int | None
) -> Row:  # fmt: skip
    """A frame counts with its payload, exceptions and the byte that says its mode."""
    promise: dict[str, Any] = {"max_error": bound.error} if bound.error else {"lossless": True}
    for x in signals:
        x = x[:, 0] if x.shape[1] == 1 else x
        began = time.perf_counter()
        data = edgeae.encode(bundle, x, frame_length=length, **promise)
        middle = time.perf_counter()
        y = edgeae.decode(bundle, data)
        row.encode_s += middle - began
        row.decode_s += time.perf_counter() - middle
        _check(row, x, y, bound)
        row.n_framed += len(data)
        if length is None:
            row.n_bytes += len(data)
        else:
            frames = FrameReader(io.BytesIO(data))
            row.n_bytes += sum(1 + len(f.payload) + len(f.exceptions) for f in frames)
    return row


def _check(row: Row, x: Array, y: Array, bound: Bound) -> None:
    error = np.abs(y.astype(np.float64) - x)
    row.worst = max(row.worst, float(error.max()))
    row.ok &= bool((error <= bound.error).all() if bound.error else np.array_equal(x, y))


# -- the twin ------------------------------------------------------------------------------------


def _twin(
    row: Row, group: Group, signals: list[Array], bound: Bound, length: int | None
) -> Row:  # fmt: skip
    import twin as twins

    train = [group.indices(x, bound) for x in group.train]
    test = [group.indices(x, bound) for x in signals]
    n_columns = max(x.shape[1] for x in train + test)
    train, test = ([_widened(x, n_columns) for x in part] for part in (train, test))
    for c, (step, unit) in enumerate(group.units(bound, n_columns)):
        twin = twins.fit([x[:, c] for x in train], 2 * step + 1, length=length)
        row.model_bytes += twin.n_bytes
        twins.decode(twin, twins.encode(twin, test[0][:64, c]), 64)  # compiled before it is timed
        for x in test:
            for part in _cut(x[:, c], length):
                began = time.perf_counter()
                data = twins.encode(twin, part)
                middle = time.perf_counter()
                y = twins.decode(twin, data, len(part))
                row.encode_s += middle - began
                row.decode_s += time.perf_counter() - middle
                row.n_bytes += len(data)
                _check_steps(row, part, y, step, unit)
    return row


def _widened(x: Array, n_columns: int) -> Array:
    return np.pad(x, ((0, 0), (0, n_columns - x.shape[1])))


def _cut(x: Array, length: int | None) -> list[Array]:
    x = np.ascontiguousarray(x)
    return [x] if length is None else list(x.reshape(-1, length))


def _check_steps(row: Row, x: Array, y: Array, step: float, unit: float) -> None:
    worst = float(np.abs(y - x).max())
    row.worst = max(row.worst, worst * unit)
    row.ok &= worst <= step


# -- the libraries -------------------------------------------------------------------------------


def _library(
    row: Row, library: Library, group: Group, signals: list[Array], bound: Bound,
    length: int | None,
) -> Iterator[Row]:  # fmt: skip
    """The best variant's row; what no variant could code is a row that says so."""
    best: Row | None = None
    indices = [group.indices(x, bound) for x in signals]
    why = ""
    for variant in library.frame() if length else library.whole():
        tried = Row(**{**row.__dict__, "note": variant.settings})
        try:
            for x in indices:
                for c, (step, unit) in enumerate(group.units(bound, x.shape[1])):
                    for part in _cut(x[:, c], length):
                        _one(tried, variant, part, step, unit)
        except (Unfit, ValueError, RuntimeError) as error:
            why = f"{variant.settings}: {error}"
            continue
        if best is None or (not tried.ok, tried.n_bytes) < (not best.ok, best.n_bytes):
            best = tried
    if best is None:
        best = row
        best.ok, best.note = False, f"could not: {why}"
    yield best


def _one(row: Row, variant: Variant, x: Array, step: int, unit: float) -> None:
    delta = 2 * step + 1
    began = time.perf_counter()
    data = variant.encode(x, step) if variant.bounded else variant.encode((x + step) // delta)
    middle = time.perf_counter()
    y = variant.decode(data, len(x))
    if not variant.bounded:
        y = y * delta
    row.encode_s += middle - began
    row.decode_s += time.perf_counter() - middle
    row.n_bytes += len(data)
    if variant.bounded and not step:
        y = np.rint(y)
    _check_steps(row, x, y, step, unit)
