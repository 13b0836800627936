"""The audit trail: an event is stored in the unit of work of the change that it records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

from sqlalchemy import Column, Integer, bindparam, func, insert, select

from app.domain.audit import AuditEvent, AuditFilter, AuditItem, PersonalUse
from app.domain.canonical_json import canonical_json
from app.domain.errors import StorageError
from app.infrastructure.database.columns import StoredMoment
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import ADDRESSES, USES, audit_events, subjects
from app.services.ports import Randomness

_GIVEN: Final[tuple[Column[Any], ...]] = (
    audit_events.c.at,
    audit_events.c.action,
    audit_events.c.result,
    audit_events.c.source,
    audit_events.c.subject_id,
    audit_events.c.object_kind,
    audit_events.c.object_id,
    audit_events.c.detail,
)
_LARGEST: Final = 2**63
_ATTEMPTS: Final = 3
"""One that finds the address, one after storing it, and one more where it was erased in between."""
# Built once: it stands in every unit of work that changes something.
_FROM_KNOWN_ADDRESS: Final = insert(audit_events).from_select(
    [*(column.name for column in _GIVEN), "address_id"],
    select(*(bindparam(column.name, type_=column.type) for column in _GIVEN), subjects.c.id).where(
        ADDRESSES, subjects.c.value == bindparam("address")
    ),
)
# The index of uses alone is read, from the latest entry on.
_LATEST_USES: Final = (
    select(func.substr(StoredMoment(audit_events.c.at), 1, 10).label("day"), audit_events.c.subject_id)
    .where(USES, audit_events.c.object_id == bindparam("this"), audit_events.c.at >= bindparam("since"))
    .order_by(audit_events.c.at.desc())
    .limit(bindparam("most", type_=Integer()))
    .subquery()
)
_USES_PER_DAY: Final = select(_LATEST_USES.c.day, func.count()).group_by(_LATEST_USES.c.day)
_USERS: Final = (
    select(_LATEST_USES.c.subject_id, func.count().label("uses"))
    .group_by(_LATEST_USES.c.subject_id)
    .order_by(func.count().desc(), _LATEST_USES.c.subject_id)
    .limit(bindparam("people", type_=Integer()))
    .subquery()
)
_NAME: Final = select(subjects.c.value).where(subjects.c.id == _USERS.c.subject_id).scalar_subquery()
_USES_PER_PERSON: Final = select(_USERS.c.subject_id, _NAME, _USERS.c.uses).order_by(
    _USERS.c.uses.desc(), _USERS.c.subject_id
)


class AuditRepositoryImpl:
    """See `app.services.ports.AuditRepository`."""

    def __init__(self, connection: Connection, randomness: Randomness) -> None:
        self._connection = connection
        self._randomness = randomness
        self.appended: list[AuditEvent] = []
        """The events of this unit of work, for the figures: nothing of it is committed yet."""

    async def append(self, event: AuditEvent) -> None:
        """One statement; two more where the address is new."""
        self.appended.append(event)
        row = {
            "at": event.at,
            "action": event.action,
            "result": event.result,
            "source": event.source,
            "subject_id": event.subject_id,
            "object_kind": event.object_kind,
            "object_id": event.object_id,
            "detail": canonical_json(event.detail),
        }
        if event.address is None:
            await self._connection.insert(audit_events, row)
            return
        for _ in range(_ATTEMPTS):
            if await self._connection.change(_FROM_KNOWN_ADDRESS, row | {"address": event.address}):
                return
            await self._add_address(event.address)
        lost = StorageError()
        lost.add_note("an address that was stored for the audit trail is not found again")
        raise lost

    async def page(
        self, wanted: AuditFilter, *, after: int | None, limit: int, oldest_first: bool
    ) -> Sequence[AuditItem]:
        """Read as the driver returns it, so that an edited row does not keep people from the others."""
        row, addresses = audit_events.c, subjects.alias("addresses")
        statement = (
            select(
                row.id,
                StoredMoment(row.at),
                subjects.c.value,
                row.action,
                row.object_kind,
                row.object_id,
                row.result,
                row.source,
                row.detail,
                addresses.c.value,
                row.subject_id,
            )
            .select_from(audit_events)
            .outerjoin(subjects, subjects.c.id == row.subject_id)
            .outerjoin(addresses, addresses.c.id == row.address_id)
            .order_by(row.id if oldest_first else row.id.desc())
            .limit(limit)
        )
        if wanted.subject_id is not None:
            statement = statement.where(row.subject_id == wanted.subject_id)
        if wanted.action is not None and "." in wanted.action:
            statement = statement.where(row.action == wanted.action)
        elif wanted.action is not None:  # a range and not LIKE, which ignores case on SQLite; "/" follows "."
            statement = statement.where(row.action > f"{wanted.action}.", row.action < f"{wanted.action}/")
        if wanted.about is not None:
            kind, object_id = wanted.about
            statement = statement.where(row.object_kind == kind, row.object_id == object_id)
        if wanted.result is not None:
            statement = statement.where(row.result == wanted.result)
        if wanted.since is not None:
            statement = statement.where(row.at >= wanted.since)
        if wanted.until is not None:
            statement = statement.where(row.at < wanted.until)
        if after is not None:
            statement = statement.where(row.id > after if oldest_first else row.id < after)
        return [_to_item(each) for each in await self._connection.tuples(statement)]

    async def uses_per_day(self, credential_id: str, *, since: datetime, most: int) -> Mapping[date, int]:
        """A row whose time was edited to something else counts for no day."""
        wanted = {"this": credential_id, "since": since, "most": most}
        rows = await self._connection.rows(_USES_PER_DAY, wanted)
        return {day: uses for text, uses in rows if (day := _day(text)) is not None}

    async def uses_per_person(
        self, credential_id: str, *, since: datetime, most: int, people: int
    ) -> Sequence[PersonalUse]:
        wanted = {"this": credential_id, "since": since, "most": most, "people": people}
        rows = await self._connection.rows(_USES_PER_PERSON, wanted)
        return [PersonalUse(name=name or subject_id, uses=uses) for subject_id, name, uses in rows]

    async def _add_address(self, address: str) -> None:
        """Store a random id that stands for an address, so that it can be erased and the chain still verifies."""
        # Another process may be storing the same address: its row wins, whenever it commits.
        new = self._connection.dialect.insert(subjects).values(
            id=self._randomness.new_id(), kind="address", value=address
        )
        await self._connection.change(new.on_conflict_do_nothing(index_elements=["value"], index_where=ADDRESSES))


def _to_item(row: Sequence[Any]) -> AuditItem:
    id_, at, name, action, kind, object_id, result, source, detail, address, subject_id = row
    members = _detail(detail)
    return AuditItem(
        id=str(id_),
        at=_moment(at),
        actor=name or subject_id,  # a person who was erased is only the random id any more
        action=str(action),
        about=None if kind is None else f"{kind}:{object_id}",
        result=str(result),
        source=str(source),
        detail=members if address is None else {**members, "address": address},
    )


def _moment(value: Any) -> datetime | None:
    """The moment of a text that `UtcDateTime` stores; None for anything else, also where UTC has no such time."""
    try:
        moment = datetime.fromisoformat(value)
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None


def _day(value: Any) -> date | None:
    try:
        return date.fromisoformat(value)
    except (ValueError, TypeError):
        return None


def _detail(value: Any) -> dict[str, Any]:
    try:
        members = json.loads(value)
        return members if isinstance(members, dict) and _showable(members) else {}
    except (ValueError, TypeError, RecursionError):
        return {}


def _showable(value: Any) -> bool:
    """Whether every way to show a row takes the value. Raises UnicodeEncodeError, a ValueError, and RecursionError."""
    if isinstance(value, dict):
        return all(_showable(each) for pair in value.items() for each in pair)
    if isinstance(value, list):
        return all(_showable(each) for each in value)
    if isinstance(value, str):
        value.encode()
        return True
    return value is None or (isinstance(value, int) and -_LARGEST <= value < _LARGEST)
