"""Databases and installs made once, by the real migrations and a real first start, and copied from then on.

Nothing in a copy depends on its place. Tests that are about migrations or first starts use no copies.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from sqlalchemy.engine import make_url

from tests.support.postgres import program

if TYPE_CHECKING:
    from sqlalchemy.engine import URL


@dataclass(frozen=True)
class DatabaseSnapshot:
    """A database that nobody had open: the bytes of SQLite's file, or the statements that make PostgreSQL's again."""

    content: bytes | str

    @classmethod
    def of(cls, url: str) -> DatabaseSnapshot:
        parsed = make_url(url)
        if _is_sqlite(parsed):
            path = _path(parsed)
            assert not path.with_name(path.name + "-wal").exists(), "somebody has it open"
            return cls(path.read_bytes())
        dump = [program("pg_dump"), "-h", _host(parsed), "-U", "postgres", "--inserts", str(parsed.database)]
        said = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
        # Lines that begin with a backslash are for psql.
        return cls("\n".join(line for line in said.splitlines() if not line.startswith(("\\", "--"))))

    async def copy(self, url: str) -> None:
        """Make an empty database, or one that is not there yet, the same."""
        parsed = make_url(url)
        if isinstance(self.content, bytes):
            with os.fdopen(os.open(_path(parsed), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(self.content)
            return
        connection = await _connect(parsed)
        try:
            await connection.execute(self.content)
        finally:
            await connection.close()


async def is_empty(url: str) -> bool:
    """Whether nothing was ever migrated there, and a copy could be laid there: its directory exists."""
    parsed = make_url(url)
    if _is_sqlite(parsed):
        return not _path(parsed).exists() and _path(parsed).parent.is_dir()
    connection = await _connect(parsed)
    try:
        return await connection.fetchval("SELECT to_regclass('public.alembic_version')") is None
    finally:
        await connection.close()


def kind(url: str) -> str:
    """The kind of database that a URL names; a snapshot serves those of its own."""
    return make_url(url).get_backend_name()


@dataclass(frozen=True)
class InstallSnapshot:
    """An install that nobody had open: its database and the files of its data directory."""

    database: DatabaseSnapshot
    files: dict[str, bytes]

    @classmethod
    def of(cls, url: str, data_dir: Path) -> InstallSnapshot:
        return cls(DatabaseSnapshot.of(url), {path.name: path.read_bytes() for path in data_dir.iterdir()})

    async def copy(self, url: str, data_dir: Path) -> None:
        """The same install at another place, where nothing is yet."""
        data_dir.mkdir(mode=0o700)  # noqa: ASYNC240 - it takes no time, and nothing else runs meanwhile
        for name, content in self.files.items():
            with os.fdopen(os.open(data_dir / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
        await self.database.copy(url)


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _path(url: URL) -> Path:
    assert url.database is not None
    return Path(url.database)


def _host(url: URL) -> str:
    host = url.query["host"]
    assert isinstance(host, str)
    return host


async def _connect(url: URL) -> asyncpg.Connection:
    return await asyncpg.connect(host=_host(url), user="postgres", database=url.database)
