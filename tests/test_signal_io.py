from __future__ import annotations

import errno
import gzip
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeae.errors import ConfigError, DependencyError, EdgeAEError, SignalError
from edgeae.signal import SignalFile, SignalSink, iter_signal, read_signal, write_signal
from edgeae.signal.container import container_of
from edgeae.signal.files import atomic_output, partial_path
from edgeae.signal.probe import probe

DATA = Path(os.environ.get("EDGEAE_DATA", "/nowhere"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="EDGEAE_DATA is not set")
RNG = np.random.default_rng(7)


def same_array(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def copy_of(path: Path, tmp_path: Path, **options) -> bytes:
    signal = read_signal(path, **options)
    out = tmp_path / f"copy{path.suffix}"
    write_signal(out, signal.data, signal.meta, rate_hz=signal.rate_hz)
    return out.read_bytes()


# --- CSV ------------------------------------------------------------------------------------------

CSVS = {
    "plain": "a,b\n1,2\n3,-4\n",
    "one column": "value\n1.5\n2.25\n-0.125\n",
    "no header": "1,2\n5,4\n2,6\n",
    "windows": "a;b\r\n1.00;2.50\r\n3.25;-4.75\r\n",
    "decimal comma": "a;b\n1,00;2,5\n3,25;-4,25\n",
    "tabs": "a\tb\n0.1\t1e-05\n0.25\t2.5\n",
    "spaces after": "a, b\n1, 2\n3, 4\n",
    "blanks": "1.0 2.0\n3.0 4.5\n",
    "savetxt": "1.000000000000000000e+00,2.5e+00\n-3.141592653589793116e+00,4.0e+00\n",
    "trimmed": "x\n0.25\n1\n100.125\n-3\n",
    "holes": "a,b\n1,\n2,5\n,6\n",
    "nan words": "a,b\n1,nan\n2,5\nnan,6\n",
    "quoted header": '"a, left",b\n1,2\n9,4\n',
    "comments": "# made by a logger\n# rate 100\nt,x\n0,5\n1,9\n2,7\n",
    "iso": "date,x\n2020-02-28 23:59:59,5\n2020-02-29 00:00:00,9\n2020-02-29 00:00:01,7\n",
    "iso zone": "time,x\n2020-01-01T00:00:00.500Z,5\n2020-01-01T00:00:00.750Z,9\n",
    "days": "date,x\n2020-01-01,5\n2020-01-02,9\n2020-01-03,4\n",
    "seconds": "time,x\n0.00,5\n0.01,9\n0.02,7\n0.03,8\n",
    "trimmed seconds": "time,x\n0,5\n0.5,9\n1,7\n1.5,8\n",
    "epoch": "timestamp_ms,x\n1600000000000,5\n1600000000010,9\n1600000000020,7\n",
    "counter": "x,index\n0.5,1\n0.7,2\n0.1,3\n",
    "big integers": "x\n5000000000\n-7\n",
    "long floats": "x\n5.692999839782715\n0.10000000149011612\n",
    "minus zero": "x\n-0.0\n1.5\n",
    "no last newline": "a,b\n1,2\n4,3",
    "infinite": "x\n1.5\ninf\n",
}  # fmt: skip


@pytest.mark.parametrize("name", CSVS)
def test_csv_comes_back_as_the_same_text(name, tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(CSVS[name].encode())
    assert copy_of(path, tmp_path).decode() == CSVS[name]


def test_csv_dtypes(tmp_path):
    path = tmp_path / "x.csv"
    for text, dtype in [
        ("plain", "int32"),
        ("big integers", "int64"),
        ("one column", "float64"),
        ("long floats", "float32"),
        ("holes", "float64"),
    ]:
        path.write_bytes(CSVS[text].encode())
        assert read_signal(path).data.dtype == dtype
    path.write_bytes(CSVS["plain"].encode())
    assert read_signal(path, dtype="int16").data.dtype == np.int16
    path.write_text("a\n70000\n1\n")
    with pytest.raises(SignalError, match="int16 cannot hold"):
        read_signal(path, dtype="int16")


@pytest.mark.parametrize(
    ("name", "rate_hz"),
    [("iso", 1), ("iso zone", 4), ("days", 1 / 86400), ("seconds", 100), ("trimmed seconds", 2),
     ("epoch", 100), ("counter", None), ("plain", None)],
)  # fmt: skip
def test_csv_rate_from_the_time_column(name, rate_hz, tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(CSVS[name].encode())
    found = read_signal(path)
    assert found.rate_hz == (None if rate_hz is None else pytest.approx(rate_hz, rel=1e-9))
    assert read_signal(path, rate_hz=5).rate_hz == 5


def test_csv_time_with_a_few_jumps_is_kept(tmp_path):
    t = np.arange(300)
    t[100:] += 7
    t[200:] -= 3
    text = "t,x\n" + "".join(f"{a},{b % 13}\n" for a, b in zip(t, range(300), strict=True))
    path = tmp_path / "x.csv"
    path.write_text(text)
    assert copy_of(path, tmp_path).decode() == text
    assert "2 jumps" in read_signal(path).notes[0]


def test_csv_irregular_time_is_dropped_and_said_so(tmp_path):
    t = np.cumsum(RNG.integers(8, 13, 500))
    path = tmp_path / "x.csv"
    path.write_text("t_ms,x\n" + "".join(f"{a},{a % 7}\n" for a in t))
    signal = read_signal(path)
    assert signal.data.ndim == 1
    assert signal.rate_hz == pytest.approx(100, rel=0.15)
    assert "irregular" in signal.notes[0]


def test_csv_ramp_that_ends_is_a_signal(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("y,x\n" + "".join(f"{i % 256},{i % 7}\n" for i in range(1000)))
    assert read_signal(path).data.shape == (1000, 2)
    path.write_text("y\n" + "".join(f"{i}\n" for i in range(1000)))
    assert read_signal(path).data.tolist() == list(range(1000))


def test_csv_column_choice(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("time,a,label,b,c\n0.0,1,walk,5,7\n0.5,2,walk,6,7\n1.0,4,run,8,7\n")
    signal = read_signal(path)
    assert signal.data.tolist() == [[1, 5, 7], [2, 6, 7], [4, 8, 7]]
    assert any("label (text)" in note for note in signal.notes)
    signal = read_signal(path, columns=["c", 1])
    assert signal.data.tolist() == [[7, 1], [7, 2], [7, 4]]
    assert any("b (not chosen)" in note for note in signal.notes)
    out = tmp_path / "y.csv"
    write_signal(out, signal.data, signal.meta)
    assert out.read_text() == "time,c,a\n0.0,7,1\n0.5,7,2\n1.0,7,4\n"
    with pytest.raises(ConfigError, match="has no column 'd'"):
        read_signal(path, columns=["d"])
    with pytest.raises(SignalError, match="line 2, column 'label': 'walk' is not a number"):
        read_signal(path, columns=["label"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\0\1\2", "not a CSV file"),
        ("a,b\n", "no column of numbers|header line and no rows"),
        ("a,b\n1,2\n3,x\n", "line 3, column 'b': 'x' is not a number"),
        ("a,b\n1,2\n3\n", "line 3: 1 cells, expected 2"),
        ("a,b\nx,y\nz,w\n", "no column of numbers"),
    ],
)
def test_bad_csv(text, message, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(SignalError, match=message):
        read_signal(path)


def test_csv_holes_are_counted(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(CSVS["holes"].encode())
    signal = read_signal(path)
    assert np.isnan(signal.data).sum() == 2
    assert "2 holes became NaN: 1 in 'a', 1 in 'b'" in signal.notes


@given(
    values=st.lists(st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=2), min_size=3),
    decimals=st.integers(1, 5),
)
@settings(deadline=None, max_examples=30)
def test_csv_fixed_decimals_round_trip(values, decimals, tmp_path_factory):
    rows = [",".join(f"{v / 10**decimals:.{decimals}f}" for v in row) for row in values]
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    path.write_text("p,q\n" + "\n".join(rows) + "\n")
    assert copy_of(path, path.parent) == path.read_bytes()


def test_csv_from_other_containers(tmp_path):
    out = tmp_path / "x.csv"
    write_signal(out, np.array([0.1, 2.0], np.float32), {"container": "npy"}, rate_hz=50)
    assert out.read_text() == "time_s,ch0\n0.00,0.1\n0.02,2.0\n"
    assert same_array(read_signal(out, dtype="float32").data, np.array([0.1, 2.0], np.float32))


# --- arrays ---------------------------------------------------------------------------------------

ARRAYS = {
    "int16": RNG.integers(-9, 9, 50).astype(np.int16),
    "big-endian": RNG.integers(-9, 9, (50, 3)).astype(">i4"),
    "fortran": np.asfortranarray(RNG.normal(size=(50, 3))),
    "one sample": np.array([5], np.uint8),
    "bool": np.array([True, False, True]),
    "half": RNG.normal(size=9).astype(np.float16),
    "images": RNG.integers(0, 255, (4, 5, 6)).astype(np.uint8),
    "colour": RNG.integers(0, 65535, (4, 5, 6, 3)).astype(np.uint16),
}


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("name", ARRAYS)
def test_numpy_files_come_back_as_they_were(name, suffix, tmp_path):
    x = ARRAYS[name]
    path, out = tmp_path / f"x{suffix}", tmp_path / f"y{suffix}"
    np.save(path, x) if suffix == ".npy" else np.savez(path, signal=x, fs=250.0)
    signal = read_signal(path)
    assert signal.data.dtype.isnative
    assert signal.data.dtype.kind in "iuf"
    write_signal(out, signal.data, signal.meta, rate_hz=signal.rate_hz)
    if suffix == ".npy":
        assert out.read_bytes() == path.read_bytes()
    else:
        with np.load(out) as archive:
            assert same_array(archive["signal"], x)
        assert read_signal(out).rate_hz == signal.rate_hz == 250.0


def test_npz_choice(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, long=np.arange(1000), marks=np.arange(9), name=np.array(["a"]))
    signal = read_signal(path)
    assert len(signal.data) == 1000
    assert "not kept: marks, name" in signal.notes[0]
    assert len(read_signal(path, key="marks").data) == 9
    with pytest.raises(SignalError, match="has no array 'x'"):
        read_signal(path, key="x")
    np.savez(path, a=np.arange(100), b=np.arange(90))
    with pytest.raises(SignalError, match="choose one with --key"):
        read_signal(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 3)), "is empty"),
        (np.zeros((3, 0)), "is empty"),
        (np.zeros(3, np.complex64), "complex"),
        (np.array(5.0), "single number"),
        (np.array(["a", "b"]), "expected integers or floats"),
        (np.zeros((2, 2, 2)), "images are uint8"),
        (np.zeros((1, 1, 1, 1, 1), np.uint8), "expected \\[T\\]"),
        (np.array([{}], object), "not a good .npy file"),
    ],
)
def test_arrays_that_are_no_signals(array, message, tmp_path):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(SignalError, match=message):
        read_signal(tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.wav", "x-idx3-ubyte", "x-idx3-ubyte.gz"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"RIFF", b"\x1f\x8b\x08", os.urandom(300)])
def test_damaged_files_give_a_signal_error(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SignalError):
        read_signal(tmp_path / name)
    with pytest.raises(SignalError, match="cannot read"):
        read_signal(tmp_path / ("no" + name))


def test_channels_first_is_noticed(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 1000)))
    assert "transpose" in read_signal(tmp_path / "x.npy").notes[0]


IDX_CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


@pytest.mark.parametrize("dtype", IDX_CODES)
@pytest.mark.parametrize("name", ["x.idx", "x-idx3-ubyte.gz"])
def test_idx(dtype, name, tmp_path):
    shape = (7, 5, 4) if dtype == "u1" else (7, 5)
    x = RNG.integers(0, 100, shape).astype(dtype)
    write_signal(tmp_path / name, x)
    signal = read_signal(tmp_path / name)
    assert same_array(signal.data, x)
    content = (tmp_path / name).read_bytes()
    raw = gzip.decompress(content) if name.endswith("gz") else content
    assert raw[:4] == bytes([0, 0, IDX_CODES[dtype], len(shape)])
    for broken in (raw[:-1], raw + b"x", struct.pack(">HBBII", 0, 8, 2, 2**31, 2**31)):
        (tmp_path / "y.idx").write_bytes(broken)
        with pytest.raises(SignalError, match="announces"):
            read_signal(tmp_path / "y.idx")


# --- WAV ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
def test_wav(dtype, channels, tmp_path):
    x = RNG.integers(0, 200, (101, channels)).astype(dtype)
    x = x[:, 0] if channels == 1 else x
    path = tmp_path / "x.wav"
    write_signal(path, x, rate_hz=16000)
    signal = read_signal(path)
    assert same_array(signal.data, x)
    assert signal.rate_hz == 16000
    assert copy_of(path, tmp_path) == path.read_bytes()
    pieces = [piece.data for piece in iter_signal(path, 10)]
    assert same_array(np.concatenate(pieces), x)


def test_wav_24_bits_and_the_standard_library(tmp_path):
    import wave

    x = np.array([0, 1, -1, 2**23 - 1, -(2**23), 12345], np.int32)
    path = tmp_path / "x.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(3)
        file.setframerate(44100)
        file.writeframes(b"".join(int(v).to_bytes(3, "little", signed=True) for v in x))
    signal = read_signal(path)
    assert same_array(signal.data, x)
    assert copy_of(path, tmp_path) == path.read_bytes()
    with pytest.raises(SignalError, match="24 bits"):
        write_signal(path, x * 2, signal.meta, rate_hz=44100)
    write_signal(path, x.astype(np.int16), rate_hz=8000)
    with wave.open(str(path)) as file:
        assert file.getframerate() == 8000
        assert file.readframes(9) == x.astype("<i2").tobytes()


def test_wav_of_a_pipe_and_its_tags(tmp_path):
    write_signal(tmp_path / "x.wav", np.arange(50, dtype=np.int16), rate_hz=8000)
    content = bytearray((tmp_path / "x.wav").read_bytes())
    content[40:44] = b"\xff" * 4
    tagged = bytes(content[:36]) + b"LIST\x03\x00\x00\x00abc\x00" + bytes(content[36:])
    (tmp_path / "x.wav").write_bytes(tagged)
    signal = read_signal(tmp_path / "x.wav")
    assert signal.data.tolist() == list(range(50))
    assert "LIST" in signal.notes[0]
    assert sum(len(p.data) for p in iter_signal(tmp_path / "x.wav", 7)) == 50


def test_wav_refusals(tmp_path):
    path = tmp_path / "x.wav"
    for x, rate, message in [
        (np.zeros(5, np.int64), 8000, "cannot hold int64"),
        (np.zeros(5, np.int16), None, "needs the rate"),
        (np.zeros(5, np.int16), 0.5, "whole rate"),
        (np.zeros((2, 3, 4), np.uint8), 8000, "not images"),
    ]:
        with pytest.raises(SignalError, match=message):
            write_signal(path, x, rate_hz=rate)
        assert not list(tmp_path.iterdir())
    write_signal(path, np.zeros(50, np.int16), rate_hz=8000)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SignalError, match="announces"):
        read_signal(path)
    with pytest.raises(SignalError, match=r"ended 1 bytes early|middle of a sample"):
        list(iter_signal(path, 7))


# --- raw, stdin, chunks ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int16", ">i2", "float32", "uint8"])
def test_raw(dtype, tmp_path):
    x = RNG.integers(0, 100, (60, 2)).astype(dtype)
    path = tmp_path / "x.raw"
    path.write_bytes(x.tobytes())
    signal = read_signal(path, dtype=dtype, channels=2, rate_hz=10)
    assert np.array_equal(signal.data, x)
    assert signal.rate_hz == 10
    assert copy_of(path, tmp_path, dtype=dtype, channels=2) == path.read_bytes()
    pieces = [p.data for p in iter_signal(path, 7, dtype=dtype, channels=2)]
    assert [len(p) for p in pieces] == [7] * 8 + [4]
    assert np.array_equal(np.concatenate(pieces), x)


def test_raw_refusals(tmp_path):
    path = tmp_path / "x.pcm"
    path.write_bytes(b"12345")
    with pytest.raises(ConfigError, match="--dtype"):
        read_signal(path)
    with pytest.raises(ConfigError, match="unknown dtype"):
        read_signal(path, dtype="int17")
    with pytest.raises(ConfigError, match="no real numbers"):
        read_signal(path, dtype="complex64")
    with pytest.raises(ConfigError, match="channels must be"):
        read_signal(path, dtype="int16", channels=0)
    with pytest.raises(SignalError, match="not a multiple of 2"):
        read_signal(path, dtype="int16")
    pieces = iter_signal(path, 1, dtype="int16")
    assert [len(next(pieces).data), len(next(pieces).data)] == [1, 1]
    with pytest.raises(SignalError, match="middle of a time step"):
        next(pieces)
    path.write_bytes(b"")
    for read in (read_signal, lambda p, **k: list(iter_signal(p, 5, **k))):
        with pytest.raises(SignalError, match="empty"):
            read(path, dtype="int16")


def test_options_that_do_not_belong_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="npy, which has no option --channels"):
        read_signal(tmp_path / "x.npy", channels=2)
    with pytest.raises(ConfigError, match="positive"):
        read_signal(tmp_path / "x.npy", rate_hz=0)
    with pytest.raises(SignalError, match="not a known kind"):
        container_of("x.exe")
    with pytest.raises(SignalError, match="no suffix"):
        container_of("x")


