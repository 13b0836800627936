"""Schedules of keys, where they differ from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import select

from app.domain.keys import KeyName, KeySchedule
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import key_schedules


class KeyScheduleRepositoryImpl:
    """See `app.services.ports.KeyScheduleRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def all(self) -> Mapping[str, KeySchedule]:
        columns = key_schedules.c
        rows = await self._connection.rows(select(columns.name, columns.rotation_days, columns.automatic))
        return {row[0]: KeySchedule(name=KeyName(row[0]), rotation_days=row[1], automatic=bool(row[2])) for row in rows}

    async def put(self, schedule: KeySchedule, at: datetime) -> None:
        values = {"rotation_days": schedule.rotation_days, "automatic": schedule.automatic, "updated_at": at}
        insert = self._connection.dialect.insert(key_schedules).values(name=schedule.name.value, **values)
        await self._connection.change(insert.on_conflict_do_update(index_elements=["name"], set_=values))
