"""The one place where driver errors become Keyhall's.

Only errors that are unlikely to be bugs are translated: a database that is away, busy, full, read-only or damaged, and
a violated uniqueness rule. Anything else, such as SQL that does not parse, passes as it is.

The driver's message is dropped, because PostgreSQL repeats whole rows in it; its error code travels as a note.
"""

from __future__ import annotations

import errno
import socket
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.domain.errors import (
    InvalidInput,
    KeyhallError,
    OutcomeUnknown,
    StorageBusy,
    StorageError,
    StorageFull,
    StorageReadOnly,
    UniqueViolation,
)
from app.infrastructure.database.faults import fault_of, unknown


class ConstraintBroken(Exception):
    """A bug: a row was refused for another reason than uniqueness. Names the rule, never the row."""


_T = TypeVar("_T")

_SQLITE_UNIQUE: Final = frozenset({sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY})
_SQLITE: Final = {
    sqlite3.SQLITE_BUSY: StorageBusy,
    sqlite3.SQLITE_LOCKED: StorageBusy,
    sqlite3.SQLITE_READONLY: StorageReadOnly,
    sqlite3.SQLITE_FULL: StorageFull,
    sqlite3.SQLITE_PERM: StorageError,
    sqlite3.SQLITE_NOMEM: StorageError,
    sqlite3.SQLITE_INTERRUPT: StorageError,
    sqlite3.SQLITE_IOERR: StorageError,
    sqlite3.SQLITE_CORRUPT: StorageError,
    sqlite3.SQLITE_CANTOPEN: StorageError,
    sqlite3.SQLITE_PROTOCOL: StorageError,
    sqlite3.SQLITE_NOTADB: StorageError,
}

# SQLSTATE, by class (two characters) or exactly; the longer one wins. PostgreSQL, appendix A.
_POSTGRESQL: Final = {
    "08": StorageError,  # connection exception
    "25006": StorageReadOnly,  # read_only_sql_transaction
    "25P03": StorageError,  # idle_in_transaction_session_timeout
    "28": StorageError,  # invalid authorization: it does not let us in
    "3D": StorageError,  # no such database
    "3F": StorageError,  # no schema that the role may use
    "42501": StorageError,  # insufficient_privilege
    "40": StorageBusy,  # serialization failure, deadlock
    "53": StorageError,  # insufficient resources
    "53100": StorageFull,  # disk_full
    "53300": StorageBusy,  # too_many_connections
    "55P03": StorageBusy,  # lock_not_available
    "57": StorageError,  # operator intervention: shutdown, crash, starting up
    "57014": StorageBusy,  # query_canceled, by a statement timeout
    "55000": StorageError,  # a database that accepts no connections
    "58": StorageError,  # system error
    "XX": StorageError,  # internal error, corruption
}

_IN_DOUBT: Final = ("08", "57P01", "57P02", "57P03")
"""SQLSTATEs of a connection that ended: PostgreSQL may send them after it has committed, and before it says so."""

_SYSTEM: Final = {
    errno.EACCES: StorageReadOnly,
    errno.EPERM: StorageReadOnly,
    errno.EROFS: StorageReadOnly,
    errno.ENOSPC: StorageFull,
    errno.EDQUOT: StorageFull,
}


DRIVER_ERRORS: Final = (StatementError, PoolTimeout, sqlite3.Error, OSError)
"""The exceptions of SQLAlchemy and the drivers, bugs among them."""


def asked(question: Callable[[], _T]) -> _T:
    """Call it, its errors translated as ``translated`` does, in less time: one stands before every request."""
    try:
        return question()
    except DRIVER_ERRORS as error:
        raise (translation(error) or error) from None


@contextmanager
def translated() -> Iterator[None]:
    """Translate what the driver raises inside; wrap nothing but calls of the driver.

    Raises:
        StorageError: or one of its kinds.
        UniqueViolation: naming the rule.
        InvalidInput: text that no engine could keep was to be stored or looked for.
        ConstraintBroken: a bug.
    """
    try:
        yield
    except DRIVER_ERRORS as error:
        known = translation(error)
        if known is None:
            raise
        raise known from None


