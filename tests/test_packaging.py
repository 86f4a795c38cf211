"""What the package says about itself holds."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
TOP_LEVEL = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} | {
    "edgeae",
    "tests",
    "export",
    "bench",
}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed(project):
    folders = {path.parent for path in (ROOT / "edgeae").rglob("*.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    listed = set(project["tool"]["setuptools"]["packages"])
    assert listed == found | {"edgeae.devices", "edgeae.recipes"}


def test_every_c_source_and_header_is_listed(project):
    (extension,) = project["tool"]["setuptools"]["ext-modules"]
    listed = set(extension["sources"]) | set(extension["depends"])
    found = {
        str(path.relative_to(ROOT))
        for pattern in ("*.c", "*.h")
        for path in (ROOT / "edgeae" / "native").glob(pattern)
    }
    assert listed == found


def test_recipes_are_found_as_a_package():
    there = {path.name for path in resources.files("edgeae.recipes").iterdir()}
    assert {path.name for path in (ROOT / "export" / "recipes").glob("*.toml")} <= there


def test_the_version_is_in_the_changelog(project):
    version = project["project"]["version"]
    assert f"\n## {version} - " in (ROOT / "CHANGELOG.md").read_text()


def test_nothing_else_lies_on_top():
    """In a clone: build products and virtual environments are ignored by git."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    import subprocess

    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    tops = {name.partition("/")[0] for name in listed if name}
    assert {top for top in tops if not top.startswith(".")} <= TOP_LEVEL
