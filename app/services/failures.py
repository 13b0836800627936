"""The log of requests that Keyhall could not serve: each with its cause, and few lines however many requests fail."""

from __future__ import annotations

import logging
from typing import Final

from app.domain.errors import KeyhallError, with_cause
from app.services.ports import Clock

log = logging.getLogger(__name__)

ONE_LINE_EVERY_SECONDS: Final = 10.0
"""For failures of the same kind with the same cause."""
_KINDS: Final = 256
"""How many kinds are counted separately; beyond that all counts start again."""


class FailureLog:
    """One warning for the first failure of a kind, and every ten seconds one with the number of those in between."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._logged_at: dict[str, float] = {}
        self._omitted: dict[str, int] = {}

    def note(self, what: str, error: KeyhallError, request_id: str = "") -> None:
        """Log that ``what`` failed; the caller's own fault does not belong here."""
        kind, now = f"{type(error).__name__} {with_cause(error)}", self._clock.monotonic()
        if now - self._logged_at.get(kind, float("-inf")) < ONE_LINE_EVERY_SECONDS:
            self._omitted[kind] = self._omitted.get(kind, 0) + 1
            return
        if len(self._logged_at) >= _KINDS:
            self._logged_at.clear()
            self._omitted.clear()
        self._logged_at[kind] = now
        more = self._omitted.pop(kind, 0)
        log.warning(
            "%s failed: %s%s",
            what,
            with_cause(error),
            f"; {more} more like this since the last such line" if more else "",
            extra={"request_id": request_id},
        )
