"""The sweep drops what has expired, and nothing that has not."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from app.domain.errors import StorageError
from app.domain.identity import Role, Session, User
from app.domain.instances import Instance
from app.services.ports import IdempotentRequest
from tests.support.fakes import EPOCH, FakeClock, FakeStorage
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
        await uow.attempts.hit("login/account/x", EPOCH)
    keyhall.advance(clock, timedelta(days=1))
    await keyhall.housekeeping.sweep()
    assert len(storage.tables.attempts) == 1
    keyhall.advance(clock, A_MOMENT)
    await keyhall.housekeeping.sweep()
    assert storage.tables.attempts == {}


async def test_idempotency_keys_go_after_24_hours(keyhall: Keyhall, storage: FakeStorage, clock: FakeClock) -> None:
    request = IdempotentRequest(user_id="user-mia", key="k", mac=b"m", resource_id="r", created_at=EPOCH)
    async with storage.write() as uow:
        await uow.idempotency.add(request)
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
