"""An aarch64 Python under QEMU, made of Debian packages and wheels unpacked into a folder.

Nothing is installed on the machine: apt works on a state of its own, and nothing is run as root.
Needs ``qemu-aarch64-static`` (Debian: qemu-user-static), apt and pip.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

# onnxruntime's later aarch64 wheels read CPU registers that QEMU 7.2 does not have, and crash.
ONNXRUNTIME = "1.23.2"
TAGS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
PYTHONS = ("3.11", "3.12", "3.13")
QEMU = "qemu-aarch64-static"


def why_not() -> str | None:
    """What is missing to emulate, or None."""
    for tool in (QEMU, "apt-get", "dpkg"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return None


def cache_folder() -> Path:
    """Where the unpacked machine is kept: ``EDGEAE_PLATFORM``, or below the user's cache."""
    chosen = os.environ.get("EDGEAE_PLATFORM")
    return Path(chosen) if chosen else Path.home() / ".cache" / "edgeae-platform"


def python_command(source: Path, folder: Path | None = None) -> list[str]:
    """The command that starts the emulated Python, with ``source`` on its path.

    Args:
        source: root of edgeae's sources.
        folder: where to unpack; made on first use.
    """
    folder = folder or cache_folder()
    root, wheels = folder / "aarch64", folder / "aarch64-wheels"
    done = folder / "aarch64.done"
    if not done.exists():
        for stale in (root, wheels):
            shutil.rmtree(stale, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        version = _unpack_python(root, folder / "apt")
        _unpack_wheels(wheels, version)
        done.write_text(version)
    version = done.read_text()
    libraries = [root / "usr/lib/aarch64-linux-gnu", root / "lib/aarch64-linux-gnu"]
    variables = {
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": f"{source}:{wheels}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "EDGEAE_PURE": "1",
    }
    settings = [part for name, value in variables.items() for part in ("-E", f"{name}={value}")]
    program = root / f"usr/bin/python{version}"
    return [QEMU, "-cpu", "cortex-a72", "-L", str(root), *settings, str(program)]


def _unpack_python(root: Path, state: Path) -> str:
    """Debian's arm64 Python and the libraries it needs, below ``root``; returns its version."""
    for part in ("state/lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    apt = ["apt-get", "-q"]
    for option in (
        f"Dir::State={state / 'state'}",
        f"Dir::State::status={state / 'status'}",
        f"Dir::Cache={state / 'cache'}",
        "APT::Architecture=arm64",
        "APT::Architectures=arm64",
        f"APT::Sandbox::User={_user()}",
        "Debug::NoLocking=1",
    ):
        apt += ["-o", option]
    _run([*apt, "update"])
    version = next(v for v in PYTHONS if _works([*apt, "-s", "install", f"python{v}"]))
    _run([*apt, "-dy", "--no-install-recommends", "install", f"python{version}", "libstdc++6"])
    for package in sorted((state / "cache/archives").glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(root)])
    return version


def _unpack_wheels(folder: Path, version: str) -> None:
    """numpy and onnxruntime for aarch64."""
    digits = version.replace(".", "")
    platforms: Iterable[str] = (part for tag in TAGS for part in ("--platform", f"{tag}_aarch64"))
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", version, "--implementation", "cp", "--abi", f"cp{digits}"]
    _run([*command, *platforms, "-d", str(folder), "numpy", f"onnxruntime=={ONNXRUNTIME}"])
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()


def _user() -> str:
    import getpass

    return getpass.getuser()


def _works(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}\n{result.stderr}")
