"""Backups by workers: once for all processes, again where one died, listed and asked for over HTTP."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.bootstrap.services import open_services
from app.domain.jobs import JobKind
from app.infrastructure.clock import SystemClock
from app.worker.loop import run_worker
from tests.support.backups import RECIPIENT, verified
from tests.support.installs import Place

if TYPE_CHECKING:
    from app.services import Services

RECENT = timedelta(minutes=5)


@pytest.fixture
async def place(engine_url: str, tmp_path: Path) -> Place:
    installed = await Place(engine_url, tmp_path / "data").install()
    return installed.having(
        BACKUP_DIR=str(tmp_path / "deep" / "backups"), BACKUP_RECIPIENT=RECIPIENT, BACKUP_SCHEDULE="0 0 1 1 *"
    )


async def _due(services: Services) -> None:
    """Let the moment of the schedule come, which is up to a year away."""
    storage = services.jobs._storage
    async with storage.write() as uow:
        (job,) = await uow.jobs.unfinished_of(JobKind.BACKUP)
        await uow.jobs.bring_forward(job.id)


async def _until_made(services: Services, count: int) -> None:
    storage = services.jobs._storage
    async with asyncio.timeout(60):
        while True:
            async with storage.read() as uow:
                if len(await uow.backups.managed()) >= count:
                    return
            await asyncio.sleep(0.05)


async def test_three_workers_make_one_backup_for_a_moment(place: Place) -> None:
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(place.keys(may_create=False))
        processes = [
            await stack.enter_async_context(open_services(place.load(), opened, kind="worker")) for _ in range(3)
        ]
        for each in processes:
            await each.backups.watch()
        await _due(processes[0])
        working = [asyncio.create_task(run_worker(each)) for each in processes]
        await _until_made(processes[0], 1)
        async with opened.storage.read() as uow:
            (backup,) = await uow.backups.managed()
        assert backup.verified_at is not None
        assert SystemClock().now() - backup.verified_at < RECENT
        assert (await verified(place, Path(backup.path))).ok
        files = sorted(path.name for path in place.load().backup_dir.iterdir())
        assert files == [Path(backup.path).name]
        for task in working:
            task.cancel()
        await asyncio.wait(working)


async def test_a_backup_that_a_worker_left_is_made_by_the_next(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place.services() as services:
        await services.backups.watch()
        await _due(services)
        run = await services.jobs.claim()
        assert run is not None
        begun = asyncio.Event()

        async def endless(_: object) -> None:
            begun.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patched:
            patched.setattr(type(services.backups._files), "make_directory", lambda _, path: endless(path))
            working = asyncio.create_task(services.jobs.work(run, services.backups.carry_on))
            await begun.wait()
            working.cancel()
            await asyncio.wait({working})
        again = await services.jobs.claim(run.job.id)
        assert again is not None
        await services.jobs.work(again, services.backups.carry_on)
        page = await services.backups.page(await services.identity.operator_for())
        assert [each.present for each in page.items] == [True]
