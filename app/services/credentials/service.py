"""Credentials: stored, shown as a mask, used, and revealed only to their owner and only after the audit row committed.

Every method authorises by the row itself: a credential that is not the actor's does not exist for them (NotFound), and
the refusal leaves a row in the audit trail. Writes swap on the row's version, so no update is lost.

A little longer than 400 lines, because it is the one interface of its family; access, history, use and health have
modules of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final

from app.domain.audit import Action
from app.domain.credentials import (
    QUOTA,
    CredentialRecord,
    CredentialView,
    Owner,
    OwnerKind,
    expiry,
    label_name,
    provider_name,
    secret_value,
)
from app.domain.errors import (
    AlreadyExists,
    CredentialUnreadable,
    Forbidden,
    NotFound,
    QuotaExceeded,
    StorageError,
    UniqueViolation,
    VersionConflict,
)
from app.domain.identity import Actor, Permission, Source, snowflake
from app.domain.keys import KeyName
from app.domain.secrets import SecretText
from app.services.credentials.access import (
    CredentialAccess,
    Reach,
    manages,
    only_sharer,
    own,
    reach,
    restorable,
    view_of,
)
from app.services.credentials.cipher import CredentialCipher
from app.services.credentials.health import CredentialHealth
from app.services.credentials.history import CredentialHistory
from app.services.credentials.use import CredentialUse
from app.services.credentials.values import (
    UNSET,
    Added,
    EnvironmentCredentials,
    HistoryView,
    LabelChoice,
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
    """Everything that people and programs do with credentials; ``health`` has everything that counts and checks them.

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
        self.health: Final = CredentialHealth(storage=storage, access=self._access, clock=clock)
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
    ) -> Added:
        """Store a credential of the actor, or of a guild that the actor manages.

        A request repeated under the same ``idempotency_key`` stores nothing and returns the first one's credential.
        Raises InvalidInput, Forbidden, AlreadyExists, QuotaExceeded, IdempotencyConflict.
        """
        provider, label, secret = provider_name(provider), label_name(label), secret_value(secret)
        owner = await self._new_owner(actor, guild_id)
        request = None
        if idempotency_key is not None:
            stated = expires_at.isoformat() if expires_at else ""
            texts = ("credentials.add", owner.kind.value, owner.id, provider, label, SecretText(secret), stated)
            request = RepeatableRequest(user_id=actor.user_id, key=idempotency_key, texts=texts)
        if request and (replayed := await self._replayed(actor, request)):
            return replayed
        now = self._clock.now()
        expires_at = expiry(expires_at, now)
        credential_id = self._randomness.new_id()
        try:
            async with self._storage.write() as uow:
                await uow.credentials.lock_owner(owner)
                await _require_present(uow, owner)
                if await uow.credentials.count(owner) >= QUOTA:
                    raise QuotaExceeded(f"At most {QUOTA} credentials, those removed within 7 days included")
                ring = await self._keys.ring_under_lock(uow)
                primary = ring.primary(KeyName.AES_KEY)
                record = CredentialRecord(
                    id=credential_id,
                    owner=owner,
                    provider=provider,
                    label=label,
                    encrypted_value=self._cipher.encrypt(secret, credential_id, owner, primary),
                    key_version=primary.version,
                    fingerprint=self._cipher.fingerprint(ring, secret),
                    created_by=actor.user_id,
                    created_at=now,
                    updated_at=now,
                    expires_at=expires_at,
                )
                await uow.credentials.add(record)
                if request:
                    await self._idempotency.remember(uow, request, ring.primary(KeyName.API_SECRET_KEY), credential_id)
                await self._access.record(uow, actor, Action.CREDENTIAL_ADDED, record)
        except UniqueViolation:
            # Either the label is taken, or the same request arrived twice at once and the other one was faster.
            if request and (replayed := await self._replayed(actor, request)):
                return replayed
            raise _taken() from None
        return Added(view=await self._read_back(credential_id, record.version, secret), replayed=False)

    async def _new_owner(self, actor: Actor, guild_id: str | None) -> Owner:
        if guild_id is None:
            actor.require(Permission.USE_OWN_CREDENTIALS)
            return own(actor)
        guild_id = snowflake(guild_id, "guild_id")
        if not manages(actor, guild_id):
            await self._access.deny(actor, Action.CREDENTIAL_ADDED, ("guild", guild_id))
            raise Forbidden().as_recorded()
        return Owner(OwnerKind.GUILD, guild_id)

    async def _replayed(self, actor: Actor, request: RepeatableRequest) -> Added | None:
        async with self._storage.read() as uow:
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
    ) -> CredentialView:
        """Store a new secret; the former one goes to the history.

        The expiry is kept unless one is given or it has passed. Raises InvalidInput, VersionConflict.
        """
        secret = secret_value(secret)
        wanted = expires_at if isinstance(expires_at, Unset) else expiry(expires_at, self._clock.now())

        async def put(uow: UnitOfWork, record: CredentialRecord) -> bool:
            return await self._history.replace(uow, record, secret, wanted, await self._keys.ring_under_lock(uow))

        record = await self._edit(actor, credential_id, Action.CREDENTIAL_REPLACED, expected_version, put)
        return await self._read_back(credential_id, record.version + 1, secret)

    async def rollback(
        self,
        actor: Actor,
        credential_id: str,
        *,
        version: int | None = None,
        expected_version: int | None = None,
    ) -> CredentialView:
        """Put a former secret back in force: that of ``version``, or the latest; the present one goes to the history.

        The expiry is kept unless it has passed. Raises NotFound where there is no such secret, InvalidInput where it is
        in force, CredentialUnreadable where it does not decrypt, VersionConflict.
        """
        secret = ""

        async def put(uow: UnitOfWork, record: CredentialRecord) -> bool:
            nonlocal secret
            ring = await self._keys.ring_under_lock(uow)  # first, so that the former secret's key version is loaded
            secret = await self._history.former(uow, record, version)
            return await self._history.replace(uow, record, secret, UNSET, ring)

        record = await self._edit(actor, credential_id, Action.CREDENTIAL_ROLLED_BACK, expected_version, put)
        return await self._read_back(credential_id, record.version + 1, secret)

    async def _read_back(self, credential_id: str, version: int, secret: str) -> CredentialView:
        """Read and decrypt the committed row. Raises StorageError where its secret is not the one that was stored."""
        async with self._storage.read() as uow:
            record = await uow.credentials.get(credential_id)
        opened = await self._access.open(record) if record else None
        # A later version was stored meanwhile by another request, which reads it back itself.
        if record is None or (record.version == version and opened != secret):
            raise StorageError("The stored credential does not read back: check the database's disk")
        return view_of(record, opened, self._clock.now())

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
        now = self._clock.now()
        new_label = label if isinstance(label, Unset) else label_name(label)
        new_expiry = expires_at if isinstance(expires_at, Unset) else expiry(expires_at, now)

        async def relabel(uow: UnitOfWork, record: CredentialRecord) -> bool:
            return await uow.credentials.change(
                record.id,
                expected_version=record.version,
                label=record.label if isinstance(new_label, Unset) else new_label,
                expires_at=record.expires_at if isinstance(new_expiry, Unset) else new_expiry,
                at=now,
            )

        await self._edit(actor, credential_id, Action.CREDENTIAL_CHANGED, expected_version, relabel)
        return await self.get(actor, credential_id)

    async def remove(self, actor: Actor, credential_id: str, *, expected_version: int | None = None) -> None:
        """Remove a credential; within 7 days ``restore`` brings it back. Raises VersionConflict."""

        async def set_removed(uow: UnitOfWork, record: CredentialRecord) -> bool:
            return await uow.credentials.set_removed(
                record.id, expected_version=record.version, at=self._clock.now(), removed=True
            )

        await self._edit(actor, credential_id, Action.CREDENTIAL_REMOVED, expected_version, set_removed)

    async def restore(self, actor: Actor, credential_id: str) -> CredentialView:
        """Restore a removed credential. Raises NotFound after 7 days, AlreadyExists where its label is taken now."""

        async def set_restored(uow: UnitOfWork, record: CredentialRecord) -> bool:
            now = self._clock.now()
            if not restorable(record, now):
                raise NotFound
            return await uow.credentials.set_removed(record.id, expected_version=record.version, at=now, removed=False)

        await self._edit(actor, credential_id, Action.CREDENTIAL_RESTORED, None, set_restored, removed=True)
        return await self.get(actor, credential_id)

    async def _edit(
        self,
        actor: Actor,
        credential_id: str,
        action: Action,
        expected_version: int | None,
        swap: Callable[[UnitOfWork, CredentialRecord], Awaitable[bool]],
        *,
        removed: bool = False,
    ) -> CredentialRecord:
        """Swap on the version, with the audit row in the same unit of work; return the record as it was before.

        ``swap`` returns False where the version changed: then the record is read again, unless a version was expected.
        """
        for _ in range(_SWAPS):
            record = await self._access.find(actor, credential_id, action, removed=removed)
            if expected_version not in {None, record.version}:
                break
            try:
                async with self._storage.write() as uow:
                    if await swap(uow, record):
                        await self._access.record(uow, actor, action, record)
                        return record
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
        owner = own(actor) if guild_id is None else Owner(OwnerKind.GUILD, snowflake(guild_id, "guild_id"))
        limit = page_size(limit)
        begin = read_cursor(after)
        async with self._storage.read() as uow:
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
        return await self._access.view(await self._access.find(actor, credential_id, Action.CREDENTIAL_READ))

    async def versions(
        self, actor: Actor, credential_id: str, *, after: str | None = None, limit: int = 50
    ) -> Page[HistoryView]:
        """Return its former secrets as masks, latest first, at most 20. Raises InvalidInput."""
        record = await self._access.find(actor, credential_id, Action.CREDENTIAL_READ)
        return await self._history.page(record, after=after, limit=limit)

    async def labels(self, actor: Actor, prefix: str, limit: int = 25) -> Sequence[LabelChoice]:
        """Suggest credentials whose label or provider begins with ``prefix``; in a guild also the guild's own."""
        owners = [own(actor)]
        if actor.guild is not None:
            owners.append(Owner(OwnerKind.GUILD, actor.guild.guild_id))
        begin = prefix.strip().casefold()
        async with self._storage.read() as uow:
            rows = [record for owner in owners for record in await uow.credentials.of_owner(owner, limit=QUOTA)]
        fitting = [
            LabelChoice.of(record)
            for record in rows
            if reach(actor, record) and (record.label.casefold().startswith(begin) or record.provider.startswith(begin))
        ]
        return sorted(fitting, key=lambda each: (each.shared, each.label.casefold(), each.provider))[: max(limit, 0)]

    async def reveal(self, actor: Actor, credential_id: str) -> SecretText:
        """Return the plaintext to its owner or sharer. The audit row commits first; Discord is refused.

        Raises ReauthenticationRequired, Forbidden, CredentialUnreadable.
        """
        actor.require_fresh(self._clock.now())
        if actor.client.source is Source.DISCORD:
            raise Forbidden
        known = await self._access.find(actor, credential_id, Action.CREDENTIAL_REVEALED, need=Reach.OWNS)
        async with self._storage.write() as uow:
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


def _taken() -> AlreadyExists:
    return AlreadyExists("There is a credential of this provider with this label already")


async def _require_present(uow: UnitOfWork, owner: Owner) -> None:
    """Refuse to store for an account that was joined to another, or disabled, since the request was authenticated."""
    if owner.kind is OwnerKind.USER:
        user = await uow.users.get(owner.id)
        if user is not None and user.disabled_at is not None:
            raise Forbidden("This account was disabled or joined to another: try again")
