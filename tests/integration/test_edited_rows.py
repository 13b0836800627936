"""A cell of an SQLite file in which somebody put bytes: the row does not open, and all others are looked after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.domain.encrypted_columns import ENCRYPTED_COLUMNS
from app.domain.jobs import JobState
from app.domain.keys import KeyName
from app.services.rotation import passes
from tests.support.installs import Place
from tests.support.rotations import CREDENTIALS, REPLACED, fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.domain.jobs import Job
    from app.services import Services

SOME = "(SELECT id FROM {table} ORDER BY id LIMIT {rows})"


@pytest.fixture
async def place(sqlite_url: str, tmp_path: Path) -> Place:
    return await Place(sqlite_url, tmp_path / "data").install()


@pytest.fixture
async def services(place: Place) -> AsyncIterator[Services]:
    async with place.services() as services:
        await fill(services)
        yield services


async def edited(place: Place, table: str, column: str, value: str, rows: int) -> None:
    await place.execute(f"UPDATE {table} SET {column} = {value} WHERE id IN {SOME.format(table=table, rows=rows)}")  # noqa: S608


async def rotated(services: Services) -> Job:
    await services.instances.catch_up()
    operator = await services.identity.operator()
    job = await services.rotation.rotate(operator, KeyName.AES_KEY)
    run = await services.jobs.claim(job.id)
    assert run is not None
    await services.jobs.work(run, services.rotation.job.carry_on)
    return await services.jobs.get(operator, job.id)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("api_credentials", "id", "CAST(id AS BLOB)"),
        ("api_credentials", "id", "randomblob(16)"),
        ("api_credentials", "owner_id", "CAST(owner_id AS BLOB)"),
        ("api_credentials", "encrypted_value", "hex(encrypted_value)"),
        ("credential_history", "id", "CAST(id AS BLOB)"),
        ("credential_history", "encrypted_value", "hex(encrypted_value)"),
    ],
)
async def test_a_rotation_names_the_row_and_re_encrypts_all_others(
    *, place: Place, services: Services, monkeypatch: pytest.MonkeyPatch, table: str, column: str, value: str
) -> None:
    monkeypatch.setattr(passes, "BATCH", 20)
    assert CREDENTIALS % 20 == REPLACED % 20 == 0, "the last page is a full one, and the edited rows are its last"
    await edited(place, table, column, value, 2)
    job = await rotated(services)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert "rows do not open, so AES_KEY version 1 was not retired" in job.error
    async with services.credentials._storage.read() as uow:
        for each in ENCRYPTED_COLUMNS:
            for row in await uow.encrypted_rows.all(each, after=None, limit=10_000):
                assert row.key_version == 2 or f"{each.table} {row.id}" in job.error
    operator = await services.identity.operator()
    steps = [each async for each in services.credentials.health.verify_all(operator)]
    assert steps[-1].done >= steps[-1].total - 4  # a former secret belongs to no credential once its id is another
    assert 1 <= sum(len(each.unreadable) for each in steps) <= 4


async def test_a_row_that_names_no_version_keeps_no_rotation_from_its_end(place: Place, services: Services) -> None:
    """It does not open, as one beside it, which needs the former version."""
    await edited(place, "api_credentials", "encrypted_value", "hex(encrypted_value)", 2)
    await edited(place, "api_credentials", "key_version", "'x'", 1)
    assert (await rotated(services)).state is JobState.FAILED
    operator = await services.identity.operator()
    steps = [each async for each in services.credentials.health.verify_all(operator)]
    assert sum(len(each.unreadable) for each in steps) == 2
