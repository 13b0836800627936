"""Secrets that somebody wrote into a configuration file: found by their name or their shape, named by file and line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from app.domain.diagnosis import Check, failed, together, warning
from app.domain.key_shapes import find_key, looks_random
from app.domain.placeholders import is_placeholder
from app.infrastructure.redaction import names_a_secret
from app.settings.sources import SECRETS

_CONFIGURATION: Final = re.compile(
    r"\.env(\..+)?|.*\.(ya?ml|toml|ini|cfg|conf|json|properties|service|env|tfvars)|(Dockerfile|Caddyfile|Makefile).*",
    re.IGNORECASE,
)
_TEMPLATE: Final = re.compile(r".*\.(example|sample|template|dist)")
_SKIPPED: Final = frozenset({".git", ".venv", "venv", "node_modules", "__pycache__", "tests", "docs", "alembic", "app"})
_DEEPEST: Final = 3
_MOST_FILES: Final = 500
_LARGEST_FILE: Final = 256 * 1024
_LONGEST_LINE: Final = 4096
_SHORTEST: Final = 12
_ADDRESS: Final = re.compile(r"://[^\s/:@]*:(?P<password>[^\s/@]+)@")
# NAME=value, NAME: value, "name": "value", Environment=NAME=value
_ASSIGNED: Final = re.compile(r"""["']?(?P<name>[A-Za-z][\w.-]*)["']?\s*(?::=|[=:])\s*["']?(?P<value>[^\s"',}]+)""")


def hardcoded_secrets(project: Path, data_dir: Path, *, own: Path, production: bool) -> Check:
    """Look through the configuration files of the project and of DATA_DIR.

    ``own`` is the file `.env` that Keyhall reads: the place for secrets of a development install.
    """
    found: list[Check] = []
    if _tracked(own):
        found.append(
            failed(
                "hardcoded secrets",
                f"{own} is under version control, with every secret in it",
                f"run `git rm --cached {own.name}`, and rotate each secret that is in it",
            )
        )
    for file in _files(project, data_dir):
        lines = list(_lines(file))
        if not lines:
            continue
        named = f"{file}, line {', '.join(map(str, lines[:5]))}{' and more' if len(lines) > 5 else ''}"
        if file == own:
            if production:
                found.append(
                    warning(
                        "hardcoded secrets",
                        f"secrets are in {named}",
                        "in production give each as NAME_FILE, a file that only the user who runs Keyhall may read",
                    )
                )
            continue
        if _in_environments(file, project):
            continue
        found.append(
            failed(
                "hardcoded secrets",
                f"a secret stands in {named}",
                "move it to a file that a NAME_FILE setting names, and rotate it where others could read it",
            )
        )
    return together("hardcoded secrets", found, "no configuration file holds a secret")


def _in_environments(file: Path, project: Path) -> bool:
    """Whether it is one of env/.env.<ENV>, which `make keys-generate` fills and version control ignores."""
    return file.parent == project / "env" and not _tracked(file)


def _files(*directories: Path) -> Iterator[Path]:
    left = _MOST_FILES
    for directory in directories:
        for parent, below, names in os.walk(directory):
            deep = len(Path(parent).relative_to(directory).parts) >= _DEEPEST
            below[:] = [] if deep else sorted(set(below) - _SKIPPED)
            for name in sorted(names):
                if _CONFIGURATION.fullmatch(name) and not _TEMPLATE.fullmatch(name):
                    left -= 1
                    if left < 0:
                        return
                    yield Path(parent, name)


def _lines(file: Path) -> Iterator[int]:
    """The numbers of the lines that hold a secret; a file that cannot be read has none."""
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST_FILE:
            return
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for number, line in enumerate(text.splitlines(), 1):
        if _holds_secret(line[:_LONGEST_LINE]):
            yield number


def _holds_secret(line: str) -> bool:
    if line.lstrip().startswith(("#", "//", ";")):
        return False
    if (key := find_key(line)) is not None and not is_placeholder(key):
        return True
    passwords = (each["password"] for each in _ADDRESS.finditer(line))
    if any(not each.startswith(("$", "{", "%")) and not is_placeholder(each) for each in passwords):
        return True
    return any(
        _is_secret(each["name"], each["value"]) for each in _ASSIGNED.finditer(line.replace("Environment=", " "))
    )


def _is_secret(name: str, value: str) -> bool:
    if name.lower().endswith(("_file", "-file")) or names_a_secret(name) != "one":
        return False
    if len(value) < _SHORTEST or value.startswith(("$", "/", "./", "%", "{")) or is_placeholder(value):
        return False
    return name.upper() in SECRETS or name.lower().endswith("password") or looks_random(value)


def _tracked(file: Path) -> bool:
    """Whether git has this file; False where there is no git."""
    git = shutil.which("git")
    if git is None or not file.is_file():
        return False
    asked = [git, "-C", str(file.parent), "ls-files", "--error-unmatch", "--", file.name]
    try:
        return subprocess.run(asked, capture_output=True, timeout=5, check=False).returncode == 0  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return False
