"""Former secrets of a credential: kept when they are replaced, shown as masks, and found again to roll back to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from app.domain.credentials import HISTORY_KEPT, CredentialRecord, HistoryRecord, Owner, mask
from app.domain.errors import CredentialUnreadable, CryptoError, InvalidInput, NotFound
from app.services.credentials.access import UNREADABLE_MASK, CredentialAccess
from app.services.credentials.cipher import CredentialCipher
from app.services.credentials.values import HistoryView
from app.services.keys import Primary
from app.services.paging import Page, page_size, paged, read_cursor
from app.services.ports import Randomness, Storage, UnitOfWork

_LOST: Final = ""
"""Stands for a secret that did not open any more when it was replaced.

No secret is empty, so it is mistaken for none. It keeps the times true, and unlike the damaged bytes it opens: nothing
in the history then stands in the way of a key version that is to be retired.
"""


class CredentialHistory:
    """Writes inside the unit of work of whoever replaces a secret."""

    def __init__(
        self, *, storage: Storage, access: CredentialAccess, cipher: CredentialCipher, randomness: Randomness
    ) -> None:
        self._storage = storage
        self._access = access
        self._cipher = cipher
        self._randomness = randomness

    async def keep(
        self, uow: UnitOfWork, record: CredentialRecord, primary: Primary, *, successor: str, now: datetime
    ) -> None:
        """Take in the secret of ``record``, which ``successor`` has just replaced, and drop what is too many."""
        try:
            secret = self._cipher.decrypt(record)
        except CryptoError:
            secret = _LOST
        history_id = self._randomness.new_id()
        await uow.credentials.add_history(
            HistoryRecord(
                id=history_id,
                credential_id=record.id,
                version=record.version,
                encrypted_value=self._cipher.encrypt_former(secret, history_id, record.owner, primary),
                key_version=primary.version,
                created_at=record.secret_since,
                replaced_at=now,
            )
        )
        history = await uow.credentials.history(record.id)
        surplus = len(history) - HISTORY_KEPT
        if surplus > 0:
            for each in self._evictable(history, record.owner, successor)[:surplus]:
                await uow.credentials.drop_history(each.id)

    def _evictable(self, history: Sequence[HistoryRecord], owner: Owner, present: str) -> Sequence[HistoryRecord]:
        """What may go, first of all copies that rolling back has left: however often, it drives no secret out.

        The latest row stays in any case: it tells since when the present secret is in force.
        """
        latest, *older = history
        kept = {_LOST, present, self._opened(latest, owner)}
        copies: list[HistoryRecord] = []
        others: list[HistoryRecord] = []
        for each in older:
            secret = self._opened(each, owner)
            (others if secret is None or secret not in kept else copies).append(each)
            kept.add(secret)
        return [*reversed(copies), *reversed(others)]

    def _opened(self, former: HistoryRecord, owner: Owner) -> str | None:
        try:
            return self._cipher.decrypt_former(former, owner)
        except CryptoError:
            return None

    async def former(self, uow: UnitOfWork, record: CredentialRecord, version: int | None) -> str:
        """The secret to roll back to. Raises NotFound, InvalidInput, CredentialUnreadable."""
        if version == record.version:
            raise InvalidInput("version", "is in force already")
        history = await uow.credentials.history(record.id)
        found = next((each for each in history if version in {None, each.version}), None)
        if found is None:
            raise NotFound
        secret = self._opened(found, record.owner)
        if secret is None or secret == _LOST:
            raise CredentialUnreadable
        return secret

    async def page(self, record: CredentialRecord, *, after: str | None, limit: int) -> Page[HistoryView]:
        """See ``CredentialService.versions``."""
        size, begin = page_size(limit), read_cursor(after)
        if begin is not None and not begin.isdecimal():
            raise InvalidInput("cursor", "is not one that was given out")
        async with self._storage.read() as uow:
            history = await uow.credentials.history(record.id)
        rows = [each for each in history if begin is None or each.version < int(begin)]
        page = paged(rows[: size + 1], size, lambda former: str(former.version))
        opened = [(each, await self._access.open_former(each, record.owner)) for each in page.items]
        views = [
            HistoryView(
                version=each.version,
                masked=mask(secret) if secret else UNREADABLE_MASK,
                readable=bool(secret),
                created_at=each.created_at,
                replaced_at=each.replaced_at,
            )
            for each, secret in opened
        ]
        return Page(views, page.next_cursor)
