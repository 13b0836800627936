"""A process that records, seals and drops rows of the audit trail until it is killed.

Every round is a day later, so that segments are closed, exported and summed up. It prints how many rows it has stored.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from app.bootstrap.keys import open_keys
from app.bootstrap.services import open_services
from app.domain.audit import Action, AuditEvent, Result
from app.domain.identity import Source
from app.services.audit_trail import AuditRetentionRule
from app.settings import Settings


async def _main() -> None:
    settings = Settings.load()
    async with (
        open_keys(settings, may_create=False) as opened,
        open_services(settings, opened, kind="test") as services,
    ):
        retention = services.audit_retention
        retention._rule = AuditRetentionRule(events=timedelta(0), uses=timedelta(0))
        days = 0
        clock = retention._clock
        now = clock.now
        clock.now = lambda: now() + timedelta(days=days)  # type: ignore[method-assign]
        services.audit_sealing._clock = clock
        while True:
            async with opened.storage.write() as uow:
                for number in range(40):
                    action = Action.CREDENTIAL_USED if number % 2 else Action.LOGIN
                    await uow.audit.append(
                        AuditEvent(at=clock.now(), action=action, result=Result.OK, source=Source.WEB, subject_id=None)
                    )
            print(40, flush=True)  # noqa: T201 - what this program is for
            while await services.audit_sealing.seal():
                pass
            days += 1
            await retention.apply()


if __name__ == "__main__":
    asyncio.run(_main())
