"""Migrations: from the present schema to the one that this version needs, completely or not at all.

A revision is the number that a migration's file name begins with. Reading that, instead of asking Alembic, is what
lets a start whose schema is at head go without importing Alembic.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import column, select, table
from sqlalchemy.engine import Connection as SyncConnection

from app import __version__
from app.domain.errors import MigrationFailed, SchemaNewer, StorageError, StorageFull
from app.infrastructure.database.engine import Database
from app.infrastructure.database.schema import app_config, metadata, schema_info

SCRIPTS: Final = Path(__file__).resolve().parents[3] / "alembic"

LOCK: Final = 0x6B65_7968_616C_6C02
"""Of PostgreSQL's advisory locks, the one that migrations take; "keyhall" and a number."""

_VERSION_TABLE: Final = table("alembic_version", column("version_num"))

# Alembic keeps what it works on in module globals, so one loop upgrades one database at a time.
_turns: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]] = WeakKeyDictionary()


def known_revisions(scripts: Path = SCRIPTS) -> tuple[str, ...]:
    """The revisions that this version of Keyhall has, in order; the last is the head."""
    return tuple(sorted(path.name[:4] for path in (scripts / "versions").glob("[0-9][0-9][0-9][0-9]_*.py")))


async def current_revision(database: Database) -> str | None:
    """The revision of the schema; None where nothing was ever migrated. Raises StorageError."""
    async with database.read() as connection:
        if not await connection.has_table(_VERSION_TABLE.name):
            return None
        revisions = [number for (number,) in await connection.rows(select(_VERSION_TABLE.c.version_num))]
        # Two are the mark of branches, which Keyhall does not have: together they are an unknown revision.
        return "+".join(sorted(revisions)) or None


async def foreign_tables(database: Database) -> Sequence[str]:
    """Tables of another program whose names Keyhall needs; none where Keyhall ever migrated this database."""
    async with database.read() as connection:
        there = await connection.table_names()
    ours = {app_config.name, schema_info.name, _VERSION_TABLE.name}
    return sorted(metadata.tables.keys() & there) if ours.isdisjoint(there) else []


async def check_schema(database: Database, *, scripts: Path = SCRIPTS) -> None:
    """Make sure, by reading only, that this version may run on the schema or upgrade it.

    Raises:
        SchemaNewer: it demands a newer version, or was made by one.
        StorageError: the database does not answer.
    """
    revision = await current_revision(database)
    if revision is None:
        return
    async with database.read() as connection:
        # The first migration makes the table; a database of another application has none.
        there = await connection.has_table(schema_info.name)
        oldest: str | None = await connection.value(select(schema_info.c.min_app)) if there else None
    if oldest is not None and _version(oldest) > _version(__version__):
        raise SchemaNewer(
            f"the database demands Keyhall {oldest} or newer, and this is {__version__}",
            remedy=f"install Keyhall {oldest} or newer",
        )
    if revision not in known_revisions(scripts) and not there:
        raise SchemaNewer(
            f"the database has the schema {revision}, which is another program's: it has none of Keyhall's own tables",
            remedy="name a database in DATABASE_URL that no other program uses",
        )
    if revision not in known_revisions(scripts):
        raise SchemaNewer(
            f"the database has the schema {revision}, which Keyhall {__version__} does not have",
            remedy="install the version of Keyhall that last ran on this database, or a newer one",
        )


def require_readable(revision: str, oldest: str, made_by: str) -> None:
    """Make sure that this version can read the tables in a backup. Raises SchemaNewer."""
    if _version(oldest) > _version(__version__):
        raise SchemaNewer(
            f"the backup demands Keyhall {oldest} or newer, and this is {__version__}; nothing was changed",
            remedy=f"restore it with Keyhall {oldest} or newer",
        )
    if revision not in known_revisions():
        raise SchemaNewer(
            f"the backup has the schema {revision[:20]}, which Keyhall {__version__} lacks; nothing was changed",
            remedy=f"restore it with Keyhall {made_by[:20]}, which made it, or a newer one",
        )


async def upgrade(database: Database, *, scripts: Path = SCRIPTS, to: str | None = None) -> None:
    """Bring the schema to head, or ``to`` an older revision, in one transaction; any number of processes may do so.

    Raises:
        SchemaNewer: as `check_schema`.
        MigrationFailed: naming the revision; the schema is as before.
        StorageError: the database does not answer.
    """
    await check_schema(database, scripts=scripts)
    revision = await current_revision(database)
    known = known_revisions(scripts)
    known = known[: known.index(to) + 1] if to is not None else known
    if revision == known[-1]:
        return
    applied: list[str] = []

    def note(*, step: Any, **_: object) -> None:
        applied.append(step.up_revision_id)

    def change(connection: SyncConnection) -> None:
        from alembic.config import Config  # noqa: PLC0415

        from alembic import command  # noqa: PLC0415 - a third of a second that a start at head does not spend

        config = Config(attributes={"connection": connection, "on_version_apply": note})
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        command.upgrade(config, to or "head")

    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        try:
            await database.rebuild(LOCK, change)
        except Exception as error:
            if isinstance(error, StorageError) and not isinstance(error, StorageFull):
                raise
            failed = next((each for each in known if each > max(applied, default=revision or "")), known[-1])
            raise MigrationFailed(
                f"migration {failed} failed ({type(error).__name__}), and the schema is as before",
                remedy="keep running the version of Keyhall that last ran, and report the error above",
            ) from error


_RELEASE = re.compile(r"(\d+(?:\.\d+)*)(?:\.?(dev|a|b|rc)(\d+))?")
_FINAL: Final = "z"


def _version(text: str) -> tuple[tuple[int, ...], str, int]:
    """The sort key of a version: a subset of PEP 440, which has no parser in the standard library.

    A version that cannot be parsed counts as newer than every other: a later release wrote it.
    """
    match = _RELEASE.fullmatch(text)
    if match is None:
        return (1 << 31,), _FINAL, 0
    numbers = [int(each) for each in match[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    # "a" < "b" < "dev" < "rc" would be the order of the words; PEP 440 puts dev first.
    return tuple(numbers), {"dev": "_", None: _FINAL}.get(match[2], match[2]), int(match[3] or 0)
