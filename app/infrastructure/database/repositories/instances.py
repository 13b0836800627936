"""The processes of an install. Every time is taken from the database's clock, in the statement that uses it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta

from sqlalchemy import delete, insert, select, update

from app.domain.canonical_json import canonical_json
from app.domain.instances import Instance
from app.infrastructure.database.engine import Connection
from app.infrastructure.database.schema import instances


class InstanceRepositoryImpl:
    """See `app.services.ports.InstanceRepository`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._now = connection.dialect.now

    async def register(self, instance: Instance, lease: timedelta) -> None:
        await self._connection.change(
            insert(instances).values(
                id=instance.id,
                kind=instance.kind,
                host=instance.host,
                pid=instance.pid,
                started_at=self._now(),
                lease_until=self._now(lease),
                epochs=canonical_json(instance.epochs),
                master_key_ids=" ".join(instance.master_key_ids),
            )
        )

    async def renew(
        self, instance_id: str, epochs: Mapping[str, int], lease: timedelta, *, master_key_ids: Sequence[str] = ()
    ) -> bool:
        values = {
            "lease_until": self._now(lease),
            "epochs": canonical_json(epochs),
            "master_key_ids": " ".join(master_key_ids),
        }
        statement = update(instances).where(instances.c.id == instance_id).values(values)
        return await self._connection.change(statement) == 1

    async def leave(self, instance_id: str) -> None:
        await self._connection.change(delete(instances).where(instances.c.id == instance_id))

    async def live(self) -> Sequence[Instance]:
        statement = (
            select(
                instances.c.id,
                instances.c.kind,
                instances.c.host,
                instances.c.pid,
                instances.c.started_at,
                instances.c.lease_until,
                instances.c.epochs,
                instances.c.master_key_ids,
            )
            .where(instances.c.lease_until > self._now())
            .order_by(instances.c.started_at, instances.c.id)
        )
        return [
            Instance(
                id=row[0],
                kind=row[1],
                host=row[2],
                pid=row[3],
                started_at=row[4],
                lease_until=row[5],
                epochs=json.loads(row[6]),
                master_key_ids=tuple(row[7].split()),
            )
            for row in await self._connection.rows(statement)
        ]

    async def purge(self, lapsed_for: timedelta) -> int:
        return await self._connection.change(delete(instances).where(instances.c.lease_until < self._now(-lapsed_for)))
