"""Deletion of expired rows, so that the database holds no more about anybody than it needs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final

from app.domain.credentials import RECOVERABLE_FOR
from app.domain.errors import StorageError, with_cause
from app.domain.jobs import JobKind
from app.domain.second_factor import PENDING_FOR
from app.services.bot_guilds import BotGuilds
from app.services.idempotency import REMEMBERED_FOR
from app.services.jobs import JobRun, JobService, Later
from app.services.ports import Clock, Storage, UnitOfWork
from app.services.privacy import PersonErasure

log = logging.getLogger(__name__)

SESSIONS_KEPT_FOR: Final = timedelta(days=30)
"""How long a session that ended can still be looked up."""
TOKENS_KEPT_FOR: Final = timedelta(days=30)
"""How long an API token that expired is still listed."""
ATTEMPTS_KEPT_FOR: Final = timedelta(days=1)
"""Most limits look back fifteen minutes, some a day; the rest is kept for investigating an attack."""
TICKETS_KEPT_FOR: Final = timedelta(minutes=5)
"""How long a used ticket or challenge is kept after it has expired: the clocks of processes may differ."""
JOBS_KEPT_FOR: Final = timedelta(days=30)
"""How long a job that is over can still be looked up."""
INSTANCES_KEPT_FOR: Final = timedelta(hours=1)
"""How long a process whose lease lapsed is still listed."""

SWEEP_EVERY: Final = timedelta(minutes=10)
BATCH: Final = 1000
"""Rows per unit of work: some milliseconds, during which a writer of SQLite waits."""
_SECONDS_FOR_EACH_KIND: Final = 5.0
_GO_ON_AFTER: Final = timedelta(seconds=1)

Purge = Callable[[UnitOfWork], Awaitable[int]]


Hold = Callable[[UnitOfWork], Awaitable[None]]
"""Proves in a unit of work that nobody else sweeps by now. Raises ClaimLost."""


class HousekeepingService:
    """A job, so that one worker sweeps at a time; in small units of work, so that nobody waits for a sweep."""

    def __init__(
        self, *, storage: Storage, jobs: JobService, erasure: PersonErasure, guilds: BotGuilds, clock: Clock
    ) -> None:
        self._storage = storage
        self._jobs = jobs
        self._erasure = erasure
        self._guilds = guilds
        self._clock = clock

    async def watch(self) -> None:
        """Make sure that the job is queued that sweeps every ten minutes."""
        async with self._storage.write() as uow:
            kind = JobKind.HOUSEKEEPING
            await uow.jobs.add(self._jobs.new(kind, {}, unique_key=kind.value))

    async def carry_on(self, run: JobRun) -> None:
        """Sweep as a job, and come back: soon where rows are left, so that other jobs have their turn in between."""
        left = False
        try:
            left = await self.sweep(run.hold)
        except StorageError as error:
            log.warning("a part of the sweep failed and will be repeated: %s", with_cause(error))
        raise Later(_GO_ON_AFTER if left else SWEEP_EVERY)

    async def sweep(self, hold: Hold | None = None) -> bool:
        """Purge expired rows, each kind for some seconds at most; whether rows are left.

        A kind that cannot be purged does not keep the others from it: the first StorageError is raised at the end.
        """
        now = self._clock.now()
        kinds: Mapping[str, Purge] = {
            "sessions": lambda uow: uow.sessions.purge(now - SESSIONS_KEPT_FOR, limit=BATCH),
            "API tokens": lambda uow: uow.api_tokens.purge(now - TOKENS_KEPT_FOR, limit=BATCH),
            "one-time links": lambda uow: uow.links.purge(now, limit=BATCH),
            "second factors that were not confirmed": lambda uow: uow.factors.purge(now - PENDING_FOR, limit=BATCH),
            "used tickets and challenges": lambda uow: uow.tickets.purge(now - TICKETS_KEPT_FOR, limit=BATCH),
            "attempts": lambda uow: uow.attempts.purge(now - ATTEMPTS_KEPT_FOR, limit=BATCH),
            "idempotency keys": lambda uow: uow.idempotency.purge(now - REMEMBERED_FOR, limit=BATCH),
            "removed credentials": lambda uow: uow.credentials.purge_removed(now - RECOVERABLE_FOR, limit=BATCH),
            "credentials of servers without the bot": lambda uow: self._guilds.purge(uow, BATCH),
            "jobs": lambda uow: uow.jobs.purge(now - JOBS_KEPT_FOR, limit=BATCH),
            "leftovers of people who were erased": self._erasure.sweep,
            "lapsed processes": lambda uow: uow.instances.purge(INSTANCES_KEPT_FOR),
        }
        left, failures = False, list[StorageError]()
        for what, purge in kinds.items():
            try:
                left |= await self._purge(what, purge, hold)
            except StorageError as error:
                log.warning("could not purge %s: %s", what, with_cause(error))
                failures.append(error)
        if failures:
            raise failures[0]
        return left

    async def _purge(self, what: str, purge: Purge, hold: Hold | None) -> bool:
        """Purge rows of one kind, batch after batch; whether some are left."""
        until, purged, latest = self._clock.monotonic() + _SECONDS_FOR_EACH_KIND, 0, BATCH
        try:
            while latest >= BATCH and self._clock.monotonic() < until:
                async with self._storage.write() as uow:
                    if hold is not None:
                        await hold(uow)
                    latest = await purge(uow)
                purged += latest
        finally:
            if purged:
                log.info("purged %d %s", purged, what)
        return latest >= BATCH
