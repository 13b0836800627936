"""Changes of application keys: rotate, roll back, revoke, retire, destroy, import, schedule.

A change that takes longer than a unit of work is a job of kind ``key.rotation`` (job.py); of one key at most one is on
its way to a new primary.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain.audit import Action
from app.domain.encrypted_columns import columns_under
from app.domain.errors import InvalidInput, KeyStateConflict, NotFound
from app.domain.identity import Actor, Permission
from app.domain.jobs import Job, JobKind
from app.domain.keys import (
    LONGEST_SCHEDULE,
    SHORTEST_SCHEDULE,
    IllegalKeyset,
    KeyName,
    KeySchedule,
    Keyset,
    KeyState,
)
from app.domain.rotation import RotationState, Step
from app.domain.scopes import Scope
from app.domain.secrets import SecretText
from app.services.alive import require_alive
from app.services.audit import SYSTEM, AuditTrail
from app.services.instances import InstanceService
from app.services.jobs import JobRun, JobService, Later
from app.services.keys import KeyManagementService, KeyRing
from app.services.keys.owner import age_warning, require_ours
from app.services.ports import Clock, Storage, UnitOfWork
from app.services.rotation.inspection import (
    Dependents,
    KeyInspection,
    KeyStatus,
    require_application_key,
    unique_key,
)
from app.services.rotation.job import RotationJob
from app.services.rotation.queue import RotationQueue

log = logging.getLogger(__name__)

LEEWAY: Final = timedelta(seconds=60)
"""The difference that clocks may have, on top of the longest lifetime of a token."""
FURTHEST_DATE: Final = timedelta(days=3650)
AGES_EVERY: Final = timedelta(days=1)
_WORK_AFTER_PROMOTION: Final = frozenset({Step.PROMOTED, Step.REENCRYPT, Step.RECOMPUTE, Step.VERIFY, Step.DONE})
"""DONE is among them: its worker died before the job was marked as over."""


class RotationService:
    """Changes application keys while they are in use. Methods may raise StorageError and NotReady.

    Every change demands MANAGE_KEYS and a password proven lately (Forbidden, ReauthenticationRequired).
    """

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        instances: InstanceService,
        jobs: JobService,
        inspection: KeyInspection,
        job: RotationJob,
        clock: Clock,
        overlap: timedelta,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._instances = instances
        self._jobs = jobs
        self._inspection = inspection
        self._clock = clock
        self._overlap = overlap
        self._audit = AuditTrail(clock)
        self._queue = RotationQueue(storage=storage, keys=keys, jobs=jobs, clock=clock)
        self.job: Final = job
        """Workers call its ``carry_on``."""

    # -- to a new primary ----------------------------------------------------------------------------------------------

    async def rotate(
        self, actor: Actor, name: KeyName, *, at: datetime | None = None, seen_primary: int | None = None
    ) -> Job:
        """Have a new version made and promoted, now or at a time that is announced.

        A rotation of this key that is on its way already, or left something to do, is what one gets; one that waits
        for its date begins now.
        With ``seen_primary`` only if that version is still the primary. Raises InvalidInput for a time that has passed,
        KeyStateConflict where a rollback or an import is on its way.
        """
        self._require(actor, name)
        require_ours(self._keys.owner, name, "rotated")
        now = self._clock.now()
        if at is not None and not now < at <= now + FURTHEST_DATE:
            raise InvalidInput("at", "must lie ahead, within ten years")
        async with self._storage.write() as uow:
            await self._require_still(uow, actor, name)
            if at is None and (left := await self._left_over(uow, name, "rotate")) is not None:
                return left
            await self._require_unchanged(uow, name, seen_primary)
            under_way = await uow.jobs.unfinished(unique_key(name))
            job = under_way or await self._queue.begin(uow, actor, name, {"action": "rotate"}, at=at)
            if job.payload.get("action") != "rotate":
                raise KeyStateConflict(f"{name.value} is being changed already: {job.progress.note or job.state.value}")
            if at is not None and job.run_at != at:
                raise KeyStateConflict(f"{name.value} is being rotated already, or will be: cancel that first")
            if at is None and under_way and await uow.jobs.bring_forward(job.id):
                if under_way.run_at > now:  # it was announced, and somebody would rather have it today
                    await self._audit.record(
                        uow, actor, Action.KEY_ROTATION_REQUESTED, about=_about(name), requested="rotate now"
                    )
                return await uow.jobs.get(job.id) or job
        return job

    async def rollback(
        self, actor: Actor, name: KeyName, *, seen_primary: int | None = None, seen_former: int | None = None
    ) -> Job:
        """Have the version that was primary before made primary again.

        A rollback that is on its way already, or left something to do, is what one gets. With ``seen_primary`` and
        ``seen_former`` only if it still leads from that version to that one.
        Raises KeyStateConflict where there is none that may be: it was revoked or destroyed, or there never was one.
        """
        self._require(actor, name)
        require_ours(self._keys.owner, name, "rolled back")
        async with self._storage.write() as uow:
            await self._require_still(uow, actor, name)
            if (left := await self._left_over(uow, name, "rollback")) is not None:
                return left
            await self._require_unchanged(uow, name, seen_primary, seen_former)
            target = self._keyset(name).former
            if target is None:
                raise KeyStateConflict(f"{name.value} has no former version that may become primary again")
            return await self._queue.begin_with(uow, actor, name, target.version, "rollback")

    async def _require_unchanged(
        self, uow: UnitOfWork, name: KeyName, seen_primary: int | None, seen_former: int | None = None
    ) -> None:
        """Raise KeyStateConflict where the key is not as the actor saw it: they would change another version."""
        keyset = (await self._keys.ring_under_lock(uow)).keysets[name]
        former = keyset.former.version if keyset.former else None
        if seen_primary not in {None, keyset.primary.version} or seen_former not in {None, former}:
            raise KeyStateConflict(
                f"{name.value} was changed meanwhile, version {keyset.primary.version} is primary now: look at it again"
            )

    async def import_(self, actor: Actor, name: KeyName, given: SecretText) -> Job | None:
        """Make a key from outside the primary, by the same kind of job; None where it is primary already.

        An import that left something to do after that is what one gets.
        Raises InsecureKey for one that must not be used, KeyStateConflict for one that was revoked.
        """
        self._require(actor, name)
        require_ours(self._keys.owner, name, "imported")
        job = await self._queue.bring_in(actor, name, given)
        if job is not None:
            return job
        async with self._storage.write() as uow:
            return await self._left_over(uow, name, "import")

    async def _left_over(self, uow: UnitOfWork, name: KeyName, action: str, **payload: Any) -> Job | None:
        """The unfinished job of an identical earlier request, so that repeating a request is idempotent.

        A rotation that only waits for tokens to expire is not in the way of the next, and neither is one whose version
        another has replaced.
        """
        primary = (await self._keys.ring_under_lock(uow)).primary(name).version
        same = {"name": name.value, "action": action, **payload}
        for job in await uow.jobs.unfinished_of(JobKind.KEY_ROTATION):
            working = job.progress.step in _WORK_AFTER_PROMOTION and job.progress.cursor.get("version") == primary
            if working and same.items() <= job.payload.items():
                await uow.jobs.bring_forward(job.id)
                return await uow.jobs.get(job.id) or job
        return None

    async def cancel(self, actor: Actor, name: KeyName) -> Job:
        """Call off a rotation that was set for a date. Raises KeyStateConflict where none is, or it has begun."""
        self._require(actor, name)
        async with self._storage.write() as uow:
            await self._require_still(uow, actor, name)
            job = await uow.jobs.unfinished(unique_key(name))
            rotation = job is not None and job.payload.get("action") == "rotate"
            if job is None or not rotation or not await uow.jobs.cancel(job.id):
                raise KeyStateConflict(f"no rotation of {name.value} waits for its date")
            await self._audit.record(uow, actor, Action.KEY_ROTATION_CANCELLED, about=_about(name))
            return await uow.jobs.get(job.id) or job

    # -- out of use ----------------------------------------------------------------------------------------------------

    async def revoke(self, actor: Actor, name: KeyName, version: int) -> Job:
        """Mark a version compromised, at once: a primary is replaced first, in the same transaction.

        Tokens of compromised JWT_SECRET_KEY and API_SECRET_KEY versions are refused from now on; rows that AES_KEY
        versions encrypted are re-encrypted by the job that this returns.
        Raises NotFound for a version that never was, KeyStateConflict for one that is revoked or destroyed already.
        """
        self._require(actor, name)

        def edit(ring: KeyRing) -> Keyset:
            now, keyset = self._clock.now(), ring.keysets[name]
            if keyset.version(version) is None:
                raise NotFound(f"{name.value} has no version {version}")
            if keyset.primary.version == version:
                require_ours(self._keys.owner, name, "revoked")
                keyset = keyset if keyset.announced else self._keys.add_version(ring, name)
                keyset = keyset.promote(keyset.announced[-1], now)
            try:
                return keyset.mark(version, KeyState.COMPROMISED, now)
            except IllegalKeyset as illegal:
                raise KeyStateConflict(str(illegal)) from illegal

        async with self._storage.write() as uow:
            await self._require_still(uow, actor, name)
            await uow.keys.lock()  # before the look: of two who share the keys to look neither could change them
            if (left := await self._left_over(uow, name, "revoke", revoked=version)) is not None:
                return left
            was = self._keyset(name).primary.version
            keyset = await self._keys.change(uow, name, edit)
            promoted = keyset.primary.version
            if promoted != was:
                await self._audit.record(uow, actor, Action.KEY_PROMOTED, about=_about(name), version=promoted)
            await self._audit.record(uow, actor, Action.KEY_REVOKED, about=_about(name), version=version)
            job = await self._settle(uow, actor, keyset, "revoke", revoked=version)
        await self._instances.load_committed_change()
        return job

    async def retire(self, actor: Actor, name: KeyName, version: int) -> Job:
        """Have a full scan prove that nothing needs a version any more, and retire it.

        Raises NotFound for a version that never was, KeyStateConflict for one that is in use, and for what cannot be
        proved: tokens that have not expired, messages outside the database.
        """
        self._require(actor, name)
        self._inspection.require_retirable(name, version)
        async with self._storage.write() as uow:
            await self._require_still(uow, actor, name)
            if (left := await self._left_over(uow, name, "retire", only=version)) is not None:
                return left
            detail: dict[str, Any] = {"requested": "retire", "version": version}
            await self._audit.record(uow, actor, Action.KEY_ROTATION_REQUESTED, about=_about(name), **detail)
            return await self._settle(uow, actor, self._keyset(name), "retire", only=version)

    async def _settle(self, uow: UnitOfWork, actor: Actor, keyset: Keyset, action: str, **payload: Any) -> Job:
        """Queue what comes after a promotion: overlap, re-encryption, scan, retirement."""
        job = self._jobs.new(
            JobKind.KEY_ROTATION,
            {"name": keyset.name.value, "action": action, **payload},
            requested_by=actor.subject_id,
            step=Step.PROMOTED,
            cursor=RotationState.of_primary(keyset).to_json(),
        )
        await uow.jobs.add(job)
        return job

    async def destroy(self, actor: Actor, name: KeyName, version: int, *, typed: str) -> Dependents:
        """Destroy the material of a version irreversibly. ``typed`` must be the key's name.

        Backups made before still hold it, wrapped. Raises InvalidInput where something else was typed,
        NotFound for a version that never was, KeyStateConflict for one in use or that stored secrets still open with.
        """
        self._require(actor, name)
        if typed.strip() != name.value:
            raise InvalidInput("confirmation", f"must be the name of the key, {name.value}: nothing was destroyed")
        needed = await self._inspection.dependents(actor, name, version)
        if needed.rows:
            raise KeyStateConflict(
                f"{needed.rows} stored secrets open with {name.value} version {version} alone: run "
                f"`keyhall keys retire {name.value} {version}` first, which re-encrypts them"
            )

        def edit(ring: KeyRing) -> Keyset:
            keyset = ring.keysets[name]
            if keyset.primary.version == version:
                raise KeyStateConflict(f"{name.value} version {version} is primary: rotate the key first")
            try:
                return keyset.mark(version, KeyState.DESTROYED, self._clock.now())
            except IllegalKeyset as illegal:
                raise KeyStateConflict(str(illegal)) from illegal

        async with self._storage.write() as uow:
            await self._require_still(uow, actor, name)
            await self._keys.change(uow, name, edit)
            columns = columns_under(name)
            # Under the lock, for a rollback may have made it primary for a moment since the scan.
            if sum([(await uow.encrypted_rows.counts(each)).get(version, 0) for each in columns]) > needed.unreadable:
                raise KeyStateConflict(f"{name.value} version {version} came into use meanwhile: nothing was destroyed")
            await self._audit.record(uow, actor, Action.KEY_DESTROYED, about=_about(name), version=version)
        await self._instances.load_committed_change()
        return needed

    # -- the schedule --------------------------------------------------------------------------------------------------

    async def set_schedule(self, actor: Actor, name: KeyName, *, rotation_days: int, automatic: bool) -> KeyStatus:
        """How many days a primary may serve, and whether it is then rotated unasked. Raises InvalidInput."""
        self._require(actor, name)
        if not SHORTEST_SCHEDULE <= rotation_days <= LONGEST_SCHEDULE:
            raise InvalidInput("rotation_days", f"must be {SHORTEST_SCHEDULE} to {LONGEST_SCHEDULE}")
        if automatic:
            require_ours(self._keys.owner, name, "rotated")
        schedule = KeySchedule(name=name, rotation_days=rotation_days, automatic=automatic)
        now = self._clock.now()
        async with self._storage.write() as uow:
            await self._require_still(uow, actor, name)
            await uow.schedules.put(schedule, now)
            detail: dict[str, Any] = {"rotation_days": rotation_days, "automatic": int(automatic)}
            await self._audit.record(uow, actor, Action.KEY_SCHEDULED, about=_about(name), **detail)
            jobs = await uow.jobs.unfinished_of(JobKind.KEY_ROTATION)
        return self._inspection.status(name, schedule, jobs)

    async def watch_ages(self) -> None:
        """Make sure that the job is queued that looks at the keys' ages every day."""
        async with self._storage.write() as uow:
            await uow.jobs.add(self._jobs.new(JobKind.KEY_AGES, {}, unique_key=JobKind.KEY_AGES.value))

    async def look_at_ages(self, run: JobRun) -> None:
        """Warn of keys that are due, rotate those that are to be rotated unasked, and come back tomorrow."""
        for status in await self._inspection.every_status():
            name = status.name
            if not status.due:
                continue
            owner = self._keys.owner
            if not status.automatic or (owner is not None and owner.owns(name)):
                log.warning("%s", age_warning(name, status.age_days, owner))
                continue
            async with self._storage.write() as uow:
                await run.hold(uow)
                payload = {"name": name.value, "action": "rotate"}
                job = self._jobs.new(JobKind.KEY_ROTATION, payload, unique_key=unique_key(name))
                if await uow.jobs.add(job):
                    await self._audit.record(
                        uow,
                        SYSTEM,
                        Action.KEY_ROTATION_REQUESTED,
                        about=_about(name),
                        requested="automatic rotation",
                    )
        raise Later(AGES_EVERY)

    def follow(self, job_id: str) -> AsyncIterator[Job]:
        """Work on a job, or watch another worker do so; see ``JobService.follow``."""
        return self._jobs.follow(job_id, self.job.carry_on)

    # -- shared --------------------------------------------------------------------------------------------------------

    def _require(self, actor: Actor, name: KeyName) -> None:
        actor.require(Permission.MANAGE_KEYS)
        actor.require_fresh(self._clock.now(), scope=Scope.KEYS_MANAGE)
        require_application_key(name)

    async def _require_still(self, uow: UnitOfWork, actor: Actor, name: KeyName) -> None:
        """The same in the unit of work of the change, and before it locks a key. Raises InvalidToken too."""
        self._require(await require_alive(uow, actor, self._clock.now()), name)

    def _keyset(self, name: KeyName) -> Keyset:
        return self._keys.ring.keysets[name]


def _about(name: KeyName) -> tuple[str, str]:
    return "key", name.value
