"""Backups that are made by themselves: once for each moment of the schedule, and deleted when no rule keeps them."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.domain.audit import Action, Result
from app.domain.backup_plan import BackupPlan, Keep
from app.domain.errors import BackupNotWritten, Forbidden, NotConfigured, ReauthenticationRequired
from app.domain.identity import Role
from app.domain.jobs import Job, JobKind, JobState
from app.services.backup.service import following
from tests.support.fakes import FakeClock, FakeRandomness, FakeStorage
from tests.support.keyhall import Keyhall, known, member, open_keyhall

DIRECTORY = Path("/backups")
RECIPIENT = "age1recipient"
DAILY = "0 3 * * *"
DAY = timedelta(days=1)


def plan(schedule: str | None = DAILY, keep: str = "2", recipient: str | None = RECIPIENT) -> BackupPlan:
    return BackupPlan(
        directory=DIRECTORY,
        recipient=recipient,
        schedule=schedule,
        keep=Keep.parse(keep),
    )


@pytest.fixture
async def keyhall(storage: FakeStorage, clock: FakeClock) -> Keyhall:
    return await open_keyhall(storage, clock, FakeRandomness(), backup_plan=plan())


async def work(keyhall: Keyhall) -> Job | None:
    """Do the backup that is due, and the rehearsals before it, as a worker does."""
    run = await keyhall.jobs.claim()
    while run is not None and run.job.kind is JobKind.BACKUP_REHEARSAL:
        await keyhall.jobs.work(run, keyhall.services.rehearsal.carry_on)
        run = await keyhall.jobs.claim()
    if run is None:
        return None
    await keyhall.jobs.work(run, keyhall.backups.carry_on)
    async with keyhall.storage.read() as uow:
        return await uow.jobs.get(run.job.id)


def unfinished(storage: FakeStorage) -> list[Job]:
    return [each for each in storage.tables.jobs.values() if each.kind is JobKind.BACKUP and not each.state.over]


async def test_several_processes_queue_one_backup_for_the_next_moment(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    for _ in range(3):
        await keyhall.backups.watch()
    (job,) = unfinished(storage)
    assert job.run_at == following(DAILY, clock.now())
    assert await work(keyhall) is None


async def test_a_backup_is_made_at_its_time_verified_and_recorded(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    await keyhall.backups.watch()
    keyhall.advance(clock, DAY)
    done = await work(keyhall)
    assert done is not None
    assert done.state is JobState.DONE
    (backup,) = storage.tables.backups.values()
    assert (backup.managed, backup.credentials, backup.verified_at) == (True, 3, clock.now())
    assert Path(backup.path).parent == DIRECTORY
    assert Path(backup.path) in keyhall.backup_files.headers
    assert Path(backup.path).name in done.progress.note
    assert (Action.BACKUP_CREATED, Result.OK) in storage.trail()


async def test_backups_that_were_missed_are_made_up_for_by_one(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    await keyhall.backups.watch()
    keyhall.advance(clock, 10 * DAY)
    await keyhall.backups.watch()
    assert await work(keyhall)
    await keyhall.backups.watch()
    assert await work(keyhall) is None
    assert len(storage.tables.backups) == 1
    (following,) = unfinished(storage)
    assert clock.now() < following.run_at <= clock.now() + DAY


async def test_another_schedule_plans_anew(keyhall: Keyhall, storage: FakeStorage, clock: FakeClock) -> None:
    await keyhall.backups.watch()
    for schedule, jobs in (("0 * * * *", 1), (None, 0)):
        other = await open_keyhall(storage, clock, FakeRandomness(7), backup_plan=plan(schedule))
        await other.backups.watch()
        await other.backups.watch()
        assert len(unfinished(storage)) == jobs
        assert all(each.payload["schedule"] == "0 * * * *" for each in unfinished(storage))


async def test_a_backup_that_fails_is_tried_again_and_says_why(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    await keyhall.backups.watch()
    keyhall.advance(clock, DAY)
    keyhall.backup_files.refusing = BackupNotWritten("the disk is full")
    failed = await work(keyhall)
    assert failed is not None
    assert (failed.state, failed.error) == (JobState.WAITING, "the disk is full")
    assert "failed and will be tried again" in caplog.text
    assert not storage.tables.backups
    keyhall.backup_files.refusing = None
    keyhall.advance(clock, timedelta(minutes=1))
    assert await work(keyhall)
    assert len(storage.tables.backups) == 1


async def test_a_job_that_is_done_again_replaces_its_own_file(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker died after the row was written: the next one has the same job, and makes the same file."""
    await keyhall.backups.watch()
    keyhall.advance(clock, DAY)

    async def dies(*_: Any) -> int:
        raise BackupNotWritten("died")

    with monkeypatch.context() as patched:
        patched.setattr(keyhall.backups, "_delete_surplus", dies)
        await work(keyhall)
    keyhall.advance(clock, timedelta(minutes=1))
    await work(keyhall)
    assert len(storage.tables.backups) == len(keyhall.backup_files.headers) == 1


