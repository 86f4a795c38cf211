"""A device has numpy and onnxruntime, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tiny_bundle import prior_only_bundle, series_bundle

BLOCK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
"""

ROUND_TRIP = """
import hashlib
import numpy as np
import edgeae

bundle = edgeae.load(sys.argv[1])
rng = np.random.default_rng(0)
x = np.rint(np.cumsum(rng.logistic(0, 3, 1500))).astype(np.int16)
digest = hashlib.sha256()
for promise in [{"lossless": True}, {"max_error": 4}] + [{}] * (bundle.net is not None):
    for profile in ("file", "radio"):
        data = edgeae.encode(bundle, x, profile=profile, frame_length=100, **promise)
        y = edgeae.decode(bundle, data)
        assert np.abs(y.astype(int) - x).max() <= promise.get("max_error", 99 * (not promise))
        digest.update(data)
print(digest.hexdigest())
"""


def python(code: str, *arguments: object, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def block(*names: str) -> str:
    return f"BLOCKED = {names!r}" + BLOCK


@pytest.mark.parametrize("module", ["edgeae", "edgeae.cli", "edgeae.tasks.stream"])
def test_nothing_heavy_is_imported(module):
    code = f"import sys, {module}\nprint(*sorted(m.split('.')[0] for m in sys.modules))"
    loaded = set(python(code).split())
    assert not loaded & {"torch", "onnx", "onnxruntime", "onnxscript", "matplotlib", "PIL"}
    if module == "edgeae":
        assert "numpy" not in loaded


def test_public_names_are_there():
    code = "import edgeae\nfor name in edgeae.__all__: getattr(edgeae, name)\nprint(dir(edgeae))"
    assert "StreamEncoder" in python(code)


def test_a_device_needs_neither_torch_nor_onnx(tmp_path):
    series_bundle(tmp_path / "b")
    code = block("torch", "onnx", "onnxscript", "matplotlib", "PIL", "typer", "scipy") + ROUND_TRIP
    assert len(python(code, tmp_path / "b")) == 64


def test_a_model_without_nets_does_not_even_need_onnxruntime(tmp_path):
    prior_only_bundle(tmp_path / "b")
    code = block("torch", "onnx", "onnxruntime") + ROUND_TRIP
    assert len(python(code, tmp_path / "b")) == 64


def test_without_onnxruntime_a_net_says_what_to_install(tmp_path):
    series_bundle(tmp_path / "b")
    code = block("onnxruntime") + (
        "import edgeae, numpy as np\n"
        "try:\n    edgeae.encode(edgeae.load(sys.argv[1]), np.zeros(9, np.int16) + 1)\n"
        "except edgeae.ModelError as error:\n    print(error)"
    )
    # A constant signal needs no net; one that moves does.
    code = code.replace("np.zeros(9, np.int16) + 1", "np.arange(9, dtype=np.int16)")
    assert "pip install onnxruntime" in python(code, tmp_path / "b")


def test_the_extension_changes_no_byte(tmp_path):
    series_bundle(tmp_path / "b")
    code = "import sys\n" + ROUND_TRIP
    assert python(code, tmp_path / "b") == python(code, tmp_path / "b", EDGEAE_PURE="1")
