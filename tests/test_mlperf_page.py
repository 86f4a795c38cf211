"""bench/mlperf.md shows the committed results, and these are what was to be reached."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import edgeae

ROOT = Path(__file__).parent.parent
FLOAT = "ad01.h5"


@pytest.fixture(scope="module")
def page():
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        spec = importlib.util.spec_from_file_location("mlperf", ROOT / "bench" / "mlperf.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "bench"))


def value(net: str, metric: str, against: str = FLOAT) -> float:
    with (ROOT / "bench" / "results" / "mlperf.csv").open(newline="") as file:
        (found,) = (
            row
            for row in csv.DictReader(file)
            if (row["net"], row["metric"], row["against"]) == (net, metric, against)
        )
    return float(found["value"])


def test_the_page_shows_the_committed_results(page):
    assert not page.stale()


def test_what_was_to_be_reached():
    assert value("float.onnx", "score", "") == pytest.approx(9.491290, abs=1e-4)
    for net, least in (("int8.onnx", 42), ("dyadic.onnx", 40), ("dyadic_qdq.onnx", 40)):
        assert value(net, "sqnr") >= least
        assert abs(value(net, "score_change")) <= 0.7
        assert value(net, "size", "") <= 300_000
    assert value("ad01_fp32.tflite", "sqnr_all") == pytest.approx(38.4, abs=0.1)


def test_the_committed_bundle_codes_frames_exactly():
    bundle = edgeae.load(ROOT / "export" / "models" / "ad01")
    assert bundle.exact
    assert (bundle.signal.channels, bundle.net.fixed_window) == (128, 5)
    assert "MIT" in bundle.files["README.md"].decode()
    assert b"Hitachi" in bundle.files["LICENSE.ad01"]
    frames = np.random.default_rng(0).normal(-30, 8, (12, 128)).astype(np.float32)
    back = edgeae.decode(bundle, edgeae.encode(bundle, frames, max_error=0.5))
    assert np.abs(back.astype(np.float64) - frames).max() <= 0.5
