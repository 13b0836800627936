"""Signing in with Discord: OAuth 2.0 with a code, PKCE (RFC 7636) and a state that is bound to the browser (RFC 9700).

Discord is asked who somebody is and nothing else: no e-mail address, so none can be mistaken for a proof, and no token
of Discord's is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Final

from app.domain.attempts import Network, Terms, terms_of_discord
from app.domain.audit import Action
from app.domain.errors import (
    AppError,
    DiscordDeclined,
    Forbidden,
    InvalidToken,
    NotConfigured,
    OtpRequired,
    TicketRefused,
    TooManyAttempts,
)
from app.domain.identity import Actor, Client, User, snowflake
from app.domain.secrets import SecretText
from app.services.authentication import AuthenticationService, BrowserSession
from app.services.deadlines import regardless_of_deadline
from app.services.discord_accounts.tickets import Ticket, TicketKind, Tickets
from app.services.identity import IdentityService
from app.services.limits import AttemptLimiter
from app.services.ports import Clock, DiscordAccounts, Storage, UnitOfWork
from app.services.refusals import Refusal, Refusals

_LONGEST_CODE: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """The address at Discord to which the browser goes, and the ticket that it keeps meanwhile."""

    url: str
    ticket: SecretText


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """The parts that a browser brings from Discord: each may be empty or anything."""

    ticket: str | None = field(repr=False)
    state: str = field(repr=False)
    code: SecretText
    former_cookie: str | None = field(default=None, repr=False)
    """The session that the browser has; it ends when another one begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """How it goes on: with a session, and then to the page ``next``; or with a ticket for the page that asks.

    Or, where the account has a second factor, with what the page needs that asks for a code (``pending``).
    """

    next: str = "/"
    session: BrowserSession | None = None
    ticket: SecretText | None = None
    pending: SecretText | None = None


class DiscordSignIn:
    """Every method may raise StorageError and NotReady, and NotConfigured where there is no application at Discord."""

    def __init__(
        self,
        *,
        storage: Storage,
        discord: DiscordAccounts | None,
        tickets: Tickets,
        authentication: AuthenticationService,
        identity: IdentityService,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._discord = discord
        self._tickets = tickets
        self._authentication = authentication
        self._identity = identity
        self._refusals = refusals
        self._limiter = AttemptLimiter(storage=storage, clock=clock)
        self._clock = clock

    @property
    def available(self) -> bool:
        """Whether the operator has set up an application at Discord for it."""
        return self._discord is not None

    # -- to Discord ----------------------------------------------------------------------------------------------------

    def begin(self, next_page: str) -> Departure:
        """Let somebody sign in, and then open that page, which is one of Keyhall's own."""
        return self._departure(TicketKind.SIGN_IN, next_page)

    def begin_link(self, actor: Actor) -> Departure:
        """Let the user of a session prove a Discord account. Raises ReauthenticationRequired, InvalidToken."""
        actor.require_fresh(self._clock.now())
        if actor.session_id is None:
            raise InvalidToken
        return self._departure(TicketKind.LINK, actor.session_id)

    def _departure(self, kind: TicketKind, *parts: str) -> Departure:
        discord = self._configured()
        ticket, text = self._tickets.issue(kind, *parts)
        return Departure(url=discord.authorization_url(state=ticket.state, challenge=ticket.challenge), ticket=text)

    # -- and back ------------------------------------------------------------------------------------------------------

    async def finish(self, arrival: Arrival, client: Client) -> Arrived:
        """Judge what a browser brings from Discord.

        Raises TicketRefused for a browser that did not begin this, or not lately, or finished it already;
        DiscordDeclined; InvalidToken for a code that Discord does not take; DiscordUnavailable; Forbidden and its kinds
        for somebody who gets no account; TooManyAttempts.
        """
        self._configured()
        try:
            ticket = self._sent(arrival)
            number = await self._proven(ticket, arrival.code, client)
            if ticket.kind is TicketKind.LINK:
                (session_id,) = ticket.parts
                return Arrived(ticket=self._tickets.issue(TicketKind.PROVEN, session_id, number)[1])
            user = await self._user(number)
            try:
                session = await self._authentication.begin_browser(user, client, former_cookie=arrival.former_cookie)
            except OtpRequired as asked:  # no refusal: the browser goes on to the page that asks for the code
                return Arrived(next=ticket.parts[0], pending=asked.pending)
        except (TicketRefused, DiscordDeclined, InvalidToken, Forbidden, TooManyAttempts) as refused:
            await self._record(refused, client)
            raise
        return Arrived(next=ticket.parts[0], session=session)

    def _sent(self, arrival: Arrival) -> Ticket:
        """The ticket of a browser that was sent to Discord with the state that it brings back.

        It stays good where the state is another one: nobody can end somebody's sign-in by a link.
        """
        ticket = self._tickets.read(arrival.ticket, (TicketKind.SIGN_IN, TicketKind.LINK))
        if not ticket.comes_back_with(arrival.state):
            raise TicketRefused
        return ticket

    async def _proven(self, ticket: Ticket, code: SecretText, client: Client) -> str:
        """The Discord id of the person who came back with this ticket, which is used up in any case."""
        terms = terms_of_discord(Network.of(client.address, client.source.value))
        # Its turn is over before Discord is asked: people behind one address need not wait for each other.
        async with self._limiter.admitted(terms, _nowhere), self._storage.write() as uow:
            await self._tickets.spend(uow, ticket)
        if not 0 < len(code) <= _LONGEST_CODE:
            await self._count(terms)
            raise DiscordDeclined
        try:
            return snowflake(await self._configured().identify(code, ticket.verifier))
        except InvalidToken:
            await self._count(terms)
            raise

    async def _user(self, number: str) -> User:
        """The user of a Discord account, who may be new. One who is disabled is answered as a stranger would be."""
        member = partial(self._configured().member_of_known_guild, number)
        user = await self._identity.user_from_discord(number, member)
        if user.disabled_at is not None:
            raise self._identity.refusal_of_strangers()
        return user

    def _configured(self) -> DiscordAccounts:
        if self._discord is None:
            raise NotConfigured(
                "Signing in with Discord needs DISCORD_CLIENT_ID, DISCORD_CLIENT_SECRET and PUBLIC_URL to be set"
            )
        return self._discord

    async def _count(self, terms: Terms) -> None:
        with regardless_of_deadline():
            async with self._storage.write() as uow:
                await self._limiter.count(uow, terms)

    async def _record(self, refused: AppError, client: Client) -> None:
        reason = next((text for kind, text in _REASONS.items() if isinstance(refused, kind)), refused.code)
        detail = (("reason", reason), ("by", "discord"))
        await self._refusals.record(Refusal(who=client, action=Action.LOGIN, detail=detail))
        if isinstance(refused, TooManyAttempts):
            await self._limiter.hold()
        refused.as_recorded()


_REASONS: Final[Mapping[type[AppError], str]] = MappingProxyType(
    {TicketRefused: "ticket", DiscordDeclined: "declined", InvalidToken: "code", Forbidden: "registration"}
)


async def _nowhere(_: UnitOfWork) -> bool:
    return False
