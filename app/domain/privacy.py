"""A person's data: the sections of an export, and what an erasure leaves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

LEFTOVERS_FOR: Final = timedelta(days=1)
"""How long after an erasure housekeeping looks for rows of requests that were under way: none takes longer."""


class Section(StrEnum):
    """The sections of an export that are rows of one table each, without what `personal_data.py` withholds."""

    ACCOUNT = "account"
    SESSIONS = "sessions"
    LINKS = "links"
    FACTORS = "factors"
    PASSKEYS = "passkeys"
    TOKENS = "tokens"
    REQUESTS = "requests"
    JOBS = "jobs"
    USAGE = "usage"


@dataclass(frozen=True, slots=True)
class Person:
    """The two random ids under which rows belong to a person: of the account, and in the audit trail."""

    user_id: str
    subject_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """A person who was erased, without anything personal, so that a restored backup erases them again."""

    user_id: str
    subject_id: str
    erased_at: datetime

    @property
    def person(self) -> Person:
        """The ids under which their rows were stored."""
        return Person(self.user_id, self.subject_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasurePreview:
    """The rows that an erasure would delete, and the proof that it asks for."""

    credentials: int
    shared: int
    sessions: int
    has_password: bool
    has_factor: bool
    last_owner: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasedRows:
    """How many rows of a person were deleted, or lost what was personal in them."""

    credentials: int = 0
    shared: int = 0
    """Credentials of guilds that the person had shared."""
    sessions: int = 0
    others: int = 0
    addresses: int = 0
    """Addresses in the audit trail that nobody else has used."""

    def __add__(self, other: ErasedRows) -> ErasedRows:
        """The rows of two accounts of one person."""
        return ErasedRows(
            credentials=self.credentials + other.credentials,
            shared=self.shared + other.shared,
            sessions=self.sessions + other.sessions,
            others=self.others + other.others,
            addresses=self.addresses + other.addresses,
        )

    @property
    def total(self) -> int:
        """All of them."""
        return self.credentials + self.shared + self.sessions + self.others + self.addresses
