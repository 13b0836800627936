"""Every request: its access token or session cookie becomes an Actor."""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime, timedelta
from typing import Final

from app.domain.errors import InvalidToken, StorageError, with_cause
from app.domain.identity import Actor, Client
from app.domain.keys import KeyName, Manifest
from app.services.keys import KeyManagementService
from app.services.ports import AccessClaims, AccessTokens, Clock, SessionAndUser, Storage, UnknownKeyId

log = logging.getLogger(__name__)

COOKIE_PREFIX: Final = "khc_"
_LONGEST_COOKIE: Final = 256
_TOUCH_AFTER: Final = timedelta(minutes=1)
_REMEMBERED_TOKENS: Final = 10_000


class RequestAuthenticator:
    """Identifies the actor of a request; remembers the claims of tokens that it has verified."""

    def __init__(self, *, storage: Storage, keys: KeyManagementService, tokens: AccessTokens, clock: Clock) -> None:
        self._storage = storage
        self._keys = keys
        self._tokens = tokens
        self._clock = clock
        self._remembered: dict[bytes, AccessClaims] = {}
        self._remembered_under: Manifest | None = None
        self._touching: set[str] = set()

    async def authenticate(self, access_token: str, client: Client) -> Actor:
        """Return the actor of an access token. Raises InvalidToken, NotReady, StorageError."""
        now = self._clock.now()
        claims = await self._claims(access_token, now)
        found = await self._storage.cached(
            "session", claims.session_id, lambda uow: uow.sessions.get(claims.session_id)
        )
        # The session alone says whether its tokens work: one that outlives the others, such as at a change of the
        # password, has tokens of the former version.
        if found is None or found.user.id != claims.user_id or claims.token_version > found.session.token_version:
            raise InvalidToken
        return await self._admit(found, client, now)

    async def authenticate_browser(self, cookie: str, client: Client) -> Actor:
        """Return the actor of a session cookie. Raises InvalidToken, StorageError."""
        if not cookie.startswith(COOKIE_PREFIX) or len(cookie) > _LONGEST_COOKIE:
            raise InvalidToken
        digest = token_digest(cookie)
        found = await self._storage.cached("cookie", digest.hex(), lambda uow: uow.sessions.by_cookie(digest))
        if found is None:
            raise InvalidToken
        return await self._admit(found, client, self._clock.now())

    async def _claims(self, token: str, now: datetime) -> AccessClaims:
        """Return the claims of a token; they are remembered while the keys are the same and the token is valid."""
        keys = self._keys.confirmed_manifest()
        if self._remembered_under is not keys or len(self._remembered) >= _REMEMBERED_TOKENS:
            self._remembered.clear()
            self._remembered_under = keys
        digest = token_digest(token)
        claims = self._remembered.get(digest)
        if claims is None:
            try:
                claims = self._tokens.read(token, self._keys.usable_materials(KeyName.JWT_SECRET_KEY), now)
            except UnknownKeyId:
                await self._keys.reload_for_unknown_key()
                try:  # with the keys as they are now, whether this reload or another one loaded them
                    claims = self._tokens.read(token, self._keys.usable_materials(KeyName.JWT_SECRET_KEY), now)
                except UnknownKeyId:
                    raise InvalidToken from None
            self._remembered[digest] = claims
        elif now >= claims.expires_at:
            del self._remembered[digest]
            raise InvalidToken
        return claims

    async def _admit(self, found: SessionAndUser, client: Client, now: datetime) -> Actor:
        if not found.session.alive(found.user, now):
            raise InvalidToken
        if now - found.session.last_seen_at > _TOUCH_AFTER and found.session.id not in self._touching:
            await self._touch(found.session.id, now)
        return actor_of(found, client)

    async def _touch(self, session_id: str, now: datetime) -> None:
        """Record that the session was seen; of simultaneous requests one does, and waits if there is another writer."""
        self._touching.add(session_id)
        try:
            async with self._storage.write() as uow:
                await uow.sessions.touch(session_id, now)
        except StorageError as error:  # "last seen" is worth less than the request: a full disk must not end it
            log.warning("could not record that a session was seen: %s", with_cause(error))
        finally:
            self._touching.discard(session_id)


def actor_of(found: SessionAndUser, client: Client) -> Actor:
    """Return the user of a session as the actor of a request."""
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


def lasting_part(cookie: str) -> str:
    """The part of a session cookie that a renewal keeps; no other site can read it, and it signs nobody in."""
    return cookie.removeprefix(COOKIE_PREFIX).partition(".")[0]


def token_digest(token: str) -> bytes:
    """Return the SHA-256 under which a token is stored."""
    # SHA-256 is enough for a token of 256 random bits (ASVS 5.0, 11.4). A lone surrogate matches nothing.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
