"""Credentials: kept, shown as a mask, used, and revealed only to whom they belong and only after the trail knows.

Every method authorises by the row itself: what is not the actor's is not there (NotFound), and where it was there the
refusal leaves a row in the audit trail. Writes swap on the row's version, so no update is lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Final

from app.domain.audit import Action, Result
from app.domain.credentials import (
    QUOTA,
    CredentialRecord,
    CredentialView,
    Owner,
    OwnerKind,
    expired,
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
from app.domain.secrets import SecretText
from app.services.credentials.access import CredentialAccess, Reach, manages, own, reach, restorable, seen
from app.services.credentials.cipher import CredentialCipher
from app.services.credentials.health import CredentialHealth
from app.services.credentials.history import CredentialHistory
from app.services.credentials.transfer import CredentialTransfer
from app.services.credentials.use import CredentialUse
from app.services.credentials.values import (
    UNSET,
    Added,
    EnvironmentCredentials,
    HealthReport,
    HistoryView,
    LabelChoice,
    Standing,
    Unset,
    UsableCredential,
    Verdict,
)
from app.services.idempotency import Idempotency
from app.services.idempotency import idempotency_key as idempotency_key_text
from app.services.keys import Primary
from app.services.paging import Page, page_size, paged, read_cursor
from app.services.ports import Clock, Randomness, Storage, UnitOfWork

_SWAPS: Final = 20
"""How often a change that expects no version is tried again when somebody else was faster."""


class CredentialService:
    """Everything that people and programs do with credentials.

    Every method may raise StorageError and NotReady. Ids that are not there, or not the actor's, raise NotFound.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        cipher: CredentialCipher,
        idempotency: Idempotency,
        environment: EnvironmentCredentials,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._storage = storage
        self._cipher = cipher
        self._idempotency = idempotency
        self._clock = clock
        self._randomness = randomness
        self._access = CredentialAccess(storage=storage, cipher=cipher, clock=clock)
        self._history = CredentialHistory(storage=storage, access=self._access, cipher=cipher, randomness=randomness)
        self._health = CredentialHealth(storage=storage, access=self._access, clock=clock)
        self._moving = CredentialTransfer(cipher=cipher, clock=clock)
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

        The same request under the same ``idempotency_key`` stores nothing again and gives what it stored, as it is now.
        Raises InvalidInput, Forbidden, AlreadyExists, QuotaExceeded, IdempotencyConflict.
        """
        provider, label, secret = provider_name(provider), label_name(label), secret_value(secret)
        owner = await self._new_owner(actor, guild_id)
        key = idempotency_key_text(idempotency_key)
        stated = expires_at.isoformat() if expires_at else ""
        texts = ("credentials.add", owner.kind.value, owner.id, provider, label, secret, stated)
        parts = [text.encode() for text in texts]
        if key is not None and (replayed := await self._replayed(actor, key, parts)):
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
                primary = await self._cipher.primary(uow)
                record = CredentialRecord(
                    id=credential_id,
                    owner=owner,
                    provider=provider,
                    label=label,
                    encrypted_value=self._cipher.encrypt(secret, credential_id, owner, primary),
                    key_version=primary.version,
                    fingerprint=await self._cipher.fingerprint(uow, secret),
                    created_by=actor.user_id,
                    created_at=now,
                    updated_at=now,
                    expires_at=expires_at,
                )
                await uow.credentials.add(record)
                if key is not None:
                    await self._idempotency.remember(uow, actor.user_id, key, parts, credential_id)
                await uow.audit.append(self._access.row(actor, Action.CREDENTIAL_ADDED, record))
        except UniqueViolation:
            # Either the label is taken, or the same request arrived twice at once and the other one was faster.
            if key is not None and (replayed := await self._replayed(actor, key, parts)):
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
            raise Forbidden
        return Owner(OwnerKind.GUILD, guild_id)

    async def _replayed(self, actor: Actor, key: str, parts: Sequence[bytes]) -> Added | None:
        async with self._storage.read() as uow:
            credential_id = await self._idempotency.earlier(uow, actor.user_id, key, parts)
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
        """A new secret; the former one goes to the history. An expiry is kept unless it is given or has passed.

        Raises InvalidInput, VersionConflict.
        """
        secret = secret_value(secret)
        wanted = expires_at if isinstance(expires_at, Unset) else expiry(expires_at, self._clock.now())

        async def put(uow: UnitOfWork, record: CredentialRecord) -> bool:
            return await self._put_secret(uow, record, secret, wanted, await self._cipher.primary(uow))

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

        An expiry is kept unless it has passed. Raises NotFound where there is no such secret, InvalidInput where it is
        in force, CredentialUnreadable where it does not open, VersionConflict.
        """
        secret = ""

        async def put(uow: UnitOfWork, record: CredentialRecord) -> bool:
            nonlocal secret
            primary = await self._cipher.primary(uow)  # takes up a keyset that moved, so that every version opens
            secret = await self._history.former(uow, record, version)
            return await self._put_secret(uow, record, secret, UNSET, primary)

        record = await self._edit(actor, credential_id, Action.CREDENTIAL_ROLLED_BACK, expected_version, put)
        return await self._read_back(credential_id, record.version + 1, secret)

    async def _put_secret(
        self,
        uow: UnitOfWork,
        record: CredentialRecord,
        secret: str,
        expires_at: datetime | Unset | None,
        primary: Primary,
    ) -> bool:
        now = self._clock.now()
        if isinstance(expires_at, Unset):  # an expiry that has passed was the former secret's
            expires_at = None if expired(record, now) else record.expires_at
        swapped = await uow.credentials.replace(
            record.id,
            expected_version=record.version,
            encrypted_value=self._cipher.encrypt(secret, record.id, record.owner, primary),
            key_version=primary.version,
            fingerprint=await self._cipher.fingerprint(uow, secret),
            expires_at=expires_at,
            at=now,
        )
        if swapped:
            await self._history.keep(uow, record, primary, successor=secret, now=now)
        return swapped

    async def _read_back(self, credential_id: str, version: int, secret: str) -> CredentialView:
        """What was just committed, read again and opened. Raises StorageError where it is not what was stored."""
        async with self._storage.read() as uow:
            record = await uow.credentials.get(credential_id)
        opened = await self._access.open(record) if record else None
        # A later version is somebody else's, stored in the meantime: theirs to read back.
        if record is None or (record.version == version and opened != secret):
            raise StorageError("What was just stored does not read back: check the database's disk")
        return seen(record, opened, self._clock.now())

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
        """Take a credential away; within 7 days ``restore`` brings it back. Raises VersionConflict."""

        async def take_away(uow: UnitOfWork, record: CredentialRecord) -> bool:
            return await uow.credentials.set_removed(
                record.id, expected_version=record.version, at=self._clock.now(), removed=True
            )

        await self._edit(actor, credential_id, Action.CREDENTIAL_REMOVED, expected_version, take_away)

    async def restore(self, actor: Actor, credential_id: str) -> CredentialView:
        """Bring a removed credential back. Raises NotFound after 7 days, AlreadyExists where its label was taken."""

        async def bring_back(uow: UnitOfWork, record: CredentialRecord) -> bool:
            now = self._clock.now()
            if not restorable(record, now):
                raise NotFound
            return await uow.credentials.set_removed(record.id, expected_version=record.version, at=now, removed=False)

        await self._edit(actor, credential_id, Action.CREDENTIAL_RESTORED, None, bring_back, removed=True)
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
        """Swap on the version, with the audit row in the same unit of work; the record as it was before.

        ``swap`` answers False where the version moved: then all is read again, unless a version was expected.
        """
        for _ in range(_SWAPS):
            record = await self._access.find(actor, credential_id, action, removed=removed)
            if expected_version not in {None, record.version}:
                break
            try:
                async with self._storage.write() as uow:
                    if await swap(uow, record):
                        await uow.audit.append(self._access.row(actor, action, record))
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
        """The actor's own credentials, or those of a guild that the actor manages or shared; or the restorable ones.

        A page may hold fewer than ``limit`` items and not be the last. Raises InvalidInput.
        """
        owner = own(actor) if guild_id is None else Owner(OwnerKind.GUILD, snowflake(guild_id, "guild_id"))
        limit = page_size(limit)
        begin = read_cursor(after)
        async with self._storage.read() as uow:
            rows = await uow.credentials.of_owner(
                owner, removed=removed, created_by=_only_by(actor, owner), after=begin, limit=limit + 1
            )
        page = paged(rows, limit, lambda record: record.id)
        now = self._clock.now()
        seen = [
            await self._access.view(record)
            for record in page.items
            if reach(actor, record) and (not removed or restorable(record, now))
        ]
        return Page(seen, page.next_cursor)

    async def get(self, actor: Actor, credential_id: str) -> CredentialView:
        """One credential, its secret as a mask."""
        return await self._access.view(await self._access.find(actor, credential_id, Action.CREDENTIAL_READ))

    async def versions(
        self, actor: Actor, credential_id: str, *, after: str | None = None, limit: int = 50
    ) -> Page[HistoryView]:
        """Its former secrets as masks, latest first, at most 20. Raises InvalidInput."""
        record = await self._access.find(actor, credential_id, Action.CREDENTIAL_READ)
        return await self._history.page(record, after=after, limit=limit)

    async def labels(self, actor: Actor, prefix: str, limit: int = 25) -> Sequence[LabelChoice]:
        """Labels or providers that begin like ``prefix``, for autocompletion; the guild's where the actor is in one."""
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
        """The secret in clear, to its owner or sharer, after the trail knows; never to Discord.

        Raises ReauthenticationRequired, Forbidden, CredentialUnreadable.
        """
        actor.require_fresh(self._clock.now())
        if actor.client.source is Source.DISCORD:
            raise Forbidden
        known = await self._access.find(actor, credential_id, Action.CREDENTIAL_REVEALED, need=Reach.OWNS)
        async with self._storage.write() as uow:
            # Read under the row of the trail, so that what is shown is what the trail says was shown.
            record = await uow.credentials.get(credential_id)
            if record is None or record.owner != known.owner or record.deleted_at is not None:
                raise NotFound
            await uow.audit.append(self._access.row(actor, Action.CREDENTIAL_REVEALED, record))
        secret = await self._access.open(record)
        if secret is None:
            await self._access.note_unreadable(record)
            await self._access.record(actor, Action.CREDENTIAL_REVEALED, record, Result.FAILED)
            raise CredentialUnreadable
        return SecretText(secret)

    # -- using and watching --------------------------------------------------------------------------------------------

    def use(
        self, actor: Actor, provider: str, label: str | None = None
    ) -> AbstractAsyncContextManager[UsableCredential]:
        """A credential to work with: the environment's, else the member's, else the guild's (``paid_by`` says whose).

        Without a label the one that was updated last; with one, only stored credentials. Nothing of the database is
        held while the block runs; leaving it records whether it ended well. Raises NoCredential, CredentialUnreadable.
        """
        return self._use.use(actor, provider, label)

    async def health(self, actor: Actor) -> HealthReport:
        """Every credential opened and counted per provider: everybody's for whoever may see them, else the own."""
        return await self._health.report(actor)

    async def standing(self, actor: Actor, *, soon: timedelta) -> Standing:
        """The actor's own credentials, opened and counted; ``soon`` says what "expiring" means."""
        return await self._health.standing(actor, soon)

    async def move(self, uow: UnitOfWork, source: Owner, target: Owner) -> int:
        """Give all credentials of one owner to another, with their histories, inside the caller's unit of work.

        Every secret is sealed anew for its new owner; one that does not open moves as it is and stays unreadable. A
        label that is taken gets a number. Returns how many moved. Raises VersionConflict where one changed meanwhile.
        """
        return await self._moving.move(uow, source, target)

    def verify_all(self, actor: Actor) -> AsyncIterator[Verdict]:
        """Open every secret of everybody, removed and former ones too, and say of each whether it opens.

        Raises Forbidden, at the first step.
        """
        return self._health.verify_all(actor)


def _taken() -> AlreadyExists:
    return AlreadyExists("There is a credential of this provider with this label already")


async def _require_present(uow: UnitOfWork, owner: Owner) -> None:
    """Refuse to store for an account that was joined to another, or disabled, since its request was admitted."""
    if owner.kind is OwnerKind.USER:
        user = await uow.users.get(owner.id)
        if user is not None and user.disabled_at is not None:
            raise Forbidden("This account is not in use any more: try again")


def _only_by(actor: Actor, owner: Owner) -> str | None:
    """Whose shares alone this actor may see of a guild; even a cursor tells nothing of the others."""
    if owner.kind is OwnerKind.USER or manages(actor, owner.id):
        return None
    return actor.user_id
