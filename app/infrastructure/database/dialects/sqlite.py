"""SQLite: one file, one writer at a time, readers that never wait for it (WAL)."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiosqlite
from sqlalchemy import URL, ColumnElement, Table, bindparam, event, func, literal_column, type_coerce, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from app.domain.errors import StorageBusy
from app.infrastructure.database.columns import UtcDateTime
from app.infrastructure.database.dialects import Timeouts
from app.infrastructure.database.dialects.commit_watch import CommitWatch
from app.infrastructure.database.dialects.integrity import check_file
from app.infrastructure.database.dialects.on_loop import LoopLookups
from app.infrastructure.database.dialects.one_hop import OneHopConnection
from app.infrastructure.private_files import create, make_directory, owner_for

_READERS: Final = 4
"""Connections for reading; each has a thread of its own."""
_LOOK_EVERY_SECONDS: Final = 0.1

# synchronous=FULL: with WAL, NORMAL may lose the last commits when the power fails, and those were acknowledged.
# secure_delete: what is removed or replaced is overwritten, so that old ciphertext does not linger in the file.
# trusted_schema=OFF: a file that was tampered with cannot run functions through its views and triggers.
_PRAGMAS: Final = ("foreign_keys=ON", "synchronous=FULL", "secure_delete=ON", "trusted_schema=OFF", "temp_store=MEMORY")
_READING: Final = (*_PRAGMAS, "query_only=ON")
_WITHOUT_BEGIN: Final = "keyhall_without_begin"
"""The option of an engine whose statements are transactions of their own."""


class _Releasing(sqlite3.Connection):
    """Gives its locks back when it is closed.

    SQLite itself goes on with a transaction until the last statement is finalized, and a cursor that an exception's
    traceback keeps would hold everybody up: also the one who, while cancelled, wants to write down where it stopped.
    """

    def close(self) -> None:
        """Roll back, then close."""
        with suppress(sqlite3.Error):  # it may be closed already, or broken
            self.rollback()
        super().close()


class DanglingReference(Exception):
    """A migration left rows that point at nothing."""


class Sqlite:
    """The embedded database. The file is created at the first connection, if it may be, and never again after it."""

    def __init__(self, path: Path, *, may_create: bool, timeouts: Timeouts) -> None:
        self._path = path
        self._may_create = may_create
        self._creating = threading.Lock()
        self._busy = timeouts.busy
        self._turn = asyncio.Lock()
        # No busy timeout: nobody may wait here.
        self._watch = CommitWatch(partial(self._open_existing, busy=0))
        # aiosqlite repeats every parameter at DEBUG, and parameters hold hashes and envelopes.
        logging.getLogger("aiosqlite").setLevel(logging.INFO)
        self.reader = self._engine("BEGIN", connections=_READERS, pragmas=_READING, watch=None)
        self.autocommitting = self.reader.execution_options(**{_WITHOUT_BEGIN: True})
        connect = partial(self._open, (*_READING, "busy_timeout=0"), any_thread=True)
        self.lookups = LoopLookups(connect, self.autocommitting)
        # An immediate transaction takes the write lock before it reads: no lost update, no deadlock, no retrying.
        self.writer = self._engine("BEGIN IMMEDIATE", connections=1, pragmas=_PRAGMAS, watch=self._watch)

    def _engine(
        self, begin: str, *, connections: int, pragmas: tuple[str, ...], watch: CommitWatch | None
    ) -> AsyncEngine:
        engine = create_async_engine(
            URL.create("sqlite+aiosqlite", database=str(self._path)),
            hide_parameters=True,
            max_overflow=0,
            pool_size=connections,
            pool_timeout=self._busy,
        )

        @event.listens_for(engine.sync_engine, "do_connect")
        def _connect(dialect: Any, *_: object) -> OneHopConnection:
            return OneHopConnection(dialect.dbapi, await_only(self._connect(pragmas)), watch)

        @event.listens_for(engine.sync_engine, "begin")
        def _begin(connection: Connection) -> None:
            if not connection.get_execution_options().get(_WITHOUT_BEGIN):
                adapted: Any = connection.connection.dbapi_connection
                adapted.begin(begin)

        return engine

    async def _connect(self, pragmas: tuple[str, ...]) -> aiosqlite.Connection:
        connection = aiosqlite.Connection(partial(self._open, pragmas, any_thread=True), iter_chunk_size=64)
        thread = connection._thread  # noqa: SLF001 - aiosqlite shows it to nobody
        # As SQLAlchemy does where it connects itself: a connection that was lost must not keep the process from ending.
        thread.daemon = True
        try:
            return await connection
        except BaseException:
            # aiosqlite asks its thread to end and does not wait; one that outlives the loop ends with a traceback.
            await asyncio.to_thread(thread.join)
            raise

    def _open(self, pragmas: tuple[str, ...], *, any_thread: bool = False) -> sqlite3.Connection:
        """Connect, in a thread in which waiting is allowed."""
        self._create_file()
        connection = self._open_existing(busy=self._busy, any_thread=any_thread)
        try:
            self._ensure_wal(connection)
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_existing(self, *, busy: float, any_thread: bool = False) -> sqlite3.Connection:
        # mode=rw: a file that went away is an error, not an empty database.
        uri = f"file:{quote(str(self._path))}?mode=rw"
        connection = sqlite3.connect(
            uri,
            uri=True,
            timeout=busy,
            isolation_level=None,
            cached_statements=256,
            factory=_Releasing,
            check_same_thread=not any_thread,
        )
        # SQLite keeps bytes that are no UTF-8 as text. They are read as text that no code has stored, so that a reader
        # finds a damaged value among sound ones, instead of the driver's refusal of them all.
        connection.text_factory = _text
        return connection

    def _create_file(self) -> None:
        with self._creating:
            if not self._may_create:
                return
            make_directory(self._path.parent)
            # O_EXCL: closing a descriptor of a file that SQLite has open in this process would drop its locks.
            with suppress(FileExistsError):
                os.close(create(self._path, owner=owner_for(self._path)))
            self._may_create = False

    def _ensure_wal(self, connection: sqlite3.Connection) -> None:
        """Switch to WAL, which no busy timeout covers while several processes are about it."""
        until = time.monotonic() + self._busy
        while _journal_mode(connection, "PRAGMA journal_mode") != "wal":
            try:
                if _journal_mode(connection, "PRAGMA journal_mode=WAL") != "wal":
                    raise OSError(errno.ENOTSUP, "the file system does not support WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def exists(self) -> bool:
        """Whether the file is there; True where only opening it can show why it cannot be seen."""
        try:
            return self._path.exists()
        except OSError:
            return True

    @asynccontextmanager
    async def turn(self, *, reserved: bool = False) -> AsyncIterator[float]:  # noqa: ARG002 - the file has one writer
        """First come, first served among the tasks of this process; busy_timeout alone would starve some."""
        try:
            async with asyncio.timeout(self._busy):
                await self._turn.acquire()
        except TimeoutError:
            raise StorageBusy from None
        try:
            yield 0.0
        finally:
            self._turn.release()

    @property
    def reserved_reader(self) -> AsyncEngine:
        """The same: readers of WAL wait for nobody."""
        return self.reader

    @property
    def reserved_writer(self) -> AsyncEngine:
        """The same: the file has one writer at a time."""
        return self.writer

    @property
    def excludes_within(self) -> float:
        """See `Timeouts.busy`."""
        return self._busy

    @property
    def answers_within(self) -> None:
        """There is no connection to anywhere."""

    def crowded(self, _error: Exception, /) -> bool:
        """Never."""
        return False

    async def make_room(self, _engine: AsyncEngine, /) -> None:
        """Nothing to do."""

    def end(self, _connection: AsyncConnection, /) -> Callable[[], None]:
        """Nothing to do."""
        return lambda: None

    def limits(self, *, waited: float) -> None:
        """None: busy_timeout is set for each connection."""

    async def try_lock(self, _connection: AsyncConnection, _key: int, /) -> bool:
        """Nothing to do: BEGIN IMMEDIATE excludes everybody."""
        return True

    def lost(self, _connection: AsyncConnection, /) -> bool:
        """Never: there is no connection to anywhere."""
        return False

    def data_version(self) -> int:
        """See `CommitWatch`."""
        return self._watch.version()

    def announced_version(self) -> int:
        """See `CommitWatch`."""
        return self._watch.announced_version()

    def insert(self, table: Table) -> sqlite.Insert:
        """An INSERT that supports ON CONFLICT."""
        return sqlite.insert(table)

    def now(self, later: timedelta | None = None) -> ColumnElement[datetime]:
        """The host's clock; SQLite has milliseconds."""
        shift = () if later is None else (f"{later.total_seconds():+.3f} seconds",)
        moment = func.strftime("%Y-%m-%dT%H:%M:%f", "now", *shift)
        return type_coerce(moment.op("||")(literal_column("'000Z'")), UtcDateTime)

    async def change_many(
        self,
        connection: AsyncConnection,
        table: Table,
        change: Sequence[str],
        where: Sequence[str],
        rows: Sequence[tuple[object, ...]],
        /,
    ) -> int:
        """One statement, run for row after row in the connection's thread.

        Its parameters go straight to the driver: SQLAlchemy's own executemany takes as long again for each row.
        """
        statement = (
            update(table)
            .ordered_values(*((table.c[name], bindparam(f"new_{name}")) for name in change))  # as the rows have them
            .where(*(table.c[name] == bindparam(f"old_{name}") for name in where))
        )
        compiled = str(statement.compile(dialect=connection.dialect))
        return (await connection.exec_driver_sql(compiled, list(rows))).rowcount

    async def lock(self, _connection: AsyncConnection, _key: int, /, *, shared: bool = False) -> None:
        """Nothing to do: BEGIN IMMEDIATE excludes everybody."""

    async def announce(self, _connection: AsyncConnection, /) -> None:
        """Every process looks; without this, this one would not look at a commit of its own."""
        self._watch.announce()

    async def listen(self, notify: Callable[[], None], prompt: Callable[[bool], None], /) -> None:
        """Look at the announced version ten times a second."""
        seen: int | None = None
        prompt(True)
        while True:
            # An unreadable file is reported by the statement that reads from it.
            with suppress(sqlite3.Error):
                moved = self.announced_version()
                if moved != seen:
                    seen = moved
                    notify()
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    async def unfit(self, connection: AsyncConnection, /) -> None:
        """Raises SQLITE_READONLY instead: a write that is rolled back, since BEGIN IMMEDIATE alone proves nothing."""
        await connection.exec_driver_sql("PRAGMA user_version=0")

    async def check(self, *, within: float | None) -> bool:
        """As `check_file` (integrity.py)."""
        return await asyncio.to_thread(check_file, self._path, busy=self._busy, within=within)

    async def copy(self, path: Path, /) -> bool:
        """As of one moment, while others read and write; the copy is there whole or not at all."""
        await asyncio.to_thread(self._copy, path)
        return True

    def _copy(self, path: Path) -> None:
        make_directory(path.parent)
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        descriptor = create(temporary, owner=owner_for(path))
        try:
            with closing(self._open_existing(busy=self._busy)) as source, closing(sqlite3.connect(temporary)) as target:
                _require_twice_open(descriptor, temporary)
                source.backup(target)
                target.execute("PRAGMA journal_mode=DELETE")  # one file, which needs no -wal beside it
                if (found := target.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                    raise sqlite3.DatabaseError(f"the copy is damaged: {found}")
            os.fsync(descriptor)
            temporary.replace(path)
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)

    async def rebuild(self, _key: int, change: Callable[[Connection], None], /) -> None:
        """On a connection without foreign keys: dropping the old copy of a parent table would delete its children.

        Raises DanglingReference for rows that a foreign key would have refused.
        """
        engine = self._engine("BEGIN IMMEDIATE", connections=1, pragmas=(*_PRAGMAS, "foreign_keys=OFF"), watch=None)
        try:
            async with self.turn(), engine.begin() as connection:
                await connection.run_sync(change)
                if broken := (await connection.exec_driver_sql("PRAGMA foreign_key_check")).all():
                    raise DanglingReference(f"{len(broken)} rows, the first in {broken[0][0]}")
        finally:
            await engine.dispose()

    async def close(self) -> None:
        """Close every connection."""
        self._watch.close()
        self.lookups.close()
        await self.reader.dispose()
        await self.writer.dispose()


def _require_twice_open(descriptor: int, path: Path) -> None:
    """Make sure that SQLite, which opens by name, has opened the file of this descriptor. Raises OSError.

    The owner of the directory could have put a link there since: root would write through it.
    """
    ours = os.fstat(descriptor)
    # Every descriptor of this process; SQLite's own cannot be asked for.
    found = 0
    for number in os.listdir("/dev/fd"):  # noqa: PTH208 - names alone
        with suppress(OSError):  # that of the list itself is closed by now
            found += os.path.samestat(os.fstat(int(number)), ours)
    if found != 2:
        raise FileExistsError(errno.EEXIST, "another file was put there", str(path))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _journal_mode(connection: sqlite3.Connection, pragma: str) -> str:
    mode: str = connection.execute(pragma).fetchone()[0]
    return mode
