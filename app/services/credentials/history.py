"""Former secrets of a credential: kept when they are replaced, shown as masks, and found again to roll back to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from app.domain.credentials import (
    HISTORY_KEPT,
    CredentialRecord,
    HistoryRecord,
    Owner,
    Status,
    expired,
    mask,
    require_label_without,
)
from app.domain.errors import CredentialUnreadable, CryptoError, InvalidInput, NotFound
from app.domain.keys import KeyName
from app.domain.text import whole_number
from app.services.credentials.access import UNREADABLE_MASK, CredentialAccess
from app.services.credentials.cipher import CredentialCipher
from app.services.credentials.values import HistoryView, Unset
from app.services.keys import KeyRing, Primary
from app.services.paging import Page, page_size, paged, read_cursor
from app.services.ports import Clock, Randomness, Storage, UnitOfWork

_LOST: Final = ""
"""Stored in place of a secret that no longer decrypted when it was replaced.

No secret is empty, so the two cannot be confused. The row keeps the times true, and unlike the damaged bytes it
decrypts, so that it does not keep a key version from being retired.
"""


class CredentialHistory:
    """Former secrets, written in the unit of work that replaces the present one."""

    def __init__(
        self,
        *,
        storage: Storage,
        access: CredentialAccess,
        cipher: CredentialCipher,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._storage = storage
        self._access = access
        self._cipher = cipher
        self._clock = clock
        self._randomness = randomness

    async def replace(
        self,
        uow: UnitOfWork,
        record: CredentialRecord,
        secret: str,
        expires_at: datetime | Unset | None,
        ring: KeyRing,
    ) -> CredentialRecord | None:
        """Put a secret in force in place of the present one, which joins the history.

        Returns the record as it is then, None where the version changed.


        UNSET keeps the expiry, unless it has passed: then it was the former secret's. A secret that is in force already
        is not written again, and neither is the history; an expiry that was given is. Raises InvalidInput where the
        label shows the secret.
        """
        now = self._clock.now()
        if self._present(record) == secret:
            present = await uow.credentials.get(record.id)  # the record may have been read before another change
            if present is None or present.version != record.version:
                return None
            return await self._set_expiry(uow, record, expires_at, now)
        require_label_without(secret, record.label)
        primary = ring.primary(KeyName.AES_KEY)
        if isinstance(expires_at, Unset):
            expires_at = None if expired(record, now) else record.expires_at
        changed = dataclasses.replace(
            record,
            encrypted_value=self._cipher.encrypt(secret, record.id, record.owner, primary),
            key_version=primary.version,
            fingerprint=self._cipher.fingerprint(ring, secret),
            expires_at=expires_at,
            version=record.version + 1,
            updated_at=now,
            replaced_at=now,
            status=Status.UNCHECKED,
            last_used_at=None,
            last_verified_at=None,
        )
        swapped = await uow.credentials.replace(
            record.id,
            expected_version=record.version,
            encrypted_value=changed.encrypted_value,
            key_version=changed.key_version,
            fingerprint=changed.fingerprint,
            expires_at=expires_at,
            at=now,
        )
        if not swapped:
            return None
        await self._keep(uow, record, primary, successor=secret, now=now)
        return changed

    @staticmethod
    async def _set_expiry(
        uow: UnitOfWork, record: CredentialRecord, expires_at: datetime | Unset | None, now: datetime
    ) -> CredentialRecord | None:
        if isinstance(expires_at, Unset) or expires_at == record.expires_at:
            return record
        changed = dataclasses.replace(record, expires_at=expires_at, version=record.version + 1, updated_at=now)
        swapped = await uow.credentials.change(
            record.id, expected_version=record.version, label=record.label, expires_at=expires_at, at=now
        )
        return changed if swapped else None

    async def require_label_without_secrets(self, uow: UnitOfWork, record: CredentialRecord, label: str) -> None:
        """Refuse a label that shows the secret of this credential, or a former one. Raises InvalidInput."""
        former = [self._opened(each, record.owner) for each in await uow.credentials.history(record.id)]
        for secret in (self._present(record), *former):
            if secret:
                require_label_without(secret, label)

    async def _keep(
        self, uow: UnitOfWork, record: CredentialRecord, primary: Primary, *, successor: str, now: datetime
    ) -> None:
        """Store the secret of ``record``, which ``successor`` has just replaced; evict rows beyond HISTORY_KEPT."""
        secret = self._present(record) or _LOST
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
        if record.version <= HISTORY_KEPT:  # every row of the history was a version
            return
        history = await uow.credentials.history(record.id)
        surplus = len(history) - HISTORY_KEPT
        if surplus > 0:
            for each in self._evictable(history, record.owner, successor)[:surplus]:
                await uow.credentials.drop_history(each.id)

    def _evictable(self, history: Sequence[HistoryRecord], owner: Owner, present: str) -> Sequence[HistoryRecord]:
        """Rows to evict, duplicates first, so that repeated rollbacks never evict a distinct secret.

        The latest row always stays: it records since when the present secret has been in force.
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

    def _present(self, record: CredentialRecord) -> str | None:
        try:
            return self._cipher.decrypt(record)
        except CryptoError:
            return None

    def _opened(self, former: HistoryRecord, owner: Owner) -> str | None:
        try:
            return self._cipher.decrypt_former(former, owner)
        except CryptoError:
            return None

    async def former(self, uow: UnitOfWork, record: CredentialRecord, version: int | None) -> str:
        """Return the secret to roll back to. Raises NotFound, InvalidInput, CredentialUnreadable."""
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
        before = None if begin is None else whole_number(begin)
        if begin is not None and before is None:
            raise InvalidInput("cursor", "is not one that was given out")
        async with self._storage.lookup(large=True) as uow:
            history = await uow.credentials.history(record.id)
        rows = [each for each in history if before is None or each.version < before]
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
