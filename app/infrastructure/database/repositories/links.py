"""One-time links."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, insert, select, update

from app.domain.identity import Role
from app.domain.links import Invitation, LinkPurpose, OneTimeLink
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import one_time_links, users

_TABLE = one_time_links.c
_INVITATION: Final = (_TABLE.id, _TABLE.role, _TABLE.issued_by, _TABLE.created_at, _TABLE.expires_at)


class OneTimeLinkRepositoryImpl:
    """See `app.services.ports.OneTimeLinkRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, link: OneTimeLink, token_hash: bytes) -> None:
        row = {
            "id": link.id,
            "purpose": link.purpose.value,
            "user_id": link.user_id,
            "token_hash": token_hash,
            "created_at": link.created_at,
            "expires_at": link.expires_at,
        }
        await self._connection.change(insert(one_time_links).values(row))

    async def add_invitation(self, invitation: Invitation, token_hash: bytes) -> None:
        row = {
            "id": invitation.id,
            "purpose": LinkPurpose.INVITE.value,
            "token_hash": token_hash,
            "created_at": invitation.created_at,
            "expires_at": invitation.expires_at,
            "role": invitation.role.value,
            "issued_by": invitation.issued_by,
        }
        await self._connection.change(insert(one_time_links).values(row))

    async def invitation(self, token_hash: bytes, now: datetime) -> Invitation | None:
        found = select(*_INVITATION).where(*_usable(token_hash, LinkPurpose.INVITE, now))
        row = await self._connection.row(found)
        return None if row is None else _to_invitation(row)

    async def invitation_of_id(self, invitation_id: str, now: datetime) -> Invitation | None:
        found = select(*_INVITATION).where(_TABLE.id == invitation_id, *_open(LinkPurpose.INVITE, now))
        row = await self._connection.row(found)
        return None if row is None else _to_invitation(row)

    async def invitations(self, now: datetime, *, after: str | None, limit: int) -> Sequence[Invitation]:
        found = select(*_INVITATION).where(*_open(LinkPurpose.INVITE, now)).order_by(_TABLE.id).limit(limit)
        if after is not None:
            found = found.where(_TABLE.id > after)
        return [_to_invitation(row) for row in await self._connection.rows(found)]

    async def withdraw_invitation(self, invitation_id: str) -> bool:
        unused = (_TABLE.purpose == LinkPurpose.INVITE.value, _TABLE.used_at.is_(None))
        return await self._connection.change(delete(one_time_links).where(_TABLE.id == invitation_id, *unused)) == 1

    async def withdraw_issued_by(self, user_id: str, roles: Collection[str]) -> int:
        theirs = (_TABLE.issued_by == user_id, _TABLE.role.in_(roles), _TABLE.used_at.is_(None))
        return await self._connection.change(delete(one_time_links).where(*theirs))

    async def usable(self, token_hash: bytes, purpose: LinkPurpose, now: datetime) -> OneTimeLink | None:
        statement = select(_TABLE.id, _TABLE.purpose, _TABLE.user_id, _TABLE.created_at, _TABLE.expires_at)
        row = await self._connection.row(statement.where(*_usable(token_hash, purpose, now)))
        if row is None:
            return None
        id_, stored, user_id, created_at, expires_at = row
        return OneTimeLink(
            id=id_, purpose=LinkPurpose(stored), user_id=user_id, created_at=created_at, expires_at=expires_at
        )

    async def use(self, token_hash: bytes, purpose: LinkPurpose, at: datetime) -> bool:
        used = update(one_time_links).where(*_usable(token_hash, purpose, at)).values(used_at=at)
        return await self._connection.change(used) == 1

    async def withdraw(self, user_id: str, purpose: LinkPurpose) -> int:
        # On PostgreSQL of two issues at once the later one waits here, and then deletes the link of the earlier one.
        await self._connection.row(select(users.c.id).where(users.c.id == user_id).with_for_update(key_share=True))
        theirs = (_TABLE.user_id == user_id, _TABLE.purpose == purpose.value, _TABLE.used_at.is_(None))
        return await self._connection.change(delete(one_time_links).where(*theirs))

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        return await self._connection.remove(one_time_links, _TABLE.expires_at < before, limit)


def _usable(token_hash: bytes, purpose: LinkPurpose, now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (_TABLE.token_hash == token_hash, *_open(purpose, now))


def _open(purpose: LinkPurpose, now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (_TABLE.purpose == purpose.value, _TABLE.used_at.is_(None), _TABLE.expires_at > now)


def _to_invitation(row: Sequence[Any]) -> Invitation:
    id_, role, issued_by, created_at, expires_at = row
    return Invitation(id=id_, role=Role(role), issued_by=issued_by, created_at=created_at, expires_at=expires_at)
