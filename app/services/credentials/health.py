"""The health of credentials: every one decrypted and counted, or checked one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app.domain.credentials import CredentialRecord, HistoryRecord, Owner, OwnerKind, aged, expired
from app.domain.identity import Actor, Permission
from app.services.credentials.access import CredentialAccess, own
from app.services.credentials.values import (
    CredentialCounts,
    HealthReport,
    ProviderHealth,
    UnreadableCredential,
    Verdict,
)
from app.services.paging import pages
from app.services.ports import Clock, Storage

_PAGE: Final = 100
_MOST_NAMED: Final = 100


class CredentialHealth:
    """Reads page by page, each page in a unit of work of its own, and decrypts between them."""

    def __init__(self, *, storage: Storage, access: CredentialAccess, clock: Clock) -> None:
        self._storage = storage
        self._access = access
        self._clock = clock

    async def report(self, actor: Actor) -> HealthReport:
        """Decrypt and count credentials per provider: everybody's if the actor may see them, else their own."""
        everybody = actor.may(Permission.SEE_ALL_CREDENTIALS)
        now = self._clock.now()
        providers: dict[str, ProviderHealth] = {}
        unreadable: list[CredentialRecord] = []
        async for record in self._live(None if everybody else own(actor)):
            readable = await self._access.readable(record)
            counted = _counted(record, now, readable=readable)
            known = providers.get(record.provider)
            providers[record.provider] = _added_up(known, counted) if known else counted
            if not readable and len(unreadable) < _MOST_NAMED:
                unreadable.append(record)
        ordered = [providers[name] for name in sorted(providers)]
        return HealthReport(everybody=everybody, providers=ordered, unreadable=await self._named(unreadable))

    async def _named(self, records: Sequence[CredentialRecord]) -> Sequence[UnreadableCredential]:
        owners = {record.owner.id for record in records if record.owner.kind is OwnerKind.USER}
        async with self._storage.lookup() as uow:
            users = {owner: await uow.users.get(owner) for owner in owners}
        return [
            UnreadableCredential(
                id=record.id,
                provider=record.provider,
                label=record.label,
                owner=record.owner,
                username=user.username if (user := users.get(record.owner.id)) else None,
            )
            for record in records
        ]

    async def counts(self, actor: Actor, *, soon: timedelta) -> CredentialCounts:
        """Decrypt and count the actor's own credentials; one that expires within ``soon`` counts as expiring."""
        now = self._clock.now()
        records = [record async for record in self._live(own(actor))]
        return CredentialCounts(
            live=len(records),
            unreadable=sum([not await self._access.readable(record) for record in records]),
            expired=sum(expired(record, now) for record in records),
            expiring=sum(not expired(record, now) and expired(record, now + soon) for record in records),
            used=any(record.last_used_at is not None for record in records),
        )

    async def verify_all(self, actor: Actor) -> AsyncIterator[Verdict]:
        """Decrypt every secret of every owner, removed and former ones too, and yield whether each decrypts.

        Raises Forbidden, at the first step.
        """
        actor.require(Permission.SEE_ALL_CREDENTIALS)

        async def fetch(after: str | None) -> Sequence[_WithHistory]:
            async with self._storage.read() as uow:  # one view: a change of owner re-encrypts both
                records = await uow.credentials.page(after=after, limit=_PAGE)
                return [_WithHistory(record, await uow.credentials.history(record.id)) for record in records]

        async for page in pages(fetch):
            for each in page:
                yield _verdict(each.record, None, ok=await self._access.readable(each.record))
                for former in each.history:
                    secret = await self._access.open_former(former, each.record.owner)
                    yield _verdict(each.record, former.version, ok=secret is not None)

    async def _live(self, owner: Owner | None) -> AsyncIterator[CredentialRecord]:
        """Yield the live credentials of an owner, or of every owner."""

        async def fetch(after: str | None) -> Sequence[CredentialRecord]:
            async with self._storage.read() as uow:
                if owner is None:
                    return await uow.credentials.page(after=after, limit=_PAGE)
                return await uow.credentials.of_owner(owner, after=after, limit=_PAGE)

        async for page in pages(fetch):
            for record in page:
                if record.deleted_at is None:
                    yield record


@dataclass(frozen=True, slots=True)
class _WithHistory:
    record: CredentialRecord
    history: Sequence[HistoryRecord]

    @property
    def id(self) -> str:
        return self.record.id


def _counted(record: CredentialRecord, now: datetime, *, readable: bool) -> ProviderHealth:
    return ProviderHealth(
        provider=record.provider,
        total=1,
        readable=int(readable),
        unreadable=int(not readable),
        expired=int(expired(record, now)),
        aged=int(aged(record, now)),
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
        aged=one.aged + other.aged,
        oldest_update=min(one.oldest_update, other.oldest_update),
        last_used=_later(one.last_used, other.last_used),
        last_verified=_later(one.last_verified, other.last_verified),
    )


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((each for each in (one, other) if each is not None), default=None)


def _verdict(record: CredentialRecord, former: int | None, *, ok: bool) -> Verdict:
    return Verdict(id=record.id, provider=record.provider, label=record.label, owner=record.owner, former=former, ok=ok)
