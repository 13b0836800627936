"""Backups: the header of the file, and the reports of writing and reading one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeAlias

from app.domain import bech32
from app.domain.secrets import SecretText

FORMAT: Final = 1
"""The format of the archive, its first member: ``keyhall_backup``."""
SUFFIX: Final = ".age"
RECIPIENT: Final = "age"
_IDENTITY: Final = "AGE-SECRET-KEY-"

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


def recipient_key(text: str) -> bytes:
    """The X25519 key of an age recipient, ``age1…``. Raises ValueError, which says what is wrong and quotes nothing."""
    if text[: len(_IDENTITY)].upper() == _IDENTITY:
        raise ValueError("is an identity, which is secret: give its public key, age1…, instead")
    key = bech32.decode(text, RECIPIENT)
    if len(key) != 32:
        raise ValueError("is not the length of an age recipient")
    return key


Rows: TypeAlias = Iterator[tuple[str, Row]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptTo:
    """The key that a backup is encrypted to: one age recipient, or a passphrase."""

    recipient: str | None = None
    passphrase: SecretText | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWith:
    """The keys that open a backup: the text of an age identity file, or a passphrase."""

    identities: SecretText | None = None
    passphrase: SecretText | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupInfo:
    """The facts of a backup file that was not read to its end; ``header`` is None where no key was given."""

    size: int
    kinds: tuple[str, ...]
    """The kinds of keys that open it, as age names them: X25519 for a recipient, scrypt for a passphrase."""
    header: BackupHeader | None


class Rehearsal(StrEnum):
    """How a trial of restoring a backup ended."""

    OK = "ok"
    FAILED = "failed"
    NOT_DECRYPTABLE = "not_decryptable"
    """Its identity is not on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRecord:
    """The row of a backup that this install made."""

    id: str
    path: str
    managed: bool
    """Whether a job made it in BACKUP_DIR, where Keyhall deletes it in time."""
    created_at: datetime
    size: int
    sha256: str
    """Of the file, in hex."""
    credentials: int
    unreadable: int
    users: int
    latest_seal: str | None = None
    verified_at: datetime | None = None
    """When it was last read to its end and every credential in it opened; None where not all of them did."""
    rehearsed_at: datetime | None = None
    rehearsal: Rehearsal | None = None
    rehearsal_note: str | None = None
