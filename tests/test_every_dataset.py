"""The promises hold on real data of every kind at hand, with every model that fits, and without.

Run on demand: ``pytest -m long tests/test_every_dataset.py``. Data sets are taken from
``EDGEAE_DATA`` where they are there; the synthetic signals need nothing.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeae
from edgeae.bitstream.classical import encode_classical
from edgeae.bitstream.frame import Frame
from edgeae.bitstream.header import StreamHeader
from edgeae.bitstream.reader import FrameReader
from edgeae.signal.io import read_signal
from edgeae.signal.lattice import Lattice

pytestmark = pytest.mark.long

Array = np.ndarray[Any, Any]

DATA = Path(os.environ.get("EDGEAE_DATA", "/nowhere"))
MODELS = Path(__file__).parents[1] / "export" / "models"
N_SAMPLES = 100_000
RADIO = {"frame_length": 512, "profile": "radio"}
SHARES = (None, 1e-3, 1e-2)
"""Of the signal's range: the bound; None for lossless."""


def first(folder: str, pattern: str) -> Path:
    return min((DATA / folder).glob(pattern))


def joined_of(folder: str, pattern: str, key: str) -> Array:
    """The arrays of a .npz whose names end so, one after the other."""
    with np.load(first(folder, pattern)) as archive:
        return np.concatenate([archive[name] for name in archive.files if name.endswith(key)])


def wavs(folder: str) -> Array:
    paths = sorted((DATA / folder).glob("*.wav"))[:40]
    return np.concatenate([read_signal(path).data.reshape(-1) for path in paths])


def pictures(folder: str, n: int) -> Array:
    paths = sorted((DATA / folder).glob("*.png"))[:n]
    return np.concatenate([np.asarray(read_signal(path).data) for path in paths])


def signal(path: Path, **options: Any) -> Array:
    return np.asarray(read_signal(path, **options).data)


REAL: dict[str, Callable[[], Array]] = {
    "ecg_mitdb": lambda: signal(first("ecg_mitdb", "100.npz"), key="adc"),
    "ecg_mitdb float": lambda: signal(first("ecg_mitdb", "121.npz"), key="adc") / np.float32(200),
    "fan_accel": lambda: signal(first("fan_accel", "fan*.npz")),
    "har watch": lambda: joined_of("har", "s04.npz", "_sw__x"),
    "har phone": lambda: joined_of("har", "s01.npz", "_sp__x"),
    "lfzip gas": lambda: signal(first("lfzip", "gas/*.npy")),
    "lfzip power": lambda: signal(DATA / "lfzip/pow/active_power_val.npy"),
    "lfzip ppg": lambda: signal(first("lfzip", "ppg/*.npy")),
    "ett": lambda: signal(DATA / "ett/ETTh1.csv"),
    "skab": lambda: signal(first("skab", "valve1/*.csv")),
    "nab": lambda: signal(first("nab", "**/*machine_temperature*.csv")),
    "fsdd": lambda: wavs("fsdd"),
    "speech_clean_en": lambda: wavs("speech_clean_en"),
    "noise_esc10": lambda: wavs("noise_esc10"),
    "mnist": lambda: signal(DATA / "mnist/t10k-images-idx3-ubyte.gz"),
    "img_set12": lambda: pictures("img_set12", 1),
    "img_train400": lambda: pictures("img_train400", 3),
}


def laced() -> Array:
    x = np.cumsum(np.random.default_rng(3).integers(-9, 10, 40_000)) / np.float32(1000)
    x = x.astype(np.float32)
    x[::97], x[1000:3000], x[5000], x[6000], x[7000] = np.nan, np.nan, np.inf, -np.inf, -0.0
    return x


MADE: dict[str, Callable[[], Array]] = {
    "white noise int16": lambda: np.random.default_rng(0).integers(-(2**15), 2**15, 60_000, "i2"),
    "white noise float32": lambda: np.random.default_rng(1).normal(size=40_000).astype("f4"),
    "white noise float64": lambda: np.random.default_rng(2).normal(size=(9_000, 3)),
    "steps": lambda: np.repeat(np.random.default_rng(4).integers(-3000, 3000, 300), 200),
    "laced with nan": laced,
    "constant": lambda: np.full(60_000, 1234, np.int32),
    "constant float": lambda: np.full((20_000, 2), np.pi),
}


@cache
def models() -> dict[str, edgeae.Bundle]:
    if not MODELS.is_dir():
        return {}
    found = {path.name: edgeae.load(path) for path in sorted(MODELS.iterdir())}
    return {name: bundle for name, bundle in found.items() if bundle.manifest.codec is not None}


