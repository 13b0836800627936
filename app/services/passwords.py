"""Passwords that are replaced: by their owner, who proves the present one, or by the operator as the last resort."""

from __future__ import annotations

import unicodedata

from app.domain.audit import Action
from app.domain.errors import Forbidden, InvalidCredentials, InvalidInput, NotFound, PasswordChanged
from app.domain.identity import Actor, Permission, Source, User, guessable, name_key, new_password
from app.domain.links import ACCOUNT_PURPOSES
from app.domain.text import opaque
from app.services.alive import require_alive
from app.services.audit import AuditTrail
from app.services.authentication import KeptSession, PasswordProof, SessionStarts
from app.services.ports import Clock, PasswordHasher, Storage, UnitOfWork


class PasswordService:
    """Replaces passwords. Every method may raise StorageError and NotReady."""

    def __init__(
        self,
        *,
        storage: Storage,
        proof: PasswordProof,
        starts: SessionStarts,
        passwords: PasswordHasher,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._proof = proof
        self._starts = starts
        self._passwords = passwords
        self._clock = clock
        self._trail = AuditTrail(clock)

    async def change(self, actor: Actor, password: str | None, new: str, *, cookie: str | None = None) -> KeptSession:
        """Replace the actor's password; all their other sessions end, and their reset links stop working.

        ``password`` is the present one, judged within the limits on guessing; None for an account that has none, whose
        owner signed in otherwise within the last ten minutes. ``cookie`` is that of a browser's session, which gets
        another one. The session is no fresher than before, since a second factor was not asked for. Of simultaneous
        changes one succeeds.

        Raises InvalidCredentials, TooManyAttempts, InvalidInput, ReauthenticationRequired, Overloaded, InvalidToken
        where the session ended meanwhile, and PasswordChanged where the account was changed meanwhile.
        """
        actor.require_person()
        typed = new_password(new, "new_password")
        user = await self._proven(actor, password)
        if password is not None and _same(password, typed):
            raise InvalidInput("new_password", "must differ from the present one")
        if await self._passwords.is_guessable(typed, context=(user.username,)):
            raise guessable("new_password")
        hashed = await self._passwords.hash(typed)
        async with self._storage.write() as uow:
            await require_alive(uow, actor, self._clock.now())
            await self._replace(uow, user, hashed)
            kept = await self._starts.keep_alone(uow, actor, cookie)
            about = ("user", user.id)
            await self._trail.record(uow, actor, Action.PASSWORD_CHANGED, about=about, sessions_ended=kept.others_ended)
        return kept

    async def end_other_sessions(self, actor: Actor, *, cookie: str | None = None) -> KeptSession:
        """End every session of the actor but this one. Raises InvalidToken where there is none to keep."""
        actor.require_person()
        async with self._storage.write() as uow:
            kept = await self._starts.keep_alone(uow, actor, cookie)
            about = ("user", actor.user_id)
            await self._trail.record(uow, actor, Action.SESSION_REVOKED, about=about, sessions_ended=kept.others_ended)
        return kept

    async def set(self, actor: Actor, username: str, new: str) -> User:
        """Give a user another password, as the operator: all sessions of that user end, nothing else is cleared.

        Raises Forbidden for anybody else and for a disabled account, NotFound, InvalidInput, Overloaded, and
        PasswordChanged where the account was changed meanwhile.
        """
        actor.require(Permission.MANAGE_USERS)
        if actor.client.source is not Source.CLI:
            raise Forbidden("Only the operator sets a password, at the command line: others issue a reset link")
        typed = new_password(new)
        name = name_key(opaque(username, "username", longest=256).strip())
        async with self._storage.lookup() as uow:
            user = await uow.users.by_name(name)
        if user is None:
            raise NotFound("There is no user of that name")
        if user.disabled_at is not None:
            raise Forbidden("This account is disabled")
        if await self._passwords.is_guessable(typed, context=(user.username,)):
            raise guessable()
        hashed = await self._passwords.hash(typed)
        async with self._storage.write() as uow:
            await self._replace(uow, user, hashed)
            ended = await uow.sessions.end_all_of(user.id, self._clock.now())
            about = ("user", user.id)
            await self._trail.record(uow, actor, Action.PASSWORD_SET, about=about, sessions_ended=ended)
        return user

    async def has_password(self, actor: Actor) -> bool:
        """Whether the actor's account has a password."""
        actor.require_person()
        async with self._storage.lookup() as uow:
            user = await uow.users.get(actor.user_id)
        return user is not None and user.password_hash is not None

    async def _proven(self, actor: Actor, password: str | None) -> User:
        if password is not None:
            try:
                return (await self._proof.again(actor, password)).user
            except InvalidCredentials as refused:
                named = InvalidCredentials("The present password is wrong")
                raise (named.as_recorded() if refused.recorded else named) from None
        actor.require_fresh(self._clock.now())
        async with self._storage.lookup() as uow:
            user = await uow.users.get(actor.user_id)
        if user is None or user.password_hash is not None:
            raise InvalidCredentials("The present password is wrong")
        return user

    async def _replace(self, uow: UnitOfWork, user: User, hashed: str) -> None:
        """Store the hash and end the links and API tokens; the caller ends the sessions. Raises PasswordChanged."""
        now = self._clock.now()
        # By the token version, which every end of all sessions counts up: of two changes at once one finds another one.
        if not await uow.users.set_password(user.id, hashed, token_version=user.token_version, at=now):
            raise PasswordChanged
        for purpose in ACCOUNT_PURPOSES:
            await uow.links.withdraw(user.id, purpose)
        await uow.api_tokens.end_all_of(user.id)  # anyone who had the password may have made some


def _same(one: str, other: str) -> bool:
    return unicodedata.normalize("NFKC", one) == unicodedata.normalize("NFKC", other)
