"""The export of everything that is stored about a person (GDPR, articles 15 and 20)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.domain.audit import Action, AuditFilter, AuditItem
from app.domain.credentials import CredentialRecord, HistoryRecord, Owner, OwnerKind, mask
from app.domain.errors import Forbidden, InvalidToken, NotFound, Overloaded
from app.domain.identity import Actor, Permission, Role, Source, User, name_key
from app.domain.privacy import Person, Section
from app.domain.text import opaque
from app.services.audit import AuditTrail
from app.services.credentials.access import UNREADABLE_MASK, CredentialAccess
from app.services.joining import former_account
from app.services.keys import KeyManagementService
from app.services.paging import pages
from app.services.ports import Clock, Storage, UnitOfWork

FORMAT: Final = 1
MOST_ROWS: Final = 10_000
"""Rows of the audit trail in an export that is answered at once: the latest ones by the person, and about them."""
_PAGE: Final = 1000
_AT_ONCE: Final = 2
_WAITING: Final = 8
_ANOTHER: Final = "another person"


@dataclass(frozen=True, slots=True)
class ExportPart:
    """Some rows of a section, or the one object that a section is. Parts of a section follow each other."""

    section: str
    content: Any
    rows: bool = True


class PersonalDataExport:
    """Exports. Every method may raise StorageError and NotReady."""

    def __init__(self, *, storage: Storage, keys: KeyManagementService, access: CredentialAccess, clock: Clock) -> None:
        self._storage = storage
        self._keys = keys
        self._access = access
        self._clock = clock
        self._trail = AuditTrail(clock)
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0

    async def of_oneself(self, actor: Actor) -> Mapping[str, Any]:
        """Return the export of the actor, without secrets; `complete` says whether all of the audit trail is in it.

        Raises Overloaded and ReauthenticationRequired; in Discord, which has identified the actor, Forbidden instead
        where the account has more than Discord to prove itself.
        """
        actor.require_person()
        if actor.client.source is not Source.DISCORD:
            actor.require_fresh(self._clock.now())
        if self._waiting >= _WAITING:
            raise Overloaded
        self._waiting += 1
        try:
            async with self._turns:
                async with self._storage.lookup() as uow:
                    user = await uow.users.get(actor.user_id)
                    factor = await uow.factors.get(actor.user_id)
                if user is None:
                    raise InvalidToken
                if actor.client.source is Source.DISCORD:
                    if user.password_hash is not None:
                        raise Forbidden("This account has a password: export it on the web, on the page /privacy")
                    if factor is not None and factor.confirmed_at is not None:
                        raise Forbidden("This account has a second factor: export it on the web, on the page /privacy")
                await self._record(actor, user, ())
                return await _collected(self._parts(user, with_secrets=False, most=MOST_ROWS))
        finally:
            self._waiting -= 1

    async def of_user(self, actor: Actor, username: str, *, with_secrets: bool = False) -> AsyncIterator[ExportPart]:
        """Yield the whole export of a person, for the owner or the operator.

        Secrets are in it on demand, and then at the command line alone: the rows of the audit trail that say so have
        committed before the first part is there. Raises Forbidden, NotFound.
        """
        actor.require_person()
        actor.require(Permission.MANAGE_USERS)
        if actor.role is not Role.OWNER or (with_secrets and actor.client.source is not Source.CLI):
            raise Forbidden
        actor.require_fresh(self._clock.now())
        name = name_key(opaque(username, "username", longest=256).strip())
        async with self._storage.lookup() as uow:
            user = await uow.users.by_name(name)
        if user is None:
            raise NotFound("There is no user of that name")
        async with self._storage.read() as uow:
            revealed = await _credentials_of(uow, user) if with_secrets else ()
        await self._record(actor, user, revealed)
        allowed = frozenset(each.id for each in revealed)
        async for part in self._parts(user, with_secrets=with_secrets, most=None, allowed=allowed):
            yield part

    async def _record(self, actor: Actor, user: User, revealed: Sequence[CredentialRecord]) -> None:
        async with self._storage.write() as uow:
            about = ("user", user.id)
            await self._trail.record(uow, actor, Action.USER_EXPORTED, about=about, secrets=len(revealed))
            for each in revealed:
                await self._access.record(uow, actor, Action.CREDENTIAL_REVEALED, each)

    async def _parts(
        self, user: User, *, with_secrets: bool, most: int | None, allowed: frozenset[str] = frozenset()
    ) -> AsyncIterator[ExportPart]:
        person = Person(user.id, user.subject_id)
        yield ExportPart("format", FORMAT, rows=False)
        yield ExportPart("install_id", self._keys.install_id, rows=False)
        yield ExportPart("exported_at", self._clock.now(), rows=False)
        async with self._storage.read() as uow:
            former = await former_account(uow, user)
            sections = {each: list(await uow.personal_data.rows(each, person)) for each in Section}
            if former is not None:
                before = Person(former.id, former.subject_id)
                for each in set(Section) - {Section.ACCOUNT}:
                    sections[each].extend(await uow.personal_data.rows(each, before))
            records = await _credentials_of(uow, user)
            versions = {each.id: await uow.credentials.history(each.id) for each in records}
        for account in sections.pop(Section.ACCOUNT):
            has_password = user.password_hash is not None
            yield ExportPart(Section.ACCOUNT.value, {**account, "has_password": has_password}, rows=False)
        for section, found in sections.items():
            yield ExportPart(section.value, found)
        shown = [
            await self._credential(each, versions[each.id], with_secrets=with_secrets and each.id in allowed)
            for each in records
        ]
        yield ExportPart("credentials", shown)
        complete = True
        yield ExportPart("audit", [])
        accounts = [user] if former is None else [user, former]
        async for rows, more in self._audit(accounts, [each.id for each in records], most):
            complete = complete and not more
            yield ExportPart("audit", rows)
        yield ExportPart("complete", complete, rows=False)

    async def _credential(
        self, record: CredentialRecord, versions: Sequence[HistoryRecord], *, with_secrets: bool
    ) -> Mapping[str, Any]:
        secret = await self._access.open(record)
        former = [(each, await self._access.open_former(each, record.owner)) for each in versions]
        return {
            "id": record.id,
            "owner": record.owner.kind.value,
            "guild_id": record.owner.id if record.owner.kind is OwnerKind.GUILD else None,
            "provider": record.provider,
            "label": record.label,
            **_shown(secret, with_secrets=with_secrets),
            "version": record.version,
            "status": record.status.value,
            "fingerprint": record.fingerprint,
            "created_at": record.created_at,
            "updated_at": record.updated_at,
            "expires_at": record.expires_at,
            "last_used_at": record.last_used_at,
            "last_verified_at": record.last_verified_at,
            "removed_at": record.deleted_at,
            "versions": [
                {
                    "version": each.version,
                    **_shown(opened, with_secrets=with_secrets),
                    "created_at": each.created_at,
                    "replaced_at": each.replaced_at,
                }
                for each, opened in former
            ],
        }

    async def _audit(
        self, accounts: Sequence[User], credential_ids: Sequence[str], most: int | None
    ) -> AsyncIterator[tuple[Sequence[Mapping[str, Any]], bool]]:
        """Rows of the audit trail, the latest first, and whether there are more: those by the person, then others."""
        left = most
        for account in accounts:
            async for rows, more in self._rows(AuditFilter(subject_id=account.subject_id), left):
                left = None if left is None else max(left - len(rows), 0)
                yield [each.as_members() for each in rows], more
        left, names = most, {each.username for each in accounts}
        things = [*(("user", each.id) for each in accounts), *(("credential", each) for each in credential_ids)]
        for about in things:
            async for rows, more in self._rows(AuditFilter(about=about), left):
                by_others = [_by_another(each) for each in rows if each.actor not in names]
                left = None if left is None else max(left - len(by_others), 0)
                yield by_others, more

    async def _rows(self, wanted: AuditFilter, most: int | None) -> AsyncIterator[tuple[Sequence[AuditItem], bool]]:
        after: int | None = None
        seen, more = 0, True
        while more:
            async with self._storage.read() as uow:
                rows = await uow.audit.page(wanted, after=after, limit=_PAGE + 1, oldest_first=False)
            more = len(rows) > _PAGE
            rows = rows[:_PAGE]
            kept = rows if most is None else rows[: max(most - seen, 0)]
            seen += len(kept)
            cut = most is not None and (len(kept) < len(rows) or (seen >= most and more))
            yield kept, cut
            more = more and not cut
            after = int(rows[-1].id) if rows else None


async def _credentials_of(uow: UnitOfWork, user: User) -> Sequence[CredentialRecord]:
    """Their own and those that they shared with guilds, removed ones included."""
    own = Owner(OwnerKind.USER, user.id)
    found: list[CredentialRecord] = []
    for removed in (False, True):
        async for page in pages(
            lambda after, removed=removed: uow.credentials.of_owner(own, removed=removed, after=after)  # type: ignore[misc]
        ):
            found += page
    return [*found, *await uow.credentials.shared_by(user.id)]


def _shown(secret: str | None, *, with_secrets: bool) -> Mapping[str, Any]:
    masked = UNREADABLE_MASK if secret is None else mask(secret)
    return {"masked": masked, **({"secret": secret} if with_secrets else {})}


def _by_another(item: AuditItem) -> Mapping[str, Any]:
    """A row about the person that somebody else caused: who and from where are that person's data (article 15, 4)."""
    members = item.as_members()
    members["actor"] = None if item.actor is None else _ANOTHER
    members["detail"] = {name: value for name, value in item.detail.items() if name not in {"address", "reason"}}
    return members


async def _collected(parts: AsyncIterator[ExportPart]) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    async for part in parts:
        if part.rows:
            found.setdefault(part.section, []).extend(part.content)
        else:
            found[part.section] = part.content
    return found
