"""How far the rotation of a key is: the cursor of its job, typed.

A job that dies anywhere resumes from this state, so everything that a later step needs is in it. Nothing in it is
secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from app.domain.keys import Keyset

NAMED: Final = 20
"""How many unreadable rows are named; the rest are counted."""
LARGEST_NUMBER_OF_PASSES: Final = 20


class Step(StrEnum):
    """The step of a rotation that comes next. Each begins with a commit that says so."""

    PREPARE = "prepare"
    ANNOUNCED = "announced"
    PROMOTED = "promoted"
    OVERLAP = "overlap"
    REENCRYPT = "re-encrypt"
    RECOMPUTE = "recompute"
    VERIFY = "verify"
    DONE = "done"


class TooManyPasses(Exception):
    """Rows keep changing faster than passes re-encrypt them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationState:
    """The version that a rotation is about, and the place of the pass that is under way.

    ``epoch`` is the keyset's epoch that every process has to acknowledge; ``since`` is when the version became
    primary, which distinguishes two promotions of a version. ``column`` and ``after`` are the place of a pass: None
    before its first page. ``behind`` counts rows that need a further pass; ``failed`` counts rows that do not
    open, of which ``failing`` names the first and ``needed`` holds the key versions. ``kept`` are versions that had to
    stay because of them.
    """

    version: int
    epoch: int
    since: str | None = None
    acknowledged_at: datetime | None = None
    passes: int = 0
    column: int | None = None
    after: str | None = None
    behind: int = 0
    failed: int = 0
    failing: tuple[str, ...] = ()
    needed: frozenset[int] = frozenset()
    kept: tuple[int, ...] = ()

    @classmethod
    def of_primary(cls, keyset: Keyset) -> RotationState:
        """The state of a rotation whose version has just become primary."""
        return cls(version=keyset.primary.version, since=keyset.since.isoformat(), epoch=keyset.epoch)

    def superseded_in(self, keyset: Keyset) -> bool:
        """Whether the primary changed since this rotation promoted its version, even if it has changed back.

        Then the rotation that promoted last does the retiring: only that one saw every row since.
        """
        return (self.version, self.since) != (keyset.primary.version, keyset.since.isoformat())

    def at(self, column: int, after: str | None) -> RotationState:
        """With the place of the pass: behind the row ``after`` of that column."""
        return replace(self, column=column, after=after)

    def naming(self, row: str, key_version: object) -> RotationState:
        """With one more row that does not open, and the key version that it needs: no number in an edited file."""
        needed = frozenset({key_version} if isinstance(key_version, int) else ())
        return replace(
            self,
            failed=self.failed + 1,
            failing=(*self.failing, row)[:NAMED],
            needed=self.needed | needed,
        )

    def leaving_behind(self) -> RotationState:
        """With one more row that a further pass has to look at."""
        return replace(self, behind=self.behind + 1)

    def first_pass(self) -> RotationState:
        """At the beginning of a pass of another kind: nothing of the place and the findings of the pass before."""
        return RotationState(
            version=self.version,
            epoch=self.epoch,
            since=self.since,
            acknowledged_at=self.acknowledged_at,
            passes=self.passes,
        )

    def next_pass(self) -> RotationState:
        """At the beginning of a further pass. Raises TooManyPasses."""
        if self.passes >= LARGEST_NUMBER_OF_PASSES:
            raise TooManyPasses
        return replace(self.first_pass(), passes=self.passes + 1)

    def to_json(self) -> dict[str, Any]:
        """The cursor of the job's row; what is not set is left out."""
        members: dict[str, Any] = {
            "version": self.version,
            "epoch": self.epoch,
            "since": self.since,
            "acknowledged_at": self.acknowledged_at.isoformat() if self.acknowledged_at else None,
            "passes": self.passes or None,
            "column": self.column,
            "after": self.after,
            "behind": self.behind or None,
            "failed": self.failed or None,
            "failing": list(self.failing) or None,
            "needed": sorted(self.needed) or None,
            "kept": list(self.kept) or None,
        }
        return {name: value for name, value in members.items() if value is not None}

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> RotationState:
        """The state in a job's cursor."""
        acknowledged = members.get("acknowledged_at")
        return cls(
            version=members["version"],
            epoch=members["epoch"],
            since=members.get("since"),
            acknowledged_at=datetime.fromisoformat(acknowledged) if acknowledged else None,
            passes=members.get("passes", 0),
            column=members.get("column"),
            after=members.get("after"),
            behind=members.get("behind", 0),
            failed=members.get("failed", 0),
            failing=tuple(members.get("failing", ())),
            needed=frozenset(members.get("needed", ())),
            kept=tuple(members.get("kept", ())),
        )
