"""Repositories of the audit trail and its chains."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date, datetime
from itertools import islice

from app.domain.audit import Action, AuditEvent, AuditFilter, AuditItem, PersonalUse, Result, UsageHour
from app.domain.audit_chain import ChainRow, Seal, Segment, StoredSegment, Stream, canonical_time, read_segment
from app.domain.canonical_json import canonical_json
from app.domain.errors import UniqueViolation
from tests.support.fakes.tables import Tables, like_an_engine


@like_an_engine
class FakeAuditRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def append(self, event: AuditEvent) -> None:
        self._tables.audit.append(event)

    async def page(
        self, wanted: AuditFilter, *, after: int | None, limit: int, oldest_first: bool
    ) -> Sequence[AuditItem]:
        ids = [number for number, each in enumerate(self._tables.audit, 1) if self._is_wanted(number, each, wanted)]
        if not oldest_first:
            ids.reverse()
        if after is not None:
            ids = [each for each in ids if (each > after if oldest_first else each < after)]
        return [self._item(each) for each in ids[:limit]]

    async def uses_per_day(self, credential_id: str, *, since: datetime, most: int) -> Mapping[date, int]:
        return Counter(each.at.date() for each in self._latest_uses(credential_id, since)[-most:])

    async def uses_per_person(
        self, credential_id: str, *, since: datetime, most: int, people: int
    ) -> Sequence[PersonalUse]:
        found = Counter(each.subject_id for each in self._latest_uses(credential_id, since)[-most:])
        ranked = sorted(found.items(), key=lambda each: (-each[1], each[0] or ""))[:people]
        return [PersonalUse(name=self._name(subject_id), uses=uses) for subject_id, uses in ranked]

    def _latest_uses(self, credential_id: str, since: datetime) -> list[AuditEvent]:
        uses = (
            each
            for number, each in enumerate(self._tables.audit, 1)
            if number not in self._tables.dropped
            and (each.action, each.result) == (Action.CREDENTIAL_USED, Result.INTENT)
            and each.object_id == credential_id
            and each.at >= since
        )
        return sorted(uses, key=lambda each: each.at)

    def _is_wanted(self, number: int, event: AuditEvent, wanted: AuditFilter) -> bool:
        action = wanted.action
        return (
            number not in self._tables.dropped
            and wanted.subject_id in {None, event.subject_id}
            and (action is None or event.action == action or event.action.partition(".")[0] == action)
            and wanted.about in {None, (event.object_kind, event.object_id)}
            and wanted.result in {None, event.result}
            and (wanted.since is None or event.at >= wanted.since)
            and (wanted.until is None or event.at < wanted.until)
        )

    def _name(self, subject_id: str | None) -> str | None:
        names = {each.subject_id: each.username for each in self._tables.users.values()}
        return None if subject_id is None else names.get(subject_id, subject_id)

    def _item(self, number: int) -> AuditItem:
        event = self._tables.audit[number - 1]
        return AuditItem(
            id=str(number),
            at=event.at,
            actor=self._name(event.subject_id),
            action=event.action.value,
            about=None if event.object_kind is None else f"{event.object_kind}:{event.object_id}",
            result=event.result.value,
            source=event.source.value,
            detail={**event.detail, **({} if event.address is None else {"address": event.address})},
        )


@like_an_engine
class FakeAuditChainRepository:
    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def unsealed(self, limit: int) -> Sequence[ChainRow]:
        return list(islice((each for each in self._all() if each.segment is None), limit))

    async def count_unsealed(self) -> int:
        return sum(each.segment is None for each in self._all())

    async def seal(self, seals: Sequence[Seal]) -> int:
        for each in seals:
            self._tables.seals[each.id] = each
        return len(seals)

    async def rows(self, segment: int, *, after: int, limit: int) -> Sequence[ChainRow]:
        return [each for each in self._of(segment) if each.position > after][:limit]

    async def count_outside(self, segment: int, first: int, last: int) -> int:
        return sum(not first <= each.position <= last for each in self._of(segment))

    async def next_segment_of_rows(self, after: int | None) -> object:
        named = [each.segment for each in self._all() if each.segment is not None]
        return min((each for each in named if after is None or each > after), default=None)

    async def last_rows(self, segment: int, limit: int) -> Sequence[ChainRow]:
        return self._of(segment)[-limit:]

    async def drop_last(self, segment: int, limit: int) -> int:
        gone = self._of(segment)[-limit:]
        self._tables.dropped.update({each.id: None for each in gone})
        return len(gone)

    async def head(self, stream: Stream, *, below: int) -> StoredSegment | None:
        segments = self._tables.segments.items()
        of_stream = [number for number, each in segments if each.stream is stream and number < below]
        return await self.segment(max(of_stream)) if of_stream else None

    async def highest_segment(self, *, below: int) -> int:
        return max((number for number in self._tables.segments if number < below), default=0)

    async def highest_segment_of_rows(self, *, below: int) -> int:
        named = [each.segment or 0 for each in self._all()]
        return max((number for number in named if number < below), default=0)

    async def segment(self, number: int) -> StoredSegment | None:
        found = self._tables.segments.get(number)
        return None if found is None else read_segment(number, found.stream.value, found.value, found.mac)

    async def segments(self, *, after: int | None, limit: int) -> Sequence[StoredSegment]:
        numbers = sorted(each for each in self._tables.segments if after is None or each > after)[:limit]
        return [found for each in numbers if (found := await self.segment(each)) is not None]

    async def add_segment(self, segment: Segment) -> None:
        if segment.number in self._tables.segments:
            raise UniqueViolation
        self._tables.segments[segment.number] = segment

    async def change_segment(self, segment: Segment, was: bytes) -> bool:
        if (found := self._tables.segments.get(segment.number)) is None or found.mac != was:
            return False
        self._tables.segments[segment.number] = segment
        return True

    async def add_uses(self, hours: Sequence[UsageHour]) -> None:
        for each in hours:
            key = replace(each, uses=0)
            self._tables.uses[key] = self._tables.uses.get(key, 0) + each.uses

    def _of(self, segment: int) -> list[ChainRow]:
        return sorted((each for each in self._all() if each.segment == segment), key=lambda row: int(row.position))

    def _all(self) -> list[ChainRow]:
        rows = [(number, each) for number, each in enumerate(self._tables.audit, 1)]
        return [self._row(number, each) for number, each in rows if number not in self._tables.dropped]

    def _row(self, number: int, event: AuditEvent) -> ChainRow:
        seal = self._tables.seals.get(number)
        return ChainRow(
            id=number,
            at=canonical_time(event.at),
            action=event.action.value,
            result=event.result.value,
            source=event.source.value,
            subject_id=event.subject_id,
            address_id=event.address,
            object_kind=event.object_kind,
            object_id=event.object_id,
            detail=canonical_json(event.detail),
            segment=seal and seal.segment,
            position=seal and seal.position,
            seal=seal and seal.seal,
        )


class FakeAuditExports:
    """Files in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncIterator[FakeAuditExport]:
        export = FakeAuditExport()
        yield export
        self.files[name] = b"".join(export.lines)

    async def digest(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()


class FakeAuditExport:
    def __init__(self) -> None:
        self.lines: list[bytes] = []

    async def add(self, lines: Sequence[bytes]) -> None:
        self.lines += lines
