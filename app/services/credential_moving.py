"""Credentials that change hands when two accounts are joined: every secret is sealed anew for its new owner."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from app.domain.errors import CryptoError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.domain.credentials import CredentialRecord, Owner
    from app.services.credential_sealing import CredentialSealing
    from app.services.ports import Clock, UnitOfWork

log = logging.getLogger(__name__)

_PAGE = 100


class CredentialMoving:
    """Moves all that one owner has to another, inside the caller's unit of work."""

    def __init__(self, *, sealing: CredentialSealing, clock: Clock) -> None:
        self._sealing = sealing
        self._clock = clock

    async def __call__(self, uow: UnitOfWork, source: Owner, target: Owner) -> int:
        """How many moved. One that does not open stays where it is, named in the log: it cannot be sealed anew."""
        taken = {(each.provider, each.label.casefold()) async for each in _all(uow, target)}
        moved = 0
        for record in [each async for each in _all(uow, source)]:
            try:
                await self._move(uow, record, target, taken)
            except CryptoError:
                log.warning("credential %s does not open and stays with its former account", record.id)
            else:
                moved += 1
        return moved

    async def _move(
        self, uow: UnitOfWork, record: CredentialRecord, target: Owner, taken: set[tuple[str, str]]
    ) -> None:
        secret = self._sealing.open(record)
        former = [
            (each, self._sealing.open_former(each, record.owner)) for each in await uow.credentials.history(record.id)
        ]
        primary = await self._sealing.primary(uow)
        label = _free_label(record, taken)
        await uow.credentials.move(
            record.id,
            expected_version=record.version,
            owner=target,
            label=label,
            encrypted_value=self._sealing.seal(secret, record.id, target, primary),
            key_version=primary.version,
            at=self._clock.now(),
        )
        for each, text in former:
            sealed = self._sealing.seal_former(text, each.id, target, primary)
            await uow.credentials.replace_history(each.id, encrypted_value=sealed, key_version=primary.version)
        taken.add((record.provider, label.casefold()))


def _free_label(record: CredentialRecord, taken: set[tuple[str, str]]) -> str:
    """The label, or the label with a number where the new owner has one of that name."""
    label, number = record.label, 1
    while (record.provider, label.casefold()) in taken:
        number += 1
        label = f"{record.label[:56]} ({number})"
    return label


async def _all(uow: UnitOfWork, owner: Owner) -> AsyncIterator[CredentialRecord]:
    for removed in (False, True):
        after = None
        while rows := await uow.credentials.of_owner(owner, removed=removed, after=after, limit=_PAGE):
            for row in rows:
                yield row
            after = rows[-1].id
