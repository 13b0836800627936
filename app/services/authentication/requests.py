"""Every request: its access token, API token or session cookie becomes an Actor."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from app.domain.api_tokens import TOKEN_PREFIX, is_well_formed
from app.domain.errors import InvalidToken, StorageError, with_cause
from app.domain.identity import Actor, Client
from app.domain.keys import KeyName, Manifest
from app.services.authentication.api_token_macs import ApiTokenMacs
from app.services.keys import KeyManagementService
from app.services.ports import (
    AccessClaims,
    AccessTokens,
    ApiTokenAndUser,
    Clock,
    SessionAndUser,
    Storage,
    UnitOfWork,
    UnknownKeyId,
)

log = logging.getLogger(__name__)

COOKIE_PREFIX: Final = "khc_"
_LONGEST_COOKIE: Final = 256
_TOUCH_AFTER: Final = timedelta(minutes=1)
_REMEMBERED_TOKENS: Final = 10_000


class RequestAuthenticator:
    """Identifies the actor of a request; remembers the claims, or MACs, of tokens that it has verified."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        tokens: AccessTokens,
        api_tokens: ApiTokenMacs,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._tokens = tokens
        self._api_tokens = api_tokens
        self._clock = clock
        self._remembered: dict[bytes, AccessClaims] = {}
        self._remembered_macs: dict[bytes, tuple[bytes, ...]] = {}
        self._remembered_under: Manifest | None = None
        self._touching: set[str] = set()

    async def authenticate(self, token: str, client: Client) -> Actor:
        """Return the actor of an access token or an API token. Raises InvalidToken, NotReady, StorageError."""
        now = self._clock.now()
        if token.startswith(TOKEN_PREFIX):
            return await self._by_api_token(token, client, now)
        claims = await self._claims(token, now)
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
        self._forget_under_other_keys()
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

    def _forget_under_other_keys(self) -> None:
        """Raises NotReady where the keys are not confirmed."""
        keys = self._keys.confirmed_manifest()
        if self._remembered_under is not keys:
            self._remembered.clear()
            self._remembered_macs.clear()
            self._remembered_under = keys
        for remembered in (self._remembered, self._remembered_macs):
            if len(remembered) >= _REMEMBERED_TOKENS:
                remembered.clear()

    # -- API tokens ----------------------------------------------------------------------------------------------------

    async def _by_api_token(self, token: str, client: Client, now: datetime) -> Actor:
        if not is_well_formed(token):  # costs neither a MAC nor a look into the database
            raise InvalidToken
        found = await self._find(token)
        if found is None:
            # It may be under a version of the key that another process has just promoted.
            keys = self._keys.confirmed_manifest()
            await self._keys.reload_for_unknown_key()
            found = await self._find(token) if self._keys.confirmed_manifest() is not keys else None
        if found is None or not found.token.alive(found.user, now):
            raise InvalidToken
        last, token_id = found.token.last_used_at, found.token.id
        if (last is None or now - last > _TOUCH_AFTER) and token_id not in self._touching:
            await self._touch(token_id, lambda uow: self._note_use(uow, token, found, now))
        return Actor(
            user_id=found.user.id,
            subject_id=found.user.subject_id,
            username=found.user.username,
            role=found.user.role,
            client=client,
            discord_id=found.user.discord_id,
            preferences=found.user.preferences,
            scopes=frozenset(found.token.scopes),
            token_id=token_id,
            bound_to=found.token.guild_id,
        )

    async def _find(self, token: str) -> ApiTokenAndUser | None:
        self._forget_under_other_keys()
        digest = token_digest(token)
        macs = self._remembered_macs.get(digest) or self._api_tokens.usable(token)
        found = await self._storage.cached("api_token", digest.hex(), lambda uow: uow.api_tokens.by_macs(macs))
        if found is None or found.token.key_version not in self._keys.usable_materials(KeyName.API_SECRET_KEY):
            return None  # the row may have been read just before this process learned that the version is revoked
        self._remembered_macs[digest] = macs
        return found

    async def _note_use(self, uow: UnitOfWork, token: str, found: ApiTokenAndUser, now: datetime) -> None:
        """Set when it was last used; one whose MAC is under an older version of the key gets that of the primary."""
        await uow.api_tokens.touch(found.token.id, now)
        former = found.token.key_version
        if former == self._keys.primary(KeyName.API_SECRET_KEY).version:
            return
        primary = (await self._keys.ring_under_lock(uow)).primary(KeyName.API_SECRET_KEY)
        if former != primary.version:
            mac = self._api_tokens.under(primary, token)
            await uow.api_tokens.renew(found.token.id, former=former, mac=mac, key_version=primary.version)

    # -- sessions ------------------------------------------------------------------------------------------------------

    async def _admit(self, found: SessionAndUser, client: Client, now: datetime) -> Actor:
        if not found.session.alive(found.user, now):
            raise InvalidToken
        if now - found.session.last_seen_at > _TOUCH_AFTER and found.session.id not in self._touching:
            await self._touch(found.session.id, lambda uow: uow.sessions.touch(found.session.id, now))
        return actor_of(found, client)

    async def _touch(self, subject: str, note: Callable[[UnitOfWork], Awaitable[None]]) -> None:
        """Record a use of a session or token; of simultaneous ones one does, and waits if there is another writer."""
        self._touching.add(subject)
        try:
            async with self._storage.write() as uow:
                await note(uow)
        except StorageError as error:  # "last seen" is worth less than the request: a full disk must not end it
            log.warning("could not record that a session or an API token was used: %s", with_cause(error))
        finally:
            self._touching.discard(subject)


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
        preferences=found.user.preferences,
    )


def lasting_part(cookie: str) -> str:
    """The part of a session cookie that a renewal keeps; no other site can read it, and it signs nobody in."""
    return cookie.removeprefix(COOKIE_PREFIX).partition(".")[0]


def token_digest(token: str) -> bytes:
    """Return the SHA-256 under which a token is stored."""
    # SHA-256 is enough for a token of 256 random bits (ASVS 5.0, 11.4). A lone surrogate matches nothing.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
