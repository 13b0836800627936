"""PostgreSQL that locks, refuses, or falls silent: who waits for it, and for how long."""

from __future__ import annotations

import asyncio
import itertools
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.domain.errors import StorageBusy, StorageError, with_cause
from app.infrastructure.database.dialects import Timeouts
from app.infrastructure.database.engine import Database, open_database
from app.infrastructure.database.repositories.keys import LOCK
from app.infrastructure.database.unit_of_work import SqlStorage
from app.settings import DatabaseUrl
from tests.support import pace
from tests.support.database import NOW, migrated
from tests.support.database_proxy import proxied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.postgres

PRODUCT: Final = Timeouts()
PATIENT: Final = Timeouts(connect=60, command=60, lock=60, abandoned=60)
WRITERS: Final = 24


def clock() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    """As a process of the product opens it."""
    async with (
        migrated(postgres_url),
        open_database(DatabaseUrl.parse(postgres_url), may_create=False, timeouts=PRODUCT) as database,
    ):
        yield database


async def write(database: Database, value: str = "v") -> None:
    async with SqlStorage(database).write() as uow:
        await uow.keys.get_manifest(share_lock=True)
        await uow.bot_state.put("k", value, NOW)


async def read(database: Database, *, reserved: bool = False) -> str | None:
    async with SqlStorage(database, reserved=reserved).read() as uow:
        return await uow.bot_state.get("k")


async def outcome(work: Awaitable[object]) -> type[Exception] | None:
    try:
        await work
    except StorageError as error:
        logging.getLogger(__name__).warning("%s", with_cause(error))
        return type(error)
    return None


@asynccontextmanager
async def locked(database: Database, statement: str) -> AsyncIterator[None]:
    """By a transaction in which something happens all the time, so that the server does not end it."""
    held, over = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        url = DatabaseUrl.parse(database.dialect.writer.url.render_as_string(hide_password=False))
        async with open_database(url, may_create=False) as other, other.write() as connection:
            await connection.value(text(statement))
            held.set()
            await over.wait()

    holding = asyncio.create_task(hold())
    await held.wait()
    try:
        yield
    finally:
        over.set()
        await holding


# ---------------------------------------------------------------------------------------------------------------------
# Locks
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "locks"),
    [
        (f"SELECT 1 FROM pg_advisory_xact_lock({LOCK})", 1),  # noqa: S608 - a number of our own
        # Of many who wait for one row, PostgreSQL lets one wait for its transaction and the others for their turn.
        ("SELECT count(*) FROM (SELECT * FROM bot_state FOR UPDATE) AS rows", 2),
    ],
)
async def test_writers_that_wait_for_a_lock_are_told_within_two_seconds_and_keep_nobody_from_reading(
    database: Database, statement: str, locks: int
) -> None:
    await write(database)
    async with locked(database, statement):
        began = clock()
        writing = [asyncio.create_task(outcome(write(database, f"{number}"))) for number in range(WRITERS)]
        waits = []
        while not all(each.done() for each in writing):
            asked = clock()
            assert await read(database) == "v"
            assert await read(database, reserved=True) == "v"
            await database.probe()
            waits.append(clock() - asked)
        assert {each.result() for each in writing} == {StorageBusy}
        assert pace.within(clock() - began, locks * PRODUCT.lock + 1)
        assert pace.within(max(waits), 1)
    await write(database, "after")
    assert await read(database) == "after"


async def test_who_excludes_everybody_lets_others_work_meanwhile(database: Database, postgres_url: str) -> None:
    """A process was stopped in a unit of work, and keys are about to change: nobody stands still for long."""
    url = DatabaseUrl.parse(postgres_url)
    came: list[float] = []
    changed = asyncio.Event()

    async def write_on() -> None:
        while not changed.is_set():
            await write(database)
            came.append(clock())

    async def change() -> None:
        async with SqlStorage(database).write() as uow:
            await uow.keys.lock()
            await uow.bot_state.put("changed", "yes", NOW)
        changed.set()

    async with open_database(url, may_create=False, timeouts=PRODUCT) as stopped:
        began = clock()

        async def stop() -> None:
            async with SqlStorage(stopped).write() as uow:
                await uow.keys.get_manifest(share_lock=True)
                holding.set()
                await changed.wait()

        holding = asyncio.Event()
        stopping = asyncio.create_task(outcome(stop()))
        await holding.wait()
        async with asyncio.timeout(90):
            await asyncio.gather(change(), *(write_on() for _ in range(4)))
        took = clock() - began
        assert await stopping is StorageError, "the server has ended its transaction, so that the keys could change"
    moments = sorted([began, *came, clock()])
    standstill = max(later - earlier for earlier, later in itertools.pairwise(moments))
    assert pace.within(standstill, 3)
    assert PRODUCT.abandoned <= took
    assert pace.within(took, PRODUCT.abandoned + 3)


