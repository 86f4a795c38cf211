"""The quickstart in small: its promises, its report, and what a second call does."""

from __future__ import annotations

import base64
import json
import re
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

import edgeae

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from edgeae.cli import app
from edgeae.train import named
from edgeae.train.sensor import sensor_stream

SMALL = [
    "train.steps=60",
    "train.crop=512",
    "train.validate_every=30",
    "sample_prior.0.train_steps=60",
    "sample_prior.0.crop=512",
    "quantize.steps=20",
    "quantize.prior_steps=20",
    "quantize.rounds=1",
]
MODES = ["lossy", "max-error-5", "max-error-2", "lossless"]


def call(*arguments, code=0):
    settings = [part for setting in SMALL for part in ("--set", setting)]
    result = CliRunner().invoke(app, ["quickstart", *map(str, arguments), *settings])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished quickstart on 12,000 test samples: the folder and what the command said."""
    folder = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named, "sensor_stream", lambda: sensor_stream(120_000))
        named._sensor.cache_clear()
        patch.chdir(folder)
        result = call("--threads", 1, "--seed", 3)
        yield folder / "edgeae-quickstart", result
    named._sensor.cache_clear()


@pytest.fixture(scope="module")
def report(made):
    return json.loads((made[0] / "report.json").read_text())


def test_every_promise_is_checked_and_holds(report):
    assert all(check["passed"] for check in report["checks"])
    assert {check["mode"] for check in report["checks"]} == {*MODES, "device"}
    assert [mode["name"] for mode in report["modes"]] == MODES


@pytest.mark.parametrize(("name", "bound"), [("max-error-5", 5), ("max-error-2", 2)])
def test_the_streams_keep_the_bounds(made, report, name, bound):
    folder, _ = made
    x = np.load(folder / "test.npy")
    bundle = edgeae.load(folder / "sensor.bundle")
    data = (folder / "streams" / f"{name}.eae").read_bytes()
    error = np.abs(x.astype(int) - edgeae.decode(bundle, data))
    (mode,) = (mode for mode in report["modes"] if mode["name"] == name)
    assert error.max() == mode["worst_error"] <= bound
    assert mode["stream_bytes"] == len(data)
    assert mode["bits_per_sample"] == 8 * len(data) / x.size


def test_the_lossless_stream_is_lossless(made):
    folder, _ = made
    bundle = edgeae.load(folder / "sensor.bundle")
    y = edgeae.decode(bundle, (folder / "streams" / "lossless.eae").read_bytes())
    assert y.tobytes() == np.load(folder / "test.npy").tobytes()


def test_the_test_part_is_not_trained_on(made):
    x = sensor_stream(120_000)
    assert np.array_equal(np.load(made[0] / "test.npy"), x[108_000:])


def test_the_numbers_are_complete(report):
    assert report["format"] == "edgeae-report"
    assert report["seed"] == report["recipe"]["seed"] == 3
    for mode in report["modes"]:
        assert {peer["family"] for peer in mode["peers"]} == {"classical", "xz", "zlib"}
        assert all(peer["bits_per_sample"] > 0 for peer in mode["peers"])
        packets = mode["packets"]
        for side in ("encode", "decode"):
            assert 0 < packets[f"{side}_p50_ms"] <= packets[f"{side}_p99_ms"]
            assert mode["memory"][side]["peak_mib"] > mode["memory"][side]["over_numpy_mib"] > 0
    assert report["modes"][-1]["rmse"] == 0
    assert report["sizes"]["bundle_bytes"] > 10_000
    assert {"lossy", "max_error", "classical"} == set(report["curve"])
    assert set(report["seconds"]) == {"train", "quantize", "export", "code", "measure"}


def test_lossy_peers_are_no_worse(report):
    lossy = report["modes"][0]
    (classical,) = (peer for peer in lossy["peers"] if peer["family"] == "classical")
    assert classical["rmse"] <= lossy["rmse"]


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.pictures, self.links, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "img":
            self.pictures.append(values)
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)
        self.links += [v for k, v in attrs if k in ("href", "src") and not v.startswith("data:")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_holds_everything_it_shows(made, report):
    text = (made[0] / "report.html").read_text()
    page = _Page()
    page.feed(text.removeprefix("<!doctype html>"))
    assert not page.open
    assert not page.links
    assert len(page.pictures) == 4
    for picture in page.pictures:
        assert picture["alt"]
        head, data = picture["src"].split(",")
        assert head == "data:image/svg+xml;base64"
        svg = base64.b64decode(data).decode()
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert "prefers-color-scheme: dark" in svg
        assert not re.search(r'(href|src)="http', svg)
    for mode in report["modes"]:
        assert f"{mode['bits_per_sample']:.3f}" in text
    for command in report["commands"]:
        assert command.split(" #")[0] in text


def test_it_says_what_it_does_and_how_to_go_on(made, report):
    _, result = made
    for number in range(1, 7):
        assert f"[{number}/6]" in result.stderr
    assert "transform" in result.stderr
    for verb in ("init", "train", "export", "compress", "decompress"):
        assert f"  edgeae {verb} " in result.stdout
    for mode in report["modes"]:
        assert f"{mode['title']:14} {mode['bits_per_sample']:7.3f}" in result.stdout


def test_a_second_call_uses_the_finished_training(made):
    folder, _ = made
    before = {path: path.read_bytes() for path in (folder / "streams").iterdir()}
    result = call("--threads", 1, "--seed", 3, "--out", folder, "--json")
    assert "Using the finished training" in result.stderr
    assert "transform " not in result.stderr
    assert json.loads(result.stdout)["modes"]
    assert before == {path: path.read_bytes() for path in (folder / "streams").iterdir()}


def test_another_training_does_not_go_into_the_same_folder(made):
    result = call("--seed", 4, "--out", made[0], code=2)
    assert "another recipe" in result.stderr


def test_a_missing_package_is_named_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [n for n in sys.modules if n.startswith("edgeae.exporting.")]:
        if name.rpartition(".")[2] in ("quickstart", "pictures"):
            monkeypatch.delitem(sys.modules, name)
    result = call("--out", tmp_path / "out", code=1)
    assert 'pip install "edgeae[train]"' in result.stderr
    assert not (tmp_path / "out").exists()
