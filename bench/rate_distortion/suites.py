"""What is measured: for each suite, signals to train on, signals to test on, and bounds.

Splits are by record, subject or file, or in time: those of edgeae's named data sets, or where there
is none, as the functions here say. Nothing is ever chosen on a test part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ConfigError
from edgeae.signal.grid import Grid, detect_grid
from edgeae.signal.io import read_signal
from edgeae.signal.ulps import ulps_beside
from edgeae.train.datasets import load_dataset
from edgeae.train.download import data_folder

__all__ = ["FRACTIONS", "SUITES", "Bound", "Group", "Suite"]

Array = NDArray[Any]

COUNTS = (1, 2, 5, 10, 20)
FRACTIONS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
MAX_SAMPLES = 1_400_000  # of a test part; what is beyond is left out, from each signal alike


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A promise on every sample.

    Attributes:
        name: for tables: ``lossless``, a number of counts, or a fraction of the training range.
        error: E in the signal's units, 0 for lossless.
    """

    name: str
    error: float


@dataclass(frozen=True, kw_only=True)
class Group:
    """Signals of one kind, which share channels, grids and bounds.

    Attributes:
        name: within the suite.
        train, test: signals [T, C] in user units.
        grids: of the C channels.
        bounds: lossless last.
    """

    name: str
    train: tuple[Array, ...]
    test: tuple[Array, ...]
    grids: tuple[Grid, ...]
    bounds: tuple[Bound, ...]

    @property
    def channels(self) -> int:
        return len(self.grids)

    @property
    def n_samples(self) -> int:
        """Of the test part."""
        return sum(x.size for x in self.test)

    def steps(self, bound: Bound) -> list[int]:
        """The index bound of each channel."""
        return [grid.index_bound(bound.error) if bound.error else 0 for grid in self.grids]

    def indices(self, x: Array, bound: Bound) -> Array:
        """What coders of integers are given for a signal: int64 [T, C], or [T, 2 C].

        Grid indices; and where these alone are not the samples, if all is to come back, how far
        beside the grid each sample lies, in units of the last place. (-0.0 may come back as 0.0.)
        """
        columns, beside = [], []
        for c, grid in enumerate(self.grids):
            n, _ = grid.to_index(x[:, c])
            columns.append(n.astype(np.int64))
            if x.dtype.kind == "f" and not bound.error:
                on_grid = grid.to_values(n, x.dtype)
                beside.append(np.where(on_grid == x[:, c], 0, ulps_beside(x[:, c], on_grid)))
        if any(ulps.any() for ulps in beside):
            columns += beside
        return np.stack(columns, axis=1)

    def units(self, bound: Bound, n_columns: int) -> list[tuple[int, float]]:
        """The index bound and the step of each of those columns."""
        units = [grid.step for grid in self.grids]
        found = list(zip(self.steps(bound), units, strict=True))
        return found + [(0, unit) for unit in units[: n_columns - len(found)]]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One data set, or one part of it.

    Attributes:
        name: also of its rows in the results.
        title: what it is, in a few words.
        source: the named data set of its models.
        split: what was trained and tested on, and what was left out.
        groups: of signals.
    """

    name: str
    title: str
    source: str
    split: str
    groups: tuple[Group, ...]


def _group(
    train: Sequence[Array], test: Sequence[Array], *, name: str = "", counts: bool = False
) -> Group:
    """A group on the grids that all of its samples share, with this house's bounds."""
    train = [np.asarray(x).reshape(len(x), -1) for x in train]
    test = [np.asarray(x).reshape(len(x), -1) for x in test]
    share = min(1.0, MAX_SAMPLES / sum(x.size for x in test))
    test = [np.ascontiguousarray(x[: math.ceil(share * len(x))]) for x in test]
    both = np.concatenate([*train, *test])
    grids = []
    for c in range(both.shape[1]):
        grid = detect_grid(both[:, c])
        if grid is None:
            raise ConfigError(f"{name}: channel {c} lies on no grid")
        grids.append(grid)
    if counts:
        bounds = [Bound(name=str(n), error=float(n)) for n in COUNTS]
    else:
        range_ = float(np.min(np.ptp(np.concatenate(train).astype(np.float64), axis=0)))
        bounds = [Bound(name=f"{f:.0e}".replace("e-0", "e-"), error=f * range_) for f in FRACTIONS]
    return Group(
        name=name,
        train=tuple(train),
        test=tuple(test),
        grids=tuple(grids),
        bounds=(*bounds, Bound(name="lossless", error=0.0)),
    )


