"""Backups: the header of the file, and the reports of writing and reading one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

FORMAT: Final = 1
"""The format of the archive, its first member: ``keyhall_backup``."""
SUFFIX: Final = ".age"

Value: TypeAlias = str | int | bool | None
Row: TypeAlias = Mapping[str, Value]
"""A row of a table by column: bytes are base64, moments RFC 3339 in UTC to the microsecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupHeader:
    """The first line of an archive. Nothing in it is secret, but it names the install and its master key."""

    install_id: str
    master_key_id: str
    environment: str
    app_version: str
    revision: str
    """The migration that the tables are at."""
    min_app: str
    """The oldest version of Keyhall that can read these tables."""
    created_at: datetime
    latest_seal: str | None
    """The latest audit seal of that moment: an audit trail that does not hold it was cut."""
    tables: tuple[str, ...]
    """Every table in the archive, parents before children."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """The result of reading a backup to its end."""

    ok: bool
    credentials: int
    unreadable: int
    """Credentials, of these and of their history, that do not open with the keys in the backup."""
    users: int
    install_id: str
    master_key_id: str
    created_at: datetime
    app_version: str
    problems: tuple[str, ...] = ()
    """Sentences about what is not well, each with its remedy; empty exactly where ``ok`` is True."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBackup:
    """A backup file that was written, made durable and read back."""

    header: BackupHeader
    size: int
    sha256: str
    """Of the file, in hex."""
    rows: int
    decrypted: bool
    """Whether it was read back through its encryption; to a recipient, only its bytes could be compared."""


def rows_in(tables: Mapping[str, int]) -> int:
    """How many rows there are in all tables."""
    return sum(tables.values())


Rows: TypeAlias = Iterator[tuple[str, Row]]
