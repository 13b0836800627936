"""Ports for API tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from app.domain.api_tokens import ApiToken
from app.domain.identity import User


@dataclass(frozen=True, slots=True)
class ApiTokenAndUser:
    """A token together with its owner."""

    token: ApiToken
    user: User


class ApiTokenRepository(Protocol):
    """API tokens, by their MAC under a version of API_SECRET_KEY. Changes of an unknown id are ignored."""

    async def add(self, token: ApiToken, mac: bytes) -> None:
        """Store a new token of an existing user. Raises UniqueViolation."""
        ...

    async def by_macs(self, macs: Collection[bytes]) -> ApiTokenAndUser | None:
        """Return the token that has one of these MACs, expired or not, with its owner, or None."""
        ...

    async def get(self, token_id: str) -> ApiToken | None:
        """Return the token, expired or not, or None."""
        ...

    async def locked(self, token_id: str) -> ApiTokenAndUser | None:
        """The same with its owner, who is locked first, then the token: nobody ends it before the unit of work ends."""
        ...

    async def page(self, user_id: str, *, after: str | None, limit: int) -> Sequence[ApiToken]:
        """Return a user's tokens, newest first, those older than ``after``."""
        ...

    async def count(self, user_id: str, now: datetime) -> int:
        """Count a user's tokens that have not expired; others that count for this user wait until the unit of work
        ends.
        """
        ...

    async def touch(self, token_id: str, at: datetime) -> None:
        """Set when the token was last used; a time earlier than the stored one changes nothing."""
        ...

    async def renew(self, token_id: str, *, former: int, mac: bytes, key_version: int) -> None:
        """Give a token its MAC under another key version, if it has that of the version ``former``."""
        ...

    async def delete(self, token_id: str) -> bool:
        """End a token; False where it is gone."""
        ...

    async def end_all_of(self, user_id: str) -> int:
        """End every token of a user; return how many there were."""
        ...

    async def key_versions(self, now: datetime) -> Mapping[int, int]:
        """Return how many tokens that have not expired need each version of API_SECRET_KEY; no version without any."""
        ...

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        """Delete tokens that expired before then, at most ``limit``; return how many."""
        ...
