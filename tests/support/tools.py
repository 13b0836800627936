"""Programs from outside Python that some tests drive; absent ones skip a test by name."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time

import pytest

_ALSO_KNOWN_AS: dict[str, tuple[str, ...]] = {"chromium": ("chromium-browser", "google-chrome", "google-chrome-stable")}
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
"""Debian puts servers, such as nginx, where the path of users does not look."""


def require_tool(name: str) -> str:
    """Return the path of the program ``name``, or skip the calling test, naming what is missing.

    ``.ci/run`` installs every such program and turns the skip into a failure (see tests/conftest.py).
    """
    for candidate in (name, *_ALSO_KNOWN_AS.get(name, ())):
        if path := shutil.which(candidate, path=_PATH):
            return path
    pytest.skip(f"{name} is not installed")


def wait_until_listening(server: subprocess.Popen[str], port: int) -> None:
    """Return once the server takes connections on that port of loopback; fail with what it printed if it ends."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert server.poll() is None, server.communicate()[1]
            time.sleep(0.02)
        else:
            return
