"""Loads the rows of a backup into an empty database at the backup's revision, in the thread that reads them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby
from typing import Any, Final

from app.domain.backup import BackupHeader, Row, Rows
from app.domain.errors import BackupDamaged, StorageError
from app.domain.times import rfc3339, utc_text
from app.infrastructure.database.errors import DRIVER_ERRORS, translation
from app.infrastructure.database.snapshot import LEFT_OUT, connect_options
from app.services.ports import ShowProgress
from app.settings import DatabaseUrl

_ROWS_AT_ONCE: Final = 100
"""A row has some hundred bytes, at most 90 KB."""
_SHOW_EVERY: Final = 500
_MOMENT: Final = "VARCHAR(27)"
"""The type of no column but times (`schema.UtcDateTime`)."""
_NEEDED: Final = frozenset({"app_config", "schema_info"})

Convert = Callable[[Any], Any]
Columns = Mapping[str, Convert]


class _Refused(Exception):
    """A value that Keyhall never writes into such a column."""


def load(url: DatabaseUrl, schema: str | None, header: BackupHeader, rows: Rows, show: ShowProgress) -> int:
    """Store every row of a backup; how many.

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
    if schema is None:
        return _into_sqlite(url, header, rows, show)
    with asyncio.Runner() as runner:
        return runner.run(_into_postgresql(url, schema, header, rows, show))


def _batches(
    tables: Mapping[str, Columns], header: BackupHeader, rows: Rows, show: ShowProgress
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
            waiting.append(_converted(table, row, columns))
            done += 1
            if not done % _SHOW_EVERY:
                show(done, None)
            if len(waiting) == _ROWS_AT_ONCE:
                yield table, names, waiting
                waiting = []
        if waiting:
            yield table, names, waiting
    show(done, done)


def _converted(table: str, row: Row, columns: Columns) -> tuple[Any, ...]:
    try:
        return tuple(None if row[name] is None else convert(row[name]) for name, convert in columns.items())
    except (_Refused, ValueError, binascii.Error):
        raise BackupDamaged(f"the backup holds a value in {table} that Keyhall never writes there") from None


def _text(value: Any) -> str:
    if type(value) is not str:
        raise _Refused
    return value


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
        return lambda value: utc_text(rfc3339(_text(value)))
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


def _into_sqlite(url: DatabaseUrl, header: BackupHeader, rows: Rows, show: ShowProgress) -> int:
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
            for table, columns, some in _batches(tables, header, rows, show):
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
    "integer": _number,
    "bigint": _number,
    "timestamp with time zone": lambda value: rfc3339(_text(value)),
}


async def _into_postgresql(url: DatabaseUrl, schema: str, header: BackupHeader, rows: Rows, show: ShowProgress) -> int:
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
        for table, columns, some in _batches(tables, header, rows, show):
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


__all__: Sequence[str] = ("load",)
