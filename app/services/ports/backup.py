"""Ports for backup files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

from app.domain.backup import (
    BackupHeader,
    BackupInfo,
    BackupRecord,
    EncryptTo,
    OpenWith,
    Rehearsal,
    Rows,
    WrittenBackup,
)

_T = TypeVar("_T")

ShowProgress = Callable[[int, int | None], None]
"""Called with how many rows are done, and of how many, from the thread that works."""


class BackupFiles(Protocol):
    """Encrypted archives of the whole database. The work is done in a thread; a cancellation ends it soon.

    Paths are absolute. Every method may raise BackupError or one of its kinds, and InvalidInput for a malformed key.
    """

    async def write(
        self,
        path: Path,
        to: EncryptTo,
        check: Callable[[BackupHeader, Rows], _T],
        *,
        replace: bool,
        created_at: datetime,
        show: ShowProgress,
    ) -> tuple[WrittenBackup, _T]:
        """Write a backup as of one moment, durably and with mode 0600, completely or not at all.

        Before the file gets its name it is read back from the disk, decrypted and read to its end by ``check``, whose
        result is returned and whose errors leave nothing behind. Raises BackupNotWritten, StorageError.
        """
        ...

    async def make_directory(self, path: Path) -> None:
        """Make a directory of mode 0700 where there is none. Raises BackupNotWritten."""
        ...

    async def inspect(self, path: Path, by: OpenWith) -> BackupInfo:
        """Return what the beginning of a backup says."""
        ...

    async def read(self, path: Path, by: OpenWith, visit: Callable[[BackupHeader, Rows], _T]) -> _T:
        """Return what ``visit`` makes of a backup, in a thread. It must read to the end: only that proves the rows."""
        ...

    async def remove(self, path: Path) -> bool:
        """Delete a backup; False where there was none. Raises BackupNotWritten where it cannot be deleted."""
        ...

    async def exist(self, *paths: Path) -> list[bool]:
        """Return for each whether there is such a file on this machine."""
        ...


class BackupRepository(Protocol):
    """The backups that the install made. The files may be gone, or on another machine."""

    async def add(self, backup: BackupRecord) -> None:
        """Store a backup. Raises UniqueViolation where its id is there."""
        ...

    async def get(self, backup_id: str) -> BackupRecord | None:
        """Return the backup, or None."""
        ...

    async def page(self, *, before: str | None, limit: int) -> Sequence[BackupRecord]:
        """Return backups in descending order of their ids, those below ``before``."""
        ...

    async def managed(self) -> Sequence[BackupRecord]:
        """Return the backups that jobs made, the latest first."""
        ...

    async def latest_verified(self) -> BackupRecord | None:
        """Return the latest backup of which everything opened, or None."""
        ...

    async def note_rehearsal(self, backup_id: str, at: datetime, result: Rehearsal, note: str) -> bool:
        """Store how a rehearsal of that backup ended, in a sentence; False where there is no such backup."""
        ...

    async def remove(self, backup_id: str) -> None:
        """Delete the row; an unknown id is ignored."""
        ...