class Pipe(io.RawIOBase):
    """Hands out a few bytes at a time, as pipes do."""

    def __init__(self, content: bytes) -> None:
        self.content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        part = self.content.read(min(len(buffer), 5))
        buffer[: len(part)] = part
        return len(part)


def test_stdin_and_stdout(monkeypatch, capfdbinary):
    x = np.arange(100, dtype=np.int16)

    class Standard:
        buffer = Pipe(x.tobytes())

    monkeypatch.setattr(sys, "stdin", Standard)
    assert [p.data.tolist() for p in iter_signal("-", 60, dtype="int16")] == [
        list(range(60)), list(range(60, 100))
    ]  # fmt: skip
    npy = io.BytesIO()
    np.save(npy, x)
    Standard.buffer = io.BytesIO(npy.getvalue())
    assert same_array(read_signal("-").data, x)
    Standard.buffer = io.BytesIO(b"12")
    with pytest.raises(ConfigError, match="--dtype"):
        read_signal("-")


def test_stdout_in_a_real_process(tmp_path):
    code = (
        "import numpy as np; from edgeae.signal import SignalSink, iter_signal\n"
        "with SignalSink('-', dtype='int16') as sink:\n"
        "    for piece in iter_signal('-', 7, dtype='int16'): sink.write(piece.data)\n"
    )
    content = np.arange(100, dtype=np.int16).tobytes()
    done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True)
    assert done.stdout == content, done.stderr


