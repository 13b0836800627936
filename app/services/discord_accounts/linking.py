"""Linking one's account with one's Discord account, from either side, and unlinking them.

On the web Discord proves the Discord account (``TicketKind.PROVEN``); in Discord a code proves the account on the web.
Either way the person sees what moves before anything does, and the move is one unit of work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.domain.attempts import Terms, terms_of_link_code
from app.domain.audit import Action, Result
from app.domain.credentials import CredentialView
from app.domain.errors import (
    Forbidden,
    InvalidToken,
    LinkCodeRefused,
    LinkConflict,
    NotFound,
    TicketRefused,
    TooManyAttempts,
)
from app.domain.identity import Actor, Client, Source, User, snowflake
from app.domain.links import LinkPurpose
from app.domain.secrets import SecretText
from app.services.alive import require_alive
from app.services.audit import AuditTrail
from app.services.authentication import KeptSession, SessionStarts
from app.services.authentication.ways_in import require_way_in
from app.services.credentials import CredentialAccess, Moved
from app.services.deadlines import regardless_of_deadline
from app.services.discord_accounts.codes import LinkCodes
from app.services.discord_accounts.tickets import Ticket, TicketKind, Tickets
from app.services.joining import AccountJoining, Joining
from app.services.limits import AttemptLimiter
from app.services.ports import Clock, Storage, UnitOfWork
from app.services.refusals import Refusal, Refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCode:
    """A code to be typed in Discord, in two groups."""

    code: SecretText
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Moving:
    """A credential that moves, as it is shown before; ``label`` is the one that it will have."""

    view: CredentialView
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An offer, to be confirmed: to which account, from which Discord account, and the credentials that move.

    ``removed`` counts the removed ones that move along, ``shares`` the servers' credentials that change their sharer.
    """

    username: str
    discord_id: str
    linked: bool
    credentials: Sequence[Moving]
    removed: int
    shares: Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """An account that was linked."""

    username: str
    moved: Moved


