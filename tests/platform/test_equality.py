"""Every exported bundle gives the same bits on x86, on aarch64 and in WebAssembly.

Minutes of emulation and some downloads: ``pytest -m platform``.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.platform

HERE = Path(__file__).parent
MODELS = HERE.parent.parent / "export" / "models"


@pytest.fixture(scope="module")
def equality():
    pytest.importorskip("onnx")
    spec = importlib.util.spec_from_file_location("equality", HERE / "equality.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["equality"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(
    scope="module", params=sorted(MODELS.glob("*/manifest.json")), ids=lambda path: path.parent.name
)
def comparison(request, equality, tmp_path_factory):
    found = equality.Comparison(request.param.parent, tmp_path_factory.mktemp("equality"))
    if not found.exact:
        pytest.skip("this bundle is not exact, and says so")
    assert not found.host["self_test"]
    return found


@pytest.mark.parametrize("platform", ["aarch64", "web"])
def test_the_same_bits(equality, comparison, platform):
    reason = equality.why_not(platform)
    if reason:
        pytest.skip(reason)
    found = comparison.run(platform)
    assert len(found["hashes"]) >= 4 * len(comparison.windows)
    assert not comparison.differences(found)
