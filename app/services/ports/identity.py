"""Ports for users, sessions, tokens, passwords and the limits on attempts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from app.domain.identity import Role, Session, User, UserFilter
from app.domain.preferences import Preferences
from app.domain.secrets import SecretBytes

# ---------------------------------------------------------------------------------------------------------------------
# Cryptography
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessClaims:
    """The claims of an access token (RFC 9068 names where it has them)."""

    user_id: str
    role: str
    session_id: str
    token_version: int
    token_id: str
    issued_at: datetime
    expires_at: datetime


class UnknownKeyId(Exception):
    """A well-formed token names a key version that is not loaded."""


class AccessTokens(Protocol):
    """HS256 JWTs of type ``at+jwt``."""

    def issue(self, claims: AccessClaims, *, key_version: int, material: SecretBytes) -> str:
        """Return the token in compact serialisation; times are cut to whole seconds."""
        ...

    def read(self, token: str, materials: Mapping[int, SecretBytes], now: datetime) -> AccessClaims:
        """Return the claims of a valid token.

        Raises UnknownKeyId where only the key version is unknown, InvalidToken for anything else.
        """
        ...


@dataclass(frozen=True, slots=True)
class PasswordCheck:
    """Whether the password matches, and whether the stored hash has outdated parameters."""

    ok: bool
    needs_rehash: bool


class PasswordHasher(Protocol):
    """Argon2id, off the event loop, a bounded number at once. Raises Overloaded when too many wait."""

    async def hash(self, password: str) -> str:
        """Return a PHC string."""
        ...

    async def verify(self, phc: str | None, password: str) -> PasswordCheck:
        """Check a password; None takes as long as a real hash and never matches."""
        ...

    async def is_guessable(self, password: str, *, context: Sequence[str]) -> bool:
        """Whether few guesses find it; ``context`` are words of the account (ASVS 5.0, 6.2.4)."""
        ...


# ---------------------------------------------------------------------------------------------------------------------
# Repositories
# ---------------------------------------------------------------------------------------------------------------------


class UserRepository(Protocol):
    """Users, and the subjects that stand for them in the audit trail. Changes of an unknown id are ignored."""

    async def add(self, user: User) -> None:
        """Store a new user with a subject of its own. Raises UniqueViolation for a taken name or Discord id."""
        ...

    async def get(self, user_id: str) -> User | None:
        """Return the user, or None."""
        ...

    async def locked(self, user_id: str) -> User | None:
        """Return the user, or None; others who lock, change or erase them wait until the unit of work ends."""
        ...

    async def by_name(self, name_key: str) -> User | None:
        """Return the user of that casefolded name, or None."""
        ...

    async def by_skeleton(self, name_skeleton: str) -> User | None:
        """Return the user whose name looks like that, or None."""
        ...

    async def by_discord(self, discord_id: str) -> User | None:
        """Return the user that is linked to that Discord account, or None."""
        ...

    async def page(self, *, after: str | None, limit: int, wanted: UserFilter | None = None) -> Sequence[User]:
        """Return users, all or those that are wanted, in the order of their ids, those after ``after``."""
        ...

    async def hold_roles(self) -> None:
        """Make others that call this wait until the unit of work ends, so that each sees the owners that there are."""
        ...

    async def active_owners(self) -> Sequence[str]:
        """Return the ids of the owners who can sign in: not disabled, with a password, a passkey or Discord."""
        ...

    async def set_role(self, user_id: str, role: Role, at: datetime) -> None:
        """Give a user another role."""
        ...

    async def enable(self, user_id: str, at: datetime) -> None:
        """Undo ``disable``; sessions stay ended."""
        ...

    async def forget_password(self, user_id: str, at: datetime) -> None:
        """Delete the password of a user."""
        ...

    async def rehash(self, user_id: str, password_hash: str, *, former: str | None, at: datetime) -> None:
        """Replace the hash ``former`` by another one of the same password; any other hash stays."""
        ...

    async def set_first_password(self, user_id: str, password_hash: str, at: datetime) -> bool:
        """Give a password to a user who has none and is not disabled; False where that is not so."""
        ...

    async def set_password(self, user_id: str, password_hash: str, *, token_version: int, at: datetime) -> bool:
        """Replace the password of a user who is not disabled and whose token version is still the given one.

        False where that is not so: the account was changed since it was read. The caller ends the sessions.
        """
        ...

    async def set_discord(self, user_id: str, discord_id: str | None, at: datetime) -> None:
        """Link a Discord account, or unlink it with None. Raises UniqueViolation for one that is taken."""
        ...

    async def set_preferences(self, user_id: str, preferences: Preferences, at: datetime) -> None:
        """Replace the language and the time zone of a user."""
        ...

    async def disable(self, user_id: str, at: datetime) -> None:
        """Disable, keeping the first time, and count the token version up, so that every session ends."""
        ...

    async def claim_owner(self, user_id: str, at: datetime) -> None:
        """Record, permanently, that an owner exists. Raises UniqueViolation if one ever did."""
        ...

    async def owner_ever_existed(self) -> bool:
        """Whether ``claim_owner`` ever succeeded."""
        ...


@dataclass(frozen=True, slots=True)
class SessionAndUser:
    """A session together with its user."""

    session: Session
    user: User


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshUse:
    """The result of presenting a refresh token of that session; ``first`` is False when it was used before."""

    found: SessionAndUser
    first: bool
    expires_at: datetime


class SessionRepository(Protocol):
    """Sessions and their refresh tokens. Changes of an unknown id are ignored."""

    async def add(self, session: Session, *, cookie_hash: bytes | None) -> None:
        """Store a new session of an existing user; a browser's has the hash of its cookie."""
        ...

    async def get(self, session_id: str) -> SessionAndUser | None:
        """Return the session, alive or not, with its user, or None."""
        ...

    async def locked(self, session_id: str) -> SessionAndUser | None:
        """The same; the user is locked first, then the session: nobody ends it before the unit of work ends."""
        ...

    async def by_cookie(self, cookie_hash: bytes) -> SessionAndUser | None:
        """Return the session of that cookie, alive or not, with its user, or None."""
        ...

    async def live_of(self, user_id: str, now: datetime) -> Sequence[Session]:
        """Return sessions that are neither revoked nor expired, latest seen first."""
        ...

    async def last_seen(self, user_ids: Sequence[str]) -> Mapping[str, datetime]:
        """Return when each of these users was last seen in a session that is still stored; one without is left out."""
        ...

    async def touch(self, session_id: str, at: datetime) -> None:
        """Set when the session was last seen; a time earlier than the stored one changes nothing."""
        ...

    async def prove(self, session_id: str, at: datetime) -> None:
        """Set when the user last proved the password in this session."""
        ...

    async def revoke(self, session_id: str, at: datetime) -> bool:
        """End a session and delete its refresh tokens; False if it was revoked or expired already, or is unknown."""
        ...

    async def revoke_all(self, at: datetime) -> int:
        """End every session and delete its refresh tokens; return how many sessions were alive."""
        ...

    async def end_all_of(self, user_id: str, at: datetime, *, but: str | None = None) -> int:
        """End every live session of a user except ``but``, and delete their refresh tokens; return how many.

        The user's token version is counted up; ``but``, if it is a live session of that user, gets the new one.

        Codes by which one of them would link a Discord account stop working.
        """
        ...

    async def addresses_of(self, user_id: str, limit: int) -> Sequence[str]:
        """Return the addresses that the user's sessions used last, also those that ended: each once, latest first."""
        ...

    async def renew_cookie(self, session_id: str, new_hash: bytes) -> bool:
        """Give a session of a browser another cookie; False where there is no such session."""
        ...

    async def add_refresh(self, token_hash: bytes, session_id: str, *, at: datetime, expires_at: datetime) -> None:
        """Store a refresh token of an existing session."""
        ...

    async def by_refresh(self, token_hash: bytes) -> SessionAndUser | None:
        """Return the session of that refresh token, used or not, with its user, or None."""
        ...

    async def use_refresh(self, token_hash: bytes, at: datetime) -> RefreshUse | None:
        """Use up a refresh token, atomically: of any number of uses one is first. None if there is no such token."""
        ...

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        """Delete sessions that ended before then, at most ``limit``, with their tokens; return how many sessions."""
        ...


class AttemptRepository(Protocol):
    """Wrong passwords, counted by key and minute, exact under concurrency."""

    async def hit(self, keys: Collection[str], minute: datetime) -> None:
        """Count one more in this minute for each of these keys, which differ."""
        ...

    async def counts(self, since: Mapping[str, datetime]) -> Mapping[str, Sequence[tuple[datetime, int]]]:
        """Return, for each of these keys, the counts of minutes that began after its time, in the order of time.

        A key without any is left out.
        """
        ...

    async def forget(self, prefixes: Collection[str]) -> int:
        """Delete every count whose key begins with one of these; return how many."""
        ...

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        """Delete the counts of minutes that began before then, at most ``limit``; return how many."""
        ...
