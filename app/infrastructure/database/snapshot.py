"""All rows of a database as of one moment, in a thread of its own: neither the event loop nor writers wait for it.

The connection is this snapshot's alone. It is not limited in time as those of requests are: a backup of a large
database takes minutes, and lies idle while a slow disk takes what was read.
"""

from __future__ import annotations

import asyncio
import base64
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any, Final, Protocol
from urllib.parse import quote

from sqlalchemy import Boolean, LargeBinary, column, select, table
from sqlalchemy.types import TypeDecorator, TypeEngine

from app.domain.backup import Row, Value
from app.domain.errors import StorageError
from app.infrastructure.database.errors import DRIVER_ERRORS, translation
from app.infrastructure.database.schema import metadata
from app.settings import DatabaseUrl

_BUSY_SECONDS: Final = 10.0
_PATIENT_SECONDS: Final = 600
"""How long PostgreSQL waits for the next message, and a message for its answer."""
_ROWS_AT_ONCE: Final = 100
"""Rows of a credential have some hundred bytes, at most 90 KB."""
_CONNECT_SECONDS: Final = 10.0
LEFT_OUT: Final = frozenset(
    {
        "alembic_version",
        "api_tokens",
        "attempts",
        "idempotency_keys",
        "instances",
        "jobs",
        "one_time_links",
        "refresh_tokens",
        "sessions",
        "spent_tickets",
    }
)
"""Tables about processes, sign-ins and requests of the moment: a restored install begins without them."""


class Snapshot(Protocol):
    """One moment of a database. Every method raises StorageError or one of its kinds; none may leave the thread."""

    def query(self, sql: str, *parameters: str) -> Iterator[Sequence[Any]]:
        """Return rows as the driver has them, few of them in memory at a time. ``?`` stands for a parameter."""
        ...

    def columns(self, name: str) -> Sequence[str]:
        """Return the columns of a table in their order; none where there is no such table."""
        ...


def tables(snapshot: Snapshot) -> Sequence[str]:
    """The tables of a backup that are there, parents before children, the keys first."""
    ordered = sorted(metadata.sorted_tables, key=lambda each: each.name not in {"schema_info", "app_config"})
    wanted = (str(each.name) for each in ordered if each.name not in LEFT_OUT)
    return [name for name in wanted if snapshot.columns(name)]


def count(snapshot: Snapshot, name: str) -> int:
    """How many rows a table has."""
    ((rows,),) = snapshot.query(f"SELECT count(*) FROM {_quoted(name)}")  # noqa: S608 - a name of the schema
    return int(rows)


def rows(snapshot: Snapshot, name: str) -> Iterator[Row]:
    """Every row of a table, in the values of an archive (`app.domain.backup.Row`)."""
    names = snapshot.columns(name)
    known = metadata.tables[name].columns
    plain = [_plain(known[each].type if each in known else None) for each in names]
    statement = str(select(*(column(each) for each in names)).select_from(table(name)))
    for row in snapshot.query(statement):
        yield {each: convert(value) for each, convert, value in zip(names, plain, row, strict=True)}


def _plain(kind: TypeEngine[Any] | None) -> Callable[[Any], Value]:
    """From a driver's value to an archive's, by the column's type: SQLite keeps a value of any type in any column."""
    while isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    if isinstance(kind, LargeBinary):
        # As every reader of encrypted columns has it: a value that is no bytes is damaged.
        return lambda value: value if value is None else _base64(value if isinstance(value, bytes) else b"")
    if isinstance(kind, Boolean):
        return lambda value: value if value is None else bool(value)
    return _as_it_is if kind is not None else _by_value


def _as_it_is(value: Any) -> Value:
    if value is None or isinstance(value, str | int):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _by_value(value: Any) -> Value:
    """A column that this version does not have: a later one made the table, or an earlier one."""
    return _base64(value) if isinstance(value, bytes) else _as_it_is(value)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def open_snapshot(url: DatabaseUrl) -> AbstractContextManager[Snapshot]:
    """A snapshot of a database, for the thread that opens it. Raises StorageError."""
    return _of_sqlite(url) if url.server is None else _of_postgresql(url)


def _translated(error: Exception) -> Exception:
    known = translation(error)
    if known is None and not isinstance(error, DRIVER_ERRORS):  # asyncpg's own, of a connection that was lost
        known = StorageError()
        known.add_note(f"the driver raised {type(error).__name__}")
    return known or error


# ---------------------------------------------------------------------------------------------------------------------
# SQLite: a transaction that only reads, which in WAL holds nobody up
# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def _of_sqlite(url: DatabaseUrl) -> Iterator[Snapshot]:
    uri = f"file:{quote(str(url.file))}?mode=rw"  # WAL needs its index beside the file, also to read
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    except sqlite3.Error as error:
        raise _translated(error) from None
    with closing(connection):
        connection.text_factory = lambda value: value.decode("utf-8", "replace")
        snapshot = _SqliteSnapshot(connection)
        # BEGIN alone sees no moment yet, the first read does.
        for statement in ("PRAGMA query_only=ON", "PRAGMA trusted_schema=OFF", "BEGIN", "SELECT 1 FROM sqlite_master"):
            for _ in snapshot.query(statement):
                pass
        yield snapshot


