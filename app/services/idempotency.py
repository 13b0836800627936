"""Creating requests that may be sent twice: the Idempotency-Key of a request leads to what it created the first time.

Only a MAC of the request is kept, so that a secret in it leaves no trace that could be guessed from.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from app.domain.errors import IdempotencyConflict, InvalidInput
from app.domain.keys import KeyName
from app.domain.secrets import SecretBytes, SecretText
from app.services.keys import KeyManagementService, Primary
from app.services.ports import Clock, IdempotentRequest, KeyDerivation, UnitOfWork

REMEMBERED_FOR: Final = timedelta(hours=24)
"""How long a repeated request leads to the first one's resource."""
KEY_PATTERN: Final = "[ -~]{1,255}"
"""Of a key: printable ASCII."""
_KEY: Final = re.compile(KEY_PATTERN)
_LABEL: Final = "idempotency"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatableRequest:
    """A user's request under their Idempotency-Key; equal ``texts`` make two requests the same, secrets among them.

    Raises InvalidInput unless the key is 1 to 255 printable ASCII characters.
    """

    user_id: str
    key: str
    texts: tuple[str | SecretText, ...]

    def __post_init__(self) -> None:
        if _KEY.fullmatch(self.key) is None:
            raise InvalidInput("idempotency_key", "must be 1 to 255 printable ASCII characters")


class Idempotency:
    """Remembers creating requests, and the id of the resource that each created."""

    def __init__(self, *, keys: KeyManagementService, derivation: KeyDerivation, clock: Clock) -> None:
        self._keys = keys
        self._derivation = derivation
        self._clock = clock

    async def earlier(self, uow: UnitOfWork, request: RepeatableRequest) -> str | None:
        """Return the id of the resource that this request created earlier, or None.

        Raises IdempotencyConflict where the key was used for a different request.
        """
        known = await uow.idempotency.get(request.user_id, request.key)
        if known is None or self._clock.now() - known.created_at > REMEMBERED_FOR:
            return None
        # A rotation of API_SECRET_KEY in between must not turn a repetition into a conflict.
        materials = self._keys.usable_materials(KeyName.API_SECRET_KEY).values()
        if any(hmac.compare_digest(self._mac(request, each), known.mac) for each in materials):
            return known.resource_id
        raise IdempotencyConflict

    async def remember(self, uow: UnitOfWork, request: RepeatableRequest, primary: Primary, resource_id: str) -> None:
        """Remember the request in the unit of work that carries it out, under that version of API_SECRET_KEY.

        Raises UniqueViolation where another process was faster.
        """
        now = self._clock.now()
        done = IdempotentRequest(
            user_id=request.user_id,
            key=request.key,
            mac=self._mac(request, primary.material),
            resource_id=resource_id,
            created_at=now,
        )
        # A request that has lapsed and was not purged yet must not block its key.
        await uow.idempotency.add(done, lapsed_before=now - REMEMBERED_FOR)

    def _mac(self, request: RepeatableRequest, material: SecretBytes) -> bytes:
        texts = (text.reveal() if isinstance(text, SecretText) else text for text in request.texts)
        return self._derivation.mac(material, _LABEL, *(text.encode() for text in texts))
