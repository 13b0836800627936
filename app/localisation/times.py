"""Times as people read them: how long ago, the day, and the exact time in the reader's zone.

The texts are those of Unicode's CLDR, by Babel. It is imported with the first page that has a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final

from babel.core import Locale
from babel.dates import format_datetime, format_timedelta

from app.domain.preferences import Language

_DAY: Final = {Language.ENGLISH: "d MMM y", Language.GERMAN: "d. MMM y"}
_SECOND: Final = timedelta(seconds=1)
_REMEMBERED: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The times of one page. ``now`` is when it is made."""

    language: Language
    zone: tzinfo
    now: datetime

    def exact(self, value: datetime) -> str:
        """`20 Nov 2026, 22:05 CET`."""
        return _exact(value, self.language, self.zone)

    def day(self, value: datetime) -> str:
        """`20 Nov 2026`, in UTC: the day that somebody chose for an expiry is the same in every zone."""
        return _written(value, _DAY[self.language], self.language)

    def relative(self, value: datetime) -> str:
        """`3 hours ago`, `in 2 days`."""
        difference = value - self.now
        if abs(difference) < _SECOND:
            difference = -_SECOND  # of none at all, Babel says "in 0 seconds"
        return format_timedelta(difference, add_direction=True, locale=_locale(self.language))


# One of these takes Babel about 25 µs, and a list shows the same times again and again.
@lru_cache(_REMEMBERED)
def _exact(value: datetime, language: Language, zone: tzinfo) -> str:
    try:
        local = value.astimezone(zone)
    except OverflowError:  # in that zone the year 10000 has begun already, or the year 1 has not
        return _exact(value, language, UTC)
    return f"{_written(local, f'{_DAY[language]}, HH:mm', language, zone)} {local.tzname()}"


@lru_cache(_REMEMBERED)
def _written(value: datetime, pattern: str, language: Language, zone: tzinfo = UTC) -> str:
    return format_datetime(value, pattern, tzinfo=zone, locale=_locale(language))


@lru_cache
def _locale(language: Language) -> Locale:
    return Locale.parse(language.value)
