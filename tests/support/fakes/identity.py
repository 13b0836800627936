"""Repositories of users, sessions and attempts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.domain.errors import UniqueViolation
from app.domain.identity import Role, Session, User, UserFilter, name_key
from app.domain.links import Invitation, LinkPurpose, OneTimeLink
from app.domain.preferences import Preferences
from app.infrastructure.database.errors import ConstraintBroken
from app.services.ports import RefreshUse, SessionAndUser
from tests.support.fakes.tables import Tables, like_an_engine


def _is_wanted(user: User, wanted: UserFilter) -> bool:
    return (
        (wanted.name is None or name_key(wanted.name) in user.name_key)
        and (wanted.role is None or user.role.value == wanted.role.value)
        and (wanted.disabled is None or wanted.disabled == (user.disabled_at is not None))
    )


@like_an_engine
class FakeUserRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, user: User) -> None:
        if user.id in self._tables.users:
            raise UniqueViolation
        self._store(user)

    async def get(self, user_id: str) -> User | None:
        return self._tables.users.get(user_id)

    async def locked(self, user_id: str) -> User | None:
        return await self.get(user_id)

    async def by_name(self, name_key: str) -> User | None:
        return next((each for each in self._tables.users.values() if each.name_key == name_key), None)

    async def by_skeleton(self, name_skeleton: str) -> User | None:
        return next((each for each in self._tables.users.values() if each.name_skeleton == name_skeleton), None)

    async def by_discord(self, discord_id: str) -> User | None:
        return next((each for each in self._tables.users.values() if each.discord_id == discord_id), None)

    async def page(self, *, after: str | None, limit: int, wanted: UserFilter | None = None) -> Sequence[User]:
        found = [self._tables.users[key] for key in sorted(self._tables.users) if key > (after or "")]
        return [each for each in found if wanted is None or _is_wanted(each, wanted)][:limit]

    async def hold_roles(self) -> None:
        """There is one writer at a time."""

    async def active_owners(self) -> Sequence[str]:
        return [
            each.id
            for each in sorted(self._tables.users.values(), key=lambda user: user.id)
            if each.role.value == Role.OWNER.value
            and each.disabled_at is None
            and (
                each.password_hash is not None
                or each.discord_id is not None
                or any(passkey.user_id == each.id for passkey in self._tables.passkeys.values())
            )
        ]

    async def set_role(self, user_id: str, role: Role, at: datetime) -> None:
        self._change(user_id, role=Role(role.value))

    async def enable(self, user_id: str, at: datetime) -> None:
        self._change(user_id, disabled_at=None)

    async def forget_password(self, user_id: str, at: datetime) -> None:
        self._change(user_id, password_hash=None)

    async def rehash(self, user_id: str, password_hash: str, *, former: str | None, at: datetime) -> None:
        user = self._tables.users.get(user_id)
        if user is not None and user.password_hash == former:
            self._change(user_id, password_hash=password_hash)

    async def set_first_password(self, user_id: str, password_hash: str, at: datetime) -> bool:
        user = self._tables.users.get(user_id)
        if user is None or user.password_hash is not None or user.disabled_at is not None:
            return False
        self._change(user_id, password_hash=password_hash)
        return True

    async def set_password(self, user_id: str, password_hash: str, *, token_version: int, at: datetime) -> bool:
        user = self._tables.users.get(user_id)
        if user is None or user.token_version != token_version or user.disabled_at is not None:
            return False
        self._change(user_id, password_hash=password_hash)
        return True

    async def set_discord(self, user_id: str, discord_id: str | None, at: datetime) -> None:
        self._change(user_id, discord_id=discord_id)

    async def set_preferences(self, user_id: str, preferences: Preferences, at: datetime) -> None:
        self._change(user_id, preferences=preferences)

    async def disable(self, user_id: str, at: datetime) -> None:
        if user := self._tables.users.get(user_id):
            self._change(user_id, disabled_at=user.disabled_at or at, token_version=user.token_version + 1)

    async def claim_owner(self, user_id: str, at: datetime) -> None:
        if self._tables.owner_claim is not None:
            raise UniqueViolation
        self._tables.owner_claim = user_id

    async def owner_ever_existed(self) -> bool:
        return self._tables.owner_claim is not None

    def _change(self, user_id: str, **values: Any) -> None:
        if user := self._tables.users.get(user_id):
            self._store(replace(user, **values))

    def _store(self, user: User) -> None:
        for each in self._tables.users.values():
            if each.id != user.id and (
                each.name_key == user.name_key
                or each.name_skeleton == user.name_skeleton
                or each.subject_id == user.subject_id
                or (user.discord_id is not None and each.discord_id == user.discord_id)
            ):
                raise UniqueViolation
        self._tables.users[user.id] = user


@like_an_engine
class FakeSessionRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, session: Session, *, cookie_hash: bytes | None) -> None:
        if session.user_id not in self._tables.users:
            raise ConstraintBroken
        if session.id in self._tables.sessions or cookie_hash in self._tables.cookies:
            raise UniqueViolation
        self._tables.sessions[session.id] = session
        if cookie_hash is not None:
            self._tables.cookies[cookie_hash] = session.id

    async def get(self, session_id: str) -> SessionAndUser | None:
        session = self._tables.sessions.get(session_id)
        return SessionAndUser(session, self._tables.users[session.user_id]) if session else None

    async def locked(self, session_id: str) -> SessionAndUser | None:
        return await self.get(session_id)

    async def by_cookie(self, cookie_hash: bytes) -> SessionAndUser | None:
        return await self.get(self._tables.cookies.get(cookie_hash, ""))

    async def live_of(self, user_id: str, now: datetime) -> Sequence[Session]:
        live = [
            each
            for each in self._tables.sessions.values()
            if each.user_id == user_id and each.revoked_at is None and each.expires_at > now
        ]
        return sorted(sorted(live, key=lambda each: each.id), key=lambda each: each.last_seen_at, reverse=True)

    async def last_seen(self, user_ids: Sequence[str]) -> Mapping[str, datetime]:
        mine = [each for each in self._tables.sessions.values() if each.user_id in user_ids]
        return {each.user_id: each.last_seen_at for each in sorted(mine, key=lambda each: each.last_seen_at)}

    async def touch(self, session_id: str, at: datetime) -> None:
        session = self._tables.sessions.get(session_id)
        if session is not None and session.last_seen_at < at:
            self._change(session_id, last_seen_at=at)

    async def prove(self, session_id: str, at: datetime) -> None:
        self._change(session_id, authenticated_at=at)

    async def revoke(self, session_id: str, at: datetime) -> bool:
        session = self._tables.sessions.get(session_id)
        self._drop_refresh(session_id)
        if session is None or session.revoked_at is not None or session.expires_at <= at:
            return False
        self._change(session_id, revoked_at=at)
        return True

    async def revoke_all(self, at: datetime) -> int:
        return sum([await self.revoke(session_id, at) for session_id in self._tables.sessions])

    async def end_all_of(self, user_id: str, at: datetime, *, but: str | None = None) -> int:
        user = self._tables.users.get(user_id)
        if user is None:
            return 0
        user = self._tables.users[user_id] = replace(user, token_version=user.token_version + 1)
        for digest, (link, used) in list(self._tables.links.items()):
            if not isinstance(link, OneTimeLink):
                continue
            if (link.user_id, link.purpose, used) == (user_id, LinkPurpose.DISCORD, False):
                del self._tables.links[digest]
        mine = [each for each in self._tables.sessions.values() if each.user_id == user_id]
        kept = self._tables.sessions.get(but or "")
        if kept in mine and kept.revoked_at is None and kept.expires_at > at:
            self._change(kept.id, token_version=user.token_version)
        alive = [each.id for each in mine if each.id != but and each.revoked_at is None and each.expires_at > at]
        return sum([await self.revoke(each, at) for each in alive])

    async def addresses_of(self, user_id: str, limit: int) -> Sequence[str]:
        mine = [each for each in self._tables.sessions.values() if each.user_id == user_id and each.address]
        latest = sorted(mine, key=lambda each: each.last_seen_at, reverse=True)
        return list(dict.fromkeys(each.address for each in latest if each.address))[:limit]

    async def renew_cookie(self, session_id: str, new_hash: bytes) -> bool:
        former = next((each for each, owner in self._tables.cookies.items() if owner == session_id), None)
        if former is None:
            return False
        del self._tables.cookies[former]
        self._tables.cookies[new_hash] = session_id
        return True

    async def add_refresh(self, token_hash: bytes, session_id: str, *, at: datetime, expires_at: datetime) -> None:
        if session_id not in self._tables.sessions:
            raise ConstraintBroken
        if token_hash in self._tables.refresh_tokens:
            raise UniqueViolation
        self._tables.refresh_tokens[token_hash] = (session_id, expires_at, False)

    async def by_refresh(self, token_hash: bytes) -> SessionAndUser | None:
        return await self.get(self._tables.refresh_tokens.get(token_hash, ("",))[0])

    async def use_refresh(self, token_hash: bytes, at: datetime) -> RefreshUse | None:
        found = await self.by_refresh(token_hash)
        if found is None:
            return None
        session_id, expires_at, used = self._tables.refresh_tokens[token_hash]
        self._tables.refresh_tokens[token_hash] = (session_id, expires_at, True)
        return RefreshUse(found=found, first=not used, expires_at=expires_at)

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        ended = [
            each.id
            for each in self._tables.sessions.values()
            if each.expires_at < before or (each.revoked_at is not None and each.revoked_at < before)
        ]
        for session_id in ended:
            del self._tables.sessions[session_id]
            self._drop_refresh(session_id)
        self._tables.cookies = {each: id_ for each, id_ in self._tables.cookies.items() if id_ not in ended}
        return len(ended)

    def _drop_refresh(self, session_id: str) -> None:
        tokens = self._tables.refresh_tokens
        self._tables.refresh_tokens = {each: use for each, use in tokens.items() if use[0] != session_id}

    def _change(self, session_id: str, **values: Any) -> None:
        if session := self._tables.sessions.get(session_id):
            self._tables.sessions[session_id] = replace(session, **values)


@like_an_engine
class FakeAttemptRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def hit(self, keys: Collection[str], minute: datetime) -> None:
        for key in keys:
            self._tables.attempts[key, minute] = self._tables.attempts.get((key, minute), 0) + 1

    async def counts(self, since: Mapping[str, datetime]) -> Mapping[str, Sequence[tuple[datetime, int]]]:
        found: dict[str, list[tuple[datetime, int]]] = {}
        for (key, minute), number in sorted(self._tables.attempts.items(), key=lambda each: each[0][1]):
            if key in since and minute > since[key]:
                found.setdefault(key, []).append((minute, number))
        return found

    async def forget(self, prefixes: Collection[str]) -> int:
        gone = [each for each in self._tables.attempts if each[0].startswith(tuple(prefixes))]
        for each in gone:
            del self._tables.attempts[each]
        return len(gone)

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        gone = [each for each in self._tables.attempts if each[1] < before][:limit]
        for each in gone:
            del self._tables.attempts[each]
        return len(gone)


@like_an_engine
class FakeOneTimeLinkRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, link: OneTimeLink, token_hash: bytes) -> None:
        if link.user_id not in self._tables.users:
            raise ConstraintBroken
        self._add(link, token_hash)

    async def add_invitation(self, invitation: Invitation, token_hash: bytes) -> None:
        self._add(invitation, token_hash)

    def _add(self, link: OneTimeLink | Invitation, token_hash: bytes) -> None:
        if token_hash in self._tables.links or any(each.id == link.id for each, _ in self._tables.links.values()):
            raise UniqueViolation
        self._tables.links[token_hash] = (link, False)

    async def invitation(self, token_hash: bytes, now: datetime) -> Invitation | None:
        link, used = self._tables.links.get(token_hash, (None, True))
        return link if isinstance(link, Invitation) and not used and link.expires_at > now else None

    async def invitation_of_id(self, invitation_id: str, now: datetime) -> Invitation | None:
        return next((each for each in self._invitations() if each.id == invitation_id and each.expires_at > now), None)

    async def invitations(self, now: datetime, *, after: str | None, limit: int) -> Sequence[Invitation]:
        found = [each for each in self._invitations() if each.expires_at > now and each.id > (after or "")]
        return sorted(found, key=lambda each: each.id)[:limit]

    async def withdraw_invitation(self, invitation_id: str) -> bool:
        return self._drop(self._tokens_of(each.id for each in self._invitations() if each.id == invitation_id)) == 1

    async def withdraw_issued_by(self, user_id: str, roles: Collection[str]) -> int:
        theirs = (each.id for each in self._invitations() if each.issued_by == user_id and each.role.value in roles)
        return self._drop(self._tokens_of(theirs))

    def _invitations(self) -> Sequence[Invitation]:
        """Those that were not used."""
        found = self._tables.links.values()
        return [each for each, used in found if isinstance(each, Invitation) and not used]

    def _tokens_of(self, ids: Iterable[str]) -> list[bytes]:
        wanted = set(ids)
        return [token for token, (link, _) in self._tables.links.items() if link.id in wanted]

    async def usable(self, token_hash: bytes, purpose: LinkPurpose, now: datetime) -> OneTimeLink | None:
        link, used = self._tables.links.get(token_hash, (None, True))
        if not isinstance(link, OneTimeLink) or used or link.purpose.value != purpose.value or link.expires_at <= now:
            return None
        return link

    async def use(self, token_hash: bytes, purpose: LinkPurpose, at: datetime) -> bool:
        link: OneTimeLink | Invitation | None = await self.usable(token_hash, purpose, at)
        if purpose.value == LinkPurpose.INVITE.value:
            link = await self.invitation(token_hash, at)
        if link is not None:
            self._tables.links[token_hash] = (link, True)
        return link is not None

    async def withdraw(self, user_id: str, purpose: LinkPurpose) -> int:
        return self._drop(
            [
                token
                for token, (link, used) in self._tables.links.items()
                if isinstance(link, OneTimeLink)
                and link.user_id == user_id
                and link.purpose.value == purpose.value
                and not used
            ]
        )

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        return self._drop(
            [token for token, (link, _) in self._tables.links.items() if link.expires_at < before][:limit]
        )

    def _drop(self, tokens: list[bytes]) -> int:
        for each in tokens:
            del self._tables.links[each]
        return len(tokens)
