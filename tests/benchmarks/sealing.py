"""How fast rows of the audit trail are sealed and verified, on both engines: more must not come in than are sealed."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

import uvloop

from app.domain.audit import Action
from app.services.audit import AuditTrail
from tests.benchmarks.figures import Figure, Size
from tests.support.installs import Place
from tests.support.postgres import running_postgres

if TYPE_CHECKING:
    from pathlib import Path

AIM = 2_000
"""Events per second."""
_AT_ONCE = 1_000
"""Rows that a unit of work stores."""


def sealing(directory: Path, size: Size) -> list[Figure]:
    """Rows per second that one worker seals, and that one command verifies."""
    figures = uvloop.run(_measured("SQLite", f"sqlite+aiosqlite:///{directory}/sealed.db", directory, size))
    with running_postgres() as postgres, postgres.database() as url:
        figures += uvloop.run(_measured("PostgreSQL", url, directory, size))
    return figures


async def _measured(where: str, url: str, directory: Path, size: Size) -> list[Figure]:
    sealed = Figure(name=f"sealing, {where}", unit="/s", aim=AIM, more=True)
    verified = Figure(name=f"verifying, {where}", unit="/s")
    place = Place(url, directory / f"sealed-{where}").having(APP_ENV="development")
    async with place.keys() as opened, place.services() as services:
        operator = await services.identity.operator()
        trail = AuditTrail(opened.keys._clock)
        gc.collect()
        gc.freeze()
        for number in range(-size.cold_rounds, size.rounds):
            for begin in range(0, size.rows, _AT_ONCE):
                async with opened.storage.write() as uow:
                    for row in range(begin, min(begin + _AT_ONCE, size.rows)):
                        action = Action.CREDENTIAL_USED if row % 2 else Action.LOGIN
                        await trail.record(uow, operator, action, about=("credential", f"c{row}"), attempt=row)
            began, rows = time.perf_counter(), 0
            while done := await services.audit_sealing.seal():
                rows += done
            sealing_took = time.perf_counter() - began
            began = time.perf_counter()
            report = await services.audit_verification.verify(operator)
            verifying_took = time.perf_counter() - began
            if not report.ok or report.unsealed:
                raise RuntimeError(str(report.first_bad))
            if number >= 0:
                sealed.values.append(rows / sealing_took)
                verified.values.append(report.sealed / verifying_took)
        gc.unfreeze()
    return [sealed, verified]
