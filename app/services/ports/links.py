"""Ports for one-time links."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from app.domain.links import LinkPurpose, OneTimeLink


class OneTimeLinkRepository(Protocol):
    """One-time links, by the SHA-256 of their tokens."""

    async def add(self, link: OneTimeLink, token_hash: bytes) -> None:
        """Store a link of an existing user."""
        ...

    async def usable(self, token_hash: bytes, purpose: LinkPurpose, now: datetime) -> OneTimeLink | None:
        """Return the link of that token and purpose; None where it was used, has expired or never was."""
        ...

    async def use(self, token_hash: bytes, purpose: LinkPurpose, at: datetime) -> bool:
        """Use a link up: of any number of simultaneous uses exactly one is True."""
        ...

    async def withdraw(self, user_id: str, purpose: LinkPurpose) -> int:
        """Delete the unused links of a user for that purpose; return how many.

        Others that issue one for this user wait until the unit of work ends.
        """
        ...

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        """Delete links that expired before then, at most ``limit``; return how many."""
        ...
