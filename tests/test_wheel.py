"""The wheel, installed without any extra, does the device's work.

Takes about a minute and an index to install from, so it is not in the default run:
``pytest -m wheel``; ``.ci/run`` does it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import series_bundle

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).parent.parent
WORKSTATION = ("torch", "onnx", "onnxscript", "matplotlib", "PIL", "pooch", "sklearn", "scipy")


def run(*command: object, **environment: str) -> str:
    result = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout.strip()


def build(folder: Path, **environment: str) -> Path:
    """The wheel of a copy of the sources, so that the clone's own build products stay out."""
    source = folder / "source"
    source.mkdir(parents=True)
    listed = run("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard").splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source, **environment
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """Folder of the commands of an environment that has the wheel and what it depends on."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build(folder)
    run(sys.executable, "-m", "venv", folder / "env")
    commands = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    run(commands / "python", "-m", "pip", "install", "-q", wheel)
    return wheel, commands


def test_the_wheel_holds_every_module_and_nothing_else(device):
    wheel, _ = device
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "edgeae").rglob("*")
        if path.suffix in {".py", ".c", ".h", ".md", ".typed"}
    }
    for folder in ("devices", "recipes"):
        wanted |= {
            f"edgeae/{folder}/{path.name}" for path in (ROOT / "export" / folder).glob("*.*")
        }
    extra = {name for name in names - wanted if not name.startswith("edgeae/native/_core.")}
    assert wanted <= names
    assert not extra


def test_a_device_gets_neither_torch_nor_onnx(device):
    _, commands = device
    code = (
        "import importlib.util as u; "
        f"print([name for name in {WORKSTATION!r} if u.find_spec(name) is not None])"
    )
    assert run(commands / "python", "-c", code) == "[]"
    run(commands / "python", "-m", "pip", "check")


def test_the_device_side_works(device, tmp_path):
    _, commands = device
    edgeae = commands / "edgeae"
    assert run(edgeae, "--version").startswith("edgeae ")
    assert "ecg-own" in run(edgeae, "recipes")
    series_bundle(tmp_path / "b")
    rng = np.random.default_rng(0)
    x = np.rint(np.cumsum(rng.logistic(0, 3, 5000))).astype(np.int16)
    np.save(tmp_path / "x.npy", x)
    for arguments, bound in [((), 99), (("--max-error", 4), 4), (("--lossless",), 0)]:
        for model in ("b", "none")[: 2 if arguments else 1]:
            bundle = tmp_path / "b" if model == "b" else "none"
            run(edgeae, "compress", bundle, tmp_path / "x.npy", tmp_path / "x.eae", *arguments)
            run(edgeae, "inspect", tmp_path / "x.eae")
            run(edgeae, "decompress", bundle, tmp_path / "x.eae", tmp_path / "y.npy")
            y = np.load(tmp_path / "y.npy")
            assert y.dtype == x.dtype
            assert np.abs(y.astype(int) - x).max() <= bound


def test_a_workstation_command_says_what_to_install(device, tmp_path):
    _, commands = device
    result = subprocess.run(
        [str(commands / "edgeae"), "train", "digits", "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert 'pip install "edgeae[train]"' in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_compiler_the_wheel_is_pure(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    wheel = build(tmp_path, CC="/bin/false")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "edgeae/native/module.c" in names
    assert not [name for name in names if "_core." in name]
