"""The worker's loop: does the jobs that are due, and sweeps away what expired."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from app.domain.errors import KeyhallError, with_cause
from app.domain.jobs import JobKind
from app.services import Services
from app.services.jobs import JobRun

log = logging.getLogger(__name__)

SWEEP_EVERY_SECONDS: Final = 600.0
LOOK_EVERY_SECONDS: Final = 1.0
"""How often to look for jobs whose time has come; a new job wakes the worker at once."""


async def run_worker(services: Services) -> None:
    """Work until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_sweep(services), name="sweep")
        tasks.create_task(_work(services), name="jobs")


async def _sweep(services: Services) -> None:
    """Sweep now and every ten minutes. A sweep that fails is repeated by the next."""
    while True:
        try:
            await services.instances.catch_up()
            await services.housekeeping.sweep()
            await services.rotation.watch_ages()
        except KeyhallError as error:
            log.warning("the sweep failed and will be repeated: %s", with_cause(error))
        except Exception:  # a bug in a sweep must not end the web beside it
            log.exception("the sweep failed and will be repeated")
        await asyncio.sleep(SWEEP_EVERY_SECONDS)


async def _work(services: Services) -> None:
    """Do one job after the other. The service decides what a failure means for a job."""
    handlers: dict[JobKind, Callable[[JobRun], Awaitable[None]]] = {
        JobKind.KEY_ROTATION: services.rotation.job.carry_on,
        JobKind.KEY_AGES: services.rotation.look_at_ages,
    }
    changes = services.feed.subscribe()
    while True:
        run = None
        try:
            await services.instances.catch_up()
            run = await services.jobs.claim()
            if run is not None:
                await services.jobs.work(run, handlers[run.job.kind])
        except KeyhallError as error:
            log.warning("the jobs have to wait: %s", with_cause(error))
        except Exception:  # the same
            log.exception("a job could not be taken or given back")
        if run is None:
            await changes.changed(LOOK_EVERY_SECONDS)
