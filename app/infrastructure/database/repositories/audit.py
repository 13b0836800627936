"""The audit trail: an event is stored in the unit of work of the change that it records."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Column, bindparam, insert, select

from app.domain.audit import AuditEvent
from app.domain.canonical_json import canonical_json
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import ADDRESSES, audit_events, subjects
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
# Built once: it stands in every unit of work that changes something.
_FROM_KNOWN_ADDRESS: Final = insert(audit_events).from_select(
    [*(column.name for column in _GIVEN), "address_id"],
    select(*(bindparam(column.name, type_=column.type) for column in _GIVEN), subjects.c.id).where(
        ADDRESSES, subjects.c.value == bindparam("address")
    ),
)


class AuditRepositoryImpl:
    """See `app.services.ports.AuditRepository`."""

    def __init__(self, connection: Connection, randomness: Randomness) -> None:
        self._connection = connection
        self._randomness = randomness

    async def append(self, event: AuditEvent) -> None:
        """One statement; two more where the address is new."""
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
        while not await self._connection.change(_FROM_KNOWN_ADDRESS, row | {"address": event.address}):
            await self._add_address(event.address)

    async def _add_address(self, address: str) -> None:
        """Store a random id that stands for an address, so that it can be erased and the chain still verifies."""
        # Another process may be storing the same address: its row wins, whenever it commits.
        new = self._connection.dialect.insert(subjects).values(
            id=self._randomness.new_id(), kind="address", value=address
        )
        await self._connection.change(new.on_conflict_do_nothing(index_elements=["value"], index_where=ADDRESSES))
