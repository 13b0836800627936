"""Deletion of expired rows, so that the database holds no more about anybody than it needs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from app.domain.credentials import RECOVERABLE_FOR
from app.services.idempotency import REMEMBERED_FOR
from app.services.ports import Clock, Storage, UnitOfWork

log = logging.getLogger(__name__)

SESSIONS_KEPT_FOR: Final = timedelta(days=30)
"""How long a session that ended can still be looked up."""
ATTEMPTS_KEPT_FOR: Final = timedelta(days=1)
"""Limits look back fifteen minutes; the rest is kept for investigating an attack."""
JOBS_KEPT_FOR: Final = timedelta(days=30)
"""How long a job that is over can still be looked up."""
INSTANCES_KEPT_FOR: Final = timedelta(hours=1)
"""How long a process whose lease lapsed is still listed."""


class HousekeepingService:
    """Run by every worker; running it twice at once does no harm."""

    def __init__(self, *, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock

    async def sweep(self) -> None:
        """Purge what expired, each kind in a unit of work of its own. Raises StorageError."""
        now = self._clock.now()
        await self._purge("sessions", lambda uow: uow.sessions.purge(now - SESSIONS_KEPT_FOR))
        await self._purge("attempts", lambda uow: uow.attempts.purge(now - ATTEMPTS_KEPT_FOR))
        await self._purge("idempotency keys", lambda uow: uow.idempotency.purge(now - REMEMBERED_FOR))
        await self._purge("removed credentials", lambda uow: uow.credentials.purge_removed(now - RECOVERABLE_FOR))
        await self._purge("jobs", lambda uow: uow.jobs.purge(now - JOBS_KEPT_FOR))
        await self._purge("lapsed processes", lambda uow: uow.instances.purge(INSTANCES_KEPT_FOR))

    async def _purge(self, what: str, purge: Callable[[UnitOfWork], Awaitable[int]]) -> None:
        async with self._storage.write() as uow:
            purged = await purge(uow)
        if purged:
            log.info("purged %d %s", purged, what)
