"""The last resort: new application keys, because the master key or rows of `app_config` are lost.

Install, users, labels, history and audit trail stay. Values that the lost keys encrypted stay too, but do not open:
people must enter them again. Keys that are intact under a given master key are kept.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from app.domain.audit import Action
from app.domain.credentials import CredentialRecord, OwnerKind
from app.domain.encrypted_columns import ENCRYPTED_COLUMNS
from app.domain.errors import (
    ConfigInvalid,
    InstallMismatch,
    InUse,
    InvalidInput,
    KeyDamaged,
    KeyMissing,
    KeyStateConflict,
    MasterKeyMismatch,
    MasterKeyMissing,
    NoInstall,
    StartupError,
)
from app.domain.jobs import JobKind
from app.domain.keys import KeyName, Keyset, KeyState
from app.domain.rotation import RotationState, Step
from app.domain.secrets import SecretBytes
from app.services.audit import OPERATOR, AuditTrail
from app.services.jobs import JobService
from app.services.keys.reading import KeyReader
from app.services.keys.writing import KeyWriter
from app.services.paging import pages
from app.services.ports import (
    ChangeableMasterKey,
    Clock,
    InstallRecord,
    KeyWrapping,
    RememberedInstall,
    Storage,
    UnitOfWork,
)

_ID: Final = re.compile(r'"install_id":"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"')
_VERSION: Final = re.compile(r'"version":(\d{1,10})\b')
_EPOCH: Final = re.compile(r'"epoch":(\d{1,10})\b')
_PLAUSIBLE: Final = 1 << 31
"""A version or epoch beyond this comes from a damaged row, and must not use up the numbers."""
_PAGE: Final = 500
_KEPT: Final = frozenset({KeyName.AES_KEY, KeyName.ENCRYPTION_KEY, KeyName.AUDIT_SEAL_KEY})
"""The keys that a damaged install keeps where they are intact. The others are replaced, which costs a new sign-in: an
older row might have been put back, in which a revoked version is not revoked yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LostKeys:
    """The state before a reset: the install id to type, the cause, and the keys that are intact."""

    install_id: str
    cause: StartupError
    kept: Sequence[KeyName]


