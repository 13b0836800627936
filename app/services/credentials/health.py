"""The health of credentials: every one decrypted and counted.

In slices: each page is read in a unit of work of its own, and between some milliseconds of decrypting the event loop
goes on with everything else.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from app.domain.credentials import CredentialRecord, Owner, OwnerKind
from app.domain.encrypted_columns import (
    CREDENTIAL_SECRETS,
    ENCRYPTED_COLUMNS,
    FORMER_SECRETS,
    TOTP_SECRETS,
    EncryptedColumn,
    EncryptedRow,
)
from app.domain.errors import Forbidden
from app.domain.identity import Actor, Permission
from app.domain.scopes import Scope
from app.services.credentials.access import CredentialAccess, live_of, manages, own
from app.services.credentials.cipher import CredentialCipher
from app.services.credentials.values import (
    HealthPage,
    HealthReport,
    ProviderHealth,
    UnreadableCredential,
    UnreadableSecret,
    Verified,
)
from app.services.paging import Page, page_size, paged, pages, read_cursor
from app.services.ports import Clock, ProviderTotals, Storage

_PAGE: Final = 250
_SLICE: Final = 100
"""Secrets that are decrypted in one go: about a millisecond."""
_MOST_NAMED: Final = 100


class CredentialHealth:
    """One check of everybody's credentials at a time, however many ask for one."""

    def __init__(self, *, storage: Storage, access: CredentialAccess, cipher: CredentialCipher, clock: Clock) -> None:
        self._storage = storage
        self._access = access
        self._cipher = cipher
        self._clock = clock
        self._checking = asyncio.Lock()
        self._asked = 0
        self._last: tuple[int, _Findings] = (0, _Findings())

    async def report(self, actor: Actor) -> HealthReport:
        """Decrypt and count credentials per provider: everybody's if the actor may see them, else their own."""
        actor.require_scope(Scope.CREDENTIALS_READ)
        if actor.bound_to is not None and not manages(actor, actor.bound_to):
            raise Forbidden("Only those who manage the server may count its credentials")
        everybody = actor.may(Permission.SEE_ALL_CREDENTIALS)
        found = await (self._of_everybody() if everybody else self._of(own(actor)))
        unreadable = await self._named(found.unreadable)
        return HealthReport(everybody=everybody, providers=found.providers(), unreadable=unreadable)

    async def page(self, actor: Actor, *, after: str | None = None, limit: int = 50) -> HealthPage:
        """Decrypt and count everybody's credentials, and name the unreadable ones, a page at a time.

        A page may hold fewer than ``limit`` items and not be the last. Raises Forbidden, InvalidInput.
        """
        actor.require(Permission.SEE_ALL_CREDENTIALS)
        size, begin = page_size(limit), read_cursor(after)
        found = await self._of_everybody() if begin is None else None
        async with self._storage.read() as uow:
            rows = await uow.credentials.unreadable(after=begin, limit=size + 1)
        page = paged(rows, size, lambda record: record.id)
        # A key that came back may have made some of them readable since.
        still = [record for record in page.items if not await self._access.readable(record)]
        return HealthPage(
            providers=None if found is None else found.providers(),
            unreadable=Page(await self._named(still), page.next_cursor),
        )

    async def _of_everybody(self) -> _Findings:
        """The findings of a check that began after this call: those who ask during one share the next."""
        self._asked += 1
        number = self._asked
        async with self._checking:
            answers, found = self._last
            if answers < number:
                answers, found = self._asked, await self._check_everybody()
                self._last = (answers, found)
            return found

    async def _check_everybody(self) -> _Findings:
        found, now, after = _Findings(), self._clock.now(), None
        while True:
            async with self._storage.read() as uow:
                rows = await uow.encrypted_rows.all(CREDENTIAL_SECRETS, after=after, limit=_PAGE)
                if not rows:
                    return found
                totals = await uow.credentials.totals_between(after, rows[-1].id, now)
            found.add(totals)
            for row in await self._failing(CREDENTIAL_SECRETS, rows):
                record = await self._still_unreadable(row.id)
                if record is not None and record.deleted_at is None:
                    found.add_unreadable(record)
            after = rows[-1].id

    async def _of(self, owner: Owner) -> _Findings:
        found = _Findings()
        async with self._storage.read() as uow:
            found.add(await uow.credentials.totals_of_owner(owner, self._clock.now()))
        for record in await live_of(self._storage, owner):
            if not await self._access.readable(record):
                found.add_unreadable(record)
        return found

    async def _failing(self, column: EncryptedColumn, rows: Sequence[EncryptedRow]) -> Sequence[EncryptedRow]:
        """The rows that do not decrypt with the keys that this process has."""
        failing: list[EncryptedRow] = []
        for begin in range(0, len(rows), _SLICE):
            some = rows[begin : begin + _SLICE]
            opened = self._cipher.opened_by(column, some)
            failing += [row for row, version in zip(some, opened, strict=True) if version is None]
            await asyncio.sleep(0)
        return failing

    async def _still_unreadable(self, credential_id: str) -> CredentialRecord | None:
        """The record, looked at once more, if it does not decrypt: then that is recorded."""
        async with self._storage.lookup() as uow:
            record = await uow.credentials.get(credential_id)
        return None if record is None or await self._access.readable(record) else record

    async def _named(self, records: Sequence[CredentialRecord]) -> Sequence[UnreadableCredential]:
        owners = {record.owner.id for record in records if record.owner.kind is OwnerKind.USER}
        async with self._storage.read() as uow:
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

    async def verify_all(self, actor: Actor) -> AsyncIterator[Verified]:
        """Decrypt every secret of every owner, removed and former ones too, step by step.

        Raises Forbidden, at the first step.
        """
        actor.require(Permission.SEE_ALL_CREDENTIALS)
        async with self._storage.read() as uow:
            total = sum([sum((await uow.encrypted_rows.counts(column)).values()) for column in ENCRYPTED_COLUMNS])
        done = 0
        finders = {
            CREDENTIAL_SECRETS: self._unreadable_present,
            FORMER_SECRETS: self._unreadable_former,
            TOTP_SECRETS: self._unreadable_totp,
        }
        for column in ENCRYPTED_COLUMNS:
            find = finders[column]
            async for page in pages(partial(self._page, column)):
                done += len(page)
                found = [await find(row) or _edited(row) for row in await self._failing(column, page)]
                yield Verified(done=done, total=total, unreadable=[each for each in found if each is not None])

    async def _page(self, column: EncryptedColumn, after: str | None) -> Sequence[EncryptedRow]:
        async with self._storage.read() as uow:
            return await uow.encrypted_rows.all(column, after=after, limit=_PAGE)

    async def _unreadable_present(self, row: EncryptedRow) -> UnreadableSecret | None:
        record = await self._still_unreadable(row.id)
        return None if record is None else _unreadable(record, None)

    async def _unreadable_totp(self, row: EncryptedRow) -> UnreadableSecret | None:
        """The secret of an authenticator app. It has no provider and no label: the account stands in their place."""
        async with self._storage.lookup() as uow:
            factor, user = await uow.factors.get(row.owner_id), await uow.users.get(row.owner_id)
        if factor is None or user is None or factor.id != row.id or await self._access.totp_readable(factor):
            return None
        owner = Owner(OwnerKind.USER, row.owner_id)
        return UnreadableSecret(id=row.id, provider="second factor of", label=user.username, owner=owner, former=None)

    async def _unreadable_former(self, row: EncryptedRow) -> UnreadableSecret | None:
        async with self._storage.read() as uow:  # one view: a change of owner re-encrypts both
            former = await uow.credentials.former(row.id)
            record = None if former is None else await uow.credentials.get(former.credential_id)
        if former is None or record is None or await self._access.open_former(former, record.owner) is not None:
            return None
        return _unreadable(record, former.version)


