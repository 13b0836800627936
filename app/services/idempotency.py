"""Creating requests that may be sent twice: the Idempotency-Key of a request leads to what it created the first time.

Of the request only a MAC is kept, so a secret in it leaves no trace that could be probed.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from app.domain.errors import IdempotencyConflict, InvalidInput
from app.domain.keys import KeyName
from app.services.keys import KeyManagementService
from app.services.ports import Clock, IdempotentRequest, KeyDerivation, UnitOfWork

REMEMBERED_FOR: Final = timedelta(hours=24)
"""How long a repeated request leads to the first one's resource."""
_LONGEST_KEY: Final = 255
_LABEL: Final = "idempotency"


def idempotency_key(value: str | None) -> str | None:
    """1 to 255 printable ASCII characters, or None. Raises InvalidInput."""
    if value is None:
        return None
    if not 1 <= len(value) <= _LONGEST_KEY or not value.isascii() or not value.isprintable():
        raise InvalidInput("idempotency_key", f"must be 1 to {_LONGEST_KEY} printable ASCII characters")
    return value


class Idempotency:
    """Remembers requests per user; ``parts`` are everything that makes two requests the same."""

    def __init__(self, *, keys: KeyManagementService, derivation: KeyDerivation, clock: Clock) -> None:
        self._keys = keys
        self._derivation = derivation
        self._clock = clock

    async def earlier(self, uow: UnitOfWork, user_id: str, key: str, parts: Sequence[bytes]) -> str | None:
        """The id of what this request created earlier, or None. Raises IdempotencyConflict for another request."""
        request = await uow.idempotency.get(user_id, key)
        if request is None or self._clock.now() - request.created_at > REMEMBERED_FOR:
            return None
        # A rotation of API_SECRET_KEY in between must not turn a repetition into a conflict.
        materials = self._keys.usable_materials(KeyName.API_SECRET_KEY).values()
        if any(hmac.compare_digest(self._derivation.mac(each, _LABEL, *parts), request.mac) for each in materials):
            return request.resource_id
        raise IdempotencyConflict

    async def remember(self, uow: UnitOfWork, user_id: str, key: str, parts: Sequence[bytes], resource_id: str) -> None:
        """Remember the request in the unit of work that does it. Raises UniqueViolation where another was faster."""
        now = self._clock.now()
        # One that has lapsed and was not swept yet must not stand in the way of its key.
        await uow.idempotency.purge(now - REMEMBERED_FOR)
        primary = await self._keys.primary_under_lock(uow, KeyName.API_SECRET_KEY)
        mac = self._derivation.mac(primary.material, _LABEL, *parts)
        await uow.idempotency.add(
            IdempotentRequest(user_id=user_id, key=key, mac=mac, resource_id=resource_id, created_at=now)
        )
