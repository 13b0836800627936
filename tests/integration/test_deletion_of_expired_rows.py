"""Expired rows are found by an index and deleted in batches, on both engines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import event, text

from app.infrastructure.clock import SystemRandomness
from app.infrastructure.database.unit_of_work import SqlStorage, SqlUnitOfWork
from app.services.ports import UnitOfWork
from tests.support.database import NOW, credential, session, user

if TYPE_CHECKING:
    from app.infrastructure.database.engine import Database

LATER: Final = NOW + timedelta(days=400)

DELETIONS: Final[dict[str, Callable[[UnitOfWork], Awaitable[Any]]]] = {
    "sessions": lambda unit: unit.sessions.purge(NOW, limit=10),
    "attempts": lambda unit: unit.attempts.purge(NOW, limit=10),
    "idempotency_keys": lambda unit: unit.idempotency.purge(NOW, limit=10),
    "api_credentials": lambda unit: unit.credentials.purge_removed(NOW, limit=10),
    "jobs": lambda unit: unit.jobs.purge(NOW, limit=10),
}


@pytest.mark.parametrize("what", DELETIONS)
async def test_no_deletion_reads_a_whole_table(database: Database, what: str) -> None:
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("DELETE"):
            sent.append((statement, parameters))

    event.listen(database.dialect.writer.sync_engine, "before_cursor_execute", note)
    async with database.write() as connection:
        await DELETIONS[what](SqlUnitOfWork(connection, SystemRandomness()))
        ((statement, parameters),) = sent
        if "sqlite" in str(connection._connection.dialect.name):
            explain = "EXPLAIN QUERY PLAN "
        else:  # an empty table is read as a whole unless that is said to be expensive
            await connection.change(text("SET LOCAL enable_seqscan = off"))
            explain = "EXPLAIN "
        plan = "\n".join(
            str(row) for row in (await connection._connection.exec_driver_sql(explain + statement, parameters)).all()
        )
    lines = [line for line in plan.splitlines() if "SCAN " in line or "Seq Scan" in line]
    assert [line for line in lines if "USING" not in line and "CONSTANT" not in line] == [], plan


async def test_a_deletion_keeps_to_its_limit(sql: SqlStorage) -> None:
    async with sql.write() as unit:
        await unit.users.add(user())
        for number in range(5):
            await unit.sessions.add(session(f"session-{number}"), cookie_hash=None)
            await unit.attempts.hit([f"key-{number}"], NOW)
            await unit.credentials.add(credential(f"credential-{number}", label=f"label {number}"))
            await unit.credentials.set_removed(f"credential-{number}", expected_version=1, at=NOW, removed=True)
    async with sql.write() as unit:
        for purge in (unit.sessions.purge, unit.attempts.purge, unit.credentials.purge_removed):
            assert [await purge(LATER, limit=2) for _ in range(4)] == [2, 2, 1, 0]


async def test_a_row_that_is_restored_while_its_deletion_waits_stays(database: Database, sql: SqlStorage) -> None:
    async with sql.write() as unit:
        await unit.users.add(user())
        await unit.credentials.add(credential("credential"))
        await unit.credentials.set_removed("credential", expected_version=1, at=NOW, removed=True)
    restored = asyncio.Event()

    async def restore() -> None:
        async with sql.write() as unit:
            assert await unit.credentials.set_removed("credential", expected_version=2, at=LATER, removed=False)
            restored.set()
            await waits_for_the_row(database)

    async def purge() -> int:
        await restored.wait()
        async with sql.write() as unit:
            return await unit.credentials.purge_removed(LATER, limit=10)

    _, purged = await asyncio.gather(restore(), purge())
    async with sql.read() as unit:
        assert await unit.credentials.get("credential") is not None
    assert purged == 0


async def waits_for_the_row(database: Database) -> None:
    """Return when PostgreSQL has somebody wait for a lock; on SQLite one writer comes after the other by itself."""
    if database.dialect.writer.dialect.name == "sqlite":
        return
    while True:
        async with database.read() as connection:
            if await connection.value(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                return
