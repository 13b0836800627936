"""One opened database and its transactions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar, cast

from sqlalchemy import ColumnElement, Executable, Row, Table, delete, insert, inspect, select, tuple_
from sqlalchemy.engine import Connection as SyncConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.domain.errors import StorageBusy, StorageError, StorageReadOnly
from app.infrastructure.database.answer_timeout import AnswerTimeout
from app.infrastructure.database.dialects import Dialect, Timeouts
from app.infrastructure.database.errors import DRIVER_ERRORS, asked, committing, refusal, translated
from app.infrastructure.database.faults import named
from app.settings.database_url import DatabaseUrl

AnyRow: TypeAlias = Row[*tuple[Any, ...]]

_T = TypeVar("_T")

log = logging.getLogger(__name__)

DEFAULT_TIMEOUTS = Timeouts()

_PAUSE_FOR_OTHERS: Final = 0.5
"""Seconds between two attempts to lock everybody out, for those who queued behind the first."""
_CROWDED_PAUSE: Final = 0.1
_PATIENT_SECONDS: Final = 3600.0
_GIVE_BACK_SECONDS: Final = 1.0
"""For a rollback at the end of a transaction that failed."""

LOOK_SECONDS = 1.0
"""How long a start may look for damage."""


_NOTHING_TO_AWAIT: Final = AnswerTimeout(None, lambda: None, began=0.0)


class Connection:
    """A transaction and the statements in it. Errors of the driver leave translated (errors.py).

    After a statement failed the transaction can only be rolled back, as PostgreSQL demands; `failure` remembers why.
    """

    __slots__ = ("_answering", "_connection", "dialect", "failure")

    def __init__(self, connection: AsyncConnection, dialect: Dialect, answering: AnswerTimeout) -> None:
        self._connection = connection
        self._answering = answering
        self.dialect = dialect
        self.failure: Exception | None = None

    async def row(self, statement: Executable, parameters: Mapping[str, object] | None = None) -> AnyRow | None:
        """The only row, or None."""
        with self._asking():
            return (await self._connection.execute(statement, parameters)).one_or_none()

    async def rows(self, statement: Executable, parameters: Mapping[str, object] | None = None) -> Sequence[AnyRow]:
        """All rows."""
        with self._asking():
            return (await self._connection.execute(statement, parameters)).all()

    async def tuples(self, statement: Executable) -> Sequence[tuple[Any, ...]]:
        """All rows as the driver returns them, for many: no type of the schema converts or checks what is in them."""
        with self._asking():
            result = await self._connection.execute(statement)
            rows: Sequence[tuple[Any, ...]] = cast("Any", result.cursor).fetchall()
            result.close()
            return rows

    async def value(self, statement: Executable, parameters: Mapping[str, object] | None = None) -> Any:
        """The first column of the only row, or None."""
        with self._asking():
            return (await self._connection.execute(statement, parameters)).scalar_one_or_none()

    async def change(self, statement: Executable, parameters: Mapping[str, object] | None = None) -> int:
        """How many rows an INSERT, UPDATE or DELETE touched."""
        with self._asking():
            return (await self._connection.execute(statement, parameters)).rowcount

    async def insert(self, table: Table, row: Mapping[str, object]) -> None:
        """Insert a row by a statement that is the same for every row."""
        if unknown := row.keys() - table.c.keys():  # SQLAlchemy would leave it out
            raise KeyError(f"{table.name} has no {', '.join(sorted(unknown))}")
        await self.change(insert(table), row)

    async def remove(self, table: Table, condition: ColumnElement[bool], limit: int | None) -> int:
        """Delete rows, at most ``limit`` of them where there is one, found by an index of ``condition``; how many."""
        if limit is None:
            return await self.change(delete(table).where(condition))
        key = tuple_(*table.primary_key.columns)
        some = select(*table.primary_key.columns).where(condition).limit(limit)
        # The condition twice: where a row was changed meanwhile, PostgreSQL judges it again by the outer one alone.
        return await self.change(delete(table).where(condition, key.in_(some)))

    async def change_many(
        self, table: Table, *, change: Sequence[str], where: Sequence[str], rows: Sequence[tuple[object, ...]]
    ) -> int:
        """Update a row for each of ``rows``, as `Dialect.change_many` has it; how many were touched."""
        if not rows:
            return 0
        with self._asking():
            return await self.dialect.change_many(self._connection, table, change, where, rows)

    async def has_table(self, name: str) -> bool:
        """Whether a table is there, from the catalogue."""
        with self._asking():
            return await self._connection.run_sync(lambda connection: inspect(connection).has_table(name))

    async def table_names(self) -> frozenset[str]:
        """The tables that are there, from the catalogue."""
        with self._asking():
            return frozenset(await self._connection.run_sync(lambda connection: inspect(connection).get_table_names()))

    async def run(self, look: Callable[[SyncConnection], _T]) -> _T:
        """Call ``look`` with the connection of SQLAlchemy, and return its result."""
        with self._asking():
            return await self._connection.run_sync(look)

    async def lock(self, key: int, *, shared: bool = False) -> None:
        """Exclude every other holder of that key until the transaction ends; a shared one, those that do not share."""
        with self._asking():
            await self.dialect.lock(self._connection, key, shared=shared)

    async def lock_out(self, key: int) -> None:
        """As an exclusive ``lock``, but those who share the key wait little for it: attempts, with pauses between them.

        Raises StorageBusy after a while in which somebody shared the key all the time.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + self.dialect.excludes_within
        while True:
            with self._asking():
                if await self.dialect.try_lock(self._connection, key):
                    return
            if clock() > until:
                raise StorageBusy
            await asyncio.sleep(_PAUSE_FOR_OTHERS)

    async def announce(self) -> None:
        """Notify every process once this transaction has committed: keys changed, or a job was queued."""
        with self._asking():
            await self.dialect.announce(self._connection)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with self._answering, translated():
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
            async with (
                self.dialect.turn(reserved=True),
                self._connected(self.dialect.reserved_writer) as (connection, answering),
            ):
                await connection.begin()
                with answering:
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
    async def read(self, *, reserved: bool = False) -> AsyncIterator[Connection]:
        """One moment of the database; nothing can be written."""
        engine = self.dialect.reserved_reader if reserved else self.dialect.reader
        async with self._connected(engine) as (connection, answering):
            with translated():
                await connection.begin()
            yield Connection(connection, self.dialect, answering)

    @asynccontextmanager
    async def lookup(self, *, large: bool = False, reserved: bool = False) -> AsyncIterator[Connection]:
        """A few rows: each statement sees a moment of its own. Nothing can be written.

        ``large`` ones may hold megabytes, which are read in a thread.
        """
        async with AsyncExitStack() as stack:
            if self.dialect.lookups is not None and not large:
                with translated():
                    looking = await stack.enter_async_context(self.dialect.lookups.statements())
                yield Connection(cast("AsyncConnection", looking), self.dialect, _NOTHING_TO_AWAIT)
            elif self.dialect.autocommitting is not None and not reserved:
                connected = self._connected(self.dialect.autocommitting)
                connection, answering = await stack.enter_async_context(connected)
                yield Connection(connection, self.dialect, answering)
            else:
                yield await stack.enter_async_context(self.read(reserved=reserved))

    @asynccontextmanager
    async def write(self, *, reserved: bool = False) -> AsyncIterator[Connection]:
        """A transaction that commits at its end, and rolls back if anything was raised, a cancellation too.

        A failure of one of its statements that somebody caught is raised again at the end: nothing half done commits.

        This is the one place that decides how a transaction ended. OutcomeUnknown: COMMIT was sent and its answer was
        lost. Any other error: certainly not committed. Once it has committed, nothing is raised.
        """
        engine = self.dialect.reserved_writer if reserved else self.dialect.writer
        began = asyncio.get_running_loop().time()
        async with (
            self.dialect.turn(reserved=reserved) as waited,
            self._connected(engine, began) as (connection, answering),
        ):
            with translated():
                transaction = await connection.begin()
            await self._limit(connection, answering, waited=waited)
            unit = Connection(connection, self.dialect, answering)
            yield unit
            if unit.failure is not None:
                raise unit.failure  # PostgreSQL would answer COMMIT with a silent rollback
            if self.dialect.lost(connection):
                raise _ended()
            with answering, committing():
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
        return asked(self.dialect.data_version)

    def announced_version(self) -> int | None:
        """The same, but commits of this process that announced nothing do not change it."""
        return asked(self.dialect.announced_version)

    @asynccontextmanager
    async def _connected(
        self, engine: AsyncEngine, began: float | None = None
    ) -> AsyncIterator[tuple[AsyncConnection, AnswerTimeout]]:
        """A connection from the pool; what was begun and not committed is rolled back when it returns there."""
        began = asyncio.get_running_loop().time() if began is None else began
        with translated():
            connection = await self._connect(engine, began)
        answering = AnswerTimeout(self.dialect.answers_within, self.dialect.end(connection), began)
        try:
            yield connection, answering
        finally:
            # The database rolls back even if this message does not reach it, and the pool drops the connection: raising
            # here would hide the error that came before, or turn a commit into a failure.
            try:
                with suppress(StorageError), answering.at_most(_GIVE_BACK_SECONDS), translated():
                    await connection.close()
            except Exception:
                log.exception("a connection could not be given back to the pool")

    async def _limit(self, connection: AsyncConnection, answering: AnswerTimeout, *, waited: float) -> None:
        limits = self.dialect.limits(waited=waited)
        if limits is not None:
            with answering, translated():
                await connection.execute(limits)

    async def _connect(self, engine: AsyncEngine, began: float) -> AsyncConnection:
        """A free connection of the pool or a new one; where the server has too many, wait for either."""
        seconds = self.dialect.answers_within
        until = None if seconds is None else began + seconds
        refused: DBAPIError | None = None
        try:
            async with asyncio.timeout_at(until):
                while True:
                    try:
                        return await engine.connect()
                    except DBAPIError as error:
                        if not self.dialect.crowded(error):
                            raise
                        refused = error
                    await self.dialect.make_room(engine)
                    await asyncio.sleep(_CROWDED_PAUSE)
        except TimeoutError:
            if refused is not None:
                raise refused from None
            raise


