"""Jobs: work that outlives a request and the process that began it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

JOB_LEASE: Final = timedelta(seconds=15)
"""A job whose worker has not renewed its claim for this long is claimed by another."""
RENEW_JOB_EVERY: Final = timedelta(seconds=4)
ATTEMPTS: Final = 50
"""How often a job is tried again before it counts as failed; what it did before stays."""
LONGEST_PAUSE: Final = timedelta(minutes=5)


class JobKind(StrEnum):
    """The kinds of work that a worker does."""

    KEY_ROTATION = "key.rotation"
    KEY_AGES = "key.ages"
    BACKUP = "backup"
    BACKUP_REHEARSAL = "backup.rehearsal"
    AUDIT_RETENTION = "audit.retention"
    HOUSEKEEPING = "housekeeping"


class JobState(StrEnum):
    """Waiting for its time or for a worker, being worked on, or over."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self in {JobState.DONE, JobState.FAILED, JobState.CANCELLED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a job stands: ``cursor`` is for the worker that resumes it, the rest for people.

    ``total`` is None until it is counted; ``note`` is one sentence. Nothing in here is ever secret.
    """

    step: str = ""
    cursor: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    done: int = 0
    total: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job. Of one ``unique_key`` at most one job is not over."""

    id: str
    kind: JobKind
    payload: Mapping[str, Any]
    state: JobState = JobState.WAITING
    unique_key: str | None = None
    run_at: datetime
    attempts: int = 0
    progress: Progress = field(default_factory=Progress)
    error: str | None = None
    requested_by: str | None = None
    created_at: datetime
    finished_at: datetime | None = None

    def announced(self, now: datetime) -> bool:
        """Whether it was queued for a time that has not come: nobody has begun it, or tried to."""
        untouched = self.state is JobState.WAITING and not self.progress.step and not self.attempts and not self.error
        return untouched and self.run_at > now


def pause_after(attempts: int) -> timedelta:
    """How long to wait before a job that failed is tried again: 1 s, doubling, at most 5 minutes."""
    return min(timedelta(seconds=2 ** min(attempts - 1, 16)), LONGEST_PAUSE)
