"""Access to one credential: what the actor may do with it, and what decrypting it shows.

A credential that is not the actor's does not exist for them (NotFound); the refusal leaves a row in the audit trail.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Final

from app.domain.audit import Action, Result
from app.domain.credentials import (
    RECOVERABLE_FOR,
    Concern,
    CredentialRecord,
    CredentialView,
    HistoryRecord,
    Owner,
    OwnerKind,
    Status,
    concern,
    mask,
)
from app.domain.errors import CredentialUnreadable, NotFound, StorageError, with_cause
from app.domain.identity import Actor, Permission
from app.domain.keys import Manifest
from app.domain.second_factor import TotpFactor
from app.services.after_commit import follow_up
from app.services.audit import SYSTEM, AuditTrail
from app.services.credentials.cipher import CredentialCipher
from app.services.deadlines import regardless_of_deadline
from app.services.paging import pages
from app.services.ports import Clock, Storage, UnitOfWork
from app.services.refusals import Refusal, Refusals

log = logging.getLogger(__name__)

UNREADABLE_MASK: Final = "•" * 8
"""Shown instead of a mask when the stored bytes do not decrypt."""
_ID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Reach(IntEnum):
    """The rights of an actor over a row. MANAGES allows changing and removing, never reading the secret."""

    NOTHING = 0
    MANAGES = 1
    OWNS = 2


def manages(actor: Actor, guild_id: str) -> bool:
    """Whether the actor manages that guild's credentials. From one guild, no other guild can be reached."""
    if actor.bound_to not in {None, guild_id}:
        return False
    if actor.guild is not None:
        if actor.guild.guild_id != guild_id:
            return False
        if actor.guild.manages_guild:
            return True
    return actor.may(Permission.MANAGE_GUILD_CREDENTIALS)


def reach(actor: Actor, record: CredentialRecord) -> Reach:
    """Return what this actor may do with this row."""
    if actor.bound_to is not None and record.owner != Owner(OwnerKind.GUILD, actor.bound_to):
        return Reach.NOTHING
    if record.owner.kind is OwnerKind.USER:
        return Reach.OWNS if record.owner.id == actor.user_id else Reach.NOTHING
    if actor.guild is not None and actor.guild.guild_id != record.owner.id:
        return Reach.NOTHING
    if record.created_by == actor.user_id:
        return Reach.OWNS
    return Reach.MANAGES if manages(actor, record.owner.id) else Reach.NOTHING


def only_sharer(actor: Actor, owner: Owner) -> str | None:
    """The only sharer whose credentials the actor may see of that owner; None for all. Cursors must not leak others."""
    return None if owner.kind is OwnerKind.USER or manages(actor, owner.id) else actor.user_id


def own(actor: Actor) -> Owner:
    """Return the actor as an owner of credentials; one that is bound to a guild stands for that guild's alone."""
    if actor.bound_to is not None:
        return Owner(OwnerKind.GUILD, actor.bound_to)
    return Owner(OwnerKind.USER, actor.user_id)


@dataclass(slots=True)
class _Known:
    """A cached row and, once it was shown, its view: gone with the row, and not used under other keys."""

    record: CredentialRecord
    view: CredentialView | None = None
    opened_by: Manifest | None = None


