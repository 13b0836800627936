"""What people may see of a change of a key: from which version to which, its steps, and the processes by name."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.domain.errors import NotFound
from app.domain.identity import Actor, Role, Source
from app.domain.jobs import Job, JobState
from app.domain.keys import KeyName, KeyState
from app.domain.rotation import Step
from app.services.rotation import RotationView, StepState
from tests.support.fakes import FakeClock, FakeRandomness, FakeStorage
from tests.support.keyhall import Keyhall, member, open_keyhall
from tests.support.samples import SECRET

AES, JWT = KeyName.AES_KEY, KeyName.JWT_SECRET_KEY


@pytest.fixture
def operator(clock: FakeClock) -> Actor:
    return member(clock, "operator", role=Role.OWNER, source=Source.CLI)


async def worked(keyhall: Keyhall, job: Job) -> None:
    run = await keyhall.jobs.claim(job.id)
    assert run is not None
    await keyhall.jobs.work(run, keyhall.rotation.job.carry_on)


def versions(view: RotationView) -> tuple[int | None, int | None]:
    before, after = view.before, view.after
    return before.version if before else None, after.version if after else None


def states(view: RotationView) -> dict[Step, StepState]:
    return dict(view.steps)


async def test_a_rotation_is_seen_before_it_begins_and_after_its_end(
    keyhall: Keyhall, clock: FakeClock, operator: Actor
) -> None:
    await keyhall.credentials.add(operator, provider="openai", label="main", secret=SECRET, guild_id="1")
    job = await keyhall.rotation.rotate(operator, AES)
    view = await keyhall.rotation_watch.look(operator, job.id)
    assert (view.name, view.action, view.going, view.announced) == (AES, "rotate", True, False)
    assert (versions(view), view.processes, view.rows) == ((1, None), (), None)
    assert [each for each, _ in view.steps] == [
        *(Step.PREPARE, Step.ANNOUNCED, Step.PROMOTED, Step.REENCRYPT, Step.VERIFY, Step.DONE)
    ]
    assert list(states(view).values()) == [StepState.NOW, *[StepState.AHEAD] * 5]

    await worked(keyhall, job)
    view = await keyhall.rotation_watch.look(operator, job.id)
    assert (view.job.state, view.going, versions(view), view.rows) == (JobState.DONE, False, (1, 2), (1, 1))
    assert set(states(view).values()) == {StepState.DONE}

    keyhall.advance(clock, timedelta(seconds=1))
    again = await keyhall.rotation.rotate(operator, AES)
    await worked(keyhall, again)
    assert versions(await keyhall.rotation_watch.look(operator, again.id)) == (2, 3)
    assert versions(await keyhall.rotation_watch.look(operator, job.id)) == (1, 2), "what it was stays to be seen"


async def test_processes_are_named_until_each_has_loaded_the_version(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    await keyhall.instances.refresh()
    other = await open_keyhall(storage, clock, FakeRandomness(1))
    await other.instances.refresh()
    job = await keyhall.rotation.rotate(operator, JWT)
    run = await keyhall.jobs.claim(job.id)
    assert run is not None
    await keyhall.rotation.job._prepare(run, JWT)
    view = await keyhall.rotation_watch.look(operator, job.id)
    assert states(view)[Step.ANNOUNCED] is StepState.NOW
    assert versions(view) == (1, 2)
    assert view.after is not None
    assert view.after.state is KeyState.PRE_ACTIVATION
    assert sorted(loaded for _, loaded in view.processes) == [False, True]
    assert all(name.startswith("test ") for name, _ in view.processes)
    listed = next(each for each in await keyhall.key_inspection.list(operator) if each.name is JWT)
    assert listed.processes == list(view.processes)
    await other.instances.refresh()
    view = await keyhall.rotation_watch.look(operator, job.id)
    assert [loaded for _, loaded in view.processes] == [True, True]


async def test_a_revocation_begins_behind_the_promotion_and_a_failure_shows_where(
    keyhall: Keyhall, storage: FakeStorage, operator: Actor
) -> None:
    added = await keyhall.credentials.add(operator, provider="openai", label="main", secret=SECRET, guild_id="1")
    record = storage.tables.credentials[added.view.id]
    object.__setattr__(record, "encrypted_value", record.encrypted_value[:-1])
    job = await keyhall.rotation.revoke(operator, AES, 1)
    view = await keyhall.rotation_watch.look(operator, job.id)
    assert (view.action, versions(view)) == ("revoke", (1, 2))
    assert [each for each, _ in view.steps] == [Step.PROMOTED, Step.REENCRYPT, Step.VERIFY, Step.DONE]
    await worked(keyhall, job)
    view = await keyhall.rotation_watch.look(operator, job.id)
    assert view.job.state is JobState.FAILED
    assert states(view)[Step.VERIFY] is StepState.DONE
    assert states(view)[Step.DONE] is StepState.FAILED, "a version had to stay"


async def test_an_announced_rotation_waits_and_one_that_is_cancelled_is_over(
    keyhall: Keyhall, clock: FakeClock, operator: Actor
) -> None:
    job = await keyhall.rotation.rotate(operator, AES, at=clock.now() + timedelta(days=3))
    view = await keyhall.rotation_watch.look(operator, job.id)
    assert (view.announced, view.going, versions(view)) == (True, False, (1, None))
    await keyhall.rotation.cancel(operator, AES)
    view = await keyhall.rotation_watch.look(operator, job.id)
    assert (view.announced, view.going, versions(view)) == (False, False, (None, None))
    assert set(states(view).values()) == {StepState.AHEAD}


async def test_however_many_watch_the_queue_is_read_once_a_second(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, operator: Actor
) -> None:
    jobs = [await keyhall.rotation.rotate(operator, name) for name in (AES, JWT)]
    watch = keyhall.rotation_watch
    await watch.watch(operator, jobs[0].id)
    read = storage.units
    for _ in range(20):
        for job in jobs:
            assert (await watch.watch(operator, job.id)).job.id == job.id
    assert storage.units == read
    clock.advance(timedelta(seconds=1))
    await watch.watch(operator, jobs[1].id)
    assert storage.units == read + 1

    await worked(keyhall, jobs[0])
    clock.advance(timedelta(seconds=1))
    assert (await watch.watch(operator, jobs[0].id)).job.state is JobState.DONE


async def test_other_jobs_are_not_to_be_found_here(keyhall: Keyhall, storage: FakeStorage, operator: Actor) -> None:
    await keyhall.rotation.watch_ages()
    other = next(iter(storage.tables.jobs.values()))
    for look in (keyhall.rotation_watch.look, keyhall.rotation_watch.watch):
        with pytest.raises(NotFound):
            await look(operator, getattr(other, "job", other).id)
