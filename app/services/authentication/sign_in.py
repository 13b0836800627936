"""Sign-in: access and refresh tokens, browser sessions, and their ends."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from app.domain.audit import Action, Result
from app.domain.errors import InvalidCredentials, InvalidToken, NotFound
from app.domain.identity import Actor, Client, Session, User
from app.domain.keys import KeyName
from app.domain.secrets import SecretText
from app.domain.text import opaque
from app.services.audit import AuditTrail
from app.services.authentication.passwords import PasswordProof, ProvenUser
from app.services.authentication.requests import COOKIE_PREFIX, actor_of, lasting_part, token_digest
from app.services.keys import KeyManagementService
from app.services.paging import Page, page_size, paged, read_cursor
from app.services.ports import (
    AccessClaims,
    AccessTokens,
    Clock,
    Randomness,
    SessionAndUser,
    Storage,
    UnitOfWork,
)
from app.services.refusals import Refusal, Refusals

_REFRESH_PREFIX: Final = "khr_"


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
        proof: PasswordProof,
        tokens: AccessTokens,
        refusals: Refusals,
        clock: Clock,
        randomness: Randomness,
        lifetimes: Lifetimes,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._proof = proof
        self._tokens = tokens
        self._refusals = refusals
        self._trail = AuditTrail(clock)
        self._clock = clock
        self._randomness = randomness
        self._lifetimes = lifetimes

    # -- sign-in -------------------------------------------------------------------------------------------------------

    async def login(
        self, username: str, password: str, client: Client, *, former_cookie: str | None = None
    ) -> TokenPair:
        """Sign a program in; the session of ``former_cookie`` ends (ASVS 5.0, 7.2.4).

        Raises InvalidCredentials, TooManyAttempts, InvalidInput, Overloaded.
        """
        proven = await self._proof.sign_in(username, password, client)
        async with self._storage.write() as uow:
            await self._end_former(uow, former_cookie, client)
            session = await self._begin(uow, proven, client, cookie_hash=None)
            pair = await self._issue(uow, session, proven.user)
        return replace(pair, device_claim=self._proof.device_claim(proven.user, client))

    async def login_browser(
        self, username: str, password: str, client: Client, *, former_cookie: str | None = None
    ) -> BrowserSession:
        """Sign a browser in; otherwise as ``login``."""
        proven = await self._proof.sign_in(username, password, client)
        cookie = self._cookie(self._secret("", 16))
        async with self._storage.write() as uow:
            await self._end_former(uow, former_cookie, client)
            session = await self._begin(uow, proven, client, cookie_hash=token_digest(cookie.reveal()))
        return BrowserSession(
            cookie=cookie, expires_at=session.expires_at, device_claim=self._proof.device_claim(proven.user, client)
        )

    def _cookie(self, lasting: SecretText) -> SecretText:
        """A new cookie. Its first part stays when the cookie is renewed: forms that are open go on working."""
        return SecretText(f"{COOKIE_PREFIX}{lasting.reveal()}.{self._secret('').reveal()}")

    async def _end_former(self, uow: UnitOfWork, cookie: str | None, client: Client) -> None:
        found = await uow.sessions.by_cookie(token_digest(cookie)) if cookie else None
        if found is not None and await uow.sessions.revoke(found.session.id, self._clock.now()):
            about = ("session", found.session.id)
            await self._trail.record(uow, actor_of(found, client), Action.LOGOUT, about=about)

    async def _begin(
        self, uow: UnitOfWork, proven: ProvenUser, client: Client, *, cookie_hash: bytes | None
    ) -> Session:
        now, user = self._clock.now(), proven.user
        present = await uow.users.get(user.id)
        # Between the password check and now the account may have been disabled or its password changed.
        if present is None or present.disabled_at is not None or present.token_version != user.token_version:
            raise InvalidCredentials
        await self._proof.keep_hash(uow, proven)
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

    def _secret(self, prefix: str, size: int = 32) -> SecretText:
        return SecretText(prefix + urlsafe_b64encode(self._randomness.token_bytes(size)).decode().rstrip("="))

    # -- refresh and sign-out ------------------------------------------------------------------------------------------

    async def refresh(self, refresh_token: str, client: Client) -> TokenPair:
        """Return a new pair for a refresh token, which is used up. A second use ends the session (RFC 9700, 4.14).

        Raises InvalidToken.
        """
        digest = _refresh_digest(refresh_token)
        if await self._of_refresh(digest) is None:
            raise InvalidToken
        now = self._clock.now()
        pair: TokenPair | None = None
        refusal = InvalidToken()
        async with self._storage.write() as uow:
            use = await uow.sessions.use_refresh(digest, now)
            session = use.found.session if use else None
            if use and session and not use.first:
                if await uow.sessions.revoke(session.id, now):
                    about = ("session", session.id)
                    await self._trail.record(uow, client, Action.REFRESH_REUSED, about=about, result=Result.DENIED)
                    refusal = refusal.as_recorded()
            elif use and session and now < use.expires_at and session.alive(use.found.user, now):
                pair = await self._issue(uow, session, use.found.user)
        if pair is None:
            raise refusal
        return pair

    async def _of_refresh(self, digest: bytes) -> SessionAndUser | None:
        """The session of a refresh token; that there is none is found out without a write, since anybody may ask."""
        async with self._storage.lookup() as uow:
            return await uow.sessions.by_refresh(digest)

    async def logout(self, refresh_token: str, client: Client) -> None:
        """End the session of a refresh token; an unknown token is no error (RFC 7009, 2.2)."""
        found = await self._of_refresh(_refresh_digest(refresh_token))
        if found is None:
            return
        async with self._storage.write() as uow:
            if await uow.sessions.revoke(found.session.id, self._clock.now()):
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
        async with self._storage.lookup() as uow:
            found = await uow.sessions.get(session_id)
        if found is None:
            raise NotFound
        if found.user.id != actor.user_id:
            about = ("session", session_id)
            await self._refusals.record(Refusal(who=actor, action=Action.SESSION_REVOKED, about=about))
            raise NotFound
        if not await self._revoke(actor, session_id, Action.SESSION_REVOKED):
            raise NotFound

    async def _revoke(self, actor: Actor, session_id: str, action: Action) -> bool:
        async with self._storage.write() as uow:
            ended = await uow.sessions.revoke(session_id, self._clock.now())
            if ended:
                await self._trail.record(uow, actor, action, about=("session", session_id))
        return ended

    async def reauthenticate(self, actor: Actor, password: str, *, cookie: str | None = None) -> BrowserSession | None:
        """Prove the password again in this session; the ``cookie`` of a browser's is renewed (ASVS 5.0, 7.2.4).

        Returns the session with its new cookie. Raises InvalidCredentials, TooManyAttempts, InvalidInput, Overloaded,
        and InvalidToken where the session ended meanwhile.
        """
        proven = await self._proof.again(actor, password)
        renewed = self._cookie(SecretText(lasting_part(cookie))) if cookie else None
        async with self._storage.write() as uow:
            found = await uow.sessions.get(actor.session_id or "")
            if found is None or not found.session.alive(found.user, self._clock.now()):
                raise InvalidToken
            about = ("session", found.session.id)
            await self._proof.keep_hash(uow, proven)
            await uow.sessions.prove(found.session.id, self._clock.now())
            await self._trail.record(uow, actor, Action.REAUTHENTICATED, about=about)
            if cookie is None or renewed is None:
                return None
            # By the session, not by its present cookie: of two clicks at once the browser keeps the later answer.
            if not await uow.sessions.renew_cookie(found.session.id, token_digest(renewed.reveal())):
                raise InvalidToken
        return BrowserSession(cookie=renewed, expires_at=found.session.expires_at)

    async def unlock(self, actor: Actor, username: str) -> User:
        """Forget the wrong passwords that keep a user out. Raises Forbidden, NotFound."""
        return await self._proof.unlock(actor, username)


def _refresh_digest(refresh_token: str) -> bytes:
    return token_digest(opaque(refresh_token, "refresh_token", longest=256))
