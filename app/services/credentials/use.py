"""A credential in use: chosen, the intent recorded, decrypted, handed out, and the outcome recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime

from app.domain.audit import Action, Result
from app.domain.credentials import CredentialRecord, Owner, OwnerKind, PaidBy, expired, label_name, provider_name
from app.domain.errors import CredentialUnreadable, NoCredential
from app.domain.identity import Actor, Permission
from app.domain.secrets import SecretText
from app.services.after_commit import follow_up
from app.services.audit import AuditTrail
from app.services.credentials.access import CredentialAccess, own
from app.services.credentials.values import EnvironmentCredentials, UsableCredential
from app.services.ports import Clock, Storage


class CredentialUse:
    """Three short units of work around a block: the intent, nothing while the block runs, the outcome."""

    def __init__(
        self, *, storage: Storage, access: CredentialAccess, environment: EnvironmentCredentials, clock: Clock
    ) -> None:
        self._storage = storage
        self._access = access
        self._environment = environment
        self._clock = clock
        self._trail = AuditTrail(clock)

    @asynccontextmanager
    async def use(self, actor: Actor, provider: str, label: str | None = None) -> AsyncIterator[UsableCredential]:
        """See ``CredentialService.use``."""
        actor.require_use()
        provider = provider_name(provider)
        secret = self._environment_secret(actor, provider) if label is None else None
        if secret is not None:
            usable = UsableCredential(provider=provider, label=None, id=None, paid_by=PaidBy.ENVIRONMENT, secret=secret)
            await self._note_use(actor, usable, Result.INTENT)
        else:
            usable = await self._stored(actor, provider, label)
        try:
            yield usable
        except BaseException as error:
            # The intent is recorded, and the error of the block matters more than that its outcome is not.
            failed = self._note_use(actor, usable, Result.FAILED, error=type(error).__name__)
            await follow_up(failed, None, "the use of a credential")
            raise
        # Nor may the caller do once more what the block has done.
        await follow_up(self._note_use(actor, usable, Result.OK), None, "the use of a credential")

    def _environment_secret(self, actor: Actor, provider: str) -> SecretText | None:
        if not actor.may_use(None) or actor.bound_to is not None:
            return None
        served = actor.may(Permission.USE_ENVIRONMENT_CREDENTIALS) or (
            actor.guild is not None and actor.guild.guild_id in self._environment.guilds
        )
        return self._environment.by_provider.get(provider) if served else None

    async def _stored(self, actor: Actor, provider: str, label: str | None) -> UsableCredential:
        """Choose a stored credential, commit the intent, and only then decrypt it."""
        wanted = None if label is None else label_name(label)
        now = self._clock.now()
        refused: CredentialRecord | None = None
        chosen: CredentialRecord | None = None
        async with self._storage.write() as uow:
            if actor.may(Permission.USE_OWN_CREDENTIALS) and actor.bound_to is None:
                mine = await uow.credentials.of_owner(own(actor), provider=provider, label=wanted)
                chosen = _latest((each for each in mine if actor.may_use(each.id)), now)
            guild_id = actor.bound_to or (actor.guild.guild_id if actor.guild is not None else None)
            if chosen is None and guild_id is not None:
                guild = Owner(OwnerKind.GUILD, guild_id)
                shared = await uow.credentials.of_owner(guild, provider=provider, label=wanted)
                serving = [each for each in shared if _serves(actor, each) and actor.may_use(each.id)]
                chosen = _latest(serving, now)
                refused = _latest(shared, now) if chosen is None else None
            if chosen is not None:
                await self._access.record(uow, actor, Action.CREDENTIAL_USED, chosen, Result.INTENT)
        if refused is not None:
            await self._access.deny(actor, Action.CREDENTIAL_USED, ("credential", refused.id))
        if chosen is None:
            raise NoCredential
        secret = await self._access.open(chosen)
        if secret is None:
            await self._access.record_failure(actor, Action.CREDENTIAL_USED, chosen)
            raise CredentialUnreadable
        return UsableCredential(
            provider=provider,
            label=chosen.label,
            id=chosen.id,
            paid_by=PaidBy.MEMBER if chosen.owner.kind is OwnerKind.USER else PaidBy.GUILD,
            secret=SecretText(secret),
        )

    async def _note_use(self, actor: Actor, usable: UsableCredential, result: Result, **detail: str) -> None:
        about = ("credential", usable.id) if usable.id else ("environment", usable.provider)
        detail |= {"provider": usable.provider, "paid_by": usable.paid_by.value}
        async with self._storage.write() as uow:
            if usable.id is not None:
                await uow.credentials.mark_used(usable.id, self._clock.now())
            await self._trail.record(uow, actor, Action.CREDENTIAL_USED, about=about, result=result, **detail)


def _serves(actor: Actor, shared: CredentialRecord) -> bool:
    """Whether a credential of the guild serves this member: it is their own share, or they manage the guild."""
    return shared.created_by == actor.user_id or (actor.guild is not None and actor.guild.manages_guild)


def _latest(records: Iterable[CredentialRecord], now: datetime) -> CredentialRecord | None:
    """Return the record that was updated last and has not expired; between equals the id decides: a stable choice."""
    usable = (record for record in records if not expired(record, now))
    return max(usable, key=lambda record: (record.updated_at, record.id), default=None)
