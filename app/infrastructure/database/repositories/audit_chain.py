"""The chains that seal the audit trail: rows as the driver returns them, since an edited one must not stop a walk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Select, delete, func, insert, null, or_, select, update

from app.domain.audit import UsageHour
from app.domain.audit_chain import ChainRow, Seal, Segment, StoredSegment, Stream, read_segment
from app.infrastructure.database.columns import StoredMoment
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import UNSEALED, audit_events, audit_segments, usage_hours

_COLUMNS: Final = tuple(
    StoredMoment(audit_events.c.at) if name == "at" else audit_events.c[name] for name in ChainRow._fields
)
_SEGMENT: Final = (
    audit_segments.c.number,
    audit_segments.c.stream,
    audit_segments.c.value,
    audit_segments.c.mac,
)


class AuditChainRepositoryImpl:
    """See `app.services.ports.AuditChainRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def unsealed(self, limit: int) -> Sequence[ChainRow]:
        # In the order of the index that holds only these rows.
        order = (audit_events.c.segment, audit_events.c.id)
        return await self._rows(select(*_COLUMNS).where(UNSEALED).order_by(*order).limit(limit))

    async def count_unsealed(self) -> int:
        return int(await self._connection.value(select(func.count()).select_from(audit_events).where(UNSEALED)))

    async def seal(self, seals: Sequence[Seal]) -> int:
        return await self._connection.change_many(
            audit_events,
            change=("segment", "position", "seal"),
            where=("id",),
            rows=[(each.segment, each.position, each.seal, each.id) for each in seals],
        )

    async def rows(self, segment: int, *, after: int, limit: int) -> Sequence[ChainRow]:
        wanted = (audit_events.c.segment == segment, audit_events.c.position > after)
        return await self._rows(select(*_COLUMNS).where(*wanted).order_by(audit_events.c.position).limit(limit))

    async def count_outside(self, segment: int, first: int, last: int) -> int:
        position = audit_events.c.position
        outside = or_(position < first, position > last, position.is_(null()))
        statement = select(func.count()).select_from(audit_events).where(audit_events.c.segment == segment, outside)
        return int(await self._connection.value(statement))

    async def next_segment_of_rows(self, after: int | None) -> object:
        segment = audit_events.c.segment
        wanted = segment.is_not(None) if after is None else segment > after
        return await self._connection.value(select(segment).where(wanted).order_by(segment).limit(1))

    async def last_rows(self, segment: int, limit: int) -> Sequence[ChainRow]:
        this, last = audit_events.c.segment == segment, audit_events.c.position.desc()
        return await self._rows(select(*_COLUMNS).where(this).order_by(last).limit(limit))

    async def drop_last(self, segment: int, limit: int) -> int:
        this = audit_events.c.segment == segment
        last = select(audit_events.c.id).where(this).order_by(audit_events.c.position.desc()).limit(limit)
        return await self._connection.change(delete(audit_events).where(audit_events.c.id.in_(last)))

    async def head(self, stream: Stream, *, below: int) -> StoredSegment | None:
        number = audit_segments.c.number
        newest = (
            select(*_SEGMENT).where(audit_segments.c.stream == stream, number < below).order_by(number.desc()).limit(1)
        )
        return next(iter(await self._segments(newest)), None)

    async def highest_segment(self, *, below: int) -> int:
        number = audit_segments.c.number
        return int(await self._connection.value(select(func.max(number)).where(number < below)) or 0)

    async def highest_segment_of_rows(self, *, below: int) -> int:
        segment = audit_events.c.segment
        return int(await self._connection.value(select(func.max(segment)).where(segment < below)) or 0)

    async def segment(self, number: int) -> StoredSegment | None:
        return next(iter(await self._segments(select(*_SEGMENT).where(audit_segments.c.number == number))), None)

    async def segments(self, *, after: int | None, limit: int) -> Sequence[StoredSegment]:
        number = audit_segments.c.number
        wanted = select(*_SEGMENT) if after is None else select(*_SEGMENT).where(number > after)
        return await self._segments(wanted.order_by(number).limit(limit))

    async def add_segment(self, segment: Segment) -> None:
        row = {"number": segment.number, "stream": segment.stream, "value": segment.value, "mac": segment.mac}
        await self._connection.change(insert(audit_segments), row)

    async def change_segment(self, segment: Segment, was: bytes) -> bool:
        this = update(audit_segments).where(audit_segments.c.number == segment.number, audit_segments.c.mac == was)
        return await self._connection.change(this.values(value=segment.value, mac=segment.mac)) == 1

    async def add_uses(self, hours: Sequence[UsageHour]) -> None:
        if not hours:
            return
        key = [column.name for column in usage_hours.primary_key]
        # In one order, so that two units of work never wait for each other.
        rows = [{**{name: getattr(each, name) for name in key}, "uses": each.uses} for each in hours]
        rows.sort(key=lambda row: tuple(row[name] for name in key))
        first = self._connection.dialect.insert(usage_hours).values(rows)
        added = {"uses": usage_hours.c.uses + first.excluded.uses}
        await self._connection.change(first.on_conflict_do_update(index_elements=key, set_=added))

    async def _rows(self, statement: Select[*tuple[Any, ...]]) -> Sequence[ChainRow]:
        return [ChainRow._make(row) for row in await self._connection.tuples(statement)]

    async def _segments(self, statement: Select[*tuple[Any, ...]]) -> Sequence[StoredSegment]:
        return [read_segment(*row) for row in await self._connection.tuples(statement)]
