"""A process that changes a key as `keyhall keys` does, in small batches, and may kill itself at one of its statements.

Usage: ``change_key ACTION NAME [N]``; with N it dies by SIGKILL right before its N-th statement or commit, counted from
the moment that it is about to begin. It prints ``begun`` then, and at the end how many statements and commits it took.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from typing import TYPE_CHECKING

from sqlalchemy import event

from app.bootstrap import open_keys, open_services
from app.domain.keys import KeyName
from app.services.rotation import course
from app.settings import Settings
from tests.support.rotations import Change

if TYPE_CHECKING:
    from app.infrastructure.database.engine import Database

BATCH = 20


class Death:
    """Comes at a statement, or never; ``met`` statements and commits were seen so far."""

    def __init__(self, database: Database, at: int | None) -> None:
        self.met = 0
        self._at = at
        self._numbers = itertools.count(1)
        for engine in {database.dialect.reader.sync_engine, database.dialect.writer.sync_engine}:
            event.listen(engine, "before_cursor_execute", self._meet)
            event.listen(engine, "commit", self._meet)

    def _meet(self, *_: object) -> None:
        self.met = next(self._numbers)
        if self.met == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


async def _main(change: Change, at: int | None) -> None:
    course.BATCH = BATCH  # type: ignore[misc]  # so that a few hundred rows make a course of many steps
    settings = Settings.load()
    async with (
        open_keys(settings, may_create=False) as opened,
        open_services(settings, opened, kind="test") as services,
    ):
        death = Death(opened.database, at)
        print("begun", flush=True)  # noqa: T201 - what this program is for
        await change.make(services)
        print(death.met, flush=True)  # noqa: T201 - as above


if __name__ == "__main__":
    asyncio.run(_main(Change(sys.argv[1], KeyName(sys.argv[2])), int(sys.argv[3]) if sys.argv[3:] else None))
