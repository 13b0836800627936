"""The dashboard (the Hall): the first page that people see, and whether this process is ready to serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from app.domain.audit import Action, AuditFilter
from app.domain.credentials import SOON
from app.domain.errors import StorageError
from app.domain.identity import Actor, Permission, Role
from app.domain.jobs import JobKind
from app.domain.keys import APPLICATION_KEYS, KeyName, KeySchedule, Keyset
from app.services.bot_state import BotConnection, BotStateService
from app.services.credentials import CredentialCounts, CredentialService, ExpiringCredential, Usage
from app.services.failures import FailureLog
from app.services.keys import KeyManagementService
from app.services.ports import Clock, Storage

_BOT_GUILDS: Final = "guilds"
_FIRST_RUN: Final = "first_run"


class Headline(StrEnum):
    """The subject of the dashboard's one sentence, most urgent first."""

    UNREADABLE = "unreadable"
    EXPIRED = "expired"
    REFUSED = "refused"
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
    due_soon: bool


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
    """The steps of the first run, in their order, and whether each is done."""

    bot_invited: bool
    discord_linked: bool
    master_key_printed: bool
    first_credential_stored: bool
    first_credential_used: bool

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return all(astuple(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """``expiring`` and ``keys`` are in the order of their dates.

    ``keys`` is empty for actors who may not see them; ``bot`` and ``backup`` are None for those. ``first_run`` is for
    the owner, None once it is complete or hidden. ``announcements`` are for everybody: keys of which a rotation is
    announced, with the time at which it begins, the next one first.
    """

    username: str
    role: Role
    credentials: CredentialCounts
    expiring: Sequence[ExpiringCredential]
    usage: Usage
    keys: Sequence[KeyAge]
    headline: Headline
    first_run: FirstRun | None
    bot: BotConnection | None
    backup: LastBackup | None
    announcements: Sequence[tuple[KeyName, datetime]]

    @property
    def longest_due(self) -> KeyAge | None:
        """The key whose rotation has been due for longest."""
        return next((key for key in self.keys if key.due), None)


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
        overview = await self._credentials.overview.of(actor)
        sees_keys = actor.may(Permission.SEE_KEYS)
        ages = await self.key_ages() if sees_keys else []
        return Dashboard(
            username=actor.username,
            role=actor.role,
            credentials=overview.counts,
            expiring=overview.expiring,
            usage=overview.usage,
            keys=ages,
            headline=_headline(overview.counts, ages),
            first_run=await self._first_run(actor, overview.counts),
            bot=await self._bot_state.connection() if sees_keys else None,
            backup=await self._last_backup() if sees_keys else None,
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
        """The age of every application key, by due date: for actors who may see keys, and for metrics.

        Raises StorageError.
        """
        async with self._storage.lookup() as uow:
            schedules = await uow.schedules.all()
        ages = [self._age(self._keys.ring.keysets[name], schedules.get(name.value)) for name in APPLICATION_KEYS]
        return sorted(ages, key=lambda age: age.due_at)

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
            due_soon=now < due_at <= now + SOON,
        )

    # -- the first run -------------------------------------------------------------------------------------------------

    async def _first_run(self, actor: Actor, counts: CredentialCounts) -> FirstRun | None:
        """The steps, for the owner; once all were done, none of them comes back."""
        if not actor.may(Permission.MANAGE_KEYS):
            return None
        printed = AuditFilter(
            action=Action.MASTER_KEY_PRINTED, about=("master_key", self._keys.ring.manifest.master_key_id)
        )
        async with self._storage.read() as uow:
            if await uow.bot_state.get(_FIRST_RUN) is not None:
                return None
            user = await uow.users.get(actor.user_id)
            guilds = await uow.bot_state.get(_BOT_GUILDS)
            printings = await uow.audit.page(printed, after=None, limit=1, oldest_first=False)
        steps = FirstRun(
            bot_invited=guilds not in {None, "0"},
            discord_linked=user is not None and user.discord_id is not None,
            master_key_printed=bool(printings),
            first_credential_stored=counts.live > 0,
            first_credential_used=counts.used,
        )
        if not steps.complete:
            return steps
        await self._end_first_run("complete")
        return None

    async def hide_first_run(self, actor: Actor) -> None:
        """Show the steps of the first run no more, to no owner of this install. Raises Forbidden."""
        actor.require(Permission.MANAGE_KEYS)
        await self._end_first_run("hidden")

    async def _end_first_run(self, how: str) -> None:
        async with self._storage.write() as uow:
            await uow.bot_state.put(_FIRST_RUN, how, self._clock.now())

    async def note_guilds(self, count: int) -> None:
        """Store in how many guilds the bot is; the bot calls this when it is ready and when that changes."""
        async with self._storage.write() as uow:
            await uow.bot_state.put(_BOT_GUILDS, str(count), self._clock.now())

    # -- for monitors --------------------------------------------------------------------------------------------------

    async def readiness(self) -> dict[str, bool]:
        """Whether the database can be read, the keys are confirmed and the lease is valid: ready when all are."""
        try:
            async with self._reserved.lookup() as uow:  # not behind the requests
                readable = await uow.keys.exists()
        except StorageError as error:
            self._failures.note("a look at the database for /readyz", error)
            readable = False
        return {"database": readable, "keys": self._keys.confirmed, "lease": self._keys.leased}


def _headline(counts: CredentialCounts, ages: Sequence[KeyAge]) -> Headline:
    """The most urgent thing to do, or that there is none."""
    found = (
        (counts.unreadable, Headline.UNREADABLE),
        (counts.expired, Headline.EXPIRED),
        (counts.refused, Headline.REFUSED),
        (any(age.due for age in ages), Headline.KEY_DUE),
        (counts.expiring, Headline.EXPIRING),
        (not counts.live, Headline.EMPTY),
    )
    return next((headline for holds, headline in found if holds), Headline.WELL)
