"""One opened database and its transactions."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Executable, Row, Table, delete, inspect, select, tuple_
from sqlalchemy.engine import Connection as SyncConnection
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.errors import StorageError, StorageReadOnly
from app.infrastructure.database.dialects import Dialect, Timeouts
from app.infrastructure.database.errors import DRIVER_ERRORS, committing, refusal, translated, translation
from app.infrastructure.database.faults import named
from app.settings.database_url import DatabaseUrl

AnyRow: TypeAlias = Row[*tuple[Any, ...]]
AnyResult: TypeAlias = CursorResult[*tuple[Any, ...]]

log = logging.getLogger(__name__)

DEFAULT_TIMEOUTS = Timeouts()

LOOK_SECONDS = 1.0
"""How long a start may look for damage."""


class Connection:
    """A transaction and the statements in it. Errors of the driver leave translated (errors.py).

    After a statement failed the transaction can only be rolled back, as PostgreSQL demands; `failure` remembers why.
    """

    __slots__ = ("_connection", "dialect", "failure")

    def __init__(self, connection: AsyncConnection, dialect: Dialect) -> None:
        self._connection = connection
        self.dialect = dialect
        self.failure: Exception | None = None

    async def row(self, statement: Executable, parameters: Mapping[str, object] | None = None) -> AnyRow | None:
        """The only row, or None."""
        return (await self._execute(statement, parameters)).one_or_none()

    async def rows(self, statement: Executable) -> Sequence[AnyRow]:
        """All rows."""
        return (await self._execute(statement, None)).all()

    async def value(self, statement: Executable) -> Any:
        """The first column of the only row, or None."""
        return (await self._execute(statement, None)).scalar_one_or_none()

    async def change(self, statement: Executable) -> int:
        """How many rows an INSERT, UPDATE or DELETE touched."""
        return (await self._execute(statement, None)).rowcount

    async def remove(self, table: Table, condition: ColumnElement[bool], limit: int | None) -> int:
        """Delete rows, at most ``limit`` of them where there is one, found by an index of ``condition``; how many."""
        if limit is None:
            return await self.change(delete(table).where(condition))
        key = tuple_(*table.primary_key.columns)
        some = select(*table.primary_key.columns).where(condition).limit(limit)
        return await self.change(delete(table).where(key.in_(some)))

    async def change_many(
        self, table: Table, *, change: Sequence[str], where: Sequence[str], rows: Sequence[tuple[object, ...]]
    ) -> int:
        """Update a row for each of ``rows``, as `Dialect.change_many` has it; how many were touched."""
        if not rows:
            return 0
        with self._remembering(), translated():
            return await self.dialect.change_many(self._connection, table, change, where, rows)

    async def has_table(self, name: str) -> bool:
        """Whether a table is there, from the catalogue."""
        with self._remembering(), translated():
            return await self._connection.run_sync(lambda connection: inspect(connection).has_table(name))

    async def table_names(self) -> frozenset[str]:
        """The tables that are there, from the catalogue."""
        with self._remembering(), translated():
            return frozenset(await self._connection.run_sync(lambda connection: inspect(connection).get_table_names()))

    async def lock(self, key: int, *, shared: bool = False) -> None:
        """Exclude every other holder of that key until the transaction ends; a shared one, those that do not share."""
        with self._remembering(), translated():
            await self.dialect.lock(self._connection, key, shared=shared)

    async def announce(self) -> None:
        """Notify every process once this transaction has committed: keys changed, or a job was queued."""
        with self._remembering(), translated():
            await self.dialect.announce(self._connection)

    async def _execute(self, statement: Executable, parameters: Mapping[str, object] | None) -> AnyResult:
        with self._remembering(), translated():
            return await self._connection.execute(statement, parameters)

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except Exception as failure:
            self.failure = failure
            raise


class Database:
    """An opened database. Every method may raise StorageError or one of its kinds."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect

    def exists(self) -> bool:
        """False where the embedded database's file is not there; only `open_database(may_create=True)` makes it."""
        return self.dialect.exists()

    async def probe(self) -> None:
        """Prove that the database can be reached and written to; one attempt.

        Raises:
            StorageReadOnly: the file, its directory or the server refuses writes.
            StorageBusy: somebody else holds the write lock.
            StorageError: it does not answer, or refuses; ``fault`` says which of them waiting may help.
        """
        try:
            async with self.dialect.turn(), self._connected(self.dialect.writer) as connection:
                await connection.begin()
                unfit = await self.dialect.unfit(connection)
        except DRIVER_ERRORS as error:
            raise refusal(error) from None
        if unfit is not None:
            refused = StorageReadOnly() if unfit == "25006" else StorageError()
            refused.fault = named(unfit)
            raise refused

    async def look(self) -> bool:
        """Look for damage in an embedded database, within a second or two and without changing its file.

        False where there was not time for all of it. Raises StorageError, whose fault says so if it is damaged.
        """
        return await self._checked(within=LOOK_SECONDS)

    async def check(self) -> bool:
        """The same of everything, however long it takes; False on PostgreSQL, whose own tools do that."""
        return await self._checked(within=None)

    async def _checked(self, *, within: float | None) -> bool:
        try:
            return await self.dialect.check(within=within)
        except DRIVER_ERRORS as error:
            raise refusal(error) from None

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        """One moment of the database; nothing can be written."""
        async with self._connected(self.dialect.reader) as connection:
            with translated():
                await connection.begin()
            yield Connection(connection, self.dialect)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Connection]:
        """A transaction that commits at its end, and rolls back if anything was raised, a cancellation too.

        A failure of one of its statements that somebody caught is raised again at the end: nothing half done commits.

        This is the one place that decides how a transaction ended. OutcomeUnknown: COMMIT was sent and its answer was
        lost. Any other error: certainly not committed. Once it has committed, nothing is raised.
        """
        async with self.dialect.turn(), self._connected(self.dialect.writer) as connection:
            with translated():
                transaction = await connection.begin()
            unit = Connection(connection, self.dialect)
            yield unit
            if unit.failure is not None:
                raise unit.failure  # PostgreSQL would answer COMMIT with a silent rollback
            if self.dialect.lost(connection):
                raise StorageError  # before COMMIT was sent
            with committing():
                await transaction.commit()

    async def rebuild(self, key: int, change: Callable[[SyncConnection], None]) -> None:
        """Change the schema in one transaction, under the lock of that key; what ``change`` raises undoes it all."""
        with translated():
            await self.dialect.rebuild(key, change)

    async def copy(self, path: Path) -> bool:
        """Write a consistent copy, proved whole; False on PostgreSQL, whose own tools do that."""
        with translated():
            return await self.dialect.copy(path)

    def data_version(self) -> int | None:
        """A number that changes with every commit by anybody; None on PostgreSQL."""
        try:  # not `with translated()`: this stands before every request, and takes less time than that
            return self.dialect.data_version()
        except DRIVER_ERRORS as error:
            raise (translation(error) or error) from None

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """A connection from the pool; what was begun and not committed is rolled back when it returns there."""
        with translated():
            connection = await engine.connect()
        try:
            yield connection
        finally:
            # The database rolls back even if this message does not reach it, and the pool drops the connection: raising
            # here would hide the error that came before, or turn a commit into a failure.
            try:
                with suppress(StorageError), translated():
                    await connection.close()
            except Exception:
                log.exception("a connection could not be given back to the pool")


@asynccontextmanager
async def open_database(
    url: DatabaseUrl, *, may_create: bool, timeouts: Timeouts | None = None
) -> AsyncIterator[Database]:
    """Open a database; nothing is connected to before it is needed.

    Args:
        url: where it is.
        may_create: whether the file of an embedded database may be made, mode 0600 in a directory of mode 0700.
        timeouts: when to give up, if not after `DEFAULT_TIMEOUTS`.
    """
    database = Database(_dialect(url, may_create=may_create, timeouts=timeouts or DEFAULT_TIMEOUTS))
    try:
        yield database
    finally:
        await database.dialect.close()


def _dialect(url: DatabaseUrl, *, may_create: bool, timeouts: Timeouts) -> Dialect:
    """The dialect of a URL; the other one's driver is not imported."""
    if url.server is not None:
        from app.infrastructure.database.dialects.postgresql import Postgresql  # noqa: PLC0415

        return Postgresql(url.server, timeouts=timeouts)
    from app.infrastructure.database.dialects.sqlite import Sqlite  # noqa: PLC0415

    return Sqlite(url.file, may_create=may_create, timeouts=timeouts)
