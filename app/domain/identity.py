"""Users, sessions and actors: who acts, from where, and the permissions of each role."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from app.domain.errors import Forbidden, InvalidInput, MissingScope, ReauthenticationRequired
from app.domain.key_shapes import looks_like_key
from app.domain.lookalikes import skeleton
from app.domain.preferences import AUTOMATIC, Preferences
from app.domain.scopes import OF_CREDENTIALS, USE_OF_ONE, Scope, kind_of
from app.domain.text import line, opaque

REAUTHENTICATION_LASTS: Final = timedelta(minutes=10)
"""How long a proven password counts for revealing a secret (ASVS 5.0, 7.5)."""

NOT_PROVEN: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""``authenticated_at`` of a session in which nothing of the account's own was proven yet, only Discord."""

SESSION_IDLE: Final = timedelta(days=7)
"""A session ends after this long without use (ASVS 5.0, 7.3.1)."""

USERNAME_SHORTEST: Final = 2
USERNAME_LONGEST: Final = 64
PASSWORD_SHORTEST: Final = 12
PASSWORD_LONGEST: Final = 256
REASON_LONGEST: Final = 200
SNOWFLAKE_PATTERN: Final = "[1-9][0-9]{0,19}"
_SNOWFLAKE: Final = re.compile(SNOWFLAKE_PATTERN, re.ASCII)


class Role(StrEnum):
    """Four roles; each is a set of permissions, checked in the services."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    AUDITOR = "auditor"

    def grants(self, permission: Permission) -> bool:
        """Whether it grants that permission."""
        return permission in _GRANTS[self]

    def covers(self, other: Role) -> bool:
        """Whether it grants everything that the other one grants."""
        return _GRANTS[other] <= _GRANTS[self]


class Permission(StrEnum):
    """A permission that a service may require of an actor."""

    USE_OWN_CREDENTIALS = "use_own_credentials"
    USE_ENVIRONMENT_CREDENTIALS = "use_environment_credentials"
    SEE_KEYS = "see_keys"
    SEE_ALL_CREDENTIALS = "see_all_credentials"
    MANAGE_GUILD_CREDENTIALS = "manage_guild_credentials"
    MANAGE_USERS = "manage_users"
    MANAGE_KEYS = "manage_keys"
    MANAGE_BACKUPS = "manage_backups"
    READ_AUDIT = "read_audit"
    CLEAR_CACHES = "clear_caches"
    READ_METRICS = "read_metrics"


_GRANTS: Final = {
    Role.OWNER: frozenset(Permission),
    Role.ADMIN: frozenset(Permission) - {Permission.MANAGE_KEYS},
    Role.MEMBER: frozenset({Permission.USE_OWN_CREDENTIALS}),
    Role.AUDITOR: frozenset(
        {Permission.READ_AUDIT, Permission.SEE_KEYS, Permission.SEE_ALL_CREDENTIALS, Permission.READ_METRICS}
    ),
}

_SCOPES: Final = {
    # A method that acts on credentials names the one scope that it is about (`Actor.require_scope`).
    Permission.USE_OWN_CREDENTIALS: OF_CREDENTIALS,
    Permission.MANAGE_GUILD_CREDENTIALS: OF_CREDENTIALS,
    Permission.USE_ENVIRONMENT_CREDENTIALS: frozenset({Scope.CREDENTIALS_USE}),
    Permission.SEE_ALL_CREDENTIALS: frozenset({Scope.CREDENTIALS_READ}),
    Permission.SEE_KEYS: frozenset({Scope.KEYS_READ}),
    Permission.MANAGE_KEYS: frozenset({Scope.KEYS_MANAGE}),
    Permission.CLEAR_CACHES: frozenset({Scope.KEYS_MANAGE}),
    Permission.MANAGE_USERS: frozenset({Scope.USERS_MANAGE}),
    Permission.READ_AUDIT: frozenset({Scope.AUDIT_READ}),
    Permission.READ_METRICS: frozenset({Scope.METRICS}),
}
"""The scopes of which an API token needs one for a permission of its owner. A permission that is not here is for people
alone: no token has it.
"""
_WITHIN_A_GUILD: Final = frozenset({Permission.USE_OWN_CREDENTIALS, Permission.MANAGE_GUILD_CREDENTIALS})
"""The permissions of a token that is bound to a guild; which credentials are the guild's, `access` decides."""


class Source(StrEnum):
    """Where an action came from, as the audit trail names it."""

    WEB = "web"
    DISCORD = "discord"
    CLI = "cli"
    SYSTEM = "system"


