"""The storages that the contract of the repositories is tested on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from app.infrastructure.clock import SystemClock
from app.infrastructure.database.engine import Database
from app.infrastructure.database.unit_of_work import SqlStorage
from app.services.ports import Storage
from tests.support.database import migrated
from tests.support.fakes import FakeStorage


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres), "fake"])
async def storage(request: pytest.FixtureRequest) -> AsyncIterator[Storage]:
    """Either engine, or the fake on which the service tests run: all keep the promises of the ports."""
    if request.param == "fake":
        yield FakeStorage(SystemClock())
        return
    url = request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param])
    async with migrated(url) as database:
        yield SqlStorage(database)


@pytest.fixture
async def database(engine_url: str) -> AsyncIterator[Database]:
    """A database of either engine, its schema at head."""
    async with migrated(engine_url) as database:
        yield database


@pytest.fixture
def sql(database: Database) -> SqlStorage:
    """The storage on ``database``: for tests that look at tables, or wait for a lock."""
    return SqlStorage(database)
