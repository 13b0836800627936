"""Pages of lists: a limit, and an opaque cursor that says where the next page begins."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from app.domain.errors import InvalidInput

_T = TypeVar("_T")
LARGEST_PAGE: Final = 100
_KEY: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[1-9][0-9]{0,17}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Page(Generic[_T]):
    """Items, and the cursor of the next page, None on the last page."""

    items: Sequence[_T]
    next_cursor: str | None


def page_size(limit: int) -> int:
    """Return a limit of 1 to 100. Raises InvalidInput."""
    if not 1 <= limit <= LARGEST_PAGE:
        raise InvalidInput("limit", f"must be 1 to {LARGEST_PAGE}")
    return limit


def read_cursor(cursor: str | None) -> str | None:
    """Return the id after which a page begins. Raises InvalidInput."""
    if cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
    except (ValueError, binascii.Error):
        text = ""
    # Only the one way in which a cursor of this list is written: an id or a whole number.
    if _KEY.fullmatch(text) is None or cursor_of(text) != cursor:
        raise InvalidInput("cursor", "is not one that was given out")
    return text


def paged(rows: Sequence[_T], limit: int, key: Callable[[_T], str]) -> Page[_T]:
    """Return a page of up to ``limit + 1`` rows; the one row too many shows that there is a next page."""
    if len(rows) <= limit:
        return Page(rows, None)
    items = rows[:limit]
    return Page(items, cursor_of(key(items[-1])))


def cursor_of(key: str) -> str:
    """Return the cursor of the page behind that id."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


class _Row(Protocol):
    @property
    def id(self) -> str: ...


_R = TypeVar("_R", bound=_Row)


async def pages(fetch: Callable[[str | None], Awaitable[Sequence[_R]]]) -> AsyncIterator[Sequence[_R]]:
    """Every page of rows in the order of their ids; ``fetch`` gets the page after an id, None for the first.

    Raises the errors of ``fetch``.
    """
    after: str | None = None
    while rows := await fetch(after):
        yield rows
        after = rows[-1].id
