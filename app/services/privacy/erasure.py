"""Erasing a person: their rows are deleted in one unit of work, and that they were erased is remembered.

It can be repeated: housekeeping does so for a day, for rows of requests that were under way, and a restore of an older
backup does so for everybody who was erased since.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final

from app.domain.audit import Action
from app.domain.credentials import Owner, OwnerKind
from app.domain.errors import (
    Forbidden,
    InvalidInput,
    InvalidToken,
    NotFound,
    OutcomeUnknown,
    ReauthenticationRequired,
    StorageBusy,
)
from app.domain.identity import Actor, Client, Permission, Role, Source, User, name_key
from app.domain.keys import KeyName
from app.domain.privacy import LEFTOVERS_FOR, ErasedRows, ErasurePreview, Person, Section
from app.domain.second_factor import typed_code
from app.domain.secrets import SecretBytes
from app.domain.text import opaque
from app.services.alive import require_alive
from app.services.audit import AuditTrail
from app.services.authentication import FactorProof, PasswordProof
from app.services.authentication.factor_proof import Attempt
from app.services.authentication.sessions import Within
from app.services.joining import former_account
from app.services.keys import KeyManagementService
from app.services.owners import is_last_owner, require_another_owner
from app.services.ports import Clock, KeyDerivation, Storage, UnitOfWork

_TRIES: Final = 3
"""How often an erasure is tried that waited in a circle with another change, which the database then ended."""


class PersonErasure:
    """Every method may raise StorageError and NotReady, and LastOwner for the only owner who is not disabled."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        derivation: KeyDerivation,
        proof: PasswordProof,
        factors: FactorProof,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._derivation = derivation
        self._proof = proof
        self._factors = factors
        self._clock = clock
        self._trail = AuditTrail(clock)

    async def of_oneself(self, actor: Actor, password: str | None, *, otp: str | None = None) -> ErasedRows:
        """Erase the actor, who proves their password and their second factor again; without a password, a fresh sign-in
        has to do.

        Raises InvalidCredentials, OtpRequired, TooManyAttempts, ReauthenticationRequired, InvalidToken, Overloaded.
        """
        actor.require_person()
        code = typed_code(otp)
        user = await self._account(actor)
        if user.password_hash is None:
            actor.require_fresh(self._clock.now())
        elif password is None:
            raise ReauthenticationRequired
        else:
            await self._proof.again(actor, password)
        sender = self._proof.sender_of(actor)
        use = await self._factors.judge(
            Attempt(user_id=user.id, who=actor, action=Action.REAUTHENTICATED, sender=sender), code
        )
        return await self._erase(actor, user, use)

    async def on_discord(self, actor: Actor, typed: str, *, discord_name: str) -> ErasedRows:
        """Erase the actor, who typed the name of their Discord account or of their account here.

        Raises InvalidInput for another name, and Forbidden where the account has more than Discord to prove itself:
        who holds the Discord account alone must not delete what a password protects.
        """
        actor.require_person()
        if actor.client.source is not Source.DISCORD:
            raise Forbidden
        user = await self._account(actor)
        if user.password_hash is not None:
            raise Forbidden("This account has a password: erase it on the web, on the page /privacy")
        if await self._has_factor(user):
            raise Forbidden("This account has a second factor: erase it on the web, on the page /privacy")
        given = name_key(opaque(typed, "name", longest=256).strip()).removeprefix("@")
        if given not in {name_key(discord_name), user.name_key}:
            raise InvalidInput("name", "is not yours: nothing was erased")
        return await self._erase(actor, user)

    async def of_user(self, actor: Actor, username: str, *, confirm: str) -> ErasedRows:
        """Erase another person for the owner or the operator, who types the name twice.

        Raises Forbidden, NotFound, InvalidInput.
        """
        actor.require_person()
        actor.require(Permission.MANAGE_USERS)
        if actor.role is not Role.OWNER:
            raise Forbidden
        actor.require_fresh(self._clock.now())
        name = name_key(opaque(username, "username", longest=256).strip())
        if name_key(opaque(confirm, "confirm", longest=256).strip()) != name:
            raise InvalidInput("confirm", "is another name: nothing was erased")
        async with self._storage.lookup() as uow:
            user = await uow.users.by_name(name)
        if user is None:
            raise NotFound("There is no user of that name")
        return await self._erase(actor, user)

    async def preview(self, actor: Actor) -> ErasurePreview:
        """Return the rows that an erasure of the actor would delete, counted. Raises InvalidToken."""
        actor.require_person()
        user = await self._account(actor)
        person = Person(user.id, user.subject_id)
        async with self._storage.read() as uow:
            credentials = await uow.credentials.count(Owner(OwnerKind.USER, user.id))
            shared = await uow.credentials.shared_by(user.id)
            sessions = await uow.personal_data.rows(Section.SESSIONS, person)
            last = await is_last_owner(uow, user.id)
        return ErasurePreview(
            credentials=credentials,
            shared=len(shared),
            sessions=len(sessions),
            has_password=user.password_hash is not None,
            has_factor=await self._has_factor(user),
            last_owner=last,
        )

    async def sweep(self, uow: UnitOfWork) -> int:
        """Erase rows that requests which were under way have stored since; return how many."""
        recent = await uow.personal_data.erased_since(self._clock.now() - LEFTOVERS_FOR)
        found = [await uow.personal_data.erase(each.person, each.erased_at) for each in recent]
        return sum(each.total for each in found)

    async def _has_factor(self, user: User) -> bool:
        async with self._storage.lookup() as uow:
            factor = await uow.factors.get(user.id)
        return factor is not None and factor.confirmed_at is not None

    async def _account(self, actor: Actor) -> User:
        async with self._storage.lookup() as uow:
            user = await uow.users.get(actor.user_id)
        if user is None:
            raise InvalidToken
        return user

    async def _erase(self, actor: Actor, user: User, use: Within | None = None) -> ErasedRows:
        for _ in range(_TRIES - 1):
            try:
                return await self._erase_once(actor, user, use)
            except OutcomeUnknown:
                raise
            except StorageBusy:
                continue
        return await self._erase_once(actor, user, use)

    async def _erase_once(self, actor: Actor, user: User, use: Within | None) -> ErasedRows:
        now = self._clock.now()
        async with self._storage.write() as uow:
            await require_another_owner(uow, user.id)  # first: changes of roles lock in this order too
            if not await uow.personal_data.lock(user.id):
                raise NotFound("This account was erased already")
            await require_alive(uow, actor, now)
            if use is not None:
                await use(uow)
            await self._trail.record(uow, _nowhere(actor), Action.USER_ERASED, about=("user", user.id))
            present = await uow.users.get(user.id)  # the Discord account may have been linked since
            former = await former_account(uow, present or user)
            gone = ErasedRows()
            for each in (user, former):
                if each is not None:
                    await self._remember_name(uow, each, now)
                    gone += await erase_in(uow, Person(each.id, each.subject_id), now)
            return gone

    async def _remember_name(self, uow: UnitOfWork, user: User, at: datetime) -> None:
        mark = self._mark(user.username)
        if not await uow.imports.known([mark]):
            await uow.imports.add(mark, "", at)

    def _mark(self, username: str) -> bytes:
        return erased_name_mark(self._keys.primary(KeyName.AUDIT_SEAL_KEY).material, self._derivation, username)


def erased_name_mark(material: SecretBytes, derivation: KeyDerivation, username: str) -> bytes:
    """The MAC of a name that was erased, under the audit seal key, which no rotation replaces: an import passes it
    over.
    """
    return derivation.mac(material, "erased-name", name_key(username).encode())


async def erase_in(uow: UnitOfWork, person: Person, at: datetime) -> ErasedRows:
    """Erase a person within a unit of work, during which nobody adds credentials for them."""
    await uow.credentials.lock_owner(Owner(OwnerKind.USER, person.user_id))
    return await uow.personal_data.erase(person, at)


def _nowhere(actor: Actor) -> Actor:
    """The actor without an address: it would be the one thing that is left of a person who erases themselves."""
    return replace(actor, client=Client(source=actor.client.source))
