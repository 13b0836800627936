"""Units of work: whole or not at all, one after the other, also beside other writers."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sqlite3
import stat
import tempfile
import types
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from sqlalchemy import URL, text

from app.domain.errors import StorageBusy, StorageError, StorageReadOnly, UniqueViolation
from app.infrastructure.database.dialects import Timeouts
from app.infrastructure.database.engine import open_database
from app.infrastructure.database.unit_of_work import SqlStorage
from app.settings import DatabaseUrl
from tests.support.database import NOW, finish, migrated, start_python, user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
    from contextlib import AbstractAsyncContextManager

    from app.infrastructure.database.engine import Database
    from app.services.ports import UnitOfWork

IMPATIENT = Timeouts(connect=0.3, busy=0.3, command=0.3)


@pytest.fixture
async def database(engine_url: str) -> AsyncIterator[Database]:
    async with migrated(engine_url) as database:
        yield database


@pytest.fixture
def storage(database: Database) -> SqlStorage:
    return SqlStorage(database)


def path_of(sqlite_url: str) -> Path:
    return Path(sqlite_url.removeprefix("sqlite+aiosqlite:///"))


async def fact(storage: SqlStorage, key: str) -> str | None:
    async with storage.read() as unit:
        return await unit.bot_state.get(key)


# ---------------------------------------------------------------------------------------------------------------------
# Whole or not at all
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_unit_commits_at_its_end_and_not_before(storage: SqlStorage) -> None:
    async with storage.write() as unit:
        await unit.bot_state.put("k", "v", NOW)
        assert await fact(storage, "k") is None
    assert await fact(storage, "k") == "v"


async def test_a_unit_that_raises_leaves_nothing(storage: SqlStorage) -> None:
    async def fail() -> None:
        async with storage.write() as unit:
            await unit.bot_state.put("k", "v", NOW)
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await fact(storage, "k") is None


async def test_a_unit_that_is_cancelled_leaves_nothing_and_its_connection_serves_again(storage: SqlStorage) -> None:
    wrote = asyncio.Event()

    async def hang() -> None:
        async with storage.write() as unit:
            await unit.bot_state.put("k", "v", NOW)
            wrote.set()
            await asyncio.Event().wait()

    for _ in range(20):  # more often than there are connections
        wrote.clear()
        task = asyncio.create_task(hang())
        await wrote.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await fact(storage, "k") is None
    async with storage.write() as unit:
        await unit.bot_state.put("k", "after", NOW)
    assert await fact(storage, "k") == "after"


@types.coroutine
def cancelled_at(step: int, work: Coroutine[Any, Any, None]) -> Generator[Any, Any, bool]:
    """Run ``work`` in this task and cancel the task where it suspends for the ``step``-th time; whether it did."""
    task = asyncio.current_task()
    assert task is not None
    resume: Callable[[], Any] = functools.partial(work.send, None)
    suspended = 0
    while True:
        try:
            waiting_for = resume()
        except StopIteration:
            return suspended >= step
        suspended += 1
        if suspended == step:
            task.cancel()
        try:
            yield waiting_for
            resume = functools.partial(work.send, None)
        except BaseException as error:  # noqa: BLE001 - it is handed on
            resume = functools.partial(work.throw, error)


async def test_a_unit_that_is_cancelled_at_any_await_counts_whole_or_not_at_all(storage: SqlStorage) -> None:
    async def hit_twice() -> None:
        async with storage.write() as unit:
            await unit.attempts.hit(["k"], NOW)
            await unit.attempts.hit(["k"], NOW)

    async def counted() -> int:
        async with storage.read() as unit:
            return await hits(unit, "k")

    await hit_twice()
    for step in range(1, 500):
        before = await counted()
        task = asyncio.create_task(ended(cancelled_at(step, hit_twice())))
        try:
            reached = await task
        except asyncio.CancelledError:
            reached = True
            assert await counted() - before in {0, 2}  # a cancelled commit may have happened
        else:
            assert await counted() - before == 2
        if not reached:
            break
    else:
        pytest.fail("the unit never came to its end")
    assert step > 3


async def hits(unit: UnitOfWork, key: str) -> int:
    """How many were counted under a key, at NOW."""
    counts = await unit.attempts.counts({key: NOW - timedelta(minutes=1)})
    return sum(number for _, number in counts.get(key, ()))


async def ended(work: Awaitable[bool]) -> bool:
    return await work


async def test_whoever_was_cancelled_inside_a_unit_can_write_while_the_cancellation_lasts(storage: SqlStorage) -> None:
    """As a worker does, to give its claim back. The traceback keeps the driver's cursors, which must keep no lock."""

    async def look_and_hit() -> None:
        async with storage.write() as unit:
            await unit.keys.keyset_names()
            await unit.attempts.hit(["k"], NOW)
            await unit.keys.keyset_names()

    async def given_back(step: int) -> bool | None:
        try:
            return None if await cancelled_at(step, look_and_hit()) else False
        except asyncio.CancelledError:
            async with asyncio.timeout(60), storage.write() as unit:
                await unit.bot_state.put("given back", str(step), NOW)
            return True

    steps: list[bool | None] = []
    while (back := await asyncio.create_task(given_back(len(steps) + 1))) is not False:
        steps.append(back)
    assert sum(each is True for each in steps) > 3


