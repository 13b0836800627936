"""The sealer: committed rows of the audit trail become links of a chain, in the order in which it finds them.

Nobody waits for it. Its rows were committed before; the seals are computed with no unit of work open; and that unit
of work swaps on the MAC of the chain's head, so that of two sealers one finds the head changed and does nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from app.domain.audit_chain import NEVER_REACHED, ChainRow, Seal, Segment, StoredSegment, Stream, latest_seal
from app.domain.errors import UniqueViolation
from app.domain.keys import KeyName
from app.domain.secrets import SecretBytes
from app.services.audit_trail.seals import Seals
from app.services.keys import KeyManagementService
from app.services.ports import Clock, KeyDerivation, Storage, UnitOfWork

log = logging.getLogger(__name__)

BATCH: Final = 500
"""Rows per unit of work: some milliseconds, during which a writer of SQLite waits."""
_SAY_LATEST_EVERY_SECONDS: Final = 3600.0


class _Overtaken(Exception):
    """Another sealer was faster, or the key was replaced: nothing of this unit of work commits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The rows that have no seal, and the ends of the chains."""

    rows: Sequence[ChainRow]
    heads: Mapping[Stream, StoredSegment | None]
    highest: int
    afresh: bool


@dataclass(slots=True)
class _Plan:
    """The changes that seal some rows: heads with the MAC that they had, new segments, and the seals."""

    changed: list[tuple[Segment, bytes]] = field(default_factory=list)
    added: list[Segment] = field(default_factory=list)
    seals: list[Seal] = field(default_factory=list)


class AuditSealing:
    """Seals rows. Every method may raise StorageError, and NotReady while this process has no lease."""

    def __init__(
        self, *, storage: Storage, keys: KeyManagementService, derivation: KeyDerivation, clock: Clock
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._derivation = derivation
        self._clock = clock
        self._said_at = float("-inf")
        self._below = NEVER_REACHED

    async def seal(self) -> int:
        """Seal the first rows that have no seal; how many. Where there are none it reads one entry of an index."""
        async with self._storage.lookup() as uow:
            if not await uow.audit_chain.unsealed(1):
                return 0
        return await self._extend()

    async def close_finished(self) -> None:
        """Close the segments of days that are over, where no row has come that would have."""
        await self._extend(closing=True)

    async def _extend(self, *, closing: bool = False, afresh: bool = False) -> int:
        """``afresh`` begins a new segment of each chain, above every number that a row names."""
        async with self._storage.read() as uow:
            highest = await self._highest(uow, rows_too=afresh)
            found = _Found(
                rows=() if closing else await uow.audit_chain.unsealed(BATCH),
                heads=await self._heads(uow),
                highest=highest,
                afresh=afresh,
            )
        version = self._keys.primary(KeyName.AUDIT_SEAL_KEY).version
        materials = self._keys.usable_materials(KeyName.AUDIT_SEAL_KEY)
        plan = await asyncio.to_thread(self._plan, found, version, materials)
        if not plan.changed and not plan.added:
            return 0
        try:
            async with self._storage.write() as uow:
                await self._carry_out(uow, plan, version)
        except _Overtaken:
            log.debug("another process has sealed the audit trail in the meantime")
            return 0
        except UniqueViolation:
            again = await self._place_is_taken(found) and not afresh
            return await self._extend(closing=closing, afresh=True) if again else 0
        await self._say_latest()
        return len(plan.seals)

    async def _highest(self, uow: UnitOfWork, *, rows_too: bool) -> int:
        """The highest number that is taken by a segment, or by a row.

        A forged one that leaves no number for the next segments is passed over: sealing goes on below it.
        """
        while True:
            highest = await uow.audit_chain.highest_segment(below=self._below)
            if rows_too:
                highest = max(highest, await uow.audit_chain.highest_segment_of_rows(below=self._below))
            if highest + len(Stream) < self._below:
                return highest
            log.error(
                "segment %d of the audit trail was forged, since no number is left above it: sealing goes on below it; "
                "`keyhall audit verify` names what is wrong, and docs/security.md says what to do",
                highest,
            )
            self._below = highest

    async def _place_is_taken(self, found: _Found) -> bool:
        """Whether nobody was faster: then a row, or a segment, that no sealer wrote lies where the next belongs."""
        async with self._storage.read() as uow:
            heads = await self._heads(uow)
        if heads != found.heads:
            log.debug("another process has sealed the audit trail in the meantime")
            return False
        log.error("a place in the audit trail is taken by a forged row or segment, see `keyhall audit verify`")
        return True

    async def _heads(self, uow: UnitOfWork) -> Mapping[Stream, StoredSegment | None]:
        return {stream: await uow.audit_chain.head(stream, below=self._below) for stream in Stream}

    async def _carry_out(self, uow: UnitOfWork, plan: _Plan, version: int) -> None:
        ring = await self._keys.ring_under_lock(uow)
        if ring.primary(KeyName.AUDIT_SEAL_KEY).version != version:
            raise _Overtaken
        for segment, was in plan.changed:
            if not await uow.audit_chain.change_segment(segment, was):
                raise _Overtaken
        for segment in plan.added:
            await uow.audit_chain.add_segment(segment)
        await uow.audit_chain.seal(plan.seals)

    async def latest_seal(self) -> str | None:
        """The latest seals in one text, None before the first: kept elsewhere, it shows later that the end was cut."""
        async with self._storage.lookup() as uow:
            found = await self._heads(uow)
        return latest_seal([each.segment for each in found.values() if each is not None and each.segment is not None])

    def _plan(self, found: _Found, version: int, materials: Mapping[int, SecretBytes]) -> _Plan:
        plan, now, highest = _Plan(), self._clock.now(), found.highest
        seals = Seals(self._derivation, materials[version])
        for stream, stored in found.heads.items():
            rows = [row for row in found.rows if Stream.of(row.action) is stream]
            # Both chains begin together: so one that is gone as a whole is missed.
            head = self._intact(stored, materials)
            over = head is not None and (found.afresh or head.full(now, version))
            if not rows and not over and (stored is not None or not found.rows):
                continue
            if head is None:
                highest += 1
                segment = Segment.beginning(highest, stream, now, version)
            elif over:
                highest += 1
                segment = head.next(highest, now, version)
                closing = Seals(self._derivation, materials[head.key_version])
                plan.changed.append((closing.authenticated(replace(head, closed_at=now)), head.mac))
            else:
                segment = head
            made = seals.of_rows(rows, segment=segment.number, previous=segment.seal, first=segment.last + 1)
            longer = seals.authenticated(segment.followed_by(made))
            if segment is head:
                plan.changed.append((longer, segment.mac))
            else:
                plan.added.append(longer)
            plan.seals += made
        return plan

    def _intact(self, stored: StoredSegment | None, materials: Mapping[int, SecretBytes]) -> Segment | None:
        """The head, if it may be continued. Sealing behind an edited one would authenticate the edit."""
        if stored is None:
            return None
        head = stored.segment
        known = head is not None and head.key_version in materials
        if head is not None and known and Seals(self._derivation, materials[head.key_version]).made(head):
            return head
        log.error(
            "segment %s of the audit trail was edited, or its key is lost: a new chain begins behind it, see `keyhall "
            "audit verify`",
            stored.number,
        )
        return None

    async def _say_latest(self) -> None:
        """Log the latest seals now and then: where logs are kept elsewhere, a cut end of the chain shows."""
        if self._clock.monotonic() - self._said_at >= _SAY_LATEST_EVERY_SECONDS:
            self._said_at = self._clock.monotonic()
            log.info("the audit trail is sealed up to %s", await self.latest_seal())
