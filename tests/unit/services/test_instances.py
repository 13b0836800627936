"""What the keeper of the lease does when the change feed tells it of something."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from app.domain.instances import LEASE_SECONDS
from app.domain.keys import KeyName
from app.services.instances import InstanceService
from tests.support.fakes import FakeChangeFeed, FakeClock, FakeStorage
from tests.support.keyhall import Keyhall


@pytest.fixture
def feed() -> FakeChangeFeed:
    return FakeChangeFeed()


@pytest.fixture
def instances(keyhall: Keyhall, feed: FakeChangeFeed, monkeypatch: pytest.MonkeyPatch) -> InstanceService:
    monkeypatch.setattr("app.services.instances.CONFIRM_EVERY_SECONDS", 3600)
    return InstanceService(
        storage=keyhall.storage,
        keys=keyhall.keys,
        feed=feed,
        clock=keyhall.clock,
        randomness=keyhall.randomness,
        kind="test",
    )


async def _settled() -> None:
    for _ in range(20):  # more turns than the keeper's two units of work take
        await asyncio.sleep(0)


async def test_new_keys_are_taken_up_and_acknowledged_when_the_feed_tells(
    instances: InstanceService, feed: FakeChangeFeed, keyhall: Keyhall, storage: FakeStorage
) -> None:
    async with instances.present():
        await keyhall.rotate(KeyName.JWT_SECRET_KEY)
        await _settled()
        assert keyhall.keys.primary(KeyName.JWT_SECRET_KEY).version == 1
        feed.announce()
        await _settled()
        assert keyhall.keys.primary(KeyName.JWT_SECRET_KEY).version == 2
        assert storage.tables.instances[instances.id].epochs == keyhall.keys.epochs


async def test_somebody_elses_commit_costs_a_read_and_no_commit_of_our_own(
    instances: InstanceService, feed: FakeChangeFeed, storage: FakeStorage
) -> None:
    async with instances.present():
        async with storage.write():
            pass
        commits, units = storage.commits, storage.units
        feed.announce()
        await _settled()
        assert storage.units == units + 1
        assert storage.commits == commits


async def test_a_request_does_not_wait_for_the_renewal_of_the_lease(
    instances: InstanceService, feed: FakeChangeFeed, keyhall: Keyhall, storage: FakeStorage
) -> None:
    """The renewal waits for whoever holds the write lock, in this process or in another one."""
    async with instances.present():
        await keyhall.rotate(KeyName.JWT_SECRET_KEY)
        async with storage._writer:
            feed.announce()
            await _settled()
            storage.commits += 1  # somebody else's, after which the keys have to be confirmed
            request = asyncio.create_task(instances.catch_up())
            await _settled()
            assert request.done()
            await request
            assert keyhall.keys.primary(KeyName.JWT_SECRET_KEY).version == 2
            assert storage.tables.instances[instances.id].epochs != keyhall.keys.epochs
        await _settled()
        assert storage.tables.instances[instances.id].epochs == keyhall.keys.epochs


async def test_a_lease_counts_from_when_the_keys_were_confirmed(
    instances: InstanceService, feed: FakeChangeFeed, keyhall: Keyhall, storage: FakeStorage, clock: FakeClock
) -> None:
    """A process that was stopped while it waited for its turn to renew looks at the keys again before it serves."""
    async with instances.present():
        await keyhall.rotate(KeyName.JWT_SECRET_KEY)
        async with storage._writer:
            feed.announce()
            await _settled()
            clock.advance(timedelta(seconds=LEASE_SECONDS))
        await _settled()
        assert not instances.serving()
        await instances.catch_up()
        assert keyhall.keys.leased
