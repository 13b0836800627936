"""A change of owner: every secret is encrypted again for its new owner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

from app.domain.credentials import LABEL_LONGEST, CredentialRecord, Owner
from app.domain.errors import CryptoError, VersionConflict
from app.domain.keys import KeyName
from app.services.credentials.cipher import CredentialCipher
from app.services.keys import KeyManagementService, Primary
from app.services.paging import pages
from app.services.ports import Clock, UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The credentials that would move, each with the label that it would have, and the removed ones."""

    credentials: Sequence[tuple[CredentialRecord, str]] = ()
    removed: Sequence[CredentialRecord] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed:
    """A credential that got another label, because the new owner had one of that label."""

    provider: str
    label: str
    new_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """How many credentials moved, removed ones included, and those that got another label."""

    count: int = 0
    renamed: Sequence[Renamed] = ()


class CredentialTransfer:
    """Works inside the unit of work that joins two accounts: everything moves, or nothing."""

    def __init__(self, *, keys: KeyManagementService, cipher: CredentialCipher, clock: Clock) -> None:
        self._keys = keys
        self._cipher = cipher
        self._clock = clock

    async def plan(self, uow: UnitOfWork, source: Owner, target: Owner) -> Planned:
        """Return what would move as things are now. A label that is taken gets a number."""
        live = await _all_of(uow, source, removed=False)
        taken = {(each.provider, each.label.casefold()) for each in await _all_of(uow, target, removed=False)}
        credentials = []
        for record in live:
            label = next(label for label in _numbered(record.label) if (record.provider, label.casefold()) not in taken)
            taken.add((record.provider, label.casefold()))
            credentials.append((record, label))
        return Planned(credentials=credentials, removed=await _all_of(uow, source, removed=True))

    async def move(self, uow: UnitOfWork, source: Owner, target: Owner) -> Moved:
        """Give all credentials of one owner to another, with their histories, as ``plan`` says.

        A secret that does not decrypt moves as it is and stays unreadable. Raises VersionConflict where a credential
        changed meanwhile, NotReady while this process has no lease.
        """
        await uow.credentials.lock_owner(source)  # nobody stores for the former owner meanwhile
        await uow.credentials.lock_owner(target)  # nor takes a label that one of the credentials gets
        primary = (await self._keys.ring_under_lock(uow)).primary(KeyName.AES_KEY)
        planned = await self.plan(uow, source, target)
        for record, label in planned.credentials:
            await self._move_one(uow, record, target, label, primary)
        for record in planned.removed:
            await self._move_one(uow, record, target, record.label, primary)
        renamed = [
            Renamed(provider=record.provider, label=record.label, new_label=label)
            for record, label in planned.credentials
            if label != record.label
        ]
        return Moved(count=len(planned.credentials) + len(planned.removed), renamed=renamed)

    async def _move_one(
        self, uow: UnitOfWork, record: CredentialRecord, target: Owner, label: str, primary: Primary
    ) -> None:
        encrypted, key_version = record.encrypted_value, record.key_version
        with suppress(CryptoError):
            encrypted = self._cipher.encrypt(self._cipher.decrypt(record), record.id, target, primary)
            key_version = primary.version
        swapped = await uow.credentials.move(
            record.id,
            expected_version=record.version,
            owner=target,
            label=label,
            encrypted_value=encrypted,
            key_version=key_version,
            at=self._clock.now(),
        )
        if not swapped:
            raise VersionConflict
        for former in await uow.credentials.history(record.id):
            with suppress(CryptoError):
                secret = self._cipher.decrypt_former(former, record.owner)
                encrypted = self._cipher.encrypt_former(secret, former.id, target, primary)
                await uow.credentials.replace_history(former.id, encrypted_value=encrypted, key_version=primary.version)


async def _all_of(uow: UnitOfWork, owner: Owner, *, removed: bool) -> Sequence[CredentialRecord]:
    fetched = pages(lambda after: uow.credentials.of_owner(owner, removed=removed, after=after))
    return [record async for page in fetched for record in page]


def _numbered(label: str) -> Iterator[str]:
    """Yield the label, then the label with a number, never longer than a label may be."""
    yield label
    for number in count(2):
        suffix = f" {number}"
        yield label[: LABEL_LONGEST - len(suffix)] + suffix
