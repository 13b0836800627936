"""A backup that is killed anywhere: the file is as it was, or the whole new one; running it again ends it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.backups import RECIPIENT, back_up, verified
from tests.support.installs import KEYHALL, Place
from tests.support.strace import Point, killed, points, spread

SAMPLE = 2


@pytest.fixture
def place(sqlite_url: str, tmp_path: Path) -> Place:
    return asyncio.run(Place(sqlite_url, tmp_path / "data").install())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    directory = tmp_path / "backups"
    directory.mkdir()
    return directory / "one.age"


def _command(file: Path, *, replace: bool) -> list[str]:
    return [*KEYHALL, "backup", "create", str(file), "--recipient", RECIPIENT, *(["--replace"] if replace else [])]


def _watched(file: Path) -> list[Path]:
    return [file.parent, file, file.with_name(f".{file.name}.new")]


def _points(place: Place, file: Path, *, replace: bool) -> list[Point]:
    found = points(place, _command(file, replace=replace), _watched(file))
    assert {point.call for point in found} >= {"write", "fsync", "rename" if replace else "link"}
    return found


def _killed_at(place: Place, file: Path, point: Point, *, replace: bool) -> None:
    file.unlink(missing_ok=True)
    if replace:
        asyncio.run(back_up(place, file))
    before = file.read_bytes() if replace else None
    assert killed(place, _command(file, replace=replace), point, _watched(file)), point
    if file.exists() and file.read_bytes() != before:
        assert asyncio.run(verified(place, file)).ok, point
    assert file.exists() or not replace
    done = place.command(*_command(file, replace=True)[2:])
    assert done.returncode == 0, (point, done.stderr)
    assert asyncio.run(verified(place, file)).ok
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_a_backup_that_is_killed_is_the_old_one_or_the_new_one(place: Place, file: Path) -> None:
    for point in spread(_points(place, file, replace=True), SAMPLE):
        _killed_at(place, file, point, replace=True)


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("replace", [False, True], ids=["new", "replaced"])
def test_a_backup_that_is_killed_at_any_call_is_whole_or_not_there(place: Place, file: Path, *, replace: bool) -> None:
    for point in _points(place, file, replace=replace):
        _killed_at(place, file, point, replace=replace)