async def test_a_failed_statement_that_was_caught_still_undoes_the_unit(storage: SqlStorage) -> None:
    """PostgreSQL would answer COMMIT with a rollback and call it success; SQLite would commit the rest."""

    async def carry_on() -> None:
        async with storage.write() as unit:
            await unit.users.claim_owner("a", NOW)
            with pytest.raises(UniqueViolation):
                await unit.users.claim_owner("b", NOW)

    with pytest.raises(UniqueViolation):
        await carry_on()
    async with storage.read() as unit:
        assert not await unit.users.owner_ever_existed()


async def test_a_read_unit_sees_one_moment(storage: SqlStorage) -> None:
    async with storage.read() as unit:
        assert await unit.bot_state.get("k") is None
        async with storage.write() as other:
            await other.bot_state.put("k", "v", NOW)
        assert await unit.bot_state.get("k") is None
    assert await fact(storage, "k") == "v"


@pytest.mark.parametrize("reserved", [False, True])
@pytest.mark.parametrize("reading", [SqlStorage.read, SqlStorage.lookup])
async def test_what_reads_cannot_write(
    database: Database,
    storage: SqlStorage,
    reading: Callable[[SqlStorage], AbstractAsyncContextManager[UnitOfWork]],
    *,
    reserved: bool,
) -> None:
    async def write_while_reading() -> None:
        async with reading(SqlStorage(database, reserved=reserved)) as unit:
            await unit.bot_state.put("k", "v", NOW)

    with pytest.raises(StorageReadOnly):
        await write_while_reading()
    assert await fact(storage, "k") is None


async def test_a_write_unit_goes_on_reading_what_it_wrote(storage: SqlStorage) -> None:
    async with storage.write() as unit:
        await unit.users.add(user())
        assert await unit.users.by_name("alice") == user()


# ---------------------------------------------------------------------------------------------------------------------
# One after the other
# ---------------------------------------------------------------------------------------------------------------------

