"""Cursors of the list of credentials: a place, and the direction in which the page lies from it."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from app.domain.credential_lists import ListPlace, Need
from app.domain.credentials import LABEL_LONGEST
from app.domain.errors import InvalidInput

# A label has up to three times its characters after case folding.
_PLACE: Final = re.compile(
    rf"([<>])([0-4])([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})(.{{1,{3 * LABEL_LONGEST}}})"
)
_LONGEST: Final = 2_000


def cursor_after(place: ListPlace) -> str:
    """The cursor of the page that follows this place."""
    return _written(">", place)


def cursor_before(place: ListPlace) -> str:
    """The cursor of the page that ends before this place."""
    return _written("<", place)


def read_place(cursor: str | None) -> tuple[ListPlace | None, bool]:
    """Return the place, and whether the page ends before it; None for the first page. Raises InvalidInput."""
    if cursor is None:
        return None, False
    found = _PLACE.fullmatch(_decoded(cursor))
    if found is None or not found[4].isprintable():
        raise InvalidInput("cursor", "is not one that was given out")
    place = ListPlace(Need(int(found[2])), found[4], found[3])
    if _written(found[1], place) != cursor:
        raise InvalidInput("cursor", "is not one that was given out")
    return place, found[1] == "<"


def _decoded(cursor: str) -> str:
    if len(cursor) > _LONGEST:
        return ""
    try:
        return base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode()
    except (ValueError, binascii.Error):
        return ""


def _written(direction: str, place: ListPlace) -> str:
    text = f"{direction}{int(place.need)}{place.id}{place.label_key}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