@pytest.mark.parametrize("name", ["x.npy", "x.wav", "x.raw"])
@pytest.mark.parametrize("n", [0, 1, 100])
def test_sink_writes_what_write_signal_writes(name, n, tmp_path):
    x = RNG.integers(-9, 9, (n, 3)).astype(np.int16)
    path = tmp_path / name
    with SignalSink(path, dtype="int16", item_shape=(3,), rate_hz=100) as sink:
        for start in range(0, n, 7):
            sink.write(x[start : start + 7])
    assert [p.name for p in tmp_path.iterdir()] == [name]
    if n == 0:
        return
    options = {"dtype": "int16", "channels": 3} if name == "x.raw" else {}
    assert same_array(read_signal(path, **options).data, x)


def test_sink_keeps_what_was_written(tmp_path):
    path = tmp_path / "x.npy"
    with pytest.raises(KeyboardInterrupt), SignalSink(path, dtype="f4") as sink:  # noqa: PT012
        sink.write(np.ones(5, np.float32))
        raise KeyboardInterrupt
    assert not path.exists()
    kept = partial_path(path)
    assert np.load(kept).tolist() == [1] * 5
    with pytest.raises(SignalError, match="expected items"), SignalSink(path, dtype="f4") as sink:
        sink.write(np.ones(5))
    with pytest.raises(ConfigError, match="piece by piece"):
        SignalSink(tmp_path / "x.csv", dtype="f4")
    with pytest.raises(SignalError, match="rate"), SignalSink(tmp_path / "x.wav", dtype="i2"):
        pass


