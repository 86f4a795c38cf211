"""bench/denoise runs, judges right, says what is missing, and its tables and pictures are there."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
pytest.importorskip("torch")
pytest.importorskip("scipy")


@pytest.fixture
def bench(monkeypatch):
    """The folder as a script sees it; its modules are forgotten afterwards."""
    before = set(sys.modules)
    for folder in ("bench", "bench/denoise"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "bench")):
            del sys.modules[name]


def test_a_missing_peer_is_a_row_that_says_what_to_install(bench, monkeypatch, capsys):
    import common

    monkeypatch.setitem(common.PEERS, "no_such_peer", "no-such-peer")
    there, (row,) = common.usable("images", "no_such_peer", "peer")
    assert not there
    assert dict(zip(common.FIELDS, row, strict=True))["metric"] == "left_out"
    assert "pip install no-such-peer" in capsys.readouterr().err


def test_a_missing_bundle_is_a_row(bench, tmp_path):
    import common

    bundle, (row,) = common.bundle_of("ecg", tmp_path)
    assert bundle is None
    assert "denoise-ecg" in row[-1]


def test_the_option_with_the_best_score_is_chosen(bench):
    import common

    options = {str(k): (lambda y, k=k: y * k) for k in (1, 2, 3)}
    name, run = common.tuned(options.items(), lambda run: -abs(run(np.ones(1))[0] - 2))
    assert (name, run(np.ones(1))[0]) == ("2", 2)


def test_rows_replace_those_of_their_task_alone(bench, monkeypatch, tmp_path):
    import common
    import streams

    monkeypatch.setattr(streams, "RESULTS", tmp_path)

    def row(task, value):
        return (task, "x", "0", "edgeae", "snr", value, "dB", 1, "")

    common.file_rows("b", [row("b", 1.0)])
    common.file_rows("a", [row("a", 2.0)])
    common.file_rows("b", [row("b", 3.0)])
    with (tmp_path / "denoise.csv").open(newline="") as file:
        found = [(r["task"], r["value"]) for r in csv.DictReader(file)]
    assert found == [("a", "2"), ("b", "3")]
    assert (tmp_path / "denoise.system.json").exists()


def test_image_methods_take_noise_away(bench):
    pytest.importorskip("skimage")
    import images

    y, x = np.mgrid[:48, :48]
    clean = np.rint(128 + 80 * np.sin(x / 9) * np.cos(y / 11)).astype(np.uint8)
    noisy = images.noisy_image(clean, 0, 25.0, clipped=False)
    before = images.scores(clean, noisy)
    methods = [m for m in images.classical(25.0, [clean], slow=False) if not isinstance(m, list)]
    assert len(methods) == 4
    for method in methods:
        after = images.scores(clean, method.run(noisy))
        assert after["psnr"] > before["psnr"] + 3, method.name
        assert method.chosen.endswith("tuned on training images")


def test_series_filters_take_noise_away(bench):
    pytest.importorskip("pywt")
    import waves
    from series import Pair

    rng = np.random.default_rng(0)
    t = np.arange(2000)[:, None] / 200.0
    clean = 300 * np.sin(2 * np.pi * np.array([3.0, 5.0]) * t)
    pairs = [
        Pair(name=f"a/{i}", clean=clean, noisy=clean + rng.normal(0, 200, clean.shape))
        for i in range(2)
    ]
    before = waves.score(lambda y: y, pairs)
    methods = waves.filters("vibration", pairs[:1], 200.0)
    assert len(methods) == 6
    for method in methods:
        floor = before - 1 if method.name.endswith("causal") else before + 2
        assert waves.score(method.run, pairs[1:]) > floor, method.name


def test_faults_and_silence(bench):
    import robust

    clean = np.sin(np.arange(4000) / 9.0)[:, None] * 100
    noisy = clean + np.random.default_rng(0).normal(0, 20, clean.shape)
    faults = list(robust.faults(clean, noisy, np.zeros(1)))
    runs = {"edgeae": np.nan_to_num, "other": np.nan_to_num}
    rows = list(robust.compared("x", iter(faults), runs, lambda a, b: -np.abs(a - b).mean(), "snr"))
    assert len(rows) == 3 * len(faults) == 15
    assert len(list(robust.faults(clean, noisy, np.full(1, 9.0)))) == 6
    assert robust.silence("x", 0 * clean, clean, lambda y: y)[5] == 120
    with pytest.raises(AssertionError, match="no number"):
        list(robust.compared("x", iter(faults), {"x": lambda y: y}, lambda *_: 0.0, "snr"))


def test_tables_read_what_is_there(bench):
    import denoise_tables

    for name, table in denoise_tables.DENOISE_TABLES.items():
        assert isinstance(table(), str), name
    assert denoise_tables.summary().count("\n") >= 1


@pytest.mark.parametrize("name", ["ecg.svg", "vibration.svg", "speech.svg", "image.png"])
def test_pictures_are_small(name):
    import xml.etree.ElementTree as ET

    path = ROOT / ".assets" / f"denoise-{name}"
    if not path.exists():
        pytest.skip("not drawn yet")
    assert path.stat().st_size < 200_000
    if path.suffix == ".svg":
        ET.parse(path)
