"""Passkeys: added and removed by their person, and proof enough for a sign-in without name and password.

The person is verified by the authenticator each time, so a passkey is both factors at once: a session that begins with
one is fresh and needs no one-time code.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn

from app.domain.attempts import Network, terms_of_wrong_passkey
from app.domain.audit import Action, Result
from app.domain.errors import (
    AlreadyExists,
    InvalidCredentials,
    InvalidToken,
    NotFound,
    Overloaded,
    PasskeyRefused,
    QuotaExceeded,
    TooManyAttempts,
    UniqueViolation,
)
from app.domain.identity import Actor, Client, User
from app.domain.passkeys import PASSKEYS_MOST, Ceremony, Passkey, RelyingParty, passkey_name
from app.services.audit import AuditTrail
from app.services.authentication.challenges import PasskeyChallenges
from app.services.authentication.requests import token_digest
from app.services.authentication.sessions import BrowserSession, SessionStarts, TokenPair
from app.services.deadlines import regardless_of_deadline
from app.services.limits import AttemptLimiter
from app.services.paging import Page, page_size, paged, read_cursor
from app.services.ports import (
    Answer,
    AnswerRefused,
    Authenticators,
    Claimed,
    Clock,
    Options,
    Randomness,
    Signed,
    Storage,
    UnitOfWork,
)
from app.services.refusals import Refusal, Refusals

log = logging.getLogger(__name__)

_ANY_PROGRAM: Final = ""
"""The recipient of a challenge that was not made for a browser."""
_COPIED: Final = (("reason", "copied"),)
_LIMITED: Final = (("reason", TooManyAttempts.code),)
_WRONG: Final = (("reason", "wrong"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proof:
    """A passkey that signed a challenge of ours; both are used up in the unit of work that acts on it."""

    user: User
    passkey: Passkey
    challenge: bytes
    signed: Signed


class PasskeyService:
    """The passkeys of users. Every method may raise StorageError and NotReady."""

    def __init__(
        self,
        *,
        storage: Storage,
        starts: SessionStarts,
        authenticators: Authenticators,
        challenges: PasskeyChallenges,
        refusals: Refusals,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._storage = storage
        self._starts = starts
        self._authenticators = authenticators
        self._challenges = challenges
        self._refusals = refusals
        self._limiter = AttemptLimiter(storage=storage, clock=clock)
        self._trail = AuditTrail(clock)
        self._clock = clock
        self._randomness = randomness

    # -- the actor's own -----------------------------------------------------------------------------------------------

    async def registration_options(self, actor: Actor, party: RelyingParty) -> Options:
        """Return what asks the actor's browser to make a passkey. Raises ReauthenticationRequired."""
        actor.require_fresh(self._clock.now())
        challenge = self._challenges.issue(Ceremony.REGISTRATION, actor.user_id, _session(actor))
        async with self._storage.lookup() as uow:
            user = await uow.users.get(actor.user_id)
            known = await uow.passkeys.of(actor.user_id)
        if user is None:
            raise InvalidToken
        return self._authenticators.creation_options(
            party, challenge, handle=_handle(user), username=user.username, known=known
        )

    async def register(self, actor: Actor, name: str, answer: Answer, party: RelyingParty) -> Passkey:
        """Store the passkey that the actor's browser made; every other session of the actor ends.

        Raises PasskeyRefused, InvalidInput, QuotaExceeded, AlreadyExists, ReauthenticationRequired.
        """
        actor.require_fresh(self._clock.now())
        named = passkey_name(name)
        try:
            challenge = self._authenticators.claimed(answer).challenge
            if not self._challenges.stands(challenge, Ceremony.REGISTRATION, actor.user_id, _session(actor)):
                raise _too_late()
            key = await self._authenticators.verify_creation(answer, party, challenge)
        except AnswerRefused as refused:
            log.info("a new passkey was refused: %s", refused)
            raise PasskeyRefused("The answer of the browser is not one to this page: start again") from None
        now = self._clock.now()
        passkey = Passkey(
            id=self._randomness.new_id(),
            user_id=actor.user_id,
            name=named,
            credential_id=key.credential_id,
            public_key=key.public_key,
            sign_count=key.sign_count,
            transports=key.transports,
            synced=key.synced,
            created_at=now,
        )

        async def store(uow: UnitOfWork) -> None:
            if not await self._challenges.spend(uow, challenge):
                raise _too_late()
            if not await uow.passkeys.add(passkey, most=PASSKEYS_MOST):
                raise QuotaExceeded(f"You have {PASSKEYS_MOST} passkeys: remove one first")

        try:
            await self._change(actor, Action.PASSKEY_ADDED, passkey.id, store, now)
        except UniqueViolation:
            raise AlreadyExists("This passkey is stored already") from None
        return passkey

    async def page(self, actor: Actor, *, after: str | None = None, limit: int = 50) -> Page[Passkey]:
        """Return the actor's own passkeys, the oldest first. Raises InvalidInput."""
        size, begin = page_size(limit), read_cursor(after)
        async with self._storage.lookup() as uow:
            all_of_them = await uow.passkeys.of(actor.user_id)
        rows = [each for each in all_of_them if begin is None or each.id > begin]
        return paged(rows[: size + 1], size, lambda passkey: passkey.id)

    async def remove(self, actor: Actor, passkey_id: str) -> None:
        """Delete one of the actor's own passkeys; every other session of the actor ends.

        Raises NotFound, ReauthenticationRequired.
        """
        actor.require_fresh(self._clock.now())
        async with self._storage.lookup() as uow:
            found = await uow.passkeys.get(passkey_id)
        if found is None:
            raise NotFound
        if found.user_id != actor.user_id:
            about = ("passkey", passkey_id)
            await self._refusals.record(Refusal(who=actor, action=Action.PASSKEY_REMOVED, about=about))
            raise NotFound

        async def delete(uow: UnitOfWork) -> None:
            if not await uow.passkeys.remove(passkey_id):
                raise NotFound

        await self._change(actor, Action.PASSKEY_REMOVED, passkey_id, delete, self._clock.now())

    async def _change(
        self,
        actor: Actor,
        action: Action,
        passkey_id: str,
        change: Callable[[UnitOfWork], Awaitable[None]],
        now: datetime,
    ) -> None:
        """Make a change to the actor's passkeys, from the actor's session, which goes on, while all others end."""
        session_id = _session(actor)
        async with self._storage.write() as uow:
            # First, since it waits for whoever ends this session at the same time, such as a reset of the account: what
            # a session that has ended asks for must not outlive that.
            ended = await uow.sessions.end_all_of(actor.user_id, now, but=session_id)
            own = await uow.sessions.get(session_id)
            if own is None or not own.session.alive(own.user, now):
                raise InvalidToken
            await change(uow)
            await self._trail.record(uow, actor, action, about=("passkey", passkey_id), sessions_ended=ended)

    # -- sign-in -------------------------------------------------------------------------------------------------------

    async def login_options(self, party: RelyingParty, *, browser: str | None = None) -> Options:
        """Return what asks for a passkey of any user, whom the answer names. Nothing is read or stored for it.

        ``browser`` is a secret of the browser that asks, whose answer then counts from nowhere else.
        """
        challenge = self._challenges.issue(Ceremony.LOGIN, _recipient(browser))
        return self._authenticators.request_options(party, challenge, allowed=())

    async def login(
        self,
        answer: Answer,
        client: Client,
        party: RelyingParty,
        *,
        browser: str | None = None,
        former_cookie: str | None = None,
    ) -> TokenPair:
        """Sign a program in; the session of ``former_cookie`` ends.

        Unknown and removed passkeys, wrong signatures and disabled accounts get one answer. Only what is wrong counts
        in a limit, so that nobody's wrong passkeys keep out a person whose own is right.

        Raises InvalidCredentials, TooManyAttempts, Overloaded.
        """
        recipients = {_recipient(browser), _ANY_PROGRAM}
        proof = await self._proven_by_anybody(answer, client, party, recipients)
        return await self._starts.program(
            proof.user, client, former_cookie=former_cookie, within=self._using(proof, client)
        )

    async def login_browser(
        self,
        answer: Answer,
        client: Client,
        party: RelyingParty,
        *,
        browser: str | None,
        former_cookie: str | None = None,
    ) -> BrowserSession:
        """Sign the browser in that the challenge was made for; otherwise as ``login``."""
        recipients = set() if browser is None else {_recipient(browser)}
        proof = await self._proven_by_anybody(answer, client, party, recipients)
        return await self._starts.browser(
            proof.user, client, former_cookie=former_cookie, within=self._using(proof, client)
        )

    async def _proven_by_anybody(
        self, answer: Answer, client: Client, party: RelyingParty, recipients: set[str]
    ) -> _Proof:
        claimed = self._claimed(answer)
        if not any(self._challenges.stands(claimed.challenge, Ceremony.LOGIN, each) for each in recipients):
            raise _refused()
        return await self._judge(answer, claimed, party, who=client, action=Action.LOGIN)

    # -- freshness -----------------------------------------------------------------------------------------------------

    async def reauthentication_options(self, actor: Actor, party: RelyingParty) -> Options:
        """Return what asks for one of the actor's own passkeys. Raises NotFound where there is none."""
        challenge = self._challenges.issue(Ceremony.REAUTHENTICATION, actor.user_id, _session(actor))
        async with self._storage.lookup() as uow:
            allowed = await uow.passkeys.of(actor.user_id)
        if not allowed:
            raise NotFound("You have no passkey: prove your password instead")
        return self._authenticators.request_options(party, challenge, allowed=allowed)

    async def reauthenticate(
        self, actor: Actor, answer: Answer, party: RelyingParty, *, cookie: str | None = None
    ) -> BrowserSession | None:
        """Prove in this session who is at the keyboard; the ``cookie`` of a browser's is renewed (ASVS 5.0, 7.2.4).

        Returns the session with its new cookie. Raises InvalidCredentials, TooManyAttempts, Overloaded, and
        InvalidToken where the session ended meanwhile.
        """
        claimed = self._claimed(answer)
        session_id = _session(actor)
        if not self._challenges.stands(claimed.challenge, Ceremony.REAUTHENTICATION, actor.user_id, session_id):
            raise _refused()
        proof = await self._judge(answer, claimed, party, who=actor, action=Action.REAUTHENTICATED)
        renewed = self._starts.renewed_cookie(cookie) if cookie else None
        async with self._storage.write() as uow:
            found = await uow.sessions.get(session_id)
            if found is None or not found.session.alive(found.user, self._clock.now()):
                raise InvalidToken
            await self._using(proof, actor)(uow)
            await uow.sessions.prove(session_id, self._clock.now())
            await self._trail.record(uow, actor, Action.REAUTHENTICATED, about=("session", session_id))
            if renewed is None:
                return None
            if not await uow.sessions.renew_cookie(session_id, token_digest(renewed.reveal())):
                raise InvalidToken
        return BrowserSession(cookie=renewed, expires_at=found.session.expires_at)

    # -- judging -------------------------------------------------------------------------------------------------------

    def _claimed(self, answer: Answer) -> Claimed:
        try:
            return self._authenticators.claimed(answer)
        except AnswerRefused as refused:
            log.info("the answer of an authenticator was refused: %s", refused)
            raise _refused() from None

    async def _judge(
        self, answer: Answer, claimed: Claimed, party: RelyingParty, *, who: Actor | Client, action: Action
    ) -> _Proof:
        """Return the user whose passkey signed this challenge, which stands."""
        async with self._storage.lookup() as uow:
            passkey = await uow.passkeys.by_credential(claimed.credential_id)
            user = None if passkey is None else await uow.users.get(passkey.user_id)
            # After the passkey: a counter that this very answer has raised before must not look like a copy's.
            spent = await self._challenges.spent(uow, claimed.challenge)
        if passkey is None or user is None or spent:
            await self._count(who, action, None)
        try:
            signed = await self._authenticators.verify_signature(
                answer, party, claimed.challenge, public_key=passkey.public_key
            )
        except AnswerRefused as refused:
            log.info("the answer of an authenticator was refused: %s", refused)
            await self._count(who, action, passkey)
        theirs = isinstance(who, Client) or who.user_id == user.id
        if user.disabled_at is not None or not theirs or claimed.user_handle not in {None, _handle(user)}:
            await self._count(who, action, passkey)
        if not passkey.counts_on(signed.sign_count):
            await self._copied(who, action, passkey)
        return _Proof(user=user, passkey=passkey, challenge=claimed.challenge, signed=signed)

    def _using(self, proof: _Proof, who: Actor | Client) -> Callable[[UnitOfWork], Awaitable[None]]:
        """Use up the challenge and the count of a proof, in the unit of work that acts on it."""

        async def use(uow: UnitOfWork) -> None:
            passkey, signed, now = proof.passkey, proof.signed, self._clock.now()
            if not await self._challenges.spend(uow, proof.challenge):
                raise _refused()
            if not await uow.passkeys.use(passkey.id, signed.sign_count, now, synced=signed.synced):
                raise _refused()
            actor = who if isinstance(who, Actor) else _actor(proof.user, who)
            await self._trail.record(uow, actor, Action.PASSKEY_USED, about=("passkey", passkey.id))

        return use

    async def _count(self, who: Actor | Client, action: Action, passkey: Passkey | None) -> NoReturn:
        """Count an answer that was wrong, and refuse it."""
        client = who if isinstance(who, Client) else who.client
        about = None if passkey is None else ("passkey", passkey.id)
        terms = terms_of_wrong_passkey(Network.of(client.address, client.source.value))
        try:
            async with self._limiter.admitted(terms, _nowhere):
                first = self._refusals.first(Refusal(who=who, action=action, about=about, detail=_WRONG))
                with regardless_of_deadline():
                    async with self._storage.write() as uow:
                        await self._limiter.count(uow, terms)
                        if first:
                            denied = Result.DENIED
                            await self._trail.record(uow, who, action, about=about, result=denied, **dict(_WRONG))
                raise _refused().as_recorded()
        except (TooManyAttempts, Overloaded) as limited:
            if isinstance(limited, TooManyAttempts):
                await self._refusals.record(Refusal(who=who, action=action, detail=_LIMITED, at_once=1))
            await self._limiter.hold()
            raise

    async def _copied(self, who: Actor | Client, action: Action, passkey: Passkey) -> NoReturn:
        """Record that a signature was right and its counter went back: the key is in two places (WebAuthn, 6.1.1)."""
        about = ("passkey", passkey.id)
        log.warning("passkey %s was refused: its counter went back, so it was copied", passkey.id)
        await self._refusals.record(Refusal(who=who, action=action, about=about, detail=_COPIED))
        raise InvalidCredentials(
            "This passkey seems to be a copy, as its counter went back: sign in otherwise and remove it"
        ).as_recorded()


def _session(actor: Actor) -> str:
    """The session of an actor, to which a challenge is bound. Raises InvalidToken where there is none."""
    if actor.session_id is None:
        raise InvalidToken
    return actor.session_id


def _handle(user: User) -> bytes:
    """What authenticators call the user: an id that names nobody (WebAuthn, 14.6.1)."""
    return user.id.encode()


def _recipient(browser: str | None) -> str:
    return _ANY_PROGRAM if browser is None else hashlib.sha256(browser.encode("utf-8", "surrogatepass")).hexdigest()


def _actor(user: User, client: Client) -> Actor:
    return Actor(user_id=user.id, subject_id=user.subject_id, username=user.username, role=user.role, client=client)


def _refused() -> InvalidCredentials:
    return InvalidCredentials("This passkey is not accepted here: try again, or sign in with your password")


def _too_late() -> PasskeyRefused:
    return PasskeyRefused("This took longer than five minutes, or was answered already: start again")


async def _nowhere(_: UnitOfWork) -> bool:
    return False
