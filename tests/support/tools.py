"""Programs from outside Python that some tests drive; absent ones skip a test by name."""

from __future__ import annotations

import shutil

import pytest

_ALSO_KNOWN_AS: dict[str, tuple[str, ...]] = {"chromium": ("chromium-browser", "google-chrome", "google-chrome-stable")}


def require_tool(name: str) -> str:
    """Return the path of the program ``name``, or skip the calling test, naming what is missing.

    ``.ci/run`` installs every such program and turns the skip into a failure (see tests/conftest.py).
    """
    for candidate in (name, *_ALSO_KNOWN_AS.get(name, ())):
        if path := shutil.which(candidate):
            return path
    pytest.skip(f"{name} is not installed")