class _Findings:
    """The counts so far, and the first unreadable credentials."""

    def __init__(self) -> None:
        self._totals: dict[str, ProviderTotals] = {}
        self._unreadable: Counter[str] = Counter()
        self.unreadable: list[CredentialRecord] = []

    def add(self, totals: Sequence[ProviderTotals]) -> None:
        for each in totals:
            known = self._totals.get(each.provider)
            self._totals[each.provider] = _added_up(known, each) if known else each

    def add_unreadable(self, record: CredentialRecord) -> None:
        self._unreadable[record.provider] += 1
        if len(self.unreadable) < _MOST_NAMED:
            self.unreadable.append(record)

    def providers(self) -> Sequence[ProviderHealth]:
        """By name."""
        return [self._health(self._totals[name]) for name in sorted(self._totals)]

    def _health(self, totals: ProviderTotals) -> ProviderHealth:
        unreadable = min(self._unreadable[totals.provider], totals.total)  # one may be restored after it was counted
        return ProviderHealth(
            provider=totals.provider,
            total=totals.total,
            readable=totals.total - unreadable,
            unreadable=unreadable,
            expired=totals.expired,
            aged=totals.aged,
            oldest_update=totals.oldest_update,
            last_used=totals.last_used,
            last_verified=totals.last_verified,
        )


def _added_up(one: ProviderTotals, other: ProviderTotals) -> ProviderTotals:
    return ProviderTotals(
        provider=one.provider,
        total=one.total + other.total,
        expired=one.expired + other.expired,
        aged=one.aged + other.aged,
        oldest_update=min(one.oldest_update, other.oldest_update),
        last_used=_later(one.last_used, other.last_used),
        last_verified=_later(one.last_verified, other.last_verified),
    )


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((each for each in (one, other) if each is not None), default=None)


def _edited(row: EncryptedRow) -> UnreadableSecret | None:
    """A secret whose row was edited so that it is not found by its id; None for a row that was sound when it was read.

    Of such a row the repository shows no secret.
    """
    if row.value:
        return None
    return UnreadableSecret(id=row.id, provider="an edited row", label="", owner=Owner(OwnerKind.USER, ""), former=None)


def _unreadable(record: CredentialRecord, former: int | None) -> UnreadableSecret:
    return UnreadableSecret(
        id=record.id, provider=record.provider, label=record.label, owner=record.owner, former=former
    )
