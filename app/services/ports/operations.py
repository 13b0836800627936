"""Ports for time, randomness and the work that goes on beside requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from app.domain.instances import Instance
from app.domain.jobs import Job, JobKind, JobState, Progress


class Clock(Protocol):
    """The time, so that tests can decide it."""

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never step back and that count while the process is stopped or the machine sleeps."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that time."""
        ...


class Randomness(Protocol):
    """The operating system's CSPRNG."""

    def token_bytes(self, size: int) -> bytes:
        """Return that many unpredictable bytes."""
        ...

    def new_id(self) -> str:
        """Return a UUID in its canonical form; later ids sort after earlier ones, to the millisecond."""
        ...


class InstanceRepository(Protocol):
    """The processes of an install. All times are the database's; times in an ``Instance`` given here are ignored."""

    async def register(self, instance: Instance, lease: timedelta) -> None:
        """Store a process whose lease begins now."""
        ...

    async def renew(
        self, instance_id: str, epochs: Mapping[str, int], lease: timedelta, *, master_key_ids: Sequence[str] = ()
    ) -> bool:
        """Extend the lease and acknowledge the epochs and master keys; False when there is no such row."""
        ...

    async def leave(self, instance_id: str) -> None:
        """Delete the row, so that nobody waits for this process; an unknown id is ignored."""
        ...

    async def live(self) -> Sequence[Instance]:
        """Return the processes whose lease has not lapsed, the oldest first."""
        ...

    async def purge(self, lapsed_for: timedelta) -> int:
        """Delete processes whose lease lapsed longer ago than that; return how many."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotentRequest:
    """A creating request that was done once."""

    user_id: str
    key: str
    mac: bytes
    resource_id: str
    created_at: datetime


class IdempotencyRepository(Protocol):
    """Creating requests that were done, by user and Idempotency-Key."""

    async def get(self, user_id: str, key: str) -> IdempotentRequest | None:
        """Return the request that this user made under this key, or None."""
        ...

    async def add(self, request: IdempotentRequest, *, lapsed_before: datetime) -> None:
        """Store a request, in place of one of this user under this key that was made before then.

        Raises UniqueViolation where there is a later one: another process was faster.
        """
        ...

    async def purge(self, before: datetime, *, limit: int | None = None) -> int:
        """Delete requests that were made before then, at most ``limit``; return how many."""
        ...


class JobRepository(Protocol):
    """The queue. Times that decide who works on a job are the database's.

    Jobs of a kind that this version does not have are left to the versions that have it: no method returns one.
    """

    async def add(self, job: Job, *, at: datetime | None = None) -> bool:
        """Store a job, due at that time or at once; False where a job of its unique key is unfinished."""
        ...

    async def get(self, job_id: str) -> Job | None:
        """Return the job, or None."""
        ...

    async def unfinished(self, unique_key: str) -> Job | None:
        """Return the unfinished job of this unique key, or None."""
        ...

    async def unfinished_of(self, kind: JobKind) -> Sequence[Job]:
        """Return the unfinished jobs of that kind, the latest first."""
        ...

    async def page(self, *, before: str | None, limit: int) -> Sequence[Job]:
        """Return jobs in descending order of their ids, those below ``before``."""
        ...

    async def due_in(self) -> timedelta | None:
        """Return the time until a job is due, negative if one is already, or None where none is unfinished."""
        ...

    async def waits(self) -> Mapping[JobKind, timedelta]:
        """Return how long each kind has had a job due that nobody works on, zero where its jobs are not due.

        A kind without an unfinished job is absent.
        """
        ...

    async def claim(self, claim: str, lease: timedelta, *, job_id: str | None = None) -> Job | None:
        """Claim the job that has been due for longest, or the job of that id if it is due; None where there is none.

        A job whose claim lapsed is due again. No two claims get one job.
        """
        ...

    async def hold(self, job_id: str, claim: str, lease: timedelta, progress: Progress | None = None) -> bool:
        """Renew a claim and store the progress; False where the claim was lost: the caller must stop working then."""
        ...

    async def free_key(self, job_id: str, claim: str) -> None:
        """Give up the job's unique key, so that another job can take it while this one goes on."""
        ...

    async def release(
        self,
        job_id: str,
        claim: str,
        state: JobState,
        *,
        pause: timedelta | None = None,
        error: str | None = None,
        counted: bool = True,
    ) -> bool:
        """Give a claim back: the job is over, or waits for ``pause``; False where the claim was lost.

        A job that waits without an error made progress: its attempts start again at 0. With ``counted`` False this
        attempt does not count.
        """
        ...

    async def bring_forward(self, job_id: str) -> bool:
        """Make a waiting job due now; False where it is not waiting."""
        ...

    async def cancel(self, job_id: str) -> bool:
        """End a job that nobody ever claimed; False for any other: a job that was begun is resumed."""
        ...

    async def cancel_all(self, kind: JobKind) -> int:
        """End every unfinished job of that kind, running ones too (their workers lose the claim); return how many."""
        ...

    async def purge(self, finished_before: datetime, *, limit: int | None = None) -> int:
        """Delete jobs that were over before then, at most ``limit``; return how many."""
        ...


class BotStateRepository(Protocol):
    """Small facts the bot must remember, such as the hash of the command tree that was last synced."""

    async def get(self, key: str) -> str | None:
        """Return the fact, or None."""
        ...

    async def put(self, key: str, value: str, at: datetime) -> None:
        """Insert or replace the fact."""
        ...

    async def delete(self, key: str) -> None:
        """Forget the fact, if there is one."""
        ...

    async def starting_with(self, prefix: str, *, limit: int) -> Mapping[str, str]:
        """Return facts by their keys, of keys that begin with ``prefix`` and go on in ASCII, in their order."""
        ...


class Subscription(Protocol):
    """One waiter's end of the feed."""

    async def changed(self, within: float) -> bool:
        """True once a process may have changed keys or queued a job since the last call; False after ``within`` s.

        This process's own changes count. True at most ten times a second. Raises nothing.
        """
        ...


class ChangeFeed(Protocol):
    """Notifies the processes that share a database of each other's changes, soon but without guarantee: a hint to look.

    A change may go unnoticed, for instance while the connection is lost: look at the database also when ``changed``
    returns False.
    """

    @property
    def prompt(self) -> bool:
        """Whether a change of any process would be noticed at once just now, so that polling may be rare."""
        ...

    def subscribe(self) -> Subscription:
        """Return a subscription to changes from now on, for one waiter; dropping it ends it."""
        ...