COUNT = """
import asyncio, sys
from app.infrastructure.database.engine import open_database
from app.settings import DatabaseUrl
from app.infrastructure.database.unit_of_work import SqlStorage
from tests.support.database import NOW

async def main(url, tasks, rounds):
    async with open_database(DatabaseUrl.parse(url), may_create=False) as database:
        storage = SqlStorage(database)
        async def count():
            for _ in range(rounds):
                async with storage.write() as unit:
                    await unit.keys.lock()
                    value = int(await unit.bot_state.get("read and write") or 0)
                    await unit.bot_state.put("read and write", str(value + 1), NOW)
                    await unit.attempts.hit(["upsert"], NOW)
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(count())

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


@pytest.mark.slow
async def test_eight_hundred_increments_by_two_processes_of_four_tasks_are_eight_hundred(
    engine_url: str, storage: SqlStorage
) -> None:
    processes = [start_python(COUNT, engine_url, "4", "100") for _ in range(2)]
    for process in processes:
        await asyncio.to_thread(finish, process)
    async with storage.read() as unit:
        assert await unit.bot_state.get("read and write") == "800"
        assert await hits(unit, "upsert") == 800


async def test_eighty_increments_by_eight_tasks_are_eighty(storage: SqlStorage) -> None:
    async def count() -> None:
        for _ in range(10):
            async with storage.write() as unit:
                await unit.keys.lock()
                value = int(await unit.bot_state.get("n") or 0)
                await unit.bot_state.put("n", str(value + 1), NOW)

    await asyncio.gather(*(count() for _ in range(8)))
    assert await fact(storage, "n") == "80"


async def test_writers_of_a_process_are_served_first_come_first_served(sqlite_url: str) -> None:
    async with migrated(sqlite_url) as database:
        storage = SqlStorage(database)
        served: list[int] = []

        async def write(number: int) -> None:
            async with storage.write() as unit:
                await unit.bot_state.put("k", str(number), NOW)
                served.append(number)

        await asyncio.gather(*(write(number) for number in range(30)))
    assert served == list(range(30))


async def test_units_run_on_uvloop_as_well(database: Database, engine_url: str) -> None:
    def on_uvloop() -> str | None:
        async def main() -> str | None:
            async with open_database(DatabaseUrl.parse(engine_url), may_create=False) as again:
                storage = SqlStorage(again)
                async with storage.write() as unit:
                    await unit.bot_state.put("k", "v", NOW)
                return await fact(storage, "k")

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())

    assert await asyncio.to_thread(on_uvloop) == "v"


async def test_more_units_at_once_than_connections_all_get_their_turn(storage: SqlStorage) -> None:
    async def work(unit: UnitOfWork, number: int) -> None:
        await unit.attempts.hit([f"k{number}"], NOW)

    async def one(number: int) -> int:
        async with storage.write() as unit:
            await work(unit, number)
        async with storage.read() as unit:
            return await hits(unit, f"k{number}")

    assert await asyncio.gather(*(one(number) for number in range(50))) == [1] * 50


async def test_whoever_waits_too_long_for_a_turn_is_told_busy(sqlite_url: str) -> None:
    async with migrated(sqlite_url, timeouts=IMPATIENT) as database:
        storage = SqlStorage(database)
        async with storage.write():
            with pytest.raises(StorageBusy):
                async with storage.write():
                    pass
        async with storage.write() as unit:
            await unit.bot_state.put("k", "v", NOW)


async def test_a_lock_of_another_process_is_busy_for_writers_and_nothing_to_readers(sqlite_url: str) -> None:
    async with migrated(sqlite_url, timeouts=IMPATIENT) as database:
        storage = SqlStorage(database)
        with closing(sqlite3.connect(path_of(sqlite_url), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageBusy):
                async with storage.write():
                    pass
            with pytest.raises(StorageBusy):
                await database.probe()
            assert await fact(storage, "k") is None
            other.execute("ROLLBACK")
        async with storage.write() as unit:
            await unit.bot_state.put("k", "v", NOW)
        await database.probe()


# ---------------------------------------------------------------------------------------------------------------------
# The embedded database
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["read", "lookup", "write"])
async def test_every_sqlite_connection_is_set_up_to_lose_nothing(sqlite_url: str, side: str) -> None:
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "foreign_keys": 1,
        "busy_timeout": 0 if side == "lookup" else 10_000,  # a lookup waits elsewhere
        "secure_delete": 1,
        "trusted_schema": 0,
        "temp_store": 2,  # memory
        "query_only": 0 if side == "write" else 1,
    }
    async with migrated(sqlite_url, timeouts=Timeouts()) as database, getattr(database, side)() as connection:
        assert {name: await connection.value(text(f"PRAGMA {name}")) for name in wanted} == wanted


async def test_the_files_are_open_to_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "data" / "key store #%41.db"
    before = os.umask(0)
    try:
        async with migrated(URL.create("sqlite+aiosqlite", database=str(path)).render_as_string()):
            files = sorted(path.parent.iterdir())
            modes = {file.name.removeprefix(path.name): stat.S_IMODE(file.stat().st_mode) for file in files}
    finally:
        os.umask(before)
    assert modes == {"": 0o600, "-wal": 0o600, "-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_missing_file_is_told_and_not_made_unless_it_may_be(sqlite_url: str) -> None:
    async with open_database(DatabaseUrl.parse(sqlite_url), may_create=False) as database:
        assert not database.exists()
        with pytest.raises(StorageError):
            await database.probe()
        with pytest.raises(StorageError):
            database.data_version()
        with pytest.raises(StorageError):
            async with SqlStorage(database).read():
                pass
    assert list(path_of(sqlite_url).parent.iterdir()) == []
    async with open_database(DatabaseUrl.parse(sqlite_url), may_create=True) as database:
        assert not database.exists()
        await database.probe()
        assert database.exists()


async def test_a_file_that_goes_away_is_an_error_and_never_made_anew(sqlite_url: str) -> None:
    path = path_of(sqlite_url)
    async with migrated(sqlite_url):
        pass
    async with open_database(DatabaseUrl.parse(sqlite_url), may_create=True) as database:
        await database.probe()
        path.rename(path.with_suffix(".moved"))
        with pytest.raises(StorageError):
            async with database.read():
                pass
    assert not path.exists()


async def test_nothing_that_is_stored_shows_in_a_log(engine_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with migrated(engine_url) as database:
            storage = SqlStorage(database)
            for _ in range(2):
                with suppress(UniqueViolation):
                    async with storage.write() as unit:
                        await unit.users.add(replace(user("Canary"), password_hash="canary-hash"))
            async with storage.read() as unit:
                assert await unit.users.by_name("canary")
    assert "canary" not in caplog.text.casefold()


# ---------------------------------------------------------------------------------------------------------------------
# Probing
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.postgres
@pytest.mark.parametrize("options", ["ssl=prefer", "sslmode=disable", "prepared_statement_cache_size=0"])
async def test_the_options_of_a_server_are_understood(postgres_url: str, options: str) -> None:
    """Without prepared statements as behind PgBouncer, whose next transaction may be on another connection."""
    async with open_database(DatabaseUrl.parse(f"{postgres_url}&{options}"), may_create=False) as database:
        await database.probe()


async def test_a_database_that_can_be_written_passes_the_probe(engine_url: str) -> None:
    async with open_database(DatabaseUrl.parse(engine_url), may_create=True) as database:
        await database.probe()
        assert database.exists()


PROBE = """
import asyncio, os, shutil, sys, tempfile
from tests.support.database import migrated

