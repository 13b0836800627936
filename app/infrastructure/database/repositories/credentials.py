"""Credentials and their history: ciphertext and metadata.

A little longer than 400 lines, because its statements are built once, and stand in front of the repository.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    Update,
    bindparam,
    delete,
    func,
    or_,
    select,
    update,
)

from app.domain.credential_lists import ListFilter, ListPlace, Tab, TabCounts
from app.domain.credentials import AGED_AFTER, CredentialRecord, HistoryRecord, Owner, OwnerKind, Status, label_key
from app.domain.identity import User
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.repositories.credential_list import counts_statement, page_statement, parameters
from app.infrastructure.database.repositories.edited import id_of, is_end, owner_of
from app.infrastructure.database.repositories.identity import USER_COLUMNS, to_user
from app.infrastructure.database.schema import LIVE, SHARED, UNREADABLE, api_credentials, credential_history, users
from app.services.ports import ProviderTotals

# The index of the unique (credential_id, version) leads to the one row that is read.
_REPLACED_AT: Final = (
    select(credential_history.c.replaced_at)
    .where(credential_history.c.credential_id == api_credentials.c.id)
    .order_by(credential_history.c.version.desc())
    .limit(1)
    .scalar_subquery()
)
_COLUMNS: Final = (
    api_credentials.c.id,
    api_credentials.c.owner_kind,
    api_credentials.c.owner_id,
    api_credentials.c.provider,
    api_credentials.c.label,
    api_credentials.c.encrypted_value,
    api_credentials.c.key_version,
    api_credentials.c.version,
    api_credentials.c.fingerprint,
    api_credentials.c.status,
    api_credentials.c.created_by,
    api_credentials.c.created_at,
    api_credentials.c.updated_at,
    api_credentials.c.expires_at,
    api_credentials.c.last_used_at,
    api_credentials.c.last_verified_at,
    api_credentials.c.deleted_at,
    _REPLACED_AT,
)
_ALL: Final = select(*_COLUMNS)
# Built once, because building a statement takes longer than executing it.
_BY_ID: Final = _ALL.where(api_credentials.c.id == bindparam("key"))
_SHARED_BY: Final = _ALL.where(api_credentials.c.created_by == bindparam("this"), SHARED).order_by(api_credentials.c.id)
_MARK_USED: Final = (
    update(api_credentials)
    .where(
        api_credentials.c.id == bindparam("this"),
        or_(api_credentials.c.last_used_at.is_(None), api_credentials.c.last_used_at < bindparam("moment")),
    )
    .values(last_used_at=bindparam("moment"))
)

_VERIFYING: Final = frozenset({Status.VALID, Status.REFUSED})
"""The states that only the provider can give; the others leave the time of the last verification alone."""


@cache
def _swap(columns: tuple[str, ...]) -> Update:
    """Set these columns of a row that still has the expected version."""
    unchanged = (api_credentials.c.id == bindparam("this"), api_credentials.c.version == bindparam("expected"))
    values: dict[str, BindParameter[Any]] = {name: bindparam(f"new_{name}") for name in columns}
    return update(api_credentials).where(*unchanged).values(values)


_ROWS_OF_ACCOUNT: Final = (
    select(func.count().label("rows"))
    .select_from(api_credentials)
    .where(api_credentials.c.owner_kind == OwnerKind.USER, api_credentials.c.owner_id == bindparam("this"))
    .subquery()
)
_COUNT_AND_ACCOUNT: Final = select(_ROWS_OF_ACCOUNT.c.rows, *USER_COLUMNS).select_from(
    _ROWS_OF_ACCOUNT.outerjoin(users, users.c.id == bindparam("this"))
)


def _to_record(row: Sequence[Any]) -> CredentialRecord:
    return CredentialRecord(
        id=id_of(row[0]),
        owner=owner_of(row[1], row[2]),
        provider=row[3],
        label=row[4],
        encrypted_value=row[5],
        key_version=row[6],
        version=row[7],
        fingerprint=row[8],
        status=Status(row[9]),
        created_by=row[10],
        created_at=row[11],
        updated_at=row[12],
        expires_at=row[13],
        last_used_at=row[14],
        last_verified_at=row[15],
        deleted_at=row[16],
        replaced_at=row[17],
    )


_HISTORY: Final = select(
    credential_history.c.id,
    credential_history.c.credential_id,
    credential_history.c.version,
    credential_history.c.encrypted_value,
    credential_history.c.key_version,
    credential_history.c.created_at,
    credential_history.c.replaced_at,
)
_HISTORY_OF: Final = _HISTORY.where(credential_history.c.credential_id == bindparam("key")).order_by(
    credential_history.c.version.desc()
)
_FORMER: Final = _HISTORY.where(credential_history.c.id == bindparam("key"))

# As `expired` and `aged` have it (domain/credentials.py).
_TOTALS: Final = (
    select(
        api_credentials.c.provider,
        func.count(),
        func.count().filter(api_credentials.c.expires_at <= bindparam("now")),
        func.count().filter(func.coalesce(_REPLACED_AT, api_credentials.c.created_at) < bindparam("aged")),
        func.min(api_credentials.c.updated_at),
        func.max(api_credentials.c.last_used_at),
        func.max(api_credentials.c.last_verified_at),
    )
    .where(LIVE)
    .group_by(api_credentials.c.provider)
    .order_by(api_credentials.c.provider)
)
_TOTALS_OF_OWNER: Final = _TOTALS.where(
    api_credentials.c.owner_kind == bindparam("kind"), api_credentials.c.owner_id == bindparam("owner")
)
_TOTALS_BETWEEN: Final = _TOTALS.where(
    api_credentials.c.id > bindparam("after"), api_credentials.c.id <= bindparam("last")
)


def _to_former(row: Sequence[Any]) -> HistoryRecord:
    return HistoryRecord(
        id=row[0],
        credential_id=row[1],
        version=row[2],
        encrypted_value=row[3],
        key_version=row[4],
        created_at=row[5],
        replaced_at=row[6],
    )


def _of(owner: Owner) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return api_credentials.c.owner_kind == owner.kind, api_credentials.c.owner_id == owner.id


@cache
def _of_owner(given: tuple[str, ...], *, removed: bool) -> Select[*tuple[Any, ...]]:
    """The rows of an owner that have these values, in the order of their ids, from a page's end on."""
    column = api_credentials.c
    statement = _ALL.where(
        column.owner_kind == bindparam("kind"),
        column.owner_id == bindparam("owner"),
        column.deleted_at.is_not(None) if removed else column.deleted_at.is_(None),
    )
    for name in given:
        value: BindParameter[Any] = bindparam(name)
        statement = statement.where(column.id > value if name == "after" else column[name] == value)
    return statement.order_by(column.id).limit(bindparam("most", type_=Integer()))


