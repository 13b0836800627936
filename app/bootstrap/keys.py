"""The second stage: keys that are verified and loaded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from app.bootstrap import database
from app.bootstrap.database import StartupRetry, master_keys, reachable_database
from app.domain.errors import NoInstall
from app.domain.keys import KeyName
from app.infrastructure.clock import SystemClock
from app.infrastructure.database.engine import Database
from app.infrastructure.database.unit_of_work import SqlStorage
from app.infrastructure.master_key import MasterKeys
from app.services.keys import KeyManagementService
from app.settings import Settings

log = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenKeys:
    """A migrated database and its loaded keys; ``created`` when this very start made the install.

    ``reserved`` is the same storage on connections that no request can take.
    """

    database: Database
    storage: SqlStorage
    reserved: SqlStorage
    keys: KeyManagementService
    created: bool
    retry: StartupRetry
    source: MasterKeys


@asynccontextmanager
async def open_keys(
    settings: Settings, *, may_create: bool, importing: KeyName | None = None, source: MasterKeys | None = None
) -> AsyncIterator[OpenKeys]:
    """Open the database, verify the install, migrate, load the keys. Raises StartupError, NoInstall.

    While a key is ``importing``, values in the settings are no conflict: imports resolve them, one key after another.
    """
    source = source or master_keys(settings)
    async with reachable_database(settings, may_create=may_create, source=source, importing=importing) as reachable:
        installed = await reachable.verify()
        if not installed and not may_create:
            raise NoInstall
        await reachable.migrate(installed=installed)
        keys, retry = reachable.keys, reachable.retry
        created = await retry.run(lambda: keys.initialize(may_create=may_create))
        yield OpenKeys(
            database=reachable.database,
            storage=reachable.storage,
            reserved=reachable.reserved,
            keys=keys,
            created=created,
            retry=retry,
            source=source,
        )


@asynccontextmanager
async def open_keys_when_created(settings: Settings) -> AsyncIterator[OpenKeys]:
    """The same for a process that creates no install, and may start in the same second as the one that does.

    Raises NoInstall where none was created within the retry budget of a start.
    """
    clock = SystemClock()
    deadline = clock.monotonic() + database.RETRY_BUDGET_SECONDS
    pause = _PAUSE_SECONDS
    opened: OpenKeys | None = None
    said = False
    async with AsyncExitStack() as stack:
        while opened is None:
            try:
                opened = await stack.enter_async_context(open_keys(settings, may_create=False))
            except NoInstall:
                if clock.monotonic() >= deadline:
                    raise
                if not said:
                    log.info("waiting for `keyhall run`, `keyhall web` or `keyhall bot`, which creates the install")
                    said = True
                await asyncio.sleep(pause)  # longer each time: a start warns about its settings each time
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        yield opened
