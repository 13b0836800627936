"""Ports for the sign-in with Discord, and for the tickets that a browser keeps meanwhile."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from app.domain.secrets import SecretText


class SpentTicketRepository(Protocol):
    """Tickets and challenges of browsers that were used, by the SHA-256 of the secret in each."""

    async def spend(self, ticket_hash: bytes, expires_at: datetime) -> bool:
        """Use a ticket up: of any number of simultaneous uses exactly one is True."""
        ...

    async def spent(self, ticket_hash: bytes) -> bool:
        """Whether a ticket was used up."""
        ...

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        """Delete tickets that expired before then, at most ``limit``; return how many."""
        ...


class DiscordAccounts(Protocol):
    """Discord as the authorization server of people (RFC 6749), and as the list of a server's members.

    Every method that asks Discord answers within six seconds, and raises DiscordUnavailable where Discord does not.
    """

    def authorization_url(self, *, state: str, challenge: str) -> str:
        """Return the address at Discord where a person agrees; ``challenge`` is S256 of a verifier (RFC 7636)."""
        ...

    async def identify(self, code: SecretText, verifier: SecretText) -> str:
        """Return the Discord id of the person who agreed. Nothing that Discord gave for the code is kept.

        Raises InvalidToken where Discord does not take the code, NotConfigured where it does not take our secret.
        """
        ...

    async def member_of_known_guild(self, discord_id: str) -> bool:
        """Whether that person is in a server that the bot is in, and that the operator allows."""
        ...