async def test_who_excludes_everybody_has_its_turn_under_a_constant_load(database: Database) -> None:
    over = asyncio.Event()

    async def write_on() -> None:
        while not over.is_set():
            await write(database)

    writing = [asyncio.create_task(write_on()) for _ in range(8)]
    for _ in range(10):
        async with SqlStorage(database).write() as uow:
            await uow.keys.lock()
    over.set()
    await asyncio.gather(*writing)


async def test_an_attempt_in_vain_leaves_the_unit_of_work_usable(database: Database) -> None:
    async def change() -> None:
        async with SqlStorage(database).write() as uow:
            await uow.bot_state.put("k", "before the lock", NOW)
            await uow.keys.lock()
            await uow.bot_state.put("changed", "yes", NOW)

    async with asyncio.timeout(60):
        shared = f"SELECT 1 FROM pg_advisory_xact_lock_shared({LOCK})"  # noqa: S608 - a number of our own
        async with locked(database, shared):
            changing = asyncio.create_task(change())
            asked = clock()
            while clock() - asked < 2 * PRODUCT.attempt:  # an attempt fails meanwhile
                await read(database)
        await changing
    assert await read(database) == "before the lock"


async def test_transactions_that_share_the_keys_leave_no_trace_in_the_database(
    database: Database, postgres_server: PostgresServer
) -> None:
    """Two that lock one row make a MultiXact, and PostgreSQL has only so many of them."""
    async with SqlStorage(database).write() as uow:
        await uow.keys.put("manifest", "value", NOW)
    count = "SELECT next_multi_offset FROM pg_control_checkpoint()"
    await asyncio.to_thread(postgres_server.execute, "CHECKPOINT")
    before = await asyncio.to_thread(postgres_server.execute, count)
    together = asyncio.Barrier(4)

    async def share() -> None:
        async with SqlStorage(database).write() as uow:
            await uow.keys.get_manifest(share_lock=True)
            await together.wait()

    await asyncio.gather(*(share() for _ in range(4)))
    await asyncio.to_thread(postgres_server.execute, "CHECKPOINT")
    assert await asyncio.to_thread(postgres_server.execute, count) == before


# ---------------------------------------------------------------------------------------------------------------------
# Silence
# ---------------------------------------------------------------------------------------------------------------------

SHORT: Final = Timeouts(command=2)


@pytest.mark.parametrize("what", ["read", "write", "probe"])
@pytest.mark.parametrize("connected", [True, False])
async def test_a_silent_server_is_given_up_in_time_and_closing_does_not_wait_for_it(
    postgres_url: str, tmp_path: Path, what: str, *, connected: bool
) -> None:
    async with migrated(postgres_url), proxied(postgres_url, tmp_path) as (url, proxy):
        async with open_database(DatabaseUrl.parse(url), may_create=False, timeouts=SHORT) as database:
            work: dict[str, Callable[[], Awaitable[object]]] = {
                "read": lambda: read(database),
                "write": lambda: write(database),
                "probe": database.probe,
            }
            if connected:
                await work[what]()
            proxy.fall_silent()
            asked = clock()
            assert await outcome(work[what]()) is not None
            assert pace.within(clock() - asked, SHORT.command + 1)
            asked = clock()
        assert pace.within(clock() - asked, 2)


