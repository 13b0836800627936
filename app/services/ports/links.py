"""Ports for one-time links."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from app.domain.links import Invitation, LinkPurpose, OneTimeLink


class OneTimeLinkRepository(Protocol):
    """One-time links, by the SHA-256 of their tokens."""

    async def add(self, link: OneTimeLink, token_hash: bytes) -> None:
        """Store a link of an existing user."""
        ...

    async def add_invitation(self, invitation: Invitation, token_hash: bytes) -> None:
        """Store an invitation."""
        ...

    async def invitation(self, token_hash: bytes, now: datetime) -> Invitation | None:
        """Return the invitation of that token; None where it was used, withdrawn, has expired or never was."""
        ...

    async def invitation_of_id(self, invitation_id: str, now: datetime) -> Invitation | None:
        """Return the invitation of that id; None as above."""
        ...

    async def invitations(self, now: datetime, *, after: str | None, limit: int) -> Sequence[Invitation]:
        """Return invitations that can still be used, in the order of their ids, those after ``after``."""
        ...

    async def withdraw_invitation(self, invitation_id: str) -> bool:
        """Delete an unused invitation; False where there is none."""
        ...

    async def withdraw_issued_by(self, user_id: str, roles: Collection[str]) -> int:
        """Delete the unused invitations that a user issued for these roles; return how many."""
        ...

    async def usable(self, token_hash: bytes, purpose: LinkPurpose, now: datetime) -> OneTimeLink | None:
        """Return the link of that token and purpose; None where it was used, has expired or never was.

        The purpose is not an invitation, which is nobody's link.
        """
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
