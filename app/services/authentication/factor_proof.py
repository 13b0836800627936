"""The proof of a second factor: judged within the limits on guessing, and recorded where it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NoReturn

from app.domain.attempts import Terms, terms_of_code, terms_of_no_code, terms_of_recovery_code
from app.domain.audit import Action, Result
from app.domain.errors import (
    InvalidCredentials,
    OtpRequired,
    SecondFactorUnreadable,
    TooManyAttempts,
)
from app.domain.identity import Actor, Client
from app.domain.second_factor import TotpFactor, TypedCode, accepted_steps
from app.domain.secrets import SecretBytes
from app.services.audit import AuditTrail
from app.services.authentication.passwords import Sender
from app.services.authentication.sessions import Within
from app.services.credentials.cipher import CredentialCipher
from app.services.deadlines import check_deadline, regardless_of_deadline
from app.services.limits import AttemptLimiter
from app.services.ports import Clock, OneTimePasswords, Storage, UnitOfWork
from app.services.refusals import Refusal, Refusals

_WRONG: Final = (("reason", "wrong_code"),)
_NONE: Final = (("reason", OtpRequired.code),)
_UNREADABLE: Final = (("reason", SecondFactorUnreadable.code),)
_LIMITED: Final = (("reason", TooManyAttempts.code),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Who gives a code for which account, and for what, as the audit trail names it."""

    user_id: str
    who: Actor | Client
    action: Action
    sender: Sender

    @property
    def about(self) -> tuple[str, str]:
        """The account."""
        return "user", self.user_id


class FactorProof:
    """Judges one-time codes and recovery codes. Every method may raise StorageError and NotReady."""

    def __init__(
        self,
        *,
        storage: Storage,
        cipher: CredentialCipher,
        codes: OneTimePasswords,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._cipher = cipher
        self._codes = codes
        self._refusals = refusals
        self._limiter = AttemptLimiter(storage=storage, clock=clock)
        self._trail = AuditTrail(clock)
        self._clock = clock

    async def judge(self, attempt: Attempt, code: TypedCode | None) -> Within | None:
        """Judge a code of a user whose password was right: None where the account has no second factor.

        The function that is returned uses the code up, in the unit of work in which it counts; it raises
        InvalidCredentials where another one was faster.

        Raises OtpRequired without a code, InvalidCredentials for a wrong or used one, TooManyAttempts, and
        SecondFactorUnreadable where the secret does not open: that is never taken for an account without one.
        """
        async with self._storage.lookup() as uow:
            factor = await uow.factors.get(attempt.user_id)
        if factor is None or factor.confirmed_at is None:
            return None
        try:
            if code is None:
                await self._ask(attempt)
            if code.recovery_hash is not None:
                return await self._judge_recovery(attempt, code.recovery_hash)
            return await self._judge_one_time(attempt, factor, code)
        except TooManyAttempts:
            refusal = Refusal(who=attempt.who, action=attempt.action, about=attempt.about, detail=_LIMITED, at_once=1)
            await self._refusals.record(refusal)
            await self._limiter.hold()
            raise

    async def open(self, factor: TotpFactor) -> SecretBytes | None:
        """Return the secret of an authenticator, or None where it does not decrypt."""
        return await self._cipher.open_totp(factor)

    def matching_step(self, secret: SecretBytes, code: TypedCode, last_step: int | None) -> int | None:
        """Return the time step whose code it is, of those that are accepted now."""
        if code.one_time is None:
            return None
        return self._codes.matching_step(secret, code.one_time, accepted_steps(self._clock.now(), last_step))

    async def require_room(self, uow: UnitOfWork, sender: Sender) -> None:
        """Raise TooManyAttempts unless a one-time code of that sender may be judged."""
        await self._limiter.require_room(uow, terms_of_code(sender.codes))

    async def count_wrong(self, uow: UnitOfWork, attempt: Attempt, terms: Terms | None = None) -> None:
        """Count a wrong code, also as a wrong password, and record it."""
        await self._limiter.count(uow, terms or terms_of_code(attempt.sender.codes), attempt.sender.guesses)
        await self._note(uow, attempt, _WRONG)

    async def _ask(self, attempt: Attempt) -> NoReturn:
        """A right password without a code. It says that the password is right, so it is counted and recorded."""
        terms = terms_of_no_code(attempt.sender.codes)
        with regardless_of_deadline():
            async with self._storage.write() as uow:
                await self._limiter.require_room(uow, terms)
                await self._limiter.count(uow, terms)
                await self._note(uow, attempt, _NONE)
        raise OtpRequired().as_recorded()

    async def _judge_one_time(self, attempt: Attempt, factor: TotpFactor, code: TypedCode) -> Within:
        secret = await self.open(factor)
        if secret is None:
            await self._refusals.record(
                Refusal(who=attempt.who, action=attempt.action, about=attempt.about, detail=_UNREADABLE)
            )
            raise SecondFactorUnreadable().as_recorded()
        terms = terms_of_code(attempt.sender.codes)
        async with self._storage.lookup() as uow:
            await self._limiter.require_room(uow, terms)  # a flood is refused without a write
        check_deadline()  # where nobody waits for the verdict any more, there is no guess
        with regardless_of_deadline():
            async with self._storage.write() as uow:
                # From here on others wait, in every process: so no more codes are judged than there is room for.
                present = await uow.factors.locked(attempt.user_id)
                await self._limiter.require_room(uow, terms)
                step = None
                if present is not None and present.id == factor.id and present.confirmed_at is not None:
                    step = self.matching_step(secret, code, present.last_step)
                if step is None:
                    await self.count_wrong(uow, attempt, terms)
        if step is None:
            raise _refused().as_recorded()
        used = step

        async def use(uow: UnitOfWork) -> None:
            if not await uow.factors.use_step(factor.id, used):
                raise _refused()

        return use

    async def _judge_recovery(self, attempt: Attempt, code_hash: bytes) -> Within:
        terms = terms_of_recovery_code(attempt.sender.codes)
        async with self._storage.lookup() as uow:
            await self._limiter.require_room(uow, terms)
        check_deadline()
        with regardless_of_deadline():
            async with self._storage.write() as uow:
                await uow.factors.locked(attempt.user_id)
                await self._limiter.require_room(uow, terms)
                known = await uow.factors.has_code(attempt.user_id, code_hash)
                if not known:
                    await self.count_wrong(uow, attempt, terms)
        if not known:
            raise _refused().as_recorded()

        async def use(uow: UnitOfWork) -> None:
            if not await uow.factors.use_code(attempt.user_id, code_hash):
                raise _refused()
            left = await uow.factors.codes_left(attempt.user_id)
            await self._trail.record(uow, attempt.who, Action.RECOVERY_CODE_USED, about=attempt.about, left=left)

        return use

    async def _note(self, uow: UnitOfWork, attempt: Attempt, detail: tuple[tuple[str, str], ...]) -> None:
        refusal = Refusal(who=attempt.who, action=attempt.action, about=attempt.about, detail=detail)
        if self._refusals.first(refusal):
            await self._trail.record(
                uow, attempt.who, attempt.action, about=attempt.about, result=Result.DENIED, **dict(detail)
            )


def _refused() -> InvalidCredentials:
    return InvalidCredentials("The code is wrong or was used already: wait for the next one")
