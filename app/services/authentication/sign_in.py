"""Sign-in: passwords, access and refresh tokens, browser sessions, and the limits on attempts."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app.domain.audit import Action, Result
from app.domain.errors import InvalidCredentials, InvalidToken, NotFound, Overloaded, StorageError
from app.domain.identity import Actor, Client, Session, User, name_key
from app.domain.keys import KeyName
from app.domain.secrets import SecretText
from app.domain.text import opaque
from app.services.audit import AuditTrail
from app.services.authentication.requests import COOKIE_PREFIX, actor_of, token_digest
from app.services.keys import KeyManagementService
from app.services.limits import AttemptLimiter, Limit
from app.services.paging import Page, page_size, paged, read_cursor
from app.services.ports import (
    AccessClaims,
    AccessTokens,
    Clock,
    KeyDerivation,
    PasswordHasher,
    Randomness,
    SessionAndUser,
    Storage,
    UnitOfWork,
)

PER_ACCOUNT: Final = 10
"""Failed sign-ins of one account within fifteen minutes (ASVS 5.0, 6.3.1)."""
PER_ADDRESS: Final = 100
"""Failed sign-ins from one address within fifteen minutes."""

_REFRESH_PREFIX: Final = "khr_"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPair:
    """The tokens that a program gets at sign-in; ``expires_in`` is the access token's life in seconds."""

    access_token: SecretText
    refresh_token: SecretText
    expires_in: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserSession:
    """The cookie that a browser gets at sign-in."""

    cookie: SecretText
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long an access token lives, and how long a session at most."""

    access: timedelta
    session: timedelta


class AuthenticationService:
    """Turns a password into a session, and ends sessions. Every method may raise StorageError and NotReady."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        passwords: PasswordHasher,
        tokens: AccessTokens,
        derivation: KeyDerivation,
        clock: Clock,
        randomness: Randomness,
        lifetimes: Lifetimes,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._passwords = passwords
        self._tokens = tokens
        self._derivation = derivation
        self._limiter = AttemptLimiter(storage=storage, clock=clock)
        self._trail = AuditTrail(clock)
        self._clock = clock
        self._randomness = randomness
        self._lifetimes = lifetimes

    # -- sign-in -------------------------------------------------------------------------------------------------------

    async def login(self, username: str, password: str, client: Client) -> TokenPair:
        """Sign a program in. Raises InvalidCredentials, TooManyAttempts, InvalidInput, Overloaded."""
        user = await self._prove(username, password, client)
        async with self._storage.write() as uow:
            session = await self._begin(uow, user, client, cookie_hash=None)
            return await self._issue(uow, session, user)

    async def login_browser(self, username: str, password: str, client: Client) -> BrowserSession:
        """Sign a browser in. Raises as ``login`` does."""
        user = await self._prove(username, password, client)
        cookie = self._secret(COOKIE_PREFIX)
        async with self._storage.write() as uow:
            session = await self._begin(uow, user, client, cookie_hash=token_digest(cookie.reveal()))
        return BrowserSession(cookie=cookie, expires_at=session.expires_at)

    async def _prove(self, username: str, password: str, client: Client) -> User:
        """Return the user of that name and password. Unknown, disabled and wrong take as long and get one answer."""
        name = name_key(opaque(username, "username", longest=256).strip())
        typed = opaque(password, "password", longest=1024)
        limits = self._limits(name, client)
        await self._limiter.reserve(limits)
        try:
            async with self._storage.read() as uow:
                user = await uow.users.by_name(name)
            check = await self._passwords.verify(user.password_hash if user else None, typed)
        except (Overloaded, StorageError):  # the password was not checked, so nobody learned anything
            await self._limiter.forgive(limits)
            raise
        if user is None or not check.ok or user.disabled_at is not None:
            about = ("user", user.id) if user else None
            async with self._storage.write() as uow:
                await self._trail.record(uow, client, Action.LOGIN, about=about, result=Result.DENIED)
            raise InvalidCredentials
        await self._limiter.forgive(limits)
        if check.needs_rehash:
            rehashed = await self._passwords.hash(typed)
            async with self._storage.write() as uow:
                await uow.users.set_password(user.id, rehashed, self._clock.now())
        return user

    def _limits(self, name: str, client: Client) -> Sequence[Limit]:
        # The name may be a password that was typed into the wrong field, so only its MAC is stored.
        secret = self._keys.primary(KeyName.API_SECRET_KEY).material
        account = self._derivation.mac(secret, "attempts", name.encode()).hex()
        return [
            Limit(f"login/address/{client.address or client.source.value}", PER_ADDRESS),
            Limit(f"login/account/{account}", PER_ACCOUNT),
        ]

    async def _begin(self, uow: UnitOfWork, user: User, client: Client, *, cookie_hash: bytes | None) -> Session:
        now = self._clock.now()
        present = await uow.users.get(user.id)
        # Between the password check and now the account may have been disabled or its password changed.
        if present is None or present.disabled_at is not None or present.token_version != user.token_version:
            raise InvalidCredentials
        session = Session(
            id=self._randomness.new_id(),
            user_id=user.id,
            token_version=user.token_version,
            device=client.device,
            address=client.address,
            created_at=now,
            last_seen_at=now,
            authenticated_at=now,
            expires_at=now + self._lifetimes.session,
        )
        await uow.sessions.add(session, cookie_hash=cookie_hash)
        actor = actor_of(SessionAndUser(session, user), client)
        await self._trail.record(uow, actor, Action.LOGIN, about=("session", session.id))
        return session

    async def _issue(self, uow: UnitOfWork, session: Session, user: User) -> TokenPair:
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

    def _secret(self, prefix: str) -> SecretText:
        return SecretText(prefix + urlsafe_b64encode(self._randomness.token_bytes(32)).decode().rstrip("="))

    # -- refresh and sign-out ------------------------------------------------------------------------------------------

    async def refresh(self, refresh_token: str, client: Client) -> TokenPair:
        """Return a new pair for a refresh token, which is used up. A second use ends the session (RFC 9700, 4.14).

        Raises InvalidToken.
        """
        digest = token_digest(opaque(refresh_token, "refresh_token", longest=256))
        now = self._clock.now()
        pair: TokenPair | None = None
        async with self._storage.write() as uow:
            use = await uow.sessions.use_refresh(digest, now)
            found = await uow.sessions.get(use.session_id) if use else None
            if use and found and not use.first:
                if await uow.sessions.revoke(use.session_id, now):
                    about = ("session", use.session_id)
                    await self._trail.record(uow, client, Action.REFRESH_REUSED, about=about, result=Result.DENIED)
            elif use and found and now < use.expires_at and found.session.alive(found.user, now):
                pair = await self._issue(uow, found.session, found.user)
        if pair is None:
            raise InvalidToken
        return pair

    async def logout(self, refresh_token: str, client: Client) -> None:
        """End the session of a refresh token; an unknown token is no error (RFC 7009, 2.2)."""
        digest = token_digest(opaque(refresh_token, "refresh_token", longest=256))
        now = self._clock.now()
        async with self._storage.write() as uow:
            use = await uow.sessions.use_refresh(digest, now)
            found = await uow.sessions.get(use.session_id) if use else None
            if found and await uow.sessions.revoke(found.session.id, now):
                about = ("session", found.session.id)
                await self._trail.record(uow, actor_of(found, client), Action.LOGOUT, about=about)

    async def end_session(self, actor: Actor) -> None:
        """Sign out: end the session of this request."""
        if actor.session_id is not None:
            await self._revoke(actor, actor.session_id, Action.LOGOUT)

    async def sessions(self, actor: Actor, *, after: str | None = None, limit: int = 50) -> Page[Session]:
        """Return the actor's own live sessions, newest first. Raises InvalidInput."""
        size, begin = page_size(limit), read_cursor(after)
        async with self._storage.read() as uow:
            alive = await uow.sessions.live_of(actor.user_id, self._clock.now())
        newest_first = sorted(alive, key=lambda session: session.id, reverse=True)  # ids ascend with time
        rows = [each for each in newest_first if begin is None or each.id < begin]
        return paged(rows[: size + 1], size, lambda session: session.id)

    async def revoke_session(self, actor: Actor, session_id: str) -> None:
        """End one of the actor's own sessions. Raises NotFound."""
        async with self._storage.read() as uow:
            found = await uow.sessions.get(session_id)
        if found is None or found.user.id != actor.user_id:
            raise NotFound
        if not await self._revoke(actor, session_id, Action.SESSION_REVOKED):
            raise NotFound

    async def _revoke(self, actor: Actor, session_id: str, action: Action) -> bool:
        async with self._storage.write() as uow:
            ended = await uow.sessions.revoke(session_id, self._clock.now())
            if ended:
                await self._trail.record(uow, actor, action, about=("session", session_id))
        return ended

    async def reauthenticate(self, actor: Actor, password: str) -> None:
        """Prove the password again in this session. Raises InvalidCredentials, TooManyAttempts, InvalidInput."""
        if actor.session_id is None:
            raise InvalidToken
        user = await self._prove(actor.username, password, actor.client)
        if user.id != actor.user_id:
            raise InvalidCredentials
        async with self._storage.write() as uow:
            await uow.sessions.prove(actor.session_id, self._clock.now())
            await self._trail.record(uow, actor, Action.REAUTHENTICATED, about=("session", actor.session_id))
