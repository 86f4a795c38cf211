from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgeae.errors import SignalError
from edgeae.signal.base import SignalFile
from edgeae.signal.io import read_signal, write_signal
from edgeae.train.init import init_recipe
from edgeae.train.recipe import parse_recipe

DATA = Path(os.environ.get("EDGEAE_DATA", "/nowhere"))
RNG = np.random.default_rng(5)
T = np.arange(20_000)
WAVE = np.sin(T / 30)


def recipe_for(data, path="x.npy", **form):
    text, reasons = init_recipe(SignalFile(data=np.asarray(data), **form), path)
    return parse_recipe(text), reasons, text


def test_a_slow_signal_gets_long_strides_and_lossless_steps():
    recipe, reasons, text = recipe_for(np.rint(500 * WAVE).astype(np.int16), rate_hz=100)
    assert recipe.model.family == "conv1d"
    assert np.prod(recipe.model.strides) == 32
    assert recipe.sample_prior[0].steps[0] == 1
    assert all(step % 2 == 1 for step in recipe.sample_prior[0].steps)
    assert "20,000 samples, 1 channel of int16 at 100 Hz (3.33 min)" in reasons[0]
    assert any("whole numbers" in line for line in reasons)
    assert text.count("#") > 8


def test_white_noise_gets_short_strides():
    recipe, _, _ = recipe_for(RNG.normal(size=(20_000, 2)))
    assert np.prod(recipe.model.strides) == 8


def test_without_a_grid_no_lossless_step_is_trained():
    recipe, reasons, _ = recipe_for(WAVE + RNG.normal(size=T.size) / 50)
    assert recipe.sample_prior[0].steps[0] > 1
    assert any("no hidden step" in line for line in reasons)


def test_channels_with_their_own_grids():
    x = np.stack([np.rint(WAVE * 900) * 0.0244, np.rint(WAVE * 700) / 819.2 / 9], axis=1)
    _, reasons, _ = recipe_for(x.astype(np.float32))
    assert any("a step of its own (0.0244, 0.00013563)" in line for line in reasons)


def test_what_should_be_said_is_said():
    x = np.stack([np.rint(WAVE * 900), np.zeros(T.size), 1e-3 * np.rint(WAVE * 90)], axis=1)
    x[5, 0] = np.nan
    x[::50, 0] += 20_000
    _, reasons, _ = recipe_for(x)
    said = "\n".join(reasons)
    for words in (
        "1 holes",
        "without any change: 1",
        "100 times",
        "rare peaks",
        "rate is not known",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("shape", "dtype", "family"),
    [((200, 8, 8), "u1", "conv2d"), ((200, 28, 28), "u1", "conv2d"), ((200, 9, 7), "u1", "none"),
     ((200, 32, 24, 3), "u1", "conv2d"), ((120, 64, 64), "u2", "conv2d")],
)  # fmt: skip
def test_images(shape, dtype, family):
    recipe, _, _ = recipe_for(RNG.integers(0, 255, shape).astype(dtype))
    assert recipe.model.family == family
    assert recipe.sample_prior[0].kind == "level"
    stride = int(np.prod(recipe.model.strides)) if family != "none" else 1
    assert shape[1] % stride == shape[2] % stride == 0


@pytest.mark.parametrize("n", [1000, 1500, 3000, 100_000])
@pytest.mark.parametrize("channels", [1, 3, 9, 40])
def test_crops_fit_into_the_training_part(n, channels):
    x = np.cumsum(RNG.normal(size=(n, channels)), axis=0)
    recipe, _, _ = recipe_for(np.rint(x).astype(np.int32))
    stride = int(np.prod(recipe.model.strides))
    assert recipe.train.crop % stride == 0
    assert recipe.train.crop <= 0.81 * n
    assert recipe.sample_prior[0].crop <= 0.81 * n


def test_refusals():
    with pytest.raises(SignalError, match="at least 1000"):
        init_recipe(SignalFile(data=np.arange(999)), "x.npy")
    with pytest.raises(SignalError, match="constant"):
        init_recipe(SignalFile(data=np.full(5000, 7)), "x.npy")
    with pytest.raises(SignalError, match="at least 100 to learn"):
        init_recipe(SignalFile(data=np.zeros((9, 8, 8), np.uint8)), "x.npy")


def test_the_way_of_reading_is_kept(tmp_path):
    x = np.rint(np.stack([WAVE, -WAVE], axis=1) * 300).astype(np.int16)
    write_signal(tmp_path / "two waves.csv", x, rate_hz=10)
    signal = read_signal(tmp_path / "two waves.csv", columns=["ch1"])
    recipe = parse_recipe(init_recipe(signal, tmp_path / "two waves.csv")[0])
    assert (recipe.name, recipe.data.columns) == ("two-waves", ("ch1",))
    assert recipe.data.source == str(tmp_path / "two waves.csv")
    write_signal(tmp_path / "x.raw", x)
    signal = read_signal(tmp_path / "x.raw", dtype="int16", channels=2, rate_hz=10)
    recipe = parse_recipe(init_recipe(signal, tmp_path / "x.raw")[0])
    assert (recipe.data.dtype, recipe.data.channels, recipe.data.rate_hz) == ("<i2", 2, 10.0)
    np.savez(tmp_path / "x.npz", a=x, b=x)
    signal = read_signal(tmp_path / "x.npz", key="b")
    recipe = parse_recipe(init_recipe(signal, tmp_path / "x.npz")[0])
    assert recipe.data.key == "b"


@pytest.mark.skipif(not DATA.is_dir(), reason="EDGEAE_DATA is not set")
@pytest.mark.parametrize(
    "name", ["ecg_mitdb/100.npz", "ett/ETTh1.csv", "lfzip/pow/active_power_val.npy"]
)
def test_real_files(name):
    text, reasons = init_recipe(read_signal(DATA / name), DATA / name)
    assert parse_recipe(text).sample_prior
    assert len(reasons) >= 4