# --- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grey", "deep", "colour"])
def test_png_folder(kind, tmp_path):
    pytest.importorskip("PIL")
    shape = (3, 6, 5, 3) if kind == "colour" else (3, 6, 5)
    x = RNG.integers(0, 256, shape).astype(np.uint16 if kind == "deep" else np.uint8)
    x = x * 257 if kind == "deep" else x
    meta = {"container": "png", "names": ["a", "b7", "c"]}
    write_signal(tmp_path / "in/", x, meta)
    signal = read_signal(tmp_path / "in")
    assert same_array(signal.data, x)
    assert signal.meta == meta
    assert signal.is_image
    write_signal(f"{tmp_path}/out/", signal.data)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "00000.png", "00001.png", "00002.png"
    ]  # fmt: skip
    assert same_array(read_signal(tmp_path / "out" / "00001.png").data, x[1:2])


def test_png_refusals(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(SignalError, match="files"):
        read_signal(folder)
    image.new("L", (4, 4)).save(folder / "a.png")
    image.new("L", (4, 5)).save(folder / "b.png")
    with pytest.raises(SignalError, match=r"b.png is \[5, 4\] uint8, but a.png"):
        read_signal(folder)
    (folder / "b.png").write_bytes(b"no")
    with pytest.raises(SignalError, match="cannot read"):
        read_signal(folder)
    with pytest.raises(SignalError, match="PNG cannot hold"):
        write_signal(folder, np.zeros((2, 4)))
    names = {"container": "png", "names": ["../../evil", "b"]}
    write_signal(folder, np.zeros((2, 4, 4), np.uint8), names)
    assert not (tmp_path.parent / "evil.png").exists()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DependencyError, match="pillow"):
        read_signal(folder)