class Registration(StrEnum):
    """Who gets an account at their first use on Discord."""

    GUILD = "guild"
    INVITE = "invite"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Where a request comes from. ``address`` is an IP address; ``device`` a short text for the session list.

    ``claim`` is what a browser sends to show that it signed in before; it may be anything.
    """

    source: Source
    address: str | None = None
    device: str | None = None
    claim: str | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuildContext:
    """The guild an interaction came from, from the gateway event alone, never from parameters."""

    guild_id: str
    role_ids: frozenset[str] = frozenset()
    manages_guild: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """An identified user, for the length of one request.

    ``subject_id`` stands for the person in the audit trail, None for the operator at the CLI, who acts for a user.
    ``reason`` is why they act, in their words (`because`).
    ``scopes`` are those of the API token ``token_id`` that stands for the user, None where the user is there in person.
    ``bound_to`` is the guild whose credentials are the only ones that the token reaches; that its owner is a member of
    that guild is not known, unlike of ``guild``.
    ``authenticated_at`` is when a password, a second factor or a passkey was last proven in this session, NOT_PROVEN
    where Discord alone began it, None without a session (Discord, CLI).
    """

    user_id: str
    subject_id: str | None
    username: str
    role: Role
    client: Client
    session_id: str | None = None
    authenticated_at: datetime | None = None
    discord_id: str | None = None
    guild: GuildContext | None = None
    reason: str | None = None
    scopes: frozenset[str] | None = None
    token_id: str | None = None
    bound_to: str | None = None
    preferences: Preferences = AUTOMATIC

    def because(self, reason: str | None) -> Actor:
        """The same actor with the reason for what they are about to do, which stands in every audit row of it.

        Raises InvalidInput for more than a line of 200 characters, or for one that a key may be in.
        """
        if reason is None:
            return self
        text = line(reason, "reason", longest=REASON_LONGEST)
        if looks_like_key(text):
            raise InvalidInput("reason", "must not hold a key: it stands in the audit trail")
        return replace(self, reason=text)

    def may(self, permission: Permission) -> bool:
        """Whether the role grants it and, for an API token, one of its scopes does too."""
        return self.role.grants(permission) and (self.scopes is None or self._scoped(permission, self.scopes))

    def _scoped(self, permission: Permission, scopes: frozenset[str]) -> bool:
        if self.bound_to is not None and permission not in _WITHIN_A_GUILD:
            return False
        wanted = _SCOPES.get(permission, frozenset())
        return not wanted.isdisjoint(scopes) or (
            permission is Permission.USE_OWN_CREDENTIALS and any(each.startswith(USE_OF_ONE) for each in scopes)
        )

    def require(self, permission: Permission) -> None:
        """Raise Forbidden unless the role grants it, MissingScope where the scopes of an API token do not."""
        if not self.role.grants(permission):
            raise Forbidden
        if not self.may(permission):
            wanted = _SCOPES.get(permission)
            raise MissingScope(" or ".join(sorted(wanted)) if wanted and self.bound_to is None else None)

    def has_scope(self, scope: Scope) -> bool:
        """Whether the user is there in person, or by an API token with that scope."""
        return self.scopes is None or scope in self.scopes

    def require_scope(self, scope: Scope) -> None:
        """Raise MissingScope for an API token without that scope."""
        if not self.has_scope(scope):
            raise MissingScope(scope)

    def require_person(self) -> None:
        """Raise MissingScope for any API token: for acts that no scope allows, such as changes of the own account."""
        if self.scopes is not None:
            raise MissingScope

    def require_use(self) -> None:
        """Raise MissingScope for an API token that may use no credential at all."""
        if self.scopes is not None and all(kind_of(each) != Scope.CREDENTIALS_USE for each in self.scopes):
            raise MissingScope(Scope.CREDENTIALS_USE)

    def may_use(self, credential_id: str | None) -> bool:
        """Whether the scopes allow the use of that credential, None for one of the environment."""
        return self.has_scope(Scope.CREDENTIALS_USE) or f"{USE_OF_ONE}{credential_id}" in (self.scopes or ())

    def require_fresh(self, now: datetime, *, scope: Scope | None = None) -> None:
        """Raise ReauthenticationRequired unless a password was proven in this session within ten minutes.

        An API token proves nothing again: it may do this if it has the ``scope`` that stands for it, which its owner
        gave it in a fresh session; else MissingScope. The CLI runs as the operator, who holds the master key: there is
        no session to prove.
        """
        if self.scopes is not None:
            if scope is None:
                raise MissingScope
            self.require_scope(scope)
            return
        if self.client.source is Source.CLI:
            return
        if self.authenticated_at is None or now - self.authenticated_at > REAUTHENTICATION_LASTS:
            raise ReauthenticationRequired


def grantable(role: Role, scope: Scope) -> bool:
    """Whether a user of that role has a right that this scope could pass on to a token."""
    return any(scope in wanted and role.grants(permission) for permission, wanted in _SCOPES.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person. ``username`` is shown; ``name_key`` and ``name_skeleton`` are unique. A Discord user who never linked
    an account is ``discord:<snowflake>`` and has no password.
    """

    id: str
    subject_id: str
    username: str
    role: Role
    password_hash: str | None = field(default=None, repr=False)
    discord_id: str | None = None
    token_version: int = 1
    disabled_at: datetime | None = None
    created_at: datetime
    preferences: Preferences = AUTOMATIC

    @property
    def name_key(self) -> str:
        """The form of the username for look-ups."""
        return name_key(self.username)

    @property
    def name_skeleton(self) -> str:
        """The form that the username has in common with those that look like it."""
        return skeleton(self.username)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFilter:
    """The users that somebody wants to see; None leaves a question open. ``name`` is a part of the name, as typed."""

    name: str | None = None
    role: Role | None = None
    disabled: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One sign-in of one user on one device; access and refresh tokens and the cookie end with it."""

    id: str
    user_id: str
    token_version: int
    device: str | None
    address: str | None
    created_at: datetime
    last_seen_at: datetime
    authenticated_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None

    def alive(self, user: User, now: datetime) -> bool:
        """Whether this session still authenticates the user."""
        return (
            self.revoked_at is None
            and now < self.expires_at
            and now - self.last_seen_at < SESSION_IDLE
            and user.disabled_at is None
            and self.token_version == user.token_version
        )


def name_key(username: str) -> str:
    """The form in which a username is looked up: capitals and compatible forms (NFKC) make no difference."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", username).casefold())


