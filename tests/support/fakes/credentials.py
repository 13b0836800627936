"""Repositories of credentials, their history, and encrypted rows in bulk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.domain.credential_lists import ListFilter, ListPlace, Need, Tab, TabCounts, need, place_of
from app.domain.credentials import CredentialRecord, HistoryRecord, Owner, OwnerKind, Status, aged, expired, label_key
from app.domain.encrypted_columns import (
    CREDENTIAL_SECRETS,
    FORMER_SECRETS,
    TOTP_SECRETS,
    EncryptedColumn,
    EncryptedRow,
    Reencrypted,
)
from app.domain.errors import UniqueViolation
from app.domain.identity import User
from app.domain.second_factor import TotpFactor
from app.infrastructure.database.errors import ConstraintBroken
from app.services.ports import ProviderTotals
from tests.support.fakes.tables import Tables, like_an_engine


@like_an_engine
class FakeCredentialRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, record: CredentialRecord) -> None:
        if record.id in self._tables.credentials:
            raise UniqueViolation
        self._store(record)

    async def get(self, credential_id: str) -> CredentialRecord | None:
        record = self._tables.credentials.get(credential_id)
        return None if record is None else await self._with_history(record)

    async def of_owner(
        self,
        owner: Owner,
        *,
        provider: str | None = None,
        label: str | None = None,
        removed: bool = False,
        created_by: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Sequence[CredentialRecord]:
        return [
            each
            for each in await self.page(after=after, limit=len(self._tables.credentials))
            if each.owner == owner
            and (each.deleted_at is not None) is removed
            and provider in {None, each.provider}
            and created_by in {None, each.created_by}
            and (label is None or label_key(each.label) == label_key(label))
        ][:limit]

    async def listed(
        self, wanted: ListFilter, tab: Tab, *, place: ListPlace | None, backwards: bool, limit: int
    ) -> Sequence[CredentialRecord]:
        rows = await self.page(after=None, limit=len(self._tables.credentials))
        found = sorted((each for each in rows if _fits(each, wanted, tab)), key=lambda each: place_of(each, wanted.now))
        if backwards:
            before = [each for each in found if place is None or place_of(each, wanted.now) < place]
            return before[max(len(before) - limit, 0) :]
        return [each for each in found if place is None or place_of(each, wanted.now) > place][:limit]

    async def tab_counts(self, wanted: ListFilter) -> TabCounts:
        rows = self._tables.credentials.values()
        return TabCounts._make(sum(_fits(each, wanted, tab) for each in rows) for tab in Tab)

    async def lock_owner(self, owner: Owner) -> None:
        return None

    async def shared_by(self, user_id: str) -> Sequence[CredentialRecord]:
        rows = await self.page(after=None, limit=len(self._tables.credentials))
        return [each for each in rows if each.created_by == user_id and each.owner.kind is OwnerKind.GUILD]

    async def reassign_sharer(self, source: str, target: str) -> int:
        shared = [
            each
            for each in self._tables.credentials.values()
            if each.created_by == source and each.owner.kind is OwnerKind.GUILD
        ]
        for each in shared:
            self._tables.credentials[each.id] = replace(each, created_by=target)
        return len(shared)

    async def shares_of(self, user_id: str) -> Mapping[str, int]:
        shared = [each.owner for each in self._tables.credentials.values() if each.created_by == user_id]
        return Counter(each.id for each in shared if each.kind is OwnerKind.GUILD)

    async def count_and_account(self, owner: Owner) -> tuple[int, User | None]:
        account = self._tables.users.get(owner.id) if owner.kind is OwnerKind.USER else None
        return await self.count(owner), account

    async def count(self, owner: Owner) -> int:
        return sum(each.owner == owner for each in self._tables.credentials.values())

    async def change(
        self, credential_id: str, *, expected_version: int, label: str, expires_at: datetime | None, at: datetime
    ) -> bool:
        return self._swap(credential_id, expected_version, at, label=label, expires_at=expires_at)

    async def replace(
        self,
        credential_id: str,
        *,
        expected_version: int,
        encrypted_value: bytes,
        key_version: int,
        fingerprint: str | None,
        expires_at: datetime | None,
        at: datetime,
    ) -> bool:
        return self._swap(
            credential_id,
            expected_version,
            at,
            encrypted_value=encrypted_value,
            key_version=key_version,
            fingerprint=fingerprint,
            expires_at=expires_at,
            status=Status.UNCHECKED,
            last_used_at=None,
            last_verified_at=None,
        )

    async def set_removed(self, credential_id: str, *, expected_version: int, at: datetime, removed: bool) -> bool:
        return self._swap(credential_id, expected_version, at, deleted_at=at if removed else None)

    async def move(
        self,
        credential_id: str,
        *,
        expected_version: int,
        owner: Owner,
        label: str,
        encrypted_value: bytes,
        key_version: int,
        at: datetime,
    ) -> bool:
        return self._swap(
            credential_id,
            expected_version,
            at,
            owner=owner,
            label=label,
            encrypted_value=encrypted_value,
            key_version=key_version,
        )

    async def mark_used(self, credential_id: str, at: datetime) -> None:
        record = self._tables.credentials.get(credential_id)
        if record is not None and (record.last_used_at is None or record.last_used_at < at):
            self._put(credential_id, last_used_at=at)

    async def set_status(self, credential_id: str, status: Status, at: datetime) -> None:
        verified = {"last_verified_at": at} if status in {Status.VALID, Status.REFUSED} else {}
        self._put(credential_id, status=status, **verified)

    async def set_fingerprint(self, credential_id: str, *, expected_version: int, fingerprint: str | None) -> bool:
        record = self._tables.credentials.get(credential_id)
        if record is None or record.version != expected_version:
            return False
        self._tables.credentials[credential_id] = replace(record, fingerprint=fingerprint)
        return True

    async def forget_keys(self, *, opening: Sequence[int]) -> None:
        for key, record in self._tables.credentials.items():
            status = record.status if record.key_version in opening else Status.UNREADABLE
            self._tables.credentials[key] = replace(record, fingerprint=None, status=status)

    async def page(self, *, after: str | None, limit: int) -> Sequence[CredentialRecord]:
        ids = [key for key in sorted(self._tables.credentials) if key > (after or "")]
        return [await self._with_history(self._tables.credentials[key]) for key in ids[:limit]]

    async def unreadable(self, *, after: str | None, limit: int) -> Sequence[CredentialRecord]:
        rows = await self.page(after=after, limit=len(self._tables.credentials))
        return [each for each in rows if each.status is Status.UNREADABLE and each.deleted_at is None][:limit]

    async def totals_of_owner(self, owner: Owner, now: datetime) -> Sequence[ProviderTotals]:
        return await self._totals(now, lambda each: each.owner == owner)

    async def totals_between(self, after: str | None, last: str, now: datetime) -> Sequence[ProviderTotals]:
        return await self._totals(now, lambda each: (after or "") < each.id <= last)

    async def _totals(self, now: datetime, matches: Callable[[CredentialRecord], bool]) -> Sequence[ProviderTotals]:
        stored = [each for each in self._tables.credentials.values() if each.deleted_at is None and matches(each)]
        found: dict[str, list[CredentialRecord]] = {}
        for record in stored:
            found.setdefault(record.provider, []).append(await self._with_history(record))
        return [
            ProviderTotals(
                provider=provider,
                total=len(records),
                expired=sum(expired(each, now) for each in records),
                aged=sum(aged(each, now) for each in records),
                oldest_update=min(each.updated_at for each in records),
                last_used=max((each.last_used_at for each in records if each.last_used_at), default=None),
                last_verified=max((each.last_verified_at for each in records if each.last_verified_at), default=None),
            )
            for provider, records in sorted(found.items())
        ]

    async def purge(self, credential_id: str, *, expected_version: int) -> bool:
        record = self._tables.credentials.get(credential_id)
        if record is None or record.version != expected_version or record.deleted_at is None:
            return False
        del self._tables.credentials[credential_id]
        for former in [each for each in self._tables.history.values() if each.credential_id == credential_id]:
            del self._tables.history[former.id]
        return True

    async def purge_removed(self, before: datetime, *, limit: int | None = None) -> int:
        gone = [
            each.id
            for each in self._tables.credentials.values()
            if each.deleted_at is not None and each.deleted_at < before
        ]
        return self._delete(gone)

    async def guilds(self, *, after: str, limit: int) -> Sequence[str]:
        owners = {each.owner.id for each in self._tables.credentials.values() if each.owner.kind is OwnerKind.GUILD}
        return [each for each in sorted(owners) if each > after][:limit]

    async def purge_of(self, owner: Owner, *, limit: int) -> int:
        return self._delete([each.id for each in self._tables.credentials.values() if each.owner == owner][:limit])

    def _delete(self, gone: Sequence[str]) -> int:
        for credential_id in gone:
            del self._tables.credentials[credential_id]
        for former in [each for each in self._tables.history.values() if each.credential_id in gone]:
            del self._tables.history[former.id]
        return len(gone)

    async def add_history(self, record: HistoryRecord) -> None:
        history = await self.history(record.credential_id)
        if record.id in self._tables.history or record.version in {each.version for each in history}:
            raise UniqueViolation
        if record.credential_id not in self._tables.credentials:
            raise ConstraintBroken
        self._tables.history[record.id] = record

    async def history(self, credential_id: str) -> Sequence[HistoryRecord]:
        rows = [each for each in self._tables.history.values() if each.credential_id == credential_id]
        return sorted(rows, key=lambda each: each.version, reverse=True)

    async def former(self, record_id: str) -> HistoryRecord | None:
        return self._tables.history.get(record_id)

    async def replace_history(self, record_id: str, *, encrypted_value: bytes, key_version: int) -> None:
        if former := self._tables.history.get(record_id):
            self._tables.history[record_id] = replace(former, encrypted_value=encrypted_value, key_version=key_version)

    async def drop_history(self, record_id: str) -> None:
        self._tables.history.pop(record_id, None)

    async def _with_history(self, record: CredentialRecord) -> CredentialRecord:
        history = await self.history(record.id)
        return replace(record, replaced_at=history[0].replaced_at if history else None)

    def _store(self, record: CredentialRecord) -> None:
        for each in self._tables.credentials.values():
            if each.id != record.id and _live_name(each) is not None and _live_name(each) == _live_name(record):
                raise UniqueViolation
        self._tables.credentials[record.id] = record

    def _put(self, credential_id: str, **values: Any) -> None:
        if record := self._tables.credentials.get(credential_id):
            self._store(replace(record, **values))

    def _swap(self, credential_id: str, expected_version: int, at: datetime, **values: Any) -> bool:
        record = self._tables.credentials.get(credential_id)
        if record is None or record.version != expected_version:
            return False
        self._put(credential_id, version=expected_version + 1, updated_at=at, **values)
        return True


def _fits(record: CredentialRecord, wanted: ListFilter, tab: Tab) -> bool:
    shared = record.owner.kind is OwnerKind.GUILD and record.created_by == wanted.user_id
    if not shared and (tab is Tab.SHARED or record.owner != Owner(OwnerKind.USER, wanted.user_id)):
        return False
    if not all(word in label_key(record.label) or word in record.provider for word in wanted.words):
        return False
    if record.deleted_at is not None:
        return tab is Tab.REMOVED and record.deleted_at > wanted.restorable_since
    return tab is not Tab.REMOVED and (tab is not Tab.ATTENTION or need(record, wanted.now) is not Need.NOTHING)


def _live_name(record: CredentialRecord) -> tuple[Owner, str, str] | None:
    return None if record.deleted_at is not None else (record.owner, record.provider, label_key(record.label))


@like_an_engine
class FakeEncryptedRowRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def batch(
        self, column: EncryptedColumn, *, primary: int, after: str | None, limit: int
    ) -> Sequence[EncryptedRow]:
        return [each for each in self._rows(column, after) if each.key_version != primary][:limit]

    async def all(self, column: EncryptedColumn, *, after: str | None, limit: int) -> Sequence[EncryptedRow]:
        return self._rows(column, after)[:limit]

    async def swap(self, column: EncryptedColumn, rows: Sequence[Reencrypted]) -> int:
        table: Any = self._table(column)
        swapped = 0
        for new in rows:
            stored = table.get(new.row.id)
            if stored and (stored.version, stored.key_version) == (new.row.version, new.row.key_version):
                table[new.row.id] = replace(stored, **{column.field: new.value}, key_version=new.key_version)
                swapped += 1
        return swapped

    async def count(self, column: EncryptedColumn) -> int:
        return len(self._table(column))

    async def counts(self, column: EncryptedColumn) -> Mapping[int, int]:
        return Counter(each.key_version for each in self._table(column).values())

    def _table(self, column: EncryptedColumn) -> Mapping[str, CredentialRecord | HistoryRecord | TotpFactor]:
        tables: Mapping[EncryptedColumn, Mapping[str, CredentialRecord | HistoryRecord | TotpFactor]] = {
            CREDENTIAL_SECRETS: self._tables.credentials,
            FORMER_SECRETS: self._tables.history,
            TOTP_SECRETS: self._tables.factors,
        }
        return tables[column]

    def _rows(self, column: EncryptedColumn, after: str | None) -> list[EncryptedRow]:
        return [
            EncryptedRow(key, *self._owner(each), each.version, each.key_version, getattr(each, column.field))
            for key, each in sorted(self._table(column).items())
            if key > (after or "")
        ]

    def _owner(self, row: CredentialRecord | HistoryRecord | TotpFactor) -> tuple[str, str]:
        if isinstance(row, TotpFactor):
            return "user", row.user_id
        of = row if isinstance(row, CredentialRecord) else self._tables.credentials[row.credential_id]
        return of.owner.kind.value, of.owner.id
