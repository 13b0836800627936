"""API tokens: made by their owner in a fresh session, shown once, listed, and ended.

A token acts for its owner with the rights that both its scopes and its owner's role give, at the time of use. It can
neither make nor end a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.domain.api_tokens import (
    MOST_TOKENS,
    RANDOM_BYTES,
    ApiToken,
    TokenStatus,
    new_name,
    shown_prefix,
    token_of,
)
from app.domain.audit import Action
from app.domain.errors import Forbidden, NotFound, QuotaExceeded, UniqueViolation
from app.domain.identity import Actor, grantable, snowflake
from app.domain.keys import KeyName
from app.domain.scopes import OF_CREDENTIALS, Scope, credential_of, kind_of, new_scopes
from app.domain.secrets import SecretText
from app.domain.times import expiry
from app.services.alive import require_alive
from app.services.audit import AuditTrail
from app.services.authentication.api_token_macs import ApiTokenMacs
from app.services.credentials.access import Reach, reach
from app.services.idempotency import Idempotency, RepeatableRequest
from app.services.keys import KeyManagementService
from app.services.paging import Page, page_size, paged, read_cursor
from app.services.ports import Clock, Randomness, Storage
from app.services.refusals import Refusal, Refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedToken:
    """A new token. ``secret`` is the token itself, None where an earlier delivery of the same request made it."""

    token: ApiToken
    secret: SecretText | None


class ApiTokenService:
    """The tokens of the actor. Every method refuses an API token (Forbidden) and may raise StorageError, NotReady."""

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        macs: ApiTokenMacs,
        idempotency: Idempotency,
        refusals: Refusals,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._macs = macs
        self._idempotency = idempotency
        self._refusals = refusals
        self._trail = AuditTrail(clock)
        self._clock = clock
        self._randomness = randomness

    async def create(
        self,
        actor: Actor,
        *,
        name: str,
        scopes: Sequence[str],
        expires_at: datetime | timedelta | None = None,
        guild_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> CreatedToken:
        """Make a token that expires then, or so long from now.

        A request repeated under the same ``idempotency_key`` makes none and shows none.
        Raises ReauthenticationRequired, InvalidInput, Forbidden for a scope that the actor's role could not use,
        NotFound for the use of a credential that is not the actor's, QuotaExceeded, IdempotencyConflict.
        """
        now = self._clock.now()
        actor.require_fresh(now)
        if isinstance(expires_at, timedelta):
            expires_at = now + expires_at
        name, wanted = new_name(name), new_scopes(scopes)
        guild_id = None if guild_id is None else snowflake(guild_id, "guild_id")
        _require_grantable(actor, wanted, guild_id)
        request = None
        if idempotency_key is not None:
            until = "" if expires_at is None else expires_at.isoformat()
            texts = ("tokens.create", name, " ".join(wanted), until, guild_id or "")
            request = RepeatableRequest(user_id=actor.user_id, key=idempotency_key, texts=texts)
        if request and (replayed := await self._replayed(request)):
            return replayed
        expires_at = expiry(expires_at, now)
        await self._require_own(actor, wanted, guild_id)
        secret = token_of(self._randomness.token_bytes(RANDOM_BYTES))
        try:
            async with self._storage.write() as uow:
                _require_grantable(await require_alive(uow, actor, self._clock.now()), wanted, guild_id)
                if await uow.api_tokens.count(actor.user_id, now) >= MOST_TOKENS:
                    raise QuotaExceeded(f"You have {MOST_TOKENS} API tokens: revoke one that is not needed any more")
                primary = (await self._keys.ring_under_lock(uow)).primary(KeyName.API_SECRET_KEY)
                token = ApiToken(
                    id=self._randomness.new_id(),
                    user_id=actor.user_id,
                    name=name,
                    prefix=shown_prefix(secret),
                    scopes=wanted,
                    guild_id=guild_id,
                    key_version=primary.version,
                    created_at=now,
                    expires_at=expires_at,
                )
                await uow.api_tokens.add(token, self._macs.under(primary, secret))
                if request:
                    await self._idempotency.remember(uow, request, primary, token.id)
                about = ("token", token.id)
                await self._trail.record(uow, actor, Action.TOKEN_CREATED, about=about, scopes=" ".join(wanted))
        except UniqueViolation:  # the same request arrived twice at once, and the other one was faster
            if request and (replayed := await self._replayed(request)):
                return replayed
            raise
        return CreatedToken(token=token, secret=SecretText(secret))

    async def _require_own(self, actor: Actor, scopes: Sequence[str], guild_id: str | None) -> None:
        """A credential that is named must be one that the token could reach: a slip in its id is found here."""
        for credential_id in filter(None, map(credential_of, scopes)):
            async with self._storage.lookup() as uow:
                record = await uow.credentials.get(credential_id)
            if record is not None and reach(actor, record) is Reach.NOTHING:
                about = ("credential", credential_id)
                await self._refusals.record(Refusal(who=actor, action=Action.TOKEN_CREATED, about=about))
                record = None
            if record is None or record.deleted_at is not None or guild_id not in {None, record.owner.id}:
                raise NotFound("A scope names a credential that is not there")

    async def _replayed(self, request: RepeatableRequest) -> CreatedToken | None:
        async with self._storage.lookup() as uow:
            token_id = await self._idempotency.earlier(uow, request)
            token = await uow.api_tokens.get(token_id) if token_id else None
        if token_id is None:
            return None
        if token is None:
            raise NotFound("The token that this request made was revoked")
        return CreatedToken(token=token, secret=None)

    async def page(self, actor: Actor, *, after: str | None = None, limit: int = 50) -> Page[ApiToken]:
        """Return the actor's tokens, newest first, the expired ones too until they are purged. Raises InvalidInput."""
        actor.require_person()
        size = page_size(limit)
        async with self._storage.lookup() as uow:
            rows = await uow.api_tokens.page(actor.user_id, after=read_cursor(after), limit=size + 1)
        return paged(rows, size, lambda token: token.id)

    def status(self, token: ApiToken) -> TokenStatus:
        """Whether a token still serves, as far as the token itself is concerned."""
        if token.expired(self._clock.now()):
            return TokenStatus.EXPIRED
        verifies = token.key_version in self._keys.usable_materials(KeyName.API_SECRET_KEY)
        return TokenStatus.ACTIVE if verifies else TokenStatus.ENDED

    async def revoke(self, actor: Actor, token_id: str) -> None:
        """End one of the actor's own tokens, at once and everywhere. Raises NotFound."""
        actor.require_person()
        about = ("token", token_id)
        async with self._storage.lookup() as uow:
            token = await uow.api_tokens.get(token_id)
        if token is not None and token.user_id != actor.user_id:
            await self._refusals.record(Refusal(who=actor, action=Action.TOKEN_REVOKED, about=about))
        if token is None or token.user_id != actor.user_id:
            raise NotFound
        async with self._storage.write() as uow:
            if not await uow.api_tokens.delete(token_id):
                raise NotFound
            await self._trail.record(uow, actor, Action.TOKEN_REVOKED, about=about)


def _require_grantable(actor: Actor, scopes: Sequence[str], guild_id: str | None) -> None:
    """Nobody gives a token more than they have; what they lose later, the token loses too."""
    for scope in map(Scope, map(kind_of, scopes)):
        if guild_id is not None and scope not in OF_CREDENTIALS:
            raise Forbidden(f"A token for one guild has scopes of credentials alone, not {scope}")
        if not grantable(actor.role, scope):
            raise Forbidden(f"Your role has no right to which the scope {scope} belongs")
