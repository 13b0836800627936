"""Making a backup at once: for the command line and for jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from app.domain.audit import Action
from app.domain.backup import BackupReport, EncryptTo, WrittenBackup
from app.domain.identity import Actor, Client
from app.services.audit import AuditTrail
from app.services.backup.verification import BackupVerification
from app.services.ports import Clock, ShowProgress, Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedBackup:
    """A backup that was made durable and verified; ``report`` says whether every credential in it opens."""

    path: Path
    written: WrittenBackup
    report: BackupReport


class BackupCreation:
    """Writes backups of the install. ``storage`` is None before a migration: then no audit row is written."""

    def __init__(
        self,
        *,
        storage: Storage | None,
        verification: BackupVerification,
        recipient: str | None,
        clock: Clock,
    ) -> None:
        self.recipient = recipient
        """BACKUP_RECIPIENT."""
        self._storage = storage
        self._verification = verification
        self._clock = clock
        self._trail = AuditTrail(clock)

    async def create(
        self, who: Actor | Client, path: Path, to: EncryptTo, *, replace: bool, show: ShowProgress
    ) -> CreatedBackup:
        """Write a backup, read it back and record it in the audit trail.

        Raises BackupNotWritten, InvalidInput for a malformed recipient, StorageError.
        """
        written, report = await self._verification.files.write(
            path, to, self._verification.report, replace=replace, created_at=self._clock.now(), show=show
        )
        if self._storage is not None:
            async with self._storage.write() as uow:
                await self._trail.record(
                    uow, who, Action.BACKUP_CREATED, about=("backup", path.name), size=written.size, rows=written.rows
                )
        return CreatedBackup(path=path, written=written, report=report)
