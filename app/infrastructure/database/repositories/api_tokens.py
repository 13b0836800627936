"""API tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, delete, func, or_, select, update

from app.domain.api_tokens import ApiToken
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.repositories.identity import USER_COLUMNS, to_user
from app.infrastructure.database.schema import api_tokens, users
from app.services.ports import ApiTokenAndUser

_TABLE: Final = api_tokens.c
_COLUMNS: Final = (
    _TABLE.id,
    _TABLE.user_id,
    _TABLE.name,
    _TABLE.prefix,
    _TABLE.scopes,
    _TABLE.guild_id,
    _TABLE.key_version,
    _TABLE.created_at,
    _TABLE.expires_at,
    _TABLE.last_used_at,
)
_WITH_USER: Final = select(*_COLUMNS, *USER_COLUMNS).join_from(api_tokens, users)

# Built once: building one takes longer than executing it.
_BY_MAC: Final = _WITH_USER.where(_TABLE.mac == bindparam("key"))
_LOCK_USER: Final = (
    select(users.c.id)
    .where(users.c.id == select(_TABLE.user_id).where(_TABLE.id == bindparam("key")).scalar_subquery())
    .with_for_update(key_share=True)
)
_LOCKED: Final = _WITH_USER.where(_TABLE.id == bindparam("key")).with_for_update(of=api_tokens, key_share=True)
_BY_MACS: Final = _WITH_USER.where(_TABLE.mac.in_(bindparam("keys", expanding=True)))
_TOUCH: Final = (
    update(api_tokens)
    .where(
        _TABLE.id == bindparam("this"),
        or_(_TABLE.last_used_at.is_(None), _TABLE.last_used_at < bindparam("moment")),
    )
    .values(last_used_at=bindparam("moment"))
)


def _to_token(row: Sequence[Any]) -> ApiToken:
    id_, user_id, name, prefix, scopes, guild_id, key_version, created_at, expires_at, last_used_at = row
    return ApiToken(
        id=id_,
        user_id=user_id,
        name=name,
        prefix=prefix,
        scopes=tuple(scopes.split()),
        guild_id=guild_id,
        key_version=key_version,
        created_at=created_at,
        expires_at=expires_at,
        last_used_at=last_used_at,
    )


def _with_user(row: Sequence[Any]) -> ApiTokenAndUser:
    return ApiTokenAndUser(_to_token(row[: len(_COLUMNS)]), to_user(row[len(_COLUMNS) :]))


def _unexpired(now: datetime) -> ColumnElement[bool]:
    return or_(_TABLE.expires_at.is_(None), _TABLE.expires_at > now)


class ApiTokenRepositoryImpl:
    """See `app.services.ports.ApiTokenRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, token: ApiToken, mac: bytes) -> None:
        row = {
            "id": token.id,
            "user_id": token.user_id,
            "name": token.name,
            "prefix": token.prefix,
            "mac": mac,
            "key_version": token.key_version,
            "scopes": " ".join(token.scopes),
            "guild_id": token.guild_id,
            "created_at": token.created_at,
            "expires_at": token.expires_at,
            "last_used_at": token.last_used_at,
        }
        await self._connection.insert(api_tokens, row)

    async def by_macs(self, macs: Collection[bytes]) -> ApiTokenAndUser | None:
        """One statement."""
        keys = list(macs)
        if len(keys) == 1:
            row = await self._connection.row(_BY_MAC, {"key": keys[0]})
        else:
            row = await self._connection.row(_BY_MACS, {"keys": keys})
        return None if row is None else _with_user(row)

    async def get(self, token_id: str) -> ApiToken | None:
        row = await self._connection.row(select(*_COLUMNS).where(_TABLE.id == token_id))
        return None if row is None else _to_token(row)

    async def locked(self, token_id: str) -> ApiTokenAndUser | None:
        """Two statements: the later one sees what was done to the owner while the earlier one waited."""
        await self._connection.row(_LOCK_USER, {"key": token_id})
        row = await self._connection.row(_LOCKED, {"key": token_id})
        return None if row is None else _with_user(row)

    async def page(self, user_id: str, *, after: str | None, limit: int) -> Sequence[ApiToken]:
        statement = select(*_COLUMNS).where(_TABLE.user_id == user_id).order_by(_TABLE.id.desc()).limit(limit)
        if after is not None:
            statement = statement.where(_TABLE.id < after)
        return [_to_token(row) for row in await self._connection.rows(statement)]

    async def count(self, user_id: str, now: datetime) -> int:
        # On PostgreSQL of two tokens at once the later one waits here, and then counts the earlier one too.
        await self._connection.row(select(users.c.id).where(users.c.id == user_id).with_for_update(key_share=True))
        counted = select(func.count()).select_from(api_tokens).where(_TABLE.user_id == user_id, _unexpired(now))
        return int(await self._connection.value(counted) or 0)

    async def touch(self, token_id: str, at: datetime) -> None:
        """A late writer never sets the time back."""
        await self._connection.change(_TOUCH, {"this": token_id, "moment": at})

    async def renew(self, token_id: str, *, former: int, mac: bytes, key_version: int) -> None:
        this = (_TABLE.id == token_id, _TABLE.key_version == former)
        await self._connection.change(update(api_tokens).where(*this).values(mac=mac, key_version=key_version))

    async def delete(self, token_id: str) -> bool:
        return await self._connection.change(delete(api_tokens).where(_TABLE.id == token_id)) == 1

    async def end_all_of(self, user_id: str) -> int:
        return await self._connection.change(delete(api_tokens).where(_TABLE.user_id == user_id))

    async def key_versions(self, now: datetime) -> Mapping[int, int]:
        counted = select(_TABLE.key_version, func.count()).where(_unexpired(now)).group_by(_TABLE.key_version)
        return {row[0]: row[1] for row in await self._connection.rows(counted)}

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        return await self._connection.remove(api_tokens, _TABLE.expires_at < before, limit)
