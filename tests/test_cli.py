from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tiny_bundle import image_bundle, prior_only_bundle, series_bundle
from typer.testing import CliRunner

import edgeae
from edgeae.cli import app, output


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    series_bundle(folder / "tiny")
    image_bundle(folder / "images")
    prior_only_bundle(folder / "other")
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", np.rint(np.cumsum(rng.logistic(0, 3, 5000))).astype(np.int16))
    np.save(folder / "f.npy", (rng.integers(-500, 500, (300, 2)) * 0.01).astype(np.float32))
    return folder


@pytest.fixture
def edgeae_in(home, tmp_path, monkeypatch):
    """Call the command line in a fresh folder that sees the files of ``home``."""
    for entry in home.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)

    def call(*arguments, code=0):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return call


def run(*arguments, data=None, code=0, cwd=None):
    """The command as its own process."""
    result = subprocess.run(
        [sys.executable, "-m", "edgeae", *map(str, arguments)],
        input=data,
        capture_output=True,
        cwd=cwd,
        check=False,
    )
    assert result.returncode == code, result.stderr.decode()
    return result


@pytest.mark.parametrize(
    ("options", "bound"), [(["--lossless"], 0), (["--max-error", "5"], 5), ([], 60)]
)
@pytest.mark.parametrize("profile", ["file", "radio"])
def test_there_and_back(edgeae_in, tmp_path, options, bound, profile):
    x = np.load("x.npy")
    edgeae_in("compress", "tiny", "x.npy", "x.eae", "--profile", profile, "--verify", *options)
    edgeae_in("decompress", "tiny", "x.eae", "y.npy")
    y = np.load("y.npy")
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    assert np.abs(x.astype(int) - y).max() <= bound


def test_without_a_model(edgeae_in):
    edgeae_in("compress", "none", "x.npy", "x.eae", "--lossless", "--verify")
    edgeae_in("decompress", "none", "x.eae", "y.npy")
    assert np.array_equal(np.load("y.npy"), np.load("x.npy"))
    result = edgeae_in("compress", "none", "x.npy", "z.eae", code=2)
    assert "max_error or lossless" in result.stderr


def test_json_results(edgeae_in, tmp_path):
    result = edgeae_in("compress", "tiny", "x.npy", "x.eae", "--max-error", "3", "--json")
    told = json.loads(result.stdout)
    assert told["output_bytes"] == (tmp_path / "x.eae").stat().st_size
    assert told["samples"] == 5000
    told = json.loads(edgeae_in("decompress", "tiny", "x.eae", "y.npy", "--json").stdout)
    assert told == {"items": 5000, "dtype": "int16", "complete": True, "lost": []}


def test_part_of_a_stream(edgeae_in):
    edgeae_in("compress", "tiny", "x.npy", "x.eae", "--lossless", "--frame-length", "512")
    edgeae_in("decompress", "tiny", "x.eae", "y.npy", "--start", "1000", "--stop", "1030")
    assert np.array_equal(np.load("y.npy"), np.load("x.npy")[1000:1030])
    edgeae_in("compress", "tiny", "x.npy", "r.eae", "--lossless", "--profile", "radio")
    edgeae_in("decompress", "tiny", "r.eae", "r.npy", "--start", "1000", "--stop", "1030")
    assert np.array_equal(np.load("r.npy"), np.load("x.npy")[1000:1030])


def test_csv_keeps_its_header_and_its_choice_of_columns(edgeae_in, tmp_path):
    rows = ["time,volt,amp"] + [f"{k},{k % 7 / 100:.2f},{k % 5}" for k in range(200)]
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    edgeae_in("compress", "none", "a.csv", "a.eae", "--lossless", "--columns", "volt,amp")
    edgeae_in("decompress", "none", "a.eae", "b.csv")
    lines = (tmp_path / "b.csv").read_text().split("\n")
    assert "volt" in lines[0]
    assert "amp" in lines[0]
    assert "0.03" in lines[4]


def test_pipes_of_raw_samples(home, tmp_path):
    x = np.load(home / "x.npy")
    raw = x.tobytes()
    form = ["--dtype", "int16", "--channels", "1", "--rate", "360"]
    stream = run("compress", home / "tiny", "-", "-", "--lossless", *form, data=raw).stdout
    assert run("decompress", home / "tiny", "-", "-", data=stream).stdout == raw
    assert len(stream) < len(raw) / 2


