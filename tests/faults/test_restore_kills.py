"""A restore that is killed anywhere: the install is as it was, or as it was backed up; running it again ends it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.backups import back_up
from tests.support.environment import process_environment
from tests.support.installs import Place
from tests.support.processes import run
from tests.support.restores import GUILD, SECRET, fill, restore, secrets_of
from tests.support.strace import Point, killed, points, spread

RESTORE = ["-m", "tests.support.restore_backup"]
SAMPLE = 4


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


@pytest.fixture
def sqlite_place(sqlite_url: str, tmp_path: Path) -> Place:
    return Place(sqlite_url, tmp_path / "data")


async def prepare(place: Place, backup: Path) -> dict[str, list[str]]:
    """An install that went on after its backup; the secrets that the backup holds."""
    await fill(place)
    before = await secrets_of(place)
    await back_up(place, backup)
    await go_on(place, 0)
    return before


async def go_on(place: Place, number: int) -> None:
    async with place.services() as services:
        actor = await services.identity.operator_for(guild_id=GUILD)
        await services.credentials.add(
            actor, provider="openai", label=f"later {number}", secret=f"{SECRET}{number}", guild_id=GUILD
        )


def left(directory: Path) -> list[str]:
    return [each.name for each in directory.rglob("*.restoring*")]


async def require_old_or_new(place: Place, backup: Path, before: dict[str, list[str]], death: object) -> None:
    found = await secrets_of(place)
    assert found == before or len(found) == len(before) + 1, death
    await restore(place, backup)
    assert await secrets_of(place) == before, death
    assert left(place.data_dir.parent) == [], death


async def killed_at_statement(place: Place, backup: Path, before: dict[str, list[str]], number: int) -> None:
    done = run(*RESTORE, str(backup), str(number), env=process_environment(**place.environment))
    if done.returncode == 0:
        assert int(done.stdout) < number
    else:
        assert done.returncode == -signal.SIGKILL, (number, done.stderr)
    await require_old_or_new(place, backup, before, number)
    await go_on(place, number)


async def statements(place: Place, backup: Path) -> int:
    done = run(*RESTORE, str(backup), env=process_environment(**place.environment))
    assert done.returncode == 0, done.stderr
    await go_on(place, 0)
    return int(done.stdout)


async def test_a_restore_that_is_killed_at_a_statement_happened_or_did_not(place: Place, tmp_path: Path) -> None:
    backup = tmp_path / "one.age"
    before = await prepare(place, backup)
    count = await statements(place, backup)
    for number in (count // 2, count - 1):
        await killed_at_statement(place, backup, before, number)


@pytest.mark.faults
@pytest.mark.timeout(3600)
async def test_a_restore_that_is_killed_at_any_statement_happened_or_did_not(place: Place, tmp_path: Path) -> None:
    backup = tmp_path / "one.age"
    before = await prepare(place, backup)
    for number in range(1, await statements(place, backup) + 1):
        await killed_at_statement(place, backup, before, number)


async def killed_at(place: Place, backup: Path, before: dict[str, list[str]], point: Point) -> None:
    assert killed(place, [*RESTORE, str(backup)], point), point
    await require_old_or_new(place, backup, before, point)
    await go_on(place, point.number)


@pytest.mark.slow
async def test_a_restore_that_is_killed_at_a_system_call_happened_or_did_not(
    sqlite_place: Place, tmp_path: Path
) -> None:
    backup = tmp_path / "one.age"
    before = await prepare(sqlite_place, backup)
    found = points(sqlite_place, [*RESTORE, str(backup)])
    await go_on(sqlite_place, 0)
    for point in spread(found, SAMPLE):
        await killed_at(sqlite_place, backup, before, point)


@pytest.mark.faults
@pytest.mark.timeout(3600)
async def test_a_restore_that_is_killed_at_any_system_call_happened_or_did_not(
    sqlite_place: Place, tmp_path: Path
) -> None:
    backup = tmp_path / "one.age"
    before = await prepare(sqlite_place, backup)
    found = points(sqlite_place, [*RESTORE, str(backup)])
    assert len(found) > 20
    await go_on(sqlite_place, 0)
    for point in found:
        await killed_at(sqlite_place, backup, before, point)
