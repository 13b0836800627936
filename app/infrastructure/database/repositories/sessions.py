"""Sessions and their refresh tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, bindparam, delete, func, insert, or_, select, update

from app.domain.identity import Session
from app.domain.links import LinkPurpose
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.repositories.identity import USER_COLUMNS, to_user
from app.infrastructure.database.schema import one_time_links, refresh_tokens, sessions, users
from app.services.ports import RefreshUse, SessionAndUser

_COLUMNS: Final = (
    sessions.c.id,
    sessions.c.user_id,
    sessions.c.token_version,
    sessions.c.device,
    sessions.c.address,
    sessions.c.created_at,
    sessions.c.last_seen_at,
    sessions.c.authenticated_at,
    sessions.c.expires_at,
    sessions.c.revoked_at,
)
_WITH_USER: Final = select(*_COLUMNS, *USER_COLUMNS).join_from(sessions, users)

# Built once: building one takes longer than executing it.
_BY_ID: Final = _WITH_USER.where(sessions.c.id == bindparam("key"))
_BY_COOKIE: Final = _WITH_USER.where(sessions.c.cookie_hash == bindparam("key"))
_LOCK_USER: Final = (
    select(users.c.id)
    .where(users.c.id == select(sessions.c.user_id).where(sessions.c.id == bindparam("key")).scalar_subquery())
    .with_for_update(key_share=True)
)
_LOCKED: Final = _BY_ID.with_for_update(of=sessions, key_share=True)
_OF_REFRESH: Final = (
    sessions.c.id
    == select(refresh_tokens.c.session_id).where(refresh_tokens.c.token_hash == bindparam("key")).scalar_subquery()
)
_BY_REFRESH: Final = _WITH_USER.where(_OF_REFRESH)
_LOCK_BY_REFRESH: Final = select(sessions.c.id).where(_OF_REFRESH).with_for_update()
_OF_TOKEN: Final = select(refresh_tokens.c.expires_at).where(refresh_tokens.c.token_hash == bindparam("this"))
_USE_TOKEN: Final = (
    update(refresh_tokens)
    .where(refresh_tokens.c.token_hash == bindparam("this"), refresh_tokens.c.used_at.is_(None))
    .values(used_at=bindparam("moment"))
    .returning(refresh_tokens.c.expires_at)
)
_REVOKE: Final = (
    update(sessions)
    .where(
        sessions.c.id == bindparam("this"),
        sessions.c.revoked_at.is_(None),
        sessions.c.expires_at > bindparam("moment"),
    )
    .values(revoked_at=bindparam("moment"))
)
_SESSIONS_AT_ONCE: Final = 500
_DROP_TOKENS: Final = delete(refresh_tokens).where(refresh_tokens.c.session_id == bindparam("this"))
_TOUCH: Final = (
    update(sessions)
    .where(sessions.c.id == bindparam("this"), sessions.c.last_seen_at < bindparam("moment"))
    .values(last_seen_at=bindparam("moment"))
)


def _to_session(row: Sequence[Any]) -> Session:
    id_, user_id, token_version, device, address, created_at, last_seen_at, authenticated_at, expires_at, revoked = row
    return Session(
        id=id_,
        user_id=user_id,
        token_version=token_version,
        device=device,
        address=address,
        created_at=created_at,
        last_seen_at=last_seen_at,
        authenticated_at=authenticated_at,
        expires_at=expires_at,
        revoked_at=revoked,
    )


class SessionRepositoryImpl:
    """See `app.services.ports.SessionRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, session: Session, *, cookie_hash: bytes | None) -> None:
        row = {
            "id": session.id,
            "user_id": session.user_id,
            "cookie_hash": cookie_hash,
            "token_version": session.token_version,
            "device": session.device,
            "address": session.address,
            "created_at": session.created_at,
            "last_seen_at": session.last_seen_at,
            "authenticated_at": session.authenticated_at,
            "expires_at": session.expires_at,
            "revoked_at": session.revoked_at,
        }
        await self._connection.insert(sessions, row)

    async def get(self, session_id: str) -> SessionAndUser | None:
        """One statement."""
        return await self._one(_BY_ID, session_id)

    async def locked(self, session_id: str) -> SessionAndUser | None:
        """Two statements: the later one sees what was done to the user while the earlier one waited."""
        await self._connection.row(_LOCK_USER, {"key": session_id})
        return await self._one(_LOCKED, session_id)

    async def by_cookie(self, cookie_hash: bytes) -> SessionAndUser | None:
        """One statement."""
        return await self._one(_BY_COOKIE, cookie_hash)

    async def live_of(self, user_id: str, now: datetime) -> Sequence[Session]:
        statement = (
            select(*_COLUMNS)
            .where(sessions.c.user_id == user_id, sessions.c.revoked_at.is_(None), sessions.c.expires_at > now)
            .order_by(sessions.c.last_seen_at.desc(), sessions.c.id)
        )
        return [_to_session(row) for row in await self._connection.rows(statement)]

    async def last_seen(self, user_ids: Sequence[str]) -> Mapping[str, datetime]:
        """One statement."""
        statement = (
            select(sessions.c.user_id, func.max(sessions.c.last_seen_at))
            .where(sessions.c.user_id.in_(user_ids))
            .group_by(sessions.c.user_id)
        )
        return {row[0]: row[1] for row in await self._connection.rows(statement)}

    async def touch(self, session_id: str, at: datetime) -> None:
        """A late writer never sets the time back."""
        await self._connection.change(_TOUCH, {"this": session_id, "moment": at})

    async def prove(self, session_id: str, at: datetime) -> None:
        await self._connection.change(update(sessions).where(sessions.c.id == session_id).values(authenticated_at=at))

    async def revoke(self, session_id: str, at: datetime) -> bool:
        was_alive = await self._connection.change(_REVOKE, {"this": session_id, "moment": at}) == 1
        await self._connection.change(_DROP_TOKENS, {"this": session_id})
        return was_alive

    async def revoke_all(self, at: datetime) -> int:
        alive = (sessions.c.revoked_at.is_(None), sessions.c.expires_at > at)
        ended = await self._connection.change(update(sessions).where(*alive).values(revoked_at=at))
        await self._connection.change(delete(refresh_tokens))
        return ended

    async def end_all_of(self, user_id: str, at: datetime, *, but: str | None = None) -> int:
        # The user's row first: of two ends at once one waits here, and a sign-in that began before is refused or dead.
        version = await self._connection.value(
            update(users)
            .where(users.c.id == user_id)
            .values(token_version=users.c.token_version + 1, updated_at=at)
            .returning(users.c.token_version)
        )
        alive = (sessions.c.user_id == user_id, sessions.c.revoked_at.is_(None), sessions.c.expires_at > at)
        ending = update(sessions).where(*alive, sessions.c.id != (but or "")).values(revoked_at=at)
        ended = [row[0] for row in await self._connection.rows(ending.returning(sessions.c.id))]
        # By their ids: PostgreSQL would read every token to find those of a subquery's sessions.
        for begin in range(0, len(ended), _SESSIONS_AT_ONCE):
            some = refresh_tokens.c.session_id.in_(ended[begin : begin + _SESSIONS_AT_ONCE])
            await self._connection.change(delete(refresh_tokens).where(some))
        codes = (one_time_links.c.user_id == user_id, one_time_links.c.purpose == LinkPurpose.DISCORD.value)
        await self._connection.change(delete(one_time_links).where(*codes, one_time_links.c.used_at.is_(None)))
        if but is not None and version is not None:
            kept = update(sessions).where(*alive, sessions.c.id == but).values(token_version=version)
            await self._connection.change(kept)
        return len(ended)

    async def addresses_of(self, user_id: str, limit: int) -> Sequence[str]:
        named = (sessions.c.user_id == user_id, sessions.c.address.is_not(None))
        latest = func.max(sessions.c.last_seen_at).desc()
        statement = select(sessions.c.address).where(*named).group_by(sessions.c.address).order_by(latest).limit(limit)
        return [row[0] for row in await self._connection.rows(statement)]

    async def renew_cookie(self, session_id: str, new_hash: bytes) -> bool:
        this = (sessions.c.id == session_id) & sessions.c.cookie_hash.is_not(None)
        return await self._connection.change(update(sessions).where(this).values(cookie_hash=new_hash)) == 1

    async def add_refresh(self, token_hash: bytes, session_id: str, *, at: datetime, expires_at: datetime) -> None:
        row = {"token_hash": token_hash, "session_id": session_id, "issued_at": at, "expires_at": expires_at}
        await self._connection.change(insert(refresh_tokens), row)

    async def by_refresh(self, token_hash: bytes) -> SessionAndUser | None:
        """One statement."""
        return await self._one(_BY_REFRESH, token_hash)

    async def use_refresh(self, token_hash: bytes, at: datetime) -> RefreshUse | None:
        """Of any number of simultaneous uses exactly one is the first."""
        # The session's row is locked before its tokens, as `revoke` does: in any other order two reuses of one token
        # could wait for each other. Then session and user are read as they are after the wait.
        await self._connection.row(_LOCK_BY_REFRESH, {"key": token_hash})
        found = await self._one(_BY_REFRESH, token_hash)
        if found is None:
            return None
        if until := await self._connection.value(_USE_TOKEN, {"this": token_hash, "moment": at}):
            return RefreshUse(found=found, first=True, expires_at=until)
        if until := await self._connection.value(_OF_TOKEN, {"this": token_hash}):
            return RefreshUse(found=found, first=False, expires_at=until)
        return None

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        """Refresh tokens go with their sessions."""
        ended = or_(sessions.c.revoked_at < before, sessions.c.expires_at < before)
        return await self._connection.remove(sessions, ended, limit)

    async def _one(self, statement: Select[*tuple[Any, ...]], key: str | bytes) -> SessionAndUser | None:
        row = await self._connection.row(statement, {"key": key})
        if row is None:
            return None
        return SessionAndUser(_to_session(row[: len(_COLUMNS)]), to_user(row[len(_COLUMNS) :]))
