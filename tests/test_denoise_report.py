"""The page of ``edgeae denoise --report``: pictures inside, right figures, nothing fetched."""

from __future__ import annotations

import re
import struct
import zlib

import numpy as np
import pytest
from typer.testing import CliRunner

from edgeae.cli import app
from edgeae.errors import EdgeAEError, SignalError
from edgeae.metrics import si_sdr_db, snr_db
from edgeae.profiling.denoise_page import Denoised, denoised_page, figures, write_denoised_page
from edgeae.profiling.traces import png, spectrogram, wave_plot

RNG = np.random.default_rng(0)


def series(n=5000, c=1):
    t = np.arange(n)[:, None] / 50.0
    clean = np.sin(t * np.arange(1, c + 1))
    return clean, clean + RNG.normal(0, 0.5, (n, c))


def test_a_png_holds_the_pixels():
    pixels = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    data = png(pixels)
    found, at = {}, 8
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(
            name + body
        )
        found[name], at = body, at + 12 + size
    assert struct.unpack(">II", found[b"IHDR"][:8]) == (7, 5)
    rows = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(5, 1 + 21)
    assert (rows[:, 0] == 0).all()
    assert (rows[:, 1:].reshape(5, 7, 3) == pixels).all()


def test_what_is_no_picture_is_refused():
    with pytest.raises(SignalError, match="no picture"):
        png(np.zeros((2, 2), np.float32))


def test_a_tone_is_one_bright_line_of_a_spectrogram():
    x = np.sin(2 * np.pi * 1000 / 8000 * np.arange(8000))
    colours, _ = spectrogram(x, window=256)
    assert colours.shape[0] == 129
    row = int(np.argmax(colours.astype(int).sum((1, 2))))
    assert 128 - row == round(1000 / 8000 * 256)
    assert spectrogram(np.zeros(3))[0].shape[1] == 1


@pytest.mark.parametrize("n", [0, 1, 2, 100, 100_000])
def test_waves_of_any_length_are_drawn(n):
    x = RNG.normal(size=n)
    plot = wave_plot([("x <&>", x, "was")], words="x", seconds=(0, 1), marks=[[0.5]])
    assert "&lt;" in plot
    assert "nan" not in plot
    assert len(plot) < 40_000


def test_figures_are_those_of_the_metrics():
    clean, noisy = series()
    after = 0.5 * (clean + noisy)
    shown = Denoised(title="x", before=noisy, after=after, reference=clean)
    told = dict(figures(shown))
    was, now = snr_db(clean, noisy), snr_db(clean, after)
    assert told["SNR before → after"] == f"{was:.2f} → {now:.2f} dB"
    assert now == pytest.approx(was + 6.02, abs=0.01)
    assert told["removed, RMS"].startswith("0.2")
    assert si_sdr_db(clean[:, 0], 3 * noisy[:, 0] + 7) == pytest.approx(
        si_sdr_db(clean[:, 0], noisy[:, 0])
    )


@pytest.mark.parametrize("rate_hz", [None, 360.0, 16000.0])
@pytest.mark.parametrize("c", [1, 6])
def test_a_page_fetches_nothing(rate_hz, c):
    clean, noisy = series(c=c)
    noisy[7] = np.nan
    page = denoised_page(
        Denoised(title="<x>", before=noisy, after=clean, reference=clean, rate_hz=rate_hz)
    )
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("Spectrograms") == (rate_hz == 16000.0)
    assert ("2 more channels" in page) == (c == 6)


@pytest.mark.parametrize("shape", [(2, 9, 8), (8, 6, 5, 3), (1, 4, 4, 1)])
def test_images_stand_side_by_side(shape):
    before = RNG.integers(0, 256, shape).astype(np.uint8)
    shown = Denoised(title="x", before=before, after=before, is_image=True, reference=before)
    page = denoised_page(shown)
    assert page.count("<img") == 4 * min(6, shape[0])
    assert "PSNR" in page


def test_a_reference_of_another_shape_is_refused(tmp_path):
    with pytest.raises(SignalError, match="must be alike"):
        Denoised(title="x", before=np.zeros(5), after=np.zeros(5), reference=np.zeros(6))
    shown = Denoised(title="x", before=np.zeros(5), after=np.zeros(5))
    with pytest.raises(EdgeAEError, match="cannot write"):
        write_denoised_page(tmp_path / "no" / "r.html", shown)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    pytest.importorskip("torch")
    bundles = pytest.importorskip("denoiser_bundles")
    folder = tmp_path_factory.mktemp("bundles")
    bundles.stream_bundle(folder / "stream")
    bundles.image_bundle(folder / "image")
    return folder


def command(*words, code=0):
    result = CliRunner().invoke(app, ["denoise", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_shows_a_series(bundles, tmp_path):
    x = RNG.normal(0, 100, 4000).astype(np.int16)
    np.save(tmp_path / "x.npy", x)
    words = [bundles / "stream", tmp_path / "x.npy", tmp_path / "y.npy"]
    page = tmp_path / "r.html"
    command(*words, "--report", page, "--reference", tmp_path / "x.npy")
    assert "SI-SDR" in page.read_text()
    assert "samples" in page.read_text()
    assert "--report" in command(*words, "--reference", tmp_path / "x.npy", code=2)


def test_a_pipe_has_no_report(bundles, tmp_path):
    words = [bundles / "stream", "-", tmp_path / "y.raw", "--dtype", "int16"]
    assert "not on a pipe" in command(*words, "--report", tmp_path / "r.html", code=2)


def test_the_command_shows_images(bundles, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    (tmp_path / "in").mkdir()
    for i in range(3):
        image = RNG.integers(0, 256, (12, 10)).astype(np.uint8)
        pillow.fromarray(image).save(tmp_path / "in" / f"{i}.png")
    words = [bundles / "image", tmp_path / "in", tmp_path / "out"]
    page = tmp_path / "r.html"
    command(*words, "--report", page, "--reference", tmp_path / "in")
    assert page.read_text().count("<img") == 12