class CredentialAccess:
    """Finds, decrypts and records for one credential at a time; shared by the classes of this package."""

    def __init__(self, *, storage: Storage, cipher: CredentialCipher, refusals: Refusals, clock: Clock) -> None:
        self._storage = storage
        self.refusals: Final = refusals
        self._cipher = cipher
        self._clock = clock
        self._trail = AuditTrail(clock)

    async def find(
        self,
        actor: Actor,
        credential_id: str,
        action: Action,
        *,
        need: Reach = Reach.MANAGES,
        removed: bool | None = False,
    ) -> CredentialRecord:
        """Return the record, if the actor may do this to it; a refusal is committed to the audit trail.

        ``removed`` says whether it must be a removed one; None takes either. Raises NotFound.
        """
        return (await self._find(actor, credential_id, action, need=need, removed=removed)).record

    async def show(self, actor: Actor, credential_id: str) -> CredentialView:
        """Return the view of a credential, if the actor may read it. Raises NotFound."""
        known = await self._find(actor, credential_id, Action.CREDENTIAL_READ)
        keys = self._cipher.keys()
        if known.view is not None and known.opened_by is keys:
            known.view = _as_of(self._clock.now(), known.view, known.record)
            return known.view
        view = await self.view(known.record)
        if view.status is not Status.UNREADABLE:
            known.view, known.opened_by = view, keys
        return view

    async def _find(
        self,
        actor: Actor,
        credential_id: str,
        action: Action,
        *,
        need: Reach = Reach.MANAGES,
        removed: bool | None = False,
    ) -> _Known:
        if _ID.fullmatch(credential_id) is None:  # malformed ids reach neither the cache nor the database
            raise NotFound

        async def load(uow: UnitOfWork) -> _Known | None:
            record = await uow.credentials.get(credential_id)
            return None if record is None else _Known(record)

        known = await self._storage.cached("credential", credential_id, load)
        if known is None:
            raise NotFound
        record = known.record
        if reach(actor, record) < need:
            await self.deny(actor, action, ("credential", record.id))
            raise NotFound
        if removed is not None and (record.deleted_at is not None) is not removed:
            raise NotFound
        return known

    async def deny(self, actor: Actor, action: Action, about: tuple[str, str]) -> None:
        """Record a refusal in the audit trail."""
        await self.refusals.record(Refusal(who=actor, action=action, about=about))

    async def record(
        self, uow: UnitOfWork, actor: Actor, action: Action, record: CredentialRecord, result: Result = Result.OK
    ) -> None:
        """Record in this unit of work what the actor did with the credential."""
        about = ("credential", record.id)
        await self._trail.record(uow, actor, action, about=about, result=result, provider=record.provider)

    async def record_failure(self, actor: Actor, action: Action, record: CredentialRecord) -> None:
        """Record an unreadable secret, and commit that the actor's action failed."""
        await self.note_unreadable(record)
        with regardless_of_deadline():
            async with self._storage.write() as uow:
                await self.record(uow, actor, action, record, Result.FAILED)

    async def view(self, record: CredentialRecord) -> CredentialView:
        """Return the view of a record; one that does not decrypt is shown, and recorded, as unreadable."""
        secret = await self.open(record)
        if secret is None:
            await self.note_unreadable(record)
        return view_of(record, secret, self._clock.now())

    async def changed_view(self, changed: CredentialRecord) -> CredentialView:
        """Return the view of a record whose change has committed; a secret that cannot be opened now stays hidden."""
        now = self._clock.now()
        hidden = view_of(changed, None, now)
        hidden = dataclasses.replace(hidden, status=_by_clock(changed, now)[0])
        return await follow_up(self.view(changed), hidden, f"the change of the credential {changed.id}")

    async def read_back(self, stored: CredentialRecord, secret: str) -> CredentialView:
        """Read and decrypt a row that has committed, if that is possible now, and return its view.

        Raises CredentialUnreadable where the row is not what was stored.
        """
        now = self._clock.now()
        return await follow_up(
            self._read_again(stored, secret, now), view_of(stored, secret, now), f"the new secret of {stored.id}"
        )

    async def _read_again(self, stored: CredentialRecord, secret: str, now: datetime) -> CredentialView:
        async with self._storage.lookup() as uow:
            record = await uow.credentials.get(stored.id)
        opened = await self.open(record) if record else None
        # A later version was stored meanwhile by another request, which reads it back itself.
        if record is None or (record.version == stored.version and opened != secret):
            raise CredentialUnreadable("The stored credential does not read back: check the database's disk")
        return view_of(record, opened, now)

    async def readable(self, record: CredentialRecord) -> bool:
        """Whether it decrypts; one that does not is recorded as unreadable."""
        if await self.open(record) is not None:
            return True
        await self.note_unreadable(record)
        return False

    async def open(self, record: CredentialRecord) -> str | None:
        """Return the secret, or None where it does not decrypt: one damaged row must not hide the others."""
        return await self._open(lambda: self._cipher.decrypt(record))

    async def open_former(self, record: HistoryRecord, owner: Owner) -> str | None:
        """Return a former secret, or None where it does not decrypt."""
        return await self._open(lambda: self._cipher.decrypt_former(record, owner))

    async def totp_readable(self, factor: TotpFactor) -> bool:
        """Whether the secret of an authenticator app decrypts."""
        return await self._cipher.open_totp(factor) is not None

    async def _open(self, attempt: Callable[[], str]) -> str | None:
        return await self._cipher.opened(attempt)

    async def note_unreadable(self, record: CredentialRecord) -> None:
        """Record once, in the audit trail and the log, that a credential is unreadable; its status prevents repeats."""
        if record.status is Status.UNREADABLE:
            return
        try:
            with regardless_of_deadline():
                if not await self._mark_unreadable(record):
                    return
        except StorageError as error:  # a reader must not suffer from a disk that takes no writes
            log.warning("credential %s does not decrypt, which could not be recorded: %s", record.id, with_cause(error))
        else:
            log.warning("credential %s does not decrypt with its key: its owner has to enter it again", record.id)

    async def _mark_unreadable(self, record: CredentialRecord) -> bool:
        async with self._storage.write() as uow:
            present = await uow.credentials.get(record.id)
            if present is None or present.status is Status.UNREADABLE or present.version != record.version:
                return False
            await uow.credentials.set_status(record.id, Status.UNREADABLE, self._clock.now())
            await self._trail.record(uow, SYSTEM, Action.CREDENTIAL_UNREADABLE, about=("credential", record.id))
        return True