@contextmanager
def committing() -> Iterator[None]:
    """As `translated`, around a COMMIT that is sent: where its answer was lost, OutcomeUnknown.

    An answer that the database did not commit is certain, and stays the error that it is.
    """
    try:
        yield
    except DRIVER_ERRORS as error:
        known = translation(error)
        if known is None:
            raise
        if isinstance(known, StorageError) and not _refused(error):
            raise _noted(OutcomeUnknown(), _cause(error)) from None
        raise known from None


def _refused(error: Exception) -> bool:
    """Whether the database itself said that it did not commit."""
    cause = _cause(error)
    if isinstance(cause, sqlite3.Error):
        # After a failed fsync a recovery may still find the whole transaction in the log.
        code: int = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_OK)
        return code & 0xFF != sqlite3.SQLITE_IOERR
    sqlstate = getattr(cause, "sqlstate", None)
    return isinstance(sqlstate, str) and not sqlstate.startswith(_IN_DOUBT)


def _cause(error: Exception) -> BaseException:
    return error.driver_exception if isinstance(error, DBAPIError) else error


def translation(error: Exception) -> Exception | None:
    """The error of Keyhall for a driver's error, or None where it is likely a bug."""
    if isinstance(error, DBAPIError):
        cause = error.driver_exception
        lost = _noted(StorageError(), cause) if error.connection_invalidated else None
        return _meaning(cause) or lost
    if isinstance(error, StatementError):  # raised while a parameter was being prepared
        return error.orig if isinstance(error.orig, InvalidInput) else None
    return _meaning(error)


def refusal(error: Exception) -> StorageError:
    """The error for any answer to the very first question, where no bug of Keyhall's can show."""
    known = translation(error)
    if isinstance(known, StorageError):
        return known
    cause = error.driver_exception if isinstance(error, DBAPIError) else error
    refused = StorageError()
    refused.fault = unknown(cause)
    refused.add_note(f"the driver raised {type(cause).__name__}")
    return refused


def _meaning(error: BaseException) -> Exception | None:
    if isinstance(error, PoolTimeout):
        return _noted(StorageBusy(), error)
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error)
    if isinstance(sqlstate := getattr(error, "sqlstate", None), str):
        return _of_postgresql(error, sqlstate)
    if isinstance(error, ssl.SSLError | socket.gaierror):  # their errno is not the system's: SSL_ERROR_SSL is EPERM
        return _noted(StorageError(), error)
    if isinstance(error, OSError):  # also TimeoutError, and what asyncpg raises when a connection breaks
        return _noted(_SYSTEM.get(error.errno or 0, StorageError)(), error)
    return None


def _of_sqlite(error: sqlite3.Error) -> Exception | None:
    # Errors of the module itself, such as the use of a closed connection, have no code.
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    if code in _SQLITE_UNIQUE:
        return UniqueViolation(str(error))  # "UNIQUE constraint failed: users.name_key"
    if code & 0xFF == sqlite3.SQLITE_CONSTRAINT:
        return ConstraintBroken(str(error))
    if code == sqlite3.SQLITE_READONLY_DBMOVED:  # the file was taken away under our hands
        return _noted(StorageError(), error)
    kind = _SQLITE.get(code & 0xFF)
    return None if kind is None else _noted(kind(), error)


def _of_postgresql(error: BaseException, sqlstate: str) -> Exception | None:
    constraint = getattr(error, "constraint_name", None)
    if sqlstate == "23505":
        return UniqueViolation(f"unique constraint failed: {constraint}")
    if sqlstate.startswith("23"):
        return ConstraintBroken(f"{type(error).__name__}: {constraint or getattr(error, 'column_name', None)}")
    kind = _POSTGRESQL.get(sqlstate) or _POSTGRESQL.get(sqlstate[:2])
    return None if kind is None else _noted(kind(), error)


def _noted(known: KeyhallError, cause: object) -> KeyhallError:
    """With what an operator can look up; not in the message, which clients see."""
    code = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None)
    if code is None and isinstance(cause, OSError) and cause.errno:
        code = errno.errorcode.get(cause.errno)
    if isinstance(known, StorageError):
        known.fault = fault_of(cause)
    known.add_note(f"the driver raised {type(cause).__name__}" + (f" ({code})" if code else ""))
    return known
