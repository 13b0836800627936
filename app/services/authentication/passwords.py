"""The proof of a password: judged within the limits on guessing, and recorded where it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app.domain.attempts import (
    CodeSender,
    Network,
    Terms,
    terms_of_device,
    terms_of_discord_member,
    terms_of_session,
    terms_of_stranger,
)
from app.domain.audit import Action, Result
from app.domain.errors import InvalidCredentials, InvalidToken, NotFound, Overloaded, TooManyAttempts
from app.domain.identity import Actor, Client, Permission, User, name_key
from app.domain.keys import KeyName
from app.domain.roles import require_may_manage
from app.domain.text import opaque
from app.services.alive import as_now
from app.services.audit import AuditTrail
from app.services.authentication.devices import DeviceClaims
from app.services.deadlines import check_deadline, regardless_of_deadline
from app.services.keys import KeyManagementService
from app.services.limits import AtHome, AttemptLimiter
from app.services.ports import Clock, KeyDerivation, PasswordHasher, Storage, UnitOfWork
from app.services.refusals import Refusal, Refusals

_WRONG: Final = (("reason", "wrong"),)
_REMEMBERED_ADDRESSES: Final = 100
"""Where an account is at home: the addresses that its sessions used last."""
_LIMITED: Final = (("reason", TooManyAttempts.code),)


@dataclass(frozen=True, slots=True)
class ProvenUser:
    """A user whose password was right; ``rehashed`` has present parameters where the stored hash has outdated ones.

    ``sender`` is who gave it, for the limits on what follows.
    """

    user: User
    rehashed: str | None
    sender: Sender


@dataclass(frozen=True, slots=True)
class Sender:
    """Who tries to prove who they are: ``guesses`` are the terms on which they guess passwords, ``codes`` codes."""

    guesses: Terms
    codes: CodeSender


class PasswordProof:
    """Judges passwords. Every method may raise StorageError and NotReady."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        passwords: PasswordHasher,
        derivation: KeyDerivation,
        devices: DeviceClaims,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._passwords = passwords
        self._derivation = derivation
        self._devices = devices
        self._refusals = refusals
        self._limiter = AttemptLimiter(storage=storage, clock=clock)
        self._trail = AuditTrail(clock)
        self._clock = clock

    async def sign_in(self, username: str, password: str, client: Client) -> ProvenUser:
        """Return the user of that name and password. Unknown, disabled and wrong take as long and get one answer.

        The caller stores a new hash with ``keep_hash``.

        Raises InvalidCredentials, TooManyAttempts, InvalidInput, Overloaded.
        """
        name = name_key(opaque(username, "username", longest=256).strip())
        typed = opaque(password, "password", longest=1024)
        sender = await self._sender(name, client)
        network = sender.codes.network

        async def at_home(uow: UnitOfWork) -> bool:
            user = await uow.users.by_name(name)
            seen = await uow.sessions.addresses_of(user.id, _REMEMBERED_ADDRESSES) if user is not None else ()
            return any(Network.of(address, "") == network for address in seen)

        return await self._judge(name, typed, sender, who=client, action=Action.LOGIN, at_home=at_home)

    async def again(self, actor: Actor, password: str) -> ProvenUser:
        """Prove the password of a session once more. Raises as ``sign_in``, and InvalidToken without a session."""
        actor.require_person()
        if actor.session_id is None:
            raise InvalidToken
        name = name_key(actor.username)
        typed = opaque(password, "password", longest=1024)
        sender = self.sender_of(actor)
        proven = await self._judge(name, typed, sender, who=actor, action=Action.REAUTHENTICATED, at_home=_nowhere)
        if proven.user.id != actor.user_id:
            raise InvalidCredentials
        return proven

    async def sender(self, user: User, client: Client) -> Sender:
        """Who sends something from that client for the account of a user."""
        return await self._sender(user.name_key, client)

    def sender_of(self, actor: Actor) -> Sender:
        """Who sends something for their own account: a session, or a person on Discord."""
        account, network = self._account(name_key(actor.username)), _network_of(actor.client)
        if actor.session_id is not None:
            terms = terms_of_session(account, actor.session_id)
        elif actor.discord_id is not None:
            terms = terms_of_discord_member(account, actor.discord_id)
        else:
            raise InvalidToken
        return Sender(terms, CodeSender.of(terms, account, network))

    async def _sender(self, name: str, client: Client) -> Sender:
        account, network = self._account(name), _network_of(client)
        terms = terms_of_stranger(account, network)
        claim = self._devices.read(client.claim)
        if claim is not None:
            async with self._storage.lookup() as uow:
                user = await uow.users.by_name(name)
            if user is not None and claim.of(user):
                terms = terms_of_device(account, claim.word)
        return Sender(terms, CodeSender.of(terms, account, network))

    async def keep_hash(self, uow: UnitOfWork, proven: ProvenUser) -> None:
        """Store a new hash, in the unit of work that the password was proven for; one that was changed since stays."""
        if proven.rehashed is not None:
            user = proven.user
            await uow.users.rehash(user.id, proven.rehashed, former=user.password_hash, at=self._clock.now())

    async def unlock(self, actor: Actor, username: str) -> User:
        """Forget the wrong passwords for an account, and what networks have used of the budgets of their own.

        Raises Forbidden, NotFound.
        """
        actor.require(Permission.MANAGE_USERS)
        name = name_key(opaque(username, "username", longest=256).strip())
        async with self._storage.write() as uow:
            acting = await as_now(uow, actor, self._clock.now())
            user = await uow.users.by_name(name)
            if user is None:
                raise NotFound("There is no user of that name")
            require_may_manage(acting, user)
            await self._limiter.forget(uow, self._account(name))
            await self._trail.record(uow, actor, Action.USER_UNLOCKED, about=("user", user.id))
        return user

    async def _judge(
        self, name: str, typed: str, sender: Sender, *, who: Actor | Client, action: Action, at_home: AtHome
    ) -> ProvenUser:
        try:
            async with self._limiter.admitted(sender.guesses, at_home):
                async with self._storage.lookup() as uow:
                    user = await uow.users.by_name(name)
                check_deadline()  # where nobody waits for the verdict any more, there is no guess
                check = await self._passwords.verify(user.password_hash if user else None, typed)
                if user is None or not check.ok or user.disabled_at is not None:
                    await self._count(sender.guesses, who, action, user)
                    raise InvalidCredentials().as_recorded()
        except (TooManyAttempts, Overloaded) as refused:
            if isinstance(refused, TooManyAttempts):
                await self._refusals.record(Refusal(who=who, action=action, detail=_LIMITED, at_once=1))
            await self._limiter.hold()
            raise
        return ProvenUser(user, await self._passwords.hash(typed) if check.needs_rehash else None, sender)

    async def _count(self, terms: Terms, who: Actor | Client, action: Action, user: User | None) -> None:
        about = ("user", user.id) if user else None
        first = self._refusals.first(Refusal(who=who, action=action, about=about, detail=_WRONG))
        # Also where the client has gone: a guess that was judged counts.
        with regardless_of_deadline():
            async with self._storage.write() as uow:
                await self._limiter.count(uow, terms)
                if first:
                    await self._trail.record(uow, who, action, about=about, result=Result.DENIED, **dict(_WRONG))

    def _account(self, name: str) -> str:
        """The text that stands for a name among the counters: it may be a password, typed into the wrong field."""
        # Under the one key that no rotation replaces, so that changing a key gives nobody new guesses.
        secret = self._keys.primary(KeyName.AUDIT_SEAL_KEY).material
        return self._derivation.mac(secret, "attempts", name.encode()).hex()[:32]


def _network_of(client: Client) -> Network:
    return Network.of(client.address, client.source.value)


async def _nowhere(_: UnitOfWork) -> bool:
    return False
