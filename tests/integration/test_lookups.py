"""Lookups: a few rows, statement by statement; on SQLite on the event loop's thread."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.exc import CompileError

from app.domain.errors import StorageBusy, StorageError, StorageReadOnly
from app.infrastructure.clock import SystemRandomness
from app.infrastructure.database.dialects import Timeouts
from app.infrastructure.database.engine import open_database
from app.infrastructure.database.schema import bot_state
from app.infrastructure.database.unit_of_work import SqlStorage, SqlUnitOfWork
from app.settings import DatabaseUrl
from tests.support.database import NOW, finish, migrated, session, start_python, user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from app.infrastructure.database.engine import Database
    from app.services.ports import RefreshUse, Storage
    from tests.support.processes import Process

IMPATIENT = Timeouts(busy=0.3)


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Database]:
    async with migrated(sqlite_url) as database:
        yield database


class Hops:
    """What the threads of aiosqlite were asked to do."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.made = asyncio.Event()

    def note(self, name: str) -> None:
        self.names.append(name)
        self.made.set()

    def forget(self) -> None:
        self.names.clear()
        self.made.clear()


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> Hops:
    hops = Hops()
    hop: Any = aiosqlite.Connection._execute

    async def noted(self: aiosqlite.Connection, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        hops.note(function.__name__)
        return await hop(self, function, *arguments, **named)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", noted)
    return hops


RECOVERING = """
import fcntl, os, sys

shm = os.open(sys.argv[1], os.O_RDWR)
for byte in (120, 122):  # of the WAL-index, the locks of the writer and of the recovery
    fcntl.lockf(shm, fcntl.LOCK_EX, 1, byte)
os.pwrite(shm, bytes(96), 0)  # its header
print("recovering", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def recovering(sqlite_url: str) -> Callable[[], Process]:
    """Start a process that recovers the file, as the first one after a crash does, until it may end."""

    def start() -> Process:
        process = start_python(RECOVERING, sqlite_url.removeprefix("sqlite+aiosqlite:///") + "-shm")
        assert process.stdout is not None
        assert process.stdout.readline() == "recovering\n"
        return process

    return start


async def look(storage: Storage, key: str = "k") -> str | None:
    async with storage.lookup() as unit:
        return await unit.bot_state.get(key)


async def put(storage: Storage, value: str, key: str = "k") -> None:
    async with storage.write() as unit:
        await unit.bot_state.put(key, value, NOW)


async def test_a_lookup_finds_what_was_committed_before_it(storage: Storage) -> None:
    assert await look(storage) is None
    for value in ("1", "2"):
        await put(storage, value)
        assert await look(storage) == value


async def test_a_lookup_cannot_write(sql: SqlStorage) -> None:
    async def write_in_a_lookup() -> None:
        async with sql.lookup() as unit:
            await unit.bot_state.put("k", "v", NOW)

    with pytest.raises(StorageReadOnly):
        await write_in_a_lookup()
    assert await look(sql) is None


async def test_each_statement_of_a_lookup_sees_its_own_moment(sqlite: Database) -> None:
    storage = SqlStorage(sqlite)
    async with storage.lookup() as unit:
        assert await unit.bot_state.get("k") is None
        await put(storage, "v")
        assert await unit.bot_state.get("k") == "v"


async def test_a_lookup_stays_on_the_thread_of_the_event_loop(sqlite: Database, hops: Hops) -> None:
    storage = SqlStorage(sqlite)
    async with storage.lookup() as unit:
        assert await unit.keys.exists()
        assert await unit.users.by_name("alice") is None
        assert await unit.credentials.page(after=None, limit=10) == []
    assert hops.names == []


async def test_a_statement_of_a_unit_of_work_takes_one_hop(sqlite: Database, hops: Hops) -> None:
    storage = SqlStorage(sqlite)
    async with storage.write() as unit:
        await unit.users.add(user())
    for unit_of in (storage.read, storage.write):
        hops.forget()
        async with unit_of() as unit:
            assert await unit.users.by_name("alice") == user()
            assert await unit.users.by_name("bob") is None
        assert hops.names == [
            "_execute_fetchall",
            "_execute",
            "_execute",
            "commit" if unit_of == storage.write else "rollback",
        ]


async def test_a_lookup_that_would_have_to_wait_waits_in_a_thread(
    sqlite: Database, hops: Hops, recovering: Callable[[], Process]
) -> None:
    storage = SqlStorage(sqlite)
    await put(storage, "v")
    assert await look(storage) == "v"
    hops.forget()
    process = recovering()
    waiting = asyncio.create_task(look(storage))
    await hops.made.wait()  # the loop goes on meanwhile
    assert not waiting.done()
    finish(process)
    assert await waiting == "v"
    hops.forget()
    assert await look(storage) == "v"
    assert hops.names == []


async def test_a_lookup_that_waits_in_vain_is_busy(sqlite_url: str, recovering: Callable[[], Process]) -> None:
    async with migrated(sqlite_url, timeouts=IMPATIENT) as database:
        storage = SqlStorage(database)
        await put(storage, "v")
        assert await look(storage) == "v"
        process = recovering()
        with pytest.raises(StorageBusy):
            await look(storage)
        finish(process)
        assert await look(storage) == "v"


async def test_lookups_that_wait_in_vain_wait_side_by_side(
    sqlite_url: str, hops: Hops, recovering: Callable[[], Process]
) -> None:
    """Also where none of them could open the connection: a queue would multiply the time of each by its length."""
    async with migrated(sqlite_url, timeouts=IMPATIENT) as database:
        storage = SqlStorage(database)
        process = recovering()
        for opened in (False, True):
            waiting = [asyncio.create_task(look(storage)) for _ in range(4)]
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(each) for each in outcomes] == [StorageBusy] * 4, opened
        # Each had one attempt of its own on a connection that waits; the first one opened the loop's as well.
        assert hops.names.count("_execute_fetchall") <= 8
        finish(process)
        assert await look(storage) is None


async def test_a_busy_lookup_keeps_its_sound_connection(sqlite_url: str, recovering: Callable[[], Process]) -> None:
    async with migrated(sqlite_url, timeouts=IMPATIENT) as database:
        storage = SqlStorage(database)
        await look(storage)
        lookups: Any = database.dialect.lookups
        before = lookups.connection
        process = recovering()
        with pytest.raises(StorageBusy):
            await look(storage)
        finish(process)
        assert lookups.connection is before is not None


async def test_a_large_lookup_is_read_in_a_thread(sqlite: Database, hops: Hops) -> None:
    storage = SqlStorage(sqlite)
    await put(storage, "v")
    hops.forget()
    async with storage.lookup(large=True) as unit:
        assert await unit.bot_state.get("k") == "v"
    assert "_execute" in hops.names


async def test_a_lookup_after_a_failed_one_has_another_connection(sqlite: Database) -> None:
    storage = SqlStorage(sqlite)
    await put(storage, "v")
    assert await look(storage) == "v"
    lookups: Any = sqlite.dialect.lookups
    lookups.connection.connection.driver_connection.set_progress_handler(lambda: 1, 1)  # interrupts whatever it does
    with pytest.raises(StorageError):
        await look(storage)
    assert await look(storage) == "v"


async def test_a_lookup_goes_on_where_another_one_has_failed(sqlite: Database) -> None:
    storage = SqlStorage(sqlite)
    await put(storage, "v")
    async with storage.lookup() as unit:
        assert await unit.bot_state.get("k") == "v"
        lookups: Any = sqlite.dialect.lookups
        lookups.connection.connection.driver_connection.set_progress_handler(lambda: 1, 1)
        with pytest.raises(StorageError):
            await look(storage)
        assert await unit.bot_state.get("k") == "v"


async def test_a_row_that_cannot_be_read_is_a_storage_error(sqlite: Database) -> None:
    """SQLite finds the first rows before it fails at a later one."""
    storage = SqlStorage(sqlite)
    async with storage.write() as unit:
        for number in range(200):
            await unit.users.add(user(f"user{number:03}"))
    assert await look(storage) is None
    steps = itertools.count()
    lookups: Any = sqlite.dialect.lookups
    lookups.connection.connection.driver_connection.set_progress_handler(lambda: next(steps) > 100, 10)
    with pytest.raises(StorageError):
        async with storage.lookup() as unit:
            await unit.users.page(after=None, limit=200)
    assert next(steps) > 100


async def test_a_column_that_is_not_there_is_not_left_out(sql: SqlStorage, database: Database) -> None:
    """SQLAlchemy leaves out a parameter that no column is named like."""
    async with database.write() as connection:
        with pytest.raises(KeyError, match="bot_state has no vlaue"):
            await connection.insert(bot_state, {"key": "k", "vlaue": "v", "updated_at": NOW})

    async def swap() -> None:
        async with sql.write() as unit:
            repository: Any = unit.credentials
            await repository._swap("x", 1, NOW, lable="y")

    with pytest.raises(CompileError, match="lable"):
        await swap()


@pytest.mark.postgres
async def test_a_refresh_token_shows_its_user_as_of_after_the_wait(postgres_url: str) -> None:
    async with migrated(postgres_url) as database:
        storage = SqlStorage(database)
        async with storage.write() as unit:
            await unit.users.add(user())
            await unit.sessions.add(session(), cookie_hash=None)
            await unit.sessions.add_refresh(b"hash", "session-1", at=NOW, expires_at=NOW)

        async def present() -> RefreshUse | None:
            async with storage.write() as unit:
                return await unit.sessions.use_refresh(b"hash", NOW)

        async with database.write() as holder:
            await SqlUnitOfWork(holder, SystemRandomness()).sessions.prove("session-1", NOW)  # locks the row
            presenting = asyncio.create_task(present())
            waits = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            async with database.lookup() as observer:
                while await observer.value(waits) == 0:
                    assert not presenting.done()
            async with storage.write() as unit:
                await unit.users.disable("user-alice", NOW)
        used = await presenting
    assert used is not None
    assert used.first
    assert used.found.user.disabled_at == NOW


async def test_lookups_and_writers_at_once_get_what_is_theirs(storage: Storage) -> None:
    await asyncio.gather(*(put(storage, str(number), f"k{number}") for number in range(20)))

    async def one(number: int) -> str | None:
        if number % 5 == 0:
            await put(storage, str(number), f"k{number % 20}")
            return str(number)
        return await look(storage, f"k{number % 5 + 1}")

    found = await asyncio.gather(*(one(number) for number in range(100)))
    assert all(value is not None for value in found)


async def test_a_lookup_that_is_cancelled_while_its_connection_opens_leaves_none_behind(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups: Any = sqlite.dialect.lookups
    connect, opened = lookups._connect, threading.Event()
    closed: list[bool] = []

    class Noted(sqlite3.Connection):
        def close(self) -> None:
            closed.append(True)
            super().close()

    def slowly() -> sqlite3.Connection:
        connect().close()
        opened.wait()
        return sqlite3.connect(":memory:", factory=Noted, check_same_thread=False)

    monkeypatch.setattr(lookups, "_connect", slowly)
    storage = SqlStorage(sqlite)
    cancelled = asyncio.create_task(look(storage))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    monkeypatch.setattr(lookups, "_connect", connect)
    opened.set()
    assert await look(storage) is None
    while not closed:  # noqa: ASYNC110 - the thread announces it to nobody
        await asyncio.sleep(0.01)


async def test_a_file_that_is_not_there_is_an_error(sqlite_url: str) -> None:
    async with open_database(DatabaseUrl.parse(sqlite_url), may_create=False) as database:
        for _ in range(2):
            with pytest.raises(StorageError):
                await look(SqlStorage(database))
