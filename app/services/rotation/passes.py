"""The passes of a rotation over stored rows: re-encrypt, verify, recompute. The job decides what follows a pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from app.domain.encrypted_columns import EncryptedColumn, columns_under
from app.domain.jobs import Progress
from app.domain.keys import KeyName
from app.domain.rotation import RotationState, Step
from app.services.credentials import CredentialCipher
from app.services.credentials.fingerprints import Fingerprints
from app.services.jobs import JobRun
from app.services.keys import KeyManagementService
from app.services.ports import Storage

BATCH: Final = 2000
"""Rows per unit of work. Fewer cost more processor time for each, more keep readers and writers waiting."""


class PassResult(Enum):
    """How a pass ended; its findings are in the run's progress."""

    FINISHED = auto()
    BEHIND = auto()
    """Rows changed during the pass and need a further one."""
    SUPERSEDED = auto()
    """Another rotation of this key promoted a version during the pass."""


def state_of(run: JobRun) -> RotationState:
    """The rotation's state as the run last committed it."""
    return RotationState.from_json(run.progress.cursor)


class RotationPasses:
    """Each pass resumes where its state says, and commits its state with every page."""

    def __init__(self, *, storage: Storage, keys: KeyManagementService, cipher: CredentialCipher) -> None:
        self._storage = storage
        self._keys = keys
        self._cipher = cipher
        self._fingerprints = Fingerprints(cipher)

    async def reencrypt(self, run: JobRun, name: KeyName) -> PassResult:
        """Re-encrypt every row that is not under the primary; a row that does not open is left to the verification."""
        state, columns = state_of(run), columns_under(name)
        done, total = run.progress.done, run.progress.total
        if state.column is None:
            done = 0
            if not state.passes:  # of a further pass the verification before it has counted the rows
                total = await self._count(columns)
        position, after = state.column or 0, state.after
        while position < len(columns):
            column = columns[position]
            async with self._storage.read() as uow:
                rows = await uow.encrypted_rows.batch(column, primary=state.version, after=after, limit=BATCH)
            # After the last page come only rows that were stored since, under the primary.
            following = (position, rows[-1].id) if len(rows) == BATCH else (position + 1, None)
            if rows:
                ring = self._keys.ring
                primary, epoch = ring.primary(name), ring.keysets[name].epoch
                if state.superseded_in(ring.keysets[name]):
                    return PassResult.SUPERSEDED
                reencrypted = await asyncio.to_thread(self._cipher.reencrypt, column, rows, primary)
                async with self._storage.write() as uow:
                    # The fence: no keyset changes before this unit of work ends, and rows that were encrypted under
                    # another epoch are encrypted again.
                    if (await self._keys.ring_under_lock(uow)).keysets[name].epoch != epoch:
                        continue
                    done += len(rows)
                    await uow.encrypted_rows.swap(column, [each for each in reencrypted if each is not None])
                    note = f"re-encrypting {column.table} for version {state.version}"
                    cursor = state.at(*following).to_json()
                    await run.hold(uow, Progress(step=Step.REENCRYPT, cursor=cursor, done=done, total=total, note=note))
            position, after = following
        return PassResult.FINISHED

    async def _count(self, columns: Sequence[EncryptedColumn]) -> int:
        """All rows: to count those that are not under the primary would read every one."""
        async with self._storage.read() as uow:
            return sum([await uow.encrypted_rows.count(column) for column in columns])

    async def verify(self, run: JobRun, name: KeyName) -> PassResult:
        """Open every row: rows under an older version need a further pass, rows that do not open are named."""
        state, columns = state_of(run), columns_under(name)
        done, total = run.progress.done, run.progress.total
        if total is None:
            total = await self._count(columns)
        position, after = state.column or 0, state.after
        while position < len(columns):
            column = columns[position]
            async with self._storage.read() as uow:
                rows = await uow.encrypted_rows.all(column, after=after, limit=BATCH)
            opened = await asyncio.to_thread(self._cipher.opened_by, column, rows)
            for row, by_version in zip(rows, opened, strict=True):
                if by_version is None:
                    state = state.naming(f"{column.table} {row.id}", row.key_version)
                elif row.key_version != state.version:  # a member changed the row during its re-encryption
                    state = state.leaving_behind()
                elif by_version != state.version:  # its key_version was tampered with, so the re-encryption missed it
                    state = state.naming(f"{column.table} {row.id}", by_version)
            done += len(rows)
            # After the last page come only rows that were stored since, under the primary: they need no pass.
            position, after = (position, rows[-1].id) if len(rows) == BATCH else (position + 1, None)
            state = state.at(position, after)
            note = f"verifying {column.table}: every row must open with version {state.version}"
            await run.note(Progress(step=Step.VERIFY, cursor=state.to_json(), done=done, total=total, note=note))
        return PassResult.BEHIND if state.behind else PassResult.FINISHED

    async def recompute(self, run: JobRun, name: KeyName) -> PassResult:
        """Recompute every fingerprint, which is a MAC under this key, and store those that differ."""
        state, done = state_of(run), run.progress.done
        after, more = state.after, True
        while more:
            async with self._storage.read() as uow:
                records = await uow.credentials.page(after=after, limit=BATCH)
            more = len(records) == BATCH  # rows that are stored from now on have their fingerprint from the primary
            primary = self._keys.ring.primary(name)
            if primary.version != state.version:
                return PassResult.SUPERSEDED
            changes = await asyncio.to_thread(self._fingerprints.of, records, primary)
            if changes.unreadable and await self._keys.reload():  # encrypted by a version that was promoted just now
                changes = await asyncio.to_thread(self._fingerprints.of, records, primary)
            after, done = records[-1].id if records else after, done + len(records)
            for record in changes.unreadable:
                state = state.naming(f"api_credentials {record.id}", state.version)
            state = state.at(0, after)
            async with self._storage.write() as uow:
                if (await self._keys.ring_under_lock(uow)).primary(name).version != state.version:
                    return PassResult.SUPERSEDED
                for record, fingerprint in changes.changed:
                    swapped = await uow.credentials.set_fingerprint(
                        record.id, expected_version=record.version, fingerprint=fingerprint
                    )
                    if not swapped:  # replaced meanwhile, and so under the primary; or relabelled, and not
                        state = state.leaving_behind()
                note = f"recomputing fingerprints with version {state.version}"
                await run.hold(uow, Progress(step=Step.RECOMPUTE, cursor=state.to_json(), done=done, note=note))
        if self._keys.ring.keysets[name].primary.version != state.version:
            return PassResult.SUPERSEDED
        return PassResult.BEHIND if state.behind else PassResult.FINISHED
