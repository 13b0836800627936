"""A house in memory."""

from __future__ import annotations

import pytest

from tests.support.fakes import FakeClock, FakeRandomness, FakeStorage
from tests.support.house import House, open_house


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def storage(clock: FakeClock) -> FakeStorage:
    return FakeStorage(clock)


@pytest.fixture
async def house(storage: FakeStorage, clock: FakeClock) -> House:
    return await open_house(storage, clock, FakeRandomness())
