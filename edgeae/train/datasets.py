"""Data sets by name or path, split by record or by time and never by window.

Names are found in the folder EDGEAE_DATA. What a split means is written at each name; the part for
validation is taken from the training part, so the test part is seen once, at the end.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ConfigError, DependencyError, SignalError
from edgeae.signal.grid import Grid, detect_grid
from edgeae.signal.io import container_of, read_signal
from edgeae.train.download import FETCHABLE, data_folder
from edgeae.train.sensor import SENSOR_RATE_HZ, sensor_stream

__all__ = ["DATASETS", "Dataset", "load_dataset"]

Array = NDArray[Any]

SPLITS = ("train", "val", "test")
_VAL_SHARE = 0.1
_TEST_SHARE = 0.1


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


@dataclass(frozen=True)
class _Source:
    """All of a data set before it is split: the training part and the test part."""

    train: dict[str, Array]
    test: dict[str, Array]
    rate_hz: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    labels: dict[str, Array] = field(default_factory=dict)
    val: str = "time"  # or "record": the last recording of each subject
    notes: tuple[str, ...] = ()


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
    if len(shapes) != 1:
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


def _split_val(parts: _Source) -> tuple[dict[str, Array], dict[str, Array]]:
    train: dict[str, Array] = {}
    val: dict[str, Array] = {}
    if parts.val == "record":
        last = {name[:3] + name[-3:]: name for name in parts.train}  # subject and device
        for name, segment in parts.train.items():
            (val if name in last.values() else train)[name] = segment
        return train, val
    for name, segment in parts.train.items():
        cut = len(segment) - math.ceil(len(segment) * _VAL_SHARE) if len(segment) > 1 else 1
        train[name], val[name] = segment[:cut], segment[cut:]
    return train, {name: segment for name, segment in val.items() if len(segment)}


def _labels_of(parts: _Source, chosen: dict[str, Array], split: str) -> tuple[Array, ...]:
    if not parts.labels:
        return ()
    labels = parts.labels["test" if split == "test" else "train"]
    n = len(next(iter(chosen.values())))
    return (labels[-n:] if split != "train" else labels[:n],)


def _unit_length(segment: Array) -> Array:
    rows = segment.reshape(len(segment), -1).astype(np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(length == 0, 1, length)).reshape(segment.shape)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


# --- named data sets ------------------------------------------------------------------------------


def _need(name: str, *files: str) -> list[Path]:
    paths = [data_folder() / file for file in files]
    missing = [path for path in paths if not path.exists()]
    if missing:
        how = (
            f"get it with: edgeae data {name}" if name in FETCHABLE else
            "set the variable EDGEAE_DATA to the folder that has it"
        )  # fmt: skip
        raise ConfigError(f"the data set {name!r} is not there ({missing[0]} is missing); {how}")
    return paths


_ECG_TRAIN = ("100", "102", "104", "105", "106", "108", "114")
_ECG_TEST = ("121", "123")
_ECG_META = {"names": ["ecg"], "unit": "counts of 5 uV", "bits": 11}


def _records(names: Sequence[str]) -> tuple[dict[str, Array], list[Path]]:
    paths = _need("ecg", *(f"ecg_mitdb/{name}.npz" for name in names))
    return {p.stem: read_signal(p, key="adc").data.reshape(-1, 1) for p in paths}, paths


def _ecg() -> _Source:
    """Seven patients to train on, two others to test on."""
    train, files = _records(_ECG_TRAIN)
    test, more = _records(_ECG_TEST)
    return _Source(train, test, 360.0, _ECG_META, (*files, *more))


def _ecg_own() -> _Source:
    """One patient: the first 430,000 samples (20 minutes) to train on, the rest to test on."""
    record, files = _records(("100",))
    x = record["100"]
    return _Source({"100": x[:430_000]}, {"100": x[430_000:]}, 360.0, _ECG_META, tuple(files))


_IMU_META = {
    "names": ["acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"],
    "unit": "m/s2 rad/s",
}
_WATCH_LSB = [9.81 / 4096] * 3 + [math.radians(0.07)] * 3


def _imu() -> _Source:
    """Watches, m/s² and rad/s in float32: three subjects to train on, the fourth to test on.

    Why the watches alone: their samples lie exactly on two grids, one for each sensor (9.81/4096
    m/s² and 0.07 °/s), at an even 104 Hz, as an IMU on an embedded device delivers them. The
    phones' samples went through a moving bias correction and an uneven clock (0 to 154 ms between
    rows, 102 Hz on average); they are in ``imu-all``.
    """
    signals, files = _har("_sw__x")
    return _by_subject(signals, _IMU_META, 104.2, files)


def _imu_counts() -> _Source:
    """The same watches as their sensors' own counts, int16."""
    signals, files = _har("_sw__x")
    counts = {
        name: np.rint(x / np.array(_WATCH_LSB)).astype(np.int16) for name, x in signals.items()
    }
    meta = {**_IMU_META, "unit": "counts", "channel_scale": _WATCH_LSB}
    return _by_subject(counts, meta, 104.2, files)


