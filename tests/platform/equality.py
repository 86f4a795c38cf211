"""Does a bundle give the same bits here, on aarch64 (QEMU) and in WebAssembly (Node)?

    python tests/platform/equality.py export/models/ecg-own [BUNDLE ...]

Everything is compared as SHA-256: outputs of every graph at every optimisation level for 200 random
windows and more, golden vectors, coded streams (the host codes with the C extension where it has
one, the other side in Python), and the samples that the host's streams decode to over there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

import emulator  # noqa: E402

N_WINDOWS = 208
N_SIGNAL = 512
N_SAMPLES = 4096  # of all channels together: an emulated Python codes them one by one
N_IMAGES = 2
ONNXRUNTIME_WEB = "onnxruntime-web@1.23.2"
PLATFORMS = ("aarch64", "web")


def why_not(platform: str) -> str | None:
    """What this machine lacks to run a platform, or None."""
    if platform == "aarch64":
        return emulator.why_not()
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return None


class Comparison:
    """One bundle: what the host makes of it, to hold others against.

    Args:
        bundle: folder of the bundle.
        work: an empty folder for windows, tensors and streams.
    """

    def __init__(self, bundle: Path, work: Path) -> None:
        import onnx

        from edgeae import load
        from edgeae.exporting.verify import probe_windows
        from edgeae.runtime.bundle import read_arrays

        self.bundle, self.work = bundle.resolve(), work
        model = load(bundle)
        self.exact = model.manifest.exact
        rng = np.random.default_rng(2)
        self.windows: dict[str, np.ndarray] = {}
        keyed: dict[str, np.ndarray] = {}
        for name in sorted(n for n in model.files if n.endswith(".onnx")):
            graph = onnx.load_model_from_string(model.files[name])
            self.windows[name] = probe_windows(model, name, graph, N_WINDOWS, rng)
            (source,), (target,) = graph.graph.input, graph.graph.output
            keyed[f"{name}:{source.name}:{target.name}"] = self.windows[name]
        golden = read_arrays(model.files["golden.npz"], "golden.npz")["signal"]
        spec = model.signal
        if spec.is_image:
            shape = (-1, spec.height or 0, spec.width or 0, spec.channels)
            signal = golden.reshape(shape)[:N_IMAGES]
        else:
            length = min(N_SIGNAL, N_SAMPLES // spec.channels)
            signal = np.resize(golden[0], (length, spec.channels))
        np.savez(work / "windows.npz", signal=signal, **keyed)
        self.host = self._engine([sys.executable], work / "host", {"PYTHONPATH": str(ROOT)})
        for stream in sorted((work / "host").iterdir()):
            (work / f"host-{stream.name}").write_bytes(stream.read_bytes())

    def run(self, platform: str) -> dict[str, Any]:
        """What another platform makes of it: its versions and ``hashes``."""
        return self._aarch64() if platform == "aarch64" else self._web()

    def differences(self, found: dict[str, Any]) -> list[str]:
        """Names of everything that is not equal to the host's."""
        host = self.host["hashes"]
        unequal = [name for name, value in found["hashes"].items() if host.get(name) != value]
        return unequal + [f"golden: {text}" for text in found.get("self_test", ())]

    def _engine(self, python: list[str], out: Path, variables: dict[str, str]) -> dict[str, Any]:
        out.mkdir(exist_ok=True)
        command = [*python, str(HERE / "engine.py"), str(self.bundle)]
        return _json_of([*command, str(self.work / "windows.npz"), str(out)], variables)

    def _aarch64(self) -> dict[str, Any]:
        out = self.work / "aarch64"
        out.mkdir()
        for stream in self.work.glob("host-*"):
            (out / stream.name).write_bytes(stream.read_bytes())
        cache = {"EDGEAE_CACHE": str(self.work / "cache")}
        return self._engine(emulator.python_command(ROOT), out, cache)

    def _web(self) -> dict[str, Any]:
        modules = emulator.cache_folder() / "web"
        if not (modules / "node_modules" / "onnxruntime-web").is_dir():
            modules.mkdir(parents=True, exist_ok=True)
            npm = ["npm", "install", "--no-save", "--prefix", str(modules), ONNXRUNTIME_WEB]
            subprocess.run(npm, check=True, capture_output=True)
        jobs = []
        for name, x in self.windows.items():
            data = self.work / f"{name}.f32"
            x.astype("<f4").tofile(data)
            graph = str(self.bundle / name)
            jobs.append({"name": name, "graph": graph, "shape": x.shape, "data": str(data)})
        listed = self.work / "jobs.json"
        listed.write_text(json.dumps(jobs))
        return _json_of(["node", str(HERE / "web.mjs"), str(modules), str(listed)], {})


def _json_of(command: list[str], variables: dict[str, str]) -> dict[str, Any]:
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | variables
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}\n{result.stderr[-4000:]}")
    parsed: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return parsed


def main(arguments: list[str]) -> int:
    """Compare the bundles named on the command line; 3 if anything differs."""
    broken = 0
    for name in arguments:
        with tempfile.TemporaryDirectory() as work:
            comparison = Comparison(Path(name), Path(work))
            told = {key: value for key, value in comparison.host.items() if key != "hashes"}
            print(f"{name}: host {told}")
            for platform in PLATFORMS:
                reason = why_not(platform)
                if reason:
                    print(f"  {platform}: skipped, {reason}")
                    continue
                found = comparison.run(platform)
                unequal = comparison.differences(found)
                broken += bool(unequal)
                told = {key: value for key, value in found.items() if key != "hashes"}
                verdict = f"{len(found['hashes'])} hashes equal" if not unequal else "DIFFERENT"
                print(f"  {platform}: {verdict} {told}", *unequal, sep="\n    ")
    return 3 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
