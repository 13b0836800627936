"""What may be asked of application keys: rotate, roll back, revoke, retire, destroy, import, schedule.

Whatever takes longer than a unit of work is a job of kind ``key.rotation`` (course.py); of one key at most one is on
its way to a new primary.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from app.domain.audit import Action
from app.domain.encrypted_columns import ENCRYPTED_COLUMNS, columns_under
from app.domain.errors import InvalidInput, KeyStateConflict, NotFound
from app.domain.identity import Actor, Permission
from app.domain.jobs import Job, JobKind, JobState
from app.domain.keys import APPLICATION_KEYS, IllegalKeyset, KeyName, KeySchedule, Keyset, KeyState, KeyVersion, Origin
from app.domain.secrets import SecretText
from app.services.audit import by, by_system
from app.services.credentials import CredentialCipher
from app.services.credentials.fingerprints import Fingerprints
from app.services.instances import InstanceService
from app.services.jobs import JobRun, JobService, Later
from app.services.keys import KeyManagementService, KeyRing
from app.services.ports import Clock, Storage, UnitOfWork
from app.services.rotation.job import BATCH, RotationJob, Step, announced, standing_of
from app.services.rotation.values import Dependents, KeyStanding, Plan

log = logging.getLogger(__name__)

LEEWAY: Final = timedelta(seconds=60)
"""What clocks may differ by, on top of the longest lifetime of a token."""
FURTHEST_DATE: Final = timedelta(days=3650)
AGES_EVERY: Final = timedelta(days=1)
_PATIENCE_SECONDS: Final = 60.0
_LOOK_EVERY_SECONDS: Final = 0.1
_WORK_AFTER_PROMOTION: Final = frozenset({Step.PROMOTED, Step.REENCRYPT, Step.RECOMPUTE, Step.VERIFY, Step.DONE})
"""The last of them: whoever did it died before the job was marked as over."""
_SHORTEST_SCHEDULE: Final = 1
_LONGEST_SCHEDULE: Final = 3650


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
        cipher: CredentialCipher,
        clock: Clock,
        token_lifetime: timedelta,
        rotation_days: int,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._instances = instances
        self._jobs = jobs
        self._sealing = cipher
        self._clock = clock
        self._overlap = token_lifetime + LEEWAY
        self._rotation_days = rotation_days
        self._course = RotationJob(
            storage=storage,
            keys=keys,
            instances=instances,
            cipher=cipher,
            fingerprints=Fingerprints(cipher),
            clock=clock,
            overlap=self._overlap,
        )

    # -- to a new primary ----------------------------------------------------------------------------------------------

    async def rotate(self, actor: Actor, name: KeyName, *, at: datetime | None = None) -> Job:
        """Have a new version made and promoted, now or at a time that is announced.

        A rotation of this key that is on its way already, or left something to do, is what one gets; one that waits
        for its date begins now.
        Raises InvalidInput for a time that has passed, KeyStateConflict where a rollback or an import is on its way.
        """
        self._require(actor, name)
        now = self._clock.now()
        if at is not None and not now < at <= now + FURTHEST_DATE:
            raise InvalidInput("at", "must lie ahead, within ten years")
        async with self._storage.write() as uow:
            if at is None and (left := await self._left_over(uow, name, "rotate")) is not None:
                return left
            under_way = await uow.jobs.unfinished(_unique(name))
            job = under_way or await self._begin(uow, actor, name, {"action": "rotate"}, at=at)
            if job.payload.get("action") != "rotate":
                raise KeyStateConflict(f"{name.value} is being changed already: {job.progress.note or job.state.value}")
            if at is not None and job.run_at != at:
                raise KeyStateConflict(f"{name.value} is being rotated already, or will be: cancel that first")
            if at is None and under_way and await uow.jobs.bring_forward(job.id):
                if under_way.run_at > now:  # it was announced, and somebody would rather have it today
                    event = by(actor, Action.KEY_ROTATION_REQUESTED, now, about=_about(name), requested="rotate now")
                    await uow.audit.append(event)
                return await uow.jobs.get(job.id) or job
        return job

    async def rollback(self, actor: Actor, name: KeyName) -> Job:
        """Have the version that was primary before made primary again.

        A rollback that is on its way already, or left something to do, is what one gets.
        Raises KeyStateConflict where there is none that may be: it was revoked or destroyed, or there never was one.
        """
        self._require(actor, name)
        async with self._storage.write() as uow:
            if (left := await self._left_over(uow, name, "rollback")) is not None:
                return left
        former = [each for each in self._keyset(name) if each.state is KeyState.DEACTIVATED]
        if not former:
            raise KeyStateConflict(f"{name.value} has no former version that may become primary again")
        target = max(former, key=lambda each: (each.deactivated_at or each.created_at, each.version))
        return await self._make_primary(actor, name, target.version, "rollback")

    async def _make_primary(self, actor: Actor, name: KeyName, version: int, action: str) -> Job:
        async with self._storage.write() as uow:
            return await self._begin_with(uow, actor, name, version, action)

    async def _begin_with(self, uow: UnitOfWork, actor: Actor, name: KeyName, version: int, action: str) -> Job:
        """Queue a change to that version. Raises KeyStateConflict where another change is on its way."""
        job = await self._begin(uow, actor, name, {"action": action, "version": version})
        if (job.payload.get("action"), job.payload.get("version")) != (action, version):
            raise KeyStateConflict(f"{name.value} is being changed already: {job.progress.note or job.state.value}")
        return job

    async def import_(self, actor: Actor, name: KeyName, given: SecretText) -> Job | None:
        """Make a key from outside the primary, by the same course; None where it is that already.

        An import that left something to do after that is what one gets.
        Raises InsecureKey for one that must not be used, KeyStateConflict for one that was revoked.
        """
        self._require(actor, name)
        material = self._keys.parse_external_key(name, given)
        fingerprint = self._keys.fingerprint(name, material)
        known = next((each for each in self._keyset(name) if each.fingerprint == fingerprint), None)
        if known is not None and known.state is KeyState.ACTIVE:
            async with self._storage.write() as uow:
                return await self._left_over(uow, name, "import")
        if known is not None and known.state in {KeyState.COMPROMISED, KeyState.DESTROYED}:
            raise KeyStateConflict(f"this is {name.value} version {known.version}, which is {known.state}")
        if known is not None:
            return await self._make_primary(actor, name, known.version, "import")
        async with self._storage.write() as uow:
            if await uow.jobs.unfinished(_unique(name)) is not None:
                raise KeyStateConflict(f"{name.value} is being changed already: wait for that to end")
            keyset = await self._keys.change(
                uow, name, lambda ring: self._keys.add_version(ring, name, material, Origin.IMPORTED)
            )
            version = max(each.version for each in keyset)
            await uow.audit.append(
                by(actor, Action.KEY_IMPORTED, self._clock.now(), about=_about(name), version=version)
            )
            # A rotation that was queued since the look above undoes all of this.
            return await self._begin_with(uow, actor, name, version, "import")

    async def _begin(
        self, uow: UnitOfWork, actor: Actor, name: KeyName, payload: Mapping[str, Any], *, at: datetime | None = None
    ) -> Job:
        """Queue a change of primary, or find the one that is on its way."""
        job = self._jobs.new(
            JobKind.KEY_ROTATION,
            {"name": name.value, **payload},
            unique_key=_unique(name),
            requested_by=actor.subject_id,
        )
        if not await uow.jobs.add(job, at=at):
            under_way = await uow.jobs.unfinished(_unique(name))
            if under_way is not None:
                return under_way
            raise KeyStateConflict(f"{name.value} was being changed just now: try again")
        detail: dict[str, Any] = {"requested": payload["action"]} | ({} if at is None else {"due": at.isoformat()})
        await uow.audit.append(
            by(actor, Action.KEY_ROTATION_REQUESTED, self._clock.now(), about=_about(name), **detail)
        )
        return await uow.jobs.get(job.id) or job

    async def _left_over(self, uow: UnitOfWork, name: KeyName, action: str, **payload: Any) -> Job | None:
        """What the same request, made before, still has to do now that its version is primary: for who makes it again.

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
            job = await uow.jobs.unfinished(_unique(name))
            rotation = job is not None and job.payload.get("action") == "rotate"
            if job is None or not rotation or not await uow.jobs.cancel(job.id):
                raise KeyStateConflict(f"no rotation of {name.value} waits for its date")
            event = by(actor, Action.KEY_ROTATION_CANCELLED, self._clock.now(), about=_about(name))
            await uow.audit.append(event)
            return await uow.jobs.get(job.id) or job

    # -- out of use ----------------------------------------------------------------------------------------------------

    async def revoke(self, actor: Actor, name: KeyName, version: int) -> Job:
        """Mark a version compromised, at once: a primary is replaced first, in the same transaction.

        What compromised JWT_SECRET_KEY and API_SECRET_KEY versions made is refused from now on; what AES_KEY versions
        sealed is re-encrypted by the job that this returns.
        Raises NotFound for a version that never was, KeyStateConflict for one that is revoked or destroyed already.
        """
        self._require(actor, name)

        def edit(ring: KeyRing) -> Keyset:
            now, keyset = self._clock.now(), ring.keysets[name]
            if keyset.version(version) is None:
                raise NotFound(f"{name.value} has no version {version}")
            if keyset.primary.version == version:
                keyset = keyset if announced(keyset) else self._keys.add_version(ring, name)
                keyset = keyset.promote(announced(keyset)[-1], now)
            try:
                return keyset.mark(version, KeyState.COMPROMISED, now)
            except IllegalKeyset as illegal:
                raise KeyStateConflict(str(illegal)) from illegal

        async with self._storage.write() as uow:
            await uow.keys.lock()  # before the look: of two who share the keys to look neither could change them
            if (left := await self._left_over(uow, name, "revoke", revoked=version)) is not None:
                return left
            was = self._keyset(name).primary.version
            keyset = await self._keys.change(uow, name, edit)
            now, promoted = self._clock.now(), keyset.primary.version
            if promoted != was:
                event = by(actor, Action.KEY_PROMOTED, now, about=_about(name), version=promoted)
                await uow.audit.append(event)
            await uow.audit.append(by(actor, Action.KEY_REVOKED, now, about=_about(name), version=version))
            job = await self._settle(uow, actor, keyset, "revoke", revoked=version)
        await self._instances.refresh()
        return job

    async def retire(self, actor: Actor, name: KeyName, version: int) -> Job:
        """Have a full scan prove that nothing needs a version any more, and retire it.

        Raises NotFound for a version that never was, KeyStateConflict for one that is in use, and for what cannot be
        proved: tokens that have not expired, messages outside the database.
        """
        self._require(actor, name)
        found = self._version(name, version)
        if found.state not in {KeyState.DEACTIVATED, KeyState.COMPROMISED} or found.retired_at is not None:
            state = "retired" if found.retired_at else found.state.value
            raise KeyStateConflict(f"{name.value} version {version} is {state}: only a version out of use is retired")
        if name is KeyName.ENCRYPTION_KEY:
            raise KeyStateConflict(
                "what ENCRYPTION_KEY protects has left the database: nothing can prove that a version is not needed, "
                "it keeps opening until it is destroyed"
            )
        until = (found.deactivated_at or found.created_at) + self._overlap
        if name is KeyName.JWT_SECRET_KEY and found.state is KeyState.DEACTIVATED and self._clock.now() < until:
            raise KeyStateConflict(
                f"tokens of {name.value} version {version} are valid until {until.isoformat(timespec='seconds')}: "
                f"wait, or end them now with `keyhall keys revoke {name.value} {version}`"
            )
        async with self._storage.write() as uow:
            if (left := await self._left_over(uow, name, "retire", only=version)) is not None:
                return left
            detail: dict[str, Any] = {"requested": "retire", "version": version}
            event = by(actor, Action.KEY_ROTATION_REQUESTED, self._clock.now(), about=_about(name), **detail)
            await uow.audit.append(event)
            return await self._settle(uow, actor, self._keyset(name), "retire", only=version)

    async def _settle(self, uow: UnitOfWork, actor: Actor, keyset: Keyset, action: str, **payload: Any) -> Job:
        """Queue what comes after a promotion: overlap, re-encryption, scan, retirement."""
        job = self._jobs.new(
            JobKind.KEY_ROTATION,
            {"name": keyset.name.value, "action": action, **payload},
            requested_by=actor.subject_id,
            step=Step.PROMOTED,
            cursor=standing_of(keyset),
        )
        await uow.jobs.add(job)
        return job

    async def dependents(self, actor: Actor, name: KeyName, version: int) -> Dependents:
        """What still needs a version, found by looking at every row. Raises NotFound, Forbidden."""
        actor.require(Permission.SEE_KEYS)
        found = self._version(name, version)
        rows, failing = await self._scan(name, version)
        unreadable = len(failing)
        match name:
            case KeyName.AES_KEY:
                sentence = f"{rows} stored secrets open with it alone" + (
                    f", {unreadable} more name it and do not open" if unreadable else ""
                )
            case KeyName.ENCRYPTION_KEY:
                begin = found.activated_at or found.created_at
                end = found.deactivated_at.isoformat(timespec="minutes") if found.deactivated_at else "now"
                sentence = (
                    f"every token that /encrypt made between {begin.isoformat(timespec='minutes')} and {end} opens "
                    "with it alone; how many there are nobody knows"
                )
            case KeyName.JWT_SECRET_KEY:
                sentence = "access tokens that it signed and that have not expired"
            case _:
                sentence = "requests of the last 24 hours that would be known again by their Idempotency-Key"
        return Dependents(name=name, version=version, rows=rows, unreadable=unreadable, sentence=sentence)

    async def destroy(self, actor: Actor, name: KeyName, version: int, *, typed: str) -> Dependents:
        """Forget the material of a version for ever. ``typed`` must be the key's name.

        Backups made before still hold it, wrapped. Raises InvalidInput where something else was typed,
        NotFound for a version that never was, KeyStateConflict for one in use or that stored secrets still open with.
        """
        self._require(actor, name)
        if typed.strip() != name.value:
            raise InvalidInput("confirmation", f"must be the name of the key, {name.value}: nothing was destroyed")
        needed = await self.dependents(actor, name, version)
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
            await self._keys.change(uow, name, edit)
            columns = columns_under(name)
            # Under the lock, for a rollback may have made it primary for a moment since the scan.
            if sum([(await uow.encrypted_rows.counts(each)).get(version, 0) for each in columns]) > needed.unreadable:
                raise KeyStateConflict(f"{name.value} version {version} came into use meanwhile: nothing was destroyed")
            event = by(actor, Action.KEY_DESTROYED, self._clock.now(), about=_about(name), version=version)
            await uow.audit.append(event)
        await self._instances.refresh()
        return needed

    # -- looking -------------------------------------------------------------------------------------------------------

    async def plan(self, actor: Actor, name: KeyName) -> Plan:
        """What rotating a key would do, from a full look at what it protects. Raises Forbidden."""
        actor.require(Permission.SEE_KEYS)
        _require_application_key(name)
        rows, failing = await self._scan(name, None)
        live = await self._instances.live()
        match name:
            case KeyName.JWT_SECRET_KEY:
                consequence = f"former versions verify for another {_hours(self._overlap)}, then they retire"
            case KeyName.AES_KEY:
                consequence = "every stored secret is sealed anew, then former versions retire"
            case KeyName.API_SECRET_KEY:
                consequence = "every fingerprint is recomputed, then former versions retire"
            case _:
                consequence = "former versions keep opening what they made, until they are destroyed"
        primary = self._keyset(name).primary.version
        return Plan(name=name, primary=primary, processes=live, rows=rows, unreadable=failing, consequence=consequence)

    async def _scan(self, name: KeyName, version: int | None) -> tuple[int, list[str]]:
        """How many rows open with that version, or with any; and the names of those that need it and do not open."""
        opening, failing = 0, []
        columns = ENCRYPTED_COLUMNS if name is KeyName.API_SECRET_KEY and version is None else columns_under(name)
        for column in columns:
            after: str | None = None
            while True:
                async with self._storage.read() as uow:
                    rows = await uow.encrypted_rows.all(column, after=after, limit=BATCH)
                if not rows:
                    break
                after = rows[-1].id
                opened = await asyncio.to_thread(self._sealing.opened_by, column, rows)
                for row, by_version in zip(rows, opened, strict=True):
                    if by_version is None and version in {None, row.key_version}:
                        failing.append(f"{column.table} {row.id}")
                    elif by_version is not None and version in {None, by_version}:
                        opening += 1
        return opening, failing

    async def standings(self, actor: Actor) -> Sequence[KeyStanding]:
        """Every application key with its versions, its age and what is about to happen to it. Raises Forbidden."""
        actor.require(Permission.SEE_KEYS)
        async with self._storage.read() as uow:
            schedules = await uow.schedules.all()
            jobs = {name: await uow.jobs.unfinished(_unique(name)) for name in APPLICATION_KEYS}
        return [self._standing(name, schedules, jobs[name]) for name in APPLICATION_KEYS]

    def _standing(self, name: KeyName, schedules: Mapping[str, KeySchedule], job: Job | None) -> KeyStanding:
        now, primary = self._clock.now(), self._keyset(name).primary
        schedule = schedules.get(name.value) or KeySchedule(name=name, rotation_days=self._rotation_days)
        since = primary.activated_at or primary.created_at
        due_at = since + timedelta(days=schedule.rotation_days)
        announced = job.run_at if job is not None and job.state is JobState.WAITING and job.run_at > now else None
        return KeyStanding(
            name=name,
            versions=[each for each in self._keys.listing() if each.name is name],
            since=since,
            age_days=max((now - since).days, 0),
            rotation_days=schedule.rotation_days,
            automatic=schedule.automatic,
            due_at=due_at,
            due=now >= due_at,
            announced_at=announced,
            job=job,
        )

    # -- the schedule --------------------------------------------------------------------------------------------------

    async def set_schedule(self, actor: Actor, name: KeyName, *, rotation_days: int, automatic: bool) -> KeyStanding:
        """How many days a primary may serve, and whether it is then rotated unasked. Raises InvalidInput."""
        self._require(actor, name)
        if not _SHORTEST_SCHEDULE <= rotation_days <= _LONGEST_SCHEDULE:
            raise InvalidInput("rotation_days", f"must be {_SHORTEST_SCHEDULE} to {_LONGEST_SCHEDULE}")
        schedule = KeySchedule(name=name, rotation_days=rotation_days, automatic=automatic)
        now = self._clock.now()
        async with self._storage.write() as uow:
            await uow.schedules.put(schedule, now)
            detail: dict[str, Any] = {"rotation_days": rotation_days, "automatic": int(automatic)}
            await uow.audit.append(by(actor, Action.KEY_SCHEDULED, now, about=_about(name), **detail))
            job = await uow.jobs.unfinished(_unique(name))
        return self._standing(name, {name.value: schedule}, job)

    async def watch_ages(self) -> None:
        """Make sure that the job is queued that looks at the keys' ages every day."""
        async with self._storage.write() as uow:
            await uow.jobs.add(self._jobs.new(JobKind.KEY_AGES, {}, unique_key=JobKind.KEY_AGES.value))

    async def look_at_ages(self, run: JobRun) -> None:
        """Warn of keys that are due, rotate those that are to be rotated unasked, and come back tomorrow."""
        async with self._storage.read() as uow:
            schedules = await uow.schedules.all()
        for name in APPLICATION_KEYS:
            standing = self._standing(name, schedules, None)
            if not standing.due:
                continue
            if not standing.automatic:
                log.warning("%s is %d days old: rotate it with `keyhall keys rotate %s`", name, standing.age_days, name)
                continue
            async with self._storage.write() as uow:
                await run.hold(uow)
                payload = {"name": name.value, "action": "rotate"}
                job = self._jobs.new(JobKind.KEY_ROTATION, payload, unique_key=_unique(name))
                if await uow.jobs.add(job):
                    now, requested = self._clock.now(), "automatic rotation"
                    event = by_system(Action.KEY_ROTATION_REQUESTED, now, about=_about(name), requested=requested)
                    await uow.audit.append(event)
        raise Later(AGES_EVERY)

    async def follow(self, job_id: str) -> AsyncIterator[Job]:
        """Work on a job, or watch another worker do so: the job as it gets on, until it is over or waits for later.

        Also ends where it failed for a minute, each time for something that may pass: ``error`` says what.
        """
        working: asyncio.Task[None] | None = None
        failing_since: float | None = None
        try:
            while True:
                async with self._storage.read() as uow:
                    job = await uow.jobs.get(job_id)
                if job is None:
                    return
                yield job
                if job.state.over:
                    return
                now = self._clock.monotonic()
                failing_since = None if job.error is None else failing_since or now
                if failing_since is not None and now - failing_since > _PATIENCE_SECONDS:
                    return
                if working is None or working.done():
                    if working is not None:
                        working.result()
                    # Whether its time has come is for the database's clock to say.
                    run = await self._jobs.claim(job_id)
                    if run is None and await self._rests(job_id):
                        return
                    working = asyncio.create_task(self._jobs.work(run, self.carry_on)) if run else None
                await self._clock.sleep(_LOOK_EVERY_SECONDS)
        finally:
            if working is not None:
                working.cancel()
                await asyncio.wait({working})

    async def _rests(self, job_id: str) -> bool:
        """Whether a job that could not be claimed waits for its time, instead of being worked on by another."""
        async with self._storage.read() as uow:
            job = await uow.jobs.get(job_id)
        return job is not None and job.state is JobState.WAITING and job.error is None

    async def carry_on(self, run: JobRun) -> None:
        """Do what is left of a rotation. Raises JobFailed, Later, ClaimLost."""
        await self._course.carry_on(run)

    # -- shared --------------------------------------------------------------------------------------------------------

    def _require(self, actor: Actor, name: KeyName) -> None:
        actor.require(Permission.MANAGE_KEYS)
        actor.require_fresh(self._clock.now())
        _require_application_key(name)

    def _keyset(self, name: KeyName) -> Keyset:
        return self._keys.ring.keysets[name]

    def _version(self, name: KeyName, version: int) -> KeyVersion:
        _require_application_key(name)
        found = self._keyset(name).version(version)
        if found is None:
            raise NotFound(f"{name.value} has no version {version}")
        return found


def _require_application_key(name: KeyName) -> None:
    if name.internal:
        raise InvalidInput("name", f"must be one of {', '.join(APPLICATION_KEYS)}")


def _unique(name: KeyName) -> str:
    return f"key.rotation/{name.value}"


def _about(name: KeyName) -> tuple[str, str]:
    return "key", name.value


def _hours(duration: timedelta) -> str:
    minutes = int(duration.total_seconds() // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} minutes"
