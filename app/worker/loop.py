"""The worker's loop: does the jobs that are due, queues those that recur, and seals the audit trail beside them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from app.domain.errors import KeyhallError, with_cause
from app.domain.jobs import JobKind
from app.services import Services
from app.services.jobs import JobRun

log = logging.getLogger(__name__)

QUEUE_EVERY_SECONDS: Final = 600.0
LOOK_EVERY_SECONDS: Final = 1.0
"""How often to look for jobs, where no change of another process is noticed at once."""
LOOK_WHEN_NOTIFIED_SECONDS: Final = 30.0
"""How often where it is: a new job wakes the worker, and it wakes by itself when the next one is due."""

SEAL_EVERY_SECONDS: Final = 2.0
"""How often to look for rows of the audit trail that are not sealed: an entry of an index that holds no others."""


async def run_worker(services: Services) -> None:
    """Work until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_queue_recurring(services), name="recurring jobs")
        tasks.create_task(_work(services), name="jobs")
        tasks.create_task(_seal(services), name="audit seals")


async def _queue_recurring(services: Services) -> None:
    """See to it now and then that the jobs are queued that come back by themselves; one that failed is queued again."""
    while True:
        pause = QUEUE_EVERY_SECONDS
        try:
            await services.instances.catch_up()
            await services.housekeeping.watch()
            await services.rotation.watch_ages()
            await services.backups.watch()
            await services.rehearsal.watch()
            await services.audit_retention.watch()
        except KeyhallError as error:
            log.warning("the recurring jobs could not be queued: %s", with_cause(error))
            pause = LOOK_EVERY_SECONDS
        except Exception:  # a bug here must not end the web beside it
            log.exception("the recurring jobs could not be queued")
        await asyncio.sleep(pause)


async def _work(services: Services) -> None:
    """Do one job after the other. The service decides what a failure means for a job."""
    handlers: dict[JobKind, Callable[[JobRun], Awaitable[None]]] = {
        JobKind.KEY_ROTATION: services.rotation.job.carry_on,
        JobKind.KEY_AGES: services.rotation.look_at_ages,
        JobKind.BACKUP: services.backups.carry_on,
        JobKind.BACKUP_REHEARSAL: services.rehearsal.carry_on,
        JobKind.AUDIT_RETENTION: services.audit_retention.carry_on,
        JobKind.HOUSEKEEPING: services.housekeeping.carry_on,
    }
    changes = services.feed.subscribe()
    while True:
        try:
            due_in = await services.jobs.due_in()
            pause = _pause(due_in, prompt=services.feed.prompt)
            if pause <= 0:
                await services.instances.catch_up()
                run = await services.jobs.claim()
                if run is not None:
                    with services.tracer.span(f"job {run.job.kind}", {"keyhall.job.id": run.job.id}):
                        await services.jobs.work(run, handlers[run.job.kind])
                    continue
                pause = LOOK_EVERY_SECONDS  # another worker was faster
        except KeyhallError as error:
            log.warning("the jobs have to wait: %s", with_cause(error))
            pause = LOOK_EVERY_SECONDS
        except Exception:  # a bug here must not end the web beside it
            log.exception("a job could not be taken or given back")
            pause = LOOK_EVERY_SECONDS
        await changes.changed(pause)


async def _seal(services: Services) -> None:
    """Seal the audit trail within seconds. No job, which would wait for others, and be rewritten every time."""
    changes = services.feed.subscribe()
    while True:
        try:
            more = True
            while more:
                more = await services.audit_sealing.seal() > 0
        except KeyhallError as error:
            log.warning("the audit trail could not be sealed yet: %s", with_cause(error))
        except Exception:  # a bug here must not end the web beside it
            log.exception("the audit trail could not be sealed")
        await changes.changed(SEAL_EVERY_SECONDS)


def _pause(due_in: timedelta | None, *, prompt: bool) -> float:
    """Seconds until the next look: a notified worker only needs the time at which the next job is due."""
    longest = LOOK_WHEN_NOTIFIED_SECONDS if prompt else LOOK_EVERY_SECONDS
    return longest if due_in is None else min(due_in.total_seconds(), longest)
