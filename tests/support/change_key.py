"""A process that changes a key as `keyhall keys` does, in small batches, and may kill or stop itself in the middle.

Usage: ``change_key ACTION NAME [N [stop]]``; with N it dies by SIGKILL right before its N-th statement or commit, or
stops by SIGSTOP right before its N-th transaction that writes, counted from the moment that it is about to begin. It
prints ``begun`` then, and at the end how many of them there were.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from typing import TYPE_CHECKING

from sqlalchemy import event

from app.bootstrap.keys import open_keys
from app.bootstrap.services import open_services
from app.domain.keys import KeyName
from app.services.rotation import passes
from app.settings import Settings
from tests.support.rotations import Change

if TYPE_CHECKING:
    from app.infrastructure.database.engine import Database

BATCH = 20


class Fate:
    """Comes at a moment, or never; ``met`` such moments have passed."""

    def __init__(self, at: int | None, number: signal.Signals) -> None:
        self.met = 0
        self._at = at
        self._signal = number
        self._numbers = itertools.count(1)

    def at_statements(self, database: Database) -> None:
        """Come right before a statement or a commit."""
        dialect = database.dialect
        for engine in {each.sync_engine for each in (dialect.reader, dialect.writer, dialect.reserved_writer)}:
            event.listen(engine, "before_cursor_execute", self._meet)
            event.listen(engine, "commit", self._meet)

    def at_transactions(self, database: Database) -> None:
        """Come right before a transaction that writes: on SQLite none is open then, and nobody else is held up."""
        dialect = database.dialect
        for engine in {dialect.writer.sync_engine, dialect.reserved_writer.sync_engine}:
            event.listen(engine, "checkout", self._meet)

    def _meet(self, *_: object) -> None:
        self.met = next(self._numbers)
        if self.met == self._at:
            os.kill(os.getpid(), self._signal)


async def _main(action: str, name: str, at: str | None = None, how: str = "kill") -> None:
    passes.BATCH = BATCH  # type: ignore[misc]  # so that a few hundred rows make a course of many steps
    settings = Settings.load()
    fate = Fate(int(at) if at else None, signal.SIGSTOP if how == "stop" else signal.SIGKILL)
    async with (
        open_keys(settings, may_create=False) as opened,
        open_services(settings, opened, kind="test") as services,
    ):
        (fate.at_transactions if how == "stop" else fate.at_statements)(opened.database)
        print("begun", flush=True)  # noqa: T201 - what this program is for
        await Change(action, KeyName(name)).make(services)
        print(fate.met, flush=True)  # noqa: T201 - as above


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
