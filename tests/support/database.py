"""Databases at head, for tests that are about what is stored."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from subprocess import PIPE
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from app.domain.api_tokens import ApiToken
from app.domain.audit import Action, AuditEvent, Result
from app.domain.credentials import CredentialRecord, HistoryRecord, Owner, OwnerKind
from app.domain.identity import Role, Session, Source, User
from app.infrastructure.database.engine import open_database
from app.infrastructure.database.migrate import upgrade
from app.settings import DatabaseUrl
from tests.support.environment import process_environment
from tests.support.processes import Process
from tests.support.snapshots import DatabaseSnapshot, is_empty, kind

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from app.infrastructure.database.dialects import Timeouts
    from app.infrastructure.database.engine import Connection, Database

NOW = datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC)
ALICE = Owner(OwnerKind.USER, "user-alice")


@asynccontextmanager
async def migrated(url: str, *, timeouts: Timeouts | None = None) -> AsyncIterator[Database]:
    """Open a database, its schema at head; the file of an embedded one is made.

    The first one of its kind is migrated; the result is copied from then on.
    """
    if await is_empty(url):
        if kind(url) not in _AT_HEAD:
            async with open_database(DatabaseUrl.parse(url), may_create=True) as database:
                await upgrade(database)
            _AT_HEAD[kind(url)] = DatabaseSnapshot.of(url)
        else:
            await _AT_HEAD[kind(url)].copy(url)
    async with open_database(DatabaseUrl.parse(url), may_create=True, timeouts=timeouts) as database:
        await upgrade(database)
        yield database


_AT_HEAD: Final[dict[str, DatabaseSnapshot]] = {}


async def until_waiting(connection: Connection, count: int, *tasks: asyncio.Task[Any]) -> None:
    """Return once so many wait for a lock in this PostgreSQL database; none of the tasks may get through without."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while True:
        await connection.row(text("SELECT pg_stat_clear_snapshot()"))  # else a transaction sees what it saw at first
        if await connection.value(text(waiting)) >= count:
            return
        assert not any(each.done() for each in tasks), tasks


def start_python(program: str, *arguments: str) -> Process:
    """Start a process that runs ``program`` with the project importable; it talks over pipes."""
    return Process("-c", program, *arguments, env=process_environment(), stdin=PIPE, stderr=PIPE)


def finish(process: Process) -> str:
    """Wait for a process that must succeed; return what it printed."""
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return out


def user(name: str = "Alice", *, discord_id: str | None = None, role: Role = Role.MEMBER) -> User:
    """A user whose ids follow from the name."""
    key = name.casefold()
    return User(
        id=f"user-{key}",
        subject_id=f"subject-{key}",
        username=name,
        role=role,
        password_hash="$argon2id$not-checked",
        discord_id=discord_id,
        created_at=NOW,
    )


def session(id_: str = "session-1", *, seen: datetime = NOW, lasts: timedelta = timedelta(days=30)) -> Session:
    """A session of Alice's."""
    return Session(
        id=id_,
        user_id="user-alice",
        token_version=1,
        device="Firefox",
        address="192.0.2.7",
        created_at=NOW,
        last_seen_at=seen,
        authenticated_at=NOW,
        expires_at=NOW + lasts,
    )


def api_token(id_: str = "token-1") -> ApiToken:
    """An API token of Alice's."""
    return ApiToken(
        id=id_,
        user_id="user-alice",
        name="ci",
        prefix="kh_abcdef",
        scopes=("credentials:read", "metrics"),
        guild_id=None,
        key_version=1,
        created_at=NOW,
        expires_at=None,
    )


def credential(id_: str = "credential-1", *, owner: Owner = ALICE, label: str = "Main") -> CredentialRecord:
    """A credential; what is encrypted is not looked at."""
    return CredentialRecord(
        id=id_,
        owner=owner,
        provider="openai",
        label=label,
        encrypted_value=b"\x00\xff envelope",
        key_version=0xFFFF_FFFF,
        fingerprint="00ff00ff00ff00ff",
        created_by="user-alice",
        created_at=NOW,
        updated_at=NOW,
        expires_at=NOW + timedelta(days=90),
    )


def former(version: int, *, credential_id: str = "credential-1") -> HistoryRecord:
    """A former secret of a credential."""
    return HistoryRecord(
        id=f"{credential_id}/{version}",
        credential_id=credential_id,
        version=version,
        encrypted_value=b"former \x00",
        key_version=1,
        created_at=NOW,
        replaced_at=NOW + timedelta(hours=version),
    )


def event(*, subject_id: str | None = None, address: str | None = None) -> AuditEvent:
    """A row of the audit trail."""
    return AuditEvent(
        at=NOW,
        action=Action.CREDENTIAL_USED,
        result=Result.OK,
        source=Source.DISCORD,
        subject_id=subject_id,
        address=address,
        object_kind="credential",
        object_id="credential-1",
        detail={"paid_by": "member", "attempt": 2, "über": "ß"},
    )
