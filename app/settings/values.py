"""From the text of a setting to its value. A ValueError gives the reason and never repeats the text."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from app.domain.backup import recipient_key
from app.domain.backup_plan import Keep
from app.domain.errors import InvalidInput
from app.domain.identity import snowflake

PROJECT_ROOT: Final = Path(__file__).resolve().parents[2]
_SCHEDULES: Final = {"hourly": "0 * * * *", "daily": "0 3 * * *", "weekly": "0 3 * * SUN"}
_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


IN_QUOTES: Final = "is in quotes, which became part of it: write it without them (docker run --env-file keeps them)"
_QUOTES: Final = ('""', "''", "``", "“”", "„“", "«»")


def own_text(text: str, *, several: bool = False) -> str:
    """The value of any setting, without blanks and line ends around it; ``several`` may have them between entries.

    Raises ValueError for a text that is surely not what was meant: something got into it on its way here.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):  # bytes in the environment, by PEP 383
        raise ValueError("is not UTF-8 text")
    if "\0" in text:
        raise ValueError("holds a NUL character")
    own = without_blanks(text)
    refused = own.translate({ord(blank): None for blank in "\t\r\n"}) if several else own
    if any(unicodedata.category(character) in {"Cc", "Zl", "Zp"} for character in refused):
        raise ValueError("holds a line break or another control character")
    if in_quotes(own):
        raise ValueError(IN_QUOTES)
    return own


def without_blanks(text: str) -> str:
    """A text without blanks, line ends and a byte order mark around it."""
    return text.strip().strip("\ufeff").strip()


def in_quotes(text: str) -> bool:
    """Whether quotes became part of a value, as they do in `docker run --env-file`."""
    return len(text) > 1 and text[0] + text[-1] in _QUOTES


def port(value: object) -> object:
    """The number of a port. Kubernetes gives WEB_PORT an address where a service is named `web`."""
    if isinstance(value, str) and re.match(r"(tcp|udp|sctp)://", value):
        raise ValueError(
            "is the address that Kubernetes sets for a service named web, not a port: rename the service, set "
            "enableServiceLinks: false for the pod, or set WEB_PORT there"
        )
    return value


def lower_case(value: object) -> object:
    """A word, without blanks at its ends and in lower case."""
    return value.strip().lower() if isinstance(value, str) else value


def comma_separated(value: object) -> object:
    """The entries of a list that is separated by commas; empty ones are left out."""
    if not isinstance(value, str):
        return value
    return tuple(entry for part in value.split(",") if (entry := part.strip()))


def path_in_project(value: object) -> Path:
    """A path; a relative one starts at the project."""
    if not isinstance(value, str | Path):
        raise ValueError("must be a path")  # noqa: TRY004 - pydantic reports a ValueError
    try:
        return PROJECT_ROOT / Path(value).expanduser()
    except RuntimeError:
        raise ValueError("starts with '~', and this user has no home directory") from None


def ip_network(value: object) -> object:
    """An IP network; an address is a network of one."""
    if not isinstance(value, str):
        return value
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        raise ValueError("must be an IP address or a network such as 10.0.0.0/8 without host bits") from None


def discord_id(value: object) -> str:
    """A snowflake of Discord."""
    try:
        return snowflake(value.strip() if isinstance(value, str) else value)
    except InvalidInput as refused:
        raise ValueError(refused.reason) from None


def uuid(value: object) -> object:
    """A UUID."""
    if not isinstance(value, str):
        return value
    try:
        return UUID(value.strip())
    except ValueError:
        raise ValueError("must be a UUID") from None


def module_name(value: str) -> str:
    """The dotted name of a Python module."""
    if not _MODULE.fullmatch(value):
        raise ValueError("must be the dotted name of a module")
    return value


def _url(value: object, *schemes: str, origin: bool) -> str:
    """A URL without user, query and fragment; an ``origin`` has no path either and is written as browsers send it."""
    reason = f"must be a URL such as {schemes[-1]}://example.com" + ("" if origin else "/path")
    text = value.strip() if isinstance(value, str) else ""
    try:
        parts = urlsplit(text)
        host = _ascii_host(parts.hostname or "")
        port = parts.port
    except ValueError:
        raise ValueError(reason) from None
    if parts.scheme not in schemes or not host or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(reason)
    if not text.isprintable() or " " in text:
        raise ValueError(reason)
    if origin and parts.path not in {"", "/"}:
        raise ValueError(f"{reason}: scheme, host and port, without a path")
    netloc = f"[{host}]" if ":" in host else host
    if port is not None and port != {"http": 80, "https": 443}.get(parts.scheme):
        netloc += f":{port}"
    return f"{parts.scheme}://{netloc}" + ("" if origin else parts.path.rstrip("/"))


def _ascii_host(host: str) -> str:
    """A host name as browsers send it: IDNA 2008 with the mapping of UTS #46. Raises ValueError."""
    if host.isascii():
        return host
    import idna  # noqa: PLC0415 - its tables are read for names beyond ASCII alone

    return idna.encode(host, uts46=True, transitional=False).decode()


def web_origin(value: object) -> str:
    """Scheme, host and port, as browsers send them."""
    return _url(value, "http", "https", origin=True)


def http_url(value: object) -> str:
    """An http or https URL, which may have a path."""
    return _url(value, "http", "https", origin=False)


def websocket_url(value: object) -> str:
    """A ws or wss URL, which may have a path."""
    return _url(value, "ws", "wss", origin=False)


def age_recipient(text: str) -> str:
    """A recipient of age, in lower case."""
    recipient_key(text)
    return text.lower()


def cron_schedule(text: str) -> str:
    """Moments in UTC, in the five fields of cron: minute, hour, day of month, month, day of week."""
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - a start without a schedule needs no cron

    fields = _SCHEDULES.get(text.lower(), text).upper().split()
    if len(fields) != 5:
        raise ValueError("must be hourly, daily, weekly, or the five fields of cron, such as 30 3 * * *, in UTC")
    schedule = " ".join(fields)
    try:
        next(CronSim(schedule, datetime(2026, 1, 1, tzinfo=UTC)))
    except CronSimError as refused:
        raise ValueError(f"is no schedule of cron: {str(refused)[:60]}") from None
    except StopIteration:
        raise ValueError("names a day that never comes") from None
    return schedule


def keep_rule(text: str) -> str:
    """The rules by which backups are kept."""
    Keep.parse(text)
    return text
