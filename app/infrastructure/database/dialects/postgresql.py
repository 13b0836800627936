"""PostgreSQL, through asyncpg."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
from sqlalchemy import (
    ARRAY,
    URL,
    ColumnElement,
    DateTime,
    Interval,
    Table,
    column,
    event,
    func,
    literal,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from app.infrastructure.database.dialects import Timeouts
from app.infrastructure.database.schema import UtcDateTime

log = logging.getLogger(__name__)

_CONNECTIONS: Final = 5
_MORE_CONNECTIONS: Final = 10
"""Opened under load and closed after it."""
_REBUILD_SECONDS: Final = 3600.0
"""A migration may copy a large table, or wait for another process that does."""

_CHANNEL: Final = "keyhall"
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 5.0
_PROBE_EVERY_SECONDS: Final = 30.0
"""How often a silent connection is asked whether it is still one."""
_CLOSE_SECONDS: Final = 1.0
_LOST: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""Errors of asyncpg when the server cannot be reached, refuses, or goes away; TimeoutError is an OSError."""


class Postgresql:
    """A server. Behind PgBouncer in transaction mode the URL says ``?prepared_statement_cache_size=0``."""

    def __init__(self, url: URL, *, timeouts: Timeouts) -> None:
        server_settings = {"application_name": "keyhall"}
        arguments: dict[str, Any] = {
            "timeout": timeouts.connect,
            "command_timeout": timeouts.command,
            "server_settings": server_settings,
        }
        if url.query.get("prepared_statement_cache_size") == "0":
            arguments["statement_cache_size"] = 0  # asyncpg's own, under SQLAlchemy's
        else:  # PgBouncer lets no such setting through; it has an idle_transaction_timeout of its own
            server_settings["idle_in_transaction_session_timeout"] = f"{timeouts.abandoned * 1000:.0f}"
        self._url = url
        self._arguments = arguments
        self.writer = create_async_engine(
            url,
            connect_args=arguments,
            hide_parameters=True,
            max_overflow=_MORE_CONNECTIONS,
            pool_size=_CONNECTIONS,
            pool_timeout=timeouts.busy,
            pool_use_lifo=True,
        )
        self.reader = self.writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        event.listen(self.writer.sync_engine, "checkout", _refuse_closed)

    def exists(self) -> bool:
        """True: only connecting can show it."""
        return True

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Rows are locked one by one: nobody waits here."""
        yield

    def lost(self, connection: AsyncConnection, /) -> bool:
        """Whether the server has closed it, as far as this process has noticed."""
        raw: Any = connection.sync_connection
        return bool(raw.connection.driver_connection.is_closed())

    def data_version(self) -> None:
        """There is no such number."""

    def insert(self, table: Table) -> postgresql.Insert:
        """An INSERT that supports ON CONFLICT."""
        return postgresql.insert(table)

    def now(self, later: timedelta | None = None) -> ColumnElement[datetime]:
        """The server's clock, moving on within a transaction."""
        moment = func.clock_timestamp(type_=DateTime(timezone=True))
        return type_coerce(moment if later is None else moment + literal(later, Interval()), UtcDateTime)

    async def change_many(
        self,
        connection: AsyncConnection,
        table: Table,
        change: Sequence[str],
        where: Sequence[str],
        rows: Sequence[tuple[object, ...]],
        /,
    ) -> int:
        """One statement, with an array per column."""
        names = [*(f"new_{name}" for name in change), *(f"old_{name}" for name in where)]
        types = [table.c[name].type for name in (*change, *where)]
        arrays = [
            literal(list(values), ARRAY(kind)) for values, kind in zip(zip(*rows, strict=True), types, strict=True)
        ]
        given = (
            func.unnest(*arrays)
            .table_valued(*(column(name, kind) for name, kind in zip(names, types, strict=True)), name="given")
            .render_derived()
        )
        statement = (
            update(table)
            .values({name: given.c[f"new_{name}"] for name in change})
            .where(*(table.c[name] == given.c[f"old_{name}"] for name in where))
        )
        return (await connection.execute(statement)).rowcount

    async def lock(self, connection: AsyncConnection, key: int, /, *, shared: bool = False) -> None:
        """An advisory lock that ends with the transaction, as PgBouncer demands."""
        take = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
        await connection.execute(select(take(key)))

    async def announce(self, connection: AsyncConnection, /) -> None:
        """NOTIFY, which PostgreSQL holds back until the commit and drops with a rollback."""
        await connection.execute(select(func.pg_notify(_CHANNEL, "")))

    async def listen(self, notify: Callable[[], None], /) -> None:
        """LISTEN, on a connection of its own that is replaced when it is lost.

        PgBouncer in transaction mode lends a connection for a transaction only: behind it nobody can listen.
        """
        if "statement_cache_size" in self._arguments:
            return
        lost, pause = False, _FIRST_PAUSE
        while True:
            try:
                async with self._listening(notify) as connection:
                    if lost:
                        log.info("listening for changes again")
                    lost, pause = False, _FIRST_PAUSE
                    notify()  # changes may have been announced while the connection was lost
                    await _until_lost(connection)
            except _LOST as error:  # its message may name the server
                if not lost:
                    log.warning(
                        "the connection for changes is lost (%s), polling until it is back", type(error).__name__
                    )
                lost = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    @asynccontextmanager
    async def _listening(self, notify: Callable[[], None]) -> AsyncIterator[Any]:
        _, options = self.writer.dialect.create_connect_args(self._url)
        options.pop("prepared_statement_cache_size", None)  # SQLAlchemy's own
        options.update(self._arguments | {"server_settings": {"application_name": "keyhall changes"}})
        connection = await asyncpg.connect(**options)
        try:
            await connection.add_listener(_CHANNEL, lambda *_: notify())
            yield connection
        finally:
            with suppress(*_LOST):  # it may be closed already, and nothing waits for its answer
                await connection.close(timeout=_CLOSE_SECONDS)

    async def unfit(self, connection: AsyncConnection, /) -> str | None:
        """A standby or default_transaction_read_only; text that is not UTF-8; no schema to find tables in."""
        settings = [func.current_setting(name) for name in ("transaction_read_only", "server_encoding")]
        row = await connection.execute(select(func.pg_is_in_recovery(), func.current_schema(), *settings))
        standby, schema, read_only, encoding = row.one()
        if standby or read_only == "on":
            return "25006"
        if encoding != "UTF8":
            return "server_encoding"
        return "3F000" if schema is None else None

    async def check(self, *, within: float | None) -> bool:  # noqa: ARG002
        """Not from here: pg_amcheck does that."""
        return False

    async def copy(self, _path: Path, /) -> bool:
        """Not from here: pg_dump does that, and must fit the server's version."""
        return False

    async def rebuild(self, key: int, change: Callable[[Connection], None], /) -> None:
        """On a connection of its own, whose statements may take long."""
        engine = create_async_engine(
            self._url,
            connect_args=self._arguments
            | {"command_timeout": _REBUILD_SECONDS, "server_settings": {"application_name": "keyhall"}},
            hide_parameters=True,
            poolclass=NullPool,
        )
        async with engine.begin() as connection:
            await self.lock(connection, key)
            await connection.run_sync(change)

    async def close(self) -> None:
        """Close every connection."""
        await self.writer.dispose()


async def _until_lost(connection: Any) -> None:
    """Raises one of _LOST, at once when the server closes the connection and within a minute when it falls silent."""
    closed = asyncio.Event()
    connection.add_termination_listener(lambda _: closed.set())
    while True:
        await connection.execute("SELECT 1")
        with suppress(TimeoutError):
            async with asyncio.timeout(_PROBE_EVERY_SECONDS):
                await closed.wait()


def _refuse_closed(connection: Any, *_: object) -> None:
    """Have the pool replace a connection that the server closed; asking the server first would cost three messages."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError
