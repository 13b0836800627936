"""Verifies the audit trail from its first segment to its last, and names the first thing that is wrong."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.domain.audit_chain import (
    NO_SEAL,
    ChainRow,
    Flaw,
    RememberedSeal,
    Segment,
    StoredSegment,
    Stream,
    Verification,
    latest_seal,
    read_remembered,
)
from app.domain.errors import InvalidInput
from app.domain.identity import Actor, Permission
from app.domain.keys import KeyName
from app.domain.secrets import SecretBytes
from app.services.audit_trail.seals import Seals
from app.services.keys import KeyManagementService
from app.services.ports import Clock, KeyDerivation, Storage

BATCH: Final = 1000
"""Rows, or segments, that are held in memory at a time."""

Show = Callable[[int, int], None]
"""Called with how many rows of how many are verified."""


@dataclass(frozen=True, slots=True)
class VerificationAt:
    """When a verification ended, and its outcome; None where it was given up."""

    at: datetime
    found: Verification | None


class AuditVerification:
    """Reads everything, in parts, and changes nothing. Methods may raise StorageError, NotReady and Forbidden."""

    def __init__(
        self, *, storage: Storage, keys: KeyManagementService, derivation: KeyDerivation, clock: Clock
    ) -> None:
        self._storage = storage
        self._keys = keys
        self._derivation = derivation
        self._clock = clock

    async def verify(self, actor: Actor, *, remembered: str | None = None, show: Show | None = None) -> Verification:
        """Verify the chains as they were when this began; rows may be sealed and dropped meanwhile.

        Args:
            actor: needs READ_AUDIT.
            remembered: what ``latest_seal`` was at another time, from a log or a backup: it must still be there.
            show: for the progress.

        Raises InvalidInput for a remembered seal that is none.
        """
        actor.require(Permission.READ_AUDIT)
        expected = _remembered(remembered)
        stored = await self.segments()
        async with self._storage.read() as uow:
            unsealed = await uow.audit_chain.count_unsealed()
        found = [each.segment for each in stored if each.segment is not None]
        present = [each for each in found if each.dropped_at is None]
        flaw = await self._flaw(stored, unsealed, sum(each.rows for each in present), show)
        heads = {each.stream: each for each in found}
        return Verification(
            sealed=sum(each.rows for each in present),
            unsealed=unsealed,
            segments=len(stored),
            first_bad=flaw or await self._forgotten(expected, found),
            latest_seal=latest_seal(list(heads.values())),
        )

    async def verify_within(self, actor: Actor, seconds: float) -> VerificationAt:
        """Verify as `verify` does, and give up after that time: a person waits for the answer."""
        found = None
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                found = await self.verify(actor)
        return VerificationAt(self._clock.now(), found)

    async def segments(self) -> Sequence[StoredSegment]:
        """Every segment as it is found, in the order of their numbers."""
        found: list[StoredSegment] = []
        more = True
        while more:
            async with self._storage.read() as uow:
                part = await uow.audit_chain.segments(after=found[-1].number if found else None, limit=BATCH)
            found += part
            more = len(part) == BATCH
        return found

    async def _flaw(self, stored: Sequence[StoredSegment], unsealed: int, total: int, show: Show | None) -> Flaw | None:
        if not stored and not unsealed:
            return Flaw(what="every row is gone: the making of the install left one")
        materials = self._keys.usable_materials(KeyName.AUDIT_SEAL_KEY)
        before: dict[Stream, Segment] = {}
        done = 0
        for number, each in enumerate(stored, start=1):
            if each.number != number:
                what = f"segment {number} is missing, or segment {each.number!r} was inserted"
                return Flaw(segment=number, what=what)
            segment = each.segment
            flaw = self._flaw_of_segment(each, materials, before)
            if flaw is not None or segment is None:
                return flaw
            before[segment.stream] = segment
            seals = Seals(self._derivation, materials[segment.key_version])
            if (flaw := await self.flaw_of_rows(segment, seals)) is not None:
                return flaw
            done += 0 if segment.dropped_at else segment.rows
            if show is not None:
                show(done, total)
        return _cut(before) or await self._stray(len(stored))

    def _flaw_of_segment(
        self, stored: StoredSegment, materials: Mapping[int, SecretBytes], before: Mapping[Stream, Segment]
    ) -> Flaw | None:
        number, segment = stored.number, stored.segment
        if segment is None:
            return Flaw(segment=number, what=f"segment {number} was edited")
        if segment.key_version not in materials:
            return Flaw(
                stream=segment.stream,
                segment=number,
                what=f"segment {number} was sealed with version {segment.key_version} of the seal key, which is lost: "
                "nothing can verify it",
            )
        if not Seals(self._derivation, materials[segment.key_version]).made(segment):
            return Flaw(segment=number, what=f"segment {number} was edited")
        former = before.get(segment.stream)
        if former is None:
            follows = segment.first == 1 and segment.previous == NO_SEAL
        else:
            ends = (former.last + 1, former.seal)
            follows = former.closed_at is not None and (segment.first, segment.previous) == ends
        if not follows:
            return Flaw(
                stream=segment.stream,
                segment=number,
                what=f"segment {number} does not follow the one before it: segments are missing, or were put back",
            )
        return None

    async def flaw_of_rows(self, segment: Segment, seals: Seals) -> Flaw | None:
        """The first flaw in the rows of a segment. Of one that is being dropped the first rows may be left."""
        previous, position = segment.previous, segment.first
        while position <= segment.last:
            async with self._storage.read() as uow:
                rows = await uow.audit_chain.rows(segment.number, after=position - 1, limit=BATCH)
            rows = [row for row in rows if not isinstance(row.position, int) or row.position <= segment.last]
            if not rows:
                break
            flaw, previous = await asyncio.to_thread(_judge, segment, rows, previous, position, seals)
            if flaw is not None:
                return await self._unless_dropped(segment, seals, flaw)
            position += len(rows)
        if position <= segment.last and segment.dropped_at is None:
            return await self._unless_dropped(segment, seals, _missing(segment, position))
        if segment.dropped_at is None and not hmac.compare_digest(previous, segment.seal):
            return Flaw(stream=segment.stream, segment=segment.number, what="the last seal is not that of the segment")
        async with self._storage.read() as uow:
            now = await uow.audit_chain.segment(segment.number)  # it may have grown
            last = now.segment.last if now is not None and now.segment is not None else segment.last
            outside = await uow.audit_chain.count_outside(segment.number, segment.first, last)
        if outside:
            what = f"{outside} rows were inserted into segment {segment.number}, or moved there"
            return Flaw(stream=segment.stream, segment=segment.number, what=what)
        return None

    async def _unless_dropped(self, segment: Segment, seals: Seals, flaw: Flaw) -> Flaw | None:
        """The flaw, unless the segment's rows have left the database since it was read, as they may."""
        if segment.dropped_at is not None:
            return flaw
        async with self._storage.read() as uow:
            now = await uow.audit_chain.segment(segment.number)
        found = None if now is None else now.segment
        return None if found is not None and found.dropped_at is not None and seals.made(found) else flaw

    async def _stray(self, segments: int) -> Flaw | None:
        """Whether rows name a segment that is none. A segment that has begun since is one."""
        after: int | None = None  # the lowest of all: a forged row may name any number
        while True:
            async with self._storage.read() as uow:
                number = await uow.audit_chain.next_segment_of_rows(after)
                if number is None:
                    return None
                known = isinstance(number, int) and (
                    0 < number <= segments or (number > 0 and await uow.audit_chain.segment(number) is not None)
                )
            if not isinstance(number, int) or not known:
                return Flaw(what=f"rows were inserted that name the segment {number!r}, which there never was")
            after = number

    async def _forgotten(self, expected: Sequence[RememberedSeal], found: Sequence[Segment]) -> Flaw | None:
        """The first flaw that remembered seals show: the chain ends before one, or holds another there."""
        for each in expected:
            of_stream = [segment for segment in found if segment.stream is each.stream]
            holder = next((one for one in of_stream if one.first <= each.position <= one.last), None)
            flaw = Flaw(
                stream=each.stream,
                segment=None if holder is None else holder.number,
                position=each.position,
                what=f"the seal that was remembered for position {each.position} is not there: the end of the chain "
                "was cut, or an older database put back",
            )
            if holder is None:
                return flaw
            seal = holder.seal if each.position == holder.last else await self._seal_at(holder, each.position)
            if seal is not None and seal != each.seal:
                return flaw
        return None

    async def _seal_at(self, segment: Segment, position: int) -> object:
        """The seal in the middle of a segment, None where its rows were dropped."""
        async with self._storage.read() as uow:
            rows = await uow.audit_chain.rows(segment.number, after=position - 1, limit=1)
        return rows[0].seal if rows else None


