"""Sign-in: passwords, access and refresh tokens, browser sessions, and the limits on all of them.

Access tokens are JWTs that live for minutes and name a session; every use looks the session up, so a revocation is
felt at once. Refresh tokens and browser cookies are 256 random bits of which the database holds only the SHA-256.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app.domain.audit import Action
from app.domain.errors import InvalidCredentials, InvalidToken, NotFound, Overloaded, SetupClosed, StorageError
from app.domain.identity import Actor, Client, Session, User, name_key
from app.domain.keys import KeyName
from app.domain.secrets import SecretText
from app.domain.text import opaque
from app.services.audit import by, by_stranger
from app.services.identity import IdentityService
from app.services.keys import KeyManagementService, KeyRing
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
    UnknownKeyId,
)

log = logging.getLogger(__name__)

PER_ACCOUNT: Final = 10
"""Failed sign-ins of one account within fifteen minutes (ASVS 5.0, 6.3.1)."""
PER_ADDRESS: Final = 100
"""Failed sign-ins from one address within fifteen minutes."""

_REFRESH_PREFIX: Final = "khr_"
_COOKIE_PREFIX: Final = "khc_"
_TOUCH_AFTER: Final = timedelta(minutes=1)
_REMEMBERED_TOKENS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPair:
    """What a program gets at sign-in; ``expires_in`` is the access token's life in seconds."""

    access_token: SecretText
    refresh_token: SecretText
    expires_in: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserSession:
    """What a browser gets at sign-in."""

    cookie: SecretText
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long an access token lives, and how long a session at most."""

    access: timedelta
    session: timedelta


class AuthenticationService:
    """Turns a password into a session, and a token or cookie into an Actor."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        identity: IdentityService,
        passwords: PasswordHasher,
        tokens: AccessTokens,
        derivation: KeyDerivation,
        limiter: AttemptLimiter,
        clock: Clock,
        randomness: Randomness,
        lifetimes: Lifetimes,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._identity = identity
        self._passwords = passwords
        self._tokens = tokens
        self._derivation = derivation
        self._limiter = limiter
        self._clock = clock
        self._randomness = randomness
        self._lifetimes = lifetimes
        self._remembered: dict[bytes, AccessClaims] = {}
        self._remembered_under: KeyRing | None = None

    # -- the first owner -----------------------------------------------------------------------------------------------

    async def setup_open(self) -> bool:
        """Whether no owner has ever existed."""
        return not await self._identity.owner_ever_existed()

    async def setup(self, setup_token: str, username: str, password: str, client: Client) -> User:
        """Claim the first owner. Raises SetupClosed, InvalidToken for a wrong setup token, InvalidInput."""
        if not await self.setup_open():
            raise SetupClosed
        given = opaque(setup_token, "setup_token", longest=256).strip()
        if not hmac.compare_digest(given.encode(), self._keys.setup_token().reveal().encode()):
            raise InvalidToken("The setup token is not right: it is printed on the server's standard error")
        return await self._identity.create_owner(username, password, client)

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
        cookie = self._secret(_COOKIE_PREFIX)
        async with self._storage.write() as uow:
            session = await self._begin(uow, user, client, cookie_hash=_digest(cookie.reveal()))
        return BrowserSession(cookie=cookie, expires_at=session.expires_at)

    async def _prove(self, username: str, password: str, client: Client) -> User:
        """The user whose password this is. Unknown, disabled and wrong cost the same and get the same answer."""
        name = name_key(opaque(username, "username", longest=256).strip())
        typed = opaque(password, "password", longest=1024)
        limits = self._limits(name, client)
        await self._limiter.reserve(limits)
        try:
            async with self._storage.read() as uow:
                user = await uow.users.by_name(name)
            check = await self._passwords.verify(user.password_hash if user else None, typed)
        except (Overloaded, StorageError):  # nothing was judged, so nothing was guessed
            await self._limiter.forgive(limits)
            raise
        if user is None or not check.ok or user.disabled_at is not None:
            about = ("user", user.id) if user else None
            async with self._storage.write() as uow:
                await uow.audit.append(by_stranger(client, Action.LOGIN, self._clock.now(), about=about))
            raise InvalidCredentials
        await self._limiter.forgive(limits)
        if check.needs_rehash:
            rehashed = await self._passwords.hash(typed)
            async with self._storage.write() as uow:
                await uow.users.set_password(user.id, rehashed, self._clock.now())
        return user

    def _limits(self, name: str, client: Client) -> Sequence[Limit]:
        # What was typed as a name may be a password typed into the wrong field, so it is kept as a MAC only.
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
        await uow.audit.append(
            by(_actor(SessionAndUser(session, user), client), Action.LOGIN, now, about=("session", session.id))
        )
        return session

    async def _issue(self, uow: UnitOfWork, session: Session, user: User) -> TokenPair:
        now = self._clock.now()
        refresh = self._secret(_REFRESH_PREFIX)
        await uow.sessions.add_refresh(_digest(refresh.reveal()), session.id, at=now, expires_at=session.expires_at)
        primary = await self._keys.primary_under_lock(uow, KeyName.JWT_SECRET_KEY)
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
        """A new pair for a refresh token, which is used up. One that was used before ends its session (RFC 9700 4.14).

        Raises InvalidToken.
        """
        digest = _digest(opaque(refresh_token, "refresh_token", longest=256))
        now = self._clock.now()
        pair: TokenPair | None = None
        async with self._storage.write() as uow:
            use = await uow.sessions.use_refresh(digest, now)
            found = await uow.sessions.get(use.session_id) if use else None
            if use and found and not use.first:
                if await uow.sessions.revoke(use.session_id, now):
                    event = by_stranger(client, Action.REFRESH_REUSED, now, about=("session", use.session_id))
                    await uow.audit.append(event)
            elif use and found and now < use.expires_at and found.session.alive(found.user, now):
                pair = await self._issue(uow, found.session, found.user)
        if pair is None:
            raise InvalidToken
        return pair

    async def logout(self, refresh_token: str, client: Client) -> None:
        """End the session of a refresh token; an unknown one is silently fine (RFC 7009, 2.2)."""
        digest = _digest(opaque(refresh_token, "refresh_token", longest=256))
        now = self._clock.now()
        async with self._storage.write() as uow:
            use = await uow.sessions.use_refresh(digest, now)
            found = await uow.sessions.get(use.session_id) if use else None
            if found and await uow.sessions.revoke(found.session.id, now):
                event = by(_actor(found, client), Action.LOGOUT, now, about=("session", found.session.id))
                await uow.audit.append(event)

    async def end_session(self, actor: Actor) -> None:
        """Sign out: end the session that the actor came with."""
        if actor.session_id is not None:
            await self._revoke(actor, actor.session_id, Action.LOGOUT)

    async def sessions(self, actor: Actor, *, after: str | None = None, limit: int = 50) -> Page[Session]:
        """The actor's own sessions that are alive, newest first. Raises InvalidInput."""
        size, begin = page_size(limit), read_cursor(after)
        async with self._storage.read() as uow:
            alive = await uow.sessions.live_of(actor.user_id, self._clock.now())
        newest_first = sorted(alive, key=lambda session: session.id, reverse=True)  # ids are made in order of time
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
        now = self._clock.now()
        async with self._storage.write() as uow:
            ended = await uow.sessions.revoke(session_id, now)
            if ended:
                await uow.audit.append(by(actor, action, now, about=("session", session_id)))
        return ended

    async def reauthenticate(self, actor: Actor, password: str) -> None:
        """Prove again who is at the keyboard. Raises InvalidCredentials, TooManyAttempts, InvalidInput."""
        if actor.session_id is None:
            raise InvalidToken
        user = await self._prove(actor.username, password, actor.client)
        now = self._clock.now()
        async with self._storage.write() as uow:
            if user.id != actor.user_id:
                raise InvalidCredentials
            await uow.sessions.prove(actor.session_id, now)
            await uow.audit.append(by(actor, Action.REAUTHENTICATED, now, about=("session", actor.session_id)))

    # -- every request -------------------------------------------------------------------------------------------------

    async def authenticate(self, access_token: str, client: Client) -> Actor:
        """Who presents this access token. Raises InvalidToken, NotReady, StorageError."""
        claims = await self._claims(access_token)
        found = await self._storage.cached(
            "session", claims.session_id, lambda uow: uow.sessions.get(claims.session_id)
        )
        if found is None or found.user.id != claims.user_id or found.user.token_version != claims.token_version:
            raise InvalidToken
        return await self._admit(found, client)

    async def authenticate_browser(self, cookie: str, client: Client) -> Actor:
        """Who presents this session cookie. Raises InvalidToken, StorageError."""
        if not cookie.startswith(_COOKIE_PREFIX) or len(cookie) > 256:
            raise InvalidToken
        digest = _digest(cookie)
        found = await self._storage.cached("cookie", digest.hex(), lambda uow: uow.sessions.by_cookie(digest))
        if found is None:
            raise InvalidToken
        return await self._admit(found, client)

    async def _claims(self, token: str) -> AccessClaims:
        """The claims of a token, remembered by its digest while the key ring is the same and until it expires."""
        now = self._clock.now()
        materials = self._keys.usable_materials(KeyName.JWT_SECRET_KEY)
        if self._remembered_under is not self._keys.ring or len(self._remembered) >= _REMEMBERED_TOKENS:
            self._remembered.clear()
            self._remembered_under = self._keys.ring
        digest = _digest(token)
        claims = self._remembered.get(digest)
        if claims is None:
            try:
                claims = self._tokens.read(token, materials, now)
            except UnknownKeyId:
                await self._keys.reload_for_unknown_key()
                try:  # whoever it was that took the version up
                    claims = self._tokens.read(token, self._keys.usable_materials(KeyName.JWT_SECRET_KEY), now)
                except UnknownKeyId:
                    raise InvalidToken from None
            self._remembered[digest] = claims
        elif now >= claims.expires_at:
            del self._remembered[digest]
            raise InvalidToken
        return claims

    async def _admit(self, found: SessionAndUser, client: Client) -> Actor:
        now = self._clock.now()
        if not found.session.alive(found.user, now):
            raise InvalidToken
        if now - found.session.last_seen_at > _TOUCH_AFTER:
            try:
                async with self._storage.write() as uow:
                    await uow.sessions.touch(found.session.id, now)
            except StorageError as error:  # "last seen" is worth less than the request: a full disk must not end it
                log.warning("could not note that a session was seen: %s", error)
        return _actor(found, client)


def _actor(found: SessionAndUser, client: Client) -> Actor:
    return Actor(
        user_id=found.user.id,
        subject_id=found.user.subject_id,
        username=found.user.username,
        role=found.user.role,
        client=client,
        session_id=found.session.id,
        authenticated_at=found.session.authenticated_at,
        discord_id=found.user.discord_id,
    )


def _digest(token: str) -> bytes:
    # SHA-256 is enough: what is hashed carries 256 random bits (ASVS 5.0, 11.4). A lone surrogate matches nothing.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