NOBODY = 65534

async def main():
    # Import all that it takes: Python itself may be where nobody cannot read.
    await asyncio.to_thread(lambda: None)
    with tempfile.TemporaryDirectory() as elsewhere:
        async with migrated(f"sqlite+aiosqlite:///{elsewhere}/warm.db") as database:
            await database.probe()
    directory, *modes = sys.argv[1:]
    path = f"{directory}/keyhall.db"
    if modes[1]:
        async with migrated(f"sqlite+aiosqlite:///{path}"):
            pass
        os.chmod(path, int(modes[1]))
    os.chmod(directory, int(modes[0]))
    if os.geteuid() == 0:  # file modes do not bind root
        for name in (directory, *(f"{directory}/{each}" for each in os.listdir(directory))):
            os.chown(name, NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    from app.infrastructure.database.engine import open_database
    from app.settings import DatabaseUrl
    async with open_database(DatabaseUrl.parse(f"sqlite+aiosqlite:///{path}"), may_create=True) as database:
        try:
            await database.probe()
        except Exception as error:
            print(type(error).__name__)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("directory_mode", "file_mode"), [(0o755, 0o444), (0o555, 0o644), (0o555, None)], ids=["file", "directory", "empty"]
)
def test_a_read_only_file_or_directory_fails_the_probe(directory_mode: int, file_mode: int | None) -> None:
    with tempfile.TemporaryDirectory(prefix="keyhall-read-only-") as directory:  # nobody cannot reach tmp_path
        said = finish(start_python(PROBE, directory, str(directory_mode), str(file_mode or "")))
    # SQLite takes a directory in which it cannot make the WAL for a file that it cannot open.
    assert said.split() in (["StorageReadOnly"], ["StorageError"])


@pytest.mark.postgres
async def test_a_read_only_server_fails_the_probe(postgres_url: str) -> None:
    async with migrated(postgres_url) as database:
        await database.probe()
        async with database.write() as connection:
            name = await connection.value(text("SELECT current_database()"))
            await connection.change(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
    async with open_database(DatabaseUrl.parse(postgres_url), may_create=True) as database:
        with pytest.raises(StorageReadOnly):
            await database.probe()
