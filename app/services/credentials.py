"""Credentials: kept, shown as a mask, used, and revealed only to whom they belong and only after the trail knows.

Every method authorises by the row itself: what is not the actor's is not there (NotFound), and where it was there the
refusal leaves a row in the audit trail. Writes swap on the row's version, so no update is lost.
"""

from __future__ import annotations

import logging
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from app.domain.audit import Action, Result
from app.domain.credentials import (
    QUOTA,
    RECOVERABLE_FOR,
    CredentialRecord,
    CredentialView,
    HistoryRecord,
    Owner,
    OwnerKind,
    PaidBy,
    Status,
    expiry,
    label_name,
    mask,
    provider_name,
    secret_value,
)
from app.domain.errors import (
    AlreadyExists,
    CredentialUnreadable,
    CryptoError,
    Forbidden,
    NoCredential,
    NotFound,
    QuotaExceeded,
    StorageError,
    UniqueViolation,
    VersionConflict,
)
from app.domain.identity import Permission, Source, snowflake
from app.domain.secrets import SecretText
from app.services.audit import by, by_system
from app.services.idempotency import idempotency_key as idempotency_key_text
from app.services.paging import Page, page_size, paged, read_cursor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from app.domain.audit import AuditEvent
    from app.domain.identity import Actor
    from app.services.credential_sealing import CredentialSealing
    from app.services.idempotency import Idempotency
    from app.services.ports import Clock, Randomness, Storage, UnitOfWork

log = logging.getLogger(__name__)

UNREADABLE_MASK: Final = "•" * 8
"""What stands where a mask would, when the stored bytes do not open."""
_SWAPS: Final = 20
_SCAN_PAGE: Final = 100
_ID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


# ---------------------------------------------------------------------------------------------------------------------
# What the methods take and give
# ---------------------------------------------------------------------------------------------------------------------


class Unset(Enum):
    """Absent, where None means "no expiry"."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A stored credential; ``replayed`` when the same request had stored it before."""

    view: CredentialView
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryView:
    """A former secret: it was in force from ``created_at`` to ``replaced_at``, last as that ``version``."""

    version: int
    masked: str
    readable: bool
    created_at: datetime
    replaced_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelChoice:
    """What an autocompletion offers; ``shared`` when it is the guild's."""

    id: str
    provider: str
    label: str
    shared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderHealth:
    """How the credentials of one provider do; a readable one may have expired."""

    provider: str
    total: int
    readable: int
    unreadable: int
    expired: int
    oldest_update: datetime
    last_used: datetime | None
    last_verified: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """Per provider; of everybody when ``everybody``. ``unreadable`` names only the actor's own, to be entered again."""

    everybody: bool
    providers: Sequence[ProviderHealth]
    unreadable: Sequence[LabelChoice]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The actor's own credentials, counted. ``expiring`` are those that expire within the time asked about."""

    live: int
    unreadable: int
    expired: int
    expiring: int
    used: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether one stored secret opens; ``former`` is the version of a former one, None for the present one."""

    id: str
    provider: str
    label: str
    owner: Owner
    former: int | None
    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UsableCredential:
    """A credential in somebody's hands, for the length of a block. From the environment it has no id and no label."""

    provider: str
    label: str | None
    id: str | None
    paid_by: PaidBy
    secret: SecretText

    def reveal(self) -> str:
        """The secret itself: pass it straight to the provider's client."""
        return self.secret.reveal()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentCredentials:
    """Credentials of the operator by provider, and the guilds whose members they serve (ENV_CREDENTIAL_GUILDS)."""

    by_provider: Mapping[str, SecretText] = MappingProxyType({})
    guilds: frozenset[str] = frozenset()


# ---------------------------------------------------------------------------------------------------------------------
# Who may what
# ---------------------------------------------------------------------------------------------------------------------


class _Reach(IntEnum):
    """What a row is to an actor. Whoever manages may change and remove, never read the secret."""

    NOTHING = 0
    MANAGES = 1
    OWNS = 2


def _manages(actor: Actor, guild_id: str) -> bool:
    """Whether the actor manages that guild's credentials. From one guild, no other guild can be reached."""
    if actor.guild is not None:
        if actor.guild.guild_id != guild_id:
            return False
        if actor.guild.manages_guild:
            return True
    return actor.may(Permission.MANAGE_GUILD_CREDENTIALS)