class DiscordLinking:
    """Every method may raise StorageError and NotReady."""

    def __init__(
        self,
        *,
        storage: Storage,
        codes: LinkCodes,
        joining: AccountJoining,
        tickets: Tickets,
        access: CredentialAccess,
        starts: SessionStarts,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._codes = codes
        self._joining = joining
        self._tickets = tickets
        self._access = access
        self._starts = starts
        self._refusals = refusals
        self._limiter = AttemptLimiter(storage=storage, clock=clock)
        self._trail = AuditTrail(clock)
        self._clock = clock

    # -- on the web, with what Discord proved --------------------------------------------------------------------------

    async def offer(self, actor: Actor, ticket: str | None) -> Offer:
        """Return the offer of this ticket. Raises TicketRefused, LinkConflict, Forbidden."""
        actor.require_person()
        return await self._offer(actor.user_id, self._proven(actor, ticket)[1])

    async def link(self, actor: Actor, ticket: str | None) -> Linked:
        """Link it, once.

        Raises ReauthenticationRequired, TicketRefused, LinkConflict, Forbidden, VersionConflict.
        """
        actor.require_person()
        actor.require_fresh(self._clock.now())
        proven, number = self._proven(actor, ticket)

        async def spend(uow: UnitOfWork) -> None:
            await require_alive(uow, actor, self._clock.now())
            await self._tickets.spend(uow, proven)

        return await self._link(actor.user_id, number, actor.client, spend)

    def _proven(self, actor: Actor, text: str | None) -> tuple[Ticket, str]:
        """The ticket of this session, and the Discord account that was proven with it. Raises TicketRefused."""
        ticket = self._tickets.read(text, (TicketKind.PROVEN,))
        session_id, number = ticket.parts
        if session_id != actor.session_id:
            raise TicketRefused
        return ticket, number

    # -- in Discord, with a code from the web --------------------------------------------------------------------------

    async def issue_code(self, actor: Actor) -> LinkCode:
        """Return a code by which the actor's Discord account can be linked; an earlier one stops working.

        Raises ReauthenticationRequired, InvalidToken without a session.
        """
        actor.require_person()
        now = self._clock.now()
        actor.require_fresh(now)
        if actor.session_id is None:
            raise InvalidToken
        code, link = self._codes.draw(actor.user_id, now)
        async with self._storage.write() as uow:
            await require_alive(uow, actor, now)
            await uow.links.withdraw(actor.user_id, LinkPurpose.DISCORD)
            await uow.links.add(link, self._codes.digest(code.reveal()))
            await self._trail.record(uow, actor, Action.USER_LINK_ISSUED, about=("user", actor.user_id), by="discord")
        return LinkCode(code=code, expires_at=link.expires_at)

    async def offer_by_code(self, discord_id: str, code: str) -> Offer:
        """Return the offer of this code to the Discord account of its sender.

        Raises LinkCodeRefused, TooManyAttempts, LinkConflict, Forbidden.
        """
        number = snowflake(discord_id)
        return await self._offer(await self._holder(number, self._codes.digest(code)), number)

    async def link_by_code(self, discord_id: str, code: str) -> Linked:
        """Link it, once; of any number of simultaneous uses one succeeds.

        Raises LinkCodeRefused, TooManyAttempts, LinkConflict, Forbidden, VersionConflict.
        """
        number, digest = snowflake(discord_id), self._codes.digest(code)

        async def use(uow: UnitOfWork) -> None:
            if not await uow.links.use(digest, LinkPurpose.DISCORD, self._clock.now()):
                raise LinkCodeRefused

        return await self._link(await self._holder(number, digest), number, Client(source=Source.DISCORD), use)

    async def _holder(self, number: str, digest: bytes) -> str:
        """The user whose code that is. A wrong one counts for the Discord account that typed it."""
        terms = terms_of_link_code(number)
        who = Client(source=Source.DISCORD)
        try:
            async with self._limiter.admitted(terms, _nowhere):
                async with self._storage.lookup() as uow:
                    link = await uow.links.usable(digest, LinkPurpose.DISCORD, self._clock.now())
                if link is None:
                    await self._count(terms, who)
                    raise LinkCodeRefused().as_recorded()
        except TooManyAttempts as refused:
            detail = (("reason", refused.code),)
            await self._refusals.record(Refusal(who=who, action=Action.USER_LINKED, detail=detail, at_once=1))
            await self._limiter.hold()
            raise
        return link.user_id

    async def _count(self, terms: Terms, who: Client) -> None:
        wrong = (("reason", "wrong"),)
        first = self._refusals.first(Refusal(who=who, action=Action.USER_LINKED, detail=wrong))
        with regardless_of_deadline():
            async with self._storage.write() as uow:
                await self._limiter.count(uow, terms)
                if first:
                    denied = Result.DENIED
                    await self._trail.record(uow, who, Action.USER_LINKED, about=None, result=denied, **dict(wrong))

    # -- both ----------------------------------------------------------------------------------------------------------

    async def _offer(self, user_id: str, number: str) -> Offer:
        async with self._storage.read() as uow:
            user = await self._active(uow, user_id)
            joining = await self._joining.look(uow, user, number)
        _judge(joining, user)
        views = [
            Moving(view=await self._access.view(record), label=label) for record, label in joining.planned.credentials
        ]
        return Offer(
            username=user.username,
            discord_id=number,
            linked=user.discord_id == number,
            credentials=views,
            removed=len(joining.planned.removed),
            shares=sorted(joining.shares.items()),
        )

    async def _link(
        self, user_id: str, number: str, client: Client, use_up: Callable[[UnitOfWork], Awaitable[None]]
    ) -> Linked:
        async with self._storage.write() as uow:
            await self._joining.lock(uow, number)
            # Before the link that is used up: who ends the account's sessions locks it, and then deletes its links.
            await uow.users.locked(user_id)
            await use_up(uow)
            user = await self._active(uow, user_id)
            _judge(await self._joining.look(uow, user, number), user)
            moved = await self._joining.join(uow, user, number)
            actor = Actor(
                user_id=user.id, subject_id=user.subject_id, username=user.username, role=user.role, client=client
            )
            await self._trail.record(
                uow, actor, Action.USER_LINKED, about=("user", user.id), moved=moved.count, renamed=len(moved.renamed)
            )
        return Linked(username=user.username, moved=moved)

    @staticmethod
    async def _active(uow: UnitOfWork, user_id: str) -> User:
        user = await uow.users.get(user_id)
        if user is None or user.disabled_at is not None:
            raise Forbidden("This account is disabled")
        return user

    # -- and apart again -----------------------------------------------------------------------------------------------

    async def unlink(self, actor: Actor, *, cookie: str | None = None) -> KeptSession:
        """Unlink the actor's Discord account; credentials stay with the account, its other sessions end.

        The ``cookie`` of a browser's session is renewed.

        Raises ReauthenticationRequired, NotFound where none is linked, NoOtherWayIn.
        """
        actor.require_person()
        now = self._clock.now()
        actor.require_fresh(now)
        async with self._storage.write() as uow:
            kept = await self._starts.keep_alone(uow, actor, cookie)
            user = await uow.users.get(actor.user_id)
            if user is None or user.discord_id is None:
                raise NotFound("No Discord account is linked")
            await uow.users.set_discord(user.id, None, now)
            await require_way_in(uow, user.id)
            about = ("user", user.id)
            await self._trail.record(uow, actor, Action.USER_UNLINKED, about=about, sessions_ended=kept.others_ended)
        return kept


def _judge(joining: Joining, user: User) -> None:
    """Refuse what its person may not do alone. Raises Forbidden, LinkConflict."""
    other = joining.other
    if other is None:
        return
    if other.disabled_at is not None:  # who was disabled as a Discord user does not come back as another one
        raise Forbidden("This Discord account is disabled")
    if not user.role.covers(other.role):
        raise LinkConflict("This Discord account has more rights here than the account it would be linked with")


async def _nowhere(_: UnitOfWork) -> bool:
    return False
