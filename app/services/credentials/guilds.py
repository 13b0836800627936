"""The credentials that are shared with one Discord server, as a page of that server shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.domain.audit import Action
from app.domain.credentials import CredentialRecord, CredentialView, Owner, OwnerKind
from app.domain.errors import InvalidInput, NotFound
from app.domain.identity import Actor, Permission, snowflake
from app.services.credentials.access import CredentialAccess, Reach, reach
from app.services.paging import Page, page_size, paged, read_cursor
from app.services.ports import Storage, UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedCredential:
    """A credential that is shared with a server; ``sharer`` is the name of its sharer, None for one who is gone.

    ``may_remove`` is whether the reader may take it away from the server.
    """

    view: CredentialView
    sharer: str | None
    may_remove: bool


class GuildCredentials:
    """Reads what is shared with a server. Every method may raise StorageError and NotReady."""

    def __init__(self, *, storage: Storage, access: CredentialAccess) -> None:
        self._storage = storage
        self._access = access

    async def page(
        self, actor: Actor, guild_id: str, *, after: str | None = None, limit: int = 50
    ) -> Page[SharedCredential]:
        """Return the credentials that are shared with the server: all of them to those who see all credentials.

        Other people see their own, and learn of no server with which they share nothing. Raises NotFound, InvalidInput.
        """
        actor.require_person()
        try:
            owner = Owner(OwnerKind.GUILD, snowflake(guild_id, "guild_id"))
        except InvalidInput:
            raise NotFound from None
        sees_all = actor.may(Permission.SEE_ALL_CREDENTIALS)
        size, begin = page_size(limit), read_cursor(after)
        async with self._storage.lookup(large=True) as uow:
            rows = await uow.credentials.of_owner(
                owner, created_by=None if sees_all else actor.user_id, after=begin, limit=size + 1
            )
            found = paged(rows, size, lambda record: record.id)
            names = await _names(uow, found.items)
        if not rows and not sees_all and begin is None:
            await self._access.deny(actor, Action.CREDENTIAL_READ, ("guild", guild_id))
            raise NotFound
        items = [
            SharedCredential(
                view=await self._access.view(record),
                sharer=names.get(record.created_by),
                may_remove=reach(actor, record) >= Reach.MANAGES,
            )
            for record in found.items
        ]
        return Page(items, found.next_cursor)


async def _names(uow: UnitOfWork, records: Sequence[CredentialRecord]) -> dict[str, str]:
    """The names of the sharers, of whom a server has few."""
    names: dict[str, str] = {}
    for sharer in dict.fromkeys(record.created_by for record in records):
        if (user := await uow.users.get(sharer)) is not None:
            names[sharer] = user.username
    return names
