"""Where a database's schema stands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaState:
    """Where a database's schema stands; ``current`` is None before the first migration."""

    database: str
    current: str | None
    head: str
    checked: bool = False
    """Whether every page, row and index of the database was checked for damage, and found whole."""

    @property
    def up_to_date(self) -> bool:
        """Whether no migration is pending."""
        return self.current == self.head
