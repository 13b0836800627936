"""The beginning of sessions of users who were proven, by a password or otherwise."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from app.domain.audit import Action, Result
from app.domain.errors import InvalidCredentials, InvalidToken
from app.domain.identity import NOT_PROVEN, Actor, Client, Session, User
from app.domain.keys import KeyName
from app.domain.secrets import SecretText
from app.services.alive import require_alive
from app.services.audit import AuditTrail
from app.services.authentication.devices import DeviceClaims
from app.services.authentication.requests import COOKIE_PREFIX, actor_of, lasting_part, token_digest
from app.services.keys import KeyManagementService
from app.services.ports import AccessClaims, AccessTokens, Clock, Randomness, SessionAndUser, Storage, UnitOfWork

_REFRESH_PREFIX: Final = "khr_"

Within = Callable[[UnitOfWork], Awaitable[None]]
"""Runs in the unit of work that begins a session, such as to use up a one-time code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPair:
    """The tokens that a program gets at sign-in; ``expires_in`` is the access token's life in seconds.

    ``device_claim`` comes with a sign-in alone.
    """

    access_token: SecretText
    refresh_token: SecretText
    expires_in: int
    device_claim: SecretText | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserSession:
    """The cookie of a browser's session; after a sign-in, also what shows from then on that it signed in before."""

    cookie: SecretText
    expires_at: datetime
    device_claim: SecretText | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSession:
    """The session that goes on where all others of its user ended: a browser's with another cookie.

    ``device_claim`` takes the place of the one that the device had, which stopped with the other sessions.
    """

    browser: BrowserSession | None
    device_claim: SecretText
    others_ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long an access token lives, and how long a session at most."""

    access: timedelta
    session: timedelta


class SessionStarts:
    """Begins sessions of users who were proven. Every method may raise StorageError and NotReady."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        devices: DeviceClaims,
        tokens: AccessTokens,
        clock: Clock,
        randomness: Randomness,
        lifetimes: Lifetimes,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._devices = devices
        self._tokens = tokens
        self._trail = AuditTrail(clock)
        self._clock = clock
        self._randomness = randomness
        self._lifetimes = lifetimes

    async def program(
        self, user: User, client: Client, *, former_cookie: str | None = None, within: Within | None = None
    ) -> TokenPair:
        """Begin the session of a program; the session of ``former_cookie`` ends (ASVS 5.0, 7.2.4).

        ``within`` runs in the same unit of work, before the session is stored: what it raises ends all of it.
        ``user`` is as it was when it was proven. Raises InvalidCredentials where the account was disabled or its
        sessions were ended since.
        """
        async with self._storage.write() as uow:
            await self._lock(uow, user)
            await self._end_former(uow, former_cookie, client)
            session = await self._begin(uow, user, client, within, cookie_hash=None)
            pair = await self.issue(uow, session, user)
        return replace(pair, device_claim=self._device_claim(user, client))

    async def browser(
        self,
        user: User,
        client: Client,
        *,
        former_cookie: str | None = None,
        within: Within | None = None,
        fresh: bool = True,
        by_discord: bool = False,
    ) -> BrowserSession:
        """Begin the session of a browser, which is ``fresh`` unless the account has more to prove; otherwise as
        ``program``. ``by_discord`` stands in its audit row.
        """
        cookie = self._cookie(self._secret("", 16))
        async with self._storage.write() as uow:
            await self._lock(uow, user)
            await self._end_former(uow, former_cookie, client)
            digest = token_digest(cookie.reveal())
            session = await self._begin(
                uow, user, client, within, cookie_hash=digest, fresh=fresh, by_discord=by_discord
            )
        return BrowserSession(
            cookie=cookie, expires_at=session.expires_at, device_claim=self._device_claim(user, client)
        )

    async def prove(self, actor: Actor, cookie: str | None, *, within: Within) -> BrowserSession | None:
        """Note that the actor has just proven in this session who they are; ``within`` uses the proof up.

        A browser's session gets another ``cookie`` (ASVS 5.0, 7.2.4) and is returned. Raises InvalidToken where the
        session has ended meanwhile.
        """
        now = self._clock.now()
        async with self._storage.write() as uow:
            session_id = await self._alive(uow, actor)
            # The session before the proof: a change of factors or passkeys, which ends sessions first, locks so too.
            await uow.sessions.prove(session_id, now)
            await within(uow)
            await self._trail.record(uow, actor, Action.REAUTHENTICATED, about=("session", session_id))
            return await self._renewed(uow, session_id, cookie)

    async def keep_alone(self, uow: UnitOfWork, actor: Actor, cookie: str | None) -> KeptSession:
        """End every session of the actor but this one, which gets another ``cookie``, and its device another claim.

        Claims go with the other sessions. Raises InvalidToken where this session has ended meanwhile.
        """
        session_id = await self._alive(uow, actor)
        ended = await uow.sessions.end_all_of(actor.user_id, self._clock.now(), but=session_id)
        user = await uow.users.get(actor.user_id)  # with the token version that the claim needs
        if user is None:
            raise InvalidToken
        return KeptSession(
            browser=await self._renewed(uow, session_id, cookie),
            device_claim=self._device_claim(user, actor.client),
            others_ended=ended,
        )

    async def _alive(self, uow: UnitOfWork, actor: Actor) -> str:
        """The session of the actor, which does not end before the unit of work does. Raises InvalidToken."""
        if actor.session_id is None:
            raise InvalidToken
        await require_alive(uow, actor, self._clock.now())
        return actor.session_id

    async def _renewed(self, uow: UnitOfWork, session_id: str, cookie: str | None) -> BrowserSession | None:
        """A browser's session with another cookie; forms that are open go on working."""
        if cookie is None:
            return None
        renewed = self._cookie(SecretText(lasting_part(cookie)))
        # By the session, not by its present cookie: of two clicks at once the browser keeps the later answer.
        renewing = await uow.sessions.renew_cookie(session_id, token_digest(renewed.reveal()))
        found = await uow.sessions.get(session_id)
        if not renewing or found is None:
            raise InvalidToken
        return BrowserSession(cookie=renewed, expires_at=found.session.expires_at)

    async def issue(self, uow: UnitOfWork, session: Session, user: User) -> TokenPair:
        """Return new tokens of a live session."""
        now = self._clock.now()
        refresh = self._secret(_REFRESH_PREFIX)
        await uow.sessions.add_refresh(
            token_digest(refresh.reveal()), session.id, at=now, expires_at=session.expires_at
        )
        primary = (await self._keys.ring_under_lock(uow)).primary(KeyName.JWT_SECRET_KEY)
        claims = AccessClaims(
            user_id=user.id,
            role=user.role.value,
            session_id=session.id,
            token_version=user.token_version,
            token_id=self._randomness.new_id(),
            issued_at=now,
            expires_at=now + self._lifetimes.access,
        )
        token = self._tokens.issue(claims, key_version=primary.version, material=primary.material)
        return TokenPair(
            access_token=SecretText(token),
            refresh_token=refresh,
            expires_in=int(self._lifetimes.access.total_seconds()),
        )

    @staticmethod
    async def _lock(uow: UnitOfWork, user: User) -> None:
        """Lock the user before any session, as everything does that ends sessions: else two would wait for each other.

        Raises InvalidCredentials where, since the proof, the account was disabled or its password changed.
        """
        present = await uow.users.locked(user.id)
        if present is None or present.disabled_at is not None or present.token_version != user.token_version:
            raise InvalidCredentials

    async def _end_former(self, uow: UnitOfWork, cookie: str | None, client: Client) -> None:
        found = await uow.sessions.by_cookie(token_digest(cookie)) if cookie else None
        if found is not None and await uow.sessions.revoke(found.session.id, self._clock.now()):
            about = ("session", found.session.id)
            await self._trail.record(uow, actor_of(found, client), Action.LOGOUT, about=about)

    async def _begin(
        self,
        uow: UnitOfWork,
        user: User,
        client: Client,
        within: Within | None,
        *,
        cookie_hash: bytes | None,
        fresh: bool = True,
        by_discord: bool = False,
    ) -> Session:
        now = self._clock.now()
        if within is not None:
            await within(uow)
        session = Session(
            id=self._randomness.new_id(),
            user_id=user.id,
            token_version=user.token_version,
            device=client.device,
            address=client.address,
            created_at=now,
            last_seen_at=now,
            authenticated_at=now if fresh else NOT_PROVEN,
            expires_at=now + self._lifetimes.session,
        )
        await uow.sessions.add(session, cookie_hash=cookie_hash)
        actor = actor_of(SessionAndUser(session, user), client)
        detail = {"by": "discord"} if by_discord else {}
        about = ("session", session.id)
        await self._trail.record(uow, actor, Action.LOGIN, about=about, result=Result.OK, **detail)
        return session

    def _device_claim(self, user: User, client: Client) -> SecretText:
        """The claim that the device of a user keeps, after a sign-in or an end of their other sessions."""
        return self._devices.issue(user, self._devices.read(client.claim))

    def _cookie(self, lasting: SecretText) -> SecretText:
        """A new cookie. Its first part stays when the cookie is renewed: forms that are open go on working."""
        return SecretText(f"{COOKIE_PREFIX}{lasting.reveal()}.{self._secret('').reveal()}")

    def _secret(self, prefix: str, size: int = 32) -> SecretText:
        return SecretText(prefix + urlsafe_b64encode(self._randomness.token_bytes(size)).decode().rstrip("="))
