"""Defaults that a server, a database or a role may have: Keyhall says in each transaction what it needs."""

from __future__ import annotations

import asyncio
import logging

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection as SyncConnection

from app.infrastructure.database.engine import open_database
from app.infrastructure.database.feed import DatabaseFeed
from app.infrastructure.database.unit_of_work import SqlStorage
from app.settings import DatabaseUrl
from tests.support.database import NOW, migrated
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.postgres


def _set(server: PostgresServer, url: str, setting: str) -> None:
    server.execute(f'ALTER DATABASE "{url.split("/")[3].split("?", maxsplit=1)[0]}" SET {setting}')


@pytest.mark.parametrize("default", ["serializable", "repeatable read", "read uncommitted"])
async def test_every_transaction_has_the_isolation_that_keyhall_needs(
    postgres_server: PostgresServer, postgres_url: str, default: str
) -> None:
    _set(postgres_server, postgres_url, f"default_transaction_isolation = '{default}'")
    found: list[str] = []

    def look(connection: SyncConnection) -> None:
        found.append(str(connection.execute(text("SHOW transaction_isolation")).scalar_one()))

    async with open_database(DatabaseUrl.parse(postgres_url), may_create=False) as database:
        for _ in range(2):  # the second time on the connections of the first
            async with database.write() as connection:
                found.append(await connection.value(text("SHOW transaction_isolation")))
            async with database.read() as connection:
                found.append(await connection.value(text("SHOW transaction_isolation")))
        await database.rebuild(1, look)
    assert found == ["read committed", "repeatable read"] * 2 + ["read committed"]


async def test_writers_do_not_fail_each_other_on_a_serializable_database(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async with migrated(postgres_url):
        pass
    _set(postgres_server, postgres_url, "default_transaction_isolation = 'serializable'")
    async with open_database(DatabaseUrl.parse(postgres_url), may_create=False) as database:
        storage = SqlStorage(database)

        async def write(number: int) -> None:
            async with storage.write() as unit:
                await unit.bot_state.get("shared")
                await unit.bot_state.put(f"k{number}", "v", NOW)
                await unit.bot_state.put("shared", str(number), NOW)

        await asyncio.gather(*(write(number) for number in range(20)))


async def test_a_connection_that_listens_is_exempt_from_the_limit_on_idle_sessions(
    postgres_server: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    _set(postgres_server, postgres_url, "idle_session_timeout = '300ms'")
    caplog.set_level(logging.INFO)
    url = DatabaseUrl.parse(postgres_url)
    assert url.server is not None
    async with open_database(url, may_create=False) as database:
        feed = DatabaseFeed(database)
        first = feed.subscribe()
        async with feed.listening():
            assert await first.changed(60)
            for _ in range(2):  # another session, opened later, is ended each time
                ended = asyncio.Event()
                other = await asyncpg.connect(
                    user="postgres", database=url.server.database, host=str(postgres_server.socket_directory)
                )
                other.add_termination_listener(lambda _, ended=ended: ended.set())
                async with asyncio.timeout(60):
                    await ended.wait()
    assert "the connection for changes is lost" not in caplog.text
