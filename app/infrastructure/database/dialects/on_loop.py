"""Lookups in an SQLite file on the event loop's thread: to read a few rows by key takes less than a hop to another.

Decision 0021 says for how long this may block the loop, and which work stays away from it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Executable, create_engine
from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import NullPool

from app.domain.errors import StorageError

_T = TypeVar("_T")


class LoopLookups:
    """One connection for all lookups of a process. Each statement is read to its end before another one begins.

    ``connect`` opens it, in a thread, because that may wait. From then on it waits for no lock: a statement that would
    have to is repeated on the engine ``waiting``, as is one that comes while the connection is being opened.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], waiting: AsyncEngine) -> None:
        self._connect = connect
        self._opening = False
        self.waiting = waiting
        self.connection: Connection | None = None

    @asynccontextmanager
    async def statements(self) -> AsyncIterator[LoopConnection]:
        """Statements by themselves, not a transaction: each sees all that was committed before it."""
        if self.connection is None and not self._opening:
            await self._open()
        unit = LoopConnection(self)
        try:
            yield unit
        except StorageError:
            if unit.at_once:  # it may be broken: the next lookup opens another one
                self.close()
            raise
        finally:
            await unit.close()

    async def _open(self) -> None:
        self._opening = True
        try:
            opening = asyncio.ensure_future(asyncio.to_thread(self._connect))
            try:
                raw = await asyncio.shield(opening)
            except asyncio.CancelledError:
                opening.add_done_callback(_close)
                raise
            engine = create_engine("sqlite+pysqlite://", creator=lambda: raw, poolclass=NullPool, hide_parameters=True)
            self.connection = engine.connect()
        finally:
            self._opening = False

    def close(self) -> None:
        """Close the connection; the next lookup opens another one."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class LoopConnection:
    """As much of AsyncConnection as a lookup needs. Nothing is awaited while a statement runs and is read.

    Once a statement had to wait, or found no connection, the rest of the lookup goes on where statements may wait.
    """

    __slots__ = ("_lookups", "_waiting", "at_once")

    def __init__(self, lookups: LoopLookups) -> None:
        self._lookups = lookups
        self._waiting: AsyncConnection | None = None
        self.at_once = True

    async def execute(
        self, statement: Executable, parameters: Mapping[str, object] | None = None
    ) -> CursorResult[*tuple[Any, ...]]:
        """Execute a statement; its result has to be read before anything is awaited."""
        return await self._run(
            lambda connection: connection.execute(statement, parameters),
            lambda connection: connection.execute(statement, parameters),
        )

    async def run_sync(self, look: Callable[[Connection], _T]) -> _T:
        """Call ``look`` with a connection."""
        return await self._run(look, lambda connection: connection.run_sync(look))

    async def _run(
        self, at_once: Callable[[Connection], _T], waiting: Callable[[AsyncConnection], Awaitable[_T]]
    ) -> _T:
        if self.at_once and self._lookups.connection is not None:
            try:
                return at_once(self._lookups.connection)
            except DBAPIError as error:
                if not _busy(error):
                    raise
        self.at_once = False
        if self._waiting is None:
            self._waiting = await self._lookups.waiting.connect()
        return await waiting(self._waiting)

    async def close(self) -> None:
        """Give back the connection on which it waited."""
        if self._waiting is not None:
            await self._waiting.close()


def _close(opened: asyncio.Future[sqlite3.Connection]) -> None:
    """Close what was opened for a lookup that was cancelled."""
    if not opened.cancelled() and opened.exception() is None:
        opened.result().close()


def _busy(error: DBAPIError) -> bool:
    """Whether a process excludes even readers: in a restore, or while it recovers the file after a crash."""
    cause = error.driver_exception
    return isinstance(cause, sqlite3.Error) and cause.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
