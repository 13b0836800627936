"""Making a backup at once: for the command line and for jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.domain.audit import Action
from app.domain.backup import BackupRecord, BackupReport, EncryptTo, WrittenBackup
from app.domain.identity import Actor, Client
from app.services.audit import AuditTrail
from app.services.backup.verification import BackupVerification
from app.services.ports import Clock, Randomness, ShowProgress, Storage, UnitOfWork

Hold = Callable[[UnitOfWork], Awaitable[None]]
"""Proves in a unit of work that the job is still this worker's. Raises ClaimLost."""


def silent(_done: int, _total: int | None) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedBackup:
    """A backup that was made durable and verified; ``report`` says whether every credential in it opens."""

    path: Path
    written: WrittenBackup
    report: BackupReport


class BackupCreation:
    """Writes backups of the install. ``storage`` is None before a migration: then no row of a backup is written."""

    def __init__(
        self,
        *,
        storage: Storage | None,
        verification: BackupVerification,
        recipient: str | None,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self.recipient: Final = recipient
        """BACKUP_RECIPIENT."""
        self._storage = storage
        self._verification = verification
        self._clock = clock
        self._randomness = randomness
        self._audit = AuditTrail(clock)

    async def create(
        self, who: Actor | Client, path: Path, to: EncryptTo, *, replace: bool, show: ShowProgress = silent
    ) -> CreatedBackup:
        """Write a backup where the operator wants it, read it back and record it.

        Raises BackupNotWritten, InvalidInput for a malformed recipient, StorageError.
        """
        created = await self._write(path, to, replace=replace, show=show)
        if self._storage is not None:
            async with self._storage.write() as uow:
                await self._record(uow, who, created, self._randomness.new_id(), managed=False)
        return created

    async def create_managed(
        self, who: Actor | Client, path: Path, to: EncryptTo, *, backup_id: str, hold: Hold
    ) -> CreatedBackup:
        """Write the backup of a job, which may have done so before and died. Raises as ``create``, and ClaimLost."""
        created = await self._write(path, to, replace=True, show=silent)
        if self._storage is not None:
            async with self._storage.write() as uow:
                await hold(uow)
                if await uow.backups.get(backup_id) is not None:
                    await uow.backups.remove(backup_id)  # of the same file, as it was before it was written again
                await self._record(uow, who, created, backup_id, managed=True)
        return created

    async def _write(self, path: Path, to: EncryptTo, *, replace: bool, show: ShowProgress) -> CreatedBackup:
        written, report = await self._verification.files.write(
            path, to, self._verification.report, replace=replace, created_at=self._clock.now(), show=show
        )
        return CreatedBackup(path=path, written=written, report=report)

    async def _record(
        self, uow: UnitOfWork, who: Actor | Client, created: CreatedBackup, backup_id: str, *, managed: bool
    ) -> None:
        written, report = created.written, created.report
        await uow.backups.add(
            BackupRecord(
                id=backup_id,
                path=str(created.path),
                managed=managed,
                created_at=written.header.created_at,
                size=written.size,
                sha256=written.sha256,
                credentials=report.credentials,
                unreadable=report.unreadable,
                users=report.users,
                latest_seal=written.header.latest_seal,
                verified_at=self._clock.now() if report.ok else None,
            )
        )
        await self._audit.record(
            uow, who, Action.BACKUP_CREATED, about=("backup", backup_id), size=written.size, rows=written.rows
        )
