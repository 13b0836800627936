"""Who is there: accounts, roles, guilds, and the files they send."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

ADMINISTRATOR, MANAGE_GUILD, ALL_PERMISSIONS = 1 << 3, 1 << 5, (1 << 53) - 1
LONG_AGO = "2024-01-01T00:00:00+00:00"


@dataclass(eq=False)
class User:
    """A Discord account. With ``accepts_dms=False`` a message to it is refused as Discord does (403, code 50007)."""

    id: int
    name: str
    bot: bool = False
    accepts_dms: bool = True
    email: str | None = None
    verified: bool = True

    def payload(self) -> Json:
        return {
            "id": str(self.id),
            "username": self.name,
            "global_name": self.name,
            "discriminator": "0",
            "avatar": None,
            "bot": self.bot,
            "public_flags": 0,
        }


@dataclass(eq=False)
class Role:
    """A role of a guild; ``permissions`` are Discord's bits."""

    id: int
    name: str
    permissions: int = 0

    def payload(self) -> Json:
        return {
            "id": str(self.id),
            "name": self.name,
            "permissions": str(self.permissions),
            "color": 0,
            "hoist": False,
            "position": 1,
            "managed": False,
            "mentionable": False,
            "flags": 0,
        }


@dataclass(eq=False)
class Guild:
    """A guild with one text channel. ``members`` maps a user to role ids; without ``has_bot`` the bot never sees it."""

    id: int
    name: str
    owner: User
    channel_id: int
    has_bot: bool = True
    locale: str = "en-US"
    members: dict[User, set[int]] = field(default_factory=dict)
    roles: dict[int, Role] = field(default_factory=dict)

    def permissions(self, user: User, roles: Iterable[int] | None = None) -> int:
        """The bits that the user has here, by ``roles`` if given (ids) and else by the roles held."""
        if user is self.owner:
            return ALL_PERMISSIONS
        bits = 0
        for role in {self.id, *(self.members[user] if roles is None else roles)}:
            bits |= self.roles[role].permissions
        return ALL_PERMISSIONS if bits & ADMINISTRATOR else bits

    def member(self, user: User, roles: Iterable[int] | None = None) -> Json:
        return {
            "user": user.payload(),
            "roles": [str(role) for role in sorted(self.members[user] if roles is None else roles)],
            "nick": None,
            "avatar": None,
            "joined_at": LONG_AGO,
            "deaf": False,
            "mute": False,
            "pending": False,
            "flags": 0,
        }

    def channel(self) -> Json:
        return {
            "id": str(self.channel_id),
            "type": 0,
            "guild_id": str(self.id),
            "name": "general",
            "position": 0,
            "permission_overwrites": [],
            "parent_id": None,
            "topic": None,
            "nsfw": False,
            "flags": 0,
        }

    def payload(self) -> Json:
        return {
            "id": str(self.id),
            "name": self.name,
            "icon": None,
            "owner_id": str(self.owner.id),
            "features": [],
            "preferred_locale": self.locale,
            "verification_level": 0,
            "default_message_notifications": 0,
            "explicit_content_filter": 0,
            "mfa_level": 0,
            "premium_tier": 0,
            "nsfw_level": 0,
            "system_channel_id": None,
            "roles": [role.payload() for role in self.roles.values()],
            "emojis": [],
            "stickers": [],
        }

    def created(self, visible: Iterable[User]) -> Json:
        """GUILD_CREATE with these members; ``unavailable: false`` is added where the guild was announced before."""
        return self.payload() | {
            "channels": [self.channel()],
            "members": [self.member(user) for user in visible],
            "member_count": len(self.members),
            "joined_at": LONG_AGO,
            "large": False,
            "presences": [],
            "voice_states": [],
            "threads": [],
            "stage_instances": [],
            "guild_scheduled_events": [],
        }


@dataclass(frozen=True)
class File:
    """A file that a user attaches to a command's option or drops on a modal, or that the bot uploads."""

    name: str
    content: bytes
    content_type: str = "application/octet-stream"
