"""aiosqlite under SQLAlchemy, with one hop to the connection's thread for a statement.

SQLAlchemy's own adapter makes a cursor, executes, fetches and closes, each in a hop of its own, and a hop takes longer
than most statements.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import aiosqlite
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_connection, AsyncAdapt_aiosqlite_cursor
from sqlalchemy.util import await_only

from app.infrastructure.database.dialects.commit_watch import CommitWatch

_Outcome: TypeAlias = tuple[Sequence[Any], Any, int, Any]
"""The rows of a statement, their description, how many it touched, and the last rowid."""


class OneHopCursor(AsyncAdapt_aiosqlite_cursor):
    """Holds what a statement returned; the driver's cursor lives and ends in the connection's thread."""

    __slots__ = ("_description", "_lastrowid", "_rowcount")

    _awaitable_cursor_close = False
    arraysize = 1

    def __init__(self, adapted: OneHopConnection) -> None:  # instead of the base's, which makes a cursor in a hop
        self._adapt_connection: OneHopConnection = adapted
        self._cursor: Any = None
        self._rows = deque()
        self._description: Any = None
        self._rowcount = -1
        self._lastrowid: Any = None

    @property
    def description(self) -> Any:
        """As of PEP 249."""
        return self._description

    @property
    def rowcount(self) -> int:
        """As of PEP 249."""
        return self._rowcount

    @property
    def lastrowid(self) -> Any:
        """As of PEP 249."""
        return self._lastrowid

    async def _execute_async(self, operation: str, parameters: Any) -> None:
        await self._run(_execute, operation, parameters or ())

    async def _executemany_async(self, operation: str, parameters: Any) -> None:
        await self._run(_executemany, operation, parameters)

    async def _run(self, function: Callable[..., _Outcome], operation: str, parameters: Any) -> None:
        outcome = await self._adapt_connection.hop(function, operation, parameters)
        rows, self._description, self._rowcount, self._lastrowid = outcome
        self._rows = deque(rows)


class OneHopConnection(AsyncAdapt_aiosqlite_connection):
    """Reports its commits to ``watch``. Sends no ROLLBACK where a transaction has certainly ended, as after COMMIT."""

    __slots__ = ("_ended", "_watch")

    _cursor_cls: Any = OneHopCursor

    def __init__(self, dbapi: Any, connection: aiosqlite.Connection, watch: CommitWatch | None) -> None:
        super().__init__(dbapi, cast("Any", connection))
        self._ended = True
        self._watch = watch

    async def hop(self, function: Callable[..., _Outcome], *arguments: Any) -> _Outcome:
        """Call ``function`` with the driver's connection in its thread."""
        connection: Any = self._connection  # aiosqlite has no public way to run more than one call in a hop
        async with self._execute_mutex:
            outcome: _Outcome = await connection._execute(function, connection._conn, *arguments)  # noqa: SLF001
        return outcome

    def begin(self, statement: str) -> None:
        """Begin a transaction with that statement."""
        self._ended = False  # at once: where this is cancelled, the thread begins it nevertheless
        await_only(self._connection.execute_fetchall(statement))
        if self._watch is not None:
            self._watch.began(self._driver)

    def commit(self) -> None:
        """Commit."""
        driver = self._driver  # before: nothing may fail after it
        super().commit()
        self._ended = True
        if self._watch is not None:
            self._watch.committed(driver)

    @property
    def _driver(self) -> sqlite3.Connection:
        """The driver's own connection. Its thread has nothing to do while nothing is awaited."""
        driver: sqlite3.Connection = cast("Any", self._connection)._conn  # noqa: SLF001
        return driver

    def rollback(self) -> None:
        """Roll back, if anything may have begun."""
        if not self._ended:
            super().rollback()
            self._ended = True


def _execute(connection: sqlite3.Connection, operation: str, parameters: Any) -> _Outcome:
    cursor = connection.cursor()
    try:
        cursor.execute(operation, parameters)
        rows = cursor.fetchall() if cursor.description else ()
        return rows, cursor.description, cursor.rowcount, cursor.lastrowid
    finally:
        cursor.close()


def _executemany(connection: sqlite3.Connection, operation: str, parameters: Any) -> _Outcome:
    cursor = connection.cursor()
    try:
        cursor.executemany(operation, parameters)
        return (), None, cursor.rowcount, cursor.lastrowid
    finally:
        cursor.close()
