"""What one read by primary key costs on the embedded database, a unit of work of its own each time.

The floor is the usual way, which was Keyhall's too at commit e70186b: a connection from the pool of an SQLAlchemy
AsyncEngine on aiosqlite, BEGIN, the SELECT, ROLLBACK. Both send the same SELECT to the same file, in one process.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import uvloop
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from app.infrastructure.database.repositories.credentials import _BY_ID, _to_record
from tests.benchmarks.figures import Figure, Moment, Size, Spent
from tests.benchmarks.filled import Install
from tests.support.installs import Place

ROWS = 100
MICROSECONDS = 1_000_000


def reads(directory: Path, size: Size) -> list[Figure]:
    """Microseconds of a read by id, and ratios to the floor."""
    return uvloop.run(_measured(directory, size))


async def _measured(directory: Path, size: Size) -> list[Figure]:
    floor = Figure(name="one read, SQLite, floor: AsyncEngine, BEGIN and ROLLBACK", unit="µs")
    lookup = Figure(name="one read, SQLite, in a unit of work", unit="µs")
    view = Figure(name="one read, SQLite, in a consistent view", unit="µs")
    of_floor = Figure(name="one read, SQLite / floor", aim=0.35)
    cost = Figure(name="one read, SQLite / floor, processor time each")
    path = directory / "reads.db"
    async with AsyncExitStack() as stack:
        install = await Install.opened(stack, Place(f"sqlite+aiosqlite:///{path}", directory / "reads"))
        ids = await install.fill(ROWS)
        engine = await stack.enter_async_context(usual_engine(path))

        async def by_floor(key: str) -> object:
            async with engine.connect() as connection:
                row = (await connection.execute(_BY_ID, {"key": key})).one_or_none()
                return None if row is None else _to_record(row)

        async def by_lookup(key: str) -> object:
            async with install.storage.lookup() as uow:
                return await uow.credentials.get(key)

        async def by_view(key: str) -> object:
            async with install.storage.read() as uow:
                return await uow.credentials.get(key)

        gc.collect()
        gc.freeze()  # as Keyhall does after its start; all sides gain
        for number in range(-size.cold_rounds, size.rounds):
            slow = await _each(by_floor, ids, size.reads)
            fast = await _each(by_lookup, ids, size.reads)
            whole = await _each(by_view, ids, size.reads)
            if number < 0:
                continue
            floor.values.append(slow.elapsed * MICROSECONDS)
            lookup.values.append(fast.elapsed * MICROSECONDS)
            view.values.append(whole.elapsed * MICROSECONDS)
            of_floor.values.append(fast.elapsed / slow.elapsed)
            cost.values.append(fast.cost / slow.cost)
        gc.unfreeze()
    return [floor, lookup, of_floor, cost, view]


async def _each(read: Callable[[str], Awaitable[object]], ids: list[str], times: int) -> Spent:
    """What each read takes."""
    began = Moment.now()
    for number in range(times):
        if await read(ids[number % len(ids)]) is None:
            raise RuntimeError("a row was not found: these figures would mean nothing")
    elapsed, cost = began.spent()
    return Spent(elapsed / times, cost / times)


@asynccontextmanager
async def usual_engine(path: Path) -> AsyncIterator[AsyncEngine]:
    """As Keyhall had it: connections that only read, each with a thread of its own, and one message for BEGIN."""

    async def connect() -> aiosqlite.Connection:
        connection = await aiosqlite.connect(path, isolation_level=None, cached_statements=256)
        await connection.execute("PRAGMA query_only=ON")
        return connection

    engine = create_async_engine(
        f"sqlite+aiosqlite:///{path}", async_creator=connect, pool_size=4, max_overflow=0, hide_parameters=True
    )

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        raw: Any = connection.connection.driver_connection
        await_only(raw.execute_fetchall("BEGIN"))

    try:
        yield engine
    finally:
        await engine.dispose()
