"""The audit trail: an event is stored in the unit of work of the change that it records."""

from __future__ import annotations

from sqlalchemy import insert, select

from app.domain.audit import AuditEvent
from app.domain.canonical_json import canonical_json
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import ADDRESSES, audit_events, subjects
from app.services.ports import Randomness


class AuditRepositoryImpl:
    """See `app.services.ports.AuditRepository`."""

    def __init__(self, connection: Connection, randomness: Randomness) -> None:
        self._connection = connection
        self._randomness = randomness

    async def append(self, event: AuditEvent) -> None:
        address_id = None if event.address is None else await self._address_id(event.address)
        await self._connection.change(
            insert(audit_events).values(
                at=event.at,
                action=event.action,
                result=event.result,
                source=event.source,
                subject_id=event.subject_id,
                address_id=address_id,
                object_kind=event.object_kind,
                object_id=event.object_id,
                detail=canonical_json(event.detail),
            )
        )

    async def _address_id(self, address: str) -> str:
        """The random id that stands for an address, so that the address can be erased and the chain still verifies."""
        known = select(subjects.c.id).where(ADDRESSES, subjects.c.value == address)
        if (found := await self._connection.value(known)) is None:
            # Another process may be storing the same address: its row wins, whenever it commits.
            new = self._connection.dialect.insert(subjects).values(
                id=self._randomness.new_id(), kind="address", value=address
            )
            await self._connection.change(new.on_conflict_do_nothing(index_elements=["value"], index_where=ADDRESSES))
            found = await self._connection.value(known)
        return str(found)
