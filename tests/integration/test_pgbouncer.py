"""Behind a real PgBouncer in transaction mode everything holds that holds without it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import text

from app.domain.errors import StorageBusy, StorageError
from app.domain.jobs import JobState
from app.domain.keys import KeyName
from app.infrastructure.database.dialects import Timeouts
from app.infrastructure.database.engine import Connection, Database, open_database
from app.infrastructure.database.unit_of_work import SqlStorage
from app.settings import DatabaseUrl
from tests.support import pace
from tests.support.database import NOW, migrated
from tests.support.installs import Place
from tests.support.pgbouncer import pgbouncer
from tests.support.rotations import follow, under
from tests.support.samples import OTHER_SECRET, SECRET
from tests.support.traffic import on_the_wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

pytestmark = pytest.mark.postgres

PRODUCT: Final = Timeouts()


@pytest.fixture
def pooled_url(postgres_url: str) -> Iterator[str]:
    with pgbouncer(postgres_url) as url:
        yield url


@pytest.fixture
async def database(postgres_url: str, pooled_url: str) -> AsyncIterator[Database]:
    """As a process of the product opens it, through PgBouncer."""
    async with (
        migrated(postgres_url),
        open_database(DatabaseUrl.parse(pooled_url), may_create=False, timeouts=PRODUCT) as database,
    ):
        yield database


@pytest.mark.parametrize("unit", [Database.write, Database.read, Database.lookup])
async def test_every_statement_has_its_time_limits(
    database: Database, unit: Callable[[Database], AbstractAsyncContextManager[Connection]]
) -> None:
    async with unit(database) as connection:
        limits = [
            await connection.value(text(f"SHOW {name}"))
            for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
        ]
    assert limits == ["2s", "4500ms", "3s"]


async def test_the_limits_travel_with_the_beginning_of_a_transaction(
    database: Database, pooled_url: str, tmp_path: Path
) -> None:
    (wire := tmp_path / "wire").mkdir()
    async with (
        on_the_wire(pooled_url, wire) as (through, sent),
        open_database(DatabaseUrl.parse(through), may_create=False, timeouts=PRODUCT) as there,
    ):
        for unit in (there.lookup, there.write):
            async with unit() as connection:
                sent.clear()
                assert await connection.value(text("SELECT 1")) == 1
            begun, *asked, ended = sent.everything
            assert begun.startswith("BEGIN ISOLATION LEVEL ")
            assert begun.count("SET LOCAL") == 3
            assert asked == ["PREPARE SELECT 1", "SELECT 1"]
            assert ended in {"ROLLBACK;", "COMMIT;"}


async def test_a_stopped_process_does_not_stop_the_others(database: Database) -> None:
    """Its transaction holds the lock of the keys, which somebody wants to change."""
    storage, stopped, changed = SqlStorage(database), asyncio.Event(), asyncio.Event()

    async def stop() -> None:
        async with storage.write() as uow:
            await uow.keys.get_manifest(share_lock=True)
            stopped.set()
            await changed.wait()

    async def write_on() -> float:
        longest = 0.0
        while not changed.is_set():
            began = asyncio.get_running_loop().time()
            async with storage.write() as uow:
                await uow.keys.get_manifest(share_lock=True)
                await uow.bot_state.put("k", "v", NOW)
            longest = max(longest, asyncio.get_running_loop().time() - began)
        return longest

    stopping = asyncio.create_task(stop())
    async with asyncio.timeout(60):
        await stopped.wait()
        writing = asyncio.create_task(write_on())
        async with storage.write() as uow:
            await uow.keys.lock()
        changed.set()
        assert pace.within(await writing, 3)
    with pytest.raises(StorageError):
        await stopping


async def test_a_writer_that_waits_for_a_lock_is_told_within_two_seconds(database: Database) -> None:
    async def put(value: str) -> None:
        async with SqlStorage(database).write() as uow:
            await uow.bot_state.put("k", value, NOW)

    await put("before")
    async with database.write() as connection:
        await connection.value(text("SELECT count(*) FROM (SELECT * FROM bot_state FOR UPDATE) AS rows"))
        began = asyncio.get_running_loop().time()
        with pytest.raises(StorageBusy):
            await put("after")
        assert pace.within(asyncio.get_running_loop().time() - began, 3)


async def test_credentials_are_stored_and_keys_rotated(pooled_url: str, tmp_path: Path) -> None:
    async with Place(pooled_url, tmp_path / "data").services() as services:
        actor = await services.identity.operator()
        added = await services.credentials.add(actor, provider="openai", label="main", secret=SECRET)
        await services.credentials.replace(actor, added.view.id, OTHER_SECRET)
        job = await follow(services, await services.rotation.rotate(actor, KeyName.AES_KEY))
        assert (job.state, job.error) == (JobState.DONE, None)
        assert await under(services) == {2}
        assert (await services.credentials.reveal(actor, added.view.id)).reveal() == OTHER_SECRET
