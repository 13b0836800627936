"""Old rows leave the database in whole segments: security events into files, uses of credentials into hourly sums."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from app.domain.audit import UsageHour
from app.domain.audit_chain import AuditExportFailed, ChainRow, Segment, Stream, canonical_time
from app.domain.jobs import JobKind
from app.domain.keys import KeyName
from app.services.audit_trail.sealing import AuditSealing
from app.services.audit_trail.seals import Seals
from app.services.audit_trail.verification import AuditVerification
from app.services.jobs import JobRun, JobService, Later
from app.services.keys import KeyManagementService
from app.services.ports import AuditExports, Clock, KeyDerivation, Storage, UnitOfWork

log = logging.getLogger(__name__)

BATCH: Final = 1000
"""Rows per unit of work: some milliseconds, during which a writer of SQLite waits."""
LOOK_EVERY: Final = timedelta(hours=6)

Hold = Callable[[UnitOfWork], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRetentionRule:
    """How long rows stay in the database after their segment was closed."""

    events: timedelta
    uses: timedelta

    def of(self, stream: Stream) -> timedelta:
        """That of one chain."""
        return self.uses if stream is Stream.USES else self.events


class AuditRetention:
    """A job, so that one worker does it at a time. Methods may raise StorageError, NotReady, AuditExportFailed.

    Killed anywhere, nothing is lost: a segment's rows are deleted only once its file is on the disk and named, with its
    digest, in the segment's row; a use is deleted in the unit of work that adds it to its sum.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        keys: KeyManagementService,
        derivation: KeyDerivation,
        clock: Clock,
        jobs: JobService,
        sealing: AuditSealing,
        exports: AuditExports,
        rule: AuditRetentionRule,
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._derivation = derivation
        self._clock = clock
        self._jobs = jobs
        self._sealing = sealing
        self._exports = exports
        self._rule = rule
        self._verification = AuditVerification(storage=storage, keys=keys, derivation=derivation, clock=clock)

    async def watch(self) -> None:
        """Make sure that the job is queued."""
        async with self._storage.write() as uow:
            kind = JobKind.AUDIT_RETENTION
            await uow.jobs.add(self._jobs.new(kind, {}, unique_key=kind.value))

    async def carry_on(self, run: JobRun) -> None:
        """Drop all that is old as a job, and come back."""
        await self.apply(run.hold)
        raise Later(LOOK_EVERY)

    async def apply(self, hold: Hold | None = None) -> None:
        """Close the segments of past days, and drop the rows of those that are old enough."""
        await self._sealing.close_finished()
        materials = self._keys.usable_materials(KeyName.AUDIT_SEAL_KEY)
        for stored in await self._verification.segments():
            segment = stored.segment
            if segment is None or segment.key_version not in materials:
                continue  # the verification names it, and its rows stay as evidence
            seals = Seals(self._derivation, materials[segment.key_version])
            old = segment.closed_at is not None and (
                segment.closed_at < self._clock.now() - self._rule.of(segment.stream)
            )
            if not old or not seals.made(segment):
                continue
            if segment.dropped_at is None:
                segment = await self._drop_begun(segment, seals, hold)
            if segment is not None:
                await self._drop_rows(segment, seals, hold)

    async def _drop_begun(self, segment: Segment, seals: Seals, hold: Hold | None) -> Segment | None:
        """The segment, noted as dropped; None where its rows do not verify: then they stay as evidence."""
        flaw = await self._verification.flaw_of_rows(segment, seals)
        if flaw is not None:
            log.error("segment %d of the audit trail is old and stays: %s", segment.number, flaw.what)
            return None
        dropped = replace(segment, dropped_at=self._clock.now())
        if segment.stream is Stream.SECURITY and segment.rows:
            name, digest = await self._export(segment, seals)
            dropped = replace(dropped, export=name, digest=digest)
        dropped = seals.authenticated(dropped)
        async with self._storage.write() as uow:
            if hold is not None:
                await hold(uow)
            if not await uow.audit_chain.change_segment(dropped, segment.mac):
                return None
        if dropped.export is not None:
            log.info("segment %d of the audit trail is in %s", segment.number, dropped.export)
        return dropped

    async def _export(self, segment: Segment, seals: Seals) -> tuple[str, str]:
        """Write the rows to a file; its name and its digest, as read back from the disk.

        The seals are computed from the very rows that are written, and the file gets its name only if the last one is
        the segment's. So a row that was changed since the verification is in no file, and a worker that was stopped
        and goes on after another one has dropped the rows does not replace that one's file by an empty one.
        """
        # A database that was put back may hold other rows under the same number: they get a file of their own.
        name = f"audit-{segment.number:08}-{segment.seal.hex()[:16]}.jsonl"
        async with self._exports.writing(name) as file:
            await file.add([_line(self._header(segment))])
            position, previous = segment.first, segment.previous
            while position <= segment.last:
                async with self._storage.read() as uow:
                    limit = min(BATCH, segment.last - position + 1)
                    rows = await uow.audit_chain.rows(segment.number, after=position - 1, limit=limit)
                if [row.position for row in rows] != list(range(position, position + len(rows))) or not rows:
                    raise _changed(segment)
                made = await asyncio.to_thread(
                    seals.of_rows, rows, segment=segment.number, previous=previous, first=position
                )
                await file.add([_line(_members(row)) for row in rows])
                position, previous = position + len(rows), made[-1].seal
            if not hmac.compare_digest(previous, segment.seal):
                raise _changed(segment)
        return name, await self._exports.digest(name)

    def _header(self, segment: Segment) -> dict[str, object]:
        return {
            "keyhall_audit": 1,
            "install_id": self._keys.install_id,
            "segment": segment.number,
            "stream": segment.stream.value,
            "key_version": segment.key_version,
            "first": segment.first,
            "last": segment.last,
            "previous": segment.previous.hex(),
            "seal": segment.seal.hex(),
        }

    async def _drop_rows(self, segment: Segment, seals: Seals, hold: Hold | None) -> None:
        """Delete the rows from the last to the first, so that those that are left still verify."""
        deleted = BATCH
        while deleted == BATCH:
            async with self._storage.lookup() as uow:
                if not await uow.audit_chain.rows(segment.number, after=segment.first - 1, limit=1):
                    return
            async with self._storage.write() as uow:
                if hold is not None:
                    await hold(uow)
                if segment.stream is Stream.USES:
                    await uow.audit_chain.add_uses(_sums(await _genuine(uow, segment, seals)))
                deleted = await uow.audit_chain.drop_last(segment.number, BATCH)


