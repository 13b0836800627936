"""A process that changes the master key, or makes the keys anew, as `keyhall keys` does, and may kill itself meanwhile.

Usage: ``change_master_key rotate|reset|move [N|before|after]``; ``move`` is `keyhall env set production`. It dies by
SIGKILL right before its N-th statement or commit, or right before or after its first commit. Without that it prints how
many statements and commits there were.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys

from sqlalchemy import Engine, event

from app.bootstrap.commands import open_key_reset, open_master_key_change
from app.bootstrap.environments import open_environment_move
from app.domain.keys import Environment
from app.settings import Settings


class _Death:
    """Comes at a statement, or never; ``met`` statements and commits were seen so far."""

    def __init__(self, at: str) -> None:
        self.met = 0
        self._at = at
        self._numbers = itertools.count(1)
        self._committed = False
        event.listen(Engine, "before_cursor_execute", self._meet)
        event.listen(Engine, "commit", self._commit)

    def _meet(self, *_: object) -> None:
        self.met = next(self._numbers)
        if self._at == str(self.met) or (self._at == "after" and self._committed):
            os.kill(os.getpid(), signal.SIGKILL)

    def _commit(self, *_: object) -> None:
        self._meet()
        self._committed = True
        if self._at == "before":
            os.kill(os.getpid(), signal.SIGKILL)


async def _main(action: str, at: str) -> None:
    settings = Settings.load()
    if action == "rotate":
        async with open_master_key_change(settings) as change:
            death = _Death(at)
            await change.carry_out()
    elif action == "move":
        async with open_environment_move(settings, Environment.PRODUCTION) as move:
            death = _Death(at)
            await move.carry_out()
    else:
        async with open_key_reset(settings) as reset:
            death = _Death(at)
            await reset.carry_out((await reset.look()).install_id)
    print(death.met, flush=True)  # noqa: T201 - what this program is for


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2] if sys.argv[2:] else ""))