def new_username(value: object) -> str:
    """A username that a person chose: 2 to 64 characters. Raises InvalidInput."""
    text = line(value, "username", longest=USERNAME_LONGEST, shortest=USERNAME_SHORTEST)
    # In the form in which it is looked up: a full-width colon would make it another user's, such as "discord:<id>".
    found = text + name_key(text)
    if any(character in ":/@" or character.isspace() for character in found):
        raise InvalidInput("username", "must not hold spaces, ':', '/' or '@'")
    if any(unicodedata.category(character) in {"Cf", "Cn"} for character in text):
        raise InvalidInput("username", "must not hold characters that draw nothing or have no meaning yet")
    if not any(character.isalnum() for character in text):
        raise InvalidInput("username", "must hold a letter or a digit")
    return text


def new_password(value: object, field_name: str = "password") -> str:
    """A password as typed: 12 to 256 characters, any Unicode (SP 800-63B 3.1.1.2). Raises InvalidInput.

    Characters are counted in NFKC: passwords that are the same in that form are one password.
    """
    text = opaque(value, field_name, longest=4 * PASSWORD_LONGEST)
    if not PASSWORD_SHORTEST <= len(unicodedata.normalize("NFKC", text)) <= PASSWORD_LONGEST:
        raise InvalidInput(field_name, f"must be {PASSWORD_SHORTEST} to {PASSWORD_LONGEST} characters")
    return text


def guessable(field_name: str = "password") -> InvalidInput:
    """The refusal of a password that few guesses find."""
    return InvalidInput(field_name, "is too easy to guess: choose a sentence, or let a password manager choose")


def snowflake(value: object, field_name: str = "discord_id") -> str:
    """A Discord id: decimal digits of an unsigned 64-bit number. Raises InvalidInput."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or _SNOWFLAKE.fullmatch(text) is None or int(text) >= 1 << 64:
        raise InvalidInput(field_name, "must be a Discord id (digits)")
    return text


def operator(
    *,
    user_id: str = "operator",
    username: str = "operator",
    discord_id: str | None = None,
    guild: GuildContext | None = None,
) -> Actor:
    """The person at the command line, who has the owner's rights because they hold the master key and the database."""
    return Actor(
        user_id=user_id,
        subject_id=None,
        username=username,
        role=Role.OWNER,
        client=Client(source=Source.CLI),
        discord_id=discord_id,
        guild=guild,
    )
