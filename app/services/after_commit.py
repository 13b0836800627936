"""Work after a commit. The change has taken effect, so a failure of this work must not look like a failure of that.

A caller who reads "try again" would repeat the change, and find the label taken or the version changed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Final, TypeVar

from app.domain.errors import NotReady, StorageError, with_cause
from app.services.deadlines import regardless_of_deadline

log = logging.getLogger(__name__)

AWAY: Final = (StorageError, NotReady)
"""Errors that say "not now": the database is away, or this process may not use its keys."""

_T = TypeVar("_T")


async def follow_up(work: Awaitable[_T], otherwise: _T, what: str) -> _T:
    """The result of work after a commit, or ``otherwise`` where that is not possible now; the log says why.

    Args:
        work: reads for the answer, or takes note of the change in this process.
        otherwise: the answer without them.
        what: names the change, for the log.
    """
    try:
        with regardless_of_deadline():
            return await work
    except AWAY as error:
        log.warning("%s took effect; the work after it failed: %s", what, with_cause(error))
        return otherwise
