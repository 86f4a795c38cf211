"""``edgeae bench`` on denoisers."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from denoiser_bundles import image_bundle, speech_bundle, stream_bundle

import edgeae.profiling.denoise_profile as denoise_profile
from edgeae.cli import app
from edgeae.errors import SignalError
from edgeae.profiling import rows
from edgeae.profiling.confirm import is_denoiser, profile
from edgeae.profiling.denoise_profile import denoiser_again
from edgeae.profiling.options import BenchOptions
from edgeae.profiling.table import lines_of


@pytest.fixture(autouse=True)
def _few_processes(monkeypatch):
    for name in ("_COLD_STARTS", "_MEMORY_RUNS"):
        monkeypatch.setattr(denoise_profile, name, 1)
    monkeypatch.setattr(rows, "_WARM_STARTS", 1)


def test_a_streams_figures(tmp_path):
    stream_bundle(tmp_path / "b")
    options = BenchOptions(duration_s=0.2, batch=3, growth_frames=400)
    found = profile(str(tmp_path / "b"), options)
    data = found.data
    assert data["subject"]["task"] == "denoise"
    assert data["options"]["frame_items"] == 64
    (row,) = data["latency"]
    assert row["whole"]["p99_us"] >= row["whole"]["p50_us"] > 0
    assert row["real_time_factor"] > 0
    assert {"net", "samples to numbers", "rest"} <= {stage["stage"] for stage in row["stages"]}
    assert data["batch"][0]["frames_per_call"] == 3
    assert data["file"][0]["items"] >= 16 * 64
    assert data["growth"]["n_frames"] == 400
    assert not data["memory"]["torch_or_onnx_loaded"]
    text = "\n".join(lines_of(found))
    assert "blocks of 64, denoise" in text
    assert "x real time" in text
    again = denoiser_again(str(tmp_path / "b"), options, {"latency"})
    assert again["latency"][0]["promise"] == row["promise"]


def test_images_and_sound_and_comparison(tmp_path):
    image_bundle(tmp_path / "i")
    assert is_denoiser(str(tmp_path / "i"))
    x = np.zeros((2, 16, 16), np.uint8)
    np.save(tmp_path / "x.npy", x)
    arguments = ["bench", tmp_path / "i", "--duration", "0.2", "--batch", "2", "--input"]
    arguments += [tmp_path / "x.npy", "--growth", "400", "--json", tmp_path / "i.json"]
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    assert "1 image(s), denoise" in done.output
    told = json.loads((tmp_path / "i.json").read_text())
    assert told["latency"][0]["real_time_factor"] is None
    speech_bundle(tmp_path / "s")
    subject = denoise_profile._Subject(str(tmp_path / "s"), BenchOptions())
    assert subject.items == 256  # 16 ms at 16 kHz, whole hops
    with pytest.raises(SignalError, match="longer"):
        denoise_profile._Subject(
            str(tmp_path / "i"),
            BenchOptions(input=str(tmp_path / "x.npy"), frame_items=5),
        )
