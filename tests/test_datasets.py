from __future__ import annotations

import gzip
import hashlib
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeae.errors import ConfigError, DependencyError, EdgeAEError, SignalError
from edgeae.signal.io import write_signal
from edgeae.train import download
from edgeae.train.datasets import DATASETS, load_dataset
from edgeae.train.download import fetch, read_annotations, read_record, unpack_212
from edgeae.train.named import Source
from edgeae.train.sensor import sensor_stream

DATA = Path(os.environ.get("EDGEAE_DATA", "/nowhere"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="EDGEAE_DATA is not set")
RNG = np.random.default_rng(3)


def pack_212(samples) -> bytes:
    padded = [*samples, *([0] * (len(samples) % 2))]
    out = bytearray()
    for a, b in zip(padded[::2], padded[1::2], strict=True):
        out += bytes([a & 255, (a >> 8 & 15) | (b >> 8 & 15) << 4, b & 255])
    return bytes(out)


@given(st.lists(st.integers(-2048, 2047)))
def test_format_212(samples):
    assert unpack_212(pack_212(samples), len(samples)).tolist() == samples


def annotation(code: int, step: int) -> bytes:
    return struct.pack("<H", code << 10 | step)


def test_annotations():
    content = annotation(28, 18) + annotation(63, 3) + b"(N\0\0"  # rhythm with a text of odd size
    content += annotation(1, 52) + annotation(61, 0) + annotation(5, 300)
    content += annotation(59, 0) + struct.pack("<HH", 1, 2) + annotation(8, 5)
    content += annotation(14, 9) + annotation(1, 1) + b"\0\0" + annotation(1, 5)
    beats, pvc = read_annotations(content)
    assert beats.tolist() == [70, 370, 370 + 65538 + 5, 370 + 65538 + 15]
    assert pvc.tolist() == [370]
    for end in range(len(content)):
        read_annotations(content[:end])


def write_record(folder: Path, name: str, n: int = 700) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    x = RNG.integers(-2048, 2048, (n, 2))
    (folder / f"{name}.dat").write_bytes(pack_212(x.reshape(-1).tolist()))
    (folder / f"{name}.hea").write_text(
        f"{name} 2 360 {n}\n{name}.dat 212 200(0)/mV 11 1024 995 0 0 MLII\n"
        f"{name}.dat 212 200 11 1024 1011 0 0 V5\n# 69 M\n"
    )
    (folder / f"{name}.atr").write_bytes(annotation(1, 77) + annotation(5, 300) + b"\0\0")
    return x


def test_wfdb_record(tmp_path):
    x = write_record(tmp_path, "100")
    paths = [tmp_path / f"100.{suffix}" for suffix in ("hea", "dat", "atr")]
    record = read_record(*paths)
    assert record["adc"].tolist() == x[:, 0].tolist()
    assert (record["fs"], record["gain"], record["zero"]) == (360, 200, 1024)
    assert record["r_peaks"].tolist() == [77, 377]
    assert record["pvc"].tolist() == [377]
    paths[1].write_bytes(paths[1].read_bytes()[:-3])
    with pytest.raises(SignalError, match="found fewer"):
        read_record(*paths)
    paths[0].write_text("100 2 360 5\n100.dat 16 200 11 1024\n")
    with pytest.raises(SignalError, match="format 16"):
        read_record(*paths)
    paths[0].write_text("no\n")
    with pytest.raises(SignalError, match="not a WFDB header"):
        read_record(*paths)


@needs_data
def test_wfdb_record_holds_the_real_samples(tmp_path):
    with np.load(DATA / "ecg_mitdb" / "100.npz") as archive:
        x = archive["adc"][:5000]
    assert np.array_equal(unpack_212(pack_212(x.tolist()), 5000), x)


class FakeServer:
    """Stands for pooch: hands out local files and checks their hashes as pooch does."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []

    def retrieve(self, url, known_hash, fname, path, progressbar):
        self.asked.append(url)
        content = self.files[fname]
        if known_hash is not None and known_hash != "sha256:" + hashlib.sha256(content).hexdigest():
            raise ValueError("SHA256 hash of downloaded file does not match the known hash")
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / fname).write_bytes(content)
        return str(Path(path) / fname)


def test_fetch_ecg(tmp_path, monkeypatch):
    files = {}
    for name in download._MITDB_RECORDS:
        write_record(tmp_path / "server", name)
    for path in (tmp_path / "server").iterdir():
        files[path.name] = path.read_bytes()
    sums = "".join(f"{hashlib.sha256(c).hexdigest()} {n}\n" for n, c in files.items())
    files["SHA256SUMS.txt"] = sums.encode()
    server = FakeServer(files)
    monkeypatch.setitem(sys.modules, "pooch", server)
    monkeypatch.setenv("EDGEAE_DATA", str(tmp_path / "data"))
    said: list[str] = []
    assert fetch("ecg", say=said.append) == tmp_path / "data" / "ecg_mitdb"
    assert len(said) == 9
    ecg = load_dataset("ecg", "test")
    assert ecg.names == ("121", "123")
    assert ecg.n_items == 1400
    fetch("ecg")
    assert len(server.asked) == 1 + 27 + 1  # the records that are there are not fetched again
    server.files["100.dat"] = b"changed"
    with pytest.raises(EdgeAEError, match="hash"):
        fetch("ecg", tmp_path / "again")


def test_fetch_mnist_checks_hashes(tmp_path, monkeypatch):
    files = {f"{part}-ubyte.gz": b"x" for part in download._MNIST_SHA256}
    monkeypatch.setitem(sys.modules, "pooch", FakeServer(files))
    with pytest.raises(EdgeAEError, match=r"could not fetch https://.*hash"):
        fetch("mnist", tmp_path)
    with pytest.raises(ConfigError, match="choose one of ecg, mnist"):
        fetch("imu", tmp_path)
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DependencyError, match="pooch"):
        fetch("mnist", tmp_path)


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes())


def test_mnist_from_small_files(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEAE_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="edgeae data mnist"):
        load_dataset("mnist")
    with pytest.raises(ConfigError, match="EDGEAE_DATA"):
        load_dataset("power")
    folder = tmp_path / "mnist"
    folder.mkdir()
    images = RNG.integers(0, 256, (60, 5, 4)).astype(np.uint8)
    labels = np.arange(60, dtype=np.uint8)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    train, val, test = (load_dataset("mnist", split) for split in ("train", "val", "test"))
    assert [train.n_items, val.n_items, test.n_items] == [54, 6, 60]
    assert train.is_image
    assert np.array_equal(np.concatenate([train.segments[0], val.segments[0]]), images)
    assert [train.labels[0][-1], val.labels[0][0], test.labels[0][-1]] == [53, 54, 59]
    assert len(train.sha256) == 4
    unit = load_dataset("mnist", "test", normalize="l2").segments[0]
    assert unit.dtype == np.float32
    assert np.allclose((unit.reshape(60, -1) ** 2).sum(1), 1)


def test_imu_from_small_files(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEAE_DATA", str(tmp_path))
    (tmp_path / "har").mkdir()
    lsb = np.array([9.81 / 4096] * 3 + [np.radians(0.07)] * 3)
    counts = RNG.integers(-900, 900, (40, 6))
    for subject in ("s01", "s02", "s03", "s04"):
        arrays = {}
        for i, device in ((1, "sw"), (2, "sw"), (1, "sp"), (2, "sp")):
            arrays[f"{subject}_{i:02d}_{device}__x"] = (counts * lsb).astype(np.float32)
            arrays[f"{subject}_{i:02d}_{device}__t"] = np.arange(40)
        np.savez(tmp_path / "har" / f"{subject}.npz", **arrays)
    train, val, test = (load_dataset("imu", split) for split in ("train", "val", "test"))
    assert train.names == ("s01_01_sw", "s02_01_sw", "s03_01_sw")
    assert val.names == ("s01_02_sw", "s02_02_sw", "s03_02_sw")
    assert test.names == ("s04_01_sw", "s04_02_sw")
    assert load_dataset("imu-all", "val").names[:2] == ("s01_02_sp", "s01_02_sw")
    assert np.array_equal(load_dataset("imu-counts", "test").segments[0], counts)
    motion = load_dataset("motion", "val")
    assert motion.names[:4] == (
        "s01_02_sp_acc",
        "s01_02_sp_gyro",
        "s01_02_sw_acc",
        "s01_02_sw_gyro",
    )
    assert len(motion.names) == 12
    assert np.array_equal(motion.segments[2], counts[:, :3])
    assert np.array_equal(motion.segments[3], counts[:, 3:])
    assert motion.segments[0].dtype == np.int16


def test_splits_of_a_users_own_files(tmp_path):
    t = np.arange(1000)
    x = np.stack([t, -t], axis=1).astype(np.int16)
    write_signal(tmp_path / "a.csv", x * 3, rate_hz=50)
    parts = [load_dataset(tmp_path / "a.csv", split) for split in ("train", "val", "test")]
    assert [p.n_items for p in parts] == [810, 90, 100]
    assert np.array_equal(np.concatenate([p.segments[0] for p in parts]), x * 3)
    assert parts[0].rate_hz == 50
    assert parts[0].meta["names"] == ["ch0", "ch1"]
    assert list(parts[0].sha256) == ["a.csv"]
    grid = parts[0].grid()
    assert grid is not None
    assert grid.num == 3
    only = load_dataset(tmp_path / "a.csv", "train", columns=("ch1",))
    assert only.channels == 1
    write_signal(tmp_path / "b.npy", x[:10])
    held = load_dataset(tmp_path / "a.csv", "test", test=tmp_path / "a.csv", columns=["ch1"])
    assert held.n_items == 1000
    with pytest.raises(SignalError, match="several kinds"):
        load_dataset(tmp_path)
    (tmp_path / "a.csv").unlink()
    write_signal(tmp_path / "c.npy", x[:500])
    (tmp_path / "readme.md").write_text("hello")
    both = load_dataset(tmp_path, "train")
    assert both.names == ("b.npy", "c.npy")
    assert [len(s) for s in both.segments] == [8, 405]
    (tmp_path / "d.raw").write_bytes(x.tobytes())
    raw = load_dataset(tmp_path / "d.raw", "train", dtype="int16", channels=2, rate_hz=9)
    assert (raw.rate_hz, raw.segments[0].shape) == (9, (810, 2))


def test_a_recording_validates_all_over(monkeypatch):
    """The pieces of a recording that is cut all over lie in turn, and nothing is lost."""
    x = np.arange(8 * 33_000, dtype=np.int32)[:, None]
    source = Source({"whole": x, "short": x[:1000]}, {"later": x[:10]}, val="spread")
    monkeypatch.setitem(DATASETS, "spread", lambda: source)
    train, val = (load_dataset("spread", split) for split in ("train", "val"))
    assert train.names == val.names
    assert len(train.names) == 9  # of the short one its end alone
    joined = [part for pair in zip(train.segments, val.segments, strict=True) for part in pair]
    assert np.array_equal(np.concatenate(joined), np.concatenate([x, x[:1000]]))
    assert [len(part) for part in val.segments] == [3300] * 8 + [100]


def test_key_patterns_and_images(tmp_path):
    np.savez(tmp_path / "x.npz", a__x=np.arange(50), a__t=np.arange(50), b__x=np.arange(70))
    data = load_dataset(tmp_path / "x.npz", "train", key="*__x")
    assert data.names == ("x.npz:a__x", "x.npz:b__x")
    with pytest.raises(SignalError, match="matches"):
        load_dataset(tmp_path / "x.npz", key="*__z")
    pytest.importorskip("PIL")
    images = RNG.integers(0, 256, (20, 6, 5)).astype(np.uint8)
    write_signal(f"{tmp_path}/png/", images)
    data = load_dataset(tmp_path / "png", "test")
    assert data.is_image
    assert np.array_equal(data.segments[0], images[-2:])
    assert len(data.sha256) == 20


def test_refusals(tmp_path):
    with pytest.raises(ConfigError, match="unknown split"):
        load_dataset("sensor", "all")
    with pytest.raises(ConfigError, match="takes no options"):
        load_dataset("sensor", columns=["a"])
    with pytest.raises(ConfigError, match="neither a file"):
        load_dataset(tmp_path / "none")
    with pytest.raises(SignalError, match="no file of a known kind"):
        load_dataset(tmp_path)
    with pytest.raises(ConfigError, match="normalize"):
        load_dataset("sensor", normalize="max")
    write_signal(tmp_path / "x.npy", np.zeros(1, np.int16))
    with pytest.raises(SignalError, match="too few samples"):
        load_dataset(tmp_path / "x.npy", "test")


def test_digits(monkeypatch):
    pytest.importorskip("sklearn")
    sizes = [load_dataset("digits", split).n_items for split in ("train", "val", "test")]
    assert sizes == [1294, 144, 359]
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DependencyError, match="scikit-learn"):
        load_dataset("digits")


def test_sensor_stream():
    x = sensor_stream(60_000)
    assert np.array_equal(x, sensor_stream(60_000))
    assert not np.array_equal(x, sensor_stream(60_000, seed=1))
    assert x.std() == pytest.approx(130, rel=0.5)
    turn = int(3200 / 24.5)
    spectrum = np.abs(np.fft.rfft(x - x.mean()))
    peak_hz = np.argmax(spectrum) * 3200 / len(x)
    assert 20 < peak_hz < 60, turn
    for n in (0, 1, 2, 100):
        assert len(sensor_stream(n)) == n


@needs_data
@pytest.mark.parametrize("name", [n for n in DATASETS if n not in ("sensor", "digits")])
def test_real_data_sets(name):
    parts = [load_dataset(name, split) for split in ("train", "val", "test")]
    assert len({p.dtype for p in parts}) == len({p.channels for p in parts}) == 1
    assert all(len(digest) == 64 for digest in parts[0].sha256.values())
    train = {(n, s.tobytes()[:400]) for n, s in zip(parts[0].names, parts[0].segments, strict=True)}
    for other in parts[1:]:
        for n, s in zip(other.names, other.segments, strict=True):
            assert (n, s.tobytes()[:400]) not in train