def _reach(actor: Actor, record: CredentialRecord) -> _Reach:
    if record.owner.kind is OwnerKind.USER:
        return _Reach.OWNS if record.owner.id == actor.user_id else _Reach.NOTHING
    if actor.guild is not None and actor.guild.guild_id != record.owner.id:
        return _Reach.NOTHING
    if record.created_by == actor.user_id:
        return _Reach.OWNS
    return _Reach.MANAGES if _manages(actor, record.owner.id) else _Reach.NOTHING


def _own(actor: Actor) -> Owner:
    return Owner(OwnerKind.USER, actor.user_id)


# ---------------------------------------------------------------------------------------------------------------------
# The service
# ---------------------------------------------------------------------------------------------------------------------


class CredentialService:
    """Everything that people and programs do with credentials.

    Every method may raise StorageError and NotReady. Ids that are not there, or not the actor's, raise NotFound.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        sealing: CredentialSealing,
        idempotency: Idempotency,
        environment: EnvironmentCredentials,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._storage = storage
        self._sealing = sealing
        self._idempotency = idempotency
        self._environment = environment
        self._clock = clock
        self._randomness = randomness

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
                if await uow.credentials.count(owner) >= QUOTA:
                    raise QuotaExceeded(f"At most {QUOTA} credentials, those removed within 7 days included")
                primary = await self._sealing.primary(uow)
                record = CredentialRecord(
                    id=credential_id,
                    owner=owner,
                    provider=provider,
                    label=label,
                    encrypted_value=self._sealing.seal(secret, credential_id, owner, primary),
                    key_version=primary.version,
                    fingerprint=await self._sealing.fingerprint(uow, secret),
                    created_by=actor.user_id,
                    created_at=now,
                    updated_at=now,
                    expires_at=expires_at,
                )
                await uow.credentials.add(record)
                if key is not None:
                    await self._idempotency.remember(uow, actor.user_id, key, parts, credential_id)
                await uow.audit.append(self._row(actor, Action.CREDENTIAL_ADDED, record))
        except UniqueViolation:
            # Either the label is taken, or the same request arrived twice at once and the other one was faster.
            if key is not None and (replayed := await self._replayed(actor, key, parts)):
                return replayed
            raise _taken() from None
        return Added(view=await self._read_back(credential_id, record.version, secret), replayed=False)

    async def _new_owner(self, actor: Actor, guild_id: str | None) -> Owner:
        if guild_id is None:
            actor.require(Permission.USE_OWN_CREDENTIALS)
            return _own(actor)
        guild_id = snowflake(guild_id, "guild_id")
        if not _manages(actor, guild_id):
            await self._deny(actor, Action.CREDENTIAL_ADDED, ("guild", guild_id))
            raise Forbidden
        return Owner(OwnerKind.GUILD, guild_id)

    async def _replayed(self, actor: Actor, key: str, parts: Sequence[bytes]) -> Added | None:
        async with self._storage.read() as uow:
            credential_id = await self._idempotency.earlier(uow, actor.user_id, key, parts)
            record = await uow.credentials.get(credential_id) if credential_id else None
        if credential_id is None:
            return None
        if record is None or _reach(actor, record) is _Reach.NOTHING:
            raise NotFound
        return Added(view=await self._view(record), replayed=True)

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
            return await self._put_secret(uow, record, secret, wanted)

        record = await self._edit(actor, credential_id, Action.CREDENTIAL_REPLACED, expected_version, put)
        return await self._read_back(credential_id, record.version + 1, secret)

    async def rollback(self, actor: Actor, credential_id: str, *, version: int | None = None) -> CredentialView:
        """Put a former secret back in force: that of ``version``, or the latest; the present one goes to the history.

        Raises NotFound where there is no such secret, CredentialUnreadable where it does not open.
        """
        secret = ""

        async def put(uow: UnitOfWork, record: CredentialRecord) -> bool:
            nonlocal secret
            history = await uow.credentials.history(record.id)
            former = next((each for each in history if version in {None, each.version}), None)
            if former is None:
                raise NotFound
            try:
                secret = self._sealing.open_former(former, record.owner)
            except CryptoError:
                raise CredentialUnreadable from None
            return await self._put_secret(uow, record, secret, UNSET)

        record = await self._edit(actor, credential_id, Action.CREDENTIAL_ROLLED_BACK, None, put)
        return await self._read_back(credential_id, record.version + 1, secret)

    async def _put_secret(
        self, uow: UnitOfWork, record: CredentialRecord, secret: str, expires_at: datetime | Unset | None
    ) -> bool:
        now = self._clock.now()
        if isinstance(expires_at, Unset):  # an expiry that has passed was the former secret's
            expires_at = None if _expired(record, now) else record.expires_at
        primary = await self._sealing.primary(uow)
        swapped = await uow.credentials.replace(
            record.id,
            expected_version=record.version,
            encrypted_value=self._sealing.seal(secret, record.id, record.owner, primary),
            key_version=primary.version,
            fingerprint=await self._sealing.fingerprint(uow, secret),
            expires_at=expires_at,
            at=now,
        )
        former = self._opened(record)
        if swapped and former is not None:  # what does not open cannot be sealed for another place
            history = await uow.credentials.history(record.id)
            history_id = self._randomness.new_id()
            await uow.credentials.add_history(
                HistoryRecord(
                    id=history_id,
                    credential_id=record.id,
                    version=record.version,
                    encrypted_value=self._sealing.seal_former(former, history_id, record.owner, primary),
                    key_version=primary.version,
                    created_at=history[0].replaced_at if history else record.created_at,
                    replaced_at=now,
                )
            )
        return swapped

    async def _read_back(self, credential_id: str, version: int, secret: str) -> CredentialView:
        """What was just committed, read again and opened. Raises StorageError where it is not what was stored."""
        async with self._storage.read() as uow:
            record = await uow.credentials.get(credential_id)
        opened = self._opened(record) if record else None
        # A later version is somebody else's, stored in the meantime: theirs to read back.
        if record is None or (record.version == version and opened != secret):
            raise StorageError("What was just stored does not read back: check the database's disk")
        return _view(record, opened, self._clock.now())

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
            if not _restorable(record, now):
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
            record = await self._find(actor, credential_id, action, removed=removed)
            if expected_version not in {None, record.version}:
                break
            try:
                async with self._storage.write() as uow:
                    if await swap(uow, record):
                        await uow.audit.append(self._row(actor, action, record))
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
        owner = _own(actor) if guild_id is None else Owner(OwnerKind.GUILD, snowflake(guild_id, "guild_id"))
        limit = page_size(limit)
        begin = read_cursor(after)
        async with self._storage.read() as uow:
            rows = await uow.credentials.of_owner(owner, removed=removed, after=begin, limit=limit + 1)
        page = paged(rows, limit, lambda record: record.id)
        now = self._clock.now()
        seen = [
            await self._view(record)
            for record in page.items
            if _reach(actor, record) and (not removed or _restorable(record, now))
        ]
        return Page(seen, page.next_cursor)

    async def get(self, actor: Actor, credential_id: str) -> CredentialView:
        """One credential, its secret as a mask."""
        return await self._view(await self._find(actor, credential_id, Action.CREDENTIAL_READ))

    async def versions(self, actor: Actor, credential_id: str) -> Sequence[HistoryView]:
        """Its former secrets as masks, latest first."""
        record = await self._find(actor, credential_id, Action.CREDENTIAL_READ)
        async with self._storage.read() as uow:
            history = await uow.credentials.history(credential_id)
        opened = [(each, self._opened_former(each, record.owner)) for each in history]
        return [
            HistoryView(
                version=each.version,
                masked=UNREADABLE_MASK if secret is None else mask(secret),
                readable=secret is not None,
                created_at=each.created_at,
                replaced_at=each.replaced_at,
            )
            for each, secret in opened
        ]

    async def labels(self, actor: Actor, prefix: str, limit: int = 25) -> Sequence[LabelChoice]:
        """Labels or providers that begin like ``prefix``, for autocompletion; the guild's where the actor is in one."""
        owners = [_own(actor)]
        if actor.guild is not None:
            owners.append(Owner(OwnerKind.GUILD, actor.guild.guild_id))
        begin = prefix.strip().casefold()
        async with self._storage.read() as uow:
            rows = [record for owner in owners for record in await uow.credentials.of_owner(owner, limit=QUOTA)]
        fitting = [
            _choice(record)
            for record in rows
            if _reach(actor, record)
            and (record.label.casefold().startswith(begin) or record.provider.startswith(begin))
        ]
        return sorted(fitting, key=lambda each: (each.shared, each.label.casefold(), each.provider))[: max(limit, 0)]

    async def reveal(self, actor: Actor, credential_id: str) -> SecretText:
        """The secret in clear, to its owner or sharer, after the trail knows; never to Discord.

        Raises ReauthenticationRequired, Forbidden, CredentialUnreadable.
        """
        actor.require_fresh(self._clock.now())
        if actor.client.source is Source.DISCORD:
            raise Forbidden
        known = await self._find(actor, credential_id, Action.CREDENTIAL_REVEALED, need=_Reach.OWNS)
        async with self._storage.write() as uow:
            # Read under the row of the trail, so that what is shown is what the trail says was shown.
            record = await uow.credentials.get(credential_id)
            if record is None or record.owner != known.owner or record.deleted_at is not None:
                raise NotFound
            await uow.audit.append(self._row(actor, Action.CREDENTIAL_REVEALED, record))
        secret = self._opened(record)
        if secret is None:
            await self._note_unreadable(record)
            await self._record(actor, Action.CREDENTIAL_REVEALED, record, Result.FAILED)
            raise CredentialUnreadable
        return SecretText(secret)

    # -- using ---------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def use(self, actor: Actor, provider: str, label: str | None = None) -> AsyncIterator[UsableCredential]:
        """A credential to work with: the environment's, else the member's, else the guild's (``paid_by`` says whose).

        Without a label the one that was updated last; with one, only stored credentials. Nothing of the database is
        held while the block runs; leaving it records whether it ended well. Raises NoCredential, CredentialUnreadable.
        """
        provider = provider_name(provider)
        secret = self._environment_secret(actor, provider) if label is None else None
        if secret is not None:
            usable = UsableCredential(provider=provider, label=None, id=None, paid_by=PaidBy.ENVIRONMENT, secret=secret)
            await self._note_use(actor, usable, Result.INTENT)
        else:
            usable = await self._stored(actor, provider, label)
        try:
            yield usable
        except BaseException as error:
            try:
                await self._note_use(actor, usable, Result.FAILED, error=type(error).__name__)
            except StorageError as lost:  # the intent is in the trail; what went wrong in the block matters more
                log.warning("the outcome of a use could not be recorded: %s", lost)
            raise
        await self._note_use(actor, usable, Result.OK)

    def _environment_secret(self, actor: Actor, provider: str) -> SecretText | None:
        served = actor.may(Permission.USE_ENVIRONMENT_CREDENTIALS) or (
            actor.guild is not None and actor.guild.guild_id in self._environment.guilds
        )
        return self._environment.by_provider.get(provider) if served else None

    async def _stored(self, actor: Actor, provider: str, label: str | None) -> UsableCredential:
        """Choose a stored credential, write the intent, and only then open it."""
        wanted = None if label is None else label_name(label)
        now = self._clock.now()
        refused: CredentialRecord | None = None
        chosen: CredentialRecord | None = None
        async with self._storage.write() as uow:
            if actor.may(Permission.USE_OWN_CREDENTIALS):
                own = await uow.credentials.of_owner(_own(actor), provider=provider, label=wanted)
                chosen = _latest(own, now)
            if chosen is None and actor.guild is not None:
                guild = Owner(OwnerKind.GUILD, actor.guild.guild_id)
                shared = await uow.credentials.of_owner(guild, provider=provider, label=wanted)
                serving = [each for each in shared if actor.guild.manages_guild or each.created_by == actor.user_id]
                chosen = _latest(serving, now)
                refused = _latest(shared, now) if chosen is None else None
            if chosen is not None:
                await uow.audit.append(self._row(actor, Action.CREDENTIAL_USED, chosen, Result.INTENT))
            elif refused is not None:
                await uow.audit.append(self._row(actor, Action.CREDENTIAL_USED, refused, Result.DENIED))
        if chosen is None:
            raise NoCredential
        secret = self._opened(chosen)
        if secret is None:
            await self._note_unreadable(chosen)
            await self._record(actor, Action.CREDENTIAL_USED, chosen, Result.FAILED)
            raise CredentialUnreadable
        return UsableCredential(
            provider=provider,
            label=chosen.label,
            id=chosen.id,
            paid_by=PaidBy.MEMBER if chosen.owner.kind is OwnerKind.USER else PaidBy.GUILD,
            secret=SecretText(secret),
        )

    async def _note_use(self, actor: Actor, usable: UsableCredential, result: Result, **detail: str) -> None:
        now = self._clock.now()
        about = ("credential", usable.id) if usable.id else ("environment", usable.provider)
        detail |= {"provider": usable.provider, "paid_by": usable.paid_by.value}
        async with self._storage.write() as uow:
            if usable.id is not None:
                await uow.credentials.mark_used(usable.id, now)
            await uow.audit.append(by(actor, Action.CREDENTIAL_USED, now, about=about, result=result, **detail))

    # -- how they do ---------------------------------------------------------------------------------------------------

    async def health(self, actor: Actor) -> HealthReport:
        """Every credential opened and counted per provider: everybody's for whoever may see them, else the own."""
        everybody = actor.may(Permission.SEE_ALL_CREDENTIALS)
        now = self._clock.now()
        providers: dict[str, ProviderHealth] = {}
        unreadable: list[LabelChoice] = []
        async for record in self._live(None if everybody else _own(actor)):
            readable = await self._readable(record)
            counted = _counted(record, now, readable=readable)
            known = providers.get(record.provider)
            providers[record.provider] = _added_up(known, counted) if known else counted
            if not readable and record.owner == _own(actor):
                unreadable.append(_choice(record))
        ordered = [providers[name] for name in sorted(providers)]
        return HealthReport(everybody=everybody, providers=ordered, unreadable=unreadable)

    async def standing(self, actor: Actor, *, soon: timedelta) -> Standing:
        """The actor's own credentials, opened and counted."""
        now = self._clock.now()
        records = [record async for record in self._live(_own(actor))]
        return Standing(
            live=len(records),
            unreadable=sum([not await self._readable(record) for record in records]),
            expired=sum(_expired(record, now) for record in records),
            expiring=sum(not _expired(record, now) and _expired(record, now + soon) for record in records),
            used=any(record.last_used_at is not None for record in records),
        )

    async def verify_all(self, actor: Actor) -> AsyncIterator[Verdict]:
        """Open every secret of everybody, removed and former ones too, and say of each whether it opens.

        Raises Forbidden.
        """
        actor.require(Permission.SEE_ALL_CREDENTIALS)
        after: str | None = None
        while True:
            async with self._storage.read() as uow:
                records = await uow.credentials.page(after=after, limit=_SCAN_PAGE)
                rows = [(record, await uow.credentials.history(record.id)) for record in records]
            for record, history in rows:
                yield _verdict(record, None, ok=self._opened(record) is not None)
                for each in history:
                    yield _verdict(record, each.version, ok=self._opened_former(each, record.owner) is not None)
            if len(records) < _SCAN_PAGE:
                return
            after = records[-1].id

    async def _live(self, owner: Owner | None) -> AsyncIterator[CredentialRecord]:
        """Live credentials of an owner, or of everybody, page by page, each page its own read."""
        after: str | None = None
        while True:
            async with self._storage.read() as uow:
                if owner is None:
                    records = await uow.credentials.page(after=after, limit=_SCAN_PAGE)
                else:
                    records = await uow.credentials.of_owner(owner, after=after, limit=_SCAN_PAGE)
            for record in records:
                if record.deleted_at is None:
                    yield record
            if len(records) < _SCAN_PAGE:
                return
            after = records[-1].id

    # -- shared by all -------------------------------------------------------------------------------------------------

    async def _find(
        self,
        actor: Actor,
        credential_id: str,
        action: Action,
        *,
        need: _Reach = _Reach.MANAGES,
        removed: bool = False,
    ) -> CredentialRecord:
        """The record, if the actor may do this to it; a refusal is committed to the trail. Raises NotFound."""
        if not _is_id(credential_id):
            raise NotFound
        record = await self._storage.cached("credential", credential_id, lambda uow: uow.credentials.get(credential_id))
        if record is None:
            raise NotFound
        if _reach(actor, record) < need:
            await self._deny(actor, action, ("credential", record.id))
            raise NotFound
        if (record.deleted_at is not None) is not removed:
            raise NotFound
        return record

    async def _deny(self, actor: Actor, action: Action, about: tuple[str, str]) -> None:
        async with self._storage.write() as uow:
            await uow.audit.append(by(actor, action, self._clock.now(), about=about, result=Result.DENIED))

    async def _record(self, actor: Actor, action: Action, record: CredentialRecord, result: Result) -> None:
        async with self._storage.write() as uow:
            await uow.audit.append(self._row(actor, action, record, result))

    def _row(self, actor: Actor, action: Action, record: CredentialRecord, result: Result = Result.OK) -> AuditEvent:
        about = ("credential", record.id)
        return by(actor, action, self._clock.now(), about=about, result=result, provider=record.provider)

    async def _view(self, record: CredentialRecord) -> CredentialView:
        secret = self._opened(record)
        if secret is None:
            await self._note_unreadable(record)
        return _view(record, secret, self._clock.now())

    async def _readable(self, record: CredentialRecord) -> bool:
        if self._opened(record) is not None:
            return True
        await self._note_unreadable(record)
        return False

    def _opened(self, record: CredentialRecord) -> str | None:
        """The secret, or None where it does not open: one damaged row must not take the others with it."""
        try:
            return self._sealing.open(record)
        except CryptoError:
            return None

    def _opened_former(self, record: HistoryRecord, owner: Owner) -> str | None:
        try:
            return self._sealing.open_former(record, owner)
        except CryptoError:
            return None

    async def _note_unreadable(self, record: CredentialRecord) -> None:
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