def _ended() -> StorageError:
    ended = StorageError()
    ended.add_note("the server had ended the connection before the commit was sent")
    return ended


@asynccontextmanager
async def open_database(
    url: DatabaseUrl,
    *,
    may_create: bool,
    timeouts: Timeouts | None = None,
    connections: int | None = None,
    patient: bool = False,
    schema: str | None = None,
) -> AsyncIterator[Database]:
    """Open a database; nothing is connected to before it is needed.

    Args:
        url: where it is.
        may_create: whether the file of an embedded database may be made, mode 0600 in a directory of mode 0700.
        timeouts: when to give up, if not after `DEFAULT_TIMEOUTS`.
        connections: how many to a server are for requests, half of them for writing; None for the default.
        patient: whether statements may take long, because they change whole tables while nobody is served.
        schema: the schema of a server in which the tables are; None for the one that the server takes.
    """
    timeouts = timeouts or DEFAULT_TIMEOUTS
    if patient:
        timeouts = replace(timeouts, command=_PATIENT_SECONDS)
    database = Database(_dialect(url, may_create=may_create, timeouts=timeouts, connections=connections, schema=schema))
    try:
        yield database
    finally:
        await database.dialect.close()


def _dialect(
    url: DatabaseUrl, *, may_create: bool, timeouts: Timeouts, connections: int | None, schema: str | None
) -> Dialect:
    """The dialect of a URL; the other one's driver is not imported."""
    if url.server is not None:
        from app.infrastructure.database.dialects.postgresql import DEFAULT_CONNECTIONS, Postgresql  # noqa: PLC0415

        return Postgresql(
            url.server,
            timeouts=timeouts,
            tls=url.tls(),
            connections=connections or DEFAULT_CONNECTIONS,
            schema=schema,
        )
    from app.infrastructure.database.dialects.sqlite import Sqlite  # noqa: PLC0415

    return Sqlite(url.file, may_create=may_create, timeouts=timeouts)
