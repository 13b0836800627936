"""Backups that are made by themselves: planned, written by a job, listed, and deleted in time."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cronsim import CronSim

from app.domain.audit import Action
from app.domain.backup import SUFFIX, BackupRecord, EncryptTo
from app.domain.backup_plan import BackupPlan, Keep
from app.domain.errors import BackupNotWritten, NotConfigured
from app.domain.identity import Actor, Permission
from app.domain.jobs import Job, JobKind, Progress
from app.services.alive import require_alive
from app.services.audit import SYSTEM, AuditTrail
from app.services.backup.creation import BackupCreation, CreatedBackup
from app.services.backup.rehearsal import BackupRehearsal
from app.services.jobs import JobFailed, JobRun, JobService
from app.services.paging import Page, page_size, paged, read_cursor
from app.services.ports import BackupFiles, Clock, Randomness, Storage

log = logging.getLogger(__name__)

_SCHEDULED: Final = "backup.scheduled"
"""The unique key of the next backup of the schedule: of all processes, one queues it."""
_REQUESTED: Final = "backup.requested"
_NO_RECIPIENT: Final = "set it to an age recipient, age1…, to which backups are encrypted; keep its identity elsewhere"


def following(schedule: str, moment: datetime) -> datetime:
    """The first moment of a schedule, in cron's five fields and in UTC, after the given one."""
    found: datetime = next(CronSim(schedule, moment.astimezone(UTC)))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupView:
    """A backup as it is listed; ``present`` is whether its file is there, as this process sees the disk."""

    backup: BackupRecord
    present: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupArrangement:
    """The decisions of the operator as people see them; ``encrypted`` is whether there is somebody to encrypt to."""

    directory: str
    encrypted: bool
    schedule: str | None
    next_at: datetime | None
    keep: Keep


