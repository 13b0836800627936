"""One-time links: issued, used once, and the password of an account chosen by its link."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import Final

from app.domain.attempts import Network, Terms, terms_of_good_link, terms_of_wrong_link
from app.domain.audit import Action, Result
from app.domain.errors import (
    AlreadyExists,
    Forbidden,
    InvalidInput,
    InvalidToken,
    NotFound,
    Overloaded,
    TooManyAttempts,
)
from app.domain.identity import Actor, Client, Permission, User, guessable, name_key, new_password, new_username
from app.domain.links import ACCOUNT_PURPOSES, LINK_LASTS, Invitation, LinkPurpose, OneTimeLink
from app.domain.roles import require_may_manage
from app.domain.secrets import SecretText
from app.domain.text import opaque
from app.services.alive import require_alive
from app.services.audit import AuditTrail
from app.services.authentication import token_digest
from app.services.deadlines import regardless_of_deadline
from app.services.invitations import Invitations
from app.services.limits import AttemptLimiter
from app.services.ports import Clock, PasswordHasher, Randomness, Storage, UnitOfWork
from app.services.refusals import Refusal, Refusals

LINK_PREFIX: Final = "khl_"
_WRONG: Final = (("reason", "wrong"),)
_LIMITED: Final = (("reason", TooManyAttempts.code),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimable:
    """A user, and the token that lets its holder choose the password of the account."""

    user: User
    token: SecretText


class OneTimeLinks:
    """Issues links within a unit of work.

    A new link takes the place of the user's unused ones of its purpose; those for the password of an account are one
    purpose here: an old claim link must not outlive a reset.
    """

    def __init__(self, *, clock: Clock, randomness: Randomness) -> None:
        self._clock = clock
        self._randomness = randomness

    async def issue(self, uow: UnitOfWork, purpose: LinkPurpose, user_id: str) -> SecretText:
        """Store a link and return its token: 256 random bits, of which the database holds the SHA-256."""
        now = self._clock.now()
        token = LINK_PREFIX + urlsafe_b64encode(self._randomness.token_bytes(32)).decode().rstrip("=")
        link = OneTimeLink(
            id=self._randomness.new_id(),
            purpose=purpose,
            user_id=user_id,
            created_at=now,
            expires_at=now + LINK_LASTS,
        )
        for former in ACCOUNT_PURPOSES if purpose in ACCOUNT_PURPOSES else (purpose,):
            await uow.links.withdraw(user_id, former)
        await uow.links.add(link, token_digest(token))
        return SecretText(token)


@dataclass(frozen=True, slots=True)
class _Holder:
    """The user whose link it is, and what the link lets its holder do."""

    user: User
    purpose: LinkPurpose


class AccountClaims:
    """Passwords that people choose by a link: no operator learns them. Every method may raise StorageError.

    A claim link is for an account that has no password yet. A reset link is for one whose password was forgotten or is
    known to others.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        links: OneTimeLinks,
        invitations: Invitations,
        passwords: PasswordHasher,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._links = links
        self._invitations = invitations
        self._passwords = passwords
        self._refusals = refusals
        self._limiter = AttemptLimiter(storage=storage, clock=clock)
        self._clock = clock
        self._trail = AuditTrail(clock)

    async def issue(self, actor: Actor, username: str) -> Claimable:
        """Return a new claim link of a user who has no password; an earlier one stops working.

        No API token can: who has the link can sign in as the user. Raises Forbidden, ReauthenticationRequired,
        NotFound, and AlreadyExists where the account was claimed.
        """
        actor.require(Permission.MANAGE_USERS)
        actor.require_person()
        actor.require_fresh(self._clock.now())
        async with self._storage.write() as uow:
            await uow.users.hold_roles()
            acting = await require_alive(uow, actor, self._clock.now())
            user = await uow.users.by_name(name_key(opaque(username, "username", longest=256).strip()))
            if user is None:
                raise NotFound("There is no user of that name")
            require_may_manage(acting, user)
            if user.password_hash is not None:
                raise AlreadyExists("This account has a password already")
            if user.disabled_at is not None:
                raise Forbidden("This account is disabled")
            token = await self._links.issue(uow, LinkPurpose.CLAIM, user.id)
            await self._trail.record(uow, actor, Action.USER_LINK_ISSUED, about=("user", user.id))
        return Claimable(user=user, token=token)

    async def issue_reset(self, uow: UnitOfWork, actor: Actor, user: User) -> Claimable:
        """Issue a reset link within a unit of work, and record it; earlier links for the account stop working.

        Raises ReauthenticationRequired, and Forbidden, also for a disabled account.
        """
        require_may_manage(actor, user)
        actor.require_fresh(self._clock.now())
        if user.disabled_at is not None:
            raise Forbidden("This account is disabled")
        token = await self._links.issue(uow, LinkPurpose.RESET, user.id)
        await self._trail.record(
            uow, actor, Action.USER_LINK_ISSUED, about=("user", user.id), purpose=LinkPurpose.RESET.value
        )
        return Claimable(user=user, token=token)

    async def claim(self, token: str, password: str, client: Client, *, username: str | None = None) -> User:
        """Give the account of a claim or reset link the password; of simultaneous uses of a link one succeeds.

        An invitation makes an account of that ``username``, which nobody may have yet (AlreadyExists). A reset ends
        every session of the account. ``token`` may be the whole link. ``username``, where given, must be the
        account's. Tokens that are unknown, used or expired, and those of disabled accounts, get one answer. Raises
        InvalidToken, InvalidInput, TooManyAttempts, Overloaded.
        """
        digest = token_digest(opaque(token, "token", longest=1024).strip().rpartition("#")[2])
        typed = new_password(password)
        named = None if username is None else name_key(opaque(username, "username", longest=256).strip())
        # First of all, so that nobody's wrong tokens keep out a person whose link is good.
        async with self._storage.lookup() as uow:
            found = await self._found(uow, digest)
        network = Network.of(client.address, client.source.value)
        terms = terms_of_wrong_link(network) if found is None else terms_of_good_link(digest.hex())
        try:
            async with self._limiter.admitted(terms, _nowhere):
                if found is None:
                    await self._count(terms, client)
                    raise _refused().as_recorded()
                async with self._storage.lookup() as uow:  # of several uses at once another one may have been first
                    holder = await self._found(uow, digest)
                if holder is None:
                    raise _refused()
                if isinstance(holder, Invitation):
                    return await self._accept(digest, username, typed, client)
                user = holder.user
                if named not in {None, user.name_key}:
                    raise InvalidInput("username", "is not the name of this link's account: leave it out")
                if await self._passwords.is_guessable(typed, context=(user.username,)):
                    raise guessable()
                return await self._store(digest, holder, await self._passwords.hash(typed), client)
        except (TooManyAttempts, Overloaded) as refused:
            if isinstance(refused, TooManyAttempts):
                await self._refusals.record(Refusal(who=client, action=Action.USER_CLAIMED, detail=_LIMITED, at_once=1))
            await self._limiter.hold()
            raise

    async def _count(self, terms: Terms, client: Client) -> None:
        first = self._refusals.first(Refusal(who=client, action=Action.USER_CLAIMED, detail=_WRONG))
        with regardless_of_deadline():
            async with self._storage.write() as uow:
                await self._limiter.count(uow, terms)
                if first:
                    denied = Result.DENIED
                    await self._trail.record(
                        uow, client, Action.USER_CLAIMED, about=None, result=denied, **dict(_WRONG)
                    )

    async def _found(self, uow: UnitOfWork, digest: bytes) -> _Holder | Invitation | None:
        return await self._holder(uow, digest) or await self._invitations.usable(uow, digest)

    async def _accept(self, digest: bytes, username: str | None, password: str, client: Client) -> User:
        if username is None:
            raise InvalidInput("username", "is the name that you choose: this link is an invitation")
        name = new_username(username)
        if await self._passwords.is_guessable(password, context=(name,)):
            raise guessable()
        password_hash = await self._passwords.hash(password)
        async with self._storage.write() as uow:
            user = await self._invitations.accept(uow, digest, name, password_hash, client)
            if user is None:
                raise _refused()
        return user

    async def _holder(self, uow: UnitOfWork, digest: bytes) -> _Holder | None:
        for purpose in ACCOUNT_PURPOSES:
            link = await uow.links.usable(digest, purpose, self._clock.now())
            user = None if link is None else await uow.users.get(link.user_id)
            if user is not None and user.disabled_at is None:
                claimed = purpose is LinkPurpose.CLAIM and user.password_hash is not None
                return None if claimed else _Holder(user, purpose)
        return None

    async def _store(self, digest: bytes, holder: _Holder, password_hash: str, client: Client) -> User:
        now, user = self._clock.now(), holder.user
        async with self._storage.write() as uow:
            # The user's row before the link's, as a reset locks them: else two would wait for each other.
            if holder.purpose is LinkPurpose.CLAIM:
                stored = await uow.users.set_first_password(user.id, password_hash, now)
            else:
                stored = await uow.users.set_password(user.id, password_hash, token_version=user.token_version, at=now)
            if not stored or not await uow.links.use(digest, holder.purpose, now):
                raise _refused()
            if holder.purpose is LinkPurpose.RESET:
                await uow.sessions.end_all_of(user.id, now)
                await uow.api_tokens.end_all_of(user.id)
            actor = Actor(
                user_id=user.id, subject_id=user.subject_id, username=user.username, role=user.role, client=client
            )
            done = Action.USER_CLAIMED if holder.purpose is LinkPurpose.CLAIM else Action.PASSWORD_RESET
            await self._trail.record(uow, actor, done, about=("user", user.id))
        return user


def _refused() -> InvalidToken:
    return InvalidToken("This link does not exist, was used or has expired: ask for a new one")


async def _nowhere(_: UnitOfWork) -> bool:
    return False
