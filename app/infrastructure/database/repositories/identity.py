"""Users and the subjects that stand for them in the audit trail."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, bindparam, exists, func, insert, literal, or_, select, update

from app.domain.identity import Role, User, UserFilter, name_key
from app.domain.preferences import Language, Preferences
from app.infrastructure.database.columns import UtcDateTime
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import OWNERS, owner_claim, passkeys, subjects, users

USER_COLUMNS = (
    users.c.id,
    users.c.subject_id,
    users.c.username,
    users.c.role,
    users.c.password_hash,
    users.c.discord_id,
    users.c.token_version,
    users.c.disabled_at,
    users.c.created_at,
    users.c.language,
    users.c.time_zone,
)
"""The columns that `to_user` takes, in this order."""

_LANGUAGES: Final = {each.value: each for each in Language}
_ROLES_LOCK: Final = 0x6B65_7968_616C_6C04
_CAN_SIGN_IN: Final = (
    users.c.disabled_at.is_(None),
    or_(
        users.c.password_hash.is_not(None),
        users.c.discord_id.is_not(None),
        exists().where(passkeys.c.user_id == users.c.id),
    ),
)
# Built once, because building a statement takes longer than executing it.
_BY_ID: Final = select(*USER_COLUMNS).where(users.c.id == bindparam("this"))
# Weaker than FOR UPDATE: rows that refer to the user can be added meanwhile.
_LOCKED: Final = _BY_ID.with_for_update(key_share=True)
_BY_NAME: Final = select(*USER_COLUMNS).where(users.c.name_key == bindparam("this"))
_BY_SKELETON: Final = select(*USER_COLUMNS).where(users.c.name_skeleton == bindparam("this"))
_BY_DISCORD: Final = select(*USER_COLUMNS).where(users.c.discord_id == bindparam("this"))


def to_user(row: Sequence[Any]) -> User:
    """The user of a row of USER_COLUMNS."""
    id_, subject_id, username, role, password_hash, discord_id, token_version, disabled_at, created_at, *preferred = row
    language, time_zone = preferred
    return User(
        id=id_,
        subject_id=subject_id,
        username=username,
        role=Role(role),
        password_hash=password_hash,
        discord_id=discord_id,
        token_version=token_version,
        disabled_at=disabled_at,
        created_at=created_at,
        # A newer version may have stored a language that this one does not have.
        preferences=Preferences(language=_LANGUAGES.get(language), time_zone=time_zone),
    )


class UserRepositoryImpl:
    """See `app.services.ports.UserRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, user: User) -> None:
        subject = insert(subjects).values(id=user.subject_id, kind="user", value=user.username, user_id=user.id)
        await self._connection.change(subject)
        await self._connection.change(
            insert(users).values(
                id=user.id,
                subject_id=user.subject_id,
                username=user.username,
                name_key=user.name_key,
                name_skeleton=user.name_skeleton,
                role=user.role,
                password_hash=user.password_hash,
                discord_id=user.discord_id,
                token_version=user.token_version,
                disabled_at=user.disabled_at,
                created_at=user.created_at,
                updated_at=user.created_at,
                language=user.preferences.language,
                time_zone=user.preferences.time_zone,
            )
        )

    async def get(self, user_id: str) -> User | None:
        return await self._one(_BY_ID, user_id)

    async def locked(self, user_id: str) -> User | None:
        return await self._one(_LOCKED, user_id)

    async def by_name(self, name_key: str) -> User | None:
        return await self._one(_BY_NAME, name_key)

    async def by_skeleton(self, name_skeleton: str) -> User | None:
        return await self._one(_BY_SKELETON, name_skeleton)

    async def by_discord(self, discord_id: str) -> User | None:
        return await self._one(_BY_DISCORD, discord_id)

    async def page(self, *, after: str | None, limit: int, wanted: UserFilter | None = None) -> Sequence[User]:
        statement = select(*USER_COLUMNS).order_by(users.c.id).limit(limit)
        if after is not None:
            statement = statement.where(users.c.id > after)
        if wanted is not None and wanted.name is not None:
            statement = statement.where(users.c.name_key.contains(name_key(wanted.name), autoescape=True))
        if wanted is not None and wanted.role is not None:
            statement = statement.where(users.c.role == wanted.role.value)
        if wanted is not None and wanted.disabled is not None:
            disabled = users.c.disabled_at
            statement = statement.where(disabled.is_not(None) if wanted.disabled else disabled.is_(None))
        return [to_user(row) for row in await self._connection.rows(statement)]

    async def hold_roles(self) -> None:
        await self._connection.lock(_ROLES_LOCK)

    async def active_owners(self) -> Sequence[str]:
        found = select(users.c.id).where(OWNERS, *_CAN_SIGN_IN)
        return [row[0] for row in await self._connection.rows(found)]

    async def set_role(self, user_id: str, role: Role, at: datetime) -> None:
        await self._update(user_id, role=role.value, updated_at=at)

    async def enable(self, user_id: str, at: datetime) -> None:
        await self._update(user_id, disabled_at=None, updated_at=at)

    async def forget_password(self, user_id: str, at: datetime) -> None:
        await self._update(user_id, password_hash=None, updated_at=at)

    async def rehash(self, user_id: str, password_hash: str, *, former: str | None, at: datetime) -> None:
        this = (users.c.id == user_id, users.c.password_hash == former)
        await self._connection.change(update(users).where(*this).values(password_hash=password_hash, updated_at=at))

    async def set_first_password(self, user_id: str, password_hash: str, at: datetime) -> bool:
        this = (users.c.id == user_id, users.c.password_hash.is_(None), users.c.disabled_at.is_(None))
        given = update(users).where(*this).values(password_hash=password_hash, updated_at=at)
        return await self._connection.change(given) == 1

    async def set_password(self, user_id: str, password_hash: str, *, token_version: int, at: datetime) -> bool:
        this = (users.c.id == user_id, users.c.token_version == token_version, users.c.disabled_at.is_(None))
        given = update(users).where(*this).values(password_hash=password_hash, updated_at=at)
        return await self._connection.change(given) == 1

    async def set_discord(self, user_id: str, discord_id: str | None, at: datetime) -> None:
        await self._update(user_id, discord_id=discord_id, updated_at=at)

    async def set_preferences(self, user_id: str, preferences: Preferences, at: datetime) -> None:
        await self._update(user_id, language=preferences.language, time_zone=preferences.time_zone, updated_at=at)

    async def disable(self, user_id: str, at: datetime) -> None:
        await self._update(
            user_id,
            disabled_at=func.coalesce(users.c.disabled_at, literal(at, UtcDateTime)),
            token_version=users.c.token_version + 1,
            updated_at=at,
        )

    async def claim_owner(self, user_id: str, at: datetime) -> None:
        await self._connection.change(insert(owner_claim).values(id=1, user_id=user_id, claimed_at=at))

    async def owner_ever_existed(self) -> bool:
        return await self._connection.row(select(owner_claim.c.id)) is not None

    async def _one(self, statement: Select[*tuple[Any, ...]], this: str) -> User | None:
        row = await self._connection.row(statement, {"this": this})
        return None if row is None else to_user(row)

    async def _update(self, user_id: str, **values: object) -> None:
        await self._connection.change(update(users).where(users.c.id == user_id).values(**values))
