"""Credentials: their limits, their names, and the mask, which is all that lists show of a secret."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from app.domain.errors import InvalidInput
from app.domain.key_shapes import find_key, looks_like_key, looks_random
from app.domain.text import invisible, line, opaque, trimmed

SECRET_LONGEST: Final = 64 * 1024
"""Bytes of UTF-8 per secret."""
LABEL_LONGEST: Final = 64
"""Characters per label."""
QUOTA: Final = 100
"""Credentials per owner; removed ones that can still be restored count."""
RECOVERABLE_FOR: Final = timedelta(days=7)
"""How long a removed credential can be restored."""
HISTORY_KEPT: Final = 20
"""Former secrets per credential; the replacement that exceeds this evicts one."""
AGED_AFTER: Final = timedelta(days=180)
"""A secret that has been in force for longer is worth replacing."""
SOON: Final = timedelta(days=30)
"""A credential that expires within this time is reported as expiring."""

PROVIDER_LONGEST: Final = 32
PROVIDER_PATTERN: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,30}[A-Za-z0-9])?"
"""Of a provider as it is typed; it is stored in lower case."""
_PROVIDER: Final = re.compile(PROVIDER_PATTERN, re.ASCII)
_BULLETS: Final = "•" * 8

_SHORT_SECRET: Final = 6
_MASKED: Final = re.compile(r"[•●]{3,}|^\S{0,16}[*]{4,}\S{0,8}$")
_ELIDED: Final = re.compile(r"\.{3}|…|\*{2,}")
_KNOWN_BEGINNING: Final = re.compile(
    r"(?:sk|pk|rk|gsk|xai|pplx|csk|hf|gh[pousr]|github_pat|glpat|xox[a-z]|AKIA|ASIA|AIza|nvapi|r8|npm|pypi)[-_.*…A-Z0-9]"
)
_ASSIGNMENT: Final = re.compile(
    r"(?:export\s+|set\s+|\$env:)?"
    r"(?:[A-Z][A-Z0-9_]*_)?(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|PWD|CREDENTIALS?|PAT|AUTH)(?:_[A-Z0-9]+)*"
    r"\s*[=:]\s*(\S.*)"
)
_SCHEME: Final = re.compile(
    r"(?:Authorization\s*:\s*)?(?:Bearer|Token|Basic)\s+\S{16,}|(?:Authorization|X-Api-Key)\s*:\s*\S+\s*\S*",
    re.IGNORECASE,
)
_QUOTES: Final = frozenset({'""', "''", "``", "<>", "\u201c\u201d", "\u201e\u201c", "\u2018\u2019", "\u00ab\u00bb"})


class OwnerKind(StrEnum):
    """The kind of owner that a credential has."""

    USER = "user"
    GUILD = "guild"


@dataclass(frozen=True, slots=True)
class Owner:
    """A user id, or a guild's snowflake."""

    kind: OwnerKind
    id: str


class PaidBy(StrEnum):
    """The source of a credential in use; in the order in which a use looks for one."""

    ENVIRONMENT = "environment"
    MEMBER = "member"
    GUILD = "guild"


class Status(StrEnum):
    """The result of the last check of a credential."""

    UNCHECKED = "unchecked"
    VALID = "valid"
    REFUSED = "refused"
    COULD_NOT_CHECK = "could_not_check"
    EXPIRED = "expired"
    UNREADABLE = "unreadable"


class Concern(StrEnum):
    """Why, by the clock, a secret should be replaced; the first reason that applies is shown."""

    EXPIRED = "expired"
    EXPIRING = "expiring"
    AGED = "aged"


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRecord:
    """One row of `api_credentials`: ciphertext, never plaintext.

    ``version`` counts changes that people make (ETag); ``key_version`` is the AES_KEY version of the envelope.
    ``fingerprint`` is None for secrets too weak to have one. ``replaced_at`` is no column but read from the history:
    when the present secret replaced another; None where it is the first.
    """

    id: str
    owner: Owner
    provider: str
    label: str
    encrypted_value: bytes = field(repr=False)
    key_version: int
    version: int = 1
    fingerprint: str | None = None
    status: Status = Status.UNCHECKED
    created_by: str
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    last_verified_at: datetime | None = None
    deleted_at: datetime | None = None
    replaced_at: datetime | None = None

    @property
    def secret_since(self) -> datetime:
        """Since when its secret has been in force: the last replacement or rollback, else its creation."""
        return self.replaced_at or self.created_at


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialView:
    """The view of a credential for people and programs; ``secret_age_days`` are whole days.

    ``sharer_id`` is the user who shared a guild's credential and whose account is billed, None for a user's own.
    """

    id: str
    owner: Owner
    provider: str
    label: str
    masked: str
    version: int
    status: Status
    fingerprint: str | None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    last_verified_at: datetime | None
    deleted_at: datetime | None
    secret_age_days: int
    concern: Concern | None
    sharer_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRecord:
    """A former secret of a credential, encrypted again for its row in the history."""

    id: str
    credential_id: str
    version: int
    encrypted_value: bytes = field(repr=False)
    key_version: int
    created_at: datetime
    replaced_at: datetime


