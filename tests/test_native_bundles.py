"""Bundles on the native engine: the same streams, also where onnxruntime is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgeae
import edgeae.native as native
from edgeae.errors import ConfigError
from edgeae.runtime.native_net import clones

pytestmark = pytest.mark.skipif(not clones(), reason="the C extension is not built")

MODELS = Path(__file__).resolve().parents[1] / "export" / "models"
EXACT = ["digits", "ecg", "imu", "mnist", "power"]


def _signal(bundle: edgeae.Bundle, length: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    spec = bundle.signal
    if spec.is_image:
        shape = (3, spec.height or 0, spec.width or 0, spec.channels)
        return rng.integers(0, 256, shape).astype(np.uint8)
    steps = np.rint(rng.normal(0, 6, (length, spec.channels)))
    walk = np.cumsum(steps, axis=0) * 0.9
    return np.clip(walk + 900, -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("name", EXACT)
def test_streams_do_not_depend_on_the_engine(name: str) -> None:
    nets = [edgeae.load(MODELS / name, engine=e) for e in ("native", "onnxruntime")]
    assert [b.encoder().engine for b in nets] == ["native", "onnxruntime"]
    assert not nets[0].self_test(force=True)
    for length in (1, 37, 1024, 9000):  # the last is cut into pieces
        x = _signal(nets[0], length)
        for promise in ({}, {"max_error": 2.0}, {"lossless": True}):
            first, second = (edgeae.encode(b, x, **promise) for b in nets)
            assert first == second
            back = [edgeae.decode(b, first) for b in nets]
            np.testing.assert_array_equal(back[0], back[1])


def test_auto_is_native_for_exact_bundles_and_asks_onnxruntime_for_others() -> None:
    assert edgeae.load(MODELS / "ecg").decoder().engine == "native"
    assert edgeae.load(MODELS / "ecg", threads=2).decoder().engine == "onnxruntime"
    assert edgeae.load(MODELS / "mnist-dense").decoder().engine == "onnxruntime"
    with pytest.raises(ConfigError, match="expected one of"):
        edgeae.load(MODELS / "ecg", engine="gpu")


def test_without_the_extension_onnxruntime_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "core", None)
    assert edgeae.load(MODELS / "ecg").encoder().engine == "onnxruntime"


def test_a_device_without_onnxruntime_codes_and_decodes(tmp_path: Path) -> None:
    program = f"""
import sys
sys.modules["onnxruntime"] = None  # as if it were not installed
import numpy as np, edgeae
bundle = edgeae.load({str(MODELS / "ecg")!r})
x = (900 + np.arange(5000) % 50).astype(np.int16)
encoder = edgeae.StreamEncoder(bundle, dtype=np.int16, channels=1)
data = encoder.write(x) + encoder.close()
assert edgeae.decode(bundle, data).shape == (5000,)
assert np.array_equal(edgeae.decode(bundle, edgeae.encode(bundle, x, lossless=True)), x)
assert bundle.exact
"""
    environment = {**os.environ, "EDGEAE_CACHE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
