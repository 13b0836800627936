"""Rehearsals: the newest backup is restored into a scratch place now and then, before anybody needs it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from app.domain.audit import Action, Result
from app.domain.backup import BackupHeader, BackupRecord, OpenWith, Rehearsal
from app.domain.errors import BackupDamaged, BackupError, BackupLocked, NotFound, StartupError, StorageError
from app.domain.identity import Actor, Permission
from app.domain.jobs import Job, JobKind, Progress
from app.services.audit import SYSTEM, AuditTrail
from app.services.backup.opening import open_all
from app.services.backup.verification import BackupVerification
from app.services.jobs import JobRun, JobService
from app.services.ports import Clock, Storage, UnitOfWork
from app.services.ports.restoring import Staged

log = logging.getLogger(__name__)

AT_LEAST_EVERY: Final = timedelta(days=1)
_LATEST: Final = 20
_UNIQUE: Final = "backup.rehearsal"


class Outcome(NamedTuple):
    """How a rehearsal ended, and a sentence about it."""

    result: Rehearsal
    note: str


class Elsewhere(Protocol):
    """Runs work where it holds nobody up, on an event loop of its own."""

    async def __call__(self, work: Callable[[], Coroutine[Any, Any, Outcome]], /) -> Outcome:
        """Return its outcome; a cancellation ends it there too."""
        ...


class RehearsalPlace(NamedTuple):
    """The means of a rehearsal on this machine: a scratch database, a loop of its own, and the keys for backups."""

    scratch: Callable[[BackupHeader], AbstractAsyncContextManager[Staged]]
    elsewhere: Elsewhere
    keys: Callable[[], OpenWith]


class BackupRehearsal:
    """Restores backups for trial. Methods may raise StorageError."""

    def __init__(
        self,
        *,
        storage: Storage,
        verification: BackupVerification,
        place: RehearsalPlace,
        jobs: JobService,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._verification = verification
        self._place = place
        self._jobs = jobs
        self._clock = clock
        self._audit = AuditTrail(clock)

    async def newest(self) -> BackupRecord | None:
        """Return the newest backup whose file is on this machine, else the newest one, with its last rehearsal."""
        async with self._storage.lookup() as uow:
            found = await uow.backups.page(before=None, limit=_LATEST)
        there = await self._verification.files.exist(*(Path(each.path) for each in found))
        present = [backup for backup, is_there in zip(found, there, strict=True) if is_there]
        return next(iter([*present, *found]), None)

    def age(self, backup: BackupRecord) -> timedelta:
        """Return how long ago it was made."""
        return self._clock.now() - backup.created_at

    async def request(self, actor: Actor) -> Job:
        """Have the newest backup rehearsed now; a rehearsal that is queued already, or under way, is the answer.

        Raises Forbidden, and NotFound where there is no backup.
        """
        actor.require(Permission.MANAGE_BACKUPS)
        if await self.newest() is None:
            raise NotFound("there is no backup yet: make one with `keyhall backup create FILE`")
        async with self._storage.write() as uow:
            job = self._jobs.new(JobKind.BACKUP_REHEARSAL, {}, unique_key=_UNIQUE, requested_by=actor.subject_id)
            await uow.jobs.add(job)
            return await uow.jobs.unfinished(_UNIQUE) or job

    def follow(self, job_id: str) -> AsyncIterator[Job]:
        """Do a rehearsal that was requested, or watch a worker do so: the job at every look, until it is over."""
        return self._jobs.follow(job_id, self.carry_on)

    async def watch(self) -> None:
        """Queue a rehearsal where the newest backup has had none for a day; of all processes, one does."""
        newest = await self.newest()
        if newest is not None and self._due(newest):
            async with self._storage.write() as uow:
                await uow.jobs.add(self._jobs.new(JobKind.BACKUP_REHEARSAL, {}, unique_key=_UNIQUE))

    def _due(self, backup: BackupRecord) -> bool:
        return backup.rehearsed_at is None or self._clock.now() - backup.rehearsed_at >= AT_LEAST_EVERY

    async def carry_on(self, run: JobRun) -> None:
        """Rehearse the newest backup as a job."""
        backup = await self.newest()
        if backup is None:
            return
        await run.note(Progress(step="rehearse", note=f"restoring {Path(backup.path).name} for trial"))
        outcome = await self.rehearse(Path(backup.path), backup.created_at)
        async with self._storage.write() as uow:
            await run.hold(uow, Progress(step="done", note=outcome.note))
            await self._record(uow, backup, outcome)
        level = logging.INFO if outcome.result is Rehearsal.OK else logging.WARNING
        log.log(level, "rehearsal of the backup %s: %s", Path(backup.path).name, outcome.note)

    async def _record(self, uow: UnitOfWork, backup: BackupRecord, outcome: Outcome) -> None:
        await uow.backups.note_rehearsal(backup.id, self._clock.now(), outcome.result, outcome.note)
        await self._audit.record(
            uow,
            SYSTEM,
            Action.BACKUP_REHEARSED,
            about=("backup", backup.id),
            result=Result.OK if outcome.result is Rehearsal.OK else Result.FAILED,
            outcome=outcome.result.value,
        )

    async def rehearse(self, path: Path, made_at: datetime) -> Outcome:
        """Restore the backup that was made then into a scratch place, open every secret in it, and delete the place."""
        try:
            by = self._place.keys()
            return await self._place.elsewhere(lambda: self._rehearsed(path, by, made_at))
        except BackupLocked:
            return Outcome(
                Rehearsal.NOT_DECRYPTABLE, "not decryptable here: BACKUP_IDENTITY_FILE names no identity that opens it"
            )
        except (BackupError, StartupError, StorageError, OSError) as error:
            return Outcome(Rehearsal.FAILED, f"failed: {_why(error)}")

    async def _rehearsed(self, path: Path, by: OpenWith, made_at: datetime) -> Outcome:
        files = self._verification.files
        header = await files.read(path, by, lambda header, _: header)
        if header.created_at != made_at:
            return Outcome(
                Rehearsal.FAILED, f"failed: the file is another backup, of {header.created_at:%Y-%m-%d %H:%M}"
            )
        async with self._place.scratch(header) as staged:
            loaded = await files.read(path, by, lambda _, rows: staged.load(header, rows, lambda *_: None))
            await staged.upgrade()
            async with staged.storage.read() as uow:
                ring = await self._verification.reader(header).load(uow, None)
            if ring is None:
                raise BackupDamaged("the backup holds no key")
            opened = await open_all(staged.storage, self._verification.envelope, ring, None, lambda *_: None)
        if opened.unreadable or loaded.refused:
            return Outcome(Rehearsal.FAILED, f"{len(opened.unreadable) + len(loaded.refused)} unreadable")
        return Outcome(Rehearsal.OK, f"ok: {loaded.rows} rows restored, {opened.credentials} credentials opened")


def _why(error: BaseException) -> str:
    if isinstance(error, StartupError):
        return error.happened
    if isinstance(error, StorageError):
        return error.detail
    if isinstance(error, BackupError):
        return str(error)
    return str(getattr(error, "strerror", None) or type(error).__name__)