def _named(source: str) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Training part, validation included, and test part of a named data set."""
    whole = [load_dataset(source, part) for part in ("train", "val", "test")]
    if set(whole[0].names) >= set(whole[1].names):  # cut in time: put together again
        later = dict(zip(whole[1].names, whole[1].segments, strict=True))
        train = tuple(
            np.concatenate([x, later[n]]) if n in later else x
            for n, x in zip(whole[0].names, whole[0].segments, strict=True)
        )
        return train, whole[2].segments
    return whole[0].segments + whole[1].segments, whole[2].segments


def _files(*names: str) -> list[Path]:
    paths = [data_folder() / name for name in names]
    if missing := [path for path in paths if not path.exists()]:
        raise ConfigError(f"{missing[0]} is not there: set EDGEAE_DATA to the folder that has it")
    return paths


def _together(signals: Sequence[Array]) -> tuple[Array]:
    """Short recordings one after another, as a logger would keep them."""
    return (np.concatenate(signals),)


def ecg_own() -> Suite:
    return Suite(
        name="ecg-own",
        title="ECG of one device's own patient",
        source="ecg-own",
        split="record 100: its first 430,000 samples; tested on the rest",
        groups=(_group(*_named("ecg-own"), counts=True),),
    )


def ecg() -> Suite:
    train, test = _named("ecg")
    return Suite(
        name="ecg",
        title="ECG of unseen patients",
        source="ecg",
        split="records 100, 102, 104, 105, 106, 108, 114; tested on 121 and 123",
        groups=(_group(train, test, counts=True),),
    )


def power() -> Suite:
    return Suite(
        name="power",
        title="power of a household",
        source="power",
        split="the first half; tested on the second",
        groups=(_group(*_named("power")),),
    )


def gas() -> Suite:
    return Suite(
        name="gas",
        title="gas sensor",
        source="gas",
        split="sensor 0; tested on sensor 1",
        groups=(_group(*_named("gas")),),
    )


def ppg() -> Suite:
    return Suite(
        name="ppg",
        title="pulse at the wrist",
        source="ppg",
        split="the first 80 %; tested on the rest",
        groups=(_group(*_named("ppg")),),
    )


def imu() -> Suite:
    train, test = _named("imu")
    return Suite(
        name="imu",
        title="watches, six channels as one stream",
        source="imu",
        split="subjects 1 to 3; tested on 4, its recordings one after another; "
        "one bound for all channels, of the narrowest one's range",
        groups=(_group(_together(train), _together(test)),),
    )


def har() -> Suite:
    groups = []
    watches, phones = _motion("imu"), _motion("imu-all", but="_sw")
    for device, (train, test) in (("watch", watches), ("phone", phones)):
        for sensor, columns in (("acceleration", slice(0, 3)), ("rotation", slice(3, 6))):
            parts = [[x[:, columns] for x in part] for part in (train, test)]
            try:
                groups.append(_group(*map(_together, parts), name=f"{device}, {sensor}"))
            except ConfigError:  # a sensor on no grid
                continue
    return Suite(
        name="har",
        title="phone and watch motion, by sensor",
        source="motion",
        split="subjects 1 to 3; tested on 4, its recordings one after another",
        groups=tuple(groups),
    )


def _motion(source: str, but: str = "") -> tuple[list[Array], list[Array]]:
    parts: list[list[Array]] = [[], []]
    for place, split in ((0, "train"), (0, "val"), (1, "test")):
        data = load_dataset(source, split)
        for name, x in zip(data.names, data.segments, strict=True):
            if not but or but not in name:
                parts[place].append(x)
    return parts[0], parts[1]


def fan() -> Suite:
    return Suite(
        name="fan",
        title="vibration of a fan, three axes",
        source="fan",
        split="at low speed, still and moving; tested with a coin on a blade, and in another "
        "mounting; seconds one after another",
        groups=(_group(*_named("fan")),),
    )


def ett() -> Suite:
    return Suite(
        name="ett",
        title="loads of a transformer, seven channels",
        source="ett",
        split="the first 16 months; tested on the rest",
        groups=(_group(*_named("ett")),),
    )


def skab() -> Suite:
    train = read_signal(_files("skab/anomaly-free/anomaly-free.csv")[0])
    names = [c["name"] for c in train.meta["columns"] if "time" not in c]
    tests = [
        read_signal(path, columns=names).data
        for path in sorted(_files("skab/valve1")[0].glob("*.csv"))
    ]
    groups = []
    for c, name in enumerate(names):
        test = _together([x[:, c : c + 1] for x in tests])
        groups.append(_group([train.data[:, c : c + 1]], test, name=name))
    return Suite(
        name="skab",
        title="water circulation, eight sensors",
        source="skab",
        split="the recording without faults; tested on the 16 with a closing valve, one after "
        "another; each sensor by itself",
        groups=tuple(groups),
    )


def nab() -> Suite:
    groups = []
    for path in sorted(_files("nab/data/realKnownCause")[0].glob("*.csv")):
        x = read_signal(path).data
        half = len(x) // 2
        try:
            groups.append(_group([x[:half]], [x[half:]], name=path.stem))
        except ConfigError:
            continue  # computed floats, on no grid: nothing to compare integer coders on
    return Suite(
        name="nab",
        title="servers, taxis and machines",
        source="nab",
        split="series of realKnownCause that lie on a grid: the first half; tested on the second",
        groups=tuple(groups),
    )


def speech() -> Suite:
    return Suite(
        name="speech",
        title="speech, a foreign signal",
        source="ecg",  # a model that was never meant for it
        split="the 20 first prompts; tested on 12 later ones, one after another",
        groups=(_group(_together(_prompts(0, 20)), _together(_prompts(200, 212))),),
    )


def _prompts(begin: int, end: int) -> list[Array]:
    import soundfile

    paths = sorted(_files("speech_clean_en")[0].glob("*.flac"))[begin:end]
    return [soundfile.read(path, dtype="int16")[0] for path in paths]


SUITES: dict[str, Callable[[], Suite]] = {
    "ecg-own": ecg_own,
    "ecg": ecg,
    "power": power,
    "gas": gas,
    "ppg": ppg,
    "har": har,
    "imu": imu,
    "fan": fan,
    "ett": ett,
    "skab": skab,
    "nab": nab,
    "speech": speech,
}
