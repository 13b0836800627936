"""The port for everything that is stored about one person, across the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from app.domain.privacy import ErasedRows, Erasure, Person, Section

PersonalRow = Mapping[str, str | int | bool | datetime | None]
"""A row of a person by its columns; hashes and ciphertext are withheld."""


class PersonalDataRepository(Protocol):
    """Rows of one person, wherever they are; `app/infrastructure/database/personal_data.py` lists the tables."""

    async def rows(self, section: Section, person: Person) -> Sequence[PersonalRow]:
        """Return the person's rows of a section, in the order of their ids or times."""
        ...

    async def lock(self, user_id: str) -> bool:
        """Exclude everybody who signs in or changes the account until the unit of work ends; False without one."""
        ...

    async def erase(self, person: Person, at: datetime) -> ErasedRows:
        """Delete the person's rows for good, and remember the erasure; a second time finds what came since.

        Rows of the audit trail stay as they are, so that it still verifies: the name in `subjects` goes, and each
        address that no other person has used.
        """
        ...

    async def erasures(self, *, after: str | None, limit: int) -> Sequence[Erasure]:
        """Return erasures in the order of their users' ids, those after ``after``."""
        ...

    async def erased_since(self, since: datetime) -> Sequence[Erasure]:
        """Return the erasures from that time on, the oldest first."""
        ...
