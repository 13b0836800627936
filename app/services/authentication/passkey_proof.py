"""The proof of a passkey: an answer that an authenticator signed, judged, and used up by the act that it allows."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final, NoReturn

from app.domain.attempts import Network, terms_of_wrong_passkey
from app.domain.audit import Action, Result
from app.domain.errors import InvalidCredentials, Overloaded, TooManyAttempts
from app.domain.identity import Actor, Client, User
from app.domain.passkeys import Ceremony, Passkey, RelyingParty
from app.services.audit import AuditTrail
from app.services.authentication.challenges import PasskeyChallenges
from app.services.deadlines import regardless_of_deadline
from app.services.limits import AttemptLimiter
from app.services.ports import Answer, AnswerRefused, Authenticators, Clock, Signed, Storage, UnitOfWork
from app.services.refusals import Refusal, Refusals

log = logging.getLogger(__name__)

_COPIED: Final = (("reason", "copied"),)
_LIMITED: Final = (("reason", TooManyAttempts.code),)
_WRONG: Final = (("reason", "wrong"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenPasskey:
    """A passkey that signed one of our own challenges; ``user`` has it, is not disabled, and is as of now."""

    user: User
    passkey: Passkey
    challenge: bytes
    signed: Signed


class PasskeyProof:
    """Judges answers of authenticators. Every method may raise StorageError and NotReady.

    Unknown and removed passkeys, wrong signatures and disabled accounts get one answer. A right one needs no room in a
    limit, so that nobody is kept out by the wrong answers of other people.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        authenticators: Authenticators,
        challenges: PasskeyChallenges,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._authenticators = authenticators
        self._challenges = challenges
        self._refusals = refusals
        self._limiter = AttemptLimiter(storage=storage, clock=clock)
        self._trail = AuditTrail(clock)
        self._clock = clock

    async def judge(
        self,
        answer: Answer,
        party: RelyingParty,
        recipients: Collection[tuple[str, ...]],
        *,
        ceremony: Ceremony,
        who: Actor | Client,
        action: Action,
    ) -> ProvenPasskey:
        """Return the passkey that signed a challenge of that ceremony, made for one of the recipients.

        An actor must own the passkey. ``action`` is what the audit trail calls a refusal. Raises InvalidCredentials,
        TooManyAttempts, Overloaded.
        """
        try:
            claimed = self._authenticators.claimed(answer)
        except AnswerRefused as refused:
            log.debug("the answer of an authenticator was refused: %s", refused)
            raise _refused() from None
        if not any(self._challenges.stands(claimed.challenge, ceremony, *each) for each in recipients):
            raise _refused()
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
            log.debug("the answer of an authenticator was refused: %s", refused)
            await self._count(who, action, passkey)
        theirs = isinstance(who, Client) or who.user_id == user.id
        if user.disabled_at is not None or not theirs or claimed.user_handle not in {None, handle_of(user)}:
            await self._count(who, action, passkey)
        if not passkey.counts_on(signed.sign_count):
            await self._copied(who, action, passkey)
        return ProvenPasskey(user=user, passkey=passkey, challenge=claimed.challenge, signed=signed)

    def using(self, proof: ProvenPasskey, who: Actor | Client) -> Callable[[UnitOfWork], Awaitable[None]]:
        """Return the function that uses a proof up, for the unit of work that acts on it.

        Of any number of simultaneous uses one succeeds; the function raises InvalidCredentials for the others.
        """

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


def handle_of(user: User) -> bytes:
    """The id of a user for authenticators; it names nobody (WebAuthn, 14.6.1)."""
    return user.id.encode()


def _actor(user: User, client: Client) -> Actor:
    return Actor(user_id=user.id, subject_id=user.subject_id, username=user.username, role=user.role, client=client)


def _refused() -> InvalidCredentials:
    return InvalidCredentials("This passkey is not accepted here: try again, or sign in with your password")


async def _nowhere(_: UnitOfWork) -> bool:
    return False
