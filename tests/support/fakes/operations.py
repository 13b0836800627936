"""Repositories of processes, idempotent requests, jobs and the bot's facts."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from app.domain.backup import BackupRecord, Rehearsal
from app.domain.errors import UniqueViolation
from app.domain.instances import Instance
from app.domain.jobs import Job, JobKind, JobState, Progress
from app.services.ports import Clock, IdempotentRequest
from tests.support.fakes.tables import Tables, like_an_engine


@like_an_engine
class FakeInstanceRepository:
    def __init__(self, tables: Tables, clock: Clock) -> None:
        self._tables = tables
        self._clock = clock

    async def register(self, instance: Instance, lease: timedelta) -> None:
        now = self._clock.now()
        self._tables.instances[instance.id] = replace(instance, started_at=now, lease_until=now + lease)

    async def renew(
        self, instance_id: str, epochs: Mapping[str, int], lease: timedelta, *, master_key_ids: Sequence[str] = ()
    ) -> bool:
        instance = self._tables.instances.get(instance_id)
        if instance is None:
            return False
        renewed = replace(
            instance,
            epochs=dict(epochs),
            master_key_ids=tuple(master_key_ids),
            lease_until=self._clock.now() + lease,
        )
        self._tables.instances[instance_id] = renewed
        return True

    async def leave(self, instance_id: str) -> None:
        self._tables.instances.pop(instance_id, None)

    async def live(self) -> Sequence[Instance]:
        live = [each for each in self._tables.instances.values() if each.lease_until > self._clock.now()]
        return sorted(live, key=lambda each: (each.started_at, each.id))

    async def purge(self, lapsed_for: timedelta) -> int:
        lapsed = self._clock.now() - lapsed_for
        gone = [each.id for each in self._tables.instances.values() if each.lease_until < lapsed]
        for instance_id in gone:
            del self._tables.instances[instance_id]
        return len(gone)


@like_an_engine
class FakeIdempotencyRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def get(self, user_id: str, key: str) -> IdempotentRequest | None:
        return self._tables.idempotency.get((user_id, key))

    async def add(self, request: IdempotentRequest, *, lapsed_before: datetime) -> None:
        known = self._tables.idempotency.get((request.user_id, request.key))
        if known is not None and known.created_at >= lapsed_before:
            raise UniqueViolation
        self._tables.idempotency[request.user_id, request.key] = request

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        gone = [each for each, request in self._tables.idempotency.items() if request.created_at < before][:limit]
        for each in gone:
            del self._tables.idempotency[each]
        return len(gone)


@like_an_engine
class FakeImportedEntryRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def known(self, marks: Collection[bytes]) -> frozenset[bytes]:
        return frozenset(each for each in marks if each in self._tables.imported)

    async def add(self, mark: bytes, credential_id: str, at: datetime) -> None:
        if mark in self._tables.imported:
            raise UniqueViolation
        self._tables.imported[mark] = credential_id


@like_an_engine
class FakeJobRepository:
    def __init__(self, tables: Tables, clock: Clock) -> None:
        self._tables = tables
        self._clock = clock

    async def add(self, job: Job, *, at: datetime | None = None) -> bool:
        if job.unique_key is not None and await self.unfinished(job.unique_key) is not None:
            return False
        stored = replace(job, payload=_through_json(job.payload), progress=_progress(job.progress))
        self._tables.jobs[job.id] = replace(stored, run_at=at or self._clock.now())
        return True

    async def get(self, job_id: str) -> Job | None:
        return self._tables.jobs.get(job_id)

    async def unfinished(self, unique_key: str) -> Job | None:
        jobs = self._tables.jobs.values()
        return next((each for each in jobs if each.unique_key == unique_key and not each.state.over), None)

    async def unfinished_of(self, kind: JobKind) -> Sequence[Job]:
        found = [each for each in self._tables.jobs.values() if each.kind is kind and not each.state.over]
        return sorted(found, key=lambda job: job.id, reverse=True)

    async def page(self, *, before: str | None, limit: int) -> Sequence[Job]:
        ids = sorted((key for key in self._tables.jobs if before is None or key < before), reverse=True)
        return [self._tables.jobs[key] for key in ids[:limit]]

    async def due_in(self) -> timedelta | None:
        moments = [each.run_at for each in self._tables.jobs.values() if each.state is JobState.WAITING]
        moments += [
            self._tables.claims[each.id][1] for each in self._tables.jobs.values() if each.state is JobState.RUNNING
        ]
        return min(moments) - self._clock.now() if moments else None

    async def waits(self) -> Mapping[JobKind, timedelta]:
        due: dict[JobKind, datetime] = {}
        for each in self._tables.jobs.values():
            if not each.state.over:
                at = each.run_at if each.state is JobState.WAITING else self._tables.claims[each.id][1]
                due[each.kind] = min(at, due.get(each.kind, at))
        return {kind: max(self._clock.now() - at, timedelta()) for kind, at in due.items()}

    async def claim(self, claim: str, lease: timedelta, *, job_id: str | None = None) -> Job | None:
        now = self._clock.now()
        due = [
            each
            for each in self._tables.jobs.values()
            if (job_id in {None, each.id})
            and (
                (each.state is JobState.WAITING and each.run_at <= now)
                or (each.state is JobState.RUNNING and self._tables.claims[each.id][1] <= now)
            )
        ]
        if not due:
            return None
        first = min(due, key=lambda each: (each.run_at, each.id))
        self._tables.claims[first.id] = (claim, now + lease)
        return self._change(first.id, state=JobState.RUNNING, attempts=first.attempts + 1)

    async def hold(self, job_id: str, claim: str, lease: timedelta, progress: Progress | None = None) -> bool:
        if not self._held(job_id, claim):
            return False
        self._tables.claims[job_id] = (claim, self._clock.now() + lease)
        if progress is not None:
            self._change(job_id, progress=_progress(progress))
        return True

    async def free_key(self, job_id: str, claim: str) -> None:
        if self._held(job_id, claim):
            self._change(job_id, unique_key=None)

    async def release(
        self,
        job_id: str,
        claim: str,
        state: JobState,
        *,
        pause: timedelta | None = None,
        error: str | None = None,
        counted: bool = True,
    ) -> bool:
        if not self._held(job_id, claim):
            return False
        del self._tables.claims[job_id]
        now = self._clock.now()
        self._change(job_id, state=state, error=error)
        if state.over:
            self._change(job_id, finished_at=now)
        else:
            self._change(job_id, run_at=now + (pause or timedelta()))
            if error is None:
                self._change(job_id, attempts=0)
            elif not counted:
                self._change(job_id, attempts=self._tables.jobs[job_id].attempts - 1)
        return True

    async def bring_forward(self, job_id: str) -> bool:
        job = self._tables.jobs.get(job_id)
        if job is None or job.state is not JobState.WAITING:
            return False
        self._change(job_id, run_at=self._clock.now())
        return True

    async def cancel(self, job_id: str) -> bool:
        job = self._tables.jobs.get(job_id)
        if job is None or job.state is not JobState.WAITING or job.attempts or job.progress.step:
            return False
        self._change(job_id, state=JobState.CANCELLED, finished_at=self._clock.now())
        return True

    async def cancel_all(self, kind: JobKind) -> int:
        unfinished = [each for each in self._tables.jobs.values() if each.kind is kind and not each.state.over]
        for each in unfinished:
            self._tables.jobs[each.id] = replace(each, state=JobState.CANCELLED, finished_at=self._clock.now())
            self._tables.claims.pop(each.id, None)
        return len(unfinished)

    async def purge(self, finished_before: datetime, *, limit: int | None = None) -> int:
        over = [
            each.id for each in self._tables.jobs.values() if each.finished_at and each.finished_at < finished_before
        ][:limit]
        for job_id in over:
            del self._tables.jobs[job_id]
        return len(over)

    def _held(self, job_id: str, claim: str) -> bool:
        return self._tables.claims.get(job_id, ("", None))[0] == claim

    def _change(self, job_id: str, **values: Any) -> Job:
        self._tables.jobs[job_id] = replace(self._tables.jobs[job_id], **values)
        return self._tables.jobs[job_id]


def _progress(progress: Progress) -> Progress:
    return replace(progress, cursor=_through_json(progress.cursor))


def _through_json(members: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the members as they come back from a column of JSON."""
    found: Mapping[str, Any] = json.loads(json.dumps(dict(members)))
    return found


