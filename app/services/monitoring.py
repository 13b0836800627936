"""The figures that an operator's monitoring asks of a process, besides those that its edges count themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from app.domain.backup import BackupRecord
from app.domain.errors import StorageError
from app.domain.jobs import JobKind
from app.services.backup.rehearsal import BackupRehearsal
from app.services.dashboard import DashboardService, KeyAge
from app.services.keys import KeyManagementService
from app.services.ports import Storage, StorageFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFigures:
    """The figures that are read from the database. ``backup_age`` is None where there is no backup."""

    keys: Sequence[KeyAge]
    job_waits: Mapping[JobKind, timedelta]
    backup: BackupRecord | None
    backup_age: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """``lease_left`` is in seconds, not positive once the lease may have lapsed; ``stored`` is None without database.

    A process that cannot reach the database still answers: that is when its other figures are wanted most.
    """

    storage: StorageFigures
    lease_left: float
    stored: StoredFigures | None


class MonitoringService:
    """Reads the figures. They name no person, and hold nothing from which a credential or key could be guessed."""

    def __init__(
        self, *, storage: Storage, keys: KeyManagementService, dashboard: DashboardService, rehearsal: BackupRehearsal
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._dashboard = dashboard
        self._rehearsal = rehearsal

    async def figures(self) -> Figures:
        """Return the figures of this process, and those of the database where it can be read."""
        return Figures(
            storage=self._storage.figures(), lease_left=self._keys.lease_left, stored=await self._stored_if_readable()
        )

    async def _stored_if_readable(self) -> StoredFigures | None:
        try:
            async with self._storage.lookup() as uow:
                waits = await uow.jobs.waits()
            backup = await self._rehearsal.newest()
            return StoredFigures(
                keys=await self._dashboard.key_ages(),
                job_waits=waits,
                backup=backup,
                backup_age=None if backup is None else self._rehearsal.age(backup),
            )
        except StorageError:
            return None
