"""A command that a message prints runs as it is printed, in the directory where it was printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import process_environment
from tests.support.installs import Place
from tests.support.processes import PROJECT

BIN = Path(sys.executable).parent


@pytest.fixture(params=["in the project", "elsewhere", "with keyhall on the PATH", "with another keyhall on the PATH"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A directory and a PATH."""
    system = os.defpath
    other = tmp_path / "other"
    other.mkdir()
    (other / "keyhall").write_text("#!/bin/sh\nexit 99\n")
    (other / "keyhall").chmod(0o755)
    return {
        "in the project": (PROJECT, system),
        "elsewhere": (tmp_path, system),
        "with keyhall on the PATH": (tmp_path, f"{BIN}:{system}"),
        "with another keyhall on the PATH": (tmp_path, f"{other}:{system}"),
    }[str(request.param)]


def test_the_remedy_of_a_halt_can_be_pasted(sqlite_place: Place, shell: tuple[Path, str]) -> None:
    directory, path = shell
    place = sqlite_place.having(APP_ENV="production", PUBLIC_URL="https://keys.example.org")
    environment = process_environment(**place.environment) | {"PATH": path}
    halted = subprocess.run(
        [BIN / "keyhall", "web"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert halted.returncode == 78, halted.stderr
    found = re.search(r"`([^`]+keys generate-master --write)`", halted.stderr.splitlines()[-1])
    assert found is not None, halted.stderr
    if directory == PROJECT:
        assert found[1].startswith(".venv/bin/keyhall ") or BIN.parent != PROJECT / ".venv"
    pasted = subprocess.run(
        ["/bin/sh", "-c", found[1]],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert pasted.returncode == 0, pasted.stderr
    assert (place.data_dir / "master.key").exists()


@pytest.mark.parametrize("command", [("keys", "list"), ("db", "current"), ("credentials", "verify"), ("worker",)])
def test_commands_of_every_kind_print_it_alike(sqlite_place: Place, command: tuple[str, ...]) -> None:
    """An error that is no halt, an answer on standard output, a line of the log."""
    with sqlite_place.running(*command) as running:
        if command == ("worker",):
            running.wait_for(r"waiting for `(\.venv/bin/|/\S+/)keyhall run`")
        else:
            running.wait_for(r"`(\.venv/bin/|/\S+/)keyhall (run|db upgrade)`")