class _SqliteSnapshot:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def query(self, sql: str, *parameters: str) -> Iterator[Sequence[Any]]:
        try:
            with closing(self._connection.execute(sql, parameters)) as cursor:
                yield from cursor
        except sqlite3.Error as error:
            raise _translated(error) from None

    def columns(self, name: str) -> Sequence[str]:
        return [row[0] for row in self.query("SELECT name FROM pragma_table_info(?)", name)]


# ---------------------------------------------------------------------------------------------------------------------
# PostgreSQL: a cursor in a transaction, driven by an event loop in this thread
# ---------------------------------------------------------------------------------------------------------------------


def connect_options(url: DatabaseUrl) -> dict[str, Any]:
    """Options of asyncpg for a connection whose statements may take long, also behind PgBouncer."""
    server = url.server
    assert server is not None  # noqa: S101
    tls = url.tls()
    options: dict[str, Any]
    _, options = server.get_dialect()().create_connect_args(  # type: ignore[assignment]
        server if tls is None else server.difference_update_query(["ssl", "sslrootcert"])
    )
    options.pop("prepared_statement_cache_size", None)  # SQLAlchemy's own
    if tls is not None:
        options["ssl"] = tls
    # Nothing that PgBouncer refuses: no settings of the session, no prepared statement with a name.
    options |= {"timeout": _CONNECT_SECONDS, "statement_cache_size": 0, "command_timeout": _PATIENT_SECONDS}
    options["server_settings"] = {"application_name": "keyhall"}
    return options


# An older server has no transaction_timeout, and so no such row. The times are those of _PATIENT_SECONDS.
_LIMITS: Final = (
    "SELECT set_config(wanted.name, wanted.value, true) FROM pg_settings JOIN (VALUES "
    "('statement_timeout', '10min'), ('idle_in_transaction_session_timeout', '10min'), ('transaction_timeout', '0'), "
    "('TimeZone', 'UTC'), ('DateStyle', 'ISO')) AS wanted (name, value) USING (name)"
)
_MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?\+00", re.ASCII)


def _moment(text: str) -> str:
    """A time of PostgreSQL's as an archive has it; one beyond the years 1 to 9999 as PostgreSQL has it."""
    found = _MOMENT.fullmatch(text)
    return text if found is None else f"{found[1]}T{found[2]}.{found[3] or '':0<6}Z"


@contextmanager
def _of_postgresql(url: DatabaseUrl) -> Iterator[Snapshot]:
    import asyncpg  # noqa: PLC0415 - an install on SQLite needs none

    options = connect_options(url)
    with asyncio.Runner() as runner:
        snapshot = _PostgresqlSnapshot(runner)
        try:
            snapshot.connection = snapshot.run(lambda: asyncpg.connect(**options))
            snapshot.run(lambda: snapshot.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            snapshot.run(lambda: snapshot.connection.execute(_LIMITS))
            # As text: a time that Python does not have, in an edited row, must not keep the others from a backup.
            snapshot.run(
                lambda: snapshot.connection.set_type_codec(
                    "timestamptz", schema="pg_catalog", encoder=str, decoder=_moment, format="text"
                )
            )
            yield snapshot
        finally:
            if snapshot.connection is not None:
                snapshot.connection.terminate()  # the transaction only read: there is nothing to wait for


class _PostgresqlSnapshot:
    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._cursors = 0
        self.connection: Any = None

    def run(self, step: Callable[[], Any]) -> Any:
        import asyncpg  # noqa: PLC0415

        async def stepping() -> Any:
            return await step()

        try:
            return self._runner.run(stepping())
        except (*DRIVER_ERRORS, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            raise _translated(error) from None

    def query(self, sql: str, *parameters: str) -> Iterator[Sequence[Any]]:
        self._cursors += 1
        name, number = f"keyhall_{self._cursors}", iter(range(1, len(parameters) + 1))
        sql = "".join(f"${next(number)}" if part == "?" else part for part in sql)
        # A cursor by name, not asyncpg's own: that one would need a prepared statement between two messages.
        self.run(lambda: self.connection.fetch(f"DECLARE {name} NO SCROLL CURSOR FOR {sql}", *parameters))
        while rows := self.run(lambda: self.connection.fetch(f"FETCH {_ROWS_AT_ONCE} FROM {name}")):
            yield from rows
        self.run(lambda: self.connection.execute(f"CLOSE {name}"))

    def columns(self, name: str) -> Sequence[str]:
        catalogue = (
            "SELECT column_name::text FROM information_schema.columns "
            "WHERE table_schema = current_schema() AND table_name = ? ORDER BY ordinal_position"
        )
        return [row[0] for row in self.query(catalogue, name)]
