"""The database: its version, its clock, its connections, and some rows that nothing else asks for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import literal_column, select, text

from app.domain.audit import Action
from app.infrastructure.clock import SystemClock
from app.infrastructure.database.engine import Database
from app.infrastructure.database.schema import audit_events

_PRINTED: Final = (
    select(audit_events.c.at)
    .where(audit_events.c.action.in_([Action.MASTER_KEY_PRINTED.value]))
    .order_by(audit_events.c.id.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """``ahead`` is how far this machine's clock is ahead; it and the connections are a server's, None without one."""

    version: str
    ahead: timedelta | None = None
    connections: int | None = None
    most_connections: int | None = None


async def server_facts(database: Database, *, server: bool) -> ServerFacts:
    """Ask the database about itself. Raises StorageError."""
    async with database.read() as connection:
        if not server:
            return ServerFacts(version=f"SQLite {await connection.value(select(literal_column('sqlite_version()')))}")
        version = await connection.value(text("SHOW server_version"))
        most = await connection.value(text("SHOW max_connections"))
        used = await connection.value(
            text("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        )
        theirs: datetime = await connection.value(text("SELECT clock_timestamp()"))
    return ServerFacts(
        version=f"PostgreSQL {version}",
        ahead=SystemClock().now() - theirs,
        connections=int(used),
        most_connections=int(most),
    )


async def master_key_printed(database: Database) -> datetime | None:
    """When the master key was last put on paper; None where the audit trail has no such row. Raises StorageError."""
    async with database.read() as connection:
        at: datetime | None = await connection.value(_PRINTED)
    return at
