"""The environment of tests: what the developer set for their own Keyhall takes no part in it."""

from __future__ import annotations

import os

from app.settings import Settings


def forget_settings() -> None:
    """Take every setting out of this process: its variables, and the project's `.env`."""
    for name in Settings.names():
        os.environ.pop(name, None)
        os.environ.pop(f"{name}_FILE", None)
    Settings.env_file = None


def process_environment(**settings: str) -> dict[str, str]:
    """Return the environment for a process of Keyhall that knows ``settings`` and no others.

    An empty NAME_FILE hides what the project's `.env` says about NAME, and sets nothing.
    """
    hidden = {f"{name}_FILE": "" for name in Settings.names() if not name.endswith("_FILE")}
    return {**os.environ, **hidden, **settings}
