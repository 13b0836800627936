"""Inspection of application keys: state and age, the effects of a rotation, the dependents of a version."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from app.domain.encrypted_columns import ENCRYPTED_COLUMNS, EncryptedColumn, EncryptedRow, columns_under
from app.domain.errors import InvalidInput, KeyStateConflict, NotFound
from app.domain.identity import Actor, Permission
from app.domain.instances import Instance
from app.domain.jobs import Job, JobKind
from app.domain.keys import APPLICATION_KEYS, KeyName, KeySchedule, KeyState, KeyVersion
from app.services.credentials import CredentialCipher
from app.services.keys import KeyManagementService, KeyVersionInfo
from app.services.keys.owner import Asked, require_ours
from app.services.paging import pages
from app.services.ports import Clock, Storage
from app.services.rotation.passes import BATCH
from app.services.rotation.watching import loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStatus:
    """One key: every version, how old the primary may become, and the change that is due.

    ``announced_at`` is when the rotation that was set for a date begins; ``job`` is the one on its way to a new
    primary. ``finishing`` are those behind their promotion, which wait for tokens, re-encrypt or retire.
    ``former`` is the version that a rollback would make primary; ``owner`` names the secret outside that owns the key,
    where it is rotated. ``processes`` names each live process and says whether it has loaded the key as it is now.
    """

    name: KeyName
    versions: Sequence[KeyVersionInfo]
    since: datetime
    age_days: int
    rotation_days: int
    automatic: bool
    due_at: datetime
    due: bool
    announced_at: datetime | None
    job: Job | None
    finishing: Sequence[Job]
    former: int | None
    owner: str | None
    processes: Sequence[tuple[str, bool]]

    @property
    def primary(self) -> KeyVersionInfo:
        """The version that protects."""
        return next(each for each in self.versions if each.primary)

    @property
    def spent(self) -> float:
        """The share of its time that the primary has spent, from 0 to 1."""
        return min(self.age_days / self.rotation_days, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The effects of a rotation, and the rows that would stand in its way; nothing has been changed.

    ``rows`` are to be re-encrypted or recomputed; ``unreadable`` names those that do not open today.
    """

    name: KeyName
    primary: int
    processes: Sequence[Instance]
    rows: int
    unreadable: Sequence[str]
    consequence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependents:
    """The dependents of a version of a key: ``rows`` open with it alone, ``unreadable`` name it and do not open."""

    name: KeyName
    version: int
    rows: int
    unreadable: int
    sentence: str


