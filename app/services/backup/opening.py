"""Opens every secret of a restored database, and takes those away from versions that must not be used any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from app.domain.encrypted_columns import (
    CREDENTIAL_SECRETS,
    ENCRYPTED_COLUMNS,
    EncryptedColumn,
    EncryptedRow,
    Reencrypted,
)
from app.domain.keys import KeyName
from app.domain.restoring import MARKS
from app.domain.secrets import SecretBytes
from app.services.backup.carrying import RestoredKeys
from app.services.keys import KeyRing
from app.services.paging import pages
from app.services.ports import Envelope, Storage

_PAGE: Final = 1000
_SLICE: Final = 100
"""Secrets that are decrypted in one go: about a millisecond, in which no other thread has its turn."""


ShowStep = Callable[[int, int | None, str], None]
"""Called with how much is done, of how much, and what it is."""


@dataclass(slots=True)
class Opened:
    """The findings: ``unreadable`` are table and id of rows that do not open."""

    credentials: int = 0
    unreadable: list[str] = field(default_factory=list)
    reencrypted: int = 0
    disabled: int = 0
    erased: int = 0
    users: frozenset[str] = frozenset()


async def open_all(
    storage: Storage, envelope: Envelope, ring: KeyRing, keys: RestoredKeys | None, show: ShowStep
) -> Opened:
    """Open every secret with the keys of the ring.

    With ``keys``, those under a version that is compromised or destroyed there are encrypted again under its primary.
    """
    found = Opened()
    async with storage.read() as uow:
        total = sum([await uow.encrypted_rows.count(column) for column in ENCRYPTED_COLUMNS])
        found.credentials = await uow.encrypted_rows.count(CREDENTIAL_SECRETS)
    work = _Work(envelope, ring, keys)
    done = 0
    for column in ENCRYPTED_COLUMNS:
        after: str | None = None
        while True:
            async with storage.read() as uow:
                rows = await uow.encrypted_rows.all(column, after=after, limit=_PAGE)
            if not rows:
                break
            after = rows[-1].id
            opened = await asyncio.to_thread(work.open, column, rows)
            found.unreadable += [f"{column.table} {row.id}" for row, by in zip(rows, opened, strict=True) if by is None]
            again = [row for row, by in zip(rows, opened, strict=True) if by in work.forbidden]
            if again:
                changed = await asyncio.to_thread(work.again, column, again)
                async with storage.write() as uow:
                    found.reencrypted += await uow.encrypted_rows.swap(column, changed)
            done += len(rows)
            show(done, total, "opening every credential")
    async with storage.read() as uow:
        ids: set[str] = set()
        async for page in pages(lambda last: uow.users.page(after=last, limit=_PAGE)):
            ids.update(each.id for each in page)
    found.users = frozenset(ids)
    return found


class _Work:
    """The part that takes processor time, for a thread."""

    def __init__(self, envelope: Envelope, ring: KeyRing, keys: RestoredKeys | None) -> None:
        self._envelope = envelope
        self._install_id = ring.manifest.install_id
        self._materials = ring.usable(KeyName.AES_KEY)
        self.forbidden: frozenset[int] = frozenset()
        self._primary: tuple[int, SecretBytes] | None = None
        if keys is not None:
            keyset = keys.keysets[KeyName.AES_KEY]
            self.forbidden = frozenset(each.version for each in keyset if each.state in MARKS)
            self._primary = keyset.primary.version, keys.materials[KeyName.AES_KEY][keyset.primary.version]

    def open(self, column: EncryptedColumn, rows: Sequence[EncryptedRow]) -> list[int | None]:
        """The version that opens each row, None for one that does not open."""
        opened: list[int | None] = []
        for start in range(0, len(rows), _SLICE):
            some = rows[start : start + _SLICE]
            opened += self._envelope.opened_by(some, column, install_id=self._install_id, materials=self._materials)
        return opened

    def again(self, column: EncryptedColumn, rows: Sequence[EncryptedRow]) -> list[Reencrypted]:
        """The rows under the primary."""
        assert self._primary is not None  # noqa: S101
        version, material = self._primary
        envelopes = self._envelope.reencrypt(
            rows,
            column,
            install_id=self._install_id,
            materials=self._materials,
            key_version=version,
            material=material,
        )
        return [
            Reencrypted(row, version, envelope)
            for row, envelope in zip(rows, envelopes, strict=True)
            if envelope is not None
        ]
