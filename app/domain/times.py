"""Times that people and programs write: RFC 3339, and days, which mean their end wherever something expires."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from app.domain.errors import InvalidInput

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d):(\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NO_ZONE = re.compile(r"[\d-]{10}[Tt][\d:]{8}(?:\.\d+)?", re.ASCII)
_DURATION = re.compile(r"(\d{1,9})([smhd]?)", re.ASCII)
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
BEGIN_OF_DAY: Final = time(0, 0)
END_OF_DAY: Final = time(23, 59, 59)


def rfc3339(text: str) -> datetime:
    """A time with its zone (RFC 3339, 5.6), in UTC, cut to microseconds. Raises ValueError.

    Any number of fractional digits is read. A leap second is the second after it, which is how POSIX counts.
    """
    found = _RFC3339.fullmatch(text)
    if found is None:
        raise ValueError("must be a time with its zone, as RFC 3339 writes it")
    day, minute, second, fraction, zone = found.groups()
    leap = second == "60"
    if leap:
        second, fraction = "59", ""
    try:
        read = datetime.fromisoformat(f"{day}T{minute}:{second}.{(fraction or '')[:6]:0<6}{zone.upper()}").astimezone(
            UTC
        )
        if not leap:
            return read
        # A leap second is inserted at the end of a day of UTC, in every zone at once.
        if (read.hour, read.minute) == (23, 59):
            return read + timedelta(seconds=1)
    except (ValueError, OverflowError):
        pass
    raise ValueError("is not a time that exists")


def begin_of_day(text: str) -> datetime:
    """The first second, in UTC, of a day such as 2027-03-31. Raises ValueError."""
    return _day(text, BEGIN_OF_DAY)


def end_of_day(text: str) -> datetime:
    """The last second, in UTC, of a day such as 2027-03-31. Raises ValueError."""
    return _day(text, END_OF_DAY)


def day_or_time(text: str, at: time) -> datetime:
    """A day, at that time of it, or a time; both in UTC unless the time has a zone. Raises ValueError."""
    text = text.strip().replace(" ", "T")
    if "T" not in text.upper():
        return _day(text, at)
    return rfc3339(f"{text}Z" if _NO_ZONE.fullmatch(text) else text)


def duration(text: str) -> timedelta:
    """A time span such as 30m, 12h or 7d; a number alone means seconds. Raises ValueError."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError("must be a time span such as 30m, 12h or 7d")
    return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def _day(text: str, at: time) -> datetime:
    if _DAY.fullmatch(text) is None:
        raise ValueError("must be a day such as 2027-03-31")
    return datetime.combine(date.fromisoformat(text), at, UTC)


def utc_text(moment: datetime) -> str:
    """A time in UTC as RFC 3339 writes it, always with six fractional digits, so that texts sort as times do."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def expiry(value: datetime | None, now: datetime) -> datetime | None:
    """An expiry in the future, in UTC, or None. Raises InvalidInput, also for one without a time zone."""
    if value is None:
        return None
    if value.tzinfo is None:
        raise InvalidInput("expires_at", "must have a time zone")
    if value <= now:
        raise InvalidInput("expires_at", "must be in the future")
    try:
        return value.astimezone(UTC)
    except OverflowError:  # the last hours of the year 9999, west of Greenwich
        raise InvalidInput("expires_at", "must be before the year 10000") from None
