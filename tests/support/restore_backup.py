"""A process that restores a backup as `keyhall backup restore --yes` does; with N it dies at its N-th statement.

Usage: ``restore_backup FILE [N]``. It prints how many statements and commits there were.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from app.bootstrap.restore import open_backup_restore
from app.settings import Settings
from tests.support.backups import OPENS


async def main(file: Path, at: int | None) -> None:
    met = 0

    def count(*_: Any) -> None:
        nonlocal met
        met += 1
        if met == at:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", count)
    event.listen(Engine, "commit", count)
    async with open_backup_restore(Settings.load()) as restoring:
        await restoring.restore(file, OPENS, accept_unreadable=False, show=lambda *_: None)
    print(met)  # noqa: T201 - what this program is for


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))
