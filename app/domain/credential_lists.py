"""The list of a person's credentials: its tabs, its order by need, and the place where a page of it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple

from app.domain.credentials import SOON, CredentialRecord, Status, expired, label_key
from app.domain.errors import InvalidInput
from app.domain.key_shapes import looks_like_key
from app.domain.text import line

SEARCH_LONGEST: Final = 100
"""Characters of a search."""
_MOST_WORDS: Final = 8


class Tab(StrEnum):
    """The part of the list that is shown."""

    ALL = "all"
    ATTENTION = "attention"
    SHARED = "shared"
    REMOVED = "removed"


class Need(IntEnum):
    """The need of a credential for its owner's attention, most urgent first; the list is in this order."""

    UNREADABLE = 0
    REFUSED = 1
    EXPIRED = 2
    EXPIRING = 3
    NOTHING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFilter:
    """The credentials that a user owns or shared with a guild, and whose label or provider has every word.

    Of removed ones only those that were removed after ``restorable_since``. Expiries are compared with
    ``now``.
    """

    user_id: str
    now: datetime
    restorable_since: datetime
    words: Sequence[str] = ()


class ListPlace(NamedTuple):
    """The place of a credential in the list; places compare as the list orders them."""

    need: Need
    label_key: str
    id: str


class TabCounts(NamedTuple):
    """The number of credentials in each tab."""

    all: int
    attention: int
    shared: int
    removed: int


def need(record: CredentialRecord, now: datetime) -> Need:
    """Return what the credential needs, as far as its row says; a removed one needs nothing."""
    if record.deleted_at is not None:
        return Need.NOTHING
    if record.status is Status.UNREADABLE:
        return Need.UNREADABLE
    if record.status is Status.REFUSED:
        return Need.REFUSED
    if expired(record, now):
        return Need.EXPIRED
    return Need.EXPIRING if expired(record, now + SOON) else Need.NOTHING


def place_of(record: CredentialRecord, now: datetime) -> ListPlace:
    """Return the place of a credential in the list."""
    return ListPlace(need(record, now), label_key(record.label), record.id)


def search_words(text: str) -> Sequence[str]:
    """Return the words of a search, in the form in which labels are compared. Raises InvalidInput.

    A key is refused: a search stands in the address of its page.
    """
    typed = line(text, "search", longest=SEARCH_LONGEST, shortest=0)
    if looks_like_key(typed):
        raise InvalidInput("search", "looks like a key: search for its label or its provider")
    words = tuple(dict.fromkeys(label_key(typed).split()))
    if len(words) > _MOST_WORDS:
        raise InvalidInput("search", f"must be at most {_MOST_WORDS} words")
    return words
