"""A fifth of all units of work fails while credentials and keys change: every error is typed, and nothing is lost."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from sqlalchemy import and_, update

from app.bootstrap.keys import open_keys
from app.bootstrap.services import open_services
from app.domain.credentials import HISTORY_KEPT
from app.domain.errors import KeyStateConflict, NotReady, OutcomeUnknown, StorageError
from app.domain.jobs import JobState
from app.domain.keys import APPLICATION_KEYS, KeyName, KeyState
from app.domain.rotation import Step
from app.infrastructure.database.schema import jobs
from app.services import instances
from app.services.rotation import passes
from tests.support.flaky import Failure, FlakyStorage
from tests.support.installs import Place
from tests.support.rotations import (
    expire_tokens,
    follow,
    lapse,
    require_fingerprints,
    require_one_primary,
    rotations,
    stored,
    under,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from app.domain.identity import Actor
    from app.domain.jobs import Job
    from app.infrastructure.database.unit_of_work import SqlStorage
    from app.services import Services

RATE = 0.2
MEMBERS = 3
WORKERS = 2
AWAY = (StorageError, NotReady)
"""What a caller hears while the database is away; anything else that is raised here ends the test."""
REST = 0.03
"""Seconds between what somebody does and what they do next."""


@pytest.fixture
def place(engine_url: str, tmp_path: Path) -> Place:
    return Place(engine_url, tmp_path / "data")


@pytest.fixture
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches, and no second of rest after a failure: otherwise most of the time nothing would happen here."""
    monkeypatch.setattr(passes, "BATCH", 50)
    monkeypatch.setattr(instances, "CONFIRM_EVERY_SECONDS", 0.05)


@asynccontextmanager
async def _flaky_services(place: Place, seed: int) -> AsyncIterator[tuple[Services, FlakyStorage]]:
    """Everything over a storage that does not fail yet."""
    settings = place.load()
    async with open_keys(settings, may_create=True) as opened:
        flaky = FlakyStorage(opened.storage, seed)
        opened.keys._storage = flaky
        sql = cast("SqlStorage", flaky)
        async with open_services(settings, replace(opened, storage=sql, reserved=sql), kind="test") as services:
            try:
                yield services, flaky
            finally:
                flaky.rate = 0.0


# ---------------------------------------------------------------------------------------------------------------------
# Members
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Known:
    """A credential as its member knows it: what was acknowledged, and what may have come of each try since."""

    label: str
    id: str | None = None
    secrets: list[str] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    """Stored, or possibly stored: whoever tried heard that nobody knows."""


class Member:
    """Adds and replaces, and keeps account of it."""

    def __init__(self, services: Services, actor: Actor, guild_id: str, seed: int) -> None:
        self._services = services
        self._actor = actor
        self._guild_id = guild_id
        self._random = random.Random(seed)
        self._made = 0
        self.known: list[Known] = []
        self.refused = 0

    async def change_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with_id = [each for each in self.known if each.id is not None]
            try:
                await self._services.instances.catch_up()
                if len(self.known) < 4 or (len(self.known) < 12 and self._random.random() < 0.1):
                    await self._add()
                elif with_id:
                    await self._replace(self._random.choice(with_id))
            except AWAY:
                self.refused += 1
            await asyncio.sleep(REST)

    async def _add(self) -> None:
        known = Known(label=f"number {len(self.known)}")
        self.known.append(known)
        secret = self._secret()
        with _unless_refused(known, secret):
            added = await self._services.credentials.add(
                self._actor, provider="openai", label=known.label, secret=secret, guild_id=self._guild_id
            )
        known.id = added.view.id
        known.secrets.append(secret)

    async def _replace(self, known: Known) -> None:
        secret = self._secret()
        with _unless_refused(known, secret):
            await self._services.credentials.replace(self._actor, str(known.id), secret)
        known.secrets.append(secret)

    def _secret(self) -> str:
        self._made += 1
        return f"sk-proj-{self._guild_id}-{self._made}-4f9aTq7ZbX2mLw8vKd3Yc6Rn"


