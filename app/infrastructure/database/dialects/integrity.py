"""Whether an SQLite file is whole: every page, every row, every index."""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from app.infrastructure.database.schema import api_credentials, app_config, audit_events, users

_SMALL: Final = 64 << 20
"""A file of so many bytes is checked within a second; of a larger one a start looks at the tables that come first."""
_SMALLEST: Final = 512
_NOT_DAMAGE: Final = {
    sqlite3.SQLITE_INTERRUPT,
    # The next connection, which writes, says so, or rolls back the journal of a killed process.
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
}
_FIRST: Final = (app_config.name, "alembic_version", users.name, api_credentials.name)
_LAST: Final = {audit_events.name}


class DamagedFile(sqlite3.DatabaseError):
    """The first finding of `PRAGMA integrity_check`; it names tables and indexes, never a value."""

    def __init__(self, found: str, name: str = "SQLITE_CORRUPT") -> None:
        super().__init__(found)
        self.sqlite_errorname = name
        self.sqlite_errorcode = getattr(sqlite3, name)


def check_file(path: Path, *, busy: float, within: float | None) -> bool:
    """Check the file for so many seconds, or all of it with None; False where that was not possible or not all of it.

    The connection is one that only reads. When it is closed, it does not carry a `-wal` into the file, as another would
    do: where that `-wal` belongs to another state of the file, the file would be lost by the very look at it.

    Raises sqlite3.Error: DamagedFile, SQLITE_CORRUPT, SQLITE_NOTADB, or that it is locked.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return False
        size = found.st_size
        if not size:
            return True
        if size < _SMALLEST:  # SQLite takes that for an empty database, and writes over it
            raise DamagedFile("it is shorter than a page", "SQLITE_NOTADB")
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro", uri=True, timeout=busy, isolation_level=None, check_same_thread=False
        )
        with closing(connection), _interrupted(connection, within):
            return _check(connection, whole=within is None or _size(path) <= _SMALL)
    except FileNotFoundError:
        return True
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in _NOT_DAMAGE:
            return False
        raise


def _check(connection: sqlite3.Connection, *, whole: bool) -> bool:
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("BEGIN")
    named = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    first = [name for name in _FIRST if name in named]
    for table in first if whole else [*first, *sorted(named - {*first, *_LAST}), *sorted(named & _LAST)]:
        _require_ok(connection, f"PRAGMA integrity_check([{table}])")
    if whole:
        _require_ok(connection, "PRAGMA integrity_check(1)")
    return whole


def _require_ok(connection: sqlite3.Connection, pragma: str) -> None:
    if (found := str(connection.execute(pragma).fetchone()[0])) != "ok":
        raise DamagedFile(found)


@contextmanager
def _interrupted(connection: sqlite3.Connection, within: float | None) -> Iterator[None]:
    """Interrupt the connection after so many seconds, again and again: between two statements nothing notices."""
    done = threading.Event()

    def interrupt() -> None:
        if not done.wait(within):
            while not done.wait(0.01):
                connection.interrupt()

    timer = threading.Thread(target=interrupt, daemon=True)
    if within is not None:
        timer.start()
    try:
        yield
    finally:
        done.set()
        if within is not None:
            timer.join()  # the connection is closed next


def _size(path: Path) -> int:
    beside = path.with_name(f"{path.name}-wal")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
