"""The named data sets: where their files are, and what their splits mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ConfigError, DependencyError
from edgeae.signal.io import read_signal
from edgeae.train.download import FETCHABLE, data_folder
from edgeae.train.sensor import SENSOR_RATE_HZ, sensor_stream

__all__ = ["DATASETS", "TEST_SHARE", "Source"]

Array = NDArray[Any]

TEST_SHARE = 0.1
"""Of a recording without a split of its own."""


@dataclass(frozen=True)
class Source:
    """All of a data set before it is split: the training part and the test part."""

    train: dict[str, Array]
    test: dict[str, Array]
    rate_hz: float | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    labels: dict[str, Array] = field(default_factory=dict)
    val: str = "time"
    """What of the training part is for validation: "time", the end of each recording; "spread",
    pieces from all over each; "record", the last of each subject and device; "piece", the last of
    each file.
    """
    notes: tuple[str, ...] = ()
    sizes_vary: bool = False  # images of several sizes, one segment each


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


def _ecg() -> Source:
    """Seven patients to train on, two others to test on."""
    train, files = _records(_ECG_TRAIN)
    test, more = _records(_ECG_TEST)
    return Source(train, test, 360.0, _ECG_META, (*files, *more))


def _ecg_own() -> Source:
    """One patient: the first 430,000 samples (20 minutes) to train on, the rest to test on."""
    record, files = _records(("100",))
    x = record["100"]
    return Source({"100": x[:430_000]}, {"100": x[430_000:]}, 360.0, _ECG_META, tuple(files))


_IMU_META = {
    "names": ["acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"],
    "unit": "m/s2 rad/s",
}
_WATCH_LSB = [9.81 / 4096] * 3 + [math.radians(0.07)] * 3


def _imu() -> Source:
    """Watches, m/s² and rad/s in float32: three subjects to train on, the fourth to test on.

    Why the watches alone: their samples lie exactly on two grids, one for each sensor (9.81/4096
    m/s² and 0.07 °/s), at an even 104 Hz, as an IMU on an embedded device delivers them. The
    phones' samples went through a moving bias correction and an uneven clock (0 to 154 ms between
    rows, 102 Hz on average); they are in ``imu-all``.
    """
    signals, files = _har("_sw__x")
    return _by_subject(signals, _IMU_META, 104.2, files)


def _imu_counts() -> Source:
    """The same watches as their sensors' own counts, int16."""
    signals, files = _har("_sw__x")
    counts = {
        name: np.rint(x / np.array(_WATCH_LSB)).astype(np.int16) for name, x in signals.items()
    }
    meta = {**_IMU_META, "unit": "counts", "channel_scale": _WATCH_LSB}
    return _by_subject(counts, meta, 104.2, files)


def _imu_all() -> Source:
    """Phones and watches in m/s² and rad/s, float32: the same subjects."""
    signals, files = _har("__x")
    return _by_subject(signals, _IMU_META, 103.0, files)


_PHONE_LSB = [0.00029910283046774566] * 3 + [7.635590736754239e-05] * 3
"""The steps in which the phones' samples are stored, the finest that all of them lie on."""


def _motion() -> Source:
    """The same watches and phones, each sensor's three axes by themselves, as int16 counts.

    Phones are stored 16 times as finely as they move beside a watch; here in counts of 16.
    """
    signals, files = _har("__x")
    found = {}
    for name, x in signals.items():
        lsb = np.array(_WATCH_LSB) if name.endswith("_sw") else 16 * np.array(_PHONE_LSB)
        counts = np.rint(x / lsb).astype(np.int16)
        found[f"{name}_acc"], found[f"{name}_gyro"] = counts[:, :3], counts[:, 3:]
    return _by_subject(found, {"names": ["x", "y", "z"], "unit": "counts"}, 103.0, files)


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
) -> Source:
    test = {name: x for name, x in signals.items() if name.startswith("s04")}
    train = {name: x for name, x in signals.items() if name not in test}
    return Source(train, test, rate_hz, meta, tuple(files), val="record")


def _power() -> Source:
    """Household power in kW, a sample a minute: the LFZip paper's own two halves."""
    files = _need("power", *(f"lfzip/pow/active_power_{part}.npy" for part in ("train", "val")))
    train, test = (np.asarray(read_signal(path).data).reshape(-1, 1) for path in files)
    meta = {"names": ["active_power"], "unit": "kW"}
    return Source({"train": train}, {"val": test}, 1 / 60, meta, tuple(files), val="spread")


def _gas() -> Source:
    """A gas sensor's resistance, a sample a second: one sensor to train on, another to test on."""
    files = _need("gas", *(f"lfzip/gas/HT_Sensor_dataset_{n}.npy" for n in (0, 1)))
    train, test = (np.asarray(read_signal(path).data).reshape(-1, 1) for path in files)
    meta = {"names": ["resistance"], "unit": "kOhm"}
    # the last day of sensor 0 is all but constant: it would tell little
    return Source({"sensor-0": train}, {"sensor-1": test}, 1.0, meta, tuple(files), val="spread")


def _ppg() -> Source:
    """Blood volume pulse at the wrist, 64 Hz: the first four fifths to train on."""
    files = _need("ppg", "lfzip/ppg/S2_BVP.npy")
    x = np.asarray(read_signal(files[0]).data).reshape(-1, 1)
    cut = len(x) - math.ceil(len(x) * 0.2)
    meta = {"names": ["bvp"], "unit": ""}
    return Source({"S2": x[:cut]}, {"S2": x[cut:]}, 64.0, meta, tuple(files), val="spread")