def _imu_all() -> _Source:
    """Phones and watches in m/s² and rad/s, float32: the same subjects."""
    signals, files = _har("__x")
    return _by_subject(signals, _IMU_META, 103.0, files)


def _har(ending: str) -> tuple[dict[str, Array], list[Path]]:
    files = _need("imu", *(f"har/s{i:02d}.npz" for i in range(1, 5)))
    signals = {}
    for path in files:
        with np.load(path, allow_pickle=False) as archive:
            for key in sorted(archive.files):
                if key.endswith(ending):
                    signals[key.removesuffix("__x")] = archive[key]
    return signals, files


def _by_subject(
    signals: dict[str, Array], meta: dict[str, Any], rate_hz: float, files: list[Path]
) -> _Source:
    test = {name: x for name, x in signals.items() if name.startswith("s04")}
    train = {name: x for name, x in signals.items() if name not in test}
    return _Source(train, test, rate_hz, meta, tuple(files), val="record")


def _power() -> _Source:
    """Household power in kW, a sample a minute: the LFZip paper's own two halves."""
    files = _need("power", *(f"lfzip/pow/active_power_{part}.npy" for part in ("train", "val")))
    train, test = (np.asarray(read_signal(path).data).reshape(-1, 1) for path in files)
    meta = {"names": ["active_power"], "unit": "kW"}
    return _Source({"train": train}, {"val": test}, 1 / 60, meta, tuple(files))


def _mnist() -> _Source:
    """The digits' own split: 60,000 to train on (6,000 of these to validate), 10,000 to test."""
    files = _need(
        "mnist", *(f"mnist/{part}-{kind}-ubyte.gz" for part in ("train", "t10k")
                   for kind in ("images-idx3", "labels-idx1"))
    )  # fmt: skip
    train, train_labels, test, test_labels = (read_signal(path).data for path in files)
    labels = {"train": train_labels, "test": test_labels}
    meta = {"unit": "grey level"}
    return _Source({"train": train}, {"test": test}, None, meta, tuple(files), labels)


def _digits() -> _Source:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, 0..16: the last fifth to test on."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DependencyError("scikit-learn", "train") from error
    bunch = load_digits()
    images, targets = bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)
    cut = len(images) - len(images) // 5
    labels = {"train": targets[:cut], "test": targets[cut:]}
    meta = {"unit": "grey level 0..16"}
    return _Source({"train": images[:cut]}, {"test": images[cut:]}, None, meta, (), labels)


def _sensor() -> _Source:
    """A generated stream of a machine's vibration: the last tenth to test on. Needs no files."""
    x = sensor_stream().reshape(-1, 1)
    cut = len(x) - math.ceil(len(x) * _TEST_SHARE)
    meta = {"names": ["vibration"], "unit": "counts", "generated": "sensor_stream seed 0"}
    return _Source({"sensor": x[:cut]}, {"sensor": x[cut:]}, SENSOR_RATE_HZ, meta)


DATASETS: dict[str, Callable[[], _Source]] = {
    "digits": _digits,
    "ecg": _ecg,
    "ecg-own": _ecg_own,
    "imu": _imu,
    "imu-all": _imu_all,
    "imu-counts": _imu_counts,
    "mnist": _mnist,
    "power": _power,
    "sensor": _sensor,
}
"""The named data sets; the first line of each function says what its split is."""


# --- a user's own files ---------------------------------------------------------------------------


def _from_path(path: Path, test: str | Path | None, options: dict[str, Any]) -> _Source:
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
        cut = len(x) - math.ceil(len(x) * _TEST_SHARE) if len(x) > 2 else len(x)
        train[name] = x[:cut]
        if cut < len(x):
            held_out[name] = x[cut:]
    return replace(whole, train=train, test=held_out)


def _read_all(path: Path, options: dict[str, Any]) -> _Source:
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
    return _Source(segments, {}, rates.pop(), meta, tuple(sources), notes=tuple(notes))


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
