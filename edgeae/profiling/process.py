"""What only a fresh process can tell: the time from its start to a first output, and its memory."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeae.errors import ModelError

__all__ = ["FreshProcesses", "file_memory", "growth_kib", "interpreter_kib", "run_fresh"]

_RSS_PROGRAM = """
try:
    with open("/proc/self/status") as status:
        print(next(line.split()[1] for line in status if line.startswith("VmRSS")))
except OSError:
    print(0)
"""
_STEADY_FRAMES = 200
_STARTS = ("python_ms", "import_ms", "load_ms", "first_frame_ms")

Samples = NDArray[Any]


def run_fresh(job: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """Run a job of `edgeae.profiling.child` in a process of its own.

    Returns:
        Its result, and the seconds from before its start to its first output.

    Raises:
        ModelError: it failed.
    """
    command = [sys.executable, "-m", "edgeae.profiling.child", json.dumps(job)]
    began = time.perf_counter()
    with subprocess.Popen(  # unbuffered: what read(1) leaves is for communicate
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        if process.stdout is None or process.stderr is None:
            raise AssertionError("the pipes were asked for")
        first = process.stdout.read(1)
        seconds = time.perf_counter() - began
        output, errors = process.communicate()
    if process.returncode or not first:
        lines = errors.decode(errors="replace").strip().splitlines()
        why = lines[-1] if lines else f"exit code {process.returncode}, no message"
        raise ModelError(f"the program that measures a fresh process failed: {why}")
    text = (first + output).decode().lstrip(".").strip()
    return json.loads(text.splitlines()[-1]), seconds


def file_memory(role: str, bundle: str, source: str, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Peak memory of a process that codes a .npy or decodes a file, piece by piece.

    Args:
        role: ``encode_file`` or ``decode_file``, or without ``_file``.
        bundle: path of the model.
        source: path of the signal or stream.
        keywords: arguments of the encoder.

    Returns:
        MiB of the whole process and over one that has only imported numpy (None where the platform
        cannot tell), and whether torch or onnx was loaded.

    Raises:
        ModelError: the process failed.
    """
    found, _ = run_fresh(
        {
            "role": f"{role}_file",
            "graph": False,
            "model": bundle,
            "source": source,
            "keywords": dict(keywords),
            "load": {},
            "imports": [],
        }
    )
    memory = found["memory"]
    base, peak = memory["numpy_peak_kib"], memory["peak_kib"]
    known = None not in (base, peak)
    return {
        "peak_mib": peak / 1024 if known else None,
        "over_numpy_mib": (peak - base) / 1024 if known else None,
        "torch_or_onnx_loaded": bool(found["heavy"]),
    }


def interpreter_kib() -> int | None:
    """Resident memory of a Python that has done nothing; None where the platform cannot tell."""
    done = subprocess.run(
        [sys.executable, "-c", _RSS_PROGRAM], capture_output=True, text=True, check=False
    )
    return int(done.stdout or 0) or None


def growth_kib(points: Sequence[Sequence[Any]], warm_frames: int) -> int | None:
    """How much memory grew over ``points`` of (frames, seconds, KiB), the warm-up left aside.

    Example:
        >>> growth_kib([(1, 0, 900), (300, 1, 1000), (600, 2, 1000), (900, 3, 1004)], 300)
        4
    """
    known = [kib for frames, _, kib in points if kib is not None and frames >= warm_frames]
    if len(known) < 2:
        return None
    return int(known[-1] - known[0])


@dataclass(kw_only=True)
class FreshProcesses:
    """Jobs about one model; what they read lies in a folder while this is open.

    Attributes:
        model: path of the bundle or ONNX file.
        load: arguments to open it with.
        imports: the modules that a device's program imports.
        arrays: per role the arrays it reads: of one file, or by name.
        keywords: further arguments of the stream.
        roles: the roles whose first output and memory count.
        graph: whether it is an ONNX file.
    """

    model: str
    load: Mapping[str, Any]
    imports: Sequence[str]
    arrays: Mapping[str, Samples | Mapping[str, Samples]]
    roles: Sequence[str]
    keywords: Mapping[str, Any] = field(default_factory=dict)
    graph: bool = False
    _folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="edgeae-bench-")
    )
    _sources: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> FreshProcesses:
        folder = Path(self._folder.name)
        for role, arrays in self.arrays.items():
            if isinstance(arrays, np.ndarray):
                np.save(folder / f"{role}.npy", arrays)
                self._sources[role] = str(folder / f"{role}.npy")
            else:
                np.savez(folder / f"{role}.npz", **arrays)  # type: ignore[arg-type]
                self._sources[role] = str(folder / f"{role}.npz")
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def run(self, role: str, **more: Any) -> tuple[dict[str, Any], float]:
        """Run one job; see `edgeae.profiling.child`."""
        return run_fresh(
            {
                "role": role,
                "graph": self.graph,
                "model": str(Path(self.model).resolve()),
                "source": self._sources.get(role, next(iter(self._sources.values()))),
                "keywords": dict(self.keywords),
                "load": dict(self.load),
                "imports": list(self.imports),
                "n_frames": 1,
                "seconds": None,
            }
            | more
        )

    def cold_start(self, role: str, runs: int) -> dict[str, Any]:
        """Milliseconds from the start of a process to its first output, and where they go."""
        rows = []
        for _ in range(runs):
            found, seconds = self.run(role)
            at = found["seconds"]
            ends = [at[name] for name in ("started", "import", "load", "first")]
            inside = [end - begin for begin, end in itertools.pairwise(ends)]
            rows.append([seconds, seconds - sum(inside), *inside])
        table = 1e3 * np.array(rows)
        medians = dict(zip(_STARTS, np.median(table[:, 1:], axis=0).round(2).tolist(), strict=True))
        return {
            "role": role,
            "n": runs,
            "p50_ms": round(float(np.median(table[:, 0])), 2),
            "min_ms": round(float(table[:, 0].min()), 2),
            "max_ms": round(float(table[:, 0].max()), 2),
            **medians,
        }

    def memory(self, runs: int) -> dict[str, Any]:
        """KiB of resident memory, each from a fresh process: medians of so many runs."""
        seen: dict[str, list[int | None]] = {}
        heavy: set[str] = set()
        for _ in range(runs):
            seen.setdefault("interpreter_kib", []).append(interpreter_kib())
            for role in ("import", "load", *self.roles):
                found, _ = self.run(role, n_frames=_STEADY_FRAMES)
                heavy |= set(found["heavy"])
                memory = found["memory"]
                wanted = {"import": ("numpy", "import"), "load": ("load",)}
                for name in wanted.get(role, ("steady", "peak")):
                    key = f"{name}_kib" if role in wanted else f"{role}_{name}_kib"
                    seen.setdefault(key, []).append(memory[f"{name}_kib"])
        result: dict[str, Any] = {"n": runs, "steady_frames": _STEADY_FRAMES}
        for name, values in seen.items():
            known = [value for value in values if value is not None]
            result[name] = round(statistics.median(known)) if known else None
        result["torch_or_onnx_loaded"] = bool(heavy)
        return result

    def growth(self, *, n_frames: int | None, seconds: float) -> dict[str, Any]:
        """Memory while one process codes and decodes ``n_frames``, or as many as time permits."""
        found, _ = self.run("grow", n_frames=n_frames or 0, seconds=seconds)
        growth: dict[str, Any] = found["growth"]
        points = growth["points"]
        growth["growth_kib"] = growth_kib(points, growth["warm_frames"])
        growth["seconds"] = points[-1][1]
        return growth
