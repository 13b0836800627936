"""The change feed: who shares a database hears of each other's changes at once, and nothing depends on it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.domain.errors import StorageError
from app.domain.keys import KeyName
from app.infrastructure.database import dialects
from app.infrastructure.database.dialects import Timeouts
from app.infrastructure.database.engine import Database, open_database
from app.infrastructure.database.feed import DatabaseFeed
from app.infrastructure.database.unit_of_work import SqlStorage
from app.settings import DatabaseUrl
from tests.support import pace
from tests.support.database import NOW, finish, migrated, start_python
from tests.support.database_proxy import proxied
from tests.support.installs import Place
from tests.support.postgres import PostgresServer, PostgresUnavailable, running_postgres

WITHIN = 60.0
"""What a wait may take that must end; the machine may be busy."""
SILENCE = 0.5
"""How long nothing must come where nothing is to come: five looks at data_version."""

CHANGE = """
import asyncio, sys
from app.infrastructure.database.engine import open_database
from app.settings import DatabaseUrl
from app.infrastructure.database.unit_of_work import SqlStorage
from tests.support.database import NOW

async def change():
    async with open_database(DatabaseUrl.parse(sys.argv[1]), may_create=False) as database:
        async with SqlStorage(database).write() as unit:
            await unit.keys.put("manifest", "{}", NOW)

