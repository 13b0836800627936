"""The jobs that change a primary: at most one per key is on its way."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from app.domain.audit import Action
from app.domain.errors import KeyStateConflict
from app.domain.identity import Actor, Client, Permission
from app.domain.jobs import Job, JobKind
from app.domain.keys import KeyName, Keyset, KeyState, Origin
from app.domain.secrets import SecretText
from app.services.alive import require_alive
from app.services.audit import AuditTrail
from app.services.jobs import JobService
from app.services.keys import KeyManagementService, KeyRing
from app.services.ports import Clock, Storage, UnitOfWork
from app.services.rotation.inspection import unique_key


class RotationQueue:
    """Queues changes of a primary. Methods may raise StorageError and NotReady."""

    def __init__(self, *, storage: Storage, keys: KeyManagementService, jobs: JobService, clock: Clock) -> None:
        self._storage = storage
        self._keys = keys
        self._jobs = jobs
        self._audit = AuditTrail(clock)
        self._clock = clock

    async def begin(
        self,
        uow: UnitOfWork,
        who: Actor | Client,
        name: KeyName,
        payload: Mapping[str, Any],
        *,
        at: datetime | None = None,
    ) -> Job:
        """Queue a change of primary, or find the one that is on its way. Raises KeyStateConflict."""
        job = self._jobs.new(
            JobKind.KEY_ROTATION,
            {"name": name.value, **payload},
            unique_key=unique_key(name),
            requested_by=who.subject_id if isinstance(who, Actor) else None,
        )
        if not await uow.jobs.add(job, at=at):
            under_way = await uow.jobs.unfinished(unique_key(name))
            if under_way is not None:
                return under_way
            raise KeyStateConflict(f"{name.value} was being changed just now: try again")
        detail: dict[str, Any] = {"requested": payload["action"]} | ({} if at is None else {"due": at.isoformat()})
        await self._audit.record(uow, who, Action.KEY_ROTATION_REQUESTED, about=("key", name.value), **detail)
        return await uow.jobs.get(job.id) or job

    async def begin_with(self, uow: UnitOfWork, who: Actor | Client, name: KeyName, version: int, action: str) -> Job:
        """Queue a change to that version. Raises KeyStateConflict where another change is on its way."""
        job = await self.begin(uow, who, name, {"action": action, "version": version})
        if (job.payload.get("action"), job.payload.get("version")) != (action, version):
            raise KeyStateConflict(f"{name.value} is being changed already: {job.progress.note or job.state.value}")
        return job

    async def bring_in(
        self, who: Actor | Client, name: KeyName, given: SecretText, *, seen_primary: int | None = None
    ) -> Job | None:
        """Make a key from outside the primary; None where it is already.

        With ``seen_primary`` only if that version is still the primary; a rotation that waits for its date is cancelled
        then, because the key has an owner outside by now. Raises InsecureKey for a key that must not be
        used, KeyStateConflict for one that was revoked, or where the key is being changed.
        """
        material = self._keys.parse_external_key(name, given)
        fingerprint = self._keys.fingerprint(name, material)
        known = next((each for each in self._keys.ring.keysets[name] if each.fingerprint == fingerprint), None)
        if known is not None and known.state is KeyState.ACTIVE:
            return None
        if known is not None and known.state in {KeyState.COMPROMISED, KeyState.DESTROYED}:
            raise KeyStateConflict(f"this is {name.value} version {known.version}, which is {known.state}")

        def edit(ring: KeyRing) -> Keyset:
            keyset = ring.keysets[name]
            changed = known is None and any(each.fingerprint == fingerprint for each in keyset)
            if changed or seen_primary not in {None, keyset.primary.version}:
                raise KeyStateConflict(f"{name.value} was changed by another process just now: run this again")
            if known is not None:
                return keyset
            return self._keys.add_version(ring, name, material, Origin.IMPORTED)

        async with self._storage.write() as uow:
            if isinstance(who, Actor):
                (await require_alive(uow, who, self._clock.now())).require(Permission.MANAGE_KEYS)
            under_way = await uow.jobs.unfinished(unique_key(name))
            if under_way is not None and seen_primary is not None and await self._cancelled(uow, who, name, under_way):
                under_way = None
            if known is None and under_way is not None:
                raise KeyStateConflict(f"{name.value} is being changed already: wait for that to end")
            keyset = await self._keys.change(uow, name, edit)
            version = known.version if known is not None else max(each.version for each in keyset)
            if known is None:
                await self._audit.record(uow, who, Action.KEY_IMPORTED, about=("key", name.value), version=version)
            # A rotation that was queued since the look above undoes all of this.
            return await self.begin_with(uow, who, name, version, "import")

    async def _cancelled(self, uow: UnitOfWork, who: Actor | Client, name: KeyName, job: Job) -> bool:
        """Cancel a rotation that only waits for its date; False where it has begun, or is another change."""
        if job.payload.get("action") != "rotate" or not await uow.jobs.cancel(job.id):
            return False
        await self._audit.record(uow, who, Action.KEY_ROTATION_CANCELLED, about=("key", name.value))
        return True
