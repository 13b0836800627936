"""What commands and starts import, and above all what they do not: every import costs each of them its time."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from app import __version__
from tests.support.environment import process_environment
from tests.support.installs import KEYHALL, Place, Running
from tests.support.processes import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

IMPORTING = [sys.executable, "-X", "importtime", *KEYHALL]
NEVER_ON_SQLITE = {
    "alembic.command",
    "asyncpg.connection",
    "boto3.session",
    "discord.client",
    "pydantic_settings.main",
    "rich.console",
    "sqlalchemy.dialects.postgresql.base",
    "webauthn.helpers.structs",
    "zxcvbn.scoring",
}
"""A module deep inside each library: the list of imports names attempts that failed, too."""
WEB = {"aiohttp.web", "app.web.server", "argon2.low_level", "jinja2.environment"}
NAMES = {"app.cli.backend", "app.cli.groups", "app.cli.start"}
ALL_BUT_COMMANDS = {"aiosqlite.core", "app.settings", "asyncio.base_events", "sqlalchemy.engine.base"}


@pytest.fixture
def place(sqlite_url: str, tmp_path: Path) -> Place:
    return Place(sqlite_url, tmp_path / "data")


@pytest.fixture
def installed(place: Place) -> Place:
    return asyncio.run(place.install())


def imported(lines: list[str]) -> set[str]:
    return {found[1] for line in lines if (found := re.match(r"import time: .* \| +(\S+)$", line))}


def run(place: Place, *arguments: str) -> tuple[str, set[str]]:
    done = subprocess.run(
        [*IMPORTING, *arguments],
        cwd=PROJECT,
        env=process_environment(**place.environment),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, imported(done.stderr.splitlines())


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [(("--help",), "credentials  Credentials of members"), (("version",), f"keyhall {__version__}")],
)
def test_help_and_version_import_the_commands_names_alone(
    place: Place, arguments: tuple[str, ...], answer: str
) -> None:
    output, modules = run(place, *arguments)
    assert answer in output
    assert modules & (NEVER_ON_SQLITE | WEB | ALL_BUT_COMMANDS) == set()
    assert {each for each in modules if each.startswith("app.cli.")} == NAMES


def test_listing_keys_imports_what_opens_them_alone(installed: Place) -> None:
    output, modules = run(installed, "keys", "list")
    assert "AES_KEY" in output
    assert modules >= ALL_BUT_COMMANDS
    assert modules & (NEVER_ON_SQLITE | WEB) == set()
    assert modules & {"app.cli.credentials", "app.cli.users"} == set()


def test_a_start_imports_no_more_than_serving_takes(installed: Place) -> None:
    process = subprocess.Popen(
        [*IMPORTING, "run"],
        cwd=PROJECT,
        env=process_environment(**installed.environment),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    running = Running(process)
    running.wait_for("the web runs alone")  # the last of the start
    assert running.end() == 0
    modules = imported(running.lines)
    assert modules >= ALL_BUT_COMMANDS | {"aiohttp.web", "app.web.server"}
    assert modules & (NEVER_ON_SQLITE | {"jinja2.environment"}) == set()
    assert modules & {"app.cli.credentials", "app.cli.keys", "app.cli.users"} == set()
