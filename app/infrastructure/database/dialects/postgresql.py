"""PostgreSQL, through asyncpg."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final, cast
from weakref import WeakSet

import asyncpg
from sqlalchemy import (
    ARRAY,
    URL,
    ColumnElement,
    DateTime,
    Executable,
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
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.domain.errors import StorageBusy
from app.infrastructure.database.columns import UtcDateTime
from app.infrastructure.database.dialects import Timeouts
from app.infrastructure.database.dialects.limiting import limiting

log = logging.getLogger(__name__)

DEFAULT_CONNECTIONS: Final = 10
_RESERVED: Final = 2
"""Connections for the process's own lease, keys and readiness, the second one only while it is needed."""
_LONG_WAIT: Final = 0.25
"""Seconds in the queue of writers that are worth a further message to shorten the wait for locks."""
_SHARE_FOR_SERVER: Final = 0.9
"""The server gives a statement up, and the pool a request, before this process gives up the connection."""
_ISOLATION: Final = "READ COMMITTED"
"""Said in every BEGIN: a server, a database or a role may have another default, under which writers fail."""
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
    """A server. Behind PgBouncer in transaction mode the URL says ``?prepared_statement_cache_size=0``.

    Tables are in ``schema``, else in the schema that the server takes for the role.
    """

    lookups = None  # a server is on the other end of a network

    def __init__(
        self,
        url: URL,
        *,
        timeouts: Timeouts,
        tls: SSLContext | None = None,
        connections: int = DEFAULT_CONNECTIONS,
        schema: str | None = None,
    ) -> None:
        limits = {
            "idle_in_transaction_session_timeout": _milliseconds(timeouts.abandoned),
            "lock_timeout": _milliseconds(timeouts.lock),
            "statement_timeout": _milliseconds(timeouts.command * _SHARE_FOR_SERVER),
        }
        if schema is not None:
            limits["search_path"] = schema
        self._schema = schema
        self._pooler = url.query.get("prepared_statement_cache_size") == "0"
        arguments: dict[str, Any] = {"timeout": timeouts.connect, "command_timeout": None}
        if tls is not None:
            arguments["ssl"] = tls
            url = url.difference_update_query(["ssl", "sslrootcert"])
        if self._pooler:  # PgBouncer lets no such setting through: each transaction begins with them
            arguments["statement_cache_size"] = 0  # asyncpg's own, under SQLAlchemy's
            arguments["server_settings"] = {"application_name": "keyhall"}
        else:
            arguments["server_settings"] = {"application_name": "keyhall", **limits}
        self._limits = limits
        self._url = url
        self._arguments = arguments
        self._timeouts = timeouts
        writers = max(connections // 2, 1)
        self._turns = asyncio.Semaphore(writers)
        self._open: WeakSet[Any] = WeakSet()
        self.writer = self._engine(writers)
        readers = self._engine(max(connections - writers, 1), read_only=True)
        self.reader = _reading(readers)
        # Behind PgBouncer only a transaction is surely read-only and limited in time, and only within one a statement
        # meets the connection on which it was prepared.
        self.autocommitting = None if self._pooler else readers.execution_options(isolation_level="AUTOCOMMIT")
        self.reserved_writer = self._engine(1, more=_RESERVED - 1)
        self.reserved_reader = _reading(self.reserved_writer)

    def _engine(self, connections: int, *, more: int = 0, read_only: bool = False) -> AsyncEngine:
        arguments = dict(self._arguments)
        if self._pooler:
            arguments["connection_class"] = limiting(self._limits)
        elif read_only:
            arguments["server_settings"] = arguments["server_settings"] | {"default_transaction_read_only": "on"}
        engine = create_async_engine(
            self._url,
            connect_args=arguments,
            hide_parameters=True,
            isolation_level=_ISOLATION,
            max_overflow=more,
            pool_size=connections,
            pool_timeout=self._timeouts.command * _SHARE_FOR_SERVER,
            # First in, first out: a place in the pool whose connection could not be opened is not tried again at once,
            # while open connections wait behind it.
            pool_use_lifo=False,
        )
        event.listen(engine.sync_engine, "connect", lambda raw, _: self._open.add(raw.driver_connection))
        event.listen(engine.sync_engine, "checkout", _refuse_closed)
        return engine

    @property
    def excludes_within(self) -> float:
        """See `Timeouts.busy`."""
        return self._timeouts.busy

    @property
    def answers_within(self) -> float:
        """See `Timeouts.command`."""
        return self._timeouts.command

    def crowded(self, error: Exception, /) -> bool:
        """Whether the server has too many connections (53300)."""
        return isinstance(error, DBAPIError) and getattr(error.driver_exception, "sqlstate", None) == "53300"

    async def make_room(self, engine: AsyncEngine, /) -> None:
        """Of readers for writers, and the other way round."""
        for other in (self.reader, self.writer):
            pool: Any = other.pool
            if pool is engine.pool or not pool.checkedin():
                continue
            # Not `dispose`: connections in use would go back to the former pool, and stay open there.
            with suppress(DBAPIError):
                idle = await other.connect()
                await idle.invalidate()
                await idle.close()

    def end(self, connection: AsyncConnection, /) -> Callable[[], None]:
        """Its socket is closed: a caller that waits for an answer gets an error, and nothing waits for a farewell."""
        raw: Any = connection.sync_connection
        return cast("Callable[[], None]", raw.connection.driver_connection.terminate)

    def limits(self, *, waited: float) -> Executable | None:
        """After a long wait, less of it for locks."""
        if waited <= _LONG_WAIT:
            return None
        return _lock_timeout(_milliseconds(max(self._timeouts.lock - waited, self._timeouts.lock / 10)))

    def exists(self) -> bool:
        """True: only connecting can show it."""
        return True

    @asynccontextmanager
    async def turn(self, *, reserved: bool = False) -> AsyncIterator[float]:
        """Rows are locked one by one; but writers that wait for locks must leave connections to others."""
        if reserved:
            yield 0.0
            return
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self._timeouts.lock):
                await self._turns.acquire()
        except TimeoutError:
            raise _no_turn() from None
        try:
            yield clock() - began
        finally:
            self._turns.release()

    def lost(self, connection: AsyncConnection, /) -> bool:
        """Whether the server has closed it, as far as this process has noticed."""
        raw: Any = connection.sync_connection
        return bool(raw.connection.driver_connection.is_closed())

    def data_version(self) -> None:
        """There is no such number."""

    def announced_version(self) -> None:
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

    async def try_lock(self, connection: AsyncConnection, key: int, /) -> bool:
        """Behind a savepoint, so that the transaction goes on after an attempt in vain."""
        savepoint = await connection.begin_nested()
        try:
            await connection.execute(_lock_timeout(_milliseconds(self._timeouts.attempt)))
            await connection.execute(select(func.pg_advisory_xact_lock(key)))
        except DBAPIError as error:
            if getattr(error.driver_exception, "sqlstate", None) != "55P03":  # lock_not_available
                raise
            await savepoint.rollback()
            return False
        await connection.execute(_lock_timeout(self._limits["lock_timeout"]))
        await savepoint.commit()
        return True

    async def announce(self, connection: AsyncConnection, /) -> None:
        """NOTIFY, which PostgreSQL holds back until the commit and drops with a rollback."""
        await connection.execute(select(func.pg_notify(_CHANNEL, "")))

    async def listen(self, notify: Callable[[], None], prompt: Callable[[bool], None], /) -> None:
        """LISTEN, on a connection of its own that is replaced when it is lost.

        PgBouncer in transaction mode lends a connection for a transaction only: behind it nobody can listen.
        """
        if self._pooler:
            return
        lost, pause = False, _FIRST_PAUSE
        while True:
            try:
                async with self._listening(notify) as connection:
                    if lost:
                        log.info("listening for changes again")
                    lost, pause = False, _FIRST_PAUSE
                    prompt(True)
                    notify()  # changes may have been announced while the connection was lost
                    await _until_lost(connection)
            except _LOST as error:  # its message may name the server
                prompt(False)
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
        # The other connections are watched by their callers (AnswerTimeout); here a silent server must be noticed, too.
        limit = {"command_timeout": self._timeouts.command}
        options.update(self._arguments | limit | {"server_settings": {"application_name": "keyhall changes"}})
        connection = await asyncpg.connect(**options)
        try:
            # Silent for as long as nothing changes. An older server has no such setting, and so no such row.
            await connection.execute(
                "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'"
            )
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
            isolation_level=_ISOLATION,
            poolclass=NullPool,
        )
        async with engine.begin() as connection:
            if self._schema is not None:
                await connection.execute(select(func.set_config("search_path", self._schema, True)))
            await self.lock(connection, key)
            await connection.run_sync(change)

    async def close(self) -> None:
        """Close every connection; one whose server does not take its leave within a second is ended without it."""
        engines = (self.writer, self.reader, self.reserved_writer)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.gather(*(engine.dispose() for engine in engines))
        for raw in list(self._open):
            raw.terminate()
        for engine in engines:
            await engine.dispose()


def _reading(engine: AsyncEngine) -> AsyncEngine:
    """The same connections, for transactions in which nothing can be written and all is seen as of one moment."""
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def _lock_timeout(value: str) -> Executable:
    return select(func.set_config("lock_timeout", value, True))


def _no_turn() -> StorageBusy:
    busy = StorageBusy()
    busy.add_note("every connection of this process for writing was in use, see DATABASE_CONNECTIONS")
    return busy


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