def provider_name(value: object) -> str:
    """A provider's slug such as ``openai``: lower case letters, digits, ``.``, ``_``, ``-``. Raises InvalidInput."""
    text = line(value, "provider", longest=PROVIDER_LONGEST)
    if looks_like_key(text):
        raise InvalidInput("provider", "looks like a key; providers are shown unencrypted")
    if not _PROVIDER.fullmatch(text):
        raise InvalidInput("provider", "must be 1 to 32 letters, digits, '.', '_' or '-'")
    return text.lower()


def label_name(value: object) -> str:
    """A label of 1 to 64 characters that people read. Raises InvalidInput, also for one that looks like a key."""
    text = line(value, "label", longest=LABEL_LONGEST)
    if looks_like_key(text):
        raise InvalidInput("label", "looks like a key; labels are shown unencrypted")
    return text


def label_key(label: str) -> str:
    """The form in which labels are compared: people do not distinguish "Main" from "main"."""
    return label.casefold()


def require_label_without(secret: str, label: str) -> None:
    """Refuse a label that shows the credential's own secret. Raises InvalidInput."""
    if shows(label, secret):
        raise InvalidInput("label", "holds the secret itself; labels are shown unencrypted")


def shows(text: str, secret: str) -> bool:
    """Whether a text shows a secret, in any case.

    A short secret, such as a PIN, counts only as a word of its own: "1" may stand in "node 12". An empty one is none.
    """
    shown, hidden = text.casefold(), unicodedata.normalize("NFC", secret).casefold()
    if len(hidden) >= _SHORT_SECRET:
        return hidden in shown
    return bool(hidden) and re.search(rf"(?<!\w){re.escape(hidden)}(?!\w)", shown) is not None


def secret_value(value: object) -> str:
    """A secret as it will be stored: the same bytes, whichever way it came.

    Blanks, line ends and invisible characters around it are dropped, since they come from copying; line ends within
    it become LF, and a PEM block ends with one, as its readers demand. Raises InvalidInput, which never repeats it,
    also where it holds an invisible character, or more than the key was copied.
    """
    text = trimmed(opaque(value, "secret", longest=SECRET_LONGEST)).replace("\r\n", "\n").replace("\r", "\n")
    if not text:
        raise InvalidInput("secret", "must not be blank")
    if next(invisible(text), None) is not None:
        raise InvalidInput("secret", "holds an invisible character: copy it again, without formatting")
    if text.startswith("-----BEGIN "):
        return text + "\n"
    if "\n" not in text:
        _require_bare(text)
    return text


def _require_bare(text: str) -> None:
    """Refuse what was copied along with a key, where that is certain; any text may be another system's password."""
    if _MASKED.search(text) or (_ELIDED.search(text) and _KNOWN_BEGINNING.match(text)):
        raise InvalidInput("secret", "is a mask, not the key itself: copy the whole key")
    if assigned := _ASSIGNMENT.match(text):
        raise InvalidInput(
            "secret",
            "must be the key alone, without the name before it and the quotes around it"
            if _quoted(assigned[1])
            else "must be the key alone, without the name before it",
        )
    if _SCHEME.fullmatch(text):
        raise InvalidInput("secret", "must be the key alone, without the word Bearer or the header's name before it")
    if _quoted(text) and (find_key(text[1:-1]) or looks_random(text[1:-1])):
        raise InvalidInput("secret", "must be the key alone, without the quotes around it")


def _quoted(text: str) -> bool:
    return len(text) > 2 and text[0] + text[-1] in _QUOTES


def expired(record: CredentialRecord, now: datetime) -> bool:
    """Whether its expiry has passed."""
    return record.expires_at is not None and record.expires_at <= now


def aged(record: CredentialRecord, now: datetime) -> bool:
    """Whether its secret has been in force for too long."""
    return now - record.secret_since > AGED_AFTER


def concern(record: CredentialRecord, now: datetime) -> Concern | None:
    """Why its secret should be replaced, or None."""
    if record.expires_at is not None:
        if expired(record, now):
            return Concern.EXPIRED
        if expired(record, now + SOON):
            return Concern.EXPIRING
    return Concern.AGED if aged(record, now) else None


def estimated_bits(text: str) -> float:
    """A lower estimate of the bits in a secret: its length times the Shannon entropy of its own characters."""
    if not text:
        return 0.0
    counts = [text.count(character) for character in set(text)]
    return -sum(count * math.log2(count / len(text)) for count in counts)


def has_fingerprint(secret: str) -> bool:
    """Only secrets of 20 or more characters and 80 or more estimated bits have one: others could be guessed from it."""
    return len(secret) >= 20 and estimated_bits(secret) >= 80


def mask(secret: str) -> str:
    """A hint of a secret: at most its first 8 and last 4 characters, and never more than a third of it.

    The number of bullets is fixed, so a mask does not reveal the length.
    """
    shown = min(12, len(secret) // 3)
    tail = min(4, shown // 3)
    head = shown - tail
    start, end = secret[:head], secret[len(secret) - tail :] if tail else ""
    return f"{_printable(start)}{_BULLETS}{_printable(end)}"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "•" for character in text)