@contextmanager
def _unless_refused(known: Known, secret: str) -> Iterator[None]:
    """A try; one that was refused for certain must leave nothing."""
    known.tried.add(secret)
    try:
        yield
    except OutcomeUnknown:
        raise
    except AWAY:
        known.tried.remove(secret)
        raise


def _require_kept(known: Known, found: dict[str, list[str]], id_: str) -> None:
    """The last that was acknowledged is in force, or one that was tried after it; those before are in the history."""
    there = found[id_]
    assert set(there) <= known.tried
    assert len(there) == len(set(there))
    if known.secrets:
        kept = [secret for secret in there if secret in known.secrets]
        assert kept == known.secrets[-len(kept) :]
        assert len(there) == HISTORY_KEPT + 1 or kept == known.secrets


# ---------------------------------------------------------------------------------------------------------------------
# Keepers of the keys
# ---------------------------------------------------------------------------------------------------------------------


class Keeper:
    """Changes keys one after the other, each until it is made."""

    def __init__(self, services: Services, sound: SqlStorage, actor: Actor) -> None:
        self._services = services
        self._sound = sound
        self._actor = actor
        self._claims: set[str] = set()
        self.refused = 0

    async def change_everything(self) -> None:
        rotation, actor = self._services.rotation, self._actor
        for name in (KeyName.AES_KEY, KeyName.API_SECRET_KEY, KeyName.JWT_SECRET_KEY, KeyName.ENCRYPTION_KEY):
            await self._made(lambda name=name: rotation.rotate(actor, name))  # type: ignore[misc]
        await self._made(lambda: rotation.rollback(actor, KeyName.AES_KEY))
        await self._made(lambda: rotation.rotate(actor, KeyName.AES_KEY))
        await self._made(lambda: rotation.revoke(actor, KeyName.AES_KEY, 1))
        await self._made(lambda: rotation.rollback(actor, KeyName.API_SECRET_KEY))
        # The version that was just revoked is still in use: two courses see to it, one beside the other.
        primary = self._services.keys.ring.keysets[KeyName.AES_KEY].primary.version
        await asyncio.gather(
            self._made(lambda: rotation.revoke(actor, KeyName.AES_KEY, primary)),
            self._made(
                lambda: rotation.retire(actor, KeyName.AES_KEY, primary), not_yet="is active", done="is retired"
            ),
        )

    async def _made(
        self,
        request: Callable[[], Awaitable[Job]],
        *,
        not_yet: str = "is being changed already",
        done: str = "cannot become compromised",
    ) -> None:
        """Ask until it is granted, and wait until it is done.

        ``not_yet`` and ``done`` are what a refusal says that is to be asked again, and one after an answer was lost.
        """
        job: Job | None = None
        while job is None or not await self._is_done(job):
            await asyncio.sleep(REST)
            try:
                await self._services.instances.catch_up()
                job = job or await request()
            except AWAY:
                self.refused += 1
            except KeyStateConflict as conflict:
                if done in str(conflict):
                    return
                if not_yet not in str(conflict):
                    raise

    async def _is_done(self, job: Job) -> bool:
        async with self._sound.read() as uow:
            found = await uow.jobs.get(job.id)
            unfinished = await uow.jobs.unfinished_of(job.kind)
        assert found is not None
        assert found.state is not JobState.FAILED, found.error
        for name in APPLICATION_KEYS:
            on_the_way = [
                each
                for each in unfinished
                if each.payload["name"] == name and each.progress.step in {"", Step.PREPARE, Step.ANNOUNCED}
            ]
            assert len(on_the_way) <= 1
            require_one_primary(self._services, name)
        return found.state.over or found.progress.step == Step.OVERLAP

    async def work(self) -> None:
        """Do jobs. The pauses between attempts pass at once, and so do claims that nobody knows to have."""
        services = self._services
        while True:
            run = None
            try:
                await services.instances.catch_up()
                run = await services.jobs.claim()
                if run is not None:
                    self._claims.add(run._claim)
                    await services.jobs.work(run, services.rotation.job.carry_on)
            except AWAY:
                self.refused += 1
            finally:
                self._claims -= {run._claim} if run else set()
            await self._let_time_pass()
            await asyncio.sleep(REST)

    async def _let_time_pass(self) -> None:
        forgotten = and_(jobs.c.state == JobState.RUNNING, jobs.c.claim.not_in(self._claims))
        failed = and_(jobs.c.state == JobState.WAITING, jobs.c.error.is_not(None))
        async with self._sound._database.write() as connection:
            await connection.change(update(jobs).where(forgotten).values(lease_until=jobs.c.created_at))
            await connection.change(update(jobs).where(failed).values(run_at=jobs.c.created_at))


