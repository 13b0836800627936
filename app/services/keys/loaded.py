"""The row of the audit trail that says which process has loaded the application keys."""

from __future__ import annotations

from app.domain.audit import Action
from app.domain.keys import APPLICATION_KEYS
from app.services.audit import SYSTEM, AuditTrail
from app.services.keys.management import KeyManagementService
from app.services.ports import Clock, Storage


async def record_loaded(storage: Storage, keys: KeyManagementService, clock: Clock, *, kind: str) -> None:
    """Record that a process of that kind holds the keys from now on, with the version of each that protects.

    It follows what may still halt a start, since a start that halts leaves every table as it was. Raises StorageError.
    """
    versions = ", ".join(f"{name.value} {keys.ring.keysets[name].primary.version}" for name in APPLICATION_KEYS)
    async with storage.write() as uow:
        await AuditTrail(clock).record(
            uow, SYSTEM, Action.KEYS_LOADED, about=("install", keys.install_id), process=kind, versions=versions
        )
