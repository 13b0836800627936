"""Tickets, which a browser keeps while its person is at Discord, or has come back and not decided yet.

A ticket is signed, not stored: only that it was used is. People who begin a sign-in and go away leave nothing here.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from app.domain.errors import TicketRefused
from app.domain.secrets import SecretText
from app.services.authentication import Signatures, base64url, decoded
from app.services.ports import Clock, Randomness, UnitOfWork

TICKET_LASTS: Final = timedelta(minutes=10)
"""RFC 9700 wants a state that is used once; ten minutes are enough to agree at Discord."""
_PREFIX: Final = "kht_"
_LONGEST: Final = 1024


class TicketKind(StrEnum):
    """The step in which the browser is."""

    SIGN_IN = "sign-in"
    LINK = "link"
    """At Discord, to prove an account there that is to be linked."""
    PROVEN = "proven"
    """Back from there: the account is proven, and the person has not said yet that it is to be linked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A ticket whose signature is right and whose time has not passed. ``parts`` go with its kind."""

    kind: TicketKind
    secret: bytes = field(repr=False)
    expires_at: datetime
    parts: Sequence[str] = ()

    @property
    def state(self) -> str:
        """The text that stands for it in the address at Discord: nobody finds the ticket by it."""
        return base64url(hmac.digest(self.secret, b"state", "sha256"))

    @property
    def verifier(self) -> SecretText:
        """The verifier of PKCE: 43 characters (RFC 7636, 4.1)."""
        return SecretText(base64url(hmac.digest(self.secret, b"verifier", "sha256")))

    @property
    def challenge(self) -> str:
        """S256 of the verifier (RFC 7636, 4.2)."""
        return base64url(hashlib.sha256(self.verifier.reveal().encode()).digest())

    def comes_back_with(self, state: str) -> bool:
        """Whether that is the state that left with this ticket."""
        return hmac.compare_digest(self.state.encode(), state.encode("utf-8", "surrogatepass"))


class Tickets:
    """Makes, reads and uses up tickets. Every method may raise NotReady."""

    def __init__(self, *, signatures: Signatures, clock: Clock, randomness: Randomness) -> None:
        self._signatures = signatures
        self._clock = clock
        self._randomness = randomness

    def issue(self, kind: TicketKind, *parts: str) -> tuple[Ticket, SecretText]:
        """Return a new ticket, and it as the text that the browser keeps."""
        secret, until = self._randomness.token_bytes(32), int((self._clock.now() + TICKET_LASTS).timestamp())
        ticket = Ticket(kind=kind, secret=secret, expires_at=datetime.fromtimestamp(until, UTC), parts=parts)
        content = base64url(json.dumps([kind.value, base64url(secret), until, *parts]).encode())
        mac = self._signatures.sign("ticket", content.encode())
        return ticket, SecretText(f"{_PREFIX}{content}.{base64url(mac)}")

    def read(self, text: str | None, kinds: Collection[TicketKind]) -> Ticket:
        """Return the ticket of a text. Raises TicketRefused for a text that is none, none any more or of no such kind.

        One that was used is found out by ``spend`` alone.
        """
        if text is None or not text.startswith(_PREFIX) or len(text) > _LONGEST or not text.isascii():
            raise TicketRefused
        content, _, mac = text.removeprefix(_PREFIX).partition(".")
        if not self._signatures.made(decoded(mac), "ticket", content.encode()):
            raise TicketRefused
        kind, secret, until, *parts = json.loads(urlsafe_b64decode(content + "=="))  # our own text: its MAC is right
        expires_at = datetime.fromtimestamp(until, UTC)
        if kind not in kinds or self._clock.now() >= expires_at:
            raise TicketRefused
        return Ticket(
            kind=TicketKind(kind), secret=urlsafe_b64decode(secret + "="), expires_at=expires_at, parts=tuple(parts)
        )

    async def spend(self, uow: UnitOfWork, ticket: Ticket) -> None:
        """Use a ticket up, in this unit of work. Raises TicketRefused where it was used; StorageError."""
        if not await uow.tickets.spend(hashlib.sha256(ticket.secret).digest(), ticket.expires_at):
            raise TicketRefused
