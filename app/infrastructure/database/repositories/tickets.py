"""Tickets that were used."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import spent_tickets


class SpentTicketRepositoryImpl:
    """See `app.services.ports.SpentTicketRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def spend(self, ticket_hash: bytes, expires_at: datetime) -> bool:
        row = {"ticket_hash": ticket_hash, "expires_at": expires_at}
        first = self._connection.dialect.insert(spent_tickets).values(row)
        return await self._connection.change(first.on_conflict_do_nothing()) == 1

    async def spent(self, ticket_hash: bytes) -> bool:
        used = select(spent_tickets.c.expires_at).where(spent_tickets.c.ticket_hash == ticket_hash)
        return await self._connection.row(used) is not None

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        return await self._connection.remove(spent_tickets, spent_tickets.c.expires_at < before, limit)