@dataclass(frozen=True, slots=True, kw_only=True)
class LostCredential:
    """A credential that has to be entered again; ``owner`` is a user's name, or a guild's id."""

    id: str
    owner_kind: OwnerKind
    owner: str
    provider: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyResetReport:
    """The result of a reset. ``file`` is None where the master key comes from the settings, ``copy`` on PostgreSQL."""

    install_id: str
    master_key_id: str
    file: Path | None
    moved_aside: Sequence[Path]
    copy: Path | None
    kept: Sequence[KeyName]
    sessions: int
    lost: Sequence[LostCredential]
    lost_factors: Sequence[str]
    """The names of the users whose second factor does not open any more: a recovery code or a reset lets them in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPreparation:
    """The step before a reset.

    ``copy_and_migrate`` copies an embedded database, brings the schema to head and returns the copy's path, None on
    PostgreSQL; ``at_head`` is whether the schema was at head before that.
    """

    at_head: bool
    copy_and_migrate: Callable[[], Awaitable[Path | None]]


class _Unused(NamedTuple):
    """A version and an epoch with which every new keyset begins."""

    version: int
    epoch: int


class KeyReset:
    """Gives an install new keys. Methods may raise StorageError, and StartupError where a reset cannot help."""

    def __init__(
        self,
        *,
        storage: Storage,
        source: ChangeableMasterKey,
        reader: KeyReader,
        writer: KeyWriter,
        record: InstallRecord,
        jobs: JobService,
        clock: Clock,
        preparation: ResetPreparation,
    ) -> None:
        self._storage = storage
        self._source = source
        self._reader = reader
        self._writer = writer
        self._record = record
        self._jobs = jobs
        self._clock = clock
        self._preparation = preparation
        self._rules = reader.rules
        self._audit = AuditTrail(clock)

    async def look(self) -> LostKeys:
        """The lost keys. Raises KeyStateConflict where none is lost, InUse while a process is live, NoInstall."""
        async with self._storage.read() as uow:
            lost = await self._judge(uow, self._record.read())
            if self._preparation.at_head:
                await self._require_alone(uow)
        return lost

    async def carry_out(self, typed: str) -> KeyResetReport:
        """Make new keys, in one transaction. ``typed`` must be the install's id. Raises as ``look``, InvalidInput."""
        found = await self.look()
        if typed.strip() != found.install_id:
            raise InvalidInput("confirmation", f"must be the install's id, {found.install_id}: nothing was changed")
        copy = await self._preparation.copy_and_migrate()
        remembered = self._record.read()
        now = self._clock.now()
        async with self._storage.write() as uow:
            await uow.keys.lock()
            lost = await self._judge(uow, remembered)  # again: another reset may have been faster
            rows = await uow.keys.rows()
            recovered = {name: self._reader.recover_keyset(name, rows, lost.install_id) for name in lost.kept}
            unused = await self._unused(uow, rows, remembered)
            # Only now, when nobody else can be at this place: the old file moves aside, and the new one is read back.
            master_key, moved_aside = self._master_key(rows, lost.install_id)
            wrapping = self._reader.wrapping(master_key)
            keysets = [self._keyset(name, lost.install_id, wrapping, unused, recovered.get(name)) for name in KeyName]
            ring = await self._writer.replace_all(
                uow,
                keysets,
                install_id=lost.install_id,
                environment=self._rules.environment,
                wrapping=wrapping,
            )
            opening = [each.version for each in ring.keysets[KeyName.AES_KEY] if each.wrapped]
            credentials = await self._lost_credentials(uow, opening)
            lost_factors = await self._lost_factors(uow, opening)
            await uow.credentials.forget_keys(opening=opening)
            sessions = await uow.sessions.revoke_all(now)
            await uow.idempotency.purge(now)
            await uow.jobs.cancel_all(JobKind.KEY_ROTATION)
            if KeyName.AES_KEY in lost.kept:
                await self._queue_what_follows(uow, ring.keysets)
            await self._audit.record(
                uow,
                OPERATOR,
                Action.KEYS_RESET,
                about=("install", lost.install_id),
                reason=lost.cause.slug,
                master_key=wrapping.master_key_id,
                kept=" ".join(lost.kept),
                credentials=len(credentials),
                second_factors=len(lost_factors),
                sessions=sessions,
            )
            # Last: a process that takes a lease reads the manifest under a lock, so it has a lease by now or waits
            # for the commit.
            await self._require_alone(uow)
        self._record.remember(lost.install_id, ring.manifest.epochs)
        return KeyResetReport(
            install_id=lost.install_id,
            master_key_id=wrapping.master_key_id,
            file=self._source.default_file if self._source.in_default_file else None,
            moved_aside=moved_aside,
            copy=copy,
            kept=lost.kept,
            sessions=sessions,
            lost=credentials,
            lost_factors=lost_factors,
        )

    # -- what there is -------------------------------------------------------------------------------------------------

    async def _judge(self, uow: UnitOfWork, remembered: RememberedInstall | None) -> LostKeys:
        try:
            ring = await self._reader.load(uow, remembered)
        except (MasterKeyMissing, MasterKeyMismatch, KeyMissing, KeyDamaged) as found:
            cause: StartupError = found
        else:
            if ring is None:
                raise NoInstall("there is no install yet: nothing is lost")
            raise KeyStateConflict(
                f"the master key {ring.manifest.master_key_id} opens install {ring.manifest.install_id}: nothing is "
                "lost, and nothing was changed"
            )
        if not await uow.keys.exists():
            raise cause
        rows = await uow.keys.rows()
        install_id = self._install_id(rows, remembered)
        try:
            await self._reader.load(uow, None)
        except StartupError:
            if not self._source.given() and not self._rules.environment.may_create_master_key:
                raise MasterKeyMissing(
                    f"APP_ENV is {self._rules.environment}, where no master key is made, and none is given",
                    remedy="make one with `keyhall keys generate-master --write`, or give one as MASTER_KEY or "
                    "MASTER_KEY_FILE, and repeat",
                ) from cause
            kept = [name for name in KeyName if name in _KEPT and self._reader.recover_keyset(name, rows, install_id)]
            return LostKeys(install_id=install_id, cause=cause, kept=kept)
        # An older database was put back: a start halts, but every key in it opens.
        raise KeyStateConflict(
            f"every key of install {install_id} opens: none is lost, and nothing was changed. A start halts for "
            f"another reason: {cause.happened} — {cause.remedy}"
        )

    def _install_id(self, rows: Mapping[str, str], remembered: RememberedInstall | None) -> str:
        """The install's id from settings, install.json and rows. Rows count only where neither of the others has it."""
        claims = (self._rules.pinned_install_id, remembered.install_id if remembered else None)
        known = {each for each in claims if each is not None}
        named = {each for value in rows.values() for each in _ID.findall(value)}
        if len(known) > 1 or (known and named and not known & named):
            raise InstallMismatch(
                f"INSTALL_ID, install.json and the database disagree: {', '.join(sorted(known | named))}",
                remedy="point DATABASE_URL at the right database, or correct DATA_DIR or INSTALL_ID",
            )
        if len(agreed := known or named) == 1:
            return agreed.pop()
        raise ConfigInvalid(
            "neither install.json nor the database says which install this is",
            remedy="set INSTALL_ID to the id that the first start printed; where that is lost too, to any new UUID",
        )

    async def _require_alone(self, uow: UnitOfWork) -> None:
        if live := await uow.instances.live():
            names = ", ".join(str(each) for each in live)
            raise InUse(
                f"{names} is live, and a reset takes its keys away",
                remedy="end it; one that was killed counts as live for 15 seconds",
            )

    async def _unused(self, uow: UnitOfWork, rows: Mapping[str, str], remembered: RememberedInstall | None) -> _Unused:
        """Beyond what any row, any envelope or this machine has seen of any key."""
        texts = rows.values()
        versions = [int(each) for value in texts for each in _VERSION.findall(value)]
        versions += [number for column in ENCRYPTED_COLUMNS for number in await uow.encrypted_rows.counts(column)]
        epochs = [int(each) for value in texts for each in _EPOCH.findall(value)]
        trusted = max(remembered.epochs.values(), default=0) if remembered else 0
        return _Unused(version=1 + _highest(versions), epoch=1 + max(_highest(epochs), trusted))

    async def _lost_credentials(self, uow: UnitOfWork, opening: Sequence[int]) -> list[LostCredential]:
        lost: list[LostCredential] = []
        async for records in pages(lambda after: uow.credentials.page(after=after, limit=_PAGE)):
            live = (each for each in records if each.deleted_at is None)
            lost += [await self._lost(uow, each) for each in live if each.key_version not in opening]
        return sorted(lost, key=lambda each: (each.owner_kind, each.owner, each.provider, each.label))

    async def _lost_factors(self, uow: UnitOfWork, opening: Sequence[int]) -> list[str]:
        users = [await uow.users.get(each) for each in await uow.factors.encrypted_by_others(opening)]
        return sorted(each.username for each in users if each is not None)

    async def _lost(self, uow: UnitOfWork, record: CredentialRecord) -> LostCredential:
        user = await uow.users.get(record.owner.id) if record.owner.kind is OwnerKind.USER else None
        return LostCredential(
            id=record.id,
            owner_kind=record.owner.kind,
            owner=user.username if user else record.owner.id,
            provider=record.provider,
            label=record.label,
        )

    # -- what there will be --------------------------------------------------------------------------------------------

    def _master_key(self, rows: Mapping[str, str], install_id: str) -> tuple[SecretBytes, Sequence[Path]]:
        """The master key that goes on: the one that is given, or a new default file where a start may make one."""
        given = self._source.given()
        may_create = self._rules.environment.may_create_master_key
        stays = not self._source.in_default_file or not may_create or self._reader.recognises_any_row(rows, install_id)
        return (given[0], ()) if given and stays else self._source.start_over(self._clock.now())

    def _keyset(
        self,
        name: KeyName,
        install_id: str,
        wrapping: KeyWrapping,
        unused: _Unused,
        recovered: tuple[Keyset, Mapping[int, SecretBytes]] | None,
    ) -> Keyset:
        """A new primary, added to the recovered versions: the damaged rows may have held an older primary."""
        now = self._clock.now()
        material = self._writer.first_material(name, recovered[0] if recovered else ())
        version = self._writer.new_version(name, unused.version, material, install_id=install_id, wrapping=wrapping)
        if recovered is None:
            primary = version.become(KeyState.ACTIVE, now)
            return replace(Keyset.first(name, install_id, primary), epoch=unused.epoch)
        keyset, materials = recovered
        keyset = keyset.rewrapped(
            {
                number: wrapping.wrap(each, install_id=install_id, name=name, version=number)
                for number, each in materials.items()
            }
        )
        return replace(keyset.add(version).promote(unused.version, now), epoch=unused.epoch)

    async def _queue_what_follows(self, uow: UnitOfWork, keysets: Mapping[KeyName, Keyset]) -> None:
        """Queue the re-encryption of rows that still open and the recomputing of fingerprints, as after a promotion."""
        for name in (KeyName.AES_KEY, KeyName.API_SECRET_KEY):
            payload = {"name": name.value, "action": "reset"}
            cursor = RotationState.of_primary(keysets[name]).to_json()
            await uow.jobs.add(self._jobs.new(JobKind.KEY_ROTATION, payload, step=Step.PROMOTED, cursor=cursor))


def _highest(numbers: Sequence[int]) -> int:
    return max((each for each in numbers if each < _PLAUSIBLE), default=0)
