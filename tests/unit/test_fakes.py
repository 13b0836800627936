"""The fakes are held to what the tests rely on."""

from __future__ import annotations

import pytest

from app.domain.errors import StorageError
from app.domain.identity import Role, User
from app.services.ports import ChangeFeed, Clock, DiscordAccounts, PasswordHasher, Randomness, Storage
from tests.support.fakes import (
    EPOCH,
    FakeChangeFeed,
    FakeClock,
    FakeDiscordAccounts,
    FakePasswords,
    FakeRandomness,
    FakeStorage,
)

USER = User(id="u", subject_id="s", username="mia", role=Role.MEMBER, created_at=EPOCH)


def test_the_fakes_implement_the_production_ports() -> None:
    """mypy is the judge of this test."""
    storage: Storage = FakeStorage()
    clock: Clock = FakeClock()
    randomness: Randomness = FakeRandomness()
    passwords: PasswordHasher = FakePasswords()
    feed: ChangeFeed = FakeChangeFeed()
    discord: DiscordAccounts = FakeDiscordAccounts()
    assert all((storage, clock, randomness, passwords, feed, discord))


@pytest.mark.parametrize("unit", ["read", "write"])
async def test_something_slow_inside_a_unit_of_work_is_noticed(unit: str) -> None:
    storage, passwords = FakeStorage(), FakePasswords()
    with pytest.raises(AssertionError, match="inside a unit of work"):
        async with getattr(storage, unit)():
            await passwords.hash("correct horse battery")
    assert storage.commits == 0


async def test_a_unit_of_work_that_raises_leaves_nothing_behind() -> None:
    storage = FakeStorage()

    async def fail() -> None:
        async with storage.write() as uow:
            await uow.users.add(USER)
            raise StorageError

    with pytest.raises(StorageError):
        await fail()
    assert (storage.tables.users, storage.commits) == ({}, 0)


async def test_what_is_written_in_a_reading_unit_of_work_does_not_survive() -> None:
    storage = FakeStorage()
    async with storage.read() as uow:
        await uow.users.add(USER)
    assert storage.tables.users == {}


async def test_a_reader_keeps_its_view_while_others_commit() -> None:
    storage = FakeStorage()
    async with storage.write() as uow:
        await uow.users.add(USER)
    reader = storage.read()
    seen = await reader.__aenter__()
    storage.tables.users.clear()
    assert await seen.users.get("u") == USER
    await reader.__aexit__(None, None, None)
