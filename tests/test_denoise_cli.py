"""``edgeae denoise`` on files, images and a live pipe."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from denoiser_bundles import image_bundle, speech_bundle, stream_bundle, stream_net

import edgeae
from edgeae.cli import app
from edgeae.errors import SignalError
from edgeae.exporting.denoise import export_denoiser
from edgeae.signal import read_signal, write_signal
from edgeae.signal.resample import resample


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return SimpleNamespace(
        stream=stream_bundle(folder / "stream"),
        speech=speech_bundle(folder / "speech"),
        image=image_bundle(folder / "image"),
    )


def call(*arguments, code=0, stdin=None):
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    assert result.exit_code == code, result.output
    return result


def walk(n=3000, seed=0):
    return np.cumsum(np.random.default_rng(seed).integers(-60, 61, n)).clip(-900, 900).astype("i2")


@pytest.mark.parametrize("ending", ["npy", "csv", "npz", "raw"])
def test_series_in_files(made, tmp_path, ending):
    x, source, target = walk(), tmp_path / f"x.{ending}", tmp_path / f"y.{ending}"
    write_signal(source, x, rate_hz=360.0 if ending == "csv" else None)
    form = ["--dtype", "int16"] if ending == "raw" else []
    call("denoise", made.stream.path, source, target, *form)
    y = read_signal(target, **({"dtype": "int16"} if ending == "raw" else {})).data
    assert np.array_equal(y, edgeae.denoise(made.stream, x))


def test_sound_in_wav(made, tmp_path):
    x = np.random.default_rng(1).normal(0, 3000, (4000, 2)).astype(np.int16)
    write_signal(tmp_path / "x.wav", x, rate_hz=16000)
    told = call("denoise", made.speech.path, tmp_path / "x.wav", tmp_path / "y.wav", code=1)
    assert "--each-channel" in told.output
    arguments = ["--each-channel", "--json"]
    found = call("denoise", made.speech.path, tmp_path / "x.wav", tmp_path / "y.wav", *arguments)
    assert json.loads(found.stdout)["samples"] == 4000
    y = read_signal(tmp_path / "y.wav")
    assert y.rate_hz == 16000
    assert np.array_equal(y.data[:, 1], edgeae.denoise(made.speech, x[:, 1]))


def test_24_bits_stay_24_bits(made, tmp_path):
    x = np.random.default_rng(2).normal(0, 1 << 20, 2000).astype(np.int32)
    write_signal(tmp_path / "x.wav", x, {"container": "wav", "bits": 24}, rate_hz=16000)
    call("denoise", made.speech.path, tmp_path / "x.wav", tmp_path / "y.wav")
    y = read_signal(tmp_path / "y.wav")
    assert y.meta["bits"] == 24
    assert np.abs(y.data - edgeae.denoise(made.speech, x / 2.0**23) * 2.0**23).max() <= 1


def test_another_rate_needs_to_be_asked_for(made, tmp_path):
    x = (8000 * np.sin(np.arange(9600) * 0.02)).astype(np.int16)
    write_signal(tmp_path / "x.wav", x, rate_hz=48000)
    arguments = ["denoise", made.speech.path, tmp_path / "x.wav", tmp_path / "y.wav"]
    assert "wants 16000 Hz" in call(*arguments, code=1).output
    assert not (tmp_path / "y.wav").exists()
    assert "resampled from 48000 Hz" in call(*arguments, "--resample").output
    y = read_signal(tmp_path / "y.wav")
    assert (y.rate_hz, len(y.data)) == (16000, 3200)


def test_resampling_keeps_tones_and_ends():
    t = np.arange(3000) / 250
    x = np.stack([np.sin(2 * np.pi * 11 * t), np.full(3000, 7.0)], axis=1)
    y = resample(x, 250, 360)
    wanted = np.sin(2 * np.pi * 11 * np.arange(len(y)) / 360)
    assert len(y) == 4320
    assert np.abs(y[100:-100, 0] - wanted[100:-100]).max() < 1e-3
    assert np.allclose(y[:, 1], 7)
    noise = resample(np.random.default_rng(0).normal(size=8000), 8000, 1000)
    assert noise.std() < 0.45  # what would alias is gone
    full = resample(np.array([32767, -32768] * 50, np.int16), 100, 130)
    assert full.dtype == np.int16
    assert resample(x, 250, 250) is x
    for rates in ((0, 5), (5, float("nan")), (1, 1e6)):
        with pytest.raises(SignalError, match="resample"):
            resample(x, *rates)


def test_a_live_pipe_gives_the_samples_of_the_file(made, tmp_path):
    x = walk(1000)
    command = [sys.executable, "-m", "edgeae", "denoise", str(made.stream.path), "-", "-"]
    command += ["--dtype", "int16", "--block", "50"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(x[:500].tobytes())
        process.stdin.flush()
        first = process.stdout.read(2 * (500 - 8))  # there before the input ends
        process.stdin.write(x[500:].tobytes())
        process.stdin.close()
        y = np.frombuffer(first + process.stdout.read(), "<i2")
    assert process.returncode == 0
    assert np.array_equal(y, edgeae.denoise(made.stream, x))


def test_a_pipe_into_a_file(made, tmp_path):
    x = walk(700)
    arguments = ["--dtype", "int16", "--rate", "360"]
    call("denoise", made.stream.path, "-", tmp_path / "y.npy", *arguments, stdin=x.tobytes())
    assert np.array_equal(np.load(tmp_path / "y.npy"), edgeae.denoise(made.stream, x))
    stereo = np.stack([x, x[::-1]], axis=1)
    call(
        "denoise", made.stream.path, "-", tmp_path / "z.npy", "--dtype", "int16",
        "--channels", "2", "--each-channel", stdin=stereo.tobytes(),
    )  # fmt: skip
    z = np.load(tmp_path / "z.npy")
    assert np.array_equal(z[:, 1], edgeae.denoise(made.stream, x[::-1]))


def test_missing_samples_are_told(made, tmp_path):
    x = walk().astype(np.float32)
    x[100:103] = np.nan
    np.save(tmp_path / "x.npy", x)
    found = call("denoise", made.stream.path, tmp_path / "x.npy", tmp_path / "y.npy")
    assert "3 samples were no number" in found.output


def test_images_and_folders(made, tmp_path):
    pytest.importorskip("PIL")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (3, 20, 31)).astype(np.uint8)
    write_signal(tmp_path / "in", x)
    call("denoise", made.image.path, tmp_path / "in", tmp_path / "out", "--sigma", "25")
    y = read_signal(tmp_path / "out").data
    assert np.array_equal(y, edgeae.denoise(made.image, x, sigma=25))
    write_signal(tmp_path / "a.png", x[:1])
    call("denoise", made.image.path, tmp_path / "a.png", tmp_path / "b.png")
    assert np.array_equal(read_signal(tmp_path / "b.png").data, edgeae.denoise(made.image, x[:1]))
    rgb = rng.integers(0, 256, (1, 12, 9, 3)).astype(np.uint8)
    write_signal(tmp_path / "c.png", rgb)
    told = call("denoise", made.image.path, tmp_path / "c.png", tmp_path / "d.png", code=1)
    assert "--each-channel" in told.output
    call("denoise", made.image.path, tmp_path / "c.png", tmp_path / "d.png", "--each-channel")
    assert read_signal(tmp_path / "d.png").data.shape == rgb.shape
    np.save(tmp_path / "e.npy", x[0])
    call("denoise", made.image.path, tmp_path / "e.npy", tmp_path / "f.npy", "--sigma", "9")
    assert np.array_equal(np.load(tmp_path / "f.npy"), edgeae.denoise(made.image, x[0], sigma=9))


@pytest.mark.parametrize(
    ("model", "arguments", "code", "message"),
    [
        ("stream", ["x.npy", "x.npy"], 2, "itself"),
        ("stream", ["x.npy", "y.npy", "--sigma", "3"], 2, "images"),
        ("stream", ["x.npy", "y.npy", "--block", "3"], 2, "pipe"),
        ("stream", ["x.npy", "-", "--json"], 2, "json"),
        ("stream", ["-", "y.npy"], 2, "--dtype"),
        ("stream", ["-", "y.csv", "--dtype", "int16"], 2, "as it comes"),
        ("stream", ["-", "y.npy", "--dtype", "int16", "--block", "0"], 2, "--block"),
        ("stream", ["-", "y.npy", "--dtype", "int16", "--resample"], 2, "whole signal"),
        ("stream", ["-", "y.npy", "--dtype", "int16"], 1, "empty"),
        ("stream", ["x.npy", "y.npy", "--resample"], 2, "--rate"),
        ("stream", ["x.npy", "y.npy", "--engine", "gpu"], 2, "engine"),
        ("image", ["-", "y.png"], 2, "files"),
        ("image", ["x.npy", "y.npy", "--resample"], 2, "images"),
        ("image", ["x.npy", "y.npy", "--gain", "2"], 2, "--gain and --zero are for series"),
        ("speech", ["x.npy", "y.npy", "--gain", "2"], 2, "level of sound by itself"),
        ("image", ["empty", "y"], 1, "no .png"),
    ],
)
def test_calls_that_make_no_sense(made, tmp_path, monkeypatch, model, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", walk(100))
    (tmp_path / "empty").mkdir()
    found = call("denoise", getattr(made, model).path, *arguments, code=code, stdin=b"")
    assert message in found.output


def test_inspect_and_verify_know_denoisers(made, tmp_path):
    assert "delay          8 samples, 22.2 ms" in call("inspect", made.stream.path).stdout
    assert "front end" in call("inspect", made.speech.path).stdout
    assert "told sigma" in call("inspect", made.image.path).stdout
    outcome = json.loads(call("verify", made.image.path, "--windows", "8", "--json").stdout)
    assert all(check["passed"] is not False for check in outcome)


def test_compressing_with_a_denoiser_says_what_it_is(made, tmp_path):
    np.save(tmp_path / "x.npy", walk(100))
    found = call("compress", made.stream.path, tmp_path / "x.npy", tmp_path / "y.eae", code=1)
    assert "is a denoiser, not a codec" in found.output


def test_other_devices_levels(tmp_path):
    net = stream_net(center=(30,), shift=(0,))
    made = export_denoiser(net, tmp_path / "b", name="b", signal={"rate_hz": 100.0}, level=(300.0,))
    x = np.random.default_rng(4).normal(900, 400, 700).round().astype(np.int16)
    np.save(tmp_path / "x.npy", x)
    arguments = ["denoise", made.path, tmp_path / "x.npy", tmp_path / "y.npy"]
    plain = call(*arguments)
    assert "about 4 times as strong as what 'b' was trained on: try --gain 0.25" in plain.stderr
    for gain, zero in (("auto", None), ("0.25", 900.0)):
        options = ["--gain", gain, *([] if zero is None else ["--zero", zero])]
        found = call(*arguments, *options, "--json")
        assert json.loads(found.stdout)["gain"] == [0.25]
        assert "as strong" not in found.stderr
        level = gain if zero is None else float(gain)
        wanted = edgeae.denoise(made, x, gain=level, zero=zero)
        assert np.array_equal(np.load(tmp_path / "y.npy"), wanted)
    assert "expected a positive number, or auto" in call(*arguments, "--gain", "x", code=2).output
