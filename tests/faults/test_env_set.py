"""`keyhall env set production`, killed anywhere: the install is where it was or where it goes, and it opens there."""

from __future__ import annotations

import asyncio
import secrets
import signal
from pathlib import Path

import pytest

from app.domain.errors import EnvironmentMismatch, MasterKeyMismatch
from tests.support.environment import process_environment
from tests.support.installs import Place
from tests.support.processes import run

SAMPLE = 4


def _move(place: Place, at: str = "") -> tuple[int, str]:
    command = ["-m", "tests.support.change_master_key", "move", *([at] if at else [])]
    done = run(*command, env=process_environment(**place.environment))
    return done.returncode, done.stdout


async def _fingerprints(place: Place) -> dict[str, str]:
    async with place.keys(may_create=False) as opened:
        return {each.name.value: each.fingerprint for each in opened.keys.listing()}


async def _holds(place: Place, moving: Place, before: dict[str, str]) -> bool:
    """Whether the install has moved; it opens in one of the two environments, and in the other it does not."""
    moved = moving.having(APP_ENV="production")
    try:
        assert await _fingerprints(moved) == before
    except EnvironmentMismatch:
        assert await _fingerprints(place) == before
        return False
    with pytest.raises((EnvironmentMismatch, MasterKeyMismatch)):
        await _fingerprints(place)
    return True


def _killed_and_completed(place: Place, at: str) -> bool:
    """Die there, look, run it again; whether it had moved when it died."""
    before = asyncio.run(_fingerprints(place))
    moving = place.having(MASTER_KEY=secrets.token_hex(32))
    code, _ = _move(moving, at)
    assert code in {0, -signal.SIGKILL}, at
    had_moved = asyncio.run(_holds(place, moving, before))
    assert code or had_moved
    assert _move(moving)[0] == 0
    assert asyncio.run(_holds(place, moving, before))
    return had_moved


def _statements(place: Place) -> int:
    code, out = _move(place.having(MASTER_KEY=secrets.token_hex(32)))
    assert code == 0
    return int(out)


async def _installed(url: str, data_dir: Path) -> Place:
    return await Place(url, data_dir).install()


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_move_that_dies_around_its_commit_is_undone_or_done(engine_url: str, tmp_path: Path, at: str) -> None:
    place = asyncio.run(_installed(engine_url, tmp_path / "data"))
    assert _killed_and_completed(place, at) is (at == "after")


def _at_statements(tmp_path: Path, *, every: bool) -> None:
    def fresh(name: str) -> Place:
        root = tmp_path / name
        root.mkdir()
        return asyncio.run(_installed(f"sqlite+aiosqlite:///{root / 'keyhall.db'}", root / "data"))

    total = _statements(fresh("counted"))
    assert total > SAMPLE
    numbers = range(1, total + 1) if every else range(total, 0, -max(1, total // SAMPLE))
    for number in numbers:
        _killed_and_completed(fresh(str(number)), str(number))


def test_a_move_that_dies_at_some_statements(tmp_path: Path) -> None:
    _at_statements(tmp_path, every=False)


@pytest.mark.faults
def test_a_move_that_dies_at_any_statement(tmp_path: Path) -> None:
    _at_statements(tmp_path, every=True)
