"""The way to a credential's row: who may what with it, and what opening it shows.

What is not the actor's is not there (NotFound), and where it was there, the refusal leaves a row in the audit trail.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import datetime
from enum import IntEnum
from typing import Final

from app.domain.audit import Action, AuditEvent, Result
from app.domain.credentials import (
    RECOVERABLE_FOR,
    CredentialRecord,
    CredentialView,
    HistoryRecord,
    Owner,
    OwnerKind,
    Status,
    concern,
    expired,
    mask,
)
from app.domain.errors import CryptoError, NotFound, StorageError
from app.domain.identity import Actor, Permission
from app.services.audit import by, by_system
from app.services.credentials.cipher import CredentialCipher
from app.services.ports import Clock, Storage

log = logging.getLogger(__name__)

UNREADABLE_MASK: Final = "•" * 8
"""What stands where a mask would, when the stored bytes do not open."""
_ID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Reach(IntEnum):
    """What a row is to an actor. Whoever manages may change and remove, never read the secret."""

    NOTHING = 0
    MANAGES = 1
    OWNS = 2


def manages(actor: Actor, guild_id: str) -> bool:
    """Whether the actor manages that guild's credentials. From one guild, no other guild can be reached."""
    if actor.guild is not None:
        if actor.guild.guild_id != guild_id:
            return False
        if actor.guild.manages_guild:
            return True
    return actor.may(Permission.MANAGE_GUILD_CREDENTIALS)


def reach(actor: Actor, record: CredentialRecord) -> Reach:
    """What this row is to this actor."""
    if record.owner.kind is OwnerKind.USER:
        return Reach.OWNS if record.owner.id == actor.user_id else Reach.NOTHING
    if actor.guild is not None and actor.guild.guild_id != record.owner.id:
        return Reach.NOTHING
    if record.created_by == actor.user_id:
        return Reach.OWNS
    return Reach.MANAGES if manages(actor, record.owner.id) else Reach.NOTHING


def own(actor: Actor) -> Owner:
    """The actor as the owner of credentials."""
    return Owner(OwnerKind.USER, actor.user_id)


class CredentialAccess:
    """Finds, opens and records for one credential at a time; shared by everything that concerns credentials."""

    def __init__(self, *, storage: Storage, cipher: CredentialCipher, clock: Clock) -> None:
        self._storage = storage
        self._cipher = cipher
        self._clock = clock

    async def find(
        self,
        actor: Actor,
        credential_id: str,
        action: Action,
        *,
        need: Reach = Reach.MANAGES,
        removed: bool = False,
    ) -> CredentialRecord:
        """The record, if the actor may do this to it; a refusal is committed to the trail. Raises NotFound."""
        if _ID.fullmatch(credential_id) is None:  # nothing else reaches the cache or the database
            raise NotFound
        record = await self._storage.cached("credential", credential_id, lambda uow: uow.credentials.get(credential_id))
        if record is None:
            raise NotFound
        if reach(actor, record) < need:
            await self.deny(actor, action, ("credential", record.id))
            raise NotFound
        if (record.deleted_at is not None) is not removed:
            raise NotFound
        return record

    async def deny(self, actor: Actor, action: Action, about: tuple[str, str]) -> None:
        """Commit a refusal to the trail."""
        async with self._storage.write() as uow:
            await uow.audit.append(by(actor, action, self._clock.now(), about=about, result=Result.DENIED))

    async def record(self, actor: Actor, action: Action, record: CredentialRecord, result: Result) -> None:
        """Commit what became of it to the trail."""
        async with self._storage.write() as uow:
            await uow.audit.append(self.row(actor, action, record, result))

    def row(self, actor: Actor, action: Action, record: CredentialRecord, result: Result = Result.OK) -> AuditEvent:
        """The row of the trail, for a unit of work that is open already."""
        about = ("credential", record.id)
        return by(actor, action, self._clock.now(), about=about, result=result, provider=record.provider)

    async def view(self, record: CredentialRecord) -> CredentialView:
        """What is shown of it; a row that does not open is shown as unreadable."""
        secret = await self.open(record)
        if secret is None:
            await self.note_unreadable(record)
        return seen(record, secret, self._clock.now())

    async def readable(self, record: CredentialRecord) -> bool:
        """Whether it opens."""
        if await self.open(record) is not None:
            return True
        await self.note_unreadable(record)
        return False

    async def open(self, record: CredentialRecord) -> str | None:
        """The secret, or None where it does not open: one damaged row must not take the others with it."""
        return await self._open(lambda: self._cipher.decrypt(record))

    async def open_former(self, record: HistoryRecord, owner: Owner) -> str | None:
        """A former secret, or None where it does not open."""
        return await self._open(lambda: self._cipher.decrypt_former(record, owner))

    async def _open(self, attempt: Callable[[], str]) -> str | None:
        try:
            return attempt()
        except CryptoError:
            if not await self._cipher.refresh():
                return None
        try:
            return attempt()
        except CryptoError:
            return None

    async def note_unreadable(self, record: CredentialRecord) -> None:
        """Tell the trail and the log, once: the row's status remembers that they know."""
        if record.status is Status.UNREADABLE:
            return
        now = self._clock.now()
        try:
            async with self._storage.write() as uow:
                present = await uow.credentials.get(record.id)
                if present is None or present.status is Status.UNREADABLE or present.version != record.version:
                    return
                await uow.credentials.set_status(record.id, Status.UNREADABLE, now)
                await uow.audit.append(by_system(Action.CREDENTIAL_UNREADABLE, now, about=("credential", record.id)))
        except StorageError as error:  # whoever reads must not suffer from a disk that takes no writes
            log.warning("credential %s does not open, which could not be recorded: %s", record.id, error)
        else:
            log.warning("credential %s does not open with its key: its owner has to enter it again", record.id)


def seen(record: CredentialRecord, secret: str | None, now: datetime) -> CredentialView:
    """What is shown of a row whose secret is this; None where it does not open."""
    return CredentialView(
        id=record.id,
        owner=record.owner,
        provider=record.provider,
        label=record.label,
        masked=UNREADABLE_MASK if secret is None else mask(secret),
        version=record.version,
        status=_status(record, now, readable=secret is not None),
        fingerprint=record.fingerprint,
        created_at=record.created_at,
        updated_at=record.updated_at,
        expires_at=record.expires_at,
        last_used_at=record.last_used_at,
        last_verified_at=record.last_verified_at,
        deleted_at=record.deleted_at,
        secret_age_days=max((now - record.secret_since).days, 0),
        concern=concern(record, now),
    )


def _status(record: CredentialRecord, now: datetime, *, readable: bool) -> Status:
    """What opening and the clock say goes before what was stored."""
    if not readable:
        return Status.UNREADABLE
    if expired(record, now):
        return Status.EXPIRED
    return Status.UNCHECKED if record.status is Status.UNREADABLE else record.status


def restorable(record: CredentialRecord, now: datetime) -> bool:
    """Whether it was removed, and lately enough to be brought back."""
    return record.deleted_at is not None and now - record.deleted_at < RECOVERABLE_FOR
