"""What a commit means: certainly not done, done, or that nobody knows; never a failure of what was done."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncTransaction

from app.domain.errors import OutcomeUnknown, StorageError, UniqueViolation
from app.infrastructure.database.dialects import Timeouts
from app.infrastructure.database.engine import Database, open_database
from app.infrastructure.database.errors import committing
from app.infrastructure.database.unit_of_work import SqlStorage
from app.settings import DatabaseUrl
from tests.support.database import NOW, migrated
from tests.support.database_proxy import proxied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.database_proxy import DatabaseProxy
    from tests.support.postgres import PostgresServer


@pytest.fixture
async def behind(postgres_url: str, tmp_path: Path) -> AsyncIterator[tuple[Database, DatabaseProxy]]:
    """A database at head behind a wire that a test can cut."""
    async with (
        migrated(postgres_url),
        proxied(postgres_url, tmp_path) as (url, proxy),
        open_database(DatabaseUrl.parse(url), may_create=False, timeouts=Timeouts(command=3)) as database,
    ):
        yield database, proxy


async def put(database: Database, value: str) -> None:
    async with SqlStorage(database).write() as uow:
        await uow.bot_state.put("k", value, NOW)


async def found(database: Database) -> str | None:
    async with SqlStorage(database).read() as uow:
        return await uow.bot_state.get("k")


@pytest.mark.postgres
async def test_a_commit_whose_answer_is_lost_is_in_doubt_and_says_so(
    behind: tuple[Database, DatabaseProxy],
) -> None:
    database, proxy = behind
    await put(database, "before")
    proxy.cut_after(b"COMMIT;")
    with pytest.raises(OutcomeUnknown) as caught:
        await put(database, "after")
    assert "repeat only missing changes" in caught.value.detail
    async with asyncio.timeout(30):
        while await found(database) != "after":  # the server has it, and may take a moment to carry it out
            pass


@pytest.mark.postgres
async def test_a_commit_that_is_swallowed_is_in_doubt(behind: tuple[Database, DatabaseProxy]) -> None:
    database, proxy = behind

    async def swallowed() -> None:
        async with SqlStorage(database).write() as uow:
            await uow.bot_state.put("k", "lost", NOW)
            proxy.fall_silent()

    await put(database, "before")
    with pytest.raises(OutcomeUnknown):
        await swallowed()
    proxy.speak_again()


@pytest.mark.postgres
async def test_a_process_that_was_stopped_during_a_commit_reads_the_answer_that_has_come_meanwhile(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time limit is over when it wakes up, and the answer is there: it must not be thrown away."""
    async with (
        migrated(postgres_url),
        open_database(DatabaseUrl.parse(postgres_url), may_create=False, timeouts=Timeouts(command=2)) as database,
    ):
        commit = AsyncTransaction.commit

        async def stopped(transaction: AsyncTransaction) -> None:
            committing = asyncio.ensure_future(commit(transaction))
            await asyncio.sleep(0)  # the message is on its way
            until = time.monotonic() + 3
            while time.monotonic() < until:  # nothing else of this process runs, as after SIGSTOP
                pass
            await committing

        await put(database, "before")
        monkeypatch.setattr(AsyncTransaction, "commit", stopped)
        await put(database, "after")
        monkeypatch.undo()
        assert await found(database) == "after"


@pytest.mark.postgres
async def test_what_fails_before_the_commit_is_sent_is_certain(behind: tuple[Database, DatabaseProxy]) -> None:
    database, proxy = behind
    await put(database, "before")
    proxy.cut_after(b"after")  # the value: the statement itself was prepared before
    with pytest.raises(StorageError) as caught:
        await put(database, "after")
    assert type(caught.value) is StorageError
    assert await found(database) == "before"


@pytest.mark.postgres
async def test_a_connection_that_ended_before_the_commit_was_sent_is_certain(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    async def ended(database: Database) -> None:
        async with database.write() as connection:
            pid = await connection.value(text("SELECT pg_backend_pid()"))
            await asyncio.to_thread(postgres_server.execute, f"SELECT pg_terminate_backend({pid}, 5000)")
            async with asyncio.timeout(30):
                while not database.dialect.lost(connection._connection):
                    await asyncio.to_thread(postgres_server.execute, "SELECT 1")

    async with open_database(DatabaseUrl.parse(postgres_url), may_create=False) as database:
        with pytest.raises(StorageError) as caught:
            await ended(database)
        assert type(caught.value) is StorageError


@pytest.mark.postgres
async def test_a_commit_that_the_server_refuses_is_certain(postgres_url: str) -> None:
    """A rule that is judged at the commit."""
    async with open_database(DatabaseUrl.parse(postgres_url), may_create=False) as database:
        async with database.write() as connection:
            await connection.change(text("CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
        with pytest.raises(UniqueViolation):
            async with database.write() as connection:
                await connection.change(text("INSERT INTO once VALUES (1), (1)"))


def _sqlite_error(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("")
    error.sqlite_errorcode, error.sqlite_errorname = getattr(sqlite3, name), name
    return error


@pytest.mark.parametrize(
    ("name", "in_doubt"),
    [("SQLITE_FULL", False), ("SQLITE_BUSY", False), ("SQLITE_IOERR_FSYNC", True), ("SQLITE_IOERR_WRITE", True)],
)
def test_sqlite_knows_what_became_of_a_commit_unless_the_disk_failed(name: str, *, in_doubt: bool) -> None:
    """After a failed fsync the log may hold the whole transaction, and whoever recovers it finds it committed."""
    with pytest.raises(StorageError) as caught, committing():
        raise _sqlite_error(name)
    assert isinstance(caught.value, OutcomeUnknown) is in_doubt


@pytest.mark.parametrize("error", [OSError("a broken pipe"), RuntimeError("a bug")])
async def test_once_committed_the_end_of_the_connection_is_no_failure(
    engine_url: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with migrated(engine_url) as database:
        await put(database, "before")

        async def broken(connection: AsyncConnection) -> None:
            await close(connection)
            raise error

        close = AsyncConnection.close
        monkeypatch.setattr(AsyncConnection, "close", broken)
        await put(database, "after")
        monkeypatch.undo()
        assert await found(database) == "after"
