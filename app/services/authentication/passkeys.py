"""Passkeys: added and removed by their person, and proof enough for a sign-in without name and password.

The person is verified by the authenticator each time, so a passkey is both factors at once: a session that begins with
one is fresh and needs no one-time code.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from app.domain.audit import Action
from app.domain.errors import (
    AlreadyExists,
    InvalidToken,
    NotFound,
    PasskeyRefused,
    QuotaExceeded,
    UniqueViolation,
)
from app.domain.identity import Actor, Client
from app.domain.passkeys import PASSKEYS_MOST, Ceremony, Passkey, RelyingParty, passkey_name
from app.services.audit import AuditTrail
from app.services.authentication.challenges import PasskeyChallenges
from app.services.authentication.passkey_proof import PasskeyProof, ProvenPasskey, handle_of
from app.services.authentication.sessions import BrowserSession, KeptSession, SessionStarts, TokenPair
from app.services.authentication.ways_in import require_way_in
from app.services.paging import Page, page_size, paged, read_cursor
from app.services.ports import (
    Answer,
    AnswerRefused,
    Authenticators,
    Clock,
    Options,
    Randomness,
    Storage,
    UnitOfWork,
)
from app.services.refusals import Refusal, Refusals

log = logging.getLogger(__name__)

_ANY_PROGRAM: Final = ""
"""The recipient of a challenge that was not made for a browser."""


@dataclass(frozen=True, slots=True)
class AddedPasskey:
    """A passkey that was stored, and the session in which that happened, which goes on."""

    passkey: Passkey
    kept: KeptSession


class PasskeyService:
    """The passkeys of users. Every method may raise StorageError and NotReady."""

    def __init__(
        self,
        *,
        storage: Storage,
        starts: SessionStarts,
        proof: PasskeyProof,
        authenticators: Authenticators,
        challenges: PasskeyChallenges,
        refusals: Refusals,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._storage = storage
        self._starts = starts
        self._proof = proof
        self._authenticators = authenticators
        self._challenges = challenges
        self._refusals = refusals
        self._trail = AuditTrail(clock)
        self._clock = clock
        self._randomness = randomness

    # -- the actor's own -----------------------------------------------------------------------------------------------

    async def registration_options(self, actor: Actor, party: RelyingParty) -> Options:
        """Return the options by which the actor's browser makes a passkey. Raises ReauthenticationRequired."""
        actor.require_person()
        actor.require_fresh(self._clock.now())
        challenge = self._challenges.issue(Ceremony.REGISTRATION, actor.user_id, _session(actor))
        async with self._storage.lookup() as uow:
            user = await uow.users.get(actor.user_id)
            known = await uow.passkeys.of(actor.user_id)
        if user is None:
            raise InvalidToken
        return self._authenticators.creation_options(
            party, challenge, handle=handle_of(user), username=user.username, known=known
        )

    async def register(
        self, actor: Actor, name: str, answer: Answer, party: RelyingParty, *, cookie: str | None = None
    ) -> AddedPasskey:
        """Store the passkey that the actor's browser made; every other session of the actor ends.

        The ``cookie`` of a browser's session is renewed.

        Raises PasskeyRefused, InvalidInput, QuotaExceeded, AlreadyExists, ReauthenticationRequired.
        """
        actor.require_person()
        actor.require_fresh(self._clock.now())
        named = passkey_name(name)
        try:
            challenge = self._authenticators.claimed(answer).challenge
            if not self._challenges.stands(challenge, Ceremony.REGISTRATION, actor.user_id, _session(actor)):
                raise _too_late()
            key = await self._authenticators.verify_creation(answer, party, challenge)
        except AnswerRefused as refused:
            log.debug("a new passkey was refused: %s", refused)
            raise PasskeyRefused("The answer of the browser is not one to this page: start again") from None
        passkey = Passkey(
            id=self._randomness.new_id(),
            user_id=actor.user_id,
            name=named,
            credential_id=key.credential_id,
            public_key=key.public_key,
            sign_count=key.sign_count,
            transports=key.transports,
            synced=key.synced,
            created_at=self._clock.now(),
        )

        async def store(uow: UnitOfWork) -> None:
            if not await self._challenges.spend(uow, challenge):
                raise _too_late()
            if not await uow.passkeys.add(passkey, most=PASSKEYS_MOST):
                raise QuotaExceeded(f"You have {PASSKEYS_MOST} passkeys: remove one first")

        try:
            kept = await self._change(actor, Action.PASSKEY_ADDED, passkey.id, store, cookie)
        except UniqueViolation:
            raise AlreadyExists("This passkey is stored already") from None
        return AddedPasskey(passkey, kept)

    async def page(self, actor: Actor, *, after: str | None = None, limit: int = 50) -> Page[Passkey]:
        """Return the actor's own passkeys, the oldest first. Raises InvalidInput."""
        actor.require_person()
        size, begin = page_size(limit), read_cursor(after)
        async with self._storage.lookup() as uow:
            all_of_them = await uow.passkeys.of(actor.user_id)
        rows = [each for each in all_of_them if begin is None or each.id > begin]
        return paged(rows[: size + 1], size, lambda passkey: passkey.id)

    async def remove(self, actor: Actor, passkey_id: str, *, cookie: str | None = None) -> KeptSession:
        """Delete one of the actor's own passkeys; every other session of the actor ends.

        The ``cookie`` of a browser's session is renewed. Raises NotFound, ReauthenticationRequired, and NoOtherWayIn
        for the last one of an account without a password and without Discord.
        """
        actor.require_person()
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
            await require_way_in(uow, actor.user_id)

        return await self._change(actor, Action.PASSKEY_REMOVED, passkey_id, delete, cookie)

    async def _change(
        self,
        actor: Actor,
        action: Action,
        passkey_id: str,
        change: Callable[[UnitOfWork], Awaitable[None]],
        cookie: str | None,
    ) -> KeptSession:
        """Make a change to the actor's passkeys, from the actor's session, which goes on, while all others end."""
        async with self._storage.write() as uow:
            # First, since it waits for another end of this session at the same time, such as a reset of the account:
            # a session that has ended must not leave a passkey behind.
            kept = await self._starts.keep_alone(uow, actor, cookie)
            await change(uow)
            about = ("passkey", passkey_id)
            await self._trail.record(uow, actor, action, about=about, sessions_ended=kept.others_ended)
        return kept

    # -- sign-in -------------------------------------------------------------------------------------------------------

    async def login_options(self, party: RelyingParty, *, browser: str | None = None) -> Options:
        """Return the options for a passkey of any user, whom the answer names. Nothing is read or stored.

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

        Raises InvalidCredentials, TooManyAttempts, Overloaded.
        """
        proof = await self._judge(answer, client, party, {browser, None})
        return await self._starts.program(
            proof.user, client, former_cookie=former_cookie, within=self._proof.using(proof, client)
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
        proof = await self._judge(answer, client, party, set() if browser is None else {browser})
        return await self._starts.browser(
            proof.user, client, former_cookie=former_cookie, within=self._proof.using(proof, client)
        )

    async def _judge(
        self, answer: Answer, client: Client, party: RelyingParty, browsers: set[str | None]
    ) -> ProvenPasskey:
        recipients = {(_recipient(each),) for each in browsers}
        ceremony, action = Ceremony.LOGIN, Action.LOGIN
        return await self._proof.judge(answer, party, recipients, ceremony=ceremony, who=client, action=action)

    # -- freshness -----------------------------------------------------------------------------------------------------

    async def reauthentication_options(self, actor: Actor, party: RelyingParty) -> Options:
        """Return the options for one of the actor's own passkeys. Raises NotFound where there is none."""
        actor.require_person()
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
        actor.require_person()
        ceremony, recipients = Ceremony.REAUTHENTICATION, {(actor.user_id, _session(actor))}
        proof = await self._proof.judge(
            answer, party, recipients, ceremony=ceremony, who=actor, action=Action.REAUTHENTICATED
        )
        return await self._starts.prove(actor, cookie, within=self._proof.using(proof, actor))


def _session(actor: Actor) -> str:
    """The session of an actor, to which a challenge is bound. Raises InvalidToken where there is none."""
    if actor.session_id is None:
        raise InvalidToken
    return actor.session_id


def _recipient(browser: str | None) -> str:
    return _ANY_PROGRAM if browser is None else hashlib.sha256(browser.encode("utf-8", "surrogatepass")).hexdigest()


def _too_late() -> PasskeyRefused:
    return PasskeyRefused("This took longer than five minutes, or was answered already: start again")