def fitting(x: Array) -> Iterator[tuple[str, edgeae.Bundle | None]]:
    yield "no model", None
    channels = x.shape[-1] if x.ndim in (2, 4) else 1
    size = (x.shape[1], x.shape[2]) if x.ndim > 2 else None
    for name, bundle in models().items():
        spec = bundle.signal
        if (channels, size) == (
            spec.channels,
            (spec.height, spec.width) if spec.is_image else None,
        ):
            yield name, bundle


def shortened(x: Array) -> Array:
    items = max(1, N_SAMPLES // int(np.prod(x.shape[1:])))
    return np.array(x[:items])


def frames_of(data: bytes) -> tuple[StreamHeader, list[Frame]]:
    reader = FrameReader(io.BytesIO(data))
    return reader.header, list(reader)


def body_bytes(frame: Frame) -> int:
    return len(frame.payload) + len(frame.exceptions)


def assert_kept(x: Array, y: Array, max_error: float | None) -> None:
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
    if max_error is None:
        assert x.tobytes() == y.tobytes()
        return
    odd = ~np.isfinite(x) if x.dtype.kind == "f" else np.zeros(x.shape, bool)
    assert x[odd].tobytes() == y[odd].tobytes()
    error = np.abs(x[~odd].astype(np.longdouble) - y[~odd].astype(np.longdouble))
    assert (error <= max_error).all()


def assert_not_grown(x: Array, model_data: bytes, promise: dict[str, Any]) -> None:
    """No frame is larger than its samples, or than what the classical mode makes of them."""
    header, frames = frames_of(model_data)
    items = header.frame_length
    alone = edgeae.encode(None, x, frame_length=items, grid=header.grids, **promise)
    plain_header, plain = frames_of(alone)
    assert plain_header.deltas == header.deltas
    rows = x.reshape(-1, header.channels)
    index, exact = Lattice.of(header.grids).to_index(rows)
    bodies, others = bodies_by_start(frames, items), bodies_by_start(plain, items)
    assert bodies.keys() == others.keys()
    for number, (n_items, body) in bodies.items():
        n_rows = n_items * header.samples_per_item // header.channels
        raw = n_rows * header.channels * header.itemsize
        assert n_items == others[number][0]
        assert body <= min(raw, others[number][1]) + 1
        at = number * items * header.samples_per_item // header.channels
        if exact[at : at + n_rows].all():
            block = index[at : at + n_rows]
            coded, _ = encode_classical(block, header.deltas, image_size=header.image_size)
            assert body <= len(coded) + 1


def bodies_by_start(frames: list[Frame], items: int) -> dict[int, tuple[int, int]]:
    """Items and bytes of each whole frame, for those that are cut into pieces of all of them."""
    found: dict[int, tuple[int, int]] = {}
    for frame in frames:
        number = frame.start // items
        n_items, body = found.get(number, (0, 0))
        found[number] = n_items + frame.n_items, body + body_bytes(frame)
    return found


@pytest.mark.parametrize("share", SHARES, ids=["lossless", "1e-3", "1e-2"])
@pytest.mark.parametrize("name", [*REAL, *MADE])
def test_promises_on(name: str, share: float | None) -> None:
    if name in REAL:
        try:
            whole = REAL[name]()
        except (ValueError, edgeae.SignalError, FileNotFoundError) as error:
            pytest.skip(f"no {name}: {error}")
    else:
        whole = MADE[name]()
    x = shortened(whole)
    finite = x[np.isfinite(x)] if x.dtype.kind == "f" else x
    promise: dict[str, Any] = {"lossless": True}
    if share is not None:
        width = float(np.max(finite)) - float(np.min(finite))
        promise = {"max_error": share * (width or 1.0)}
    for model_name, bundle in fitting(x):
        length = 8192 if x.ndim <= 2 else None
        data = edgeae.encode(bundle, x, frame_length=length, **promise)
        assert_kept(x, edgeae.decode(bundle, data), promise.get("max_error"))
        assert_not_grown(x, data, promise)
        if x.ndim <= 2:
            radio = edgeae.encode(bundle, x[:5000], **RADIO, **promise)
            assert_kept(x[:5000], edgeae.decode(bundle, radio), promise.get("max_error"))
        modes = sorted({frame.mode.name.lower() for frame in frames_of(data)[1]})
        bits = 8 * len(data) / x.size
        print(f"{name:22} {x.dtype!s:8} {model_name:12} {bits:8.3f} bit/sample  {', '.join(modes)}")