class CredentialRepositoryImpl:
    """See `app.services.ports.CredentialRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, record: CredentialRecord) -> None:
        row = {
            "id": record.id,
            "owner_kind": record.owner.kind,
            "owner_id": record.owner.id,
            "provider": record.provider,
            "label": record.label,
            "label_key": label_key(record.label),
            "encrypted_value": record.encrypted_value,
            "key_version": record.key_version,
            "version": record.version,
            "fingerprint": record.fingerprint,
            "status": record.status,
            "created_by": record.created_by,
            "created_at": record.created_at,
            "updated_at": record.updated_at,
            "expires_at": record.expires_at,
            "last_used_at": record.last_used_at,
            "last_verified_at": record.last_verified_at,
            "deleted_at": record.deleted_at,
        }
        await self._connection.insert(api_credentials, row)

    async def get(self, credential_id: str) -> CredentialRecord | None:
        row = await self._connection.row(_BY_ID, {"key": credential_id})
        return None if row is None else _to_record(row)

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
        wanted = {
            "provider": provider,
            "created_by": created_by,
            "label_key": None if label is None else label_key(label),
            "after": after,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        owned = {"kind": owner.kind, "owner": owner.id, "most": limit}
        rows = await self._connection.rows(_of_owner(tuple(given), removed=removed), owned | given)
        return [_to_record(row) for row in rows]

    async def listed(
        self, wanted: ListFilter, tab: Tab, *, place: ListPlace | None, backwards: bool, limit: int
    ) -> Sequence[CredentialRecord]:
        statement = page_statement(_ALL, tab, len(wanted.words), begun=place is not None, backwards=backwards)
        rows = await self._connection.rows(statement, {**parameters(wanted, place), "most": limit})
        return [_to_record(row) for row in rows]

    async def tab_counts(self, wanted: ListFilter) -> TabCounts:
        row = await self._connection.row(counts_statement(len(wanted.words)), parameters(wanted))
        return TabCounts._make(row or (0, 0, 0, 0))

    async def shared_by(self, user_id: str) -> Sequence[CredentialRecord]:
        return [_to_record(row) for row in await self._connection.rows(_SHARED_BY, {"this": user_id})]

    async def reassign_sharer(self, source: str, target: str) -> int:
        """`created_by` is not part of what the envelope is bound to."""
        of_source = update(api_credentials).where(api_credentials.c.created_by == source, SHARED)
        return await self._connection.change(of_source.values(created_by=target))

    async def shares_of(self, user_id: str) -> Mapping[str, int]:
        # Counted here: to group them, SQLite would walk the index of owners through every row.
        of_user = select(api_credentials.c.owner_id).where(api_credentials.c.created_by == user_id, SHARED)
        return Counter(row[0] for row in await self._connection.rows(of_user))

    async def lock_owner(self, owner: Owner) -> None:
        """An advisory lock per owner; two owners whose numbers collide only wait for each other."""
        digest = hashlib.sha256(f"{owner.kind} {owner.id}".encode()).digest()
        await self._connection.lock(int.from_bytes(digest[:8], "big", signed=True))

    async def count(self, owner: Owner) -> int:
        statement = select(func.count()).select_from(api_credentials).where(*_of(owner))
        return int(await self._connection.value(statement))

    async def count_and_account(self, owner: Owner) -> tuple[int, User | None]:
        """One statement."""
        if owner.kind is not OwnerKind.USER:
            return await self.count(owner), None
        count, *account = await self._connection.row(_COUNT_AND_ACCOUNT, {"this": owner.id}) or (0, None)
        return count, None if account[0] is None else to_user(account)

    async def change(
        self, credential_id: str, *, expected_version: int, label: str, expires_at: datetime | None, at: datetime
    ) -> bool:
        return await self._swap(
            credential_id, expected_version, at, label=label, label_key=label_key(label), expires_at=expires_at
        )

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
        return await self._swap(
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
        return await self._swap(credential_id, expected_version, at, deleted_at=at if removed else None)

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
        return await self._swap(
            credential_id,
            expected_version,
            at,
            owner_kind=owner.kind,
            owner_id=owner.id,
            label=label,
            label_key=label_key(label),
            encrypted_value=encrypted_value,
            key_version=key_version,
        )

    async def mark_used(self, credential_id: str, at: datetime) -> None:
        """A late writer never sets the time back."""
        await self._connection.change(_MARK_USED, {"this": credential_id, "moment": at})

    async def set_status(self, credential_id: str, status: Status, at: datetime) -> None:
        """Not a change that people make, so the version stays."""
        verified = {"last_verified_at": at} if status in _VERIFYING else {}
        await self._connection.change(
            update(api_credentials).where(api_credentials.c.id == credential_id).values(status=status, **verified)
        )

    async def set_fingerprint(self, credential_id: str, *, expected_version: int, fingerprint: str | None) -> bool:
        """Not a change that people make, so the version stays."""
        statement = (
            update(api_credentials)
            .where(api_credentials.c.id == credential_id, api_credentials.c.version == expected_version)
            .values(fingerprint=fingerprint)
        )
        return await self._connection.change(statement) == 1

    async def forget_keys(self, *, opening: Sequence[int]) -> None:
        """Not a change that people make, so the versions stay."""
        await self._connection.change(update(api_credentials).values(fingerprint=None))
        lost = api_credentials.c.key_version.not_in(opening)
        await self._connection.change(update(api_credentials).where(lost).values(status=Status.UNREADABLE))

    async def page(self, *, after: str | None, limit: int) -> Sequence[CredentialRecord]:
        statement = _ALL.order_by(api_credentials.c.id).limit(limit)
        if after is not None:
            statement = statement.where(api_credentials.c.id > after)
        return [] if is_end(after) else [_to_record(row) for row in await self._connection.rows(statement)]

    async def unreadable(self, *, after: str | None, limit: int) -> Sequence[CredentialRecord]:
        statement = _ALL.where(UNREADABLE, LIVE).order_by(api_credentials.c.id).limit(limit)
        if after is not None:
            statement = statement.where(api_credentials.c.id > after)
        return [_to_record(row) for row in await self._connection.rows(statement)]

    async def totals_of_owner(self, owner: Owner, now: datetime) -> Sequence[ProviderTotals]:
        return await self._totals(_TOTALS_OF_OWNER, now, {"kind": owner.kind, "owner": owner.id})

    async def totals_between(self, after: str | None, last: str, now: datetime) -> Sequence[ProviderTotals]:
        return await self._totals(_TOTALS_BETWEEN, now, {"after": after or "", "last": last})

    async def _totals(
        self, statement: Select[*tuple[Any, ...]], now: datetime, these: Mapping[str, object]
    ) -> Sequence[ProviderTotals]:
        rows = await self._connection.rows(statement, {**these, "now": now, "aged": now - AGED_AFTER})
        return [ProviderTotals._make(row) for row in rows]

    async def purge(self, credential_id: str, *, expected_version: int) -> bool:
        """The history goes with the row."""
        removed = delete(api_credentials).where(
            api_credentials.c.id == credential_id,
            api_credentials.c.version == expected_version,
            api_credentials.c.deleted_at.is_not(None),
        )
        return await self._connection.change(removed) == 1

    async def guilds(self, *, after: str, limit: int) -> Sequence[str]:
        kind, owner = api_credentials.c.owner_kind, api_credentials.c.owner_id
        those = (
            select(owner).where(kind == OwnerKind.GUILD.value, owner > after).distinct().order_by(owner).limit(limit)
        )
        return [row[0] for row in await self._connection.rows(those)]

    async def purge_of(self, owner: Owner, *, limit: int) -> int:
        """The history goes with the rows."""
        kind, id_ = api_credentials.c.owner_kind, api_credentials.c.owner_id
        return await self._connection.remove(api_credentials, (kind == owner.kind.value) & (id_ == owner.id), limit)

    async def purge_removed(self, before: datetime, *, limit: int | None = None) -> int:
        """The history goes with the rows."""
        return await self._connection.remove(api_credentials, api_credentials.c.deleted_at < before, limit)

    async def add_history(self, record: HistoryRecord) -> None:
        row = {
            "id": record.id,
            "credential_id": record.credential_id,
            "version": record.version,
            "encrypted_value": record.encrypted_value,
            "key_version": record.key_version,
            "created_at": record.created_at,
            "replaced_at": record.replaced_at,
        }
        await self._connection.insert(credential_history, row)

    async def history(self, credential_id: str) -> Sequence[HistoryRecord]:
        return [_to_former(row) for row in await self._connection.rows(_HISTORY_OF, {"key": credential_id})]

    async def former(self, record_id: str) -> HistoryRecord | None:
        row = await self._connection.row(_FORMER, {"key": record_id})
        return None if row is None else _to_former(row)

    async def replace_history(self, record_id: str, *, encrypted_value: bytes, key_version: int) -> None:
        await self._connection.change(
            update(credential_history)
            .where(credential_history.c.id == record_id)
            .values(encrypted_value=encrypted_value, key_version=key_version)
        )

    async def drop_history(self, record_id: str) -> None:
        await self._connection.change(delete(credential_history).where(credential_history.c.id == record_id))

    async def _swap(self, credential_id: str, expected_version: int, at: datetime, **values: object) -> bool:
        """Compare and swap on the version: a caller that read an older row changes nothing."""
        values |= {"version": expected_version + 1, "updated_at": at}
        given = {f"new_{name}": value for name, value in values.items()}
        this = {"this": credential_id, "expected": expected_version}
        return await self._connection.change(_swap(tuple(values)), this | given) == 1