def view_of(record: CredentialRecord, secret: str | None, now: datetime) -> CredentialView:
    """Return the view of a record with that secret; None where it does not decrypt."""
    status, age, why = _by_clock(record, now)
    return CredentialView(
        id=record.id,
        owner=record.owner,
        provider=record.provider,
        label=record.label,
        masked=UNREADABLE_MASK if secret is None else mask(secret),
        version=record.version,
        status=Status.UNREADABLE if secret is None else status,
        fingerprint=record.fingerprint,
        created_at=record.created_at,
        updated_at=record.updated_at,
        expires_at=record.expires_at,
        last_used_at=record.last_used_at,
        last_verified_at=record.last_verified_at,
        deleted_at=record.deleted_at,
        secret_age_days=age,
        concern=why,
        sharer_id=record.created_by if record.owner.kind is OwnerKind.GUILD else None,
    )


def _as_of(now: datetime, view: CredentialView, record: CredentialRecord) -> CredentialView:
    """Return the earlier view of a record that decrypts as it is now: the same where the clock changes nothing."""
    by_clock = _by_clock(record, now)
    if by_clock == (view.status, view.secret_age_days, view.concern):
        return view
    status, age, why = by_clock
    return dataclasses.replace(view, status=status, secret_age_days=age, concern=why)


def _by_clock(record: CredentialRecord, now: datetime) -> tuple[Status, int, Concern | None]:
    """Return what the clock decides of a view: the status of a secret that decrypts, its age, and the concern."""
    why = concern(record, now)
    status = Status.UNCHECKED if record.status is Status.UNREADABLE else record.status
    if why is Concern.EXPIRED:
        status = Status.EXPIRED
    return status, max((now - record.secret_since).days, 0), why


async def live_of(storage: Storage, owner: Owner) -> Sequence[CredentialRecord]:
    """An owner's live credentials, which a quota limits."""

    async def fetch(after: str | None) -> Sequence[CredentialRecord]:
        async with storage.read() as uow:
            return await uow.credentials.of_owner(owner, after=after)

    return [record async for page in pages(fetch) for record in page]


async def set_removed(
    uow: UnitOfWork, record: CredentialRecord, at: datetime, *, removed: bool
) -> CredentialRecord | None:
    """Remove or restore; return the record as it is then, None where its version changed."""
    if not await uow.credentials.set_removed(record.id, expected_version=record.version, at=at, removed=removed):
        return None
    deleted_at = at if removed else None
    return dataclasses.replace(record, version=record.version + 1, updated_at=at, deleted_at=deleted_at)


def restorable(record: CredentialRecord, now: datetime) -> bool:
    """Whether it was removed, and recently enough to be restored."""
    return record.deleted_at is not None and now - record.deleted_at < RECOVERABLE_FOR