class KeyInspection:
    """Looks and changes nothing. Methods demand SEE_KEYS (Forbidden) and may raise StorageError and NotReady."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        cipher: CredentialCipher,
        clock: Clock,
        overlap: timedelta,
        rotation_days: int,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._cipher = cipher
        self._clock = clock
        self._overlap = overlap
        self._rotation_days = rotation_days

    # -- state and age -------------------------------------------------------------------------------------------------

    async def list(self, actor: Actor) -> Sequence[KeyStatus]:
        """Every application key with its versions, its age and the change that is due."""
        actor.require(Permission.SEE_KEYS)
        return await self.every_status()

    async def every_status(self) -> Sequence[KeyStatus]:
        """The same for Keyhall itself."""
        async with self._storage.lookup() as uow:
            schedules = await uow.schedules.all()
            jobs = await uow.jobs.unfinished_of(JobKind.KEY_ROTATION)
            live = await uow.instances.live()
        return [self.status(name, schedules.get(name.value), jobs, live) for name in APPLICATION_KEYS]

    def status(
        self, name: KeyName, schedule: KeySchedule | None, jobs: Sequence[Job], live: Sequence[Instance] = ()
    ) -> KeyStatus:
        """One key's status, with unfinished jobs of all keys; without a schedule of its own the settings' applies."""
        keyset, owner = self._keys.ring.keysets[name], self._keys.owner
        now, since = self._clock.now(), keyset.since
        job = next((each for each in jobs if each.unique_key == unique_key(name)), None)
        schedule = schedule or KeySchedule(name=name, rotation_days=self._rotation_days)
        due_at = schedule.due_at(since)
        announced = job.run_at if job is not None and job.announced(now) else None
        return KeyStatus(
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
            former=keyset.former.version if keyset.former else None,
            owner=owner.stored.place.name if owner is not None and owner.owns(name) else None,
            finishing=[each for each in jobs if each.payload.get("name") == name.value and each is not job],
            processes=[(str(each), loaded(each, name, keyset.epoch)) for each in live],
        )

    async def before_change(self, actor: Actor, name: KeyName, asked: Asked | None = None) -> KeyStatus:
        """The key that the actor is about to change; with ``asked`` for a change that only its owner can make.

        Demands MANAGE_KEYS. Raises KeyStateConflict where a secret outside owns the key.
        """
        actor.require(Permission.MANAGE_KEYS)
        require_application_key(name)
        if asked is not None:
            require_ours(self._keys.owner, name, asked)
        return next(each for each in await self.every_status() if each.name is name)

    async def before_revocation(self, actor: Actor, name: KeyName, version: int) -> KeyStatus:
        """The key of which the actor is about to revoke a version. Raises NotFound, KeyStateConflict."""
        status, found = await self.before_change(actor, name), self.version(name, version)
        if found.state in {KeyState.COMPROMISED, KeyState.DESTROYED}:
            raise KeyStateConflict(f"{name.value} version {version} is {found.state.value} already")
        if found.state is KeyState.ACTIVE:
            require_ours(self._keys.owner, name, "revoked")
        return status

    async def before_retirement(self, actor: Actor, name: KeyName, version: int) -> KeyStatus:
        """The key of which the actor is about to retire a version. Raises NotFound, KeyStateConflict."""
        status = await self.before_change(actor, name)
        self.require_retirable(name, version)
        return status

    def require_retirable(self, name: KeyName, version: int) -> None:
        """Raise NotFound, or KeyStateConflict for a version in use, and where nothing can prove that it is not."""
        found = self.version(name, version)
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

    # -- before a change -----------------------------------------------------------------------------------------------

    async def plan(self, actor: Actor, name: KeyName) -> Plan:
        """The effects of rotating a key, after reading every row that it protects.

        Raises KeyStateConflict where a secret outside owns the key, as a rotation would.
        """
        actor.require(Permission.SEE_KEYS)
        require_application_key(name)
        require_ours(self._keys.owner, name, "rotated")
        rows, failing = await self._scan(name, None)
        async with self._storage.lookup() as uow:
            live = await uow.instances.live()
        match name:
            case KeyName.JWT_SECRET_KEY:
                consequence = f"former versions verify for another {_hours(self._overlap)}, then they retire"
            case KeyName.AES_KEY:
                consequence = "every stored secret is re-encrypted, then former versions retire"
            case KeyName.API_SECRET_KEY:
                consequence = "every fingerprint is recomputed, then former versions retire that no API token needs"
            case _:
                consequence = "former versions keep opening what they encrypted, until they are destroyed"
        primary = self._keys.ring.keysets[name].primary.version
        return Plan(name=name, primary=primary, processes=live, rows=rows, unreadable=failing, consequence=consequence)

    async def dependents(self, actor: Actor, name: KeyName, version: int) -> Dependents:
        """The rows that still need a version, found by reading every row. Raises NotFound."""
        actor.require(Permission.SEE_KEYS)
        found = self.version(name, version)
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
                    "with it alone; Keyhall keeps no count of them"
                )
            case KeyName.JWT_SECRET_KEY:
                sentence = "access tokens that it signed and that have not expired"
            case _:
                async with self._storage.lookup() as uow:
                    tokens = (await uow.api_tokens.key_versions(self._clock.now())).get(version, 0)
                sentence = (
                    f"{tokens} API tokens that were not used since it was primary, and requests of the last 24 hours "
                    "that would be recognised by their Idempotency-Key"
                )
        return Dependents(name=name, version=version, rows=rows, unreadable=unreadable, sentence=sentence)

    def version(self, name: KeyName, version: int) -> KeyVersion:
        """That version of an application key. Raises InvalidInput for an internal key, NotFound."""
        require_application_key(name)
        found = self._keys.ring.keysets[name].version(version)
        if found is None:
            raise NotFound(f"{name.value} has no version {version}")
        return found

    async def _scan(self, name: KeyName, version: int | None) -> tuple[int, Sequence[str]]:
        """How many rows open with that version, or with any; and the names of rows that need it and do not open."""
        rows, failing = 0, []
        columns = ENCRYPTED_COLUMNS if name is KeyName.API_SECRET_KEY and version is None else columns_under(name)
        for column in columns:
            async for page in pages(partial(self._page, column)):
                opened = await asyncio.to_thread(self._cipher.opened_by, column, page)
                for row, by_version in zip(page, opened, strict=True):
                    if by_version is None and version in {None, row.key_version}:
                        failing.append(f"{column.table} {row.id}")
                    elif by_version is not None and version in {None, by_version}:
                        rows += 1
        return rows, failing

    async def _page(self, column: EncryptedColumn, after: str | None) -> Sequence[EncryptedRow]:
        async with self._storage.read() as uow:
            return await uow.encrypted_rows.all(column, after=after, limit=BATCH)


def unique_key(name: KeyName) -> str:
    """Of the jobs with this key at most one is on its way to a new primary."""
    return f"key.rotation/{name.value}"


def require_application_key(name: KeyName) -> None:
    """Raises InvalidInput for an internal key."""
    if name.internal:
        raise InvalidInput("name", f"must be one of {', '.join(APPLICATION_KEYS)}")


def _hours(duration: timedelta) -> str:
    minutes = int(duration.total_seconds() // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} minutes"
