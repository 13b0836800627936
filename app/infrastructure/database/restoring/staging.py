"""Databases that nobody else sees: in a private directory, or in a schema of their own."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import Connection

from app.domain.backup import BackupHeader, Rows
from app.domain.errors import ConfigInvalid, DatabaseUnavailable, InUse, StorageError
from app.infrastructure.database.dialects import Timeouts
from app.infrastructure.database.engine import Database, open_database
from app.infrastructure.database.errors import DRIVER_ERRORS, translation
from app.infrastructure.database.migrate import require_readable, upgrade
from app.infrastructure.database.restoring.loading import load
from app.infrastructure.database.snapshot import connect_options
from app.infrastructure.database.unit_of_work import SqlStorage
from app.infrastructure.private_files import make_directory
from app.services.ports import ShowProgress
from app.services.ports.restoring import Loaded
from app.settings import DatabaseUrl

SCHEMA: Final = "keyhall_restoring"
_LOCK: Final = 0x6B65_7968_616C_6C03
"""Of PostgreSQL's advisory locks, the one that a restore holds to its end; "keyhall" and a number."""
_FILE: Final = "staged.db"
_TIMEOUTS: Final = Timeouts(busy=60.0, lock=60.0, command=60.0, abandoned=600.0)


class StagedDatabase:
    """See `app.services.ports.Staged`."""

    def __init__(self, url: DatabaseUrl, schema: str | None, database: Database) -> None:
        self._url = url
        self._schema = schema
        self._database = database
        self.storage = SqlStorage(database)

    @property
    def file(self) -> Path:
        """Of an embedded one."""
        return self._url.file

    def load(self, header: BackupHeader, rows: Rows, show: ShowProgress) -> Loaded:
        """See `Staged`."""
        return load(self._url, self._schema, header, rows, show)

    async def upgrade(self) -> None:
        """See `Staged`."""
        await upgrade(self._database)


# ---------------------------------------------------------------------------------------------------------------------
# SQLite
# ---------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def staged_file(directory: Path, header: BackupHeader) -> AsyncIterator[StagedDatabase]:
    """A database in a directory of its own, which is made, emptied of what a killed process left, and removed.

    A directory, since SQLite opens files by name: in one of their own nobody else can put a link. Raises InUse,
    SchemaNewer, StorageError, OSError.
    """
    require_readable(header.revision, header.min_app, header.app_version)
    with _private_directory(directory):
        url = DatabaseUrl(path=directory / _FILE)
        async with open_database(url, may_create=True, timeouts=_TIMEOUTS) as database:
            await upgrade(database, to=header.revision)
            yield StagedDatabase(url, None, database)


@contextmanager
def _private_directory(path: Path) -> Iterator[None]:
    try:
        make_directory(path.parent)
        lock = _locked(path)
    except OSError as error:
        raise ConfigInvalid(
            f"nothing can be restored beside {path.parent}: {error.strerror}; nothing was changed",
            remedy="make it a directory with free space that the user who runs Keyhall may write",
        ) from error
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _locked(path: Path) -> int:
    """A new, empty directory; its descriptor holds the lock by which others see that it is in use."""
    for _ in range(10):
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        try:
            found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:  # another process has just removed it
            continue
        try:
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_empty_and_ours(path, found):
                return found
            shutil.rmtree(path, ignore_errors=True)  # of a process that was killed
            os.close(found)
        except BlockingIOError:
            os.close(found)
            raise under_way() from None
        except BaseException:
            os.close(found)
            raise
    raise under_way()


def _is_empty_and_ours(path: Path, descriptor: int) -> bool:
    """Raises OSError for a directory that somebody else made, or removed."""
    made = os.fstat(descriptor)
    if made.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "belongs to another user", str(path))
    return path.stat().st_ino == made.st_ino and not any(path.iterdir())


def under_way() -> InUse:
    """Another process restores into the same place."""
    return InUse("another restore is under way", remedy="wait for its end, or end it, and run this again")


# ---------------------------------------------------------------------------------------------------------------------
# PostgreSQL
# ---------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def staged_schema(url: DatabaseUrl, database: Database, header: BackupHeader) -> AsyncIterator[StagedDatabase]:
    """A schema beside the tables of that database, made in place of one that a killed process left, and removed.

    Raises InUse, SchemaNewer, StorageError.
    """
    require_readable(header.revision, header.min_app, header.app_version)

    def drop(connection: Connection) -> None:
        connection.execute(text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))

    def make(connection: Connection) -> None:
        drop(connection)  # what a killed process left
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))

    async with _holding_lock(url):
        try:
            await database.rebuild(_LOCK + 1, make)
        except StorageError as error:
            raise _may_not(url, error) from error
        try:
            async with open_database(
                url, may_create=False, timeouts=_TIMEOUTS, schema=SCHEMA, connections=2
            ) as staging:
                await upgrade(staging, to=header.revision)
                yield StagedDatabase(url, SCHEMA, staging)
        finally:
            with suppress(StorageError):  # the next restore drops it
                await database.rebuild(_LOCK + 1, drop)


def _may_not(url: DatabaseUrl, error: StorageError) -> Exception:
    """The halt where the role may make no schema; any other error as it is."""
    if error.fault is None or error.fault.code != "42501" or url.server is None:
        return error
    role, name = url.server.username or "the role", url.server.database
    return DatabaseUnavailable(
        f"the database {url.name} does not let the role {role} make the schema in which a restore is prepared; nothing "
        "was changed",
        remedy=f'run `GRANT CREATE ON DATABASE "{name}" TO "{role}"` as its owner or the superuser, and repeat',
    )


@asynccontextmanager
async def _holding_lock(url: DatabaseUrl) -> AsyncIterator[None]:
    """An advisory lock in a transaction of its own, as PgBouncer demands; it ends with the process."""
    import asyncpg  # noqa: PLC0415 - an install on SQLite needs none

    connection: Any = None
    try:
        connection = await asyncpg.connect(**connect_options(url))
        await connection.execute("BEGIN")
        await connection.execute("SELECT set_config('idle_in_transaction_session_timeout', '0', true)")
        held = await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK)
    except (*DRIVER_ERRORS, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        if connection is not None:
            connection.terminate()
        raise (translation(error) or StorageError()) from None
    try:
        if not held:
            raise under_way()
        yield
    finally:
        connection.terminate()
        await asyncio.sleep(0)
