"""Everything about one person, by the list of tables in `app/infrastructure/database/personal_data.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, bindparam, delete, exists, select, update

from app.domain.privacy import ErasedRows, Erasure, Person, Section
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.personal_data import CREDENTIALS, PERSONAL, SESSIONS, SUBJECT, USER, PersonalTable
from app.infrastructure.database.schema import (
    ADDRESSES,
    api_credentials,
    audit_events,
    erasures,
    subjects,
    users,
)
from app.services.ports import PersonalRow

_ERASURE: Final = (erasures.c.user_id, erasures.c.subject_id, erasures.c.erased_at)
_LOCK: Final = select(users.c.id).where(users.c.id == bindparam("this")).with_for_update()
# In the order of their ids, in which a rotation locks them too: neither waits for the other in a circle.
_LOCK_CREDENTIALS: Final = (
    select(api_credentials.c.id, api_credentials.c.owner_kind)
    .where(*(each for each in (CREDENTIALS.theirs,) if each is not None))
    .order_by(api_credentials.c.id)
    .with_for_update()
)
_USED_BY_OTHERS: Final = exists().where(
    audit_events.c.address_id == subjects.c.id, audit_events.c.subject_id != bindparam(SUBJECT)
)
# Of rows by them, and of rows about them by nobody who is known, such as their own wrong passwords: two statements,
# since PostgreSQL would read every subject for a union.
_THEIR_ADDRESSES: Final = (
    select(audit_events.c.address_id).where(
        audit_events.c.subject_id == bindparam(SUBJECT), audit_events.c.address_id.is_not(None)
    ),
    select(audit_events.c.address_id).where(
        audit_events.c.object_kind == "user",
        audit_events.c.object_id == bindparam(USER),
        audit_events.c.subject_id.is_(None),
        audit_events.c.address_id.is_not(None),
    ),
)
_FORGET_ADDRESSES: Final = tuple(
    update(subjects)
    .where(ADDRESSES, subjects.c.id.in_(each), subjects.c.value != subjects.c.id, ~_USED_BY_OTHERS)
    .values(value=subjects.c.id)
    for each in _THEIR_ADDRESSES
)
_FORGET_NAME: Final = (
    update(subjects)
    .where(subjects.c.id == bindparam(SUBJECT), subjects.c.value != subjects.c.id)
    .values(value=subjects.c.id, user_id=None)
)


def _rows_of(personal: PersonalTable) -> Select[*tuple[Any, ...]]:
    columns = [each for each in personal.table.c if each.name not in personal.withheld]
    assert personal.theirs is not None  # noqa: S101 - every section has a condition
    return select(*columns).where(personal.theirs).order_by(*personal.table.primary_key.columns)


_ROWS: Final = {each.section: _rows_of(each) for each in PERSONAL if each.section is not None}
_DELETIONS: Final = {
    each.table.name: delete(each.table).where(each.theirs)
    for each in PERSONAL
    if each.theirs is not None and not each.stays
}


class PersonalDataRepositoryImpl:
    """See `app.services.ports.PersonalDataRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def rows(self, section: Section, person: Person) -> Sequence[PersonalRow]:
        """One statement."""
        statement = _ROWS[section]
        names = [str(each.name) for each in statement.selected_columns]
        found = await self._connection.rows(statement, _of(person))
        return [dict(zip(names, row, strict=True)) for row in found]

    async def lock(self, user_id: str) -> bool:
        return await self._connection.row(_LOCK, {"this": user_id}) is not None

    async def erase(self, person: Person, at: datetime) -> ErasedRows:
        these = _of(person)
        kinds = [row[1] for row in await self._connection.rows(_LOCK_CREDENTIALS, these)]
        deleted = {name: await self._connection.change(statement, these) for name, statement in _DELETIONS.items()}
        addresses = sum([await self._connection.change(each, these) for each in _FORGET_ADDRESSES])
        deleted["subjects"] = await self._connection.change(_FORGET_NAME, these)
        remembered = self._connection.dialect.insert(erasures).values(
            user_id=person.user_id, subject_id=person.subject_id, erased_at=at
        )
        await self._connection.change(remembered.on_conflict_do_nothing(index_elements=["user_id"]))
        shared = kinds.count("guild")
        own = {CREDENTIALS.table.name, SESSIONS.table.name}
        return ErasedRows(
            credentials=deleted[CREDENTIALS.table.name] - shared,
            shared=shared,
            sessions=deleted[SESSIONS.table.name],
            others=sum(number for name, number in deleted.items() if name not in own),
            addresses=addresses,
        )

    async def erasures(self, *, after: str | None, limit: int) -> Sequence[Erasure]:
        statement = select(*_ERASURE).order_by(erasures.c.user_id).limit(limit)
        if after is not None:
            statement = statement.where(erasures.c.user_id > after)
        return await self._erasures(statement)

    async def erased_since(self, since: datetime) -> Sequence[Erasure]:
        return await self._erasures(
            select(*_ERASURE).where(erasures.c.erased_at >= since).order_by(erasures.c.erased_at, erasures.c.user_id)
        )

    async def _erasures(self, statement: Select[*tuple[Any, ...]]) -> Sequence[Erasure]:
        rows = await self._connection.rows(statement)
        return [Erasure(user_id=row[0], subject_id=row[1], erased_at=row[2]) for row in rows]


def _of(person: Person) -> Mapping[str, str]:
    return {USER: person.user_id, SUBJECT: person.subject_id}
