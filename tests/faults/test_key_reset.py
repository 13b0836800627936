"""A reset that is killed anywhere: the install is as it was, or made anew; running it again ends it."""

from __future__ import annotations

import secrets
import signal
import subprocess
from pathlib import Path

import pytest

from app.bootstrap.commands import open_key_reset
from app.domain.errors import KeyStateConflict, MasterKeyMismatch, MasterKeyMissing
from tests.support.environment import process_environment
from tests.support.installs import Place
from tests.support.processes import run
from tests.support.strace import Point, killed, points, spread

SAMPLE = 6
RESET = ["-m", "tests.support.change_master_key", "reset"]
LABELS = [f"number {number}" for number in range(4)]
GUILD = "900000000000000001"


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


@pytest.fixture
def sqlite_place(sqlite_url: str, tmp_path: Path) -> Place:
    return Place(sqlite_url, tmp_path / "data")


async def _fill(place: Place) -> str:
    await place.install()
    async with place.services() as services:
        actor = await services.identity.operator_for(guild_id=GUILD)
        for label in LABELS:
            secret = f"sk-proj-{label}-4f9aTq7ZbX2mLw8vKd3Yc6Rn"
            await services.credentials.add(actor, provider="openai", label=label, secret=secret, guild_id=GUILD)
        return services.keys.install_id


def _lose(place: Place) -> None:
    (place.data_dir / "master.key").write_text(secrets.token_hex(32))


async def _over_or_as_before(place: Place, before: dict[str, str], death: object) -> None:
    """After a kill: either no row of `app_config` changed and a start halts, or it opens with new keys."""
    if await place.app_config() == before:
        with pytest.raises((MasterKeyMismatch, MasterKeyMissing)):
            async with place.keys(may_create=False):
                pass
        await _reset(place)
    else:
        with pytest.raises(KeyStateConflict):
            await _reset(place)
    async with place.services() as services:
        listing = services.keys.listing()
        assert len(listing) == 4, death
        assert {each.primary for each in listing} == {True}, death
        actor = await services.identity.operator_for(guild_id=GUILD)
        views = (await services.credentials.page(actor, guild_id=GUILD)).items
        assert sorted(view.label for view in views) == LABELS, death
        for view in views:
            await services.credentials.replace(actor, view.id, f"sk-proj-again-{secrets.token_hex(16)}")
    assert not (place.data_dir / "master.key.previous").exists()


async def _reset(place: Place) -> None:
    async with open_key_reset(place.load()) as reset:
        await reset.carry_out((await reset.look()).install_id)


async def _killed_at_statement(place: Place, number: int) -> None:
    _lose(place)
    before = await place.app_config()
    done = _change(place, str(number))
    if done.returncode == 0:  # over before it came to that statement
        assert int(done.stdout) < number
    else:
        assert done.returncode == -signal.SIGKILL, (number, done.stderr)
    await _over_or_as_before(place, before, number)


def _change(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(*RESET, *arguments, env=process_environment(**place.environment))


def _statements(place: Place) -> int:
    _lose(place)
    done = _change(place)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


async def test_a_reset_that_is_killed_at_a_statement_happened_or_did_not(place: Place) -> None:
    await _fill(place)
    statements = _statements(place)
    assert statements >= 30
    for number in (statements // 2, statements - 1, statements):
        await _killed_at_statement(place, number)


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_a_reset_that_is_killed_at_any_statement_happened_or_did_not(place: Place) -> None:
    await _fill(place)
    for number in range(1, _statements(place) + 1):
        await _killed_at_statement(place, number)


async def _killed_at(place: Place, point: Point) -> None:
    _lose(place)
    before = await place.app_config()
    assert killed(place, RESET, point), point
    await _over_or_as_before(place, before, point)


async def test_a_reset_that_is_killed_at_a_write_happened_or_did_not(sqlite_place: Place) -> None:
    await _fill(sqlite_place)
    _lose(sqlite_place)
    found = points(sqlite_place, RESET)
    assert len(found) >= 20
    for point in spread(found, SAMPLE):
        await _killed_at(sqlite_place, point)


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_a_reset_that_is_killed_at_any_write_happened_or_did_not(sqlite_place: Place) -> None:
    await _fill(sqlite_place)
    _lose(sqlite_place)
    for point in points(sqlite_place, RESET):
        await _killed_at(sqlite_place, point)
