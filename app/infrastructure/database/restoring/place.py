"""The database that a restore replaces. Its content goes and the new one comes in a single transaction.

The file of an embedded database stays the same file: a process that was stopped while it had the database open finds
the restored one when it goes on, not a file that has no name any more, and no `-wal` of another file lies beside it.
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import func, inspect, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from app.domain.backup import BackupHeader
from app.domain.errors import DatabaseDamaged, InUse
from app.infrastructure.database.engine import Database, open_database
from app.infrastructure.database.migrate import LOCK, check_schema, current_revision, foreign_tables, known_revisions
from app.infrastructure.database.repositories.keys import LOCK as KEYS_LOCK
from app.infrastructure.database.restoring.staging import SCHEMA, StagedDatabase, staged_file, staged_schema
from app.infrastructure.database.schema import app_config, instances, metadata
from app.infrastructure.database.unit_of_work import SqlStorage
from app.services.ports.restoring import Kept, Present, RestoreTarget, Staged
from app.settings import DatabaseUrl

_OURS: Final = frozenset({*metadata.tables, "alembic_version"})
_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")


@asynccontextmanager
async def restore_target(
    url: DatabaseUrl, *, answering: Callable[[Database], Awaitable[None]], foreign: Callable[[Sequence[str]], Exception]
) -> AsyncIterator[RestoreTarget]:
    """The database at that URL, which need not be there where it is embedded.

    ``answering`` waits until it answers; ``foreign`` is the error for tables of another program. Raises StartupError.
    """
    async with open_database(url, may_create=False, patient=True) as database:
        damaged: str | None = None
        there = database.exists()
        if there:
            try:
                await answering(database)
            except DatabaseDamaged as halt:
                damaged = halt.happened
            else:
                if tables := await foreign_tables(database):
                    raise foreign(tables)
                await check_schema(database)
        if url.server is None:
            yield _SqliteTarget(url, database, there=there, damaged=damaged)
        else:
            yield _PostgresqlTarget(url, database, there=True, damaged=None)


class _Target:
    """The parts that both engines have in common."""

    def __init__(self, url: DatabaseUrl, database: Database, *, there: bool, damaged: str | None) -> None:
        self._url = url
        self._database = database
        self._there = there
        self._damaged = damaged

    @property
    def name(self) -> str:
        """See `RestoreTarget`."""
        return self._url.name

    async def require_free(self) -> None:
        """See `RestoreTarget`."""
        if self._there and self._damaged is None:
            async with self._database.read() as connection:
                await connection.run(self._require_free)

    @asynccontextmanager
    async def present(self) -> AsyncIterator[Present | None]:
        """See `RestoreTarget`."""
        if self._damaged is not None:
            yield Present(storage=None, why=self._damaged)
        elif self._there and await self._has_keys():
            at_head = await current_revision(self._database) == known_revisions()[-1]
            yield Present(storage=SqlStorage(self._database), at_head=at_head)
        else:
            yield None

    async def _has_keys(self) -> bool:
        async with self._database.read() as connection:
            return await connection.has_table(app_config.name)

    def _require_free(self, connection: Connection) -> None:
        if not inspect(connection).has_table(instances.name):
            return
        live = connection.execute(
            select(instances.c.kind, instances.c.host, instances.c.pid)
            .where(instances.c.lease_until > self._database.dialect.now())
            .order_by(instances.c.started_at, instances.c.id)
        ).all()
        if live:
            names = ", ".join(f"{kind} {host}/{pid}" for kind, host, pid in live)
            raise InUse(
                f"{names} is live on {self.name}, and a restore replaces its database; nothing was changed",
                remedy="end it; one that was killed counts as live for 15 seconds",
            )


class _SqliteTarget(_Target):
    def __init__(self, url: DatabaseUrl, database: Database, *, there: bool, damaged: str | None) -> None:
        super().__init__(url, database, there=there, damaged=damaged)
        self._staged: StagedDatabase | None = None

    @asynccontextmanager
    async def staged(self, header: BackupHeader) -> AsyncIterator[Staged]:
        """See `RestoreTarget`."""
        path = self._url.file
        async with staged_file(path.with_name(f".{path.name}.restoring"), header) as staged:
            for rest in path.parent.glob(f".{path.name}.replaced-*.new"):  # of a copy that was killed
                rest.unlink(missing_ok=True)
            self._staged = staged
            yield staged

    async def replace(self, at: datetime) -> Kept | None:
        """See `RestoreTarget`."""
        path = self._url.file
        kept = _free(path.with_name(f"{path.name}.replaced-{_stamp(at)}"))
        if self._damaged is not None:
            _set_aside(path, kept)
        copied = False

        def change(connection: Connection) -> None:
            nonlocal copied
            self._require_free(connection)
            there = inspect(connection).get_table_names()
            if there:
                await_only(self._database.copy(kept))  # nobody can commit meanwhile
                copied = True
            _take_over(connection, there, self._file)

        async with open_database(self._url, may_create=True, patient=True) as database:
            await database.rebuild(LOCK, change)
        if not copied and self._damaged is None:
            return None
        return Kept(place=str(kept), removed_by=f"rm {shlex.quote(str(kept))}")

    @property
    def _file(self) -> Path:
        assert self._staged is not None  # noqa: S101
        return self._staged.file


def _set_aside(path: Path, kept: Path) -> None:
    """Give a damaged database another name, with what belongs to it."""
    for suffix in _SUFFIXES:
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))


def _take_over(connection: Connection, there: list[str], staged: Path) -> None:
    """Drop every table, and make those of the staged database, with all that is in them."""
    run = connection.exec_driver_sql
    run("ATTACH ? AS staged", (f"file:{quote(str(staged))}?mode=rw",))
    for table in there:
        run(f'DROP TABLE main."{table}"')
    made = run(
        "SELECT type, name, sql FROM staged.sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%'"
    ).all()
    for kind, name, sql in made:
        if kind == "table":
            run(sql)
            run(f'INSERT INTO main."{name}" SELECT * FROM staged."{name}"')  # noqa: S608 - a table of the schema
    for kind, _, sql in made:
        if kind != "table":
            run(sql)


class _PostgresqlTarget(_Target):
    def staged(self, header: BackupHeader) -> AbstractAsyncContextManager[Staged]:
        """See `RestoreTarget`."""
        return staged_schema(self._url, self._database, header)

    async def replace(self, at: datetime) -> Kept | None:
        """See `RestoreTarget`."""
        kept: str | None = f"keyhall_replaced_{_stamp(at).lower()}"

        def change(connection: Connection) -> None:
            nonlocal kept

            def run(statement: str) -> None:
                connection.execute(text(statement))

            schema = str(connection.scalar(select(func.current_schema())))
            run("SET LOCAL lock_timeout = '60s'")
            # As every change of keys: a process that takes a lease has it by now, or waits for the commit.
            connection.execute(select(func.pg_advisory_xact_lock(KEYS_LOCK)))
            there = sorted(_OURS & set(inspect(connection).get_table_names(schema=schema)))
            if there:
                run(f"LOCK TABLE {', '.join(_in(schema, table) for table in there)} IN ACCESS EXCLUSIVE MODE")
            self._require_free(connection)
            if there:
                run(f"CREATE SCHEMA {kept}")
            else:
                kept = None
            for table in there:
                run(f"ALTER TABLE {_in(schema, table)} SET SCHEMA {kept}")
            for table in sorted(inspect(connection).get_table_names(schema=SCHEMA)):
                run(f'ALTER TABLE {SCHEMA}."{table}" SET SCHEMA "{schema}"')
            run(f"DROP SCHEMA {SCHEMA}")

        await self._database.rebuild(LOCK, change)
        if kept is None:
            return None
        return Kept(place=f"the schema {kept} of {self.name}", removed_by=f"DROP SCHEMA {kept} CASCADE")


def _in(schema: str, table: str) -> str:
    return f'"{schema}"."{table}"'


def _stamp(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def _free(path: Path) -> Path:
    names = (path.with_name(f"{path.name}{number}") for number in ("", *(f".{number}" for number in range(2, 1000))))
    return next(each for each in names if not each.exists())