class BackupService:
    """Methods may raise StorageError."""

    def __init__(
        self,
        *,
        storage: Storage,
        files: BackupFiles,
        creation: BackupCreation,
        jobs: JobService,
        plan: BackupPlan,
        clock: Clock,
        randomness: Randomness,
        rehearsal: BackupRehearsal,
    ) -> None:
        self._storage = storage
        self._rehearsal = rehearsal
        self._files = files
        self._creation = creation
        self._jobs = jobs
        self._plan = plan
        self._clock = clock
        self._randomness = randomness
        self._audit = AuditTrail(clock)

    async def page(self, actor: Actor, *, after: str | None = None, limit: int = 50) -> Page[BackupView]:
        """Backups, the latest first. Raises Forbidden, InvalidInput."""
        actor.require(Permission.SEE_KEYS)
        size, begin = page_size(limit), read_cursor(after)
        async with self._storage.lookup() as uow:
            rows = await uow.backups.page(before=begin, limit=size + 1)
        found = paged(rows, size, lambda backup: backup.id)
        present = await self._files.exist(*(Path(each.path) for each in found.items))
        views = [BackupView(backup=each, present=there) for each, there in zip(found.items, present, strict=True)]
        return Page(items=views, next_cursor=found.next_cursor)

    async def arrangement(self, actor: Actor) -> BackupArrangement:
        """Where, when and for how long backups are made and kept. Raises Forbidden."""
        actor.require(Permission.SEE_KEYS)
        schedule = self._plan.schedule
        return BackupArrangement(
            directory=str(self._plan.directory),
            encrypted=self._plan.recipient is not None,
            schedule=schedule,
            next_at=None if schedule is None else following(schedule, self._clock.now()),
            keep=self._plan.keep,
        )

    async def request(self, actor: Actor) -> Job:
        """Have a backup made in BACKUP_DIR, now; one that was requested and is not over is what one gets.

        Raises Forbidden, ReauthenticationRequired, NotConfigured where BACKUP_RECIPIENT is not set.
        """
        actor.require(Permission.MANAGE_BACKUPS)
        actor.require_fresh(self._clock.now())
        if self._plan.recipient is None:
            raise NotConfigured(f"BACKUP_RECIPIENT is not set: {_NO_RECIPIENT}")
        async with self._storage.write() as uow:
            (await require_alive(uow, actor, self._clock.now())).require(Permission.MANAGE_BACKUPS)
            job = self._jobs.new(JobKind.BACKUP, {}, unique_key=_REQUESTED, requested_by=actor.subject_id)
            if await uow.jobs.add(job):
                await self._audit.record(uow, actor, Action.BACKUP_REQUESTED, about=("job", job.id))
            return await uow.jobs.unfinished(_REQUESTED) or job

    # -- working -------------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Make sure that the next backup of the schedule is queued.

        It waits in the queue for its time, so one that was missed while no worker ran is made once, at the next start.
        """
        schedule = self._plan.schedule
        async with self._storage.write() as uow:
            planned = await uow.jobs.unfinished(_SCHEDULED)
            if planned is not None and planned.payload.get("schedule") != schedule:
                await uow.jobs.cancel(planned.id)  # one that has begun goes on
            if schedule is not None:
                job = self._jobs.new(JobKind.BACKUP, {"schedule": schedule}, unique_key=_SCHEDULED)
                await uow.jobs.add(job, at=following(schedule, self._clock.now()))

    async def carry_on(self, run: JobRun) -> None:
        """Make a backup as a job, then delete those that are kept no longer. Raises JobFailed, BackupNotWritten."""
        recipient = self._plan.recipient
        if recipient is None:
            raise JobFailed(f"BACKUP_RECIPIENT: {_NO_RECIPIENT}")
        cursor = run.progress.cursor or self._new_backup()  # what an attempt began the next one ends
        name = cursor["file"]
        await run.note(Progress(step="write", cursor=cursor, note=f"writing {name}"))
        await self._files.make_directory(self._plan.directory)
        created = await self._creation.create_managed(
            SYSTEM,
            self._plan.directory / name,
            EncryptTo(recipient=recipient),
            backup_id=cursor["backup"],
            hold=run.hold,
        )
        for problem in created.report.problems:
            log.warning("the backup %s is not well: %s", name, problem)
        deleted = await self._delete_surplus(run)
        await self._rehearsal.watch()  # the newest backup has had none
        await run.note(Progress(step="done", cursor=cursor, note=_said(created, deleted)))

    def _new_backup(self) -> dict[str, str]:
        """An id, not that of the job, which was queued long before: ids sort as backups were made."""
        backup_id = self._randomness.new_id()
        return {"backup": backup_id, "file": f"keyhall-{self._clock.now():%Y%m%dT%H%M%SZ}-{backup_id[-8:]}{SUFFIX}"}

    async def _delete_surplus(self, run: JobRun) -> int:
        """Delete backups that no rule keeps; how many. One that cannot be deleted is looked at again next time."""
        async with self._storage.lookup(large=True) as uow:
            backups = await uow.backups.managed()
            verified = await uow.backups.latest_verified()
        latest = {each.id for each in (*backups[:1], verified) if each is not None}
        deleted = 0
        for surplus in self._plan.keep.surplus(backups, self._clock.now()):
            if surplus.id in latest:
                continue
            path = Path(surplus.path)
            try:
                # A path elsewhere is of another BACKUP_DIR, whose files the operator has taken over.
                if path.parent == self._plan.directory:
                    await self._files.remove(path)
            except BackupNotWritten as error:
                log.warning("%s", error)
                continue
            async with self._storage.write() as uow:
                await run.hold(uow)
                await uow.backups.remove(surplus.id)
                await self._audit.record(uow, SYSTEM, Action.BACKUP_DELETED, about=("backup", surplus.id))
            deleted += 1
        return deleted


def _said(created: CreatedBackup, deleted: int) -> str:
    report = created.report
    said = f"{created.path.name}: {report.credentials} credentials, {created.written.size} bytes"
    said += f", {report.unreadable} unreadable" if report.unreadable else ""
    return said + (f"; {deleted} older deleted" if deleted else "")
