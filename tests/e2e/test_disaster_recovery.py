"""The page for the worst day, command by command as it is written, and the program that times it."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.domain.keys import Environment
from app.infrastructure.paper import from_words_or_text, words
from tests.benchmarks.recover import measure
from tests.support.backups import IDENTITY, back_up
from tests.support.environment import process_environment
from tests.support.installs import Place
from tests.support.processes import PROJECT
from tests.support.restores import fill, secrets_of

OPERATIONS = PROJECT / "docs" / "operations.md"


def commands_of(heading: str) -> list[str]:
    """The lines to type in a section of the page, from its heading to the next one."""
    text = OPERATIONS.read_text(encoding="utf-8")
    section = re.split(rf"^###? {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
    section = re.split(r"^##", section, flags=re.MULTILINE)[0]
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", section, flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def typed(directory: Path, environment: dict[str, str], commands: list[str]) -> None:
    (directory / ".venv").symlink_to(PROJECT / ".venv")
    for command in commands:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, (command, done.stderr)


async def lost(place: Place, machine: Path) -> dict[str, list[str]]:
    """The secrets of an install of which only its backup, identity and paper are left, on that machine."""
    await fill(place)
    before = await secrets_of(place)
    await back_up(place, machine / "keyhall.age")
    (machine / "identity.txt").write_text(IDENTITY)
    key = (place.data_dir / "master.key").read_text()
    (machine / "words.txt").write_text(" ".join(words(from_words_or_text(key, Environment.TEST))))
    return before


def test_disaster_recovery_works_as_it_is_written(sqlite_place: Place, tmp_path: Path) -> None:
    machine = tmp_path / "machine"
    machine.mkdir()
    before = asyncio.run(lost(sqlite_place, machine))
    shutil.rmtree(sqlite_place.data_dir)
    there = Place(f"sqlite+aiosqlite:///{machine}/data/keyhall.db", machine / "data")
    commands = commands_of("Disaster recovery")
    assert len(commands) == 4
    typed(machine, process_environment(**there.environment), commands)
    assert asyncio.run(secrets_of(there)) == before


@pytest.mark.postgres
def test_moving_to_the_other_database_works_as_it_is_written(
    sqlite_place: Place, postgres_url: str, tmp_path: Path
) -> None:
    machine = tmp_path / "machine"
    machine.mkdir()
    before = asyncio.run(lost(sqlite_place, machine))
    environment = process_environment(**sqlite_place.environment, NEW_DATABASE_URL=postgres_url)
    typed(machine, environment, commands_of("Moving to another machine or database"))
    assert asyncio.run(secrets_of(Place(postgres_url, sqlite_place.data_dir))) == before


@pytest.mark.slow
@pytest.mark.postgres
def test_a_recovery_is_timed_on_both_databases(postgres_url: str, tmp_path: Path) -> None:
    found = measure(50, tmp_path, postgres_url)
    assert [each.engine for each in found] == ["PostgreSQL", "SQLite"]
    assert all("s per 100,000 credentials" in each.line() for each in found)