async def _genuine(uow: UnitOfWork, segment: Segment, seals: Seals) -> Sequence[ChainRow]:
    """Those of the last rows of a segment that the sealer sealed: one that was put there since counts for nothing."""
    found = await uow.audit_chain.last_rows(segment.number, BATCH)
    rows = sorted(
        (row for row in found if isinstance(row.position, int) and segment.first <= row.position <= segment.last),
        key=lambda row: row.position,
    )
    if not rows:
        return []
    # The seal of a row covers the one before it, which may be in the rows that leave next.
    before = await uow.audit_chain.rows(segment.number, after=rows[0].position - 2, limit=1)
    sealed = {row.position: row.seal for row in (*before, *rows)} | {segment.first - 1: segment.previous}
    return [row for row in rows if _made(row, sealed.get(row.position - 1), segment, seals)]


def _made(row: ChainRow, previous: object, segment: Segment, seals: Seals) -> bool:
    if not isinstance(previous, bytes) or not isinstance(row.seal, bytes):
        return False
    (made,) = seals.of_rows([row], segment=segment.number, previous=previous, first=row.position)
    return hmac.compare_digest(made.seal, row.seal)


def _changed(segment: Segment) -> AuditExportFailed:
    return AuditExportFailed(
        f"the rows of segment {segment.number} of the audit trail were changed or dropped while they were exported, so "
        "nothing was written: `keyhall audit verify` says whether the audit trail is whole"
    )


def _members(row: ChainRow) -> dict[str, object]:
    """A row as it was sealed: people stand in it as random ids, so that they can be erased later."""
    at = canonical_time(row.at) if isinstance(row.at, datetime) else row.at
    return {**row._asdict(), "at": at, "seal": row.seal.hex()}


def _line(members: dict[str, object]) -> bytes:
    return (json.dumps(members) + "\n").encode()


def _sums(rows: Sequence[ChainRow]) -> Sequence[UsageHour]:
    """How many of the rows are of each hour, object, subject, source and result."""
    counted = Counter(
        UsageHour(
            hour=_hour(row.at),
            object_kind=row.object_kind or "",
            object_id=row.object_id or "",
            subject_id=row.subject_id or "",
            source=row.source,
            result=row.result,
            uses=0,
        )
        for row in rows
    )
    return [replace(hour, uses=uses) for hour, uses in counted.items()]


def _hour(at: datetime | str) -> datetime:
    try:
        moment = at if isinstance(at, datetime) else datetime.fromisoformat(at)
    except (ValueError, TypeError):  # it was forged before it was sealed: it must not keep the others
        moment = datetime.fromtimestamp(0, UTC)
    return moment.replace(minute=0, second=0, microsecond=0)