async def _through_errors(place: Place, seed: int) -> None:
    async with _flaky_services(place, seed) as (services, flaky):
        operator = await services.identity.operator()
        members = [
            Member(services, await services.identity.operator_for(guild_id=guild), guild, seed)
            for guild in (f"90000000000000000{number}" for number in range(1, MEMBERS + 1))
        ]
        keeper = Keeper(services, cast("SqlStorage", flaky._storage), operator)
        stop = asyncio.Event()
        flaky.rate = RATE
        async with asyncio.timeout(250), asyncio.TaskGroup() as tasks:
            writing = [tasks.create_task(each.change_until(stop)) for each in members]
            working = [tasks.create_task(keeper.work()) for _ in range(WORKERS)]
            await keeper.change_everything()
            stop.set()
            await asyncio.wait(writing)
            flaky.rate = 0.0
            for each in working:
                each.cancel()
        assert set(flaky.failed) == set(Failure)
        assert sum(flaky.failed.values()) >= 50
        assert keeper.refused
        assert all(each.refused for each in members)
    await lapse(place)
    await _require_everything_completes(place, members)


async def _require_everything_completes(place: Place, members: list[Member]) -> None:
    """Once the storage is sound again, in a new process."""
    async with place.services() as services:
        await expire_tokens(place, services)
        await place.execute("UPDATE jobs SET run_at = created_at WHERE state = 'waiting'")
        for job in await rotations(services):
            if not job.state.over:
                await follow(services, job)
        assert {(job.state, job.error) for job in await rotations(services)} == {(JobState.DONE, None)}
        await services.keys.reload()
        for name in APPLICATION_KEYS:
            require_one_primary(services, name)
            for each in services.keys.ring.keysets[name]:
                retires = name is not KeyName.ENCRYPTION_KEY and each.state in {
                    KeyState.DEACTIVATED,
                    KeyState.COMPROMISED,
                }
                assert (each.retired_at is not None) == retires, (name, each.version)
        primary = services.keys.ring.keysets[KeyName.AES_KEY].primary.version
        assert await under(services) == {primary}
        await require_fingerprints(services)
        operator = await services.identity.operator()
        verified = services.credentials.health.verify_all(operator)
        assert not [each async for step in verified for each in step.unreadable]
        found = await stored(services)
        async with services.credentials._storage.read() as uow:
            records = await uow.credentials.page(after=None, limit=10_000)
        labels = {each.id: (each.owner.id, each.label) for each in records}
    for member in members:
        ids = {label: id_ for id_, (owner, label) in labels.items() if owner == member._guild_id}
        for known in member.known:
            assert known.id is None or ids[known.label] == known.id
            if known.label in ids:
                _require_kept(known, found, ids[known.label])
        assert ids.keys() <= {known.label for known in member.known}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_a_fifth_of_all_units_of_work_may_fail_and_nothing_is_lost(
    place: Place, seed: int, in_haste: None
) -> None:
    await _through_errors(place, seed)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(100, 115))
async def test_a_fifth_of_all_units_of_work_may_fail_as_many_seeds_have_it_and_nothing_is_lost(
    place: Place, seed: int, in_haste: None
) -> None:
    await _through_errors(place, seed)