async def test_without_a_recipient_a_job_fails_with_the_remedy(storage: FakeStorage, clock: FakeClock) -> None:
    before = await open_keyhall(storage, clock, FakeRandomness(), backup_plan=plan())
    await before.backups.watch()
    before.advance(clock, DAY)
    after = await open_keyhall(storage, clock, FakeRandomness(3), backup_plan=plan(recipient=None))
    failed = await work(after)
    assert failed is not None
    assert failed.state is JobState.FAILED
    assert "BACKUP_RECIPIENT" in (failed.error or "")


# ---------------------------------------------------------------------------------------------------------------------
# Which are kept
# ---------------------------------------------------------------------------------------------------------------------


async def make(keyhall: Keyhall, clock: FakeClock, count: int) -> list[datetime]:
    moments = []
    for _ in range(count):
        await keyhall.backups.watch()
        keyhall.advance(clock, DAY)
        assert await work(keyhall)
        moments.append(clock.now())
    return moments


async def test_the_oldest_are_deleted_with_their_files(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    moments = await make(keyhall, clock, 5)
    assert sorted(each.created_at for each in storage.tables.backups.values()) == moments[-2:]
    assert {Path(each.path) for each in storage.tables.backups.values()} == keyhall.backup_files.headers.keys()
    assert storage.trail().count((Action.BACKUP_DELETED, Result.OK)) == 3


async def test_the_latest_verified_one_stays_however_old(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    (good,) = await make(keyhall, clock, 1)
    keyhall.backup_files.well = False
    moments = await make(keyhall, clock, 4)
    assert sorted(each.created_at for each in storage.tables.backups.values()) == [good, *moments[-2:]]


async def test_only_backups_that_keyhall_made_in_its_directory_are_deleted(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    elsewhere = await open_keyhall(
        storage, clock, FakeRandomness(5), backup_plan=BackupPlan(directory=Path("/other"), recipient=RECIPIENT)
    )
    await elsewhere.backups.request(known(storage, member(clock, "ada", role=Role.OWNER)))
    assert await work(elsewhere)
    await make(keyhall, clock, 3)
    assert len(elsewhere.backup_files.headers) == 1


async def test_a_file_that_cannot_be_deleted_is_listed_and_tried_again(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refusing(path: Path) -> bool:
        raise BackupNotWritten(f"{path} cannot be deleted")

    with monkeypatch.context() as patched:
        patched.setattr(keyhall.backup_files, "remove", refusing)
        await make(keyhall, clock, 4)
    assert len(storage.tables.backups) == 4
    await make(keyhall, clock, 1)
    assert len(storage.tables.backups) == 2


# ---------------------------------------------------------------------------------------------------------------------
# On request
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN])
async def test_owners_and_admins_have_one_made(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, role: Role
) -> None:
    actor = known(storage, member(clock, "ada", role=role))
    job = await keyhall.backups.request(actor)
    assert (await keyhall.backups.request(actor)).id == job.id
    assert storage.trail().count((Action.BACKUP_REQUESTED, Result.OK)) == 1
    assert await work(keyhall)
    page = await keyhall.backups.page(actor)
    assert [each.present for each in page.items] == [True]
    keyhall.backup_files.headers.clear()
    assert [each.present for each in (await keyhall.backups.page(actor)).items] == [False]


async def test_a_request_needs_the_right_and_a_recent_proof(keyhall: Keyhall, clock: FakeClock) -> None:
    for role in (Role.AUDITOR, Role.MEMBER):
        with pytest.raises(Forbidden):
            await keyhall.backups.request(member(clock, "eve", role=role))
    with pytest.raises(Forbidden):
        await keyhall.backups.page(member(clock, "eve"))
    await keyhall.backups.page(member(clock, "eve", role=Role.AUDITOR))
    owner = member(clock, "ada", role=Role.OWNER)
    keyhall.advance(clock, timedelta(minutes=11))
    with pytest.raises(ReauthenticationRequired):
        await keyhall.backups.request(owner)


async def test_a_request_without_a_recipient_says_which_setting_is_missing(
    storage: FakeStorage, clock: FakeClock
) -> None:
    keyhall = await open_keyhall(storage, clock, FakeRandomness(), backup_plan=plan(None, recipient=None))
    with pytest.raises(NotConfigured, match="BACKUP_RECIPIENT"):
        await keyhall.backups.request(member(clock, "ada", role=Role.OWNER))


async def test_the_dashboard_shows_the_last_verified_backup(keyhall: Keyhall, clock: FakeClock) -> None:
    owner = member(clock, "ada", role=Role.OWNER)
    shown = (await keyhall.dashboard.dashboard(owner)).backup
    assert shown is not None
    assert shown.verified_at is None
    (made,) = await make(keyhall, clock, 1)
    keyhall.advance(clock, 2 * DAY)
    shown = (await keyhall.dashboard.dashboard(owner)).backup
    assert shown is not None
    assert (shown.verified_at, shown.age_days) == (made, 2)
    assert (await keyhall.dashboard.dashboard(member(clock, "mia"))).backup is None
