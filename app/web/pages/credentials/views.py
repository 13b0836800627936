"""Shared by the pages of credentials: their addresses, the view model of a credential, and the reading of fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.domain.credentials import RECOVERABLE_FOR, Concern, CredentialView, OwnerKind, Status, shows
from app.domain.errors import InvalidInput
from app.domain.key_shapes import looks_like_key
from app.domain.text import whole_number
from app.domain.times import end_of_day
from app.localisation import mark
from app.web.inputs import ID, Model

ALL: Final = "/credentials"
NEW: Final = f"{ALL}/new"
ONE: Final = f"{ALL}/{{credential_id:{ID}}}"

NEWS: Final = {
    "added": mark("Stored."),
    "changed": mark("Changed."),
    "replaced": mark("Replaced. The former secret is kept in the history."),
    "put_back": mark("Put back. The secret that was in use before is kept in the history."),
    "same": mark("Nothing changed: that secret is in force already."),
    "purged": mark("Deleted for good."),
    "removed": mark("Removed. It can be restored for seven days."),
    "restored": mark("Restored."),
}
_WORDS: Final = {
    Status.VALID: mark("valid"),
    Status.REFUSED: mark("refused by the provider"),
    Status.COULD_NOT_CHECK: mark("could not be checked"),
    Status.EXPIRED: mark("expired"),
    Status.UNREADABLE: mark("unreadable — enter it again"),
}
_CONCERNS: Final = {
    Concern.EXPIRING: mark("expires soon"),
    Concern.AGED: mark("older than half a year"),
}


class CredentialQuery(Model):
    """The action that led to the page."""

    done: str = ""


class VersionForm(Model):
    """A button, for the version that the page showed."""

    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A credential, for templates. ``words`` say its state, None where there is nothing to say."""

    id: str
    provider: str
    label: str
    masked: str
    version: int
    fingerprint: str | None
    state: str
    words: str | None
    guild_id: str | None
    created_at: datetime
    updated_at: datetime
    secret_age_days: int
    expires_at: datetime | None
    last_used_at: datetime | None
    kept_until: datetime | None


def shown(view: CredentialView) -> Shown:
    """The view model of a credential."""
    words, state = _WORDS.get(view.status), view.status.value
    if view.status not in {Status.REFUSED, Status.EXPIRED, Status.UNREADABLE} and view.concern in _CONCERNS:
        words, state = _CONCERNS[view.concern], view.concern.value
    return Shown(
        id=view.id,
        provider=view.provider,
        label=view.label,
        masked=view.masked,
        version=view.version,
        fingerprint=view.fingerprint,
        state=state,
        words=words,
        guild_id=view.owner.id if view.owner.kind is OwnerKind.GUILD else None,
        created_at=view.created_at,
        updated_at=view.updated_at,
        secret_age_days=view.secret_age_days,
        expires_at=view.expires_at,
        last_used_at=view.last_used_at,
        kept_until=view.deleted_at + RECOVERABLE_FOR if view.deleted_at else None,
    )


def kept_of(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields of a form that it is filled in with again: not the secret, nor one that was typed elsewhere."""
    typed = {name: fields[name] for name in ("provider", "label", "expires") if name in fields}
    secret = fields.get("secret", "").strip()
    return {name: "" if looks_like_key(text) or shows(text, secret) else text for name, text in typed.items()}


def end_of(text: str) -> datetime | None:
    """The last second, in UTC, of a typed day; None for an empty text. Raises InvalidInput."""
    if not text.strip():
        return None
    try:
        return end_of_day(text.strip())
    except ValueError:
        raise InvalidInput("expires_at", "must be a day such as 2027-03-31") from None


def version_of(text: str) -> int:
    """The version that a page showed. Raises InvalidInput."""
    number = whole_number(text)
    if number is None:
        raise InvalidInput("version", "must be a number")
    return number
