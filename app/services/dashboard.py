"""The dashboard (the Hall): the first page that people see, and whether this process is ready to serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from app.domain.credentials import SOON
from app.domain.errors import StorageError
from app.domain.identity import Actor, Permission, Role
from app.domain.jobs import JobKind
from app.domain.keys import APPLICATION_KEYS, KeyName, KeySchedule, Keyset
from app.services.bot_state import BotConnection, BotStateService
from app.services.credentials import CredentialCounts, CredentialService
from app.services.failures import FailureLog
from app.services.keys import KeyManagementService
from app.services.ports import Clock, Storage

_BOT_GUILDS: Final = "guilds"


class Headline(StrEnum):
    """The subject of the dashboard's one sentence, most urgent first."""

    UNREADABLE = "unreadable"
    EXPIRED = "expired"
    KEY_DUE = "key_due"
    EXPIRING = "expiring"
    EMPTY = "empty"
    WELL = "well"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyAge:
    """The primary version of an application key: since when it is primary, and when its rotation is due."""

    name: KeyName
    version: int
    fingerprint: str
    since: datetime
    age_days: int
    due_at: datetime
    due: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LastBackup:
    """When the latest backup was made of which everything opened, and how long ago; None where there is none.

    ``rehearsed_at`` and ``rehearsal`` are of its last rehearsal.
    """

    verified_at: datetime | None
    age_days: int | None
    rehearsed_at: datetime | None = None
    rehearsal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRun:
    """The steps of the first run, and whether each is done."""

    owner: bool
    bot_invited: bool
    discord_linked: bool
    first_credential_stored: bool
    first_credential_used: bool

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return all(
            (
                self.owner,
                self.bot_invited,
                self.discord_linked,
                self.first_credential_stored,
                self.first_credential_used,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """``keys`` is empty for actors who may not see them; ``first_run`` is for the owner, None once it is complete.

    ``bot`` and ``backup`` are for actors who may see keys, None for others. ``announcements`` are for everybody: keys
    of which a rotation is announced, with the time at which it begins, the next one first.
    """

    username: str
    role: Role
    credentials: CredentialCounts
    keys: Sequence[KeyAge]
    headline: Headline
    sentence: str
    first_run: FirstRun | None
    bot: BotConnection | None
    backup: LastBackup | None
    announcements: Sequence[tuple[KeyName, datetime]]


class DashboardService:
    """Read models that draw on several families."""

    def __init__(
        self,
        *,
        storage: Storage,
        reserved: Storage,
        keys: KeyManagementService,
        credentials: CredentialService,
        bot_state: BotStateService,
        failures: FailureLog,
        clock: Clock,
        rotation_days: int,
    ) -> None:
        self._storage = storage
        self._reserved = reserved
        self._keys = keys
        self._credentials = credentials
        self._bot_state = bot_state
        self._failures = failures
        self._clock = clock
        self._rotation_days = rotation_days

    async def dashboard(self, actor: Actor) -> Dashboard:
        """Return the actor's dashboard. Raises StorageError, NotReady."""
        actor.require_person()
        counts = await self._credentials.health.counts(actor, soon=SOON)
        ages = await self.key_ages() if actor.may(Permission.SEE_KEYS) else []
        headline, sentence = _sentence(counts, ages)
        return Dashboard(
            username=actor.username,
            role=actor.role,
            credentials=counts,
            keys=ages,
            headline=headline,
            sentence=sentence,
            first_run=await self._first_run(actor, counts),
            bot=await self._bot_state.connection() if actor.may(Permission.SEE_KEYS) else None,
            backup=await self._last_backup() if actor.may(Permission.SEE_KEYS) else None,
            announcements=await self._announcements(),
        )

    async def _announcements(self) -> Sequence[tuple[KeyName, datetime]]:
        now = self._clock.now()
        async with self._storage.lookup() as uow:
            jobs = await uow.jobs.unfinished_of(JobKind.KEY_ROTATION)
        announced = [(KeyName(job.payload["name"]), job.run_at) for job in jobs if job.announced(now)]
        return sorted(announced, key=lambda each: each[1])

    async def _last_backup(self) -> LastBackup:
        async with self._storage.lookup() as uow:
            latest = await uow.backups.latest_verified()
        if latest is None or latest.verified_at is None:
            return LastBackup(verified_at=None, age_days=None)
        age = self._clock.now() - latest.created_at
        return LastBackup(
            verified_at=latest.verified_at,
            age_days=max(age.days, 0),
            rehearsed_at=latest.rehearsed_at,
            rehearsal=latest.rehearsal_note,
        )

    async def key_ages(self) -> Sequence[KeyAge]:
        """The age of every application key, for actors who may see keys and for metrics. Raises StorageError."""
        async with self._storage.lookup() as uow:
            schedules = await uow.schedules.all()
        return [self._age(self._keys.ring.keysets[name], schedules.get(name.value)) for name in APPLICATION_KEYS]

    def _age(self, keyset: Keyset, schedule: KeySchedule | None) -> KeyAge:
        now = self._clock.now()
        schedule = schedule or KeySchedule(name=keyset.name, rotation_days=self._rotation_days)
        due_at = schedule.due_at(keyset.since)
        return KeyAge(
            name=keyset.name,
            version=keyset.primary.version,
            fingerprint=keyset.primary.fingerprint,
            since=keyset.since,
            age_days=max((now - keyset.since).days, 0),
            due_at=due_at,
            due=now >= due_at,
        )

    async def _first_run(self, actor: Actor, counts: CredentialCounts) -> FirstRun | None:
        if actor.role is not Role.OWNER:
            return None
        async with self._storage.lookup() as uow:
            user = await uow.users.get(actor.user_id)
            guilds = await uow.bot_state.get(_BOT_GUILDS)
        steps = FirstRun(
            owner=True,
            bot_invited=guilds not in {None, "0"},
            discord_linked=user is not None and user.discord_id is not None,
            first_credential_stored=counts.live > 0,
            first_credential_used=counts.used,
        )
        return None if steps.complete else steps

    async def note_guilds(self, count: int) -> None:
        """Store in how many guilds the bot is; the bot calls this when it is ready and when that changes."""
        async with self._storage.write() as uow:
            await uow.bot_state.put(_BOT_GUILDS, str(count), self._clock.now())

    async def readiness(self) -> dict[str, bool]:
        """Whether the database can be read, the keys are confirmed and the lease is valid: ready when all are."""
        try:
            async with self._reserved.lookup() as uow:  # not behind the requests
                readable = await uow.keys.exists()
        except StorageError as error:
            self._failures.note("a look at the database for /readyz", error)
            readable = False
        return {"database": readable, "keys": self._keys.confirmed, "lease": self._keys.leased}


def _sentence(counts: CredentialCounts, ages: Sequence[KeyAge]) -> tuple[Headline, str]:
    """Return the most urgent thing to do, or that there is none."""
    due = [age for age in ages if age.due]
    if counts.unreadable:
        count = _counted(counts.unreadable, "credential")
        headline, sentence = Headline.UNREADABLE, f"{count} cannot be read: enter {_them(counts.unreadable)} again."
    elif counts.expired:
        have = "has" if counts.expired == 1 else "have"
        count = _counted(counts.expired, "credential")
        headline, sentence = Headline.EXPIRED, f"{count} {have} expired: replace {_them(counts.expired)}."
    elif due:
        oldest = min(due, key=lambda age: age.due_at)
        age = _counted(oldest.age_days, "day")
        headline, sentence = Headline.KEY_DUE, f"{oldest.name.value} is {age} old: its rotation is due."
    elif counts.expiring:
        expire = "expires" if counts.expiring == 1 else "expire"
        count, them = _counted(counts.expiring, "credential"), _them(counts.expiring)
        headline, sentence = Headline.EXPIRING, f"{count} {expire} within {SOON.days} days: replace {them} in time."
    elif not counts.live:
        headline, sentence = Headline.EMPTY, "No credential is stored yet: add your first."
    else:
        headline, sentence = Headline.WELL, _all_well(counts.live, len(ages))
    return headline, sentence


def _all_well(credentials: int, keys: int) -> str:
    subject = "Your credential" if credentials == 1 else f"All {credentials} credentials"
    if keys:
        subject += f" and {_counted(keys, 'application key')}"
    return f"{subject} {'is' if credentials == 1 and not keys else 'are'} well."


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _them(number: int) -> str:
    return "it" if number == 1 else "them"
