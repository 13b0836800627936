"""Arguments and results of the credential services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Final

from app.domain.audit import PersonalUse
from app.domain.credential_lists import TabCounts
from app.domain.credentials import CredentialRecord, CredentialView, Owner, OwnerKind, PaidBy
from app.domain.secrets import SecretText
from app.services.paging import Page


class Unset(Enum):
    """Not given, where None means "no expiry"."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A stored credential; ``replayed`` when the same request had stored it before."""

    view: CredentialView
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """A credential after its secret was given.

    ``new_secret`` is False where that was in force already; ``new_expiry`` says whether the expiry alone was changed.
    """

    view: CredentialView
    new_secret: bool
    new_expiry: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryView:
    """A former secret: it was in force from ``created_at`` to ``replaced_at``, last as that ``version``."""

    version: int
    masked: str
    readable: bool
    created_at: datetime
    replaced_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialDetail:
    """A credential, live or removed and restorable, with its former secrets, latest first, and its use day by day.

    ``people`` is who used it, for its owner or sharer alone.
    """

    view: CredentialView
    history: Sequence[HistoryView]
    usage: Usage
    people: Sequence[PersonalUse]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelChoice:
    """One suggestion of an autocompletion; ``shared`` when it is the guild's."""

    id: str
    provider: str
    label: str
    shared: bool

    @classmethod
    def of(cls, record: CredentialRecord) -> LabelChoice:
        """Return the suggestion for a row."""
        shared = record.owner.kind is OwnerKind.GUILD
        return cls(id=record.id, provider=record.provider, label=record.label, shared=shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Some of an owner's credentials in the order of their labels: those from ``begin`` on, of ``total``."""

    items: Sequence[CredentialView]
    begin: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialList:
    """A page of a person's list, the numbers in its tabs, and the cursors of the pages around it; None at an end."""

    items: Sequence[CredentialView]
    counts: TabCounts
    previous_cursor: str | None
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderHealth:
    """The credentials of one provider, counted; a readable one may have expired, or be aged."""

    provider: str
    total: int
    readable: int
    unreadable: int
    expired: int
    aged: int
    oldest_update: datetime
    last_used: datetime | None
    last_verified: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableCredential:
    """A credential that does not decrypt. ``username`` is its owner's, None for a guild's."""

    id: str
    provider: str
    label: str
    owner: Owner
    username: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """Counts per provider, and the first ``unreadable`` ones, to enter again: of every owner if ``everybody``."""

    everybody: bool
    providers: Sequence[ProviderHealth]
    unreadable: Sequence[UnreadableCredential]


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPage:
    """Everybody's counts per provider, and a page of all unreadable credentials; no counts on the pages after it."""

    providers: Sequence[ProviderHealth] | None
    unreadable: Page[UnreadableCredential]


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialCounts:
    """The actor's own credentials, counted; one may count several times. ``refused`` ones their provider refused at the
    last check, ``expiring`` ones expire soon.
    """

    live: int
    unreadable: int
    refused: int
    expired: int
    expiring: int
    used: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiringCredential:
    """A credential that expires soon."""

    id: str
    label: str
    provider: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DayOfUse:
    """How often credentials were used on the day that begins then, in UTC."""

    begin: datetime
    uses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Uses of successive days, the last of which is today; not ``complete`` where only the latest uses were counted."""

    days: Sequence[DayOfUse]
    complete: bool

    @property
    def total(self) -> int:
        """The uses of all days."""
        return sum(each.uses for each in self.days)

    @property
    def most(self) -> int:
        """The uses of the busiest day."""
        return max((each.uses for each in self.days), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The actor's own credentials at a glance."""

    counts: CredentialCounts
    expiring: Sequence[ExpiringCredential]
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableSecret:
    """A stored secret that does not decrypt; ``former`` is the version of a former one, None for the present one."""

    id: str
    provider: str
    label: str
    owner: Owner
    former: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """How far a verification is: ``done`` of about ``total`` secrets, and those found since the last step."""

    done: int
    total: int
    unreadable: Sequence[UnreadableSecret]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsableCredential:
    """A decrypted credential, for the length of a block. One from the environment has no id and no label."""

    provider: str
    label: str | None
    id: str | None
    paid_by: PaidBy
    secret: SecretText

    def reveal(self) -> str:
        """Return the secret: pass it straight to the provider's client."""
        return self.secret.reveal()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentCredentials:
    """The operator's credentials by provider, and the guilds whose members may use them (ENV_CREDENTIAL_GUILDS)."""

    by_provider: Mapping[str, SecretText] = field(default_factory=lambda: MappingProxyType({}))
    guilds: frozenset[str] = frozenset()
