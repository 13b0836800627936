"""A process that changes the master key as `keyhall keys rotate-master` does, and may kill itself while it does.

Usage: ``change_master_key [N|before|after]``: it dies by SIGKILL right before its N-th statement or commit, or right
before or after the commit that changes the key. Without that it prints how many statements and commits there were.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from typing import TYPE_CHECKING

from sqlalchemy import event

from app.bootstrap import master_keys, open_keys
from app.infrastructure.clock import SystemClock
from app.services.master_key import MasterKeyChange
from app.settings import Settings

if TYPE_CHECKING:
    from app.infrastructure.database.engine import Database


class _Death:
    """Comes at a statement, or never; ``met`` statements and commits were seen so far."""

    def __init__(self, database: Database, at: str) -> None:
        self.met = 0
        self._at = at
        self._numbers = itertools.count(1)
        self._committed = False
        for engine in {database.dialect.reader.sync_engine, database.dialect.writer.sync_engine}:
            event.listen(engine, "before_cursor_execute", self._meet)
            event.listen(engine, "commit", self._commit)

    def _meet(self, *_: object) -> None:
        self.met = next(self._numbers)
        if self._at == str(self.met) or (self._at == "after" and self._committed):
            os.kill(os.getpid(), signal.SIGKILL)

    def _commit(self, *_: object) -> None:
        self._meet()
        self._committed = True
        if self._at == "before":
            os.kill(os.getpid(), signal.SIGKILL)


async def _main(at: str) -> None:
    settings = Settings.load()
    source = master_keys(settings)
    async with open_keys(settings, may_create=False, source=source) as opened:
        death = _Death(opened.database, at)
        change = MasterKeyChange(storage=opened.storage, keys=opened.keys, source=source, clock=SystemClock())
        await change.carry_out()
        print(death.met, flush=True)  # noqa: T201 - what this program is for


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1] if sys.argv[1:] else ""))