def _fan() -> Source:
    """The ceiling fan's raw counts, three axes: conditions as in ``fan-vibration``.

    The seconds stand one after another, as a logger would keep them.
    """
    parts = []
    for names in _FAN_TRAIN, _FAN_TEST:
        files = _need("fan", *(f"fan_accel/fan_0_{name}.npz" for name in names))
        parts.append((files, {path.stem: _counts(path)[0] for path in files}))
    (files, train), (more, test) = parts
    meta = {"names": ["x", "y", "z"], "unit": "g/4096", "channel_scale": [1 / 4096] * 3}
    return Source(train, test, 200.0, meta, (*files, *more))


def _ett() -> Source:
    """A transformer's six loads and oil temperature, hourly: 16 months to train on."""
    files = _need("ett", "ett/ETTh1.csv")
    read = read_signal(files[0])
    meta = {"names": [c["name"] for c in read.meta["columns"] if "time" not in c], "unit": ""}
    cut = 11_520
    return Source(
        {"ETTh1": read.data[:cut]}, {"ETTh1": read.data[cut:]}, 1 / 3600, meta, tuple(files)
    )


def _mnist() -> Source:
    """The digits' own split: 60,000 to train on (6,000 of these to validate), 10,000 to test."""
    files = _need(
        "mnist", *(f"mnist/{part}-{kind}-ubyte.gz" for part in ("train", "t10k")
                   for kind in ("images-idx3", "labels-idx1"))
    )  # fmt: skip
    train, train_labels, test, test_labels = (read_signal(path).data for path in files)
    labels = {"train": train_labels, "test": test_labels}
    meta = {"unit": "grey level"}
    return Source({"train": train}, {"test": test}, None, meta, tuple(files), labels)


def _fan_vibration() -> Source:
    """A ceiling fan in three axes, 1 s at a time, without gravity: 2 conditions to test on.

    Trained on at low speed, still and moving; tested on with a coin on one blade, and in another
    mounting. Every piece is taken around its mean: gravity depends on the mounting alone.
    """
    parts = [
        _pieces(_need("fan-vibration", *(f"fan_accel/fan_0_{name}.npz" for name in names)))
        for names in (_FAN_TRAIN, _FAN_TEST)
    ]
    (train, files), (test, more) = parts
    meta = {"names": ["x", "y", "z"], "unit": "g/4096", "channel_scale": [1 / 4096] * 3}
    return Source(train, test, 200.0, meta, (*files, *more), val="piece")


_FAN_TRAIN = ("low_0_weight", "low_0_weight-moving")
_FAN_TEST = ("low_1_weight", "low-deploy")


def _counts(path: Path) -> tuple[Array, Array]:
    with np.load(path, allow_pickle=False) as archive:
        return archive["counts"], archive["lengths"]


def _pieces(files: Sequence[Path]) -> tuple[dict[str, Array], list[Path]]:
    found: dict[str, Array] = {}
    for path in files:
        counts, lengths = _counts(path)
        for i, x in enumerate(np.split(counts, np.cumsum(lengths)[:-1])):
            found[f"{path.stem}/{i:04d}"] = np.rint(x - x.mean(0)).astype(np.int16)
    return found, list(files)


def _grey_images() -> Source:
    """Grey photographs: 400 of 180 x 180 to train on, the usual 12 of denoising papers to test."""
    folders = _need("grey-images", "img_train400", "img_set12")
    sets: list[dict[str, Array]] = []
    files: list[Path] = []
    for folder in folders:
        by_shape: dict[str, list[Array]] = {}
        for path in sorted(folder.glob("*.png")):
            image = np.asarray(read_signal(path).data)
            by_shape.setdefault(f"{folder.name}-{image.shape[1]}", []).append(image)
            files.append(path)
        sets.append({name: np.concatenate(images) for name, images in by_shape.items()})
    meta = {"unit": "grey level"}
    return Source(sets[0], sets[1], None, meta, tuple(files), sizes_vary=True)


def _digits() -> Source:
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
    return Source({"train": images[:cut]}, {"test": images[cut:]}, None, meta, (), labels)


@cache  # every split asks for it, and making it takes longer than cutting it
def _sensor() -> Source:
    """A generated stream of a machine's vibration: the last tenth to test on. Needs no files."""
    x = sensor_stream().reshape(-1, 1)
    x.flags.writeable = False
    cut = len(x) - math.ceil(len(x) * TEST_SHARE)
    meta = {"names": ["vibration"], "unit": "counts", "generated": "sensor_stream seed 0"}
    return Source({"sensor": x[:cut]}, {"sensor": x[cut:]}, SENSOR_RATE_HZ, meta)


DATASETS: dict[str, Callable[[], Source]] = {
    "digits": _digits,
    "ecg": _ecg,
    "ecg-own": _ecg_own,
    "ett": _ett,
    "fan": _fan,
    "fan-vibration": _fan_vibration,
    "gas": _gas,
    "grey-images": _grey_images,
    "imu": _imu,
    "imu-all": _imu_all,
    "imu-counts": _imu_counts,
    "motion": _motion,
    "mnist": _mnist,
    "power": _power,
    "ppg": _ppg,
    "sensor": _sensor,
}
"""The named data sets; the first line of each function says what its split is."""