@like_an_engine
class FakeBackupRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, backup: BackupRecord) -> None:
        if backup.id in self._tables.backups:
            raise UniqueViolation
        self._tables.backups[backup.id] = backup

    async def get(self, backup_id: str) -> BackupRecord | None:
        return self._tables.backups.get(backup_id)

    async def page(self, *, before: str | None, limit: int) -> Sequence[BackupRecord]:
        return [each for each in self._latest() if before is None or each.id < before][:limit]

    async def managed(self) -> Sequence[BackupRecord]:
        return [each for each in self._latest() if each.managed]

    async def latest_verified(self) -> BackupRecord | None:
        return next((each for each in self._latest() if each.verified_at is not None), None)

    async def note_rehearsal(self, backup_id: str, at: datetime, result: Rehearsal, note: str) -> bool:
        backup = self._tables.backups.get(backup_id)
        if backup is None:
            return False
        noted = replace(backup, rehearsed_at=at, rehearsal=result, rehearsal_note=note)
        self._tables.backups[backup_id] = noted
        return True

    async def remove(self, backup_id: str) -> None:
        self._tables.backups.pop(backup_id, None)

    def _latest(self) -> Sequence[BackupRecord]:
        return sorted(self._tables.backups.values(), key=lambda each: each.id, reverse=True)


@like_an_engine
class FakeBotStateRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def get(self, key: str) -> str | None:
        return self._tables.bot_state.get(key)

    async def put(self, key: str, value: str, at: datetime) -> None:
        self._tables.bot_state[key] = value

    async def delete(self, key: str) -> None:
        self._tables.bot_state.pop(key, None)

    async def starting_with(self, prefix: str, *, limit: int) -> Mapping[str, str]:
        found = sorted(each for each in self._tables.bot_state if each.startswith(prefix))
        return {each: self._tables.bot_state[each] for each in found[:limit]}
