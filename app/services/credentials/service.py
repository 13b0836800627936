"""Credentials: stored, shown as a mask, used, and revealed only to their owner and only after the audit row committed.

Every method authorises by the row itself: a credential that is not the actor's does not exist for them (NotFound), and
the refusal leaves a row in the audit trail. Writes swap on the row's version, so no update is lost.

A little longer than 400 lines, because it is the one interface of its family; access, history, lists, use and health
have modules of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final

from app.domain.audit import Action
from app.domain.credentials import (
    HISTORY_KEPT,
    QUOTA,
    CredentialRecord,
    CredentialView,
    Owner,
    OwnerKind,
    label_name,
    provider_name,
    require_label_without,
    secret_value,
)
from app.domain.errors import (
    AlreadyExists,
    CredentialUnreadable,
    Forbidden,
    NotFound,
    UniqueViolation,
    VersionConflict,
)
from app.domain.identity import Actor, Permission, Source, snowflake
from app.domain.keys import KeyName
from app.domain.providers import recognised
from app.domain.scopes import Scope
from app.domain.secrets import SecretText
from app.domain.times import expiry
from app.services.alive import as_now, require_seen_alive
from app.services.credentials.access import (
    CredentialAccess,
    Reach,
    manages,
    only_sharer,
    own,
    reach,
    restorable,
    set_removed,
)
from app.services.credentials.cipher import CredentialCipher
from app.services.credentials.guilds import GuildCredentials
from app.services.credentials.health import CredentialHealth
from app.services.credentials.history import CredentialHistory
from app.services.credentials.lists import CredentialLists
from app.services.credentials.overview import CredentialOverview
from app.services.credentials.storing import CredentialStoring, NewCredential, quota_exceeded
from app.services.credentials.use import CredentialUse
from app.services.credentials.values import (
    UNSET,
    Added,
    CredentialDetail,
    EnvironmentCredentials,
    HistoryView,
    Replaced,
    Unset,
    UsableCredential,
)
from app.services.idempotency import Idempotency, RepeatableRequest
from app.services.keys import KeyManagementService
from app.services.paging import Page, page_size, paged, read_cursor
from app.services.ports import Clock, Randomness, Storage, UnitOfWork
from app.services.refusals import Refusals

_SWAPS: Final = 20
"""How often a change that expects no version is tried again when another change was faster."""


class CredentialService:
    """Everything that people and programs do with credentials.

    ``health`` has everything that checks them, ``overview`` a person's own at a glance, ``guilds`` those that
    are shared with a server, ``lists`` those that people choose from.

    Every method may raise StorageError and NotReady. Ids that are unknown, or not the actor's, raise NotFound.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        cipher: CredentialCipher,
        idempotency: Idempotency,
        environment: EnvironmentCredentials,
        refusals: Refusals,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._cipher = cipher
        self._idempotency = idempotency
        self._clock = clock
        self._randomness = randomness
        self._access = CredentialAccess(storage=storage, cipher=cipher, refusals=refusals, clock=clock)
        self._history = CredentialHistory(
            storage=storage, access=self._access, cipher=cipher, clock=clock, randomness=randomness
        )
        self.health: Final = CredentialHealth(storage=storage, access=self._access, cipher=cipher, clock=clock)
        self.overview: Final = CredentialOverview(storage=storage, access=self._access, clock=clock)
        self.guilds: Final = GuildCredentials(storage=storage, access=self._access)
        self.lists: Final = CredentialLists(storage=storage, access=self._access, clock=clock)
        self._storing = CredentialStoring(cipher=cipher, clock=clock)
        self._use = CredentialUse(storage=storage, access=self._access, environment=environment, clock=clock)

    # -- storing -------------------------------------------------------------------------------------------------------

    async def add(
        self,
        actor: Actor,
        *,
        provider: str,
        label: str,
        secret: str,
        expires_at: datetime | None = None,
        guild_id: str | None = None,
        idempotency_key: str | None = None,
        recognise: bool = False,
    ) -> Added:
        """Store a credential of the actor, or of a guild that the actor manages.

        With ``recognise``, an empty provider is taken from the shape of the key, and one that disagrees is refused.
        A request repeated under the same ``idempotency_key`` stores nothing and returns the first one's credential.
        Raises InvalidInput, Forbidden, AlreadyExists, QuotaExceeded, IdempotencyConflict.
        """
        actor.require_scope(Scope.CREDENTIALS_WRITE)
        label, secret = label_name(label), secret_value(secret)
        provider = provider_name(recognised(provider, secret) if recognise else provider)
        require_label_without(secret, label)
        owner = await self._new_owner(actor, guild_id)
        request = None
        if idempotency_key is not None:
            texts = (
                "credentials.add",
                owner.kind.value,
                owner.id,
                provider,
                label,
                SecretText(secret),
                _stated(expires_at),
            )
            request = RepeatableRequest(user_id=actor.user_id, key=idempotency_key, texts=texts)
        if request and (replayed := await self._replayed(actor, request)):
            return replayed
        new = NewCredential(
            id=self._randomness.new_id(),
            owner=owner,
            created_by=actor.user_id,
            provider=provider,
            label=label,
            expires_at=expiry(expires_at, self._clock.now()),
        )
        try:
            async with self._storage.write() as uow:
                if owner.kind is OwnerKind.GUILD and not manages(await as_now(uow, actor, self._clock.now()), owner.id):
                    raise Forbidden
                if not await self._storing.make_room(uow, owner):
                    raise quota_exceeded()
                ring = await self._keys.ring_under_lock(uow)
                record = await self._storing.add(uow, actor, new, secret, ring)
                if request:
                    await self._idempotency.remember(uow, request, ring.primary(KeyName.API_SECRET_KEY), new.id)
        except UniqueViolation:
            # Either the label is taken, or the same request arrived twice at once and the other one was faster.
            if request and (replayed := await self._replayed(actor, request)):
                return replayed
            raise _taken() from None
        return Added(view=await self._access.read_back(record, secret), replayed=False)

    async def check_add(
        self, actor: Actor, *, provider: str | None = None, label: str | None = None, guild_id: str | None = None
    ) -> None:
        """Raise what ``add`` would for lack of rights or room, or for a taken label: before anything is typed."""
        actor.require_scope(Scope.CREDENTIALS_WRITE)
        owner = await self._new_owner(actor, guild_id)
        async with self._storage.lookup() as uow:
            if await uow.credentials.count(owner) >= QUOTA:
                raise quota_exceeded()
            if provider and label and await uow.credentials.of_owner(owner, provider=provider, label=label, limit=1):
                raise _taken()

    async def _new_owner(self, actor: Actor, guild_id: str | None) -> Owner:
        guild_id = actor.bound_to if guild_id is None else guild_id
        if guild_id is None:
            actor.require(Permission.USE_OWN_CREDENTIALS)
            return own(actor)
        guild_id = snowflake(guild_id, "guild_id")
        if not manages(actor, guild_id):
            await self._access.deny(actor, Action.CREDENTIAL_ADDED, ("guild", guild_id))
            raise Forbidden().as_recorded()
        return Owner(OwnerKind.GUILD, guild_id)

    async def _replayed(self, actor: Actor, request: RepeatableRequest) -> Added | None:
        async with self._storage.lookup() as uow:
            credential_id = await self._idempotency.earlier(uow, request)
            record = await uow.credentials.get(credential_id) if credential_id else None
        if credential_id is None:
            return None
        if record is None or reach(actor, record) is Reach.NOTHING:
            raise NotFound
        return Added(view=await self._access.view(record), replayed=True)

    async def replace(
        self,
        actor: Actor,
        credential_id: str,
        secret: str,
        *,
        expected_version: int | None = None,
        expires_at: datetime | Unset | None = UNSET,
        idempotency_key: str | None = None,
    ) -> Replaced:
        """Store a new secret; the former one goes to the history. The secret in force, given again, changes nothing.

        The expiry is kept unless one is given or it has passed. A request repeated under the same ``idempotency_key``
        stores nothing and returns the credential. Raises InvalidInput, VersionConflict, IdempotencyConflict.
        """
        actor.require_scope(Scope.CREDENTIALS_WRITE)
        secret = secret_value(secret)
        wanted = expires_at if isinstance(expires_at, Unset) else expiry(expires_at, self._clock.now())
        request = None
        if idempotency_key is not None:
            texts = ("credentials.replace", credential_id, SecretText(secret), _stated(expires_at))
            request = RepeatableRequest(user_id=actor.user_id, key=idempotency_key, texts=texts)
        if request and (replayed := await self._replayed(actor, request)):
            return Replaced(view=replayed.view, new_secret=True, new_expiry=False)

        before: CredentialRecord | None = None

        async def put(uow: UnitOfWork, record: CredentialRecord) -> CredentialRecord | None:
            nonlocal before
            before = record
            ring = await self._keys.ring_under_lock(uow)
            after = await self._history.replace(uow, record, secret, wanted, ring)
            if request and after is not None and after.version != record.version:
                await self._idempotency.remember(uow, request, ring.primary(KeyName.API_SECRET_KEY), credential_id)
            return after

        try:
            after = await self._edit(actor, credential_id, Action.CREDENTIAL_REPLACED, expected_version, put)
        except (AlreadyExists, VersionConflict):
            # The same request arrived twice at once, and the other one was faster.
            if request and (replayed := await self._replayed(actor, request)):
                return Replaced(view=replayed.view, new_secret=True, new_expiry=False)
            raise
        return await self._replaced(before, after, secret)

    async def rollback(
        self,
        actor: Actor,
        credential_id: str,
        *,
        version: int | None = None,
        expected_version: int | None = None,
    ) -> Replaced:
        """Put a former secret back in force: that of ``version``, or the latest; the present one goes to the history.

        The expiry is kept unless it has passed. Raises NotFound where there is no such secret, InvalidInput where it is
        in force, CredentialUnreadable where it does not decrypt, VersionConflict.
        """
        secret = ""

        before: CredentialRecord | None = None

        async def put(uow: UnitOfWork, record: CredentialRecord) -> CredentialRecord | None:
            nonlocal before
            before = record
            nonlocal secret
            ring = await self._keys.ring_under_lock(uow)  # first, so that the former secret's key version is loaded
            secret = await self._history.former(uow, record, version)
            return await self._history.replace(uow, record, secret, UNSET, ring)

        after = await self._edit(actor, credential_id, Action.CREDENTIAL_ROLLED_BACK, expected_version, put)
        return await self._replaced(before, after, secret)

    async def _replaced(self, before: CredentialRecord | None, after: CredentialRecord, secret: str) -> Replaced:
        view = await self._access.read_back(after, secret)
        same = before is not None and before.encrypted_value == after.encrypted_value
        return Replaced(view=view, new_secret=not same, new_expiry=same and after is not before)

    # -- changing ------------------------------------------------------------------------------------------------------

    async def change(
        self,
        actor: Actor,
        credential_id: str,
        *,
        label: str | Unset = UNSET,
        expires_at: datetime | Unset | None = UNSET,
        expected_version: int | None = None,
    ) -> CredentialView:
        """Relabel, or set or clear the expiry. Raises InvalidInput, AlreadyExists, VersionConflict."""
        actor.require_scope(Scope.CREDENTIALS_WRITE)
        now = self._clock.now()
        new_label = label if isinstance(label, Unset) else label_name(label)
        new_expiry = expires_at if isinstance(expires_at, Unset) else expiry(expires_at, now)

        async def relabel(uow: UnitOfWork, record: CredentialRecord) -> CredentialRecord | None:
            if not isinstance(new_label, Unset):
                await self._history.require_label_without_secrets(uow, record, new_label)
            changed = dataclasses.replace(
                record,
                label=record.label if isinstance(new_label, Unset) else new_label,
                expires_at=record.expires_at if isinstance(new_expiry, Unset) else new_expiry,
                version=record.version + 1,
                updated_at=now,
            )
            swapped = await uow.credentials.change(
                record.id,
                expected_version=record.version,
                label=changed.label,
                expires_at=changed.expires_at,
                at=now,
            )
            return changed if swapped else None

        record = await self._edit(actor, credential_id, Action.CREDENTIAL_CHANGED, expected_version, relabel)
        return await self._access.changed_view(record)

    async def remove(self, actor: Actor, credential_id: str, *, expected_version: int | None = None) -> None:
        """Remove a credential; within 7 days ``restore`` brings it back. Raises VersionConflict.

        Where the expected version was removed already, there is nothing left to do.
        """

        async def take_away(uow: UnitOfWork, record: CredentialRecord) -> CredentialRecord | None:
            return await set_removed(uow, record, self._clock.now(), removed=True)

        action = Action.CREDENTIAL_REMOVED
        try:
            await self._edit(actor, credential_id, action, expected_version, take_away)
        except NotFound:
            if await self._repeated(actor, credential_id, action, expected_version, removed=True) is None:
                raise

    async def restore(self, actor: Actor, credential_id: str, *, expected_version: int | None = None) -> CredentialView:
        """Restore a removed credential. Raises NotFound after 7 days, AlreadyExists where its label is taken now.

        Where the expected version was restored already, there is nothing left to do. Raises VersionConflict.
        """

        async def bring_back(uow: UnitOfWork, record: CredentialRecord) -> CredentialRecord | None:
            now = self._clock.now()
            if not restorable(record, now):
                raise NotFound
            return await set_removed(uow, record, now, removed=False)

        action = Action.CREDENTIAL_RESTORED
        try:
            record = await self._edit(actor, credential_id, action, expected_version, bring_back, removed=True)
        except NotFound:
            repeated = await self._repeated(actor, credential_id, action, expected_version, removed=False)
            if repeated is None:
                raise
            record = repeated
        return await self._access.changed_view(record)

    async def _repeated(
        self, actor: Actor, credential_id: str, action: Action, version: int | None, *, removed: bool
    ) -> CredentialRecord | None:
        """The credential, if it is as this change of this version has left it: the request came twice."""
        if version is None:
            return None
        record = await self._access.find(actor, credential_id, action, removed=removed)
        return record if record.version == version + 1 else None

    async def purge(self, actor: Actor, credential_id: str, *, expected_version: int | None = None) -> None:
        """Delete a removed credential and its history for good; its place in the quota is free at once.

        Raises VersionConflict.
        """

        async def delete(uow: UnitOfWork, record: CredentialRecord) -> CredentialRecord | None:
            # Alone of the changes it cannot be taken back, so it is not left to how the request was admitted.
            if reach(await as_now(uow, actor, self._clock.now()), record) is Reach.NOTHING:
                raise NotFound
            purged = await uow.credentials.purge(record.id, expected_version=record.version)
            return dataclasses.replace(record) if purged else None

        await self._edit(actor, credential_id, Action.CREDENTIAL_PURGED, expected_version, delete, removed=True)

    async def _edit(
        self,
        actor: Actor,
        credential_id: str,
        action: Action,
        expected_version: int | None,
        swap: Callable[[UnitOfWork, CredentialRecord], Awaitable[CredentialRecord | None]],
        *,
        removed: bool = False,
    ) -> CredentialRecord:
        """Swap on the version, with the audit row in the same unit of work; return the record as it was stored.

        ``swap`` returns None where the version changed: then the record is read again, unless a version was expected;
        and the very record that it got where there was nothing to change.
        """
        actor.require_scope(Scope.CREDENTIALS_WRITE)
        for _ in range(_SWAPS):
            record = await self._access.find(actor, credential_id, action, removed=removed)
            if expected_version not in {None, record.version}:
                break
            try:
                async with self._storage.write() as uow:
                    changed = await swap(uow, record)
                    if changed is not None:
                        if changed is not record:
                            await self._access.record(uow, actor, _as_done(action, record, changed), changed)
                        return changed
            except UniqueViolation:
                raise _taken() from None
        raise VersionConflict

    # -- reading -------------------------------------------------------------------------------------------------------

    async def page(
        self,
        actor: Actor,
        *,
        after: str | None = None,
        limit: int = 50,
        guild_id: str | None = None,
        removed: bool = False,
    ) -> Page[CredentialView]:
        """Return the actor's own credentials, or those of a guild that the actor manages or shared with.

        ``removed`` asks for the restorable ones. A page may hold fewer than ``limit`` items and not be the last. Raises
        InvalidInput.
        """
        actor.require_scope(Scope.CREDENTIALS_READ)
        owner = own(actor) if guild_id is None else Owner(OwnerKind.GUILD, snowflake(guild_id, "guild_id"))
        limit = page_size(limit)
        begin = read_cursor(after)
        async with self._storage.lookup(large=True) as uow:
            rows = await uow.credentials.of_owner(
                owner, removed=removed, created_by=only_sharer(actor, owner), after=begin, limit=limit + 1
            )
        page = paged(rows, limit, lambda record: record.id)
        now = self._clock.now()
        views = [
            await self._access.view(record)
            for record in page.items
            if reach(actor, record) and (not removed or restorable(record, now))
        ]
        return Page(views, page.next_cursor)

    async def get(self, actor: Actor, credential_id: str) -> CredentialView:
        """Return one credential, its secret as a mask."""
        actor.require_scope(Scope.CREDENTIALS_READ)
        return await self._access.show(actor, credential_id)

    async def detail(self, actor: Actor, credential_id: str) -> CredentialDetail:
        """Return one credential with its former secrets and its use; also a removed one, while it can be restored."""
        actor.require_scope(Scope.CREDENTIALS_READ)
        record = await self._access.find(actor, credential_id, Action.CREDENTIAL_READ, removed=None)
        if record.deleted_at is not None and not restorable(record, self._clock.now()):
            raise NotFound
        former = await self._history.page(record, after=None, limit=HISTORY_KEPT)
        return CredentialDetail(
            view=await self._access.view(record),
            history=former.items,
            usage=await self.overview.usage([record]),
            people=await self.overview.people(record) if reach(actor, record) is Reach.OWNS else [],
        )

    async def versions(
        self, actor: Actor, credential_id: str, *, after: str | None = None, limit: int = 50
    ) -> Page[HistoryView]:
        """Return its former secrets as masks, latest first, at most 20. Raises InvalidInput."""
        actor.require_scope(Scope.CREDENTIALS_READ)
        record = await self._access.find(actor, credential_id, Action.CREDENTIAL_READ)
        return await self._history.page(record, after=after, limit=limit)

    async def reveal(self, actor: Actor, credential_id: str) -> SecretText:
        """Return the plaintext to its owner or sharer. The audit row commits first; Discord is refused.

        An API token needs its scope and no fresh proof. Raises ReauthenticationRequired, Forbidden,
        CredentialUnreadable.
        """
        actor.require_fresh(self._clock.now(), scope=Scope.CREDENTIALS_REVEAL)
        if actor.client.source is Source.DISCORD:
            raise Forbidden
        known = await self._access.find(actor, credential_id, Action.CREDENTIAL_REVEALED, need=Reach.OWNS)
        async with self._storage.write() as uow:
            await require_seen_alive(uow, actor, self._clock.now())
            # Read in the unit of work of the audit row, so that the row describes exactly what is revealed.
            record = await uow.credentials.get(credential_id)
            if record is None or record.owner != known.owner or record.deleted_at is not None:
                raise NotFound
            await self._access.record(uow, actor, Action.CREDENTIAL_REVEALED, record)
        secret = await self._access.open(record)
        if secret is None:
            await self._access.record_failure(actor, Action.CREDENTIAL_REVEALED, record)
            raise CredentialUnreadable
        return SecretText(secret)

    # -- using ---------------------------------------------------------------------------------------------------------

    def use(
        self, actor: Actor, provider: str, label: str | None = None
    ) -> AbstractAsyncContextManager[UsableCredential]:
        """Give a block a credential: the environment's, else the member's, else the guild's (``paid_by`` says which).

        Without a label it is the one that was updated last; with a label, only stored credentials count. No transaction
        is open while the block runs; leaving it records whether it succeeded.

        Raises NoCredential, CredentialUnreadable.
        """
        return self._use.use(actor, provider, label)


def _stated(expires_at: datetime | Unset | None) -> str:
    """An expiry as a text of a repeatable request."""
    if isinstance(expires_at, Unset):
        return "as before"
    return "" if expires_at is None else expires_at.isoformat()


def _as_done(action: Action, before: CredentialRecord, after: CredentialRecord) -> Action:
    """The action that took place: a replacement by the secret in force has changed the expiry alone."""
    replacing = action in {Action.CREDENTIAL_REPLACED, Action.CREDENTIAL_ROLLED_BACK}
    return Action.CREDENTIAL_CHANGED if replacing and before.encrypted_value == after.encrypted_value else action


def _taken() -> AlreadyExists:
    return AlreadyExists("There is a credential of this provider with this label already")