def _view(record: CredentialRecord, secret: str | None, now: datetime) -> CredentialView:
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
    )


def _status(record: CredentialRecord, now: datetime, *, readable: bool) -> Status:
    """What opening and the clock say goes before what was stored."""
    if not readable:
        return Status.UNREADABLE
    if _expired(record, now):
        return Status.EXPIRED
    return Status.UNCHECKED if record.status is Status.UNREADABLE else record.status


def _expired(record: CredentialRecord, now: datetime) -> bool:
    return record.expires_at is not None and record.expires_at <= now


def _restorable(record: CredentialRecord, now: datetime) -> bool:
    return record.deleted_at is not None and now - record.deleted_at < RECOVERABLE_FOR


def _latest(records: Iterable[CredentialRecord], now: datetime) -> CredentialRecord | None:
    """The one that was updated last and has not expired; between equals the id decides, so the choice is stable."""
    usable = (record for record in records if not _expired(record, now))
    return max(usable, key=lambda record: (record.updated_at, record.id), default=None)


def _choice(record: CredentialRecord) -> LabelChoice:
    shared = record.owner.kind is OwnerKind.GUILD
    return LabelChoice(id=record.id, provider=record.provider, label=record.label, shared=shared)


def _counted(record: CredentialRecord, now: datetime, *, readable: bool) -> ProviderHealth:
    return ProviderHealth(
        provider=record.provider,
        total=1,
        readable=int(readable),
        unreadable=int(not readable),
        expired=int(_expired(record, now)),
        oldest_update=record.updated_at,
        last_used=record.last_used_at,
        last_verified=record.last_verified_at,
    )


def _added_up(one: ProviderHealth, other: ProviderHealth) -> ProviderHealth:
    return ProviderHealth(
        provider=one.provider,
        total=one.total + other.total,
        readable=one.readable + other.readable,
        unreadable=one.unreadable + other.unreadable,
        expired=one.expired + other.expired,
        oldest_update=min(one.oldest_update, other.oldest_update),
        last_used=_later(one.last_used, other.last_used),
        last_verified=_later(one.last_verified, other.last_verified),
    )


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((each for each in (one, other) if each is not None), default=None)


def _verdict(record: CredentialRecord, former: int | None, *, ok: bool) -> Verdict:
    return Verdict(id=record.id, provider=record.provider, label=record.label, owner=record.owner, former=former, ok=ok)


def _taken() -> AlreadyExists:
    return AlreadyExists("There is a credential of this provider with this label already")


def _is_id(text: str) -> bool:
    """Whether it has the form of an id: what has not is refused before it reaches a cache or a database."""
    return _ID.fullmatch(text) is not None
