"""How an account's owner wants pages to be: their language, and the time zone of times."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from app.domain.errors import InvalidInput


class Language(StrEnum):
    """A language, by its tag (RFC 5646)."""

    ENGLISH = "en"
    GERMAN = "de"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """``time_zone`` is a name of the IANA's database. None leaves it to the browser."""

    language: Language | None = None
    time_zone: str | None = None


AUTOMATIC: Final = Preferences()


def language_named(tag: str | None) -> Language | None:
    """The language of that tag, None for None. Raises InvalidInput."""
    if tag is None:
        return None
    try:
        return Language(tag)
    except ValueError:
        raise InvalidInput("language", f"must be one of {', '.join(Language)}") from None
