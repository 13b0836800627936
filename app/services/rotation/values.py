"""What rotation says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.domain.instances import Instance
from app.domain.jobs import Job
from app.domain.keys import KeyName
from app.services.keys import KeyVersionInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStanding:
    """A key as its keepers see it: every version, how old the primary may become, and what is about to happen.

    ``announced_at`` is when the rotation that was set for a date begins; ``job`` is the one that is not over.
    """

    name: KeyName
    versions: Sequence[KeyVersionInfo]
    since: datetime
    age_days: int
    rotation_days: int
    automatic: bool
    due_at: datetime
    due: bool
    announced_at: datetime | None
    job: Job | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a rotation would do, and what would stand in its way; nothing has been changed.

    ``rows`` are to be re-encrypted or recomputed; ``unreadable`` names those that do not open today.
    """

    name: KeyName
    primary: int
    processes: Sequence[Instance]
    rows: int
    unreadable: Sequence[str]
    consequence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependents:
    """What needs a version of a key: ``rows`` open with it alone, ``unreadable`` ones name it and do not open."""

    name: KeyName
    version: int
    rows: int
    unreadable: int
    sentence: str
