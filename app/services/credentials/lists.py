"""Lists of credentials that people choose from: by place, and by what they typed so far."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.credential_lists import ListFilter, Tab, place_of, search_words
from app.domain.credentials import QUOTA, RECOVERABLE_FOR, CredentialRecord, Owner, OwnerKind, label_key
from app.domain.identity import Actor, snowflake
from app.domain.scopes import Scope
from app.services.credentials.access import CredentialAccess, only_sharer, own, reach
from app.services.credentials.places import cursor_after, cursor_before, read_place
from app.services.credentials.values import CredentialList, LabelChoice, Stretch
from app.services.paging import page_size
from app.services.ports import Clock, Storage


class CredentialLists:
    """Every method may raise StorageError and NotReady."""

    def __init__(self, *, storage: Storage, access: CredentialAccess, clock: Clock) -> None:
        self._storage = storage
        self._access = access
        self._clock = clock

    async def page(
        self, actor: Actor, *, tab: Tab = Tab.ALL, search: str = "", cursor: str | None = None, limit: int = 50
    ) -> CredentialList:
        """Return a page of what the actor owns or shared with a guild, by need and then by label, and count the tabs.

        ``search`` is words that stand in the label or the provider; only matching credentials are counted. A page may
        hold fewer than ``limit`` items and not be the last. Raises InvalidInput.
        """
        actor.require_person()
        now, size = self._clock.now(), page_size(limit)
        words = search_words(search)
        place, backwards = read_place(cursor)
        wanted = ListFilter(user_id=actor.user_id, now=now, restorable_since=now - RECOVERABLE_FOR, words=words)
        async with self._storage.lookup(large=True) as uow:
            rows = await uow.credentials.listed(wanted, tab, place=place, backwards=backwards, limit=size + 1)
            if place is not None and not rows:  # the credentials of that page are gone: begin again
                place = None
                rows = await uow.credentials.listed(wanted, tab, place=None, backwards=False, limit=size + 1)
            counts = await uow.credentials.tab_counts(wanted)
        more = len(rows) > size
        backwards = backwards and place is not None
        shown = rows[-size:] if backwards else rows[:size]
        earlier, later = (more, True) if backwards else (place is not None, more)
        return CredentialList(
            items=[await self._access.view(record) for record in shown if reach(actor, record)],
            counts=counts,
            previous_cursor=cursor_before(place_of(shown[0], now)) if earlier else None,
            next_cursor=cursor_after(place_of(shown[-1], now)) if later else None,
        )

    async def stretch(self, actor: Actor, *, begin: int = 0, size: int = 8, guild_id: str | None = None) -> Stretch:
        """Return credentials in the order of their labels, counted, from the place ``begin`` on.

        A place past the end leads to the last credentials. Raises InvalidInput.
        """
        actor.require_scope(Scope.CREDENTIALS_READ)
        owner = own(actor) if guild_id is None else Owner(OwnerKind.GUILD, snowflake(guild_id, "guild_id"))
        async with self._storage.lookup(large=True) as uow:
            rows = await uow.credentials.of_owner(owner, created_by=only_sharer(actor, owner), limit=QUOTA)
        reached = sorted((row for row in rows if reach(actor, row)), key=_by_label)
        size = page_size(size)
        begin = min(max(begin, 0), max(len(reached) - 1, 0)) // size * size
        views = [await self._access.view(record) for record in reached[begin : begin + size]]
        return Stretch(items=views, begin=begin, total=len(reached))

    async def labels(self, actor: Actor, typed: str, limit: int = 25) -> Sequence[LabelChoice]:
        """Suggest credentials whose label or provider has every word that was typed; in a guild also the guild's own.

        Those that begin with the text come first. Where there are too many, neither owner's hide the other's.
        """
        actor.require_scope(Scope.CREDENTIALS_READ)
        owners = [own(actor)]
        if actor.guild is not None:
            owners.append(Owner(OwnerKind.GUILD, actor.guild.guild_id))
        async with self._storage.lookup(large=True) as uow:
            found = [await uow.credentials.of_owner(owner, limit=QUOTA) for owner in owners]
        fitting = [_fitting([row for row in rows if reach(actor, row)], label_key(typed.strip())) for rows in found]
        others = sum(min(len(each), limit // 2) for each in fitting[1:])
        mine = fitting[0][: max(limit - others, 0)]
        return [LabelChoice.of(row) for row in (*mine, *(row for rows in fitting[1:] for row in rows))][: max(limit, 0)]


def _by_label(record: CredentialRecord) -> tuple[str, str, str]:
    return label_key(record.label), record.provider, record.id


def _fitting(rows: Sequence[CredentialRecord], typed: str) -> Sequence[CredentialRecord]:
    """Rows whose label or provider has every typed word, those that begin with the text first."""

    def texts(row: CredentialRecord) -> tuple[str, str]:
        return label_key(row.label), row.provider

    words = typed.split()
    having = [row for row in rows if all(any(word in text for text in texts(row)) for word in words)]
    return sorted(having, key=lambda row: (not any(text.startswith(typed) for text in texts(row)), _by_label(row)))
