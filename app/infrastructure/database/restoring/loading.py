"""Loads the rows of a backup into an empty database at the backup's revision, in the thread that reads them."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from functools import cache
from itertools import groupby
from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, DateTime, Integer, LargeBinary
from sqlalchemy.types import TypeDecorator, TypeEngine

from app.domain.backup import BackupHeader, Row, Rows
from app.domain.errors import BackupDamaged, StorageError
from app.domain.times import rfc3339, utc_text
from app.infrastructure.database.errors import DRIVER_ERRORS, translation
from app.infrastructure.database.schema import metadata
from app.infrastructure.database.snapshot import LEFT_OUT, connect_options
from app.services.ports import ShowProgress
from app.services.ports.restoring import Loaded
from app.settings import DatabaseUrl

_ROWS_AT_ONCE: Final = 100
"""A row has some hundred bytes, at most 90 KB."""
_SHOW_EVERY: Final = 500
_MOMENT: Final = "VARCHAR(27)"
"""The type of no column but times (`schema.UtcDateTime`)."""
_WRITTEN: Final = 27
_NEEDED: Final = frozenset({"app_config", "schema_info"})

Convert = Callable[[Any], Any]
Columns = Mapping[str, Convert]


class _Refused(Exception):
    """A value that Keyhall never writes into such a column."""


def load(url: DatabaseUrl, schema: str | None, header: BackupHeader, rows: Rows, show: ShowProgress) -> Loaded:
    """Store every row of a backup, but for those with a value that no schema takes, which are named.

    Args:
        url: the database, migrated to the backup's revision and not in use.
        schema: the schema of a server in which the tables are.
        header: of the backup.
        rows: of the backup, to their end.
        show: called now and then with the number of rows so far.

    Raises:
        BackupDamaged: a table, column or value is not of that schema, or a row breaks one of its rules.
        StorageError: the database does not take them.
    """
    refused: list[str] = []
    if schema is None:
        return Loaded(_into_sqlite(url, header, rows, show, refused), refused)
    with asyncio.Runner() as runner:
        return Loaded(runner.run(_into_postgresql(url, schema, header, rows, show, refused)), refused)


def fits(table: str, row: Row) -> bool:
    """Whether the schema at head takes the values of a row; a table or column that it does not have is passed over."""
    columns = _at_head(table)
    try:
        for name, value in row.items():
            if value is not None and name in columns:
                columns[name](value)
    except (_Refused, ValueError):
        return False
    return True


@cache
def _at_head(table: str) -> Columns:
    known = metadata.tables.get(table)
    return {} if known is None else {str(each.name): _of_type(each.type) for each in known.columns}


def _of_type(kind: TypeEngine[Any]) -> Convert:
    while isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    for known, convert in ((LargeBinary, _bytes), (Boolean, _truth), (DateTime, _moment), (BigInteger, _number)):
        if isinstance(kind, known):
            return convert
    return _small if isinstance(kind, Integer) else _text


def _batches(
    tables: Mapping[str, Columns], header: BackupHeader, rows: Rows, show: ShowProgress, refused: list[str]
) -> Iterator[tuple[str, list[str], list[tuple[Any, ...]]]]:
    """Table, columns and rows in the values of the driver, some at a time. Raises BackupDamaged."""
    known = tables.keys() - LEFT_OUT
    if not known >= set(header.tables) >= _NEEDED:
        raise BackupDamaged("the backup holds other tables than its revision has")
    done = 0
    for table, of_table in groupby(rows, key=lambda each: each[0]):
        columns, waiting = tables[table], list[tuple[Any, ...]]()
        names = list(columns)
        for _, row in of_table:
            if row.keys() != columns.keys():
                raise BackupDamaged(f"the backup holds other columns of {table} than its revision has")
            done += 1
            try:
                waiting.append(_converted(row, columns))
            except (_Refused, ValueError):
                key = row.get("id", row.get("key"))
                refused.append(f"{table} {key if isinstance(key, str | int) else f'row {done}'}")
            if not done % _SHOW_EVERY:
                show(done, None)
            if len(waiting) == _ROWS_AT_ONCE:
                yield table, names, waiting
                waiting = []
        if waiting:
            yield table, names, waiting
    show(done, done)


def _converted(row: Row, columns: Columns) -> tuple[Any, ...]:
    return tuple(None if row[name] is None else convert(row[name]) for name, convert in columns.items())


def _text(value: Any) -> str:
    if type(value) is not str or "\0" in value:
        raise _Refused
    return value


def _moment(value: Any) -> datetime:
    text = _text(value)
    if len(text) == _WRITTEN and text.endswith("Z"):  # as a backup has it, in a tenth of the time
        return datetime.fromisoformat(text)
    return rfc3339(text)


def _number(value: Any) -> int:
    if type(value) is not int:
        raise _Refused
    return value


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise _Refused
    return value


def _bytes(value: Any) -> bytes:
    return base64.b64decode(_text(value), validate=True)


def _broken(error: Exception) -> BackupDamaged:
    return BackupDamaged(f"a row of the backup breaks a rule of the schema ({type(error).__name__})")


# ---------------------------------------------------------------------------------------------------------------------
# SQLite
# ---------------------------------------------------------------------------------------------------------------------


def _of_sqlite(declared: str) -> Convert:
    kind = declared.upper()
    if kind == _MOMENT:
        return lambda value: utc_text(_moment(value))
    if kind.startswith("BLOB"):
        return _bytes
    if kind.startswith("BOOL"):
        return _truth
    if kind == "BIGINT":
        return _number
    return _small if kind == "INTEGER" else _text


def _small(value: Any) -> int:
    """A number that PostgreSQL takes as INTEGER too."""
    if not -(2**31) <= _number(value) < 2**31:
        raise _Refused
    return int(value)


def _into_sqlite(url: DatabaseUrl, header: BackupHeader, rows: Rows, show: ShowProgress, refused: list[str]) -> int:
    try:
        with closing(sqlite3.connect(url.file, isolation_level=None)) as connection:
            # Nobody sees this file, and it is copied from here in a transaction that is durable.
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("PRAGMA trusted_schema=OFF")
            names = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
            )
            tables = {
                table: {
                    # A primary key that is INTEGER here is BIGINT on the other engine.
                    name: _of_sqlite("BIGINT" if kind == "INTEGER" and key else kind)
                    for name, kind, key in connection.execute(
                        "SELECT name, type, pk FROM pragma_table_info(?)", (table,)
                    )
                }
                for (table,) in names.fetchall()
            }
            connection.execute("BEGIN IMMEDIATE")
            for table in header.tables:
                if table in tables:
                    connection.execute(f'DELETE FROM "{table}"')  # noqa: S608 - a table of the schema
            count = 0
            for table, columns, some in _batches(tables, header, rows, show, refused):
                listed, marks = ", ".join(f'"{name}"' for name in columns), ", ".join("?" * len(columns))
                connection.executemany(f'INSERT INTO "{table}" ({listed}) VALUES ({marks})', some)  # noqa: S608
                count += len(some)
            if broken := connection.execute("PRAGMA foreign_key_check").fetchone():
                raise BackupDamaged(f"a row of {broken[0]} in the backup points at a row that is not in it")
            connection.execute("COMMIT")
            return count
    except (sqlite3.IntegrityError, OverflowError) as error:
        raise _broken(error) from None
    except sqlite3.Error as error:
        raise (translation(error) or error) from None


# ---------------------------------------------------------------------------------------------------------------------
# PostgreSQL
# ---------------------------------------------------------------------------------------------------------------------

_OF_POSTGRESQL: Final[Mapping[str, Convert]] = {
    "bytea": _bytes,
    "boolean": _truth,
    "integer": _small,
    "bigint": _number,
    "timestamp with time zone": _moment,
}


async def _into_postgresql(  # noqa: PLR0917
    url: DatabaseUrl, schema: str, header: BackupHeader, rows: Rows, show: ShowProgress, refused: list[str]
) -> int:
    import asyncpg  # noqa: PLC0415 - an install on SQLite needs none

    connection: Any = None
    try:
        connection = await asyncpg.connect(**connect_options(url))
        await connection.execute("BEGIN")
        await connection.execute("SELECT set_config('idle_in_transaction_session_timeout', '10min', true)")
        await connection.execute("SELECT set_config('statement_timeout', '10min', true)")
        tables: dict[str, dict[str, Convert]] = {}
        catalogue = (
            "SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns "
            "WHERE table_schema = $1 ORDER BY table_name, ordinal_position"
        )
        for table, name, kind in await connection.fetch(catalogue, schema):
            tables.setdefault(table, {})[name] = _OF_POSTGRESQL.get(kind, _text)
        for table in reversed(header.tables):
            if table in tables:
                await connection.execute(f'DELETE FROM "{schema}"."{table}"')  # noqa: S608 - a table of the schema
        count = 0
        for table, columns, some in _batches(tables, header, rows, show, refused):
            await connection.copy_records_to_table(table, schema_name=schema, columns=columns, records=some)
            count += len(some)
        await _go_on_counting(connection, schema)
        await connection.execute("COMMIT")
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, OverflowError) as error:
        raise _broken(error) from None
    except (*DRIVER_ERRORS, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise _translated(error) from None
    else:
        return count
    finally:
        if connection is not None:
            connection.terminate()


async def _go_on_counting(connection: Any, schema: str) -> None:
    """Numbers that the server gives go on behind the largest that was loaded."""
    serial = (
        "SELECT table_name::text, column_name::text FROM information_schema.columns "
        "WHERE table_schema = $1 AND column_default LIKE 'nextval(%'"
    )
    for table, column in await connection.fetch(serial, schema):
        largest = f'SELECT max("{column}") FROM "{schema}"."{table}"'  # noqa: S608 - names from the catalogue
        sequence = f"pg_get_serial_sequence('\"{schema}\".\"{table}\"', '{column}')"
        await connection.execute(f"SELECT setval({sequence}, greatest(({largest}), 1), ({largest}) IS NOT NULL)")


def _translated(error: Exception) -> Exception:
    known = translation(error)
    if known is None and not isinstance(error, DRIVER_ERRORS):  # asyncpg's own, of a connection that was lost
        known = StorageError()
        known.add_note(f"the driver raised {type(error).__name__}")
    return known or error


__all__: Sequence[str] = ("fits", "load")
