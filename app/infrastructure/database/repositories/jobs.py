"""The queue: jobs are claimed with a lease, by the database's clock, and never by two."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, func, or_, select, update

from app.domain.canonical_json import canonical_json
from app.domain.jobs import Job, JobKind, JobState, Progress
from app.infrastructure.database.engine import AnyRow, Connection
from app.infrastructure.database.schema import UNFINISHED, jobs

_COLUMNS: Final = (
    jobs.c.id,
    jobs.c.kind,
    jobs.c.payload,
    jobs.c.state,
    jobs.c.unique_key,
    jobs.c.run_at,
    jobs.c.attempts,
    jobs.c.step,
    jobs.c.cursor,
    jobs.c.done,
    jobs.c.total,
    jobs.c.note,
    jobs.c.error,
    jobs.c.requested_by,
    jobs.c.created_at,
    jobs.c.finished_at,
)
_KNOWN: Final = jobs.c.kind.in_(list(JobKind))
"""A later version may have queued what this one cannot do: it is left to those that can."""


class JobRepositoryImpl:
    """See `app.services.ports.JobRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._now = connection.dialect.now

    async def add(self, job: Job, *, at: datetime | None = None) -> bool:
        insert = self._connection.dialect.insert(jobs).values(
            id=job.id,
            kind=job.kind,
            payload=canonical_json(job.payload),
            state=job.state,
            unique_key=job.unique_key,
            run_at=self._now() if at is None else at,
            attempts=job.attempts,
            requested_by=job.requested_by,
            created_at=job.created_at,
            **_progress(job.progress),
        )
        added = await self._connection.change(
            insert.on_conflict_do_nothing(index_elements=["unique_key"], index_where=UNFINISHED)
        )
        if added:
            await self._connection.announce()
        return added == 1

    async def get(self, job_id: str) -> Job | None:
        row = await self._connection.row(select(*_COLUMNS).where(jobs.c.id == job_id, _KNOWN))
        return None if row is None else _to_job(row)

    async def unfinished(self, unique_key: str) -> Job | None:
        row = await self._connection.row(select(*_COLUMNS).where(jobs.c.unique_key == unique_key, UNFINISHED, _KNOWN))
        return None if row is None else _to_job(row)

    async def unfinished_of(self, kind: JobKind) -> Sequence[Job]:
        statement = select(*_COLUMNS).where(jobs.c.kind == kind, UNFINISHED).order_by(jobs.c.id.desc())
        return [_to_job(row) for row in await self._connection.rows(statement)]

    async def page(self, *, before: str | None, limit: int) -> Sequence[Job]:
        """Ids are made in the order of time."""
        statement = select(*_COLUMNS).where(_KNOWN).order_by(jobs.c.id.desc()).limit(limit)
        if before is not None:
            statement = statement.where(jobs.c.id < before)
        return [_to_job(row) for row in await self._connection.rows(statement)]

    async def due_in(self) -> timedelta | None:
        waiting = select(jobs.c.run_at).where(jobs.c.state == JobState.WAITING, _KNOWN)
        running = select(jobs.c.lease_until).where(jobs.c.state == JobState.RUNNING, _KNOWN)
        moments = waiting.union_all(running).subquery()
        # The database's clock; of the earliest moment, so that at most one row is returned.
        earliest = select(func.min(moments.c.run_at), self._now())
        row = await self._connection.row(earliest)
        return None if row is None or row[0] is None else row[0] - row[1]

    async def waits(self) -> Mapping[JobKind, timedelta]:
        waiting = select(jobs.c.kind, jobs.c.run_at).where(jobs.c.state == JobState.WAITING, _KNOWN)
        running = select(jobs.c.kind, jobs.c.lease_until).where(jobs.c.state == JobState.RUNNING, _KNOWN)
        moments = waiting.union_all(running).subquery()
        earliest = select(moments.c.kind, func.min(moments.c.run_at), self._now()).group_by(moments.c.kind)
        rows = await self._connection.rows(earliest)
        return {JobKind(kind): max(now - due, timedelta()) for kind, due, now in rows}

    async def claim(self, claim: str, lease: timedelta, *, job_id: str | None = None) -> Job | None:
        due = or_(
            and_(jobs.c.state == JobState.WAITING, jobs.c.run_at <= self._now()),
            and_(jobs.c.state == JobState.RUNNING, jobs.c.lease_until <= self._now()),
        )
        pick = select(jobs.c.id).where(due, _KNOWN).order_by(jobs.c.run_at, jobs.c.id).limit(1)
        if job_id is not None:
            pick = pick.where(jobs.c.id == job_id)
        # Two statements, both in one transaction: as a sub-query PostgreSQL may evaluate the pick more than once.
        # A claim for one particular job waits for a competing claim: a skipped row would look like a free job.
        picked = await self._connection.value(pick.with_for_update(skip_locked=job_id is None))
        if picked is None:
            return None
        values = {
            "state": JobState.RUNNING,
            "claim": claim,
            "lease_until": self._now(lease),
            "attempts": jobs.c.attempts + 1,
        }
        await self._connection.change(update(jobs).where(jobs.c.id == picked).values(values))
        return await self.get(picked)

    async def hold(self, job_id: str, claim: str, lease: timedelta, progress: Progress | None = None) -> bool:
        values: dict[str, Any] = {"lease_until": self._now(lease)}
        if progress is not None:
            values |= _progress(progress)
        return await self._connection.change(update(jobs).where(_held(job_id, claim)).values(values)) == 1

    async def free_key(self, job_id: str, claim: str) -> None:
        await self._connection.change(update(jobs).where(_held(job_id, claim)).values(unique_key=None))

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
        values: dict[str, Any] = {"state": state, "claim": None, "lease_until": None, "error": error}
        if state.over:
            values["finished_at"] = self._now()
        else:
            values["run_at"] = self._now(pause)
            if error is None:
                values["attempts"] = 0
            elif not counted:
                values["attempts"] = jobs.c.attempts - 1
        return await self._connection.change(update(jobs).where(_held(job_id, claim)).values(values)) == 1

    async def bring_forward(self, job_id: str) -> bool:
        waiting = update(jobs).where(jobs.c.id == job_id, jobs.c.state == JobState.WAITING)
        moved = await self._connection.change(waiting.values(run_at=self._now()))
        if moved:
            await self._connection.announce()
        return moved == 1

    async def cancel(self, job_id: str) -> bool:
        """A job that was begun is resumed instead, so that nothing stays half done."""
        untouched = and_(jobs.c.id == job_id, jobs.c.state == JobState.WAITING, jobs.c.attempts == 0, jobs.c.step == "")
        values = {"state": JobState.CANCELLED, "finished_at": self._now()}
        return await self._connection.change(update(jobs).where(untouched).values(values)) == 1

    async def cancel_all(self, kind: JobKind) -> int:
        values = {"state": JobState.CANCELLED, "claim": None, "lease_until": None, "finished_at": self._now()}
        return await self._connection.change(update(jobs).where(jobs.c.kind == kind, UNFINISHED).values(values))

    async def purge(self, finished_before: datetime, *, limit: int | None = None) -> int:
        return await self._connection.remove(jobs, jobs.c.finished_at < finished_before, limit)


def _held(job_id: str, claim: str) -> ColumnElement[bool]:
    return and_(jobs.c.id == job_id, jobs.c.claim == claim, jobs.c.state == JobState.RUNNING)


def _progress(progress: Progress) -> dict[str, Any]:
    return {
        "step": progress.step,
        "cursor": canonical_json(progress.cursor),
        "done": progress.done,
        "total": progress.total,
        "note": progress.note,
    }


def _to_job(row: AnyRow) -> Job:
    return Job(
        id=row[0],
        kind=JobKind(row[1]),
        payload=json.loads(row[2]),
        state=JobState(row[3]),
        unique_key=row[4],
        run_at=row[5],
        attempts=row[6],
        progress=Progress(step=row[7], cursor=json.loads(row[8]), done=row[9], total=row[10], note=row[11]),
        error=row[12],
        requested_by=row[13],
        created_at=row[14],
        finished_at=row[15],
    )