# --- hostile memory, full disks -------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".npy", ".npz", ".wav", ".raw"])
@pytest.mark.parametrize(
    "extra",
    [
        {"columns": 5}, {"columns": [{"name": 5}]},
        {"columns": [{"name": "a", "time": 7}, {"name": "b"}]},
        {"columns": [{"name": "a", "format": ""}]}, {"delimiter": ""}, {"dtype": "O"}, {"dtype": 7},
        {"order": 9, "key": 5}, {"bits": "x"}, {"preamble": 3}, {"hole": {}}, {"newline": []},
        {"columns": [{"name": "a", "format": "f99999999"}]},
        {"columns": [{"name": "a"}, {"name": "t", "time": {"start": 2**70, "step": 1}}]},
    ],
)  # fmt: skip
def test_meta_from_a_stream_is_not_trusted(suffix, extra, tmp_path):
    x = RNG.integers(0, 99, 20).astype(np.int16)
    path = tmp_path / f"x{suffix}"
    try:
        write_signal(path, x, {"container": container_of(path), **extra}, rate_hz=100)
    except EdgeAEError:
        assert not list(tmp_path.iterdir())
        return
    options = {"dtype": "int16"} if suffix == ".raw" else {}
    assert np.array_equal(read_signal(path, **options).data.ravel()[-20:], x)


