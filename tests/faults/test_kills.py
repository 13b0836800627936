"""A first start that is killed at a write, at a sync or at a rename: the next one completes, with one key set."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.environment import process_environment
from tests.support.installs import OPEN_KEYS, KeysFound, Place
from tests.support.strace import killing, traced, watching

CALLS = ("pwrite64", "write", "fsync", "fdatasync", "rename", "renameat", "renameat2", "ftruncate", "unlink")
SAMPLE = 12


class Scene:
    """Fresh places in a directory of their own, each for one start under strace."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made = 0

    def fresh(self) -> Place:
        self._made += 1
        here = self._root / str(self._made)
        here.mkdir()
        return Place(f"sqlite+aiosqlite:///{here / 'keyhall.db'}", here / "data")

    def start(self, place: Place, watched: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Start on a place; strace sees the calls that are about the watched files."""
        environment = process_environment(**place.environment)
        return traced(OPEN_KEYS, *watching(_watched(place, watched)), *options, env=environment)


def _watched(place: Place, what: str) -> list[Path]:
    if what == "database":
        return [place.data_dir.parent / f"keyhall.db{suffix}" for suffix in ("", "-wal", "-journal", "-shm")]
    names = ("master.key", ".master.key.new", "install.json", ".install.json.new")
    return [place.data_dir, *(place.data_dir / name for name in names)]


@dataclass(frozen=True)
class Point:
    """The ``number``-th time that a thread makes this call on these files."""

    watched: str
    call: str
    number: int


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def _points(scene: Scene) -> list[Point]:
    """Every point of a first start that can be killed at, in the order of the calls."""
    found = []
    for watched in ("database", "data directory"):
        place = scene.fresh()
        log = place.data_dir.parent / "calls"
        done = scene.start(place, watched, "-o", str(log), "-e", f"trace={','.join(CALLS)}")
        assert done.returncode == 0, done.stderr
        seen: Counter[tuple[str, str]] = Counter()
        for line in log.read_text().splitlines():
            call = re.match(r"(\d+) +(\w+)\(", line)
            assert call is not None, line
            seen[call[1], call[2]] += 1
            point = Point(watched, call[2], seen[call[1], call[2]])
            if point not in found:
                found.append(point)
    return found


def _install_in(place: Place) -> str | None:
    """The install that the database holds, asked of SQLite."""
    path = place.data_dir.parent / "keyhall.db"
    if not path.exists():
        return None
    connection = sqlite3.connect(path)
    try:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'app_config'").fetchone():
            return None
        row = connection.execute("SELECT value FROM app_config WHERE key = 'manifest'").fetchone()
        rows = connection.execute("SELECT count(*) FROM app_config").fetchone()[0]
        assert rows == (0 if row is None else 6), "a part of a key set was committed"
        found = None if row is None else re.search(r'"install_id":"([^"]+)"', row[0])
        return found[1] if found else None
    finally:
        connection.close()


async def _killed_at(scene: Scene, point: Point) -> None:
    place = scene.fresh()
    done = scene.start(place, point.watched, *killing(point.call, point.number))
    assert done.returncode == -signal.SIGKILL, (point, done.stderr)
    printed = [KeysFound.read(line) for line in done.stdout.splitlines()]
    before = _install_in(place)
    key = place.data_dir / "master.key"
    master = key.read_bytes() if key.exists() else None
    async with place.keys() as opened:
        assert opened.created == (before is None), point
        assert before in {None, opened.keys.install_id}, point
        assert all(each.install_id == opened.keys.install_id for each in printed), point
        listing = [(each.name, each.version, each.fingerprint) for each in opened.keys.listing()]
    assert master in {None, key.read_bytes()}, point
    async with place.keys() as opened:
        assert not opened.created
        assert [(each.name, each.version, each.fingerprint) for each in opened.keys.listing()] == listing, point
    assert not list(place.data_dir.glob(".*.new")), point
    contents = await place.contents()
    assert sum("install.created" in repr(row) for row in contents["audit_events"]) == 1, point


def _spread(points: Sequence[Point], count: int) -> Iterator[Point]:
    """Some of the points, from the first to the last, those of the data directory among them."""
    step = (len(points) - 1) / (count - 1)
    return (points[round(index * step)] for index in range(count))


async def test_a_first_start_that_is_killed_is_completed_by_the_next(scene: Scene) -> None:
    points = _points(scene)
    of_files = [point for point in points if point.watched == "data directory"]
    of_database = [point for point in points if point.watched == "database"]
    assert len(of_files) >= 6
    assert len(of_database) >= 20
    for point in (*_spread(of_files, SAMPLE // 3), *_spread(of_database, SAMPLE - SAMPLE // 3)):
        await _killed_at(scene, point)


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_a_first_start_that_is_killed_anywhere_is_completed_by_the_next(scene: Scene) -> None:
    for point in _points(scene):
        await _killed_at(scene, point)
