"""Jobs: queued in the unit of work that wants them, claimed with a lease, resumed where somebody died.

A job makes every change in a unit of work in which it also holds its claim: a worker that was stopped for
longer than its lease finds the claim lost, and its unit of work undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from app.domain.errors import KeyhallError, NotFound, NotReady, StorageError, with_cause
from app.domain.identity import Actor, Permission
from app.domain.jobs import ATTEMPTS, JOB_LEASE, RENEW_JOB_EVERY, Job, JobKind, JobState, Progress, pause_after
from app.services.paging import Page, page_size, paged, read_cursor
from app.services.ports import Clock, Randomness, Storage, UnitOfWork

log = logging.getLogger(__name__)

_FOLLOW_FAILING_SECONDS: Final = 60.0
_LOOK_EVERY_SECONDS: Final = 0.1


class ClaimLost(KeyhallError):
    """Another worker has the job, or may have by now: nothing more may be done for it here."""


class JobFailed(KeyhallError):
    """The job cannot be completed, however often it is tried; the message says what to do."""


class Later(Exception):
    """The job has to wait, and did not fail."""

    def __init__(self, pause: timedelta) -> None:
        super().__init__()
        self.pause = pause


class JobRun:
    """A claimed job, for the worker that has the claim."""

    def __init__(self, storage: Storage, job: Job, claim: str) -> None:
        self._storage = storage
        self._claim = claim
        self.job = job
        self.progress = job.progress

    async def hold(self, uow: UnitOfWork, progress: Progress | None = None) -> None:
        """Renew the claim in this unit of work, noting the progress. Raises ClaimLost, which undoes all of it."""
        if not await uow.jobs.hold(self.job.id, self._claim, JOB_LEASE, progress):
            raise ClaimLost(f"the job {self.job.id} was taken over")
        self.progress = progress or self.progress

    async def note(self, progress: Progress) -> None:
        """Note the progress in a unit of work of its own. Raises ClaimLost."""
        async with self._storage.write() as uow:
            await self.hold(uow, progress)

    async def free_key(self, uow: UnitOfWork) -> None:
        """Let another job of the same unique key begin while this one goes on."""
        await uow.jobs.free_key(self.job.id, self._claim)

    async def release(
        self, state: JobState, *, pause: timedelta | None = None, error: str | None = None, counted: bool = True
    ) -> None:
        """Give the claim back; where it was lost there is nothing to give."""
        async with self._storage.write() as uow:
            given_back = await uow.jobs.release(
                self.job.id, self._claim, state, pause=pause, error=error, counted=counted
            )
            if not given_back:
                log.warning("the job %s was taken over by another worker", self.job.id)


class JobService:
    """The queue. Methods may raise StorageError."""

    def __init__(self, *, storage: Storage, clock: Clock, randomness: Randomness) -> None:
        self._storage = storage
        self._clock = clock
        self._randomness = randomness

    def new(
        self,
        kind: JobKind,
        payload: Mapping[str, Any],
        *,
        unique_key: str | None = None,
        requested_by: str | None = None,
        step: str = "",
        cursor: Mapping[str, Any] | None = None,
    ) -> Job:
        """A job that ``uow.jobs.add`` may queue."""
        now = self._clock.now()
        return Job(
            id=self._randomness.new_id(),
            kind=kind,
            payload=payload,
            unique_key=unique_key,
            run_at=now,
            requested_by=requested_by,
            created_at=now,
            progress=Progress(step=step, cursor=cursor or {}),
        )

    async def get(self, actor: Actor, job_id: str) -> Job:
        """One job. Raises Forbidden, NotFound."""
        actor.require(Permission.SEE_KEYS)
        async with self._storage.lookup() as uow:
            job = await uow.jobs.get(job_id)
        if job is None:
            raise NotFound
        return job

    async def page(self, actor: Actor, *, after: str | None = None, limit: int = 50) -> Page[Job]:
        """Jobs, the latest first. Raises Forbidden, InvalidInput."""
        actor.require(Permission.SEE_KEYS)
        size, begin = page_size(limit), read_cursor(after)
        async with self._storage.lookup() as uow:
            rows = await uow.jobs.page(before=begin, limit=size + 1)
        return paged(rows, size, lambda job: job.id)

    # -- working -------------------------------------------------------------------------------------------------------

    async def claim(self, job_id: str | None = None) -> JobRun | None:
        """Take a job that is due, or that one if it is; None where there is none."""
        claim = self._randomness.new_id()
        async with self._storage.write() as uow:
            job = await uow.jobs.claim(claim, JOB_LEASE, job_id=job_id)
        return None if job is None else JobRun(self._storage, job, claim)

    async def due_in(self) -> timedelta | None:
        """The time until a job is due, negative if one is already; None where none is unfinished. Reads only."""
        async with self._storage.lookup() as uow:
            return await uow.jobs.due_in()

    async def work(self, run: JobRun, handle: Callable[[JobRun], Awaitable[None]]) -> None:
        """Do a job with ``handle`` and keep its claim meanwhile; the outcome is stored in its row.

        A failure is tried again after a pause; what cannot succeed, or failed too often, ends the job. A cancellation
        gives the claim back at once.
        """
        holding = asyncio.create_task(self._hold(run), name=f"claim of job {run.job.id}")
        try:
            await handle(run)
        except Later as later:
            await run.release(JobState.WAITING, pause=later.pause)
        except JobFailed as failed:
            log.error("the job %s (%s) failed: %s", run.job.id, run.job.kind, failed)  # noqa: TRY400 - said in full
            await run.release(JobState.FAILED, error=str(failed))
        except ClaimLost as lost:
            log.warning("%s", lost)
        except asyncio.CancelledError:
            with contextlib.suppress(StorageError):  # else the claim lapses by itself
                await asyncio.shield(run.release(JobState.WAITING))
            raise
        except (StorageError, NotReady) as away:  # not the job's fault, and not counted against it
            log.warning("the job %s (%s) waits: %s", run.job.id, run.job.kind, with_cause(away))
            await run.release(JobState.WAITING, pause=pause_after(1), error=str(away), counted=False)
        except Exception as error:  # a bug in one job must not end the worker
            log.exception("the job %s (%s) failed and will be tried again", run.job.id, run.job.kind)
            over = run.job.attempts >= ATTEMPTS
            # An error of our own says what is wrong and shows nothing; any other could quote what it worked on.
            said = str(error) if isinstance(error, KeyhallError) else type(error).__name__
            state, pause = (JobState.FAILED, None) if over else (JobState.WAITING, pause_after(run.job.attempts))
            await run.release(state, pause=pause, error=said)
        else:
            await run.release(JobState.DONE)
            log.info("the job %s (%s) is done: %s", run.job.id, run.job.kind, run.progress.note)
        finally:
            holding.cancel()

    async def follow(self, job_id: str, handle: Callable[[JobRun], Awaitable[None]]) -> AsyncIterator[Job]:
        """Work on a job with ``handle``, or watch another worker do so: the job at every look, until it is over.

        Also ends where the job waits for a later time, and after it has failed for a minute for a reason that may
        pass: ``error`` gives the reason.
        """
        working: asyncio.Task[None] | None = None
        failing_since: float | None = None
        try:
            while True:
                async with self._storage.lookup() as uow:
                    job = await uow.jobs.get(job_id)
                if job is None:
                    return
                yield job
                if job.state.over:
                    return
                now = self._clock.monotonic()
                failing_since = None if job.error is None else failing_since or now
                if failing_since is not None and now - failing_since > _FOLLOW_FAILING_SECONDS:
                    return
                if working is None or working.done():
                    if working is not None:
                        working.result()
                    # The database's clock decides whether the job is due.
                    run = await self.claim(job_id)
                    if run is None and await self._waits_for_its_time(job_id):
                        return
                    working = asyncio.create_task(self.work(run, handle)) if run else None
                await self._clock.sleep(_LOOK_EVERY_SECONDS)
        finally:
            if working is not None:
                working.cancel()
                await asyncio.wait({working})

    async def _waits_for_its_time(self, job_id: str) -> bool:
        """Whether a job that could not be claimed is not due yet, instead of being worked on by another process."""
        async with self._storage.lookup() as uow:
            job = await uow.jobs.get(job_id)
        return job is not None and job.state is JobState.WAITING and job.error is None

    async def _hold(self, run: JobRun) -> None:
        """Renew the claim of a job whose handler is busy elsewhere."""
        while True:
            await asyncio.sleep(RENEW_JOB_EVERY.total_seconds())
            try:
                async with self._storage.write() as uow:
                    await run.hold(uow)
            except ClaimLost:
                return  # the handler finds out where it matters: when it wants to commit
            except StorageError as error:
                log.warning("could not renew the claim of the job %s: %s", run.job.id, with_cause(error))
