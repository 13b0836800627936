"""The row cache is never older than the database, whichever process commits; on PostgreSQL nothing is kept."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from app.domain.credentials import CredentialRecord
from app.infrastructure.database.dialects.commit_watch import CommitWatch
from app.infrastructure.database.row_cache import RowCache
from app.infrastructure.database.unit_of_work import SqlStorage
from tests.support.database import NOW, credential, finish, migrated, start_python

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.services.ports import UnitOfWork


@pytest.fixture
async def storage(engine_url: str) -> AsyncIterator[SqlStorage]:
    async with migrated(engine_url) as database:
        yield SqlStorage(database)


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[SqlStorage]:
    async with migrated(sqlite_url) as database:
        yield SqlStorage(database)


async def put(storage: SqlStorage, value: str, key: str = "k") -> None:
    async with storage.write() as unit:
        await unit.bot_state.put(key, value, NOW)


class Loader:
    """Loads a fact and counts how often it had to."""

    def __init__(self, key: str = "k") -> None:
        self.key = key
        self.loads = 0

    async def __call__(self, unit: UnitOfWork) -> str | None:
        self.loads += 1
        return await unit.bot_state.get(self.key)


async def test_a_row_is_loaded_once_while_nobody_commits(sqlite: SqlStorage) -> None:
    await put(sqlite, "v")
    load = Loader()
    assert [await sqlite.cached("fact", "k", load) for _ in range(5)] == ["v"] * 5
    assert load.loads == 1


async def test_without_a_number_that_moves_every_row_is_loaded(storage: SqlStorage) -> None:
    await put(storage, "v")
    load = Loader()
    assert [await storage.cached("fact", "k", load) for _ in range(5)] == ["v"] * 5
    assert load.loads == (5 if storage.data_version() is None else 1)


async def test_a_commit_of_this_process_is_seen_by_the_next_call(storage: SqlStorage) -> None:
    load = Loader()
    for number in range(20):
        await put(storage, str(number))
        assert await storage.cached("fact", "k", load) == str(number)


WRITER = """
import asyncio, sys
from app.infrastructure.database.engine import open_database
from app.settings import DatabaseUrl
from app.infrastructure.database.unit_of_work import SqlStorage
from tests.support.database import NOW

async def main(url):
    async with open_database(DatabaseUrl.parse(url), may_create=False) as database:
        for line in sys.stdin:
            async with SqlStorage(database).write() as unit:
                await unit.bot_state.put("k", line.strip(), NOW)
            print("committed", flush=True)

asyncio.run(main(sys.argv[1]))
"""


async def test_a_commit_of_another_process_is_seen_by_the_very_next_call(engine_url: str, storage: SqlStorage) -> None:
    writer = start_python(WRITER, engine_url)
    assert writer.stdin
    assert writer.stdout
    load = Loader()
    for number in range(200):
        await storage.cached("fact", "k", load)  # so that there is something old to be found
        writer.stdin.write(f"{number}\n")
        writer.stdin.flush()
        assert writer.stdout.readline() == "committed\n"
        assert await storage.cached("fact", "k", load) == str(number)
    finish(writer)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows with every look at SQLite's number."""
    looks: list[None] = []
    honest = CommitWatch.look

    def counted(watch: CommitWatch) -> int:
        looks.append(None)
        return honest(watch)

    monkeypatch.setattr(CommitWatch, "look", counted)
    return looks


async def test_what_a_request_reads_at_once_rests_on_the_look_that_it_began_with(
    sqlite: SqlStorage, looks: list[None]
) -> None:
    await put(sqlite, "v")
    load = Loader()
    assert await sqlite.cached("fact", "k", load) == "v"
    looks.clear()
    sqlite.announced_version()
    assert [await sqlite.cached("fact", "k", load) for _ in range(3)] == ["v"] * 3
    assert len(looks) == 1
    await asyncio.sleep(0)
    assert await sqlite.cached("fact", "k", load) == "v"
    assert len(looks) == 2


async def test_a_look_lasts_neither_into_the_next_turn_of_the_loop_nor_into_the_next_request(
    sqlite: SqlStorage, tmp_path: Path
) -> None:
    await put(sqlite, "old")
    with closing(sqlite3.connect(tmp_path / "keyhall.db", isolation_level=None)) as somebody:
        await sqlite.cached("fact", "k", Loader())
        sqlite.announced_version()
        somebody.execute("UPDATE bot_state SET value = 'new'")
        await asyncio.sleep(0)
        assert await sqlite.cached("fact", "k", Loader()) == "new"
        sqlite.announced_version()
        somebody.execute("UPDATE bot_state SET value = 'newer'")
        sqlite.announced_version()
        assert await sqlite.cached("fact", "k", Loader()) == "newer"


