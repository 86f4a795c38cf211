from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Keep the tests away from the user's cache folder."""
    before = os.environ.get("EDGEAE_CACHE")
    os.environ["EDGEAE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["EDGEAE_CACHE"]
    else:
        os.environ["EDGEAE_CACHE"] = before
