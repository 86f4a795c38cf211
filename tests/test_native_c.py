"""The C kernels without Python: in plain C99, and for Arm under emulation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from native_graphs import random_dense_graph, random_image_graph, random_series_graph

from edgeae.runtime.layout import has_positions, lay_out
from edgeae.runtime.onnx_file import read_onnx
from edgeae.runtime.program import Compiler
from edgeae.runtime.session import open_session

HERE = Path(__file__).parent
NATIVE = HERE.parent / "edgeae" / "native"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of random nets with an input each, and what onnxruntime makes of it."""
    rng = np.random.default_rng(2)
    parts = []
    for make in (random_series_graph, random_image_graph, random_dense_graph):
        for seed in range(100, 112):
            graph, shapes = make(seed)
            compiler = Compiler(read_onnx(graph), exact=True)
            for shape in shapes:
                program = compiler.compile(shape[1:])
                rows = 1 if has_positions(program) else shape[0]
                layout = lay_out(program, rows=rows)
                x = rng.integers(-2047, 2048, shape).astype(np.float32)
                y = open_session(graph, name="g.onnx").run(x)
                sizes = [len(layout.words), len(layout.constants), shape[0]]
                sizes += [x.size // shape[0], y.size // shape[0]]
                parts += [np.array(sizes, np.int64), layout.words, layout.constants, x, y + 0.0]
    path = tmp_path_factory.mktemp("programs") / "programs.bin"
    path.write_bytes(b"".join(part.tobytes() for part in parts))
    return path


def _replay(programs: Path, compiler: list[str], run: list[str]) -> str:
    binary = programs.with_name("replay")
    sources = [str(HERE / "native_replay.c"), str(NATIVE / "net.c")]
    flags = ["-O2", "-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE}"]
    subprocess.run([*compiler, *flags, *sources, "-lm", "-o", str(binary)], check=True)
    done = subprocess.run(
        [*run, str(binary), str(programs)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("flag", ["-DEAE_PLAIN_C", "-O3"])
def test_plain_c_gives_the_same_bits(programs: Path, flag: str) -> None:
    out = _replay(programs, ["cc", flag, "-Wno-unknown-pragmas"], [])
    assert out.strip().endswith(" c") == (flag == "-DEAE_PLAIN_C")


@pytest.mark.platform
def test_arm_gives_the_same_bits(programs: Path) -> None:
    if shutil.which("qemu-aarch64-static") is None:
        pytest.skip("qemu-aarch64-static is not installed")
    if shutil.which("aarch64-linux-gnu-gcc"):
        compiler = ["aarch64-linux-gnu-gcc", "-static"]
    elif shutil.which("zig"):
        compiler = ["zig", "cc", "-target", "aarch64-linux-musl"]
    elif shutil.which("python-zig"):
        compiler = ["python-zig", "cc", "-target", "aarch64-linux-musl"]
    else:
        pytest.skip("there is no compiler for aarch64: zig (pip install ziglang) will do")
    assert "neon" in _replay(programs, compiler, ["qemu-aarch64-static"])
