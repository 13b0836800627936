"""A house in memory."""

from __future__ import annotations

import pytest

from tests.support.fakes import FakeClock, FakeRandomness, FakeStorage
from tests.support.keyhall import Keyhall, open_keyhall


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def storage(clock: FakeClock) -> FakeStorage:
    return FakeStorage(clock)


@pytest.fixture
async def keyhall(storage: FakeStorage, clock: FakeClock) -> Keyhall:
    return await open_keyhall(storage, clock, FakeRandomness())