def test_full_disk(tmp_path):
    path = tmp_path / "x.eae"
    path.write_bytes(b"old")
    with (  # noqa: PT012
        pytest.raises(EdgeAEError, match=r"No space left.*is kept in"),
        atomic_output(path, keep_partial=True) as file,
    ):
        file.write(b"new")
        file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_bytes() == b"old"
    assert partial_path(path).read_bytes() == b"new"
    with pytest.raises(EdgeAEError, match="Nothing was kept"), atomic_output(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == ["x.eae"]
    with pytest.raises(EdgeAEError, match="cannot write"):
        write_signal(tmp_path / "no" / "x.npy", np.zeros(3))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_stdout():
    code = "from edgeae.signal import *; import numpy as np; write_signal('-', np.zeros(9**6))"
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE)
    assert b"EdgeAEError" in done.stderr
    assert b"No space left" in done.stderr


# --- probe and real files -------------------------------------------------------------------------


def test_probe():
    t = np.arange(30000)
    x = np.stack([np.sin(t / 20), np.zeros(len(t)), RNG.normal(size=len(t))], axis=1).round(3)
    x[7, 0] = np.nan
    x[9, 2] = 1e3
    seen = probe(SignalFile(data=x, rate_hz=50))
    assert (seen.n_items, seen.channels, seen.holes, seen.rate_hz) == (30000, 3, 1, 50)
    assert seen.grid is not None
    assert seen.grid.step == 0.001
    assert seen.per_channel[0].period_items == pytest.approx(20 * 2 * np.pi, abs=1)
    assert seen.per_channel[1].constant
    assert seen.per_channel[2].noise == pytest.approx(1, rel=0.05)
    assert seen.per_channel[2].outliers == 1
    for odd in (np.zeros(1), np.array([np.nan]), np.zeros((2, 3, 4), np.uint8), np.arange(2)):
        assert probe(SignalFile(data=odd)).n_items == len(odd)
    import json

    json.dumps(seen.to_json())


@needs_data
@pytest.mark.parametrize("name", ["ett/ETTh1.csv", "skab/valve1/0.csv"])
def test_real_csv_files_come_back_as_the_same_text(name, tmp_path):
    assert copy_of(DATA / name, tmp_path) == (DATA / name).read_bytes()


@needs_data
def test_real_nab_files(tmp_path):
    for path in sorted(DATA.glob("nab/data/realKnownCause/*.csv")):
        signal = read_signal(path)
        assert signal.data.ndim == 1
        if not any("irregular" in note or "changing" in note for note in signal.notes):
            assert copy_of(path, tmp_path) == path.read_bytes()
