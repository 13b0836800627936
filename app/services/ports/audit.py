"""Ports for the audit trail: its rows, its list, and the chains that seal it (docs/security.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime
from typing import Protocol

from app.domain.audit import AuditEvent, AuditFilter, AuditItem, PersonalUse, UsageHour
from app.domain.audit_chain import ChainRow, Seal, Segment, StoredSegment, Stream


class AuditRepository(Protocol):
    """Rows of the audit trail, for the services that record and for people who read."""

    async def append(self, event: AuditEvent) -> None:
        """Store a row in this unit of work; it has no audit seal yet."""
        ...

    async def page(
        self, wanted: AuditFilter, *, after: int | None, limit: int, oldest_first: bool
    ) -> Sequence[AuditItem]:
        """Return the rows that are wanted, in the order of their ids, from the one behind the row ``after``."""
        ...

    async def uses_per_day(self, credential_id: str, *, since: datetime, most: int) -> Mapping[date, int]:
        """Count the uses of a credential by their day in UTC: those since then, of them the ``most`` latest."""
        ...

    async def uses_per_person(
        self, credential_id: str, *, since: datetime, most: int, people: int
    ) -> Sequence[PersonalUse]:
        """Count the ``most`` latest uses of a credential since then by the person, the most frequent first."""
        ...


class AuditExportFile(Protocol):
    """A file that is being written."""

    async def add(self, lines: Sequence[bytes]) -> None:
        """Append lines. Raises OSError."""
        ...


class AuditExports(Protocol):
    """The files that old segments are exported to."""

    def writing(self, name: str) -> AbstractAsyncContextManager[AuditExportFile]:
        """Open a file that gets its name once all is written and on the disk, in place of one of that name.

        Raises AuditExportFailed.
        """
        ...

    async def digest(self, name: str) -> str:
        """Return the SHA-256 of a file in hex, as it is on the disk. Raises AuditExportFailed."""
        ...


class AuditChainRepository(Protocol):
    """Rows of the audit trail as they were stored, and the segments in which they are sealed.

    Rows of an edited database are returned as they are: the verification names them.
    """

    async def unsealed(self, limit: int) -> Sequence[ChainRow]:
        """Return the first committed rows that have no seal, in the order of their ids."""
        ...

    async def count_unsealed(self) -> int:
        """Return how many rows have no seal."""
        ...

    async def seal(self, seals: Sequence[Seal]) -> int:
        """Give rows their places in the chain; return how many there were."""
        ...

    async def rows(self, segment: int, *, after: int, limit: int) -> Sequence[ChainRow]:
        """Return rows of a segment in the order of their positions, those behind the position ``after``."""
        ...

    async def count_outside(self, segment: int, first: int, last: int) -> int:
        """Return how many rows name that segment and have no position from ``first`` to ``last``."""
        ...

    async def next_segment_of_rows(self, after: int | None) -> object:
        """Return the lowest segment above ``after`` that a row names, of all where that is None; None for no such."""
        ...

    async def last_rows(self, segment: int, limit: int) -> Sequence[ChainRow]:
        """Return the rows with the highest positions of a segment."""
        ...

    async def drop_last(self, segment: int, limit: int) -> int:
        """Delete the rows with the highest positions of a segment; return how many."""
        ...

    async def head(self, stream: Stream, *, below: int) -> StoredSegment | None:
        """Return the segment of that chain with the highest number under ``below``, or None."""
        ...

    async def highest_segment(self, *, below: int) -> int:
        """Return the highest number of a segment under ``below``, 0 where there is none."""
        ...

    async def highest_segment_of_rows(self, *, below: int) -> int:
        """Return the highest segment under ``below`` that a row names, 0 where there is none.

        Forged rows may name any.
        """
        ...

    async def segment(self, number: int) -> StoredSegment | None:
        """Return that segment, or None."""
        ...

    async def segments(self, *, after: int | None, limit: int) -> Sequence[StoredSegment]:
        """Return segments of both chains in the order of their numbers, those above ``after``, of all if None."""
        ...

    async def add_segment(self, segment: Segment) -> None:
        """Store a new segment. Raises UniqueViolation where another process was faster."""
        ...

    async def change_segment(self, segment: Segment, was: bytes) -> bool:
        """Replace a segment whose MAC is still ``was``; False where it is not."""
        ...

    async def add_uses(self, hours: Sequence[UsageHour]) -> None:
        """Add to the hourly sums; of one hour, object, subject, source and result at most one is given."""
        ...
