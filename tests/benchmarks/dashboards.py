"""What the dashboard costs as the store grows, and where a person's credentials are used all the time."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Final

import uvloop
from sqlalchemy import insert

from app.domain.audit import Action, Result
from app.domain.credentials import QUOTA
from app.domain.identity import Source
from app.infrastructure.clock import SystemClock
from app.infrastructure.database.schema import audit_events
from tests.benchmarks.figures import Figure, Size, quantile
from tests.benchmarks.filled import ROWS_PER_INSERT, Install
from tests.benchmarks.lists import STORES, both, owner_of, timed
from tests.support.installs import Place

BUSY: Final = 10
"""Credentials that are used all the time."""


def dashboards(directory: Path, size: Size) -> list[Figure]:
    """Milliseconds, p50 and p99, and the ratio of the largest store to the smallest."""
    return uvloop.run(_measured(directory, size))


async def _measured(directory: Path, size: Size) -> list[Figure]:
    figures: list[Figure] = []
    medians: list[float] = []
    async with AsyncExitStack() as stack:
        place = Place(f"sqlite+aiosqlite:///{directory / 'dashboards.db'}", directory / "dashboards")
        install = await Install.opened(stack, place)
        owner = await owner_of(install)
        own = await install.fill(min(QUOTA, size.backup_rows), owner.user_id)
        stored = len(own)

        async def dashboard() -> object:
            return await install.services.dashboard.dashboard(owner)

        for part in STORES:
            rows = max(size.backup_rows // part, stored)
            stored += len(await install.fill(rows - stored))
            times = await timed(install, dashboard, size)
            figures += both(f"{QUOTA} of one's own, {rows:,} in the store", times)
            medians.append(quantile(times, 0.5))
        figures.append(Figure(name="largest store / smallest", aim=1.5, values=[medians[-1] / medians[0]]))
        await _use(install, own[:BUSY], size.backup_rows // 10)
        figures += both(
            f"{BUSY} of them used {size.backup_rows // 10:,} times each", await timed(install, dashboard, size)
        )
    return figures


async def _use(install: Install, ids: list[str], times: int) -> None:
    """Note uses of the last 30 days, spread evenly, as if the credentials had been used."""
    now = SystemClock().now()
    rows = [
        {
            "at": now - timedelta(days=29) * number / times,
            "action": Action.CREDENTIAL_USED,
            "result": Result.INTENT,
            "source": Source.DISCORD,
            "object_kind": "credential",
            "object_id": each,
            "detail": "{}",
        }
        for each in ids
        for number in range(times)
    ]
    async with install.database.write() as connection:
        for start in range(0, len(rows), ROWS_PER_INSERT):
            await connection.change(insert(audit_events).values(rows[start : start + ROWS_PER_INSERT]))
    async with install.storage.write() as uow:
        for each in ids:
            await uow.credentials.mark_used(each, now)
