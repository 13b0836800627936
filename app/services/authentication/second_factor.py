"""The second factor of one's own account: switched on, proven, switched off, and its recovery codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.domain.audit import Action
from app.domain.errors import AlreadyExists, Forbidden, InvalidCredentials, NotFound, SecondFactorUnreadable
from app.domain.identity import Actor
from app.domain.second_factor import (
    RECOVERY_CODE_BYTES,
    RECOVERY_CODES,
    TotpFactor,
    TypedCode,
    recovery_code,
    recovery_hash,
    typed_code,
)
from app.domain.secrets import SecretBytes, SecretText
from app.services.alive import require_alive
from app.services.audit import AuditTrail
from app.services.authentication.enrolment import Enrolment, Enrolments
from app.services.authentication.factor_proof import Attempt, FactorProof
from app.services.authentication.passwords import PasswordProof
from app.services.authentication.sessions import KeptSession, SessionStarts
from app.services.deadlines import regardless_of_deadline
from app.services.ports import Clock, Randomness, Storage, UnitOfWork

_NONE = "This account has no second factor: switch it on first"


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorStatus:
    """The second factor of an account; ``since`` is when it was confirmed, None where there is none.

    ``readable`` is False where the stored secret does not open, so that only recovery codes are left.
    """

    since: datetime | None
    readable: bool
    recovery_codes_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecoveryCodes:
    """Ten recovery codes, shown once, and the session in which they were made, which goes on."""

    codes: Sequence[SecretText]
    kept: KeptSession


class SecondFactorService:
    """Changes demand a session of one's own in which the password, and the factor, were proven within ten minutes.

    Each change of a factor ends every other session (ASVS 5.0, 7.4.3); the ``cookie`` of a browser's is renewed. Every
    method may raise StorageError and NotReady; those that change something raise Forbidden without a session,
    ReauthenticationRequired, and InvalidToken where the session has ended meanwhile.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        enrolments: Enrolments,
        passwords: PasswordProof,
        proof: FactorProof,
        starts: SessionStarts,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._storage = storage
        self._enrolments = enrolments
        self._passwords = passwords
        self._proof = proof
        self._starts = starts
        self._trail = AuditTrail(clock)
        self._clock = clock
        self._randomness = randomness

    async def status(self, actor: Actor) -> FactorStatus:
        """Return the second factor of the actor's account."""
        actor.require_person()
        async with self._storage.lookup() as uow:
            factor = await uow.factors.get(actor.user_id)
            left = await uow.factors.codes_left(actor.user_id)
        if factor is None or factor.confirmed_at is None:
            return FactorStatus(since=None, readable=True, recovery_codes_left=0)
        readable = await self._proof.open(factor) is not None
        return FactorStatus(since=factor.confirmed_at, readable=readable, recovery_codes_left=left)

    async def demanded(self, user_id: str) -> bool:
        """Whether a sign-in to that account, and a new proof in a session of it, demands a code."""
        async with self._storage.lookup() as uow:
            factor = await uow.factors.get(user_id)
        return factor is not None and factor.confirmed_at is not None

    async def start(self, actor: Actor) -> Enrolment:
        """Return a new secret, which counts once a code of it is confirmed; an earlier pending one is replaced.

        Raises AlreadyExists where the account has a second factor: it is switched off first, never replaced silently.
        """
        actor.require_person()
        self._require_fresh_session(actor)
        secret = self._enrolments.draw()
        async with self._storage.write() as uow:
            await require_alive(uow, actor, self._clock.now())
            if not await uow.factors.start(await self._enrolments.pending(uow, actor, secret)):
                raise AlreadyExists("This account has a second factor already: switch it off first")
            await self._trail.record(uow, actor, Action.FACTOR_STARTED, about=("user", actor.user_id))
        return self._enrolments.shown(secret, actor)

    async def pending(self, actor: Actor) -> Enrolment | None:
        """Return the secret that waits for its code once more; None where none does, or where it does not open."""
        actor.require_person()
        self._require_fresh_session(actor)
        async with self._storage.lookup() as uow:
            factor = await uow.factors.get(actor.user_id)
        if factor is None or not factor.pending(self._clock.now()):
            return None
        secret = await self._proof.open(factor)
        return None if secret is None else self._enrolments.shown(secret, actor)

    async def confirm(self, actor: Actor, otp: str, *, cookie: str | None = None) -> NewRecoveryCodes:
        """Switch the second factor on by a code of the new secret, and return the recovery codes.

        The code is used up by that. Raises NotFound where no secret waits for its code, InvalidCredentials for a wrong
        one, TooManyAttempts, and SecondFactorUnreadable where the new secret does not open: start again.
        """
        actor.require_person()
        self._require_fresh_session(actor)
        code = typed_code(otp) or TypedCode()
        factor, secret = await self._waiting(actor)
        attempt = self._attempt(actor, Action.FACTOR_CONFIRMED)
        codes, kept = self._new_codes(), None
        with regardless_of_deadline():  # a guess that was judged counts
            async with self._storage.write() as uow:
                await require_alive(uow, actor, self._clock.now())
                present = await uow.factors.locked(actor.user_id)
                if present is None or present.id != factor.id or not present.pending(self._clock.now()):
                    raise _nothing_waits()
                await self._proof.require_room(uow, attempt.sender)
                step = self._proof.matching_step(secret, code, None)
                if step is None:
                    await self._proof.count_wrong(uow, attempt)
                else:
                    kept = await self._starts.keep_alone(uow, actor, cookie)
                    await uow.factors.confirm(factor.id, step, self._clock.now())
                    await uow.factors.put_codes(actor.user_id, codes, self._clock.now())
                    await self._record(uow, actor, Action.FACTOR_CONFIRMED, kept)
        if kept is None:
            raise InvalidCredentials("The code is wrong: compare the time of this device with that of the server")
        return NewRecoveryCodes(codes=list(codes.values()), kept=kept)

    async def remove(self, actor: Actor, *, cookie: str | None = None) -> KeptSession:
        """Switch the second factor off; its recovery codes go with it. Raises NotFound where there is none."""
        actor.require_person()
        self._require_fresh_session(actor)
        async with self._storage.write() as uow:
            kept = await self._keep_alone(uow, actor, cookie)
            await uow.factors.clear(actor.user_id)
            await self._record(uow, actor, Action.FACTOR_REMOVED, kept)
        return kept

    async def new_recovery_codes(self, actor: Actor, *, cookie: str | None = None) -> NewRecoveryCodes:
        """Return ten new recovery codes; all former ones stop working. Raises NotFound without a second factor."""
        actor.require_person()
        self._require_fresh_session(actor)
        codes = self._new_codes()
        async with self._storage.write() as uow:
            kept = await self._keep_alone(uow, actor, cookie)
            await uow.factors.put_codes(actor.user_id, codes, self._clock.now())
            await self._record(uow, actor, Action.RECOVERY_CODES_MADE, kept)
        return NewRecoveryCodes(codes=list(codes.values()), kept=kept)

    async def prove(self, actor: Actor, otp: str | None) -> None:
        """Prove the second factor for one act, such as a dangerous command on Discord, with the limits of a sign-in.

        The code is used up. Raises NotFound where the account has none, and as ``FactorProof.judge``.
        """
        actor.require_person()
        code = typed_code(otp)
        attempt = self._attempt(actor, Action.FACTOR_PROVEN)
        use = await self._proof.judge(attempt, code)
        if use is None:
            raise NotFound(_NONE)
        async with self._storage.write() as uow:
            await require_alive(uow, actor, self._clock.now())
            await use(uow)
            await self._trail.record(uow, actor, Action.FACTOR_PROVEN, about=attempt.about)

    async def _waiting(self, actor: Actor) -> tuple[TotpFactor, SecretBytes]:
        async with self._storage.lookup() as uow:
            factor = await uow.factors.get(actor.user_id)
        if factor is None or not factor.pending(self._clock.now()):
            raise _nothing_waits()
        secret = await self._proof.open(factor)
        if secret is None:
            raise SecondFactorUnreadable
        return factor, secret

    def _new_codes(self) -> dict[bytes, SecretText]:
        """New recovery codes by their hashes."""
        codes = [recovery_code(self._randomness.token_bytes(RECOVERY_CODE_BYTES)) for _ in range(RECOVERY_CODES)]
        return {recovery_hash(each): each for each in codes}

    async def _keep_alone(self, uow: UnitOfWork, actor: Actor, cookie: str | None) -> KeptSession:
        """End the actor's other sessions, for a change of the factor that they have. Raises NotFound without one."""
        kept = await self._starts.keep_alone(uow, actor, cookie)
        present = await uow.factors.locked(actor.user_id)
        if present is None or present.confirmed_at is None:
            raise NotFound(_NONE)
        return kept

    async def _record(self, uow: UnitOfWork, actor: Actor, action: Action, kept: KeptSession) -> None:
        about = ("user", actor.user_id)
        await self._trail.record(uow, actor, action, about=about, sessions_ended=kept.others_ended)

    def _attempt(self, actor: Actor, action: Action) -> Attempt:
        return Attempt(user_id=actor.user_id, who=actor, action=action, sender=self._passwords.sender_of(actor))

    def _require_fresh_session(self, actor: Actor) -> None:
        if actor.session_id is None:
            raise Forbidden("Sign in on the web to change a second factor")
        actor.require_fresh(self._clock.now())


def _nothing_waits() -> NotFound:
    return NotFound("No new secret waits for its code, or its ten minutes are over: start again")
