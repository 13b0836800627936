"""Discord as people sign in with it, and the tickets that were used."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlencode

from app.domain.errors import AppError, InvalidToken
from app.domain.secrets import SecretText
from tests.support.fakes.tables import Tables, like_an_engine


@like_an_engine
class FakeSpentTicketRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def spend(self, ticket_hash: bytes, expires_at: datetime) -> bool:
        if ticket_hash in self._tables.spent_tickets:
            return False
        self._tables.spent_tickets[ticket_hash] = expires_at
        return True

    async def spent(self, ticket_hash: bytes) -> bool:
        return ticket_hash in self._tables.spent_tickets

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        gone = [each for each, expires_at in self._tables.spent_tickets.items() if expires_at < before][:limit]
        for each in gone:
            del self._tables.spent_tickets[each]
        return len(gone)


class FakeDiscordAccounts:
    """Each code of ``codes`` stands for a person, once; with ``fails`` nothing is answered but that."""

    def __init__(self) -> None:
        self.codes: dict[str, str] = {}
        self.members: set[str] = set()
        self.fails: AppError | None = None

    def authorization_url(self, *, state: str, challenge: str) -> str:
        return f"https://discord.invalid/oauth2/authorize?{urlencode({'state': state, 'code_challenge': challenge})}"

    async def identify(self, code: SecretText, verifier: SecretText) -> str:
        if self.fails is not None:
            raise self.fails
        found = self.codes.pop(code.reveal(), None)
        if found is None:
            raise InvalidToken
        return found

    async def member_of_known_guild(self, discord_id: str) -> bool:
        if self.fails is not None:
            raise self.fails
        return discord_id in self.members
