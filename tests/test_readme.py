"""What the README shows runs, and its tables show the committed results."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edgeae.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that looks like a clone to relative paths."""
    if not (ROOT / "export" / "models" / "ecg-own").is_dir():
        pytest.skip("no exported model")
    (tmp_path / "export").symlink_to(ROOT / "export")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_example(clone):
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})


def test_the_round_trip_on_the_command_line(clone):
    x = np.rint(np.cumsum(np.random.default_rng(0).logistic(0, 3, 5000))).astype(np.int16)
    np.save(clone / "my.npy", x)
    (lines,) = [block for block in blocks("sh") if "edgeae decompress" in block]
    for line in lines.splitlines():
        _, *arguments = shlex.split(line, comments=True)
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert np.abs(np.load(clone / "back.npy").astype(int) - x).max() <= 5


def test_every_command_exists_with_these_options():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    lines = [line.rpartition("bin/")[2] for line in lines]
    shown = [shlex.split(line, comments=True) for line in lines if line.startswith("edgeae ")]
    assert {words[1] for words in shown} >= {"init", "train", "export", "verify", "quickstart"}
    for _, name, *arguments in shown:
        result = CliRunner().invoke(app, [name, "--help"])
        assert result.exit_code == 0, name
        for option in (word for word in arguments if word.startswith("--")):
            assert option in result.output, (name, option)


def test_the_first_screen_has_the_two_commands():
    commands = [block for block in blocks("sh") if "venv" in block]
    assert len(commands) == 2
    assert all(len(command.splitlines()) == 1 for command in commands)
    assert README.index(commands[1]) < 2000


def test_links_point_at_files():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target


def test_tables_show_the_committed_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    spec = importlib.util.spec_from_file_location("tables", ROOT / "bench" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.stale() == []