async def test_many_that_wait_for_a_silent_server_are_given_up_together(postgres_url: str, tmp_path: Path) -> None:
    """The later ones wait for a connection of the pool first: that is in the same time."""
    async with (
        migrated(postgres_url),
        proxied(postgres_url, tmp_path) as (url, proxy),
        open_database(DatabaseUrl.parse(url), may_create=False, timeouts=SHORT) as database,
    ):
        await read(database)
        proxy.fall_silent()
        asked = clock()
        outcomes = await asyncio.gather(*(outcome(read(database)) for _ in range(30)))
        assert None not in outcomes
        assert pace.within(clock() - asked, SHORT.command + 1)
        proxy.speak_again()
        async with asyncio.timeout(60):
            while await outcome(read(database)) is not None:
                pass


async def test_a_statement_that_takes_too_long_is_ended_by_the_server_and_the_connection_stays(
    postgres_url: str,
) -> None:
    async with open_database(DatabaseUrl.parse(postgres_url), may_create=False, timeouts=SHORT) as database:

        async def sleep() -> None:
            async with database.write() as connection:
                await connection.value(text("SELECT 1 FROM pg_sleep(60)"))

        async with database.write() as connection:
            before = await connection.value(text("SELECT pg_backend_pid()"))
        assert await outcome(sleep()) is StorageBusy
        async with database.write() as connection:
            assert await connection.value(text("SELECT pg_backend_pid()")) == before


# ---------------------------------------------------------------------------------------------------------------------
# Too many connections
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def three_connections(postgres_url: str, postgres_server: PostgresServer) -> AsyncIterator[DatabaseUrl]:
    """A role to which the server gives three connections at a time."""
    url = make_url(postgres_url)
    role, database = f"few_{url.database}", str(url.database)
    async with migrated(postgres_url):
        pass
    for statement in (
        f'CREATE ROLE "{role}" LOGIN CONNECTION LIMIT 3',
        f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{role}"',
    ):
        await asyncio.to_thread(postgres_server.execute, statement, database=database)
    yield DatabaseUrl.parse(url.set(username=role).render_as_string())
    for statement in (f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"'):
        await asyncio.to_thread(postgres_server.execute, statement, database=database)


async def test_a_refused_connection_is_waited_for(three_connections: DatabaseUrl) -> None:
    """Of many units of work of a process none fails: they take the connections that it has in turn."""
    async with open_database(three_connections, may_create=False, timeouts=PATIENT) as database:
        work = [outcome(each) for _ in range(24) for each in (write(database), read(database))]
        assert set(await asyncio.gather(*work)) == {None}
        assert await outcome(read(database, reserved=True)) is None


async def test_a_connection_that_is_refused_for_too_long_is_told_as_busy(three_connections: DatabaseUrl) -> None:
    async with (
        open_database(three_connections, may_create=False) as one,
        open_database(three_connections, may_create=False, timeouts=Timeouts(command=2)) as other,
    ):
        together = asyncio.Barrier(3 + 1)

        async def occupy() -> None:
            async with one.read() as connection:
                await connection.value(text("SELECT 1"))
                await together.wait()
                await together.wait()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(occupy())
            await together.wait()
            with pytest.raises(StorageBusy) as caught:
                await read(other)
            await together.wait()
    assert "53300" in with_cause(caught.value)


async def test_requests_take_no_more_connections_than_the_setting_says_and_leave_some_to_the_process(
    postgres_url: str,
) -> None:
    async with (
        migrated(postgres_url),
        open_database(
            DatabaseUrl.parse(postgres_url), may_create=False, connections=4, timeouts=Timeouts(command=2, abandoned=90)
        ) as database,
    ):
        together = asyncio.Barrier(4 + 1)

        async def occupy(*, writing: bool) -> None:
            async with database.write() if writing else database.read() as connection:
                await connection.value(text("SELECT 1"))
                await together.wait()
                await together.wait()

        async with asyncio.TaskGroup() as tasks:
            for number in range(4):
                tasks.create_task(occupy(writing=number % 2 == 0))
            await together.wait()
            assert await outcome(read(database)) is StorageBusy
            assert await outcome(write(database)) is StorageBusy
            assert await outcome(read(database, reserved=True)) is None
            await database.probe()
            await together.wait()