async def test_a_unit_of_work_that_was_awaited_is_seen_in_the_same_turn(sqlite: SqlStorage) -> None:
    for number in range(50):
        sqlite.announced_version()
        await put(sqlite, str(number))
        assert await sqlite.cached("fact", "k", Loader()) == str(number)


async def test_a_row_that_was_changed_while_it_was_loaded_is_not_kept(sqlite: SqlStorage) -> None:
    await put(sqlite, "old")

    async def load_slowly(unit: UnitOfWork) -> str | None:
        found = await unit.bot_state.get("k")
        await put(sqlite, "new")
        return found

    assert await sqlite.cached("fact", "k", load_slowly) == "old"
    assert await sqlite.cached("fact", "k", Loader()) == "new"


async def test_a_row_whose_loading_began_before_the_cache_moved_on_is_not_kept(sqlite: SqlStorage) -> None:
    await put(sqlite, "old")
    read, go_on = asyncio.Event(), asyncio.Event()

    async def load_slowly(unit: UnitOfWork) -> str | None:
        found = await unit.bot_state.get("k")
        read.set()
        await go_on.wait()
        return found

    slow = asyncio.create_task(sqlite.cached("fact", "k", load_slowly))
    await read.wait()
    await put(sqlite, "new")
    await put(sqlite, "else", key="else")
    assert await sqlite.cached("fact", "else", Loader("else")) == "else"  # the cache is at the new position now
    go_on.set()
    assert await slow == "old"
    assert await sqlite.cached("fact", "k", Loader()) == "new"


async def test_what_is_absent_is_asked_for_again(sqlite: SqlStorage) -> None:
    load = Loader()
    assert [await sqlite.cached("fact", "k", load) for _ in range(3)] == [None] * 3
    assert load.loads == 3


async def test_a_load_that_fails_leaves_nothing_behind(sqlite: SqlStorage) -> None:
    await put(sqlite, "v")

    async def fail(unit: UnitOfWork) -> str | None:
        raise LookupError

    with pytest.raises(LookupError):
        await sqlite.cached("fact", "k", fail)
    assert await sqlite.cached("fact", "k", Loader()) == "v"


async def test_kinds_do_not_answer_for_each_other(sqlite: SqlStorage) -> None:
    await put(sqlite, "1", key="one")
    await put(sqlite, "2", key="two")
    assert await sqlite.cached("one", "k", Loader("one")) == "1"
    assert await sqlite.cached("two", "k", Loader("two")) == "2"


async def test_commits_move_the_number_and_nothing_else_does(sqlite: SqlStorage) -> None:
    start = sqlite.data_version()
    async with sqlite.read() as unit:
        await unit.bot_state.get("k")
    async with sqlite.write() as unit:
        await unit.bot_state.get("k")
    assert sqlite.data_version() == start
    await put(sqlite, "v")
    assert sqlite.data_version() != start


# ---------------------------------------------------------------------------------------------------------------------
# Bounds
# ---------------------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_row_goes_first() -> None:
    cache = RowCache(most_rows=2)
    cache.get("kind", "", 1)
    cache.put("kind", "a", 1, "A")
    cache.put("kind", "b", 1, "B")
    assert cache.get("kind", "a", 1) == "A"
    cache.put("kind", "c", 1, "C")
    assert [cache.get("kind", key, 1) for key in "abc"] == ["A", None, "C"]


def test_rows_take_no_more_bytes_than_allowed() -> None:
    cache = RowCache(most_bytes=100_000)
    cache.get("kind", "", 1)
    large = replace(credential(), encrypted_value=b"x" * 30_000)
    for number in range(10):
        cache.put("kind", str(number), 1, large)
    assert len(cache) == 3
    cache.put("kind", "too large", 1, replace(large, encrypted_value=b"x" * 100_000))
    assert cache.get("kind", "too large", 1) is None
    assert len(cache) == 3


def test_a_row_that_is_kept_again_is_weighed_once() -> None:
    cache = RowCache(most_bytes=100_000)
    cache.get("kind", "", 1)
    large: CredentialRecord = replace(credential(), encrypted_value=b"x" * 30_000)
    for _ in range(10):
        cache.put("kind", "same", 1, large)
    cache.put("kind", "other", 1, large)
    assert len(cache) == 2


def test_a_move_forgets_everything() -> None:
    cache = RowCache()
    cache.get("kind", "", 1)
    cache.put("kind", "a", 1, "A")
    assert cache.get("kind", "a", 2) is None
    assert cache.get("kind", "a", 1) is None  # not even when the number comes back
    cache.put("kind", "a", 2, "B")
    assert cache.get("kind", "a", 1) is None