asyncio.run(change())
"""


@asynccontextmanager
async def _listening(database: Database) -> AsyncIterator[DatabaseFeed]:
    """A feed that listens already: beginning to is itself told, since something may have been missed before."""
    feed = DatabaseFeed(database)
    first = feed.subscribe()
    async with feed.listening():
        assert await first.changed(WITHIN)
        yield feed


@pytest.fixture
async def database(engine_url: str) -> AsyncIterator[Database]:
    async with migrated(engine_url) as database:
        yield database


async def _change(database: Database) -> None:
    async with SqlStorage(database).write() as unit:
        await unit.keys.put("manifest", uuid4().hex, NOW)  # SQLite writes nothing where a row stays as it is


# ---------------------------------------------------------------------------------------------------------------------
# What is heard
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_change_by_another_process_wakes_at_once(database: Database, engine_url: str) -> None:
    async with _listening(database) as feed:
        changes = feed.subscribe()
        process = start_python(CHANGE, engine_url)
        assert await changes.changed(60)
        await asyncio.to_thread(finish, process)


async def test_a_change_is_heard_within_a_second(database: Database, engine_url: str) -> None:
    async with (
        _listening(database) as feed,
        open_database(DatabaseUrl.parse(engine_url), may_create=False) as elsewhere,
    ):
        changes = feed.subscribe()
        for _ in range(5):
            await _change(elsewhere)
            assert await changes.changed(1)


async def test_a_change_between_two_waits_is_not_missed(database: Database, engine_url: str) -> None:
    async with _listening(database) as feed:
        early, late = feed.subscribe(), feed.subscribe()
        await _change(database)
        assert await early.changed(WITHIN)
        assert await late.changed(0.05)


async def test_every_waiter_of_a_process_is_woken(database: Database) -> None:
    async with _listening(database) as feed:
        waiting = [asyncio.create_task(feed.subscribe().changed(WITHIN)) for _ in range(2)]
        await asyncio.sleep(0)  # both wait
        await _change(database)
        assert await asyncio.gather(*waiting) == [True, True]


async def test_nothing_is_heard_where_nothing_changed(database: Database) -> None:
    async with _listening(database) as feed:
        changes = feed.subscribe()
        async with SqlStorage(database).read() as unit:
            await unit.keys.get_manifest()
        assert not await changes.changed(SILENCE)
        await _change(database)
        assert await changes.changed(WITHIN)
        assert not await changes.changed(SILENCE)


async def test_what_was_rolled_back_is_not_heard(database: Database) -> None:
    async def fail() -> None:
        async with SqlStorage(database).write() as unit:
            await unit.keys.put("manifest", "{}", NOW)
            raise StorageError

    async with _listening(database) as feed:
        changes = feed.subscribe()
        with pytest.raises(StorageError):
            await fail()
        assert not await changes.changed(SILENCE)


async def test_a_storm_of_changes_wakes_ten_times_a_second_at_most(database: Database) -> None:
    async with _listening(database) as feed:
        changes = feed.subscribe()
        stop = asyncio.Event()

        async def storm() -> None:
            while not stop.is_set():
                await _change(database)

        changing = asyncio.create_task(storm())
        began, woken = monotonic(), 0
        while woken < 5:
            assert await changes.changed(WITHIN)
            woken += 1
        took = monotonic() - began
        stop.set()
        await changing
    assert took > 0.38  # four pauses of a tenth of a second, but for the granularity of the loop's clock


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong
# ---------------------------------------------------------------------------------------------------------------------


async def test_a_sqlite_file_that_cannot_be_read_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "keyhall.db"
    async with open_database(DatabaseUrl.parse(f"sqlite+aiosqlite:///{path}"), may_create=False) as database:
        feed = DatabaseFeed(database)
        changes = feed.subscribe()
        async with feed.listening():
            assert not await changes.changed(SILENCE)
            async with migrated(f"sqlite+aiosqlite:///{path}"):
                assert await changes.changed(WITHIN)


@pytest.fixture
async def server_of_its_own() -> AsyncIterator[PostgresServer]:
    """One that may be stopped without stopping it for other tests."""
    try:
        running = running_postgres()
        with running as server:
            yield server
    except PostgresUnavailable as unavailable:
        pytest.skip(str(unavailable))


@pytest.mark.postgres
async def test_a_lost_connection_is_replaced_and_may_have_missed_something(
    postgres_url: str, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    name = urlsplit(postgres_url).path[1:]
    async with migrated(postgres_url) as database, _listening(database) as feed:
        changes = feed.subscribe()
        with caplog.at_level(logging.INFO):
            kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyhall changes'"
            assert postgres_server.execute(f"{kill} AND datname = '{name}'") == "t"
            assert await changes.changed(WITHIN)
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 2
        assert "polling until it is back" in said[0]
        assert said[1] == "listening for changes again"
        assert not await changes.changed(SILENCE)
        await _change(database)
        assert await changes.changed(WITHIN)


@pytest.mark.slow
async def test_a_server_that_stops_is_waited_for_and_told_of_once(
    server_of_its_own: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    with server_of_its_own.database() as url:
        async with migrated(url) as database, _listening(database) as feed:
            changes = feed.subscribe()
            with caplog.at_level(logging.INFO):
                await asyncio.to_thread(server_of_its_own.crash)
                for _ in range(3):
                    assert not await changes.changed(SILENCE)
                await asyncio.to_thread(server_of_its_own.start)
                assert await changes.changed(WITHIN)
            said = [record.getMessage() for record in caplog.records]
            assert [each.split(maxsplit=1)[0] for each in said] == ["the", "listening"]
            assert str(server_of_its_own.socket_directory) not in caplog.text
            await _change(database)
            assert await changes.changed(WITHIN)


@pytest.mark.postgres
async def test_behind_a_pooler_of_transactions_nobody_listens(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with migrated(postgres_url + "&prepared_statement_cache_size=0") as database:
        feed = DatabaseFeed(database)
        changes = feed.subscribe()
        async with feed.listening():
            await _change(database)
            assert not await changes.changed(SILENCE)
    assert caplog.records == []


async def test_a_bug_in_the_listener_ends_nothing_but_the_listener(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_heard: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(database.dialect, "listen", fail)
    feed = DatabaseFeed(database)
    async with feed.listening():
        assert not await feed.subscribe().changed(SILENCE)
    assert "polling alone" in caplog.text


# ---------------------------------------------------------------------------------------------------------------------
# What it is for
# ---------------------------------------------------------------------------------------------------------------------


async def _acknowledged(engine: AsyncEngine, instance: str) -> dict[str, int]:
    async with engine.connect() as connection:
        statement = text("SELECT epochs FROM instances WHERE id = :id")
        stored = (await connection.execute(statement, {"id": instance})).scalar_one()
    epochs: dict[str, int] = json.loads(stored) if isinstance(stored, str) else stored
    return epochs


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "only polled"])
async def test_a_key_change_is_taken_up_and_acknowledged_by_every_process_within_two_seconds(
    engine_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, heard: bool
) -> None:
    place = Place(engine_url, tmp_path / "data")
    engine = create_async_engine(engine_url)
    if heard:
        monkeypatch.setattr("app.services.instances.CONFIRM_EVERY_SECONDS", 3600)
    else:

        async def deaf(*_: object) -> None:
            return None

        monkeypatch.setattr("app.infrastructure.database.feed.DatabaseFeed._listen", deaf)
    try:
        async with place.services() as one, place.services() as other:
            before = await _acknowledged(engine, one.instances.id)
            await place.revoke(KeyName.JWT_SECRET_KEY)
            began = monotonic()
            for services in (one, other):
                while await _acknowledged(engine, services.instances.id) == before:
                    assert pace.within(monotonic() - began, 2)
                    await asyncio.sleep(0.02)
                assert services.keys.primary(KeyName.JWT_SECRET_KEY).version == 2
    finally:
        await engine.dispose()


async def test_a_server_that_falls_silent_is_noticed_and_listened_to_again(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{dialects.__name__}.postgresql._PROBE_EVERY_SECONDS", 0.1)
    heard: asyncio.Queue[bool] = asyncio.Queue()
    async with (
        proxied(postgres_url, tmp_path) as (url, proxy),
        open_database(DatabaseUrl.parse(url), may_create=False, timeouts=Timeouts(command=1)) as database,
    ):
        listening = asyncio.create_task(database.dialect.listen(lambda: None, heard.put_nowait))
        try:
            assert await heard.get() is True
            proxy.fall_silent()
            assert await heard.get() is False
        finally:
            listening.cancel()
            await asyncio.wait({listening})
