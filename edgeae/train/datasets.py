"""Data sets by name or path, split by record or by time and never by window.

Names are found in the folder EDGEAE_DATA. What a split means is written at each name; the part for
validation is taken from the training part, so the test part is seen once, at the end.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ConfigError, SignalError
from edgeae.signal.container import container_of
from edgeae.signal.grid import Grid, detect_grid
from edgeae.signal.io import read_signal
from edgeae.train.named import DATASETS, TEST_SHARE, Source

__all__ = ["DATASETS", "Dataset", "hash_of", "load_dataset"]

Array = NDArray[Any]

SPLITS = ("train", "val", "test")
_VAL_SHARE = 0.1
_SPREAD_OVER = 8  # stretches of a recording that each give a piece
_LEAST_SPREAD = 1 << 15  # samples of a stretch


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One split of a data set.

    Attributes:
        name, split: what was asked for.
        segments: recordings [T, C], or one array of images [N, H, W] or [N, H, W, C]; in user
            units and the source's dtype. Nets must not look across from one to the next.
        names: of the segments.
        rate_hz: None for images and where it is not known.
        meta: channel names, units, the reason of a choice; JSON-able.
        sha256: of every source file, by its name.
        labels: of images where known, one array for each segment.
        notes: what was dropped or guessed in reading.
    """

    name: str
    split: str
    segments: tuple[Array, ...]
    names: tuple[str, ...]
    rate_hz: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    labels: tuple[Array, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_image(self) -> bool:
        """True if the segments are images."""
        return self.segments[0].ndim >= 3

    @property
    def channels(self) -> int:
        """C."""
        first = self.segments[0]
        return int(first.shape[-1]) if first.ndim in (2, 4) else 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The samples' type, the same in all segments."""
        return self.segments[0].dtype

    @property
    def n_items(self) -> int:
        """Time steps or images in all segments."""
        return sum(len(segment) for segment in self.segments)

    def grid(self) -> Grid | None:
        """The hidden grid that all segments share."""
        return detect_grid(np.concatenate([np.ravel(segment) for segment in self.segments]))


def load_dataset(
    source: str | Path,
    split: str = "train",
    *,
    test: str | Path | None = None,
    columns: Sequence[str] = (),
    normalize: str = "",
    **read_options: Any,
) -> Dataset:
    """Load one split of a data set.

    Args:
        source: a name of ``DATASETS``, or the path of a file or of a folder of files.
        split: ``train``, ``val`` or ``test``. For paths, the last tenth of every recording is
            the test part, and the last tenth of what is left the validation part.
        test: for paths, a file or folder to test on instead.
        columns: for paths of CSV files, the columns to take; all numbers if empty.
        normalize: ``l2`` scales every row or image to unit length, as float32.
        read_options: for paths, as in ``read_signal``: dtype, channels, rate_hz, key. A key may be
            a pattern such as ``*__x``: every match is a recording.

    Raises:
        ConfigError: unknown split, or a named data set is not there; says how to get it.
        SignalError: unreadable files, or recordings that do not fit together.

    Example:
        >>> val = load_dataset("sensor", "val")
        >>> val.rate_hz, val.channels, val.n_items
        (3200.0, 1, 135000)
    """
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if normalize not in ("", "l2"):
        raise ConfigError(f"normalize is {normalize!r}, expected l2 or nothing")
    name = str(source)
    read_options = {name: value for name, value in read_options.items() if value is not None}
    if columns:
        read_options["columns"] = list(columns)
    if name in DATASETS:
        if test is not None or read_options:
            raise ConfigError(
                f"{name} is a named data set: it has its own split and takes no options"
            )
        parts = DATASETS[name]()
    else:
        parts = _from_path(Path(source), test, read_options)
    train, val = _split_val(parts)
    chosen = {"train": train, "val": val, "test": parts.test}[split]
    if not chosen or not all(len(segment) for segment in chosen.values()):
        raise SignalError(f"the {split} part of {name} is empty: there are too few samples")
    shapes = {segment.shape[1:] for segment in chosen.values()}
    if len(shapes) != 1 and not parts.sizes_vary:
        raise SignalError(f"the recordings of {name} differ in shape: {sorted(map(list, shapes))}")
    labels = _labels_of(parts, chosen, split)
    return Dataset(
        name=name,
        split=split,
        segments=tuple(map(_unit_length if normalize else np.asarray, chosen.values())),
        names=tuple(chosen),
        rate_hz=parts.rate_hz,
        meta=parts.meta,
        sha256={path.name: _sha256(path) for path in parts.files},
        labels=labels,
        notes=parts.notes,
    )


def _split_val(parts: Source) -> tuple[dict[str, Array], dict[str, Array]]:
    train: dict[str, Array] = {}
    val: dict[str, Array] = {}
    if parts.val == "record":
        last = {}  # of each subject and device: names are subject_recording_device
        for name in parts.train:
            subject, _, device = name.split("_", 2)
            last[subject, device] = name
        for name, segment in parts.train.items():
            (val if name in last.values() else train)[name] = segment
        return train, val
    if parts.val == "piece":
        groups: dict[str, list[str]] = {}
        for name in parts.train:
            groups.setdefault(name.rpartition("/")[0], []).append(name)
        last_of = {n for g in groups.values() for n in g[-math.ceil(len(g) * _VAL_SHARE) :]}
        for name, segment in parts.train.items():
            (val if name in last_of else train)[name] = segment
        return train, val
    for name, segment in parts.train.items():
        if parts.val == "spread" and len(segment) >= _SPREAD_OVER * _LEAST_SPREAD:
            for i, stretch in enumerate(np.array_split(segment, _SPREAD_OVER)):
                cut = len(stretch) - math.ceil(len(stretch) * _VAL_SHARE)
                train[f"{name}/{i}"], val[f"{name}/{i}"] = stretch[:cut], stretch[cut:]
            continue
        cut = len(segment) - math.ceil(len(segment) * _VAL_SHARE) if len(segment) > 1 else 1
        train[name], val[name] = segment[:cut], segment[cut:]
    return train, {name: segment for name, segment in val.items() if len(segment)}


def _labels_of(parts: Source, chosen: dict[str, Array], split: str) -> tuple[Array, ...]:
    if not parts.labels:
        return ()
    labels = parts.labels["test" if split == "test" else "train"]
    n = len(next(iter(chosen.values())))
    return (labels[-n:] if split != "train" else labels[:n],)


def _unit_length(segment: Array) -> Array:
    rows = segment.reshape(len(segment), -1).astype(np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(length == 0, 1, length)).reshape(segment.shape)


def hash_of(path: str | Path) -> dict[str, str]:
    """SHA-256 of a file, or of a folder's files, by name; empty for stdin."""
    where = Path(path)
    files = sorted(p for p in where.iterdir() if p.is_file()) if where.is_dir() else [where]
    return {file.name: _sha256(file) for file in files if file.exists()}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _from_path(path: Path, test: str | Path | None, options: dict[str, Any]) -> Source:
    if not path.exists():
        names = ", ".join(sorted(DATASETS))
        raise ConfigError(f"{path} is neither a file, nor a folder, nor one of {names}")
    whole = _read_all(path, options)
    if test is not None:
        if not Path(test).exists():
            raise ConfigError(f"the test data {test} do not exist")
        held = _read_all(Path(test), options)
        return replace(whole, test=held.train, files=(*whole.files, *held.files),
                       notes=(*whole.notes, *held.notes))  # fmt: skip
    train, held_out = {}, {}
    for name, x in whole.train.items():
        cut = len(x) - math.ceil(len(x) * TEST_SHARE) if len(x) > 2 else len(x)
        train[name] = x[:cut]
        if cut < len(x):
            held_out[name] = x[cut:]
    return replace(whole, train=train, test=held_out)


def _read_all(path: Path, options: dict[str, Any]) -> Source:
    """Every recording of a file or folder, in user units, [T, C] or images."""
    files = [path]
    if path.is_dir() and not list(path.glob("*.png")):
        files = sorted(p for p in path.iterdir() if p.is_file() and _is_signal(p, options))
        if not files:
            raise SignalError(f"{path} has no file of a known kind")
    segments: dict[str, Array] = {}
    rates: set[float | None] = set()
    notes: list[str] = []
    meta: dict[str, Any] = {}
    for file in files:
        keys = _matching_keys(file, options.get("key"))
        for key in keys:
            signal = read_signal(file, **{**options, **({"key": key} if key else {})})
            name = f"{file.name}:{key}" if len(keys) > 1 else file.name
            data = signal.data
            segments[name] = data if data.ndim >= 3 else data.reshape(len(data), -1)
            rates.add(signal.rate_hz)
            notes += [f"{file.name}: {note}" for note in signal.notes if note not in notes]
            meta = meta or _described(signal.meta)
    kinds = {(str(x.dtype), x.shape[1:]) for x in segments.values()}
    if len(kinds) != 1:
        raise SignalError(f"the recordings in {path} are of several kinds: {sorted(kinds)}")
    if len(rates) != 1:
        raise SignalError(f"the recordings in {path} have several rates: {rates}; say rate_hz")
    sources = sorted(path.glob("*.png")) if path.is_dir() and files == [path] else files
    if next(iter(segments.values())).ndim >= 3 and len(segments) > 1:
        segments = {path.name: np.concatenate(list(segments.values()))}
    return Source(segments, {}, rates.pop(), meta, tuple(sources), notes=tuple(notes))


def _is_signal(path: Path, options: dict[str, Any]) -> bool:
    try:
        container = container_of(path)
    except SignalError:
        return False
    return container != "raw" or options.get("dtype") is not None


def _matching_keys(file: Path, pattern: str | None) -> list[str | None]:
    if pattern is None or not any(mark in pattern for mark in "*?["):
        return [pattern]
    with np.load(file, allow_pickle=False) as archive:
        keys: list[str | None] = [k for k in archive.files if fnmatch.fnmatchcase(k, pattern)]
    if not keys:
        raise SignalError(f"{file} has no array that matches {pattern!r}")
    return keys


def _described(meta: dict[str, Any]) -> dict[str, Any]:
    columns = meta.get("columns", [])
    names = [column["name"] for column in columns if "time" not in column]
    return {"names": names} if names else {}
