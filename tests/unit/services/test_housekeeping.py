"""The sweep drops what has expired, and nothing that has not."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from app.domain.errors import StorageBusy, StorageError
from app.domain.identity import Role, Session, User
from app.domain.instances import Instance
from app.domain.jobs import JOB_LEASE, Job, JobState
from app.services.housekeeping import BATCH, SWEEP_EVERY
from app.services.jobs import ClaimLost
from app.services.ports import IdempotentRequest
from tests.support.fakes import EPOCH, FakeClock, FakeStorage
from tests.support.fakes.identity import FakeSessionRepository
from tests.support.keyhall import Keyhall, member

A_MOMENT = timedelta(seconds=1)


def session(name: str, *, expires_at: datetime, revoked_at: datetime | None = None) -> Session:
    return Session(
        id=name,
        user_id="user-mia",
        token_version=1,
        device=None,
        address=None,
        created_at=EPOCH,
        last_seen_at=EPOCH,
        authenticated_at=EPOCH,
        expires_at=expires_at,
        revoked_at=revoked_at,
    )


async def test_sessions_go_30_days_after_they_ended(keyhall: Keyhall, storage: FakeStorage, clock: FakeClock) -> None:
    async with storage.write() as uow:
        await uow.users.add(User(id="user-mia", subject_id="s", username="mia", role=Role.MEMBER, created_at=EPOCH))
        await uow.sessions.add(session("expired", expires_at=EPOCH), cookie_hash=None)
        revoked = session("revoked", expires_at=EPOCH + timedelta(days=365), revoked_at=EPOCH)
        await uow.sessions.add(revoked, cookie_hash=None)
        await uow.sessions.add(session("alive", expires_at=EPOCH + timedelta(days=365)), cookie_hash=None)
    keyhall.advance(clock, timedelta(days=30))
    await keyhall.housekeeping.sweep()
    assert set(storage.tables.sessions) == {"expired", "revoked", "alive"}
    keyhall.advance(clock, A_MOMENT)
    await keyhall.housekeeping.sweep()
    assert set(storage.tables.sessions) == {"alive"}


async def test_attempts_go_after_a_day(keyhall: Keyhall, storage: FakeStorage, clock: FakeClock) -> None:
    async with storage.write() as uow:
        await uow.attempts.hit(["login/account/x"], EPOCH)
    keyhall.advance(clock, timedelta(days=1))
    await keyhall.housekeeping.sweep()
    assert len(storage.tables.attempts) == 1
    keyhall.advance(clock, A_MOMENT)
    await keyhall.housekeeping.sweep()
    assert storage.tables.attempts == {}


async def test_idempotency_keys_go_after_24_hours(keyhall: Keyhall, storage: FakeStorage, clock: FakeClock) -> None:
    request = IdempotentRequest(user_id="user-mia", key="k", mac=b"m", resource_id="r", created_at=EPOCH)
    async with storage.write() as uow:
        await uow.idempotency.add(request, lapsed_before=EPOCH)
    keyhall.advance(clock, timedelta(hours=24))
    await keyhall.housekeeping.sweep()
    assert len(storage.tables.idempotency) == 1
    keyhall.advance(clock, A_MOMENT)
    await keyhall.housekeeping.sweep()
    assert storage.tables.idempotency == {}


async def test_removed_credentials_go_after_7_days_with_their_history_and_live_ones_stay(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    mia = member(clock, "mia")
    kept = (await keyhall.credentials.add(mia, provider="openai", label="kept", secret="a secret")).view
    gone = (await keyhall.credentials.add(mia, provider="openai", label="gone", secret="a secret")).view
    for each in (kept, gone):
        await keyhall.credentials.replace(mia, each.id, "another secret")
    await keyhall.credentials.remove(mia, gone.id)
    keyhall.advance(clock, timedelta(days=7))
    await keyhall.housekeeping.sweep()
    assert set(storage.tables.credentials) == {kept.id, gone.id}
    keyhall.advance(clock, A_MOMENT)
    await keyhall.housekeeping.sweep()
    assert set(storage.tables.credentials) == {kept.id}
    assert {each.credential_id for each in storage.tables.history.values()} == {kept.id}


async def test_processes_are_forgotten_an_hour_after_their_lease_lapsed(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    process = Instance(id="i", kind="web", host="h", pid=1, started_at=EPOCH, lease_until=EPOCH, epochs={})
    async with storage.write() as uow:
        await uow.instances.register(process, timedelta(seconds=15))
    keyhall.advance(clock, timedelta(hours=1, seconds=15))
    await keyhall.housekeeping.sweep()
    assert set(storage.tables.instances) == {"i"}
    keyhall.advance(clock, A_MOMENT)
    await keyhall.housekeeping.sweep()
    assert storage.tables.instances == {}


async def test_a_sweep_that_cannot_write_says_so(keyhall: Keyhall, storage: FakeStorage) -> None:
    with storage.full(), pytest.raises(StorageError):
        await keyhall.housekeeping.sweep()


async def test_a_sweep_goes_in_batches_so_that_nobody_waits_for_all_of_it(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    async with storage.write() as uow:
        for number in range(2 * BATCH + 1):
            await uow.attempts.hit([f"login/{number}"], EPOCH)
    keyhall.advance(clock, timedelta(days=2))
    before = storage.commits
    assert not await keyhall.housekeeping.sweep()
    assert storage.tables.attempts == {}
    assert storage.commits - before == 12 + 2


async def test_a_kind_that_fails_does_not_keep_the_rest_from_being_swept(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> int:
        raise StorageBusy

    monkeypatch.setattr(FakeSessionRepository, "purge", fail)
    async with storage.write() as uow:
        await uow.attempts.hit(["login/account/x"], EPOCH)
    keyhall.advance(clock, timedelta(days=2))
    with pytest.raises(StorageBusy):
        await keyhall.housekeeping.sweep()
    assert storage.tables.attempts == {}


async def worked(keyhall: Keyhall) -> Job:
    """The housekeeping job after a worker has taken it; nobody else can meanwhile."""
    run = await keyhall.jobs.claim()
    assert run is not None
    assert await keyhall.jobs.claim() is None, "two workers sweep at a time"
    await keyhall.jobs.work(run, keyhall.housekeeping.carry_on)
    async with keyhall.storage.read() as uow:
        job = await uow.jobs.get(run.job.id)
    assert job is not None
    return job


async def test_one_worker_sweeps_at_a_time_and_again_after_ten_minutes(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    for _ in range(2):  # as two workers do
        await keyhall.housekeeping.watch()
    job = await worked(keyhall)
    assert (job.state, job.error, job.run_at) == (JobState.WAITING, None, clock.now() + SWEEP_EVERY)
    assert await keyhall.jobs.claim() is None
    keyhall.advance(clock, SWEEP_EVERY)
    with storage.full(), pytest.raises(StorageError):
        await worked(keyhall)


async def test_rows_that_are_left_are_swept_soon_and_other_jobs_have_their_turn_before(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(*_: Any, **__: Any) -> int:
        clock.advance(timedelta(seconds=4))
        return BATCH

    monkeypatch.setattr(FakeSessionRepository, "purge", slow)
    await keyhall.housekeeping.watch()
    before = clock.now()
    job = await worked(keyhall)
    assert job.run_at - before < timedelta(seconds=15)


async def test_a_sweep_whose_claim_was_lost_purges_nothing(
    keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    async with storage.write() as uow:
        await uow.attempts.hit(["login/account/x"], EPOCH)
    keyhall.advance(clock, timedelta(days=2))
    await keyhall.housekeeping.watch()
    run = await keyhall.jobs.claim()
    assert run is not None
    keyhall.advance(clock, 2 * JOB_LEASE)
    assert await keyhall.jobs.claim() is not None
    with pytest.raises(ClaimLost):
        await keyhall.housekeeping.carry_on(run)
    assert len(storage.tables.attempts) == 1


async def test_an_idempotency_key_that_lapsed_can_be_used_again_before_the_sweep(
    keyhall: Keyhall, clock: FakeClock
) -> None:
    mia = member(clock, "mia")
    first = await keyhall.credentials.add(mia, provider="openai", label="one", secret="a secret", idempotency_key="k")
    keyhall.advance(clock, timedelta(hours=24, seconds=1))
    second = await keyhall.credentials.add(mia, provider="openai", label="two", secret="a secret", idempotency_key="k")
    assert not second.replayed
    assert first.view.id != second.view.id
