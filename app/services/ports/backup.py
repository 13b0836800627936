"""Ports for backup files."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

from app.domain.backup import BackupHeader, BackupInfo, EncryptTo, OpenWith, Rows, WrittenBackup

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