def test_images_in_and_out(edgeae_in):
    x = np.random.default_rng(0).integers(90, 110, (20, 8, 8)).astype(np.uint8)
    np.save("im.npy", x)
    edgeae_in("compress", "images", "im.npy", "im.eae", "--lossless")
    edgeae_in("decompress", "images", "im.eae", "im2.npy")
    assert np.array_equal(np.load("im2.npy"), x)


def test_a_truncated_stream_is_written_as_far_as_it_goes(edgeae_in, tmp_path):
    edgeae_in("compress", "tiny", "x.npy", "x.eae", "--lossless", "--frame-length", "512")
    data = (tmp_path / "x.eae").read_bytes()
    (tmp_path / "cut.eae").write_bytes(data[: len(data) // 2])
    result = edgeae_in("decompress", "tiny", "cut.eae", "y.npy", code=1)
    y = np.load("y.npy")
    assert f"holds the {len(y)} items before" in result.stderr
    assert 512 <= len(y) < 5000
    assert np.array_equal(y, np.load("x.npy")[: len(y)])
    (tmp_path / "stub.eae").write_bytes(data[:10])
    edgeae_in("decompress", "tiny", "stub.eae", "z.npy", code=1)
    assert not (tmp_path / "z.npy").exists()


def test_a_damaged_frame_ends_the_output_and_says_so(edgeae_in, tmp_path):
    edgeae_in("compress", "tiny", "x.npy", "x.eae", "--lossless", "--frame-length", "512")
    data = bytearray((tmp_path / "x.eae").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.eae").write_bytes(data)
    result = edgeae_in("decompress", "tiny", "bad.eae", "y.csv", code=1)
    assert "checksum" in result.stderr
    assert (tmp_path / "y.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["compress", "nowhere", "x.npy", "o"], 1, "there is no bundle"),
        (["compress", "tiny", "nowhere.npy", "o"], 1, "nowhere.npy"),
        (["compress", "tiny", "x.npy", "x.npy"], 2, "is the input itself"),
        (["compress", "tiny", "f.npy", "o"], 1, "made for 1 channel"),
        (["compress", "tiny", "x.npy", "o", "--max-error", "1", "--lossless"], 2, "exclude"),
        (["compress", "tiny", "x.npy", "o", "--max-error", "-1"], 2, "negative"),
        (["compress", "tiny", "x.npy", "o", "--profile", "wire"], 2, "file or radio"),
        (["compress", "tiny", "x.npy", "no/such/folder"], 1, "No such file"),
        (["compress", "tiny", "-", "o"], 2, "--dtype"),
        (["compress", "tiny", "x.npy", "-", "--json"], 2, "nowhere to go"),
        (["compress", "tiny", "x.npy", "o", "--dtype", "int16"], 2, "no option --dtype"),
        (["compress", "tiny"], 2, "Missing argument"),
        (["decompress", "tiny", "x.npy", "o.npy"], 1, "not an edgeae stream"),
        (["decompress", "tiny", "nowhere", "o.npy"], 1, "nowhere"),
        (["decompress", "tiny", "x.npy", "o.npy", "--start", "-3"], 2, "negative"),
        (["inspect", "nowhere"], 1, "no such file"),
        (["inspect", "x.npy"], 1, "not an edgeae stream"),
        (["fly"], 2, "No such command"),
    ],
)
def test_mistakes_are_told_in_a_line(edgeae_in, tmp_path, arguments, code, words):
    result = edgeae_in(*arguments, code=code)
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "o").exists()
    if words not in ("Missing argument", "No such command"):
        assert result.stderr.count("\n") == 1


def test_another_bundle_is_refused(edgeae_in):
    edgeae_in("compress", "tiny", "x.npy", "x.eae", "--lossless")
    result = edgeae_in("decompress", "other", "x.eae", "y.npy", code=1)
    for name in ("tiny", "other"):
        assert edgeae.load(name).fingerprint.hex() in result.stderr
    result = edgeae_in("decompress", "none", "x.eae", "y.npy", code=1)
    assert "no bundle was given" in result.stderr


def test_inspect_explains_a_stream_without_its_model(edgeae_in, tmp_path):
    edgeae_in("compress", "tiny", "x.npy", "x.eae", "--max-error", "2", "--frame-length", "512")
    text = edgeae_in("inspect", "x.eae").stdout
    for words in ("max_error", "int16", "5,000 items", edgeae.load("tiny").fingerprint.hex()):
        assert words in text
    assert len(edgeae_in("inspect", "x.eae", "--frames").stdout.splitlines()) > 15
    told = json.loads(edgeae_in("inspect", "x.eae", "--json", "--frames").stdout)
    assert told["items"] == 5000
    assert told["header"]["delta"] == 5
    assert sum(frame["items"] for frame in told["frames"]) == 5000
    assert told["complete"]
    (tmp_path / "cut.eae").write_bytes((tmp_path / "x.eae").read_bytes()[:-1])
    assert "end mark is missing" in edgeae_in("inspect", "cut.eae", code=1).stderr


def test_inspect_explains_a_bundle(edgeae_in):
    text = edgeae_in("inspect", "tiny").stdout
    for words in ("tiny", "fingerprint", "2 latents per 4 items", "sample prior 1"):
        assert words in text
    told = json.loads(edgeae_in("inspect", "tiny", "--json").stdout)
    assert told["manifest"]["name"] == "tiny"


def test_a_tight_bound_on_decimals_is_explained(edgeae_in):
    result = edgeae_in("compress", "none", "f.npy", "f.eae", "--max-error", "0.03", "--verify")
    assert "3 steps" in result.stderr
    assert "2 are used" in result.stderr


def test_another_rate_is_mentioned(edgeae_in):
    result = edgeae_in("compress", "tiny", "x.npy", "x.eae", "--rate", "100", "--lossless")
    assert "360 Hz" in result.stderr


def test_debug_shows_the_traceback(tmp_path):
    result = run("inspect", "nowhere", "--debug", code=1, cwd=tmp_path)
    assert b"Traceback" in result.stderr
    assert b"edgeae 0." in run("--version").stdout or b"unknown" in run("--version").stdout


def test_a_full_disk_leaves_what_was_written(edgeae_in, tmp_path, monkeypatch):
    class Full:
        def __init__(self, path):
            self.file = open(path, "wb")  # noqa: SIM115
            self.room = 1500

        def write(self, data):
            self.file.write(data[: self.room])
            self.room -= len(data)
            if self.room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self):
            self.file.flush()

        def close(self):
            self.file.close()

    with monkeypatch.context() as patch:
        patch.setattr(output, "open", lambda path, mode: Full(path), raising=False)
        result = edgeae_in(
            "compress", "tiny", "x.npy", "x.eae", "--lossless", "--frame-length", 512, code=1
        )
    assert "No space left on device" in result.stderr
    assert "can be decoded" in result.stderr
    edgeae_in("decompress", "tiny", "x.eae", "y.npy", code=1)
    y = np.load("y.npy")
    assert len(y) >= 512
    assert np.array_equal(y, np.load("x.npy")[: len(y)])


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_in_the_middle_keeps_what_was_written(home, tmp_path):
    options = ["--lossless", "--dtype", "int16", "--frame-length", "500"]
    arguments = ["compress", home / "tiny", "-", tmp_path / "x.eae", *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeae", *arguments],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A job in the background inherits that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    x = np.load(home / "x.npy")
    process.stdin.write(x.tobytes()[:8200])
    process.stdin.flush()
    for _ in range(200):
        if (tmp_path / "x.eae").exists() and (tmp_path / "x.eae").stat().st_size > 500:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"interrupted" in told
    assert b"is incomplete" in told
    run("decompress", home / "tiny", tmp_path / "x.eae", tmp_path / "y.npy", code=1)
    y = np.load(tmp_path / "y.npy")
    assert len(y) >= 500
    assert np.array_equal(y, x[: len(y)])


def test_a_missing_extra_names_its_pip_line(edgeae_in, monkeypatch):
    from edgeae.cli import base

    @base.command("needs-torch")
    def needs_torch() -> None:
        """Only for this test."""
        raise ModuleNotFoundError("No module named 'torch'", name="torch.nn")

    result = edgeae_in("needs-torch", code=1)
    assert 'pip install "edgeae[train]"' in result.stderr
