"""The worker's loop: sweeps away what expired."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from app.domain.errors import KeyhallError

if TYPE_CHECKING:
    from app.services import Services

log = logging.getLogger(__name__)

SWEEP_EVERY_SECONDS: Final = 600.0


async def run_worker(services: Services) -> None:
    """Sweep now and every ten minutes, until cancelled. A sweep that fails is repeated by the next."""
    while True:
        try:
            await services.instances.catch_up()
            await services.housekeeping.sweep()
        except KeyhallError as error:
            log.warning("the sweep failed and will be repeated: %s", error)
        except Exception:  # a bug in a sweep must not end the web beside it
            log.exception("the sweep failed and will be repeated")
        await asyncio.sleep(SWEEP_EVERY_SECONDS)
