"""The audit trail as people read it: a page, or all of it. No key is needed for that."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.domain.audit import AuditFilter, AuditItem, Result
from app.domain.errors import InvalidInput
from app.domain.identity import USERNAME_LONGEST, Actor, Permission, name_key
from app.domain.text import opaque, whole_number
from app.services.paging import Page, cursor_of, page_size, paged, read_cursor
from app.services.ports import Storage

ACTION_PATTERN: Final = r"[a-z_]{1,40}(?:\.[a-z_]{1,40})?"
ABOUT_PATTERN: Final = r"[a-z_]{1,40}:[!-~]{1,200}"
BATCH: Final = 1000
"""Rows that an export holds in memory at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """The rows that are asked for, as people say it; None leaves a question open.

    ``actor`` is a username, ``action`` an action such as ``key.revoked`` or a family such as ``key``, and ``about`` the
    kind and the id of an object, joined by a colon. ``since`` is included, ``until`` is not.
    """

    actor: str | None = None
    action: str | None = None
    about: str | None = None
    result: Result | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows, the latest first, and the cursors of the rows on both sides of them; None where there are none."""

    items: Sequence[AuditItem]
    newer: str | None
    older: str | None


class AuditReading:
    """Reads rows, for those who may (READ_AUDIT). Methods may raise Forbidden, InvalidInput and StorageError."""

    def __init__(self, *, storage: Storage) -> None:
        self._storage = storage

    async def page(
        self, actor: Actor, query: AuditQuery, *, after: str | None = None, limit: int = 50
    ) -> Page[AuditItem]:
        """The latest rows first. An actor that nobody is has done nothing."""
        actor.require(Permission.READ_AUDIT)
        size, begin = page_size(limit), _begin(after)
        wanted = await self._wanted(query)
        if wanted is None:
            return Page((), None)
        async with self._storage.read() as uow:
            rows = await uow.audit.page(wanted, after=begin, limit=size + 1, oldest_first=False)
        return paged(rows, size, lambda item: item.id)

    async def stretch(
        self, actor: Actor, query: AuditQuery, *, older: str | None = None, newer: str | None = None, limit: int = 50
    ) -> Stretch:
        """The latest rows first: those older than a row, those newer than one, or else the latest of all.

        ``older`` and ``newer`` are cursors of another stretch; of both, ``newer`` counts. Where fewer rows than a
        stretch holds are newer, it is that of the latest rows.
        """
        if newer is not None:
            actor.require(Permission.READ_AUDIT)
            size, begin = page_size(limit), _begin(newer)
            wanted = await self._wanted(query)
            async with self._storage.read() as uow:
                rows = wanted and await uow.audit.page(wanted, after=begin, limit=size + 1, oldest_first=True)
            if rows and len(rows) > size:
                items = rows[size - 1 :: -1]
                return Stretch(items, newer=cursor_of(items[0].id), older=cursor_of(items[-1].id))
            older = None
        page = await self.page(actor, query, after=older, limit=limit)
        newest = cursor_of(page.items[0].id) if page.items and older is not None else None
        return Stretch(page.items, newer=newest, older=page.next_cursor)

    async def all(self, actor: Actor, query: AuditQuery) -> AsyncIterator[Sequence[AuditItem]]:
        """Every row that is there when it is reached, the oldest first, in parts."""
        actor.require(Permission.READ_AUDIT)
        wanted, after, more = await self._wanted(query), 0, True
        while wanted is not None and more:
            async with self._storage.read() as uow:
                rows = await uow.audit.page(wanted, after=after, limit=BATCH, oldest_first=True)
            if rows:
                yield rows
                after = int(rows[-1].id)
            more = len(rows) == BATCH

    async def _wanted(self, query: AuditQuery) -> AuditFilter | None:
        """The filter, or None where no row can match."""
        if query.action is not None and re.fullmatch(ACTION_PATTERN, query.action, re.ASCII) is None:
            raise InvalidInput("action", "must be an action such as key.revoked, or a family of them such as key")
        about: tuple[str, str] | None = None
        if query.about is not None:
            if re.fullmatch(ABOUT_PATTERN, query.about, re.ASCII) is None:
                raise InvalidInput("about", "must be the kind and the id of an object, such as key:AES_KEY")
            kind, _, object_id = query.about.partition(":")
            about = (kind, object_id)
        subject_id: str | None = None
        if query.actor is not None:
            if len(query.actor) > USERNAME_LONGEST:
                raise InvalidInput("actor", f"must be at most {USERNAME_LONGEST} characters")
            name = name_key(opaque(query.actor, "actor", longest=4 * USERNAME_LONGEST).strip())
            async with self._storage.lookup() as uow:
                user = await uow.users.by_name(name)
            if user is None:
                return None
            subject_id = user.subject_id
        return AuditFilter(
            subject_id=subject_id,
            action=query.action,
            about=about,
            result=query.result,
            since=query.since,
            until=query.until,
        )


def _begin(cursor: str | None) -> int | None:
    text = read_cursor(cursor)
    number = None if text is None else whole_number(text)
    if text is not None and number is None:
        raise InvalidInput("cursor", "is not one that was given out")
    return number