def _cut(heads: Mapping[Stream, Segment]) -> Flaw | None:
    """Whether a chain lacks its last segment, which is open, or is gone as a whole: both begin together."""
    for stream in Stream if heads else ():
        if stream not in heads:
            return Flaw(stream=stream, what=f"every segment of the chain of {stream} is missing")
        if heads[stream].closed_at is not None:
            last = heads[stream].number
            return Flaw(stream=stream, segment=last, what=f"the segment that follows segment {last} is missing")
    return None


def _remembered(text: str | None) -> Sequence[RememberedSeal]:
    if text is None:
        return ()
    try:
        return read_remembered(text)
    except ValueError:
        raise InvalidInput("seal", "must be a latest seal as Keyhall logs it and writes it into backups") from None


def _judge(
    segment: Segment, rows: Sequence[ChainRow], previous: bytes, position: int, seals: Seals
) -> tuple[Flaw | None, bytes]:
    """The first flaw of rows that have to stand at ``position`` and behind it; and the last seal."""
    made = seals.of_rows(rows, segment=segment.number, previous=previous, first=position)
    for row, seal in zip(rows, made, strict=True):
        if row.position != seal.position:
            return _missing(segment, seal.position), previous
        if row.seal != seal.seal:
            return (
                Flaw(
                    stream=segment.stream,
                    segment=segment.number,
                    position=seal.position,
                    id=str(row.id),
                    what=f"row {row.id} was changed, inserted, or put in another's place",
                ),
                previous,
            )
    return None, made[-1].seal


def _missing(segment: Segment, position: int) -> Flaw:
    return Flaw(
        stream=segment.stream,
        segment=segment.number,
        position=position,
        what=f"the row at position {position} of the chain of {segment.stream} is missing",
    )
